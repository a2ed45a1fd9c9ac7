// Package cli is Warren's command line: one file per command, each a value in
// the table of commands.go. Commands ask a running agent through [Agent] and
// write what people read.
//
// Everything an agent reports comes from processes that nobody vouches for.
// What reaches a terminal has passed through screen.safe (safe.go) or
// safeJSON; there is no third way.
package cli

import (
	"context"
	"io"
	"iter"
	"strings"
	"time"
)

// Env is the outside world as commands see it. The program fills it once in
// main; tests fill it with what they like and run the same commands.
type Env struct {
	Stdout, Stderr io.Writer
	// Terminal says whether Stdout is one, StderrTerminal the same of Stderr.
	Terminal, StderrTerminal bool
	// Width returns the terminal's width in columns, 0 where it is unknown.
	Width func() int
	// Getenv returns a variable of the environment, "" where it is not set.
	Getenv func(string) string
	// Now returns the time in the zone that times are shown in.
	Now func() time.Time
	// Dial returns the agent that listens on a socket. It need not connect:
	// that nobody listens may also show in the first question.
	Dial func(socket string) (Agent, error)
	// RunAgent runs an agent until ctx ends.
	RunAgent func(ctx context.Context, o AgentOptions) error
	// Build says what was built: see version.go.
	Build Build
}

// AgentOptions are the flags of warren agent; an empty one was not given.
type AgentOptions struct {
	Socket   string // path of the Unix socket to listen on
	HTTP     string // address to listen on with HTTP, "off" for none
	State    string // directory of what outlives the agent
	Config   string // YAML file
	Instance string // name that sets several agents of one machine apart
	LogLevel string // debug, info, warn or error
}

// Lines are JSON objects, one each, as the agent wrote them. A line is valid
// until the next one is asked for. The first error ends them.
type Lines = iter.Seq2[[]byte, error]

// An Agent answers the questions of commands.
type Agent interface {
	// Events yields events that match filter: if follow is true as they happen,
	// limit of them if it is above 0; else the last ones the agent remembers.
	Events(ctx context.Context, filter string, follow bool, limit int) Lines
	// Processes yields processes that match filter, those that have ended only
	// if exited is true.
	Processes(ctx context.Context, filter string, exited bool) Lines
	// Process returns the process with a pid or an exec id.
	Process(ctx context.Context, id string) ([]byte, error)
	// Connections yields connections that match filter, living and lately
	// closed, and then, if follow is true, what happens to them.
	Connections(ctx context.Context, filter string, follow bool) Lines
	// Status returns the agent's report on itself, one JSON object.
	Status(ctx context.Context) ([]byte, error)
}

// screen is how text is shown: what the terminal and the locale allow.
type screen struct {
	utf8  bool
	color bool
	cut   bool // whether lines are cut to width
	width int  // columns; meaningful if cut
}

// screen returns how standard output shows text. Tables are cut to the width
// of a terminal; other forms, and pipes, get whole lines.
func (env *Env) screen(table bool) screen {
	s := screen{utf8: env.utf8()}
	s.color = env.Terminal && env.Getenv("NO_COLOR") == "" && env.Getenv("TERM") != "dumb"
	if env.Terminal && table {
		if w := env.Width(); w > 0 {
			s.cut, s.width = true, w
		}
	}
	return s
}

// utf8 reports whether the locale's encoding is UTF-8.
func (env *Env) utf8() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := env.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// dial returns the agent behind the socket that was named by flag, by
// environment, or by nobody.
func (env *Env) dial(socket string) (Agent, error) {
	if socket == "" {
		socket = env.Getenv("WARREN_SOCKET")
	}
	return env.Dial(socket)
}

// The escape sequences that tables are coloured with.
const (
	plain  = ""
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
	cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

// paint returns text in a colour, where there are colours.
func (s screen) paint(color, text string) string {
	if !s.color || color == plain || text == "" {
		return text
	}
	return color + text + reset
}
