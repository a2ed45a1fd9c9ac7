package agent

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"warren/alert"
	"warren/api"
	"warren/audit"
	"warren/bpf"
	"warren/event"
	"warren/filter"
	"warren/identity"
	"warren/interest"
	"warren/pipeline"
)

// self answers the server's questions about the agent with values that every
// part of it reports.
type self struct {
	cfg      Config
	started  time.Time
	kernel   string
	lockdown string
	rights   atomic.Pointer[[]right]
	listen   []string
	member   *membership // of a cluster; nil for none,
	alone    string      // and then why
	net      *network    // nil where packets are left alone
	creds    *api.Credentials
	hubble   *api.Hubble   // nil where nobody can ask for flows
	alerts   *alert.Engine // what makes alerts
	channels *alerts       // where they go
	changes  *changes      // of the configuration
	reacts   *reactions    // what rules have done
	audit    *auditLog
	seen     *flowWatch        // nil where packets are left alone
	talk     *api.MapCollector // nil where connections are not watched
	road     *bpf.Road
	who      *identity.Identity
	spine    *pipeline.Pipeline
	history  *history // nil where nothing is kept
	failure  atomic.Pointer[error]
}

var _ api.Self = (*self)(nil)

// Ready implements [api.Self].
func (s *self) Ready() <-chan struct{} { return s.spine.Ready() }

// Err implements [api.Self].
func (s *self) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// process names the agent's own process; zero until it is known.
func (s *self) process() event.Key {
	if all := s.who.ProcessByPID(uint32(os.Getpid())); len(all) > 0 {
		return all[0].Key
	}
	return event.Key{}
}

// failed remembers why the agent no longer sees what happens.
func (s *self) failed(err error) { s.failure.Store(&err) }

// Status implements [api.Self].
func (s *self) Status() api.Status {
	p, r, t := s.spine.Status(), s.road.Stats(), s.who.Stats()
	st := api.Status{
		Version:       s.cfg.Version,
		Instance:      s.cfg.Instance,
		PID:           os.Getpid(),
		Hostname:      event.Hostname(),
		BootID:        event.BootID(),
		Kernel:        s.kernel,
		Lockdown:      s.lockdown,
		Started:       s.started,
		Ready:         p.Ready,
		StateDir:      s.cfg.State,
		Listen:        s.listen,
		Node:          s.cfg.Node,
		Kubernetes:    s.kubernetes(),
		Network:       s.net.describe(),
		Rules:         s.rules(),
		Alerts:        s.channels.status(),
		Changes:       s.changes.state(),
		Reactions:     s.reacts.status(),
		Audit:         s.audit.status(),
		Capabilities:  []api.Cap{},
		Sensors:       []api.Sensor{},
		Kinds:         []api.Kind{},
		Records:       []api.Record{},
		Losses:        []api.Loss{},
		Rings:         []api.Ring{},
		Reader:        api.Reader{Polls: r.Polls, Wakeups: r.Wakeups, LastError: r.LastError},
		Waiting:       api.Waiting(p.Waiting),
		Tables:        tables(t),
		Memory:        api.Memory{RSSAnon: rssAnon(), Heap: heapBytes()},
		Subscriptions: []api.Subscription{},
		Ended:         api.Consumed{Matched: p.Gone.Matched, Delivered: p.Gone.Delivered, Lost: p.Gone.Lost},
	}
	if root := s.cfg.Road.CgroupRoot; root != "/" {
		st.CgroupRoot = root
	}
	if s.creds != nil {
		c := s.creds.State()
		st.Certificate = &api.Certificate{Expires: c.Expires, Refused: c.Refused}
		if c.Err != nil {
			st.Certificate.Error = c.Err.Error()
		}
	}
	if s.hubble != nil {
		h := s.hubble.Stats()
		st.Hubble = &api.HubbleState{Flows: h.Flows, MaxFlows: h.MaxFlows, Bytes: h.Bytes, MaxBytes: h.MaxBytes, Seen: h.Seen, Oldest: h.Oldest, Streams: h.Streams, Stalled: h.Stalled}
	}
	st.Flows = s.seen.state()
	st.History = s.history.state()
	for _, n := range *s.rights.Load() {
		st.Capabilities = append(st.Capabilities, api.Cap{Name: n.name(), For: n.feature, Required: n.required, Held: n.held, Returned: n.returned})
	}
	for _, sen := range p.Sensors {
		st.Sensors = append(st.Sensors, describeSensor(sen))
	}
	for _, k := range p.Kinds {
		st.Kinds = append(st.Kinds, api.Kind{Kind: k.Kind.String(), Total: k.Total, Rate: k.Rate})
	}
	for _, c := range p.Records {
		if c.Lane == bpf.Kernel { // no record came to be
			st.Losses = append(st.Losses, api.Loss{Lane: c.Lane.String(), Kind: c.Name, Count: c.Lost})
			continue
		}
		st.Records = append(st.Records, api.Record{Record: c.Name, Lane: c.Lane.String(), Submitted: c.Submitted, Lost: c.Lost, Decoded: c.Decoded, Malformed: c.Malformed})
		if c.Lost > 0 {
			st.Losses = append(st.Losses, api.Loss{Lane: c.Lane.String(), Kind: c.Name, Count: c.Lost})
		}
		if c.Malformed > 0 {
			st.Losses = append(st.Losses, api.Loss{Lane: "decode", Kind: c.Name, Count: c.Malformed})
		}
	}
	if r.Malformed > 0 {
		st.Losses = append(st.Losses, api.Loss{Lane: "decode", Kind: "unknown", Count: r.Malformed})
	}
	for _, g := range r.Rings {
		st.Rings = append(st.Rings, api.Ring{Lane: g.Lane.String(), Size: g.Size, Waiting: g.Waiting, Highest: g.Highest})
		st.Memory.Rings += uint64(g.Size)
	}
	if a := st.Audit; a != nil && a.Bad+a.TooLarge > 0 {
		st.Losses = append(st.Losses, api.Loss{Lane: audit.Lane, Kind: event.KindK8sAudit.String(), Count: a.Bad + a.TooLarge})
	}
	lostInQueues := p.Gone.Lost
	for _, c := range p.Subscriptions {
		lostInQueues += c.Lost
		st.Subscriptions = append(st.Subscriptions, api.Subscription{
			Name: c.Name, Filter: c.Filter, Kinds: api.KindNames(c.Kinds), Since: c.Begun, Size: c.Size, Queued: c.Queued, Unnamed: c.Unnamed,
			Consumed: api.Consumed{Matched: c.Matched, Delivered: c.Delivered, Lost: c.Lost},
		})
	}
	if lostInQueues > 0 {
		st.Losses = append(st.Losses, api.Loss{Lane: "queue", Kind: "any", Count: lostInQueues})
	}
	return st
}

