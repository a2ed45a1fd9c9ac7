package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/prefilter"
	"warren/sensor"
)

// Status is what the pipeline knows of itself at one moment.
type Status struct {
	Ready   bool
	Sensors []SensorStatus
	// Kinds are the kinds of which there was an event, or for which a sensor
	// runs.
	Kinds []KindStatus
	// Records are what the kernel submitted and lost, by record, and the runs of
	// programs that it left out, by hook.
	Records       []bpf.Counter
	Waiting       WaitingStatus
	Subscriptions []SubscriptionStatus
	// Gone sums up the subscriptions that have ended.
	Gone SubscriptionStatus
}

// SensorStatus describes a sensor.
type SensorStatus struct {
	Name    string
	Running bool
	Kinds   event.KindSet // that it has hooks for now
	// Want is what it was started with: who wants which hooks, and what the
	// kernel lets through. What nobody has a name for is nobody's any more, and
	// will go.
	Want interest.Set
	// Prefilter is what of it the kernel judges before anything is recorded; nil:
	// nothing, all events of the kinds and types wanted are recorded.
	Prefilter *prefilter.Status
	Hooks     []HookStatus
	Err       error // why it could not do what was last asked of it
}

// HookStatus describes a hook of a sensor.
type HookStatus struct {
	bpf.HookStatus
	// For are the names of those who need it now; none: it is about to go.
	For  []string
	Cost bpf.Cost // since it was attached
	// Core is what share of one CPU its programs take, over the last five seconds:
	// how often they ran times what a run takes on average.
	Core float64
}

// KindStatus counts the events of a kind.
type KindStatus struct {
	Kind  event.Kind
	Total uint64
	Rate  float64 // events a second, over the last five seconds
}

// WaitingStatus tells of events that wait to be completed: by the description
// of their container, or the process that is looked up.
type WaitingStatus struct {
	Now       int    // events that wait
	Total     uint64 // events that ever waited
	TimedOut  uint64 // of these: went on without
	PushedOut uint64 // of these: because too many waited
}

// SubscriptionStatus describes a consumer: Matched = Delivered + Lost + Queued,
// but for events that are on their way between two of them at this moment.
type SubscriptionStatus struct {
	Name      string
	Filter    string
	Kinds     event.KindSet
	Begun     time.Time
	Size      int // room in the queue, events
	Queued    uint64
	Matched   uint64
	Delivered uint64
	Lost      uint64
	// Unnamed are events that could have matched: nobody knows which file they were
	// about.
	Unnamed uint64
}

// consumed sums up subscriptions that have ended.
type consumed struct {
	subscriptions            uint64 // ever begun
	matched, delivered, lost uint64
}

func (c *consumed) add(s *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.matched += s.matched
	c.delivered += s.delivered.Load()
	c.lost += s.lost
}

// Status returns the state of sensors, queues and counters.
func (p *Pipeline) Status() Status {
	st := Status{Records: p.road.Counters()}
	select {
	case <-p.ready:
		st.Ready = true
	default:
	}
	var running event.KindSet
	p.sensors.mu.Lock()
	for _, r := range p.sensors.list {
		st.Sensors = append(st.Sensors, SensorStatus{Name: r.sensor.Name(), Running: r.running, Kinds: r.kinds, Want: r.want, Prefilter: r.prefilter, Hooks: hookStatus(r.hooks, r.want), Err: r.err})
		running |= r.kinds
	}
	p.sensors.mu.Unlock()
	costs := p.road.Costs()

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range st.Sensors {
		for i := range s.Hooks {
			h := &s.Hooks[i]
			h.Cost = costs[h.Hook]
			h.Core = p.rates.core(h.Hook, h.Cost)
		}
	}
	for _, k := range event.AllKinds.List() {
		if p.totals[k] > 0 || running.Has(k) {
			st.Kinds = append(st.Kinds, KindStatus{Kind: k, Total: p.totals[k], Rate: p.rates.of(k, &p.totals)})
		}
	}
	w := &p.waiting
	st.Waiting = WaitingStatus{Now: len(w.fifo), Total: w.total, TimedOut: w.timedOut, PushedOut: w.pushedOut}
	for _, s := range p.subs {
		one := s.status()
		one.Unnamed = s.unnamed.total
		st.Subscriptions = append(st.Subscriptions, one)
	}
	st.Gone = SubscriptionStatus{Matched: p.gone.matched, Delivered: p.gone.delivered, Lost: p.gone.lost}
	return st
}

func hookStatus(hooks []sensor.HookStatus, want interest.Set) []HookStatus {
	out := make([]HookStatus, len(hooks))
	for i, h := range hooks {
		out[i] = HookStatus{HookStatus: h.HookStatus, For: h.Serves(want)}
	}
	return out
}

// Status returns the counters of one subscription.
func (s *Subscription) Status() SubscriptionStatus { return s.status() }

