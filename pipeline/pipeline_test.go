package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/sensor"
)

// fakeRoad is a road whose reader does nothing until ctx ends: tests emit.
type fakeRoad struct {
	mu       sync.Mutex
	counters []bpf.Counter
	costs    map[string]bpf.Cost
	fail     chan error
	syncs    atomic.Int32
	onSync   func()
}

func newFakeRoad() *fakeRoad { return &fakeRoad{fail: make(chan error, 1)} }

func (r *fakeRoad) Run(ctx context.Context) error {
	select {
	case err := <-r.fail:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *fakeRoad) Sync(context.Context) error {
	r.syncs.Add(1)
	if r.onSync != nil {
		r.onSync()
	}
	return nil
}

func (r *fakeRoad) Counters() []bpf.Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.counters)
}

func (r *fakeRoad) Costs() map[string]bpf.Cost {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.costs)
}

func (r *fakeRoad) Stats() bpf.RoadStats { return bpf.RoadStats{} }

func (r *fakeRoad) set(c ...bpf.Counter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters = c
}

// fakeSensor records what it is told.
type fakeSensor struct {
	name  string
	kinds event.KindSet

	mu       sync.Mutex
	calls    []string
	emit     func(*event.Event)
	startErr error
	refuses  event.KindSet // these the kernel does not have
	snapshot []*event.Event
	onStop   func()
	onStart  func()
	// onSnapshot fails Snapshot, or holds it up.
	onSnapshot func(context.Context) error
}

var _ sensor.Sensor = (*fakeSensor)(nil)

func (s *fakeSensor) call(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

// took returns the calls since the last time.
func (s *fakeSensor) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls
	s.calls = nil
	return c
}

func (s *fakeSensor) Name() string         { return s.name }
func (s *fakeSensor) Kinds() event.KindSet { return s.kinds }
func (s *fakeSensor) Start(wanted interest.Set, emit func(*event.Event)) error {
	want := wanted.Kinds()
	s.call("start %s", want)
	s.emit = emit
	if s.onStart != nil {
		s.onStart()
	}
	if want&s.refuses != 0 {
		return fmt.Errorf("attach packet: %w", &bpf.UnavailableError{Feature: "socket.packet", Reason: "CAP_NET_ADMIN is missing"})
	}
	return s.startErr
}

func (s *fakeSensor) Snapshot(ctx context.Context) error {
	s.call("snapshot")
	if s.onSnapshot != nil {
		if err := s.onSnapshot(ctx); err != nil {
			return err
		}
	}
	for _, e := range s.snapshot {
		s.emit(e)
	}
	return nil
}

func (s *fakeSensor) Stop() error {
	s.call("stop")
	if s.onStop != nil {
		s.onStop()
	}
	return nil
}

func (s *fakeSensor) Hooks() []sensor.HookStatus {
	return []sensor.HookStatus{{HookStatus: bpf.HookStatus{Hook: s.name + ".hook", Rung: "tp_btf"}, Kinds: s.kinds}}
}

// fakeTables takes the container from the event's process and holds those in
// pending back until described.
type fakeTables struct {
	mu        sync.Mutex
	applied   int
	relinks   int
	doubts    []uint64
	pending   map[string]bool
	described chan struct{}
}

func newFakeTables(pending ...string) *fakeTables {
	t := &fakeTables{pending: map[string]bool{}, described: make(chan struct{}, 1)}
	for _, id := range pending {
		t.pending[id] = true
	}
	return t
}

func (t *fakeTables) Apply(*event.Event) { t.applied++ }
func (t *fakeTables) Relink()            { t.relinks++ }
func (t *fakeTables) Doubt(since uint64) { t.doubts = append(t.doubts, since) }

func (t *fakeTables) Pending(e *event.Event) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending[containerOf(e)]
}