// kubernetes describes the cluster, nil on a machine that is no node of one.
func (s *self) kubernetes() *api.Kubernetes {
	switch {
	case s.member != nil:
		k, t := s.member.describe(), s.who.Stats()
		k.OwnPods, k.Untold, k.PeersWaiting, k.PeersDropped = t.Pods, t.PodsUntold, t.PeersWaiting, t.PeersDropped
		return k
	case s.cfg.Node != "":
		return &api.Kubernetes{Off: s.alone, Resources: []api.Resource{}}
	}
	return nil
}

func describeSensor(s pipeline.SensorStatus) api.Sensor {
	out := api.Sensor{Name: s.Name, Running: s.Running, Kinds: api.KindNames(s.Kinds &^ event.StateKinds), Prefilter: []api.Want{}, Hooks: []api.Hook{}}
	out.Judges, out.Widened = []string{}, []string{}
	terms := s.Want.Terms()
	if f := s.Prefilter; f != nil {
		terms = f.Terms
		out.Judges, out.Widened = append(out.Judges, f.Judges...), append(out.Widened, f.Widened...)
		out.Cgroups, out.CgroupsUnjudged = f.Cgroups()
	}
	for _, t := range judgedTerms(terms, out.Judges) {
		whole := interest.Of(t.Kinds).Terms[0]
		out.Prefilter = append(out.Prefilter, api.Want{Events: t.String(), Whole: t.String() == whole.String(), For: append([]string{}, s.Want.HoldersOfTerm(t)...)})
	}
	if u := (*bpf.UnavailableError)(nil); errors.As(s.Err, &u) {
		out.Error = u.Error() // which hook it is, and why: the sensor is known
	} else if s.Err != nil {
		out.Error = s.Err.Error()
	}
	for _, h := range s.Hooks {
		hook := api.Hook{Name: h.Hook, Purpose: h.Purpose, Rung: h.Rung, Target: h.Target, Error: h.Err, For: append([]string{}, h.For...)}
		if c := h.Cost; c != (bpf.Cost{}) {
			hook.Cost = &api.HookCost{Runs: c.Runs, Sampled: c.Sampled, Time: c.Time, Mean: c.Mean(), Core: h.Core}
		}
		for _, r := range h.Refused {
			hook.Refused = append(hook.Refused, api.Refusal{Rung: r.Rung, Reason: r.Reason})
		}
		out.Hooks = append(out.Hooks, hook)
	}
	slices.SortStableFunc(out.Hooks, func(a, b api.Hook) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// judgedTerms returns terms with what the kernel judges of them.
func judgedTerms(terms []interest.Term, judges []string) []interest.Term {
	var out []interest.Term
	for _, t := range terms {
		if t.Kinds &^= event.StateKinds; t.Kinds != 0 {
			out = append(out, t.Only(judges...))
		}
	}
	return interest.Merge(out)
}

func tables(t identity.Stats) []api.Table {
	return []api.Table{
		{Name: "processes", Entries: t.Processes, Bytes: t.ProcessBytes, Budget: t.ProcessBudget, Evicted: t.Evicted},
		{Name: "exited processes", Entries: t.Exited},
		{Name: "past process states", Entries: t.Replaced, Evicted: t.Overtaken},
		{Name: "connections", Entries: t.Connections, Bytes: t.ConnectionBytes, Budget: t.ConnectionBudget, Evicted: t.ConnectionsEvicted},
		{Name: "closed connections", Entries: t.Closed},
		{Name: "cgroups", Entries: t.Cgroups},
		{Name: "containers", Entries: t.Containers},
		{Name: "names", Entries: t.Names, Evicted: t.NamesEvicted},
	}
}

// events hands the pipeline's stream to the server.
type events struct{ *pipeline.Pipeline }

var (
	_ api.Events = events{}
	_ api.Tables = (*identity.Identity)(nil)
)

// Subscribe implements [api.Events].
func (e events) Subscribe(who string, wanted *filter.Program, among event.KindSet) (api.Stream, error) {
	o := pipeline.Options{Name: who, Filter: wanted.String(), Kinds: wanted.Kinds() & among, Interest: wanted.Interest().Among(among), Match: wanted.Match}
	if o.Filter == "" {
		o.Match = nil // everything
	}
	if u := wanted.Unnamed(); u != nil {
		o.Unnamed = u.Match
	}
	s, err := e.Pipeline.Subscribe(o)
	if err != nil {
		return nil, err // not s: a nil pointer in an interface is not nil
	}
	return s, nil
}
