// Package bpf is the road's first stretch: it loads and attaches BPF programs,
// reads what they write, and says truthfully why the kernel refuses something.
//
// A [Road] owns two ring buffers and the loss counters, shared by all sensors.
// A sensor registers a decoder for each of its record types ([Road.Handle]),
// opens its object file ([Road.Open]) and attaches its hooks
// ([Object.Attach]), each by the best implementation that this kernel takes.
// The kernel's side of the contract is include/road.h.
//
// # Order
//
// Records of one ring are decoded in the order in which the kernel reserved
// them. Whatever was submitted to the critical ring before a record of the bulk
// ring was reserved is decoded before that record. The reverse does not hold: a
// record of the bulk ring may be decoded after later ones of the critical ring.
// So a flood of bulk records keeps no critical one waiting: those are decoded in
// between.
//
// # Concurrency
//
// All decoders are called by one goroutine, the one in [Road.Run]. Everything
// else may be called from any goroutine.
package bpf

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type record -type record_type -type counter road road.bpf.c -- -O2 -Wall -Werror -Iinclude
//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -output-suffix _test -type test_record testroad testroad.bpf.c -- -O2 -Wall -Werror -Iinclude

// ErrClosed means that the road, or the object, has been closed, or that the
// road's reader has ended.
var ErrClosed = errors.New("road is closed")

// A Lane is one of the road's rings.
type Lane uint8

// The lanes. Critical carries what later knowledge depends on: processes and
// cgroups. Bulk carries the rest, so that a flood of it drops nothing critical.
const (
	Critical Lane = iota
	Bulk

	numLanes

	// Kernel is no ring: a program was not run, because one was running already on
	// that CPU. What is counted are runs, by hook: whether one would have made a
	// record nobody can say.
	Kernel = numLanes
)

// String returns critical, bulk or kernel.
func (l Lane) String() string {
	switch l {
	case Critical:
		return "critical"
	case Bulk:
		return "bulk"
	case Kernel:
		return "kernel"
	}
	return fmt.Sprintf("lane(%d)", uint8(l))
}

// Config sizes a road. The zero value is usable.
type Config struct {
	// CriticalBytes and BulkBytes are the sizes of the rings: powers of two, at
	// least a page. 0 means 8 MiB, for what 10,000 processes tell from their forks to
	// their ends, and 16 MiB.
	CriticalBytes, BulkBytes int
	// Idle and Busy bound the interval at which the rings are polled: Idle, the
	// longest that a record waits, while few come, down to Busy the faster the
	// rings fill. 0 means 50 ms and 1 ms, the least that is allowed.
	Idle, Busy time.Duration
	// Rungs forces hooks to one kind of implementation, by the hook's name:
	// "socket.accept": "tracepoint".
	Rungs map[string]string
	// CgroupRoot limits all programs to a subtree of the unified cgroup
	// hierarchy: a path from its root, like /k8s/node1. "" and "/" are the whole
	// machine. It must exist.
	//
	// A process belongs to the subtree in which it is, from the moment at which
	// it comes to be there or is moved there; a socket to that of the process
	// that created it, whoever holds it later, and an accepted one to that of
	// its listener. Namespaces do not matter: what a process from elsewhere, or
	// the kernel, does in a network namespace of the subtree is not told.
	CgroupRoot string
	// Unmeasured leaves programs as they are: Costs tells of none. A run is then
	// cheaper by a few nanoseconds.
	Unmeasured bool
}

func (c Config) withDefaults() (Config, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.CriticalBytes, 8<<20)
	def(&c.BulkBytes, 16<<20)
	if c.Idle == 0 {
		c.Idle = 50 * time.Millisecond
	}
	if c.Busy == 0 {
		c.Busy = time.Millisecond
	}
	for _, n := range []int{c.CriticalBytes, c.BulkBytes} {
		if n < os.Getpagesize() || n > 1<<30 || bits.OnesCount(uint(n)) != 1 {
			return c, fmt.Errorf("ring of %d bytes: not a power of two from one page to 1 GiB", n)
		}
	}
	if c.Busy < time.Millisecond || c.Idle < c.Busy {
		return c, fmt.Errorf("poll intervals %v to %v: want at least 1ms, busy not above idle", c.Busy, c.Idle)
	}
	return c, nil
}