func (t *fakeTables) Resolve(e *event.Event, final bool) {
	if e.Process == nil || e.Process.Container == nil {
		return
	}
	p, c := *e.Process, *e.Process.Container
	c.Name = "described"
	if t.Pending(e) {
		if !final {
			panic("resolved while pending")
		}
		c.Name, c.Pending = "", true
	}
	p.Container, e.Process = &c, &p
}

func (t *fakeTables) Described() <-chan struct{} { return t.described }

func (t *fakeTables) describe(id string) {
	t.mu.Lock()
	delete(t.pending, id)
	t.mu.Unlock()
	t.described <- struct{}{}
}

type rig struct {
	*Pipeline
	road   *fakeRoad
	tables *fakeTables
	log    *strings.Builder
	stop   context.CancelFunc
	done   chan error
}

// newRig runs a pipeline until the test ends.
func newRig(t testing.TB, cfg Config, tables *fakeTables, list ...sensor.Sensor) *rig {
	t.Helper()
	r := &rig{road: newFakeRoad(), tables: tables, log: &strings.Builder{}, done: make(chan error, 1)}
	r.Pipeline = newPipeline(cfg, r.road, tables, list, slog.New(slog.NewTextHandler(r.log, nil)))
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(stop)
	return r
}

func (r *rig) subscribe(t testing.TB, o Options) *Subscription {
	t.Helper()
	s, err := r.Subscribe(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exec(pid uint32, container string) *event.Event {
	p := &event.Process{Key: event.Key{PID: pid, Start: 1}, PID: pid}
	if container != "" {
		p.Container = &event.Container{FullID: container}
	}
	return &event.Event{Actor: p.Key, Process: p, Data: &event.Exec{Type: "execve"}}
}

func exit(pid uint32, container string) *event.Event {
	e := exec(pid, container)
	e.Data = &event.Exit{Type: "procexit"}
	return e
}

// rest reads a subscription until there is nothing more at hand.
func rest(t testing.TB, s *Subscription) []string {
	t.Helper()
	var got []string
	for s.Buffered() {
		e, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, brief(e))
	}
	return got
}

func brief(e *event.Event) string {
	switch d := e.Data.(type) {
	case *event.Lost:
		return fmt.Sprintf("lost %d %s %s", d.Count, d.What, d.Lane)
	default:
		s := fmt.Sprintf("%s %d", d.Kind(), e.Actor.PID)
		if c := e.Process.Container; c != nil {
			s += " " + c.FullID
			if c.Name != "" {
				s += " " + c.Name
			}
			if c.Pending {
				s += " pending"
			}
		}
		return s
	}
}

func want(t testing.TB, got, want []string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestFanOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, newFakeTables())
		execs := r.subscribe(t, Options{Kinds: event.Kinds(event.KindExec)})
		odd := r.subscribe(t, Options{Kinds: event.AllKinds, Match: func(e *event.Event) bool { return e.Actor.PID%2 == 1 }})
		none := r.subscribe(t, Options{})
		for pid := range uint32(3) {
			r.emit(exec(pid+1, ""))
			r.emit(exit(pid+1, ""))
		}
		r.emit(&event.Event{Data: &event.CgroupState{}})
		want(t, rest(t, execs), []string{"exec 1", "exec 2", "exec 3"})
		want(t, rest(t, odd), []string{"exec 1", "exit 1", "exec 3", "exit 3"})
		want(t, rest(t, none), nil)
		if r.tables.applied != 7 {
			t.Errorf("the tables saw %d events, want 7: also those that no consumer sees", r.tables.applied)
		}
		if n := r.Seq(); n != 6 {
			t.Errorf("last number %d, want 6: events for the tables only have none", n)
		}
		var recent []uint64
		for _, e := range r.Recent() {
			recent = append(recent, e.Seq)
		}
		if d := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6}, recent); d != "" {
			t.Errorf("recent events (-want +got)\n%s", d)
		}
		odd.Close()
		odd.Close()
		r.emit(exec(9, ""))
		if _, err := odd.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("Next after Close: %v, want EOF", err)
		}
		st := r.Status()
		if len(st.Subscriptions) != 2 || st.Gone.Matched != 4 || st.Gone.Delivered != 4 {
			t.Errorf("status after Close: %+v", st)
		}
	})
}

