package cli

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"warren/api"
	"warren/netpol"
)

// policySuggestCommand writes policies that allow what was observed.
func policySuggestCommand(g *globals) *command {
	var about selection
	return &command{
		name:    "policy suggest",
		summary: "Write network policies that allow what was observed, and nothing else",
		about: "One NetworkPolicy for each kind of pods of a namespace, as YAML for kubectl apply, with what each rule comes from: how many flows, from when to when, and who. " +
			"Pods are of one kind when they have the same labels, those aside that controllers give to each of theirs. Kinds that nobody talked to are isolated too.\n\n" +
			"What was never seen is denied: let the agents watch for as long as what is rare may take, a nightly job too, and apply the policies in audit mode first " +
			"(label warren.dev/policy=audit on the namespace). Addresses outside of the cluster are written down one by one, or as networks where there are many; a comment says so.",
		examples: []example{
			{"warren policy suggest -n shop", "What this node's agent has seen of a namespace"},
		},
		cluster: []example{
			{"kubectl warren policy suggest -n shop > shop.yaml", "Policies for a namespace, to read and to apply"},
			{"kubectl warren policy suggest -n shop | kubectl warren policy diff -n shop -", "What they would change of what was seen: nothing that was allowed"},
		},
		flags: append(namespaceFlags(g, &about), nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			if about.all {
				return usagef("policies are suggested for one namespace: -n says which")
			}
			v, err := g.policies(ctx, env, &about)
			if err != nil {
				return err
			}
			if v.namespace == "" {
				return usagef("of which namespace? -n says")
			}
			return v.whole(v.suggest())
		},
	}
}

func (v *policyView) suggest() error {
	list, left := netpol.Suggest(v.namespace, v.world, v.report.Observations(v.world, v.pods, false))
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Network policies of namespace %s that allow what was seen of %s\n# from %s to %s, and nothing else.\n",
		v.namespace, screen{}.safe(v.report.Source), v.report.Since.UTC().Format(time.RFC3339), v.report.Until.UTC().Format(time.RFC3339))
	if len(v.report.Reporters) > 0 {
		fmt.Fprintf(&b, "# Nodes that looked: %d.\n", len(v.report.Reporters))
	}
	for _, s := range list {
		b.WriteString("---\n")
		if err := s.WriteYAML(&b); err != nil {
			return err
		}
	}
	out := &lazyWriter{out: v.env.Stdout}
	if _, err := out.Write(b.Bytes()); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if len(list) == 0 {
		v.say("namespace %s has no pods in the network of pods", v.namespace)
	}
	if len(left) > 0 {
		v.say("%d pairs talked by what no NetworkPolicy can name, like %s from %s to %s: it stays denied where the policies isolate",
			len(left), portText(left[0].Protocol, left[0].Port), left[0].From, left[0].To)
	}
	if v.report.Source == api.TalkOfConnections {
		v.say("no datapath tells what packets do: this is what sockets did, and what asks for a service is known by the agent of the pod behind it")
	}
	v.caveats()
	return nil
}