// A Road carries records from the kernel to their decoders.
type Road struct {
	cfg Config

	maps  map[string]*ebpf.Map // critical, bulk, counters, exes
	rings [numLanes]*ring
	wait  *waiter

	handlers [roadRecordTypeREC_MAX]slot

	unlooked int // bulk records since the reader has looked at critical; its own
	stats    readerStats
	lastErr  atomic.Pointer[string]

	mu      sync.Mutex // guards objects and last; held while maps are made
	objects map[*Object]struct{}
	last    []Counter // as of Close

	syncMu sync.Mutex // guards syncs; held only for moments: the reader takes it
	syncs  []syncRequest

	closed bool // set under both locks, read under either; then rings are gone

	running atomic.Bool   // Run was called, or may not be any more
	stopped chan struct{} // closed when Run has ended, or cannot begin
	stop    sync.Once

	scope  scope
	costs  costs
	skips  skips
	places places
	btf    btfCache
}

// A slot is what the road has for a record type: its decoder, and counts that
// outlive it.
type slot struct {
	to                 atomic.Pointer[handler]
	decoded, malformed atomic.Uint64
	given              atomic.Uint64 // up as lost by Lose
}

type handler struct {
	name   string
	lane   Lane
	decode func([]byte) error
}

// Limited reports whether Config.CgroupRoot limits the road to a part of the
// machine.
func (r *Road) Limited() bool { return !r.scope.whole() }

// NewRoad creates the rings and counters in the kernel. It needs CAP_BPF.
func NewRoad(cfg Config) (_ *Road, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Road{
		cfg:     cfg,
		maps:    map[string]*ebpf.Map{},
		objects: map[*Object]struct{}{},
		stopped: make(chan struct{}),
	}
	r.skips.init()
	defer func() {
		if err != nil {
			r.Close()
		}
	}()

	if r.scope, r.places.cgroup, err = openScope(cfg.CgroupRoot); err != nil {
		return nil, err
	}
	spec, err := loadRoad()
	if err != nil {
		return nil, fmt.Errorf("read object road: %w", err)
	}
	for name := range sharedMaps {
		ms := spec.Maps[name]
		r.resize(ms)
		m, err := ebpf.NewMap(ms)
		if err != nil {
			return nil, fmt.Errorf("create map %s: %w", name, explainMap(err))
		}
		r.maps[name] = m
	}
	if err := r.costs.open(); err != nil {
		return nil, err
	}
	for l := range numLanes {
		if r.rings[l], err = openRing(r.maps[l.String()]); err != nil {
			return nil, fmt.Errorf("map ring %s: %w", l, err)
		}
	}
	r.wait, err = newWaiter(r.maps["critical"].FD(), r.maps["bulk"].FD())
	if err != nil {
		return nil, err
	}
	return r, nil
}

// sharedMaps are the names of the maps that all objects share.
var sharedMaps = map[string]bool{"critical": true, "bulk": true, "counters": true, "exes": true}

// resize gives a map spec named like one of the road's maps its size.
func (r *Road) resize(ms *ebpf.MapSpec) {
	switch ms.Name {
	case "critical":
		ms.MaxEntries = uint32(r.cfg.CriticalBytes)
	case "bulk":
		ms.MaxEntries = uint32(r.cfg.BulkBytes)
	}
}

// Handle sets the decoder of a record type (an enum record_type below REC_MAX)
// before records of it can come. The name, like "process.exec", is how
// [Road.Counters] calls the type. decode is given the whole record, header
// included, which is valid during the call only; an error counts the record as
// malformed. Handle replaces the type's former decoder and keeps its counts.
func (r *Road) Handle(id uint8, name string, lane Lane, decode func(rec []byte) error) {
	r.handlers[id].to.Store(&handler{name: name, lane: lane, decode: decode})
}

// Lose counts n events as lost that would have been records of a type, had they
// not been counted in the kernel, and of which nobody can say any more what they
// were.
func (r *Road) Lose(id uint8, n uint64) { r.handlers[id].given.Add(n) }

// A Counter says what became of the records of one type or, on the lane Kernel,
// how many runs of a hook's programs the kernel left out.
type Counter struct {
	ID   uint8  // 0 for a hook
	Name string // of the record, or of the hook
	Lane Lane
	// Submitted and Lost are the kernel's: together they are all records that
	// programs generated. Lost found the ring full. Of a hook, Lost is the runs
	// that were left out.
	Submitted, Lost uint64
	// Decoded and Malformed are the reader's: after Sync, and once the programs
	// are quiet, together they are exactly Submitted.
	Decoded, Malformed uint64
}

// Counters returns the counts of every record type that has a decoder or was
// ever generated, in order of their ids, then those of the hooks of which the
// kernel has left out runs, by name. After Close it returns the last ones.
func (r *Road) Counters() []Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.last
	}
	return r.counters()
}

