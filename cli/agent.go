package cli

import (
	"context"
)

// agentCommand runs the agent itself, in the foreground.
func agentCommand(g *globals) *command {
	var o AgentOptions
	return &command{
		name:    "agent",
		summary: "Run the agent in the foreground",
		about: "The agent attaches its sensors to the kernel, knows every process and connection, " +
			"and answers the other commands on a Unix socket and, on loopback, by HTTP. " +
			"When it starts it says which hooks it uses and why, and which capabilities it lacks. " +
			"It ends at SIGINT or SIGTERM and leaves nothing attached.\n\n" +
			"Socket (/run/INSTANCE/warren.sock), state directory and pinned kernel objects derive from the name of the instance, so that agents of different names run beside each other. " +
			"An agent refuses to start where another one already uses its socket or state.\n\n" +
			"Flags go before the configuration file, the file before the defaults.",
		examples: []example{
			{"warren agent", "See what the machine does"},
			{"warren agent --http 127.0.0.1:9900 --log-level debug", "With HTTP on another port, telling more"},
			{"warren agent --instance lab --config /etc/warren/lab.yaml", "A second agent beside the first"},
		},
		flags: []*option{
			{long: "http", meta: "ADDR", text: &o.HTTP, doc: "address on loopback that answers HTTP, or off (default 127.0.0.1:7117; a free port for instances of other names)"},
			{long: "state", meta: "DIR", text: &o.State, doc: "directory for what outlives the agent (default /var/lib/INSTANCE)"},
			{long: "config", meta: "FILE", text: &o.Config, doc: "configuration, in YAML: docs/warren.yaml has every key"},
			{long: "instance", meta: "NAME", text: &o.Instance, doc: "name that sets agents of one machine apart (default warren)"},
			{long: "metrics-listen", meta: "ADDR", text: &o.MetricsListen, doc: "address, on loopback or not, that answers /metrics, /healthz and /readyz and nothing else, or off (default off)"},
			{long: "node", meta: "NAME", text: &o.Node, doc: "name of the cluster's node that this machine is (default NODE_NAME of the environment, else none)"},
			{long: "cgroup-root", meta: "PATH", text: &o.CgroupRoot, doc: "see only this subtree of the unified cgroup hierarchy: a path from its root, like /k8s/node1 (default /)"},
			{long: "kubernetes", meta: "MODE", text: &o.Kubernetes, choices: []string{"auto", "off"}, doc: "auto asks the cluster's API server who is in which pod, where a node's name is known and there is a kubeconfig or the service account of a pod; off asks none (default auto)"},
			{long: "kubeconfig", meta: "FILE", text: &o.Kubeconfig, doc: "file that says where the API server is (default the pod's service account)"},
			{long: "tls-dir", meta: "DIR", text: &o.TLSDir, doc: "directory of tls.crt, tls.key and ca.crt for the two addresses below; read again when they change"},
			{long: "hub-listen", meta: "ADDR", text: &o.HubListen, doc: "address that answers the hub only, by its certificate, or off (default off)"},
			{long: "hubble-listen", meta: "ADDR", text: &o.HubbleListen, doc: "address of Hubble's gRPC for the hub and Hubble's relay, by their certificates, or off (default off)"},
			{long: "hubble-socket", meta: "PATH", text: &o.HubbleSocket, doc: "Unix socket of Hubble's gRPC for this machine, or off (default hubble.sock beside the socket where a node's name is known, else off)"},
			{long: "network", meta: "MODE", text: &o.Network, choices: []string{"off", "routed", "vxlan", "chained"}, doc: "connect the pods of this node and enforce network policy: routed by routes between nodes, vxlan by tunnels, chained where another CNI plugin connects them; off leaves packets alone, and takes away what an agent of this instance has made (default off)"},
			{long: "rules", meta: "PATHS", text: &o.Rules, doc: "rule files, Falco's, and directories of them, by comma: what matches is an event of kind alert; they are read again when they change"},
			{long: "history", meta: "DIR", text: &o.History, doc: "directory of what is kept of the past, or off (default history below that of the state)"},
			{long: "log-level", meta: "LEVEL", text: &o.LogLevel, choices: []string{"debug", "info", "warn", "error"}, doc: "least level of what is logged: debug, info, warn or error (default info)"},
		},
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			o.Socket = g.socket
			if o.Socket == "" {
				o.Socket = env.Getenv("WARREN_SOCKET")
			}
			return env.RunAgent(ctx, o)
		},
	}
}
