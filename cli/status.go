package cli

import (
	"context"
)

// statusCommand reports on the agent itself.
func statusCommand(g *globals) *command {
	var output string
	return &command{
		name:    "status",
		summary: "Report on the agent: hooks, events, losses, memory",
		examples: []example{
			{"warren status", "How the agent is doing"},
			{"warren status -o json", "The same for a script"},
		},
		flags: []*flag{outputFlag(&output, "", "table", "json")},
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			agent, err := env.dial(g.socket)
			if err != nil {
				return err
			}
			report, err := agent.Status(ctx)
			if err != nil {
				return err
			}
			return writeObject(env, report)
		},
	}
}