func (r *Road) counters() []Counter {
	var out []Counter
	var perCPU []roadCounter
	for id := range uint32(len(r.handlers)) {
		s := &r.handlers[id]
		c := Counter{ID: uint8(id), Lost: s.given.Load(), Decoded: s.decoded.Load(), Malformed: s.malformed.Load()}
		if h := s.to.Load(); h != nil {
			c.Name, c.Lane = h.name, h.lane
		}
		// A lookup in an array below its size cannot fail.
		if m := r.maps["counters"]; m != nil && m.Lookup(id, &perCPU) == nil {
			for _, n := range perCPU {
				c.Submitted += n.Submitted
				c.Lost += n.Lost
			}
		}
		if c.Name == "" {
			if c.Submitted+c.Lost == 0 {
				continue
			}
			c.Name = fmt.Sprintf("unknown.%d", id)
		}
		out = append(out, c)
	}
	return append(out, r.skips.counters()...)
}

// RoadStats is how the reader is doing.
type RoadStats struct {
	Rings [numLanes]RingStats
	// Polls counts the times that the reader looked; Wakeups those at which a
	// fast-filling ring had woken it.
	Polls, Wakeups uint64
	// Malformed counts records without a valid header or a known type; those of
	// a known type are in its Counter.
	Malformed uint64
	// LastError is the last decoding error, "" if there was none.
	LastError string
}

// RingStats describes one ring.
type RingStats struct {
	Lane Lane
	Size int // bytes
	// Waiting is the bytes not yet decoded, Highest the most that the reader has
	// seen.
	Waiting, Highest int
}

// Stats returns how the reader is doing.
func (r *Road) Stats() RoadStats {
	s := RoadStats{
		Polls:     r.stats.polls.Load(),
		Wakeups:   r.stats.wakeups.Load(),
		Malformed: r.stats.malformed.Load(),
	}
	if e := r.lastErr.Load(); e != nil {
		s.LastError = *e
	}
	r.syncMu.Lock()
	defer r.syncMu.Unlock()
	for l := range numLanes {
		s.Rings[l] = RingStats{Lane: l, Highest: int(r.stats.highest[l].Load())}
		if g := r.rings[l]; g != nil {
			s.Rings[l].Size = g.size()
			if !r.closed {
				s.Rings[l].Waiting = int(g.produced() - g.consumed())
			}
		}
	}
	return s
}

// Reach opens what hooks are attached to, tracefs and the hierarchy of cgroups, so
// that the right to mount them is not needed later. What cannot be had is told by
// the hooks that need it.
func (r *Road) Reach() {
	_, _ = r.places.cgroupDir()
	r.places.mu.Lock()
	defer r.places.mu.Unlock()
	if !r.places.closed {
		_ = r.places.openTracefs()
	}
}

// Close detaches all hooks of all objects, then frees the maps. Run must have
// returned: while it reads, Close does nothing and says so.
func (r *Road) Close() error {
	if r.running.CompareAndSwap(false, true) {
		r.stop.Do(func() { close(r.stopped) }) // Run was not called, and reads nothing from now on
	}
	select {
	case <-r.stopped:
	default:
		return errors.New("close road: it is still being read")
	}
	var errs []error
	for {
		r.mu.Lock()
		var o *Object
		for o = range r.objects {
			break
		}
		r.mu.Unlock()
		if o == nil {
			break
		}
		errs = append(errs, o.Close())
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.last = r.counters()
	r.syncMu.Lock()
	defer r.syncMu.Unlock()
	r.closed = true
	if r.wait != nil {
		errs = append(errs, r.wait.close())
	}
	for _, g := range r.rings {
		if g != nil {
			errs = append(errs, g.close())
		}
	}
	for _, m := range r.maps {
		errs = append(errs, m.Close())
	}
	errs = append(errs, r.costs.close(), r.places.close())
	r.btf.drop()
	return errors.Join(errs...)
}

// A btfCache holds the kernel's types, decoded: many megabytes, needed only
// while programs are loaded. It forgets them a while after their last use.
type btfCache struct {
	mu    sync.Mutex
	cache *btf.Cache
	timer *time.Timer
}

const btfKept = 3 * time.Second

func (c *btfCache) get() *btf.Cache {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache == nil {
		c.cache = btf.NewCache()
		c.timer = time.AfterFunc(btfKept, c.drop)
	}
	c.timer.Reset(btfKept)
	return c.cache
}

func (c *btfCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cache = nil
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
