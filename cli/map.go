package cli

import (
	"context"
	"fmt"
	"time"

	"warren/api"
)

// mapCommand draws who talks to whom.
func mapCommand(g *globals) *command {
	var output string
	var since time.Duration
	var about selection
	return &command{
		name:    "map",
		summary: "Draw who talks to whom",
		about: "Workloads, services, containers, processes of hosts, and what is outside by its name, with the connections from one to another: how many were opened, are open and failed, " +
			"how much was sent and received, the mean round-trip time, and what went wrong. A client stands above the servers it talks to; what was drawn before is not drawn again.\n\n" +
			"The agents count from their start on; with --since, the last minutes, an hour at most. " +
			"A connection counts once, though both its ends may have seen it. On a machine, an address of its own stands for who listens there; in a cluster, a service for the workload behind it, where it is one.",
		examples: []example{
			{"warren map", "Whom the programs of this machine talk to"},
			{"warren map --since 5m -o wide", "In the last minutes, with packets lost on the way"},
			{"warren map -o dot | dot -Tsvg > map.svg", "As a picture, by Graphviz"},
		},
		cluster: []example{
			{"kubectl warren map -n shop", "Service to service, in a namespace and out of it"},
			{"kubectl warren map -A --since 10m", "The whole cluster in the last ten minutes"},
			{"kubectl warren map -n shop -o dot | dot -Tsvg > shop.svg", "As a picture, by Graphviz"},
		},
		flags: append(append([]*option{
			outputFlag(&output, "", "table", "wide", "dot", "json"),
			{long: "since", meta: "TIME", set: setSince(&since), doc: "only what happened in the last minutes, like 10m; 1h at most"},
		}, namespaceFlags(g, &about)...), nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			q := api.MapQuestion{Since: since, Nodes: who.nodes}
			if who.namespace != "" {
				q.Namespaces = []string{who.namespace}
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			m, err := who.Map(ctx, q)
			if err != nil {
				return err
			}
			if !who.cluster {
				m = api.MergeMaps([]api.Map{m})
			}
			who.missingNodes(m.Total, m.Missing)
			return who.whole(writeMap(env, &m, output, who.namespace))
		},
	}
}

// setSince understands how far to look back.
func setSince(d *time.Duration) func(string) error {
	return func(v string) error {
		t, err := time.ParseDuration(v)
		switch {
		case err != nil || t <= 0:
			return fmt.Errorf("takes a time like 10m, not %q", v)
		case t > api.MapMemory:
			return fmt.Errorf("reaches back %s at most, not %s", span(api.MapMemory), span(t))
		}
		*d = t
		return nil
	}
}

func writeMap(env *Env, m *api.Map, output, namespace string) error {
	switch output {
	case "json":
		return writeValue(env, m)
	case "dot":
		out := &lazyWriter{out: env.Stdout}
		s := screen{utf8: env.utf8()}
		if _, err := out.Write(s.dot(m)); err != nil {
			return err
		}
		return out.Flush()
	}
	out := &lazyWriter{out: env.Stdout}
	t := mapTree{screen: env.screen(output == "table"), wide: output == "wide", m: m, namespace: namespace}
	if err := t.write(newTable(out, t.screen, t.columns())); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	say := screen{utf8: env.utf8()}
	for _, note := range mapNotes(m, env.Now()) {
		fmt.Fprintln(env.Stderr, env.program()+": "+say.safe(note))
	}
	return nil
}

// mapNotes returns what is to be said beside a map.
func mapNotes(m *api.Map, now time.Time) []string {
	var notes []string
	if len(m.Edges) == 0 {
		notes = append(notes, "nobody talked to anybody since "+day(m.Since, now))
	}
	if m.Lost > 0 {
		notes = append(notes, fmt.Sprintf("%d events were lost on the way: figures may be too low", m.Lost))
	}
	if m.Forgotten > 0 {
		notes = append(notes, fmt.Sprintf("there was no room for %d connections between others, silent for longest", m.Forgotten))
	}
	return notes
}