// A slow consumer: what it gets, what it was told it lost and what it wanted
// must agree to the event, and the notices stand where the gaps are.
func TestQueueOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, newFakeTables())
		s := r.subscribe(t, Options{Name: "slow", Kinds: event.AllKinds, Queue: minQueue})
		var got, told, last uint64
		gapBefore := false
		read := func(n int) {
			for ; n != 0 && s.Buffered(); n-- {
				e, err := s.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if e.Seq <= last && !gapBefore {
					t.Fatalf("event %d after %d", e.Seq, last)
				}
				if l, ok := e.Data.(*event.Lost); ok {
					if l.Lane != "queue" || l.Consumer != "slow" || l.What != "exec" {
						t.Errorf("notice %+v", l)
					}
					if e.Seq != last+l.Count {
						t.Errorf("notice of %d lost after event %d has number %d", l.Count, last, e.Seq)
					}
					told += l.Count
				} else {
					if e.Seq != last+1 {
						t.Errorf("event %d follows %d without a notice", e.Seq, last)
					}
					got++
				}
				last = e.Seq
			}
		}
		const total = 100000
		for i := range total {
			r.emit(exec(uint32(i), ""))
			if i%1000 < 100 { // the consumer is alive now and then
				read(3)
			}
		}
		read(-1)
		if got+told != total {
			t.Errorf("delivered %d + lost %d = %d, want %d", got, told, got+told, total)
		}
		if told == 0 || got < total/100 {
			t.Errorf("delivered %d, lost %d: the test did not overflow the queue", got, told)
		}
		st := s.Status()
		if st.Matched != total || st.Delivered != got || st.Lost != told || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// The same with all of it at the same time, for the race detector.
func TestQueueOverflowConcurrent(t *testing.T) {
	r := newRig(t, Config{}, newFakeTables())
	<-r.Ready()
	const consumers, total = 3, 50000
	var wg sync.WaitGroup
	for range consumers {
		s := r.subscribe(t, Options{Kinds: event.AllKinds, Queue: 64})
		wg.Go(func() {
			var got, told uint64
			for got+told < total {
				e, err := s.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if l, ok := e.Data.(*event.Lost); ok {
					told += l.Count
				} else {
					got++
				}
			}
			if got+told != total {
				t.Errorf("delivered %d + lost %d, want %d", got, told, total)
			}
		})
	}
	wg.Go(func() {
		for i := range total {
			r.emit(exec(uint32(i), ""))
			if i%1000 == 0 {
				r.Status()
				r.subscribe(t, Options{Kinds: event.AllKinds}).Close()
			}
		}
	})
	wg.Wait()
}

func TestRingLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, newFakeTables())
		a := r.subscribe(t, Options{Kinds: event.Kinds(event.KindExec), Match: func(*event.Event) bool { return false }})
		b := r.subscribe(t, Options{Queue: minQueue, Kinds: event.AllKinds, Name: "b"})
		r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 5}, bpf.Counter{ID: 16, Name: "socket.tcp", Lane: bpf.Bulk, Malformed: 1})
		time.Sleep(1100 * time.Millisecond) // from here on between two looks at the counters
		synctest.Wait()
		lost := []string{"lost 5 process.exec critical", "lost 1 socket.tcp decode"}
		want(t, rest(t, a), lost)
		want(t, rest(t, b), lost)

		// A consumer that is full hears of it when it reads again.
		for i := range minQueue {
			r.emit(exec(uint32(i), ""))
		}
		r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 7}, bpf.Counter{ID: 3, Name: "process.exit", Lost: 1})
		time.Sleep(time.Second)
		r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 10}, bpf.Counter{ID: 3, Name: "process.exit", Lost: 1})
		time.Sleep(time.Second)
		synctest.Wait()
		r.emit(exec(100, ""))
		got := rest(t, b)
		want(t, got[minQueue:], []string{"lost 6 process.exec,process.exit critical", "lost 1 exec queue"})

		// What the kernel has left out is told by hook.
		left := func(fork, tcp uint64) {
			r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 10}, bpf.Counter{ID: 3, Name: "process.exit", Lost: 1},
				bpf.Counter{Name: "process.fork", Lane: bpf.Kernel, Lost: fork}, bpf.Counter{Name: "socket.state", Lane: bpf.Kernel, Lost: tcp})
			time.Sleep(time.Second)
			synctest.Wait()
		}
		left(2, 1)
		left(2, 4)
		want(t, rest(t, b), []string{"lost 2 process.fork kernel", "lost 1 socket.state kernel", "lost 3 socket.state kernel"})
		if n := strings.Count(r.log.String(), "level=WARN"); n != 5 {
			t.Errorf("%d warnings for five seconds with losses:\n%s", n, r.log)
		}
	})
}

func TestWaitForContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{WaitEvents: 4}, newFakeTables("slow", "never"))
		s := r.subscribe(t, Options{Kinds: event.AllKinds})
		emit := func(list ...*event.Event) {
			for _, e := range list {
				r.emit(e)
			}
			synctest.Wait()
		}
		emit(exec(1, ""), exec(2, "slow"), exec(3, "known"), exit(2, "slow"), exit(3, "known"))
		want(t, rest(t, s), []string{"exec 1", "exec 3 known", "exit 3 known"})

		time.Sleep(200 * time.Millisecond)
		r.tables.describe("slow")
		synctest.Wait()
		want(t, rest(t, s), []string{"exec 2 slow described", "exit 2 slow described"})

		// It is never described: the wait ends.
		emit(exec(4, "never"), exec(5, "known"))
		want(t, rest(t, s), []string{"exec 5 known"})
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		want(t, rest(t, s), nil)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		want(t, rest(t, s), []string{"exec 4 never pending"})

		// The process has left the container: its later events do not overtake.
		emit(exec(6, "never"), exit(6, "known"), exec(7, "other"))
		want(t, rest(t, s), []string{"exec 7 other"})
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		want(t, rest(t, s), []string{"exec 6 never pending", "exit 6 known described"})

		// Too many wait: the oldest go on.
		emit(exec(1, "never"), exec(2, "never"), exec(3, "never"), exec(4, "never"), exec(5, "never"))
		want(t, rest(t, s), []string{"exec 1 never pending"})
		if w := r.Status().Waiting; w != (WaitingStatus{Now: 4, Total: 10, TimedOut: 3, PushedOut: 1}) {
			t.Errorf("status %+v", w)
		}

		// At the end nobody waits any more.
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		want(t, rest(t, s), []string{"exec 2 never pending", "exec 3 never pending", "exec 4 never pending", "exec 5 never pending"})
		if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v, want EOF", err)
		}
		if _, err := r.Subscribe(Options{}); !errors.Is(err, ErrClosed) {
			t.Errorf("subscribe after the end: %v, want ErrClosed", err)
		}
	})
}

