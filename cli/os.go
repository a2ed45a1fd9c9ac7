package cli

import (
	"os"
	"time"

	"golang.org/x/term"

	"warren/api"
)

// NewEnv returns the outside world of the running program. The caller adds
// what it alone knows: RunAgent.
func NewEnv() *Env {
	out := int(os.Stdout.Fd())
	return &Env{
		Stdout:         os.Stdout,
		Stderr:         os.Stderr,
		Terminal:       term.IsTerminal(out),
		StderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		Width: func() int {
			w, _, err := term.GetSize(out)
			if err != nil {
				return 0
			}
			return w
		},
		Getenv: os.Getenv,
		Now:    time.Now,
		Dial:   func(socket string) Agent { return api.NewClient(socket) },
		Build:  ReadBuild(),
	}
}
