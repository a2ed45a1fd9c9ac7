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
	"fmt"
	"io"
	"strings"
	"time"

	"warren/api"
	"warren/cluster"
)

// Env is the outside world as commands see it. The program fills it once in
// main; tests fill it with what they like and run the same commands.
type Env struct {
	Stdout, Stderr io.Writer
	// Stdin is what a command reads that is told to.
	Stdin io.Reader
	// Terminal says whether Stdout is one, StderrTerminal the same of Stderr.
	Terminal, StderrTerminal bool
	// Width returns the terminal's width in columns, 0 where it is unknown.
	Width func() int
	// Getenv returns a variable of the environment, "" where it is not set.
	// Dir is where relative paths of files begin; "" is the working directory.
	Dir    string
	Getenv func(string) string
	// Now returns the time in the zone that times are shown in.
	Now func() time.Time
	// Dial returns the agent that listens on a socket. Whether one does, the
	// first question shows.
	Dial func(socket string) Agent
	// Kubectl says that the program is kubectl's plugin: commands ask a cluster's
	// hub instead of this machine's agent.
	Kubectl bool
	// Cluster returns the hub of a cluster, and the namespace that the person's
	// context is in. Whether there is a hub, the first question shows.
	Cluster func(o ClusterOptions) (hub Agent, namespace string, err error)
	// RunAgent runs an agent until ctx ends, RunHub a hub.
	RunAgent func(ctx context.Context, o AgentOptions) error
	RunHub   func(ctx context.Context, o HubOptions) error
	// RemoveNetwork has a cluster's agents take their network away.
	RemoveNetwork func(ctx context.Context, o RemovalOptions, tell func(string)) error
	// Policies reads network policies from YAML; what says no namespace is in the
	// one that is given.
	Policies func(yaml []byte, namespace string) ([]*cluster.Policy, error)
	// Build says what was built: see version.go.
	Build Build
}

// A progressLine is a line of a terminal that says how far something is, until it is
// there. A nil one says nothing.
type progressLine struct {
	env  *Env
	said bool
}

// progress returns the line on the terminal that errors are written to; nil where
// there is none, or it knows no such line.
func (env *Env) progress() *progressLine {
	if !env.StderrTerminal || env.Getenv("TERM") == "dumb" {
		return nil
	}
	return &progressLine{env: env}
}

// clearLine goes to the begin of a line and takes away what is there.
const clearLine = "\r\x1b[K"

// tell writes a text, which is no longer than a terminal is wide, in the place of the last.
func (p *progressLine) tell(text string) {
	p.said = true
	fmt.Fprint(p.env.Stderr, clearLine+text)
}

// clear takes the line away.
func (p *progressLine) clear() {
	if p != nil && p.said {
		fmt.Fprint(p.env.Stderr, clearLine)
	}
}

// AgentOptions are the flags of warren agent; an empty one was not given.
type AgentOptions struct {
	Socket   string // path of the Unix socket to listen on
	HTTP     string // address to listen on with HTTP, "off" for none
	State    string // directory of what outlives the agent
	Config   string // YAML file
	Instance string // name that sets several agents of one machine apart
	LogLevel string // debug, info, warn or error

	Node          string // name of the cluster's node that this is
	CgroupRoot    string // subtree of cgroups that the agent is limited to
	Kubernetes    string // "auto" or "off"
	Kubeconfig    string // file that says where the API server is
	TLSDir        string // directory of tls.crt, tls.key and ca.crt
	HubListen     string // address for the hub, "off" for none
	HubbleListen  string // address of Hubble's gRPC for the hub and relays, "off" for none
	HubbleSocket  string // path of the socket of Hubble's gRPC, "off" for none
	MetricsListen string // address of metrics and health, "off" for none
	Network       string // how pods are connected: off, routed, vxlan or chained
	Rules         string // rule files and directories of them, by comma
	History       string // directory of what is kept of the past, "off" for none
}

// HubOptions are the flags of warren hub; an empty one was not given.
type HubOptions struct {
	Listen        string // address that answers HTTPS
	HubbleListen  string // address of Hubble's gRPC, "off" for none
	TLSDir        string // directory of tls.crt, tls.key and ca.crt
	Namespace     string // Kubernetes namespace of the installation
	Agents        string // headless service of the agents
	Kubeconfig    string // file that says where the API server is
	MetricsListen string // address of metrics and health, "off" for none
	Config        string // YAML file
	LogLevel      string // debug, info, warn or error
}

// ClusterOptions say, over a person's kubeconfig, which cluster is asked and who
// asks; an empty one was not given. They are kubectl's flags of these names.
type ClusterOptions struct {
	Kubeconfig                        string
	Context, Cluster, User, Namespace string
	Server, Token                     string
	As, AsUID                         string
	AsGroups                          []string
	CAFile, TLSServerName             string
	InsecureSkipTLSVerify             bool
}

// An Agent answers the questions of commands, or a hub does: [api.Client] tells how.
type Agent interface {
	Events(ctx context.Context, q api.Question) api.Lines
	Recent(ctx context.Context, q api.Question) api.Lines
	Processes(ctx context.Context, q api.Question) api.Lines
	Process(ctx context.Context, id string, nodes ...string) ([]byte, error)
	Connections(ctx context.Context, q api.Question) api.Lines
	FollowConnections(ctx context.Context, q api.Question) api.Lines
	Flows(ctx context.Context, q api.Question) api.Lines
	FollowFlows(ctx context.Context, q api.Question) api.Lines
	CountEvents(ctx context.Context, q api.CountQuestion) api.Lines
	WatchFile(ctx context.Context, q api.FileQuestion) api.Lines
	Status(ctx context.Context, nodes ...string) ([]byte, error)
	Map(ctx context.Context, q api.MapQuestion) (api.Map, error)
	Policy(ctx context.Context, q api.PolicyQuestion) (api.PolicyReport, error)
	PolicyStatus(ctx context.Context, q api.PolicyStatusQuestion) (api.PolicyStatus, error)
	Who(ctx context.Context, q api.WhoQuestion) (api.Who, error)
	History(ctx context.Context) ([]byte, error)
	ExportHistory(ctx context.Context, q api.Question) (io.ReadCloser, error)
	PruneHistory(ctx context.Context, before time.Time) (api.Pruned, error)
	TestAlert(ctx context.Context, channel string) (api.AlertTested, error)
	Rules(ctx context.Context) (api.RuleFiles, error)
}

var _ Agent = (*api.Client)(nil)

// screen is how text is shown: what the terminal and the locale allow.
type screen struct {
	utf8  bool
	color bool
	cut   bool // whether lines are cut to width
	width int  // columns; meaningful if cut
	// now is the time, in the zone in which times are shown.
	now func() time.Time
}

// screen returns how standard output shows text. Tables are cut to the width
// of a terminal; other forms, and pipes, get whole lines.
func (env *Env) screen(table bool) screen {
	s := screen{utf8: env.utf8(), now: env.Now}
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
func (env *Env) dial(socket string) Agent {
	if socket == "" {
		socket = env.Getenv("WARREN_SOCKET")
	}
	if socket == "" {
		socket = defaultSocket
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