func (s *Subscription) status() SubscriptionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := SubscriptionStatus{
		Name: s.opts.Name, Filter: s.opts.Filter, Kinds: s.opts.Kinds, Begun: s.begun, Size: len(s.queue),
		Matched: s.matched, Delivered: s.delivered.Load(), Lost: s.lost,
	}
	st.Queued = st.Matched - st.Delivered - st.Lost
	return st
}

// rates remembers totals, once a second, for as long as a rate looks back.
type rates struct {
	samples [rateSpan + 1]sample
	n       int
}

// rateSpan is how many seconds a rate looks back.
const rateSpan = 5

type sample struct {
	at     time.Time
	totals [maxKinds]uint64
	costs  map[string]bpf.Cost // by hook
}

func (r *rates) sample(now time.Time, totals *[maxKinds]uint64, costs map[string]bpf.Cost) {
	r.samples[r.n%len(r.samples)] = sample{now, *totals, costs}
	r.n++
}

// span returns the first and the last sample there is; there must be one.
func (r *rates) span() (oldest, newest sample) {
	return r.samples[max(0, r.n-len(r.samples))%len(r.samples)], r.samples[(r.n-1)%len(r.samples)]
}

// core returns the share of a CPU that a hook takes which has cost so much.
func (r *rates) core(hook string, cost bpf.Cost) float64 {
	if r.n == 0 {
		return 0
	}
	oldest, newest := r.span()
	runs, from := newest.costs[hook].Runs, oldest.costs[hook].Runs
	secs := newest.at.Sub(oldest.at).Seconds()
	if secs <= 0 || runs < from || cost.Runs < runs { // it was detached in between
		return 0
	}
	return float64(runs-from) * cost.Mean().Seconds() / secs
}

func (r *rates) of(k event.Kind, totals *[maxKinds]uint64) float64 {
	if r.n == 0 {
		return 0
	}
	oldest, newest := r.span()
	secs := newest.at.Sub(oldest.at).Seconds()
	if secs <= 0 { // only one sample yet: count from it
		secs = time.Since(oldest.at).Seconds()
		newest.totals = *totals
	}
	if secs <= 0 {
		return 0
	}
	return float64(newest.totals[k]-oldest.totals[k]) / secs
}

// losses remembers what the road's counters said when they were last looked at.
type losses struct {
	mu     sync.Mutex
	seen   map[counted]bpf.Counter
	strays uint64 // records without a header that could be read
	logged time.Time
	unsaid []*event.Lost // since the last log line
	read   uint64        // ktime before the counters were last looked at
	doubt  doubt
}

// counted names what a counter counts: a type of record, or the runs of a hook.
type counted struct {
	record uint8
	hook   string
}

func (l *losses) init() { l.seen = map[counted]bpf.Counter{} }

// reportLosses tells consumers, and once a second the log, what the rings have
// lost, and the kernel has left out, since the last call.
func (p *Pipeline) reportLosses() {
	l := &p.losses
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	since := l.read
	l.read = bootTime()
	var news []*event.Lost
	for _, c := range p.road.Counters() {
		of := counted{record: c.ID} // its name may come to be known
		if c.Lane == bpf.Kernel {
			of = counted{hook: c.Name}
		}
		was := l.seen[of]
		l.seen[of] = c
		if c.Lost > was.Lost || c.Malformed > was.Malformed {
			l.doubt.note(c, since, now)
		}
		if n := c.Lost - min(was.Lost, c.Lost); n > 0 {
			news = append(news, &event.Lost{Type: "lost", Count: n, What: c.Name, Lane: c.Lane.String()})
		}
		if n := c.Malformed - min(was.Malformed, c.Malformed); n > 0 {
			news = append(news, &event.Lost{Type: "lost", Count: n, What: c.Name, Lane: "decode"})
		}
	}
	if m := p.road.Stats().Malformed; m > l.strays {
		news = append(news, &event.Lost{Type: "lost", Count: m - l.strays, What: "unknown", Lane: "decode"})
		l.strays = m
	}
	if len(news) > 0 {
		ktime := bootTime()
		p.mu.Lock()
		for _, n := range news {
			p.lost(now, ktime, n)
		}
		p.mu.Unlock()
		l.unsaid = append(l.unsaid, news...)
	}
	if len(l.unsaid) > 0 && now.Sub(l.logged) >= time.Second {
		p.log.Warn("events were lost", "losses", lossList(l.unsaid).String())
		l.unsaid, l.logged = nil, now
	}
}

// bootTime is the kernel's clock that events carry: nanoseconds since boot.
func bootTime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return uint64(ts.Nano())
}

// lossList renders losses for a log line.
type lossList []*event.Lost

// String returns record, lane and count of each.
func (l lossList) String() string {
	sums := map[string]uint64{}
	for _, n := range l {
		sums[n.What+" "+n.Lane] += n.Count
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(sums)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, sums[k]))
	}
	return strings.Join(parts, ", ")
}
