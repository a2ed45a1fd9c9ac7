package cli

import (
	"context"
	"strings"
)

// helpCommand prints help. commands includes it.
func helpCommand(kubectl bool, commands []*command, global []*option) command {
	var output string
	f := outputFlag(&output, "", "text", "markdown")
	f.doc = "text (default text)" // markdown is for docs/cli.md
	return command{
		name:    "help",
		args:    "[COMMAND]",
		summary: "Tell how a command is used",
		examples: []example{
			{"warren help process tree", "The same as warren process tree --help"},
		},
		hidden: true, // every other help says --help
		flags:  []*option{f},
		run: func(_ context.Context, env *Env, args []string) error {
			name := strings.Join(args, " ")
			c := find(commands, name)
			switch {
			case output == "markdown":
				return writeManual(env.Stdout, commands, global)
			case c != nil:
				c.help(env.Stdout, program(kubectl), global)
			case name == "" || isNoun(commands, name):
				overview(env.Stdout, program(kubectl), commands, global, name)
			default:
				return unknownCommand(commands, name)
			}
			return nil
		},
	}
}
