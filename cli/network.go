package cli

import (
	"context"
	"fmt"
	"time"
)

// RemovalOptions are the flags of warren network remove.
type RemovalOptions struct {
	Namespace  string // that the agents run in
	Agents     string // their daemon set
	Hub        string // deployment of the hub
	Kubeconfig string // file that says where the API server is
}

// networkRemoveCommand has a cluster's agents take their network away.
func networkRemoveCommand() *command {
	o := RemovalOptions{Namespace: "warren", Agents: "warren-agent", Hub: "warren-hub"}
	var timeout string
	return &command{
		name:    "network remove",
		summary: "Have the agents of a cluster take the network away that they made",
		about: "Every agent is started once more without a network, and so removes what it had made on its node: programs, maps, links, routes, devices, rules, the plugin and its configuration. " +
			"Pods are without a network from then on, and cannot be deleted before another plugin is installed; the hub's pods are ended first. The command returns when all nodes are done, or says which are left.\n\n" +
			"The chart runs it before it is uninstalled.",
		examples: []example{
			{"warren network remove", "In a pod of the cluster that may get and patch the daemon set"},
			{"warren network remove --kubeconfig ~/.kube/config --timeout 5m", "By hand"},
		},
		flags: []*option{
			{long: "namespace", meta: "NAME", text: &o.Namespace, doc: "namespace that the agents run in (default warren)"},
			{long: "agents", meta: "NAME", text: &o.Agents, doc: "their daemon set (default warren-agent)"},
			{long: "hub", meta: "NAME", text: &o.Hub, doc: "deployment of the hub, whose pods end first (default warren-hub)"},
			{long: "kubeconfig", meta: "FILE", text: &o.Kubeconfig, doc: "file that says where the API server is (default the pod's service account)"},
			{long: "timeout", meta: "TIME", text: &timeout, doc: "how long nodes are waited for (default 80s)"},
		},
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			wait := 80 * time.Second
			if timeout != "" {
				var err error
				if wait, err = time.ParseDuration(timeout); err != nil || wait <= 0 {
					return &usageError{msg: fmt.Sprintf("--timeout %s: want a time, like 90s or 5m", timeout)}
				}
			}
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			return env.RemoveNetwork(ctx, o, func(line string) { fmt.Fprintln(env.Stdout, line) })
		},
	}
}