func TestSensorsOnDemand(t *testing.T) {
	process := func() *fakeSensor {
		return &fakeSensor{name: "process", kinds: processKinds | event.Kinds(event.KindProcess, event.KindCgroup)}
	}
	socket := func() *fakeSensor {
		return &fakeSensor{name: "socket", kinds: event.Kinds(event.KindConnection, event.KindDNS)}
	}
	t.Run("standing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, s := process(), socket()
			p.snapshot = []*event.Event{{Data: &event.ProcessState{}}}
			r := newRig(t, Config{}, newFakeTables(), p, s)
			<-r.Ready()
			want(t, p.took(), []string{"start exec,fork,exit,credentials,namespace,process,cgroup", "snapshot"})
			want(t, s.took(), []string{"start connection,dns", "snapshot"})
			if r.road.syncs.Load() != 1 || r.tables.relinks != 1 || r.tables.applied != 1 {
				t.Errorf("%d syncs, %d relinks, %d events applied", r.road.syncs.Load(), r.tables.relinks, r.tables.applied)
			}
			r.subscribe(t, Options{Kinds: event.AllKinds}).Close()
			time.Sleep(time.Minute)
			want(t, slices.Concat(p.took(), s.took()), nil)
		})
	})
	t.Run("on demand", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, s := process(), socket()
			var none event.KindSet
			r := newRig(t, Config{Tables: &none, StopGrace: 3 * time.Second}, newFakeTables(), p, s)
			<-r.Ready()
			want(t, slices.Concat(p.took(), s.took()), nil)

			a := r.subscribe(t, Options{Kinds: event.Kinds(event.KindConnection)})
			synctest.Wait()
			want(t, p.took(), []string{"start exec,fork,exit,credentials,namespace,process,cgroup", "snapshot"})
			want(t, s.took(), []string{"start connection", "snapshot"})

			b := r.subscribe(t, Options{Kinds: event.Kinds(event.KindDNS)})
			synctest.Wait()
			want(t, s.took(), []string{"start connection,dns"}) // running already: no snapshot
			a.Close()
			time.Sleep(2 * time.Second)
			want(t, s.took(), nil)
			time.Sleep(2 * time.Second)
			want(t, s.took(), []string{"start dns"})

			b.Close()
			time.Sleep(time.Second)
			c := r.subscribe(t, Options{Kinds: event.Kinds(event.KindDNS)})
			time.Sleep(time.Minute)
			want(t, slices.Concat(p.took(), s.took()), nil) // came back within the grace
			c.Close()
			time.Sleep(4 * time.Second)
			want(t, p.took(), []string{"stop"})
			want(t, s.took(), []string{"stop"})

			r.subscribe(t, Options{Kinds: event.Kinds(event.KindExec)})
			synctest.Wait()
			want(t, p.took(), []string{"start exec,fork,exit,credentials,namespace,process,cgroup", "snapshot"})
			st := r.Status()
			if !st.Sensors[0].Running || st.Sensors[1].Running || st.Sensors[0].Hooks[0].Hook != "process.hook" {
				t.Errorf("status %+v", st.Sensors)
			}
			r.stop()
			if err := <-r.done; err != nil {
				t.Error(err)
			}
			want(t, p.took(), []string{"stop"})
		})
	})
	t.Run("cannot start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := process()
			p.startErr = errors.New("no such hook")
			r := newRig(t, Config{}, newFakeTables(), p)
			if err := <-r.done; err == nil || err.Error() != "start sensor process: no such hook" {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("cannot have one kind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := socket()
			s.refuses = event.Kinds(event.KindDNS)
			r := newRig(t, Config{}, newFakeTables(), s)
			<-r.Ready()
			want(t, s.took(), []string{"start connection,dns", "start dns", "start connection", "snapshot"})
			st := r.Status().Sensors[0]
			if !st.Running || st.Kinds != event.Kinds(event.KindConnection) || st.Err == nil || st.Err.Error() != "start sensor socket: attach packet: socket.packet is unavailable: CAP_NET_ADMIN is missing" {
				t.Errorf("status %+v", st)
			}
			// Nobody tries again what cannot be.
			r.subscribe(t, Options{Kinds: event.AllKinds}).Close()
			time.Sleep(time.Minute)
			want(t, s.took(), nil)
		})
	})
	t.Run("cannot start later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := socket()
			s.startErr = errors.New("no such hook")
			var none event.KindSet
			r := newRig(t, Config{Tables: &none}, newFakeTables(), s)
			<-r.Ready()
			r.subscribe(t, Options{Kinds: event.AllKinds})
			synctest.Wait()
			if st := r.Status().Sensors[0]; st.Running || st.Err == nil {
				t.Errorf("status %+v", st)
			}
			if !strings.Contains(r.log.String(), "start sensor socket: no such hook") {
				t.Errorf("log: %s", r.log)
			}
		})
	})
}

