package bpf

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// wall converts kernel time for the whole program: there is one boot clock.
var wall wallClock

// Wall returns the wall time of a kernel time: nanoseconds since boot, suspend
// included (bpf_ktime_get_boot_ns, CLOCK_BOOTTIME). The same kernel time gives
// the same wall time unless the wall clock was set or drifted: that is noticed
// within a second of kernel time. Safe for concurrent use; it costs a few
// nanoseconds.
func Wall(ktime uint64) time.Time {
	return wall.at(ktime)
}

type wallClock struct {
	offset atomic.Int64  // wall minus boot, nanoseconds
	fresh  atomic.Uint64 // the offset is good for kernel times before this

	mu      sync.Mutex
	checked time.Time // monotonic
}

const (
	wallEvery = time.Second
	// wallNoise is how far two readings of the offset differ without meaning.
	wallNoise = 20 * time.Microsecond
)

func (c *wallClock) at(ktime uint64) time.Time {
	if ktime >= c.fresh.Load() {
		c.refresh()
	}
	return time.Unix(0, int64(ktime)+c.offset.Load())
}

// refresh reads both clocks, at most once a second however far in the future
// the kernel times are that ask for it.
func (c *wallClock) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.checked.IsZero() && time.Since(c.checked) < wallEvery {
		return
	}
	boot, offset := readOffset()
	if d := offset - c.offset.Load(); c.checked.IsZero() || d > int64(wallNoise) || d < -int64(wallNoise) {
		c.offset.Store(offset)
	}
	c.checked = time.Now()
	c.fresh.Store(uint64(boot) + uint64(wallEvery))
}

// readOffset returns the boot clock and how far the wall clock is ahead of it,
// by the tightest of a few attempts.
func readOffset() (boot, offset int64) {
	best := int64(1<<63 - 1)
	for range 3 {
		before := bootNow()
		wall := time.Now().UnixNano()
		after := bootNow()
		if after-before < best {
			best = after - before
			boot, offset = after, wall-(before+after)/2
		}
	}
	return boot, offset
}

// bootNow returns CLOCK_BOOTTIME in nanoseconds; it cannot fail on a kernel
// that has BPF.
func bootNow() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}
