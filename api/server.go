// Package api is how people and programs ask a running agent, or a hub that asks
// many: HTTP with JSON, described by openapi.json. [Client] is the other end.
// [Server] answers for an agent; of what it is made, a hub makes its own.
//
// Streams and lists are NDJSON: one object a line, whose keys are the names of
// fields (see [event.AppendJSON]). A stream that is idle sends an empty line now
// and then, so that both ends notice when the other has gone. A hub is sent the
// same in batches: see [Row].
//
// Over the network an agent answers only who has the hub's certificate
// ([Credentials]), and clients of Hubble by its own protocol ([Hubble]).
//
// A client that reads too slowly loses events, not the agent's memory: what its
// queue has no room for is counted and told to it as an event of kind lost. One
// that stops reading altogether is disconnected.
//
// The server knows nothing of sensors and kernels: what it serves is handed in
// as values, by the interfaces below. All of it may be used by any goroutine.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"warren/event"
	"warren/filter"
)

// Config are the server's settings; zero values stand for the defaults.
type Config struct {
	// Streams is how many streams can be open at the same time. Default 64.
	Streams int
	// KeepAlive is how long a stream stays silent. Default 15 s.
	KeepAlive time.Duration
	// Stall is how long a client may read nothing before it is disconnected.
	// Default 30 s.
	Stall time.Duration
	// Node is the name of the cluster's node that this is; "" for none.
	Node string
	// Map answers who talks to whom; nil where connections are not watched.
	Map func(context.Context, MapQuestion) (Map, error)
	// Flows remembers the last flows; nil where no datapath tells them.
	Flows *FlowMemory
	// Policy answers what network policies are about; nil where none are known.
	Policy func(context.Context, PolicyQuestion) (PolicyReport, error)
	// Files answers what a process has open: at most so many, and how many there
	// are. It may be called by several goroutines; nil: /proc is read instead.
	Files func(p event.Key, most int) ([]OpenFile, int, error)
	// PolicyStatus says which policies are in force here; nil where none is known.
	PolicyStatus func(PolicyStatusQuestion) NodePolicies
	// Locate says what a path of the host leads to; nil where nobody can look.
	Locate func(path string) (FileID, error)
	// Endpoints are the pods that the agent connects; nil where it connects none.
	Endpoints Endpoints
	// History is what is kept of the past; nil where nothing is.
	History History
	// Rules returns the rule files at work; nil where there can be none.
	Rules func() RuleFiles
	// TestAlert sends a test by a channel of alerts; nil where there can be none.
	TestAlert func(ctx context.Context, channel string) error
}

func (c Config) withDefaults() Config {
	if c.Streams <= 0 {
		c.Streams = 64
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = 15 * time.Second
	}
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	return c
}

// Events is where events come from.
type Events interface {
	// Subscribe begins a stream of what a filter matches among events of some
	// kinds. who names the consumer to people.
	Subscribe(who string, wanted *filter.Program, among event.KindSet) (Stream, error)
	// Recent returns the last events, in their order.
	Recent() []*event.Event
	// Seq returns the number of the last event that the tables know of.
	Seq() uint64
	// Settled returns the number up to which every event has reached those who
	// asked for it: some wait for the description of their container.
	Settled() uint64
}

// A Stream is one consumer's events. Next and Buffered are called by one
// goroutine.
type Stream interface {
	// Next waits for the next event; io.EOF ends the stream.
	Next(ctx context.Context) (*event.Event, error)
	// Buffered reports whether Next would return at once.
	Buffered() bool
	// Begun waits until nothing that the stream is to have is missed any more.
	Begun(ctx context.Context) error
	Close()
}

