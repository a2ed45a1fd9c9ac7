package prefilter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"warren/event"
	"warren/interest"
)

// A Road is what a [Counter] needs of a *bpf.Road.
type Road interface {
	// Sync returns when all that was recorded before has been decoded.
	Sync(ctx context.Context) error
	// Lose counts records of a type that nobody will see.
	Lose(id uint8, n uint64)
}

// countPeriod is how often what the kernel has counted is read: a sort of events
// is recorded once in it, and is told of at most two of it later.
const countPeriod = time.Second

// A Counter reads what programs have counted that include count.h, and has it
// said of the records that were examples. Example is called by decoders, the
// other methods by one goroutine at a time.
type Counter struct {
	road   Road
	counts *ebpf.Map
	slot   *ebpf.Variable
	lost   func(typ uint32) uint8
	emit   func(*event.Event)

	mu       sync.Mutex                 // guards what follows: who reads the counts, and decoders
	examples [2]map[uint64]*event.Event // by slot, which is the lowest bit of their numbers

	// Of whoever holds reading.
	reading sync.Mutex
	force   uint32
	since   [2]time.Time // when the slot came in force

	stop context.CancelFunc // of the goroutine that reads; nil: there is none
	done chan struct{}
}

// countKey and countValue are those of count.h.
type countKey struct {
	Start, Exec, Cgroups, Cgroup uint64
	PID, Slot                    uint32
	UID, GID                     uint32
	Type                         uint32
	Res                          int32
	Marks, DirLen                uint32
	Dir                          [128]byte
}

type countValue struct{ Example, More uint64 }

// NewCounter returns the counter of an object, in which nothing is counted yet.
// lost is the type of the records by the sensor's number of a type of event.
func NewCounter(o Object, road Road, lost func(typ uint32) uint8, emit func(*event.Event)) (*Counter, error) {
	c := &Counter{road: road, counts: o.Map("counts"), slot: o.Variable("count_slot"), lost: lost, emit: emit}
	if c.counts == nil || c.slot == nil {
		return nil, errors.New("prefilter: the programs do not include count.h")
	}
	c.examples = [2]map[uint64]*event.Event{{}, {}}
	return c, nil
}

// Example keeps the event of a record that has a number, for what will be counted
// with it.
func (c *Counter) Example(number uint64, e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.examples[number&1][number] = e
}

// Counting reports whether a set wants events of some kinds counted.
func Counting(want interest.Set, kinds event.KindSet) bool {
	for _, t := range want.Among(kinds).Terms() {
		if t.Counted != 0 {
			return true
		}
	}
	return false
}

// Apply begins to read, or goes on to, if on is true, and what is counted from
// now on is told apart from what was before. Otherwise it ends that. It is called
// when the programs have been told what is wanted.
func (c *Counter) Apply(on bool) error {
	switch {
	case on && c.stop == nil:
		ctx, stop := context.WithCancel(context.Background())
		c.stop, c.done = stop, make(chan struct{})
		c.since = [2]time.Time{time.Now(), time.Now()}
		go c.run(ctx)
		return nil
	case on:
		return c.read(context.Background(), true)
	case c.stop != nil:
		return c.Close()
	}
	return nil
}

// Close ends the reading, and has told all that was counted. The programs must
// not count any more, or what they count is told when Apply is called.
func (c *Counter) Close() error {
	if c.stop == nil {
		return nil
	}
	c.stop()
	<-c.done
	c.stop = nil
	return c.read(context.Background(), true)
}

func (c *Counter) run(ctx context.Context) {
	defer close(c.done)
	tick := time.NewTicker(countPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// What fails now is read later: nothing is gone.
		_ = c.read(ctx, false)
	}
}

// syncTime bounds how long what is in the rings is waited for.
const syncTime = 5 * time.Second

// read tells what was counted until a period ago and begins a new one; with all,
// what was counted until now.
func (c *Counter) read(ctx context.Context, all bool) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	if err := c.empty(ctx, c.force^1); err != nil {
		return err
	}
	if err := c.turn(); err != nil || !all {
		return err
	}
	return c.empty(ctx, c.force^1)
}

// turn has the programs count in the other slot, which is empty.
func (c *Counter) turn() error {
	next := c.force ^ 1
	c.since[next] = time.Now()
	if err := c.slot.Set(next); err != nil {
		return fmt.Errorf("count events: switch: %w", err)
	}
	c.force = next
	return nil
}

// empty tells what is in a slot that no program is given any more.
func (c *Counter) empty(ctx context.Context, slot uint32) error {
	if err := waitForPrograms(); err != nil {
		return fmt.Errorf("count events: wait for programs: %w", err)
	}
	keys, values, err := c.take(slot)
	if err != nil {
		return fmt.Errorf("count events: %w", err)
	}
	if len(keys) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	if err := c.road.Sync(ctx); err != nil {
		return fmt.Errorf("count events: wait for the rings: %w", err)
	}
	// Those whose key nobody found are done with too.
	c.mu.Lock()
	examples := c.examples[slot]
	c.examples[slot] = map[uint64]*event.Event{}
	c.mu.Unlock()
	for i := range keys {
		if err := c.counts.Delete(&keys[i]); err != nil {
			return fmt.Errorf("count events: %w", err)
		}
		first := examples[values[i].Example]
		switch n := values[i].More; {
		case n == 0:
		case first == nil:
			c.road.Lose(c.lost(keys[i].Type), n)
		default:
			c.emit(&event.Event{
				Time: first.Time, Ktime: first.Ktime, Actor: first.Actor, Data: first.Data,
				Counted: &event.Counted{Of: first, Count: n, Since: c.since[slot]},
			})
		}
	}
	return nil
}

// take returns what is in a slot.
func (c *Counter) take(slot uint32) (keys []countKey, values []countValue, err error) {
	const most = 2048
	ks, vs := make([]countKey, most), make([]countValue, most)
	var at ebpf.MapBatchCursor
	for {
		n, err := c.counts.BatchLookup(&at, ks, vs, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return nil, nil, err
		}
		for i := range n {
			if ks[i].Slot == slot {
				keys, values = append(keys, ks[i]), append(values, vs[i])
			}
		}
		if last {
			return keys, values, nil
		}
	}
}