// What the kernel wrote before the sensors stopped still arrives.
func TestShutdownDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakeSensor{name: "process", kinds: processKinds}
		r := newRig(t, Config{}, newFakeTables(), p)
		<-r.Ready()
		s := r.subscribe(t, Options{Kinds: event.AllKinds})
		p.onStop = func() { r.road.onSync = func() { p.emit(exec(1, "")) } }
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		want(t, rest(t, s), []string{"exec 1"})
		if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v, want EOF", err)
		}
	})
}

// What consumers make of the last events still arrives, through several of them.
func TestShutdownTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakeSensor{name: "process", kinds: processKinds}
		r := newRig(t, Config{}, newFakeTables(), p)
		<-r.Ready()
		all := r.subscribe(t, Options{Kinds: event.AllKinds})
		acts := r.subscribe(t, Options{Kinds: event.Kinds(event.KindAlert), Tells: event.Kinds(event.KindMount)})
		rules := r.subscribe(t, Options{Kinds: event.Kinds(event.KindExec), Tells: event.Kinds(event.KindAlert)})
		tell := func(from *Subscription, data event.Data) {
			t.Helper()
			e, err := from.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r.Tell(&event.Event{Actor: e.Actor, Process: e.Process, Data: data})
			if _, err := from.Next(t.Context()); !errors.Is(err, io.EOF) {
				t.Errorf("behind the last: %v, want EOF", err)
			}
			from.Close()
			from.Close()
		}
		p.onStop = func() { r.road.onSync = func() { p.emit(exec(1, "")) } }
		r.stop()
		tell(rules, &event.Alert{})
		if _, err := r.Subscribe(Options{}); !errors.Is(err, ErrClosed) {
			t.Errorf("a subscription at the end: %v", err)
		}
		tell(acts, &event.Mount{})
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		r.Tell(exec(2, ""))
		want(t, rest(t, all), []string{"exec 1", "alert 1", "mount 1"})
		if _, err := all.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v, want EOF", err)
		}
	})
}

// Who does not come to an end is not waited for, and that is said.
func TestShutdownTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, newFakeTables())
		all := r.subscribe(t, Options{Kinds: event.AllKinds})
		rules := r.subscribe(t, Options{Name: "rules", Kinds: event.Kinds(event.KindExec), Tells: event.Kinds(event.KindAlert)})
		r.emit(exec(1, ""))
		begun := time.Now()
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took != tellTime {
			t.Errorf("it ends after %v", took)
		}
		want(t, rest(t, all), []string{"exec 1"})
		for _, s := range []*Subscription{all, rules} {
			if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v, want EOF", err)
			}
		}
		if !strings.Contains(r.log.String(), "subscription=rules events=1") {
			t.Errorf("it says %s", r.log)
		}
	})
}

func TestRoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakeSensor{name: "process", kinds: processKinds}
		r := newRig(t, Config{}, newFakeTables(), p)
		<-r.Ready()
		s := r.subscribe(t, Options{Kinds: event.AllKinds})
		r.road.fail <- errors.New("ring is corrupt")
		if err := <-r.done; err == nil || err.Error() != "read rings: ring is corrupt" {
			t.Errorf("Run: %v", err)
		}
		if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v, want EOF", err)
		}
		if c := p.took(); c[len(c)-1] != "stop" {
			t.Errorf("sensor was told %v, want to stop", c)
		}
	})
}

func TestNextHonoursContext(t *testing.T) {
	r := newRig(t, Config{}, newFakeTables())
	s := r.subscribe(t, Options{Kinds: event.AllKinds})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next: %v, want canceled", err)
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, newFakeTables())
		time.Sleep(100 * time.Millisecond) // from here on between two samples
		for range 10 {
			for range 100 {
				r.emit(exec(1, ""))
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		k := r.Status().Kinds[0]
		if k.Kind != event.KindExec || k.Total != 1000 || k.Rate < 99 || k.Rate > 101 {
			t.Errorf("%+v, want 1000 execs at 100 a second", k)
		}
	})
}