// consume calls add with every event of some kinds, one after the other, until ctx
// ends or the events do, and then returns nil. who names the consumer to people.
func consume(ctx context.Context, events Events, who string, kinds event.KindSet, add func(*event.Event)) error {
	all, err := filter.Compile("")
	if err != nil {
		return fmt.Errorf("compile the filter of all events: %w", err)
	}
	sub, err := events.Subscribe(who, all, kinds)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer sub.Close()
	for {
		e, err := sub.Next(ctx)
		switch {
		case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		add(e)
	}
}

// Tables are what is known at present.
type Tables interface {
	Process(k event.Key) *event.Process
	ProcessByPID(pid uint32) []*event.Process // newest first, exited ones included
	Processes(yield func(*event.Process) bool)
	Connections(yield func(*event.Event) bool)
}

// Self is what the agent knows of itself.
type Self interface {
	Status() Status
	// Ready is closed when the tables are complete.
	Ready() <-chan struct{}
	// Err returns why the agent no longer sees what happens, nil while it does.
	Err() error
}

// A Server answers questions.
type Server struct {
	*Mux
	cfg     Config
	events  Events
	tables  Tables
	self    Self
	proc    procfs
	log     *slog.Logger
	metrics http.Handler
	streams chan struct{} // holds one element for each open stream; who finds it full is refused
}

// New returns a server. It does not listen yet.
func New(cfg Config, events Events, tables Tables, self Self, log *slog.Logger) *Server {
	s := &Server{cfg: cfg.withDefaults(), events: events, tables: tables, self: self, proc: procfs{"/proc", cfg.Files}, log: log}
	s.metrics = NewMetrics(metrics, self.Status)
	s.streams = make(chan struct{}, s.cfg.Streams)
	s.Mux = NewMux(s.routes(), log)
	return s
}

// routes is the list of all there is; openapi.json describes each.
func (s *Server) routes() []Route {
	return append([]Route{
		{"/v1" + PathEvents, Params(PathEvents), s.serveEvents},
		{"/v1" + PathProcesses, Params(PathProcesses), s.serveProcesses},
		{"/v1" + PathProcesses + "/{id}", []string{"node"}, s.serveProcess},
		{"/v1" + PathConnections, Params(PathConnections), s.serveConnections},
		{"/v1" + PathCounts, []string{"filter", "by", "limit", "node", "parts", "watch"}, s.serveCount},
		{"/v1" + PathFiles, FileParams, s.serveFileWatch},
		{"/v1" + PathFlows, Params(PathFlows), s.serveFlows},
		MapRoute(s.answerMap),
		PolicyRoute(s.answerPolicy),
		PolicyStatusRoute(s.answerPolicyStatus),
		{"/v1" + PathRules, []string{"node"}, s.serveRules},
		{"/v1" + PathHistory, []string{"node"}, s.serveHistory},
		{"/v1" + PathHistoryExport, []string{"filter", "since", "until"}, s.serveExport},
		WhoRoute(s.cfg.Stall, s.answerWho),
		{"/v1/fields", []string{"kind"}, ServeFields},
		{"/v1/status", []string{"node"}, s.serveStatus},
		{"/openapi.json", nil, s.serveOpenAPI},
	}, s.probes()...)
}

// probes are the routes for those who watch over the agent: they tell nothing
// of what happens on the machine.
func (s *Server) probes() []Route {
	return []Route{
		{"/metrics", nil, s.serveMetrics},
		{"/healthz", nil, s.serveHealth},
		{"/readyz", nil, s.serveReady},
	}
}

// Probes returns the handler of an address that more may reach than may read
// what happens here: metrics and the states that a supervisor asks for.
func (s *Server) Probes() http.Handler { return NewMux(s.probes(), s.log) }

// Serve answers on the listeners until ctx ends: see the function [Serve]. Those
// of TCP are for this machine, see [ListenTCP].
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	var doors []Door
	for _, l := range listeners {
		doors = append(doors, s.Door(l))
	}
	return s.ServeAt(ctx, doors...)
}

// ServeAt answers at doors, of the server and of others, until ctx ends: see the
// function [Serve].
func (s *Server) ServeAt(ctx context.Context, doors ...Door) error {
	return Serve(ctx, s.cfg.Stall, s.log, doors...)
}

// Door returns the server at a listener of this machine.
func (s *Server) Door(l net.Listener) Door {
	if l.Addr().Network() == "tcp" {
		return Door{l, local(s, l.Addr())}
	}
	if l.Addr().Network() != "unix" {
		return Door{l, s}
	}
	var h http.Handler = s
	if s.cfg.Endpoints != nil {
		h = &endpoints{s.cfg.Endpoints, s}
	}
	h = s.pruner(h)
	if s.cfg.TestAlert != nil {
		h = s.alertTester(h)
	}
	return Door{l, h}
}

// question checks what a list or a stream is asked for.
func (s *Server) question(path string, q Query) (Asked, error) {
	a, err := ParseQuestion(path, q)
	if err == nil {
		err = s.here(q)
	}
	return a, err
}

func (s *Server) answerMap(ctx context.Context, q MapQuestion) (Map, error) {
	if err := s.isHere(q.Nodes); err != nil {
		return Map{}, err
	}
	if s.cfg.Map == nil {
		return Map{}, Unavailable("this agent makes no map: it was told not to watch connections")
	}
	return s.cfg.Map(ctx, q)
}

func (s *Server) answerPolicy(ctx context.Context, q PolicyQuestion) (PolicyReport, error) {
	if err := s.isHere(q.Nodes); err != nil {
		return PolicyReport{}, err
	}
	if s.cfg.Policy == nil {
		return PolicyReport{}, Unavailable("this agent knows no network policies: it is on no cluster's node, or watches neither flows nor connections")
	}
	return s.cfg.Policy(ctx, q)
}

func (s *Server) answerPolicyStatus(_ context.Context, q PolicyStatusQuestion) (PolicyStatus, error) {
	if err := s.isHere(q.Nodes); err != nil {
		return PolicyStatus{}, err
	}
	if s.cfg.PolicyStatus == nil {
		return PolicyStatus{}, Unavailable("this agent knows no network policies: it is on no cluster's node")
	}
	here := s.cfg.PolicyStatus(q)
	here.Node = s.cfg.Node
	return PolicyStatus{Nodes: []NodePolicies{here}}, nil
}

// here refuses questions about other nodes than this one.
func (s *Server) here(q Query) error {
	nodes, err := q.List("node")
	if err != nil {
		return err
	}
	return s.isHere(nodes)
}

func (s *Server) isHere(nodes []string) error {
	switch {
	case nodes == nil || slices.Contains(nodes, s.cfg.Node):
		return nil
	case s.cfg.Node == "":
		return BadRequest("parameter node is for a hub: this agent was not told which node of a cluster it is")
	}
	return BadRequest("parameter node is for a hub: this agent is node %s only", printable(s.cfg.Node))
}

// ready waits a while for the tables to be complete, so that the first answer
// is.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	select {
	case <-s.self.Ready():
		return nil
	case <-ctx.Done():
		return errStarting()
	}
}

const readyTime = 10 * time.Second

func errStarting() *Error {
	return Unavailable("the agent is still starting: it has not read yet what was there before it")
}
