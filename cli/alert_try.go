package cli

import (
	"context"
	"fmt"
	"io"
)

// alertTestCommand sends a test by a channel.
func alertTestCommand(g *globals) *command {
	return &command{
		name:    "alert test",
		args:    "CHANNEL",
		summary: "Send a test by a channel of alerts",
		about: "The agent sends an alert that says that it is a test, past those that wait, and past the filter and the least priority of the channel. The command ends when the receiver has taken it, or says why it has not. " +
			"Channels are those of alerts in the agent's configuration; \"warren status\" lists them. Only root may ask for it.",
		examples: []example{
			{"warren alert test slack", "See that alerts arrive"},
		},
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which channel? warren status lists them")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			who, err := g.answerer(env, &selection{})
			if err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			done, err := who.TestAlert(ctx, args[0])
			if err != nil {
				return err
			}
			_, err = io.WriteString(env.Stdout, fmt.Sprintf("%s has taken it after %s\n", env.screen(false).safe(done.Channel), span(done.Took)))
			return err
		},
	}
}
