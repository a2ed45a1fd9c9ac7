package bpf

import (
	"sync"
	"testing"
	"time"
)

func TestWall(t *testing.T) {
	before := time.Now()
	got := Wall(uint64(bootNow()))
	if d := got.Sub(before); d < -time.Millisecond || d > 10*time.Second {
		t.Errorf("now is %v, by kernel time it is %v", before, got)
	}
	if d := Wall(5e9).Sub(Wall(3e9)); d != 2*time.Second {
		t.Errorf("two seconds of kernel time are %v", d)
	}
}

func TestWallRefreshes(t *testing.T) {
	var c wallClock
	now := uint64(bootNow())
	c.at(now)
	first := c.checked

	// Kernel times of the far future, from a damaged record, do not make it
	// read the clocks again and again.
	c.at(1 << 62)
	c.at(1 << 63)
	if c.checked != first {
		t.Error("the clocks were read again within a second")
	}

	// The wall clock is set while nothing happens: the next event notices.
	c.offset.Add(int64(time.Hour))
	c.checked = c.checked.Add(-2 * wallEvery)
	c.fresh.Store(now)
	if d := time.Since(c.at(uint64(bootNow()))); d < -time.Minute || d > time.Minute {
		t.Errorf("off by %v after the wall clock was set", d)
	}

	// A difference below the noise of reading changes nothing.
	c.offset.Add(int64(wallNoise) / 4)
	off := c.offset.Load()
	c.checked = c.checked.Add(-2 * wallEvery)
	c.refresh()
	if d := c.offset.Load() - off; d != 0 && d < int64(wallNoise)/2 && d > -int64(wallNoise)/2 {
		t.Errorf("the offset moved by %v", time.Duration(d))
	}
}

func TestWallConcurrently(t *testing.T) {
	var c wallClock
	var wg sync.WaitGroup
	now := uint64(bootNow())
	for range 4 {
		wg.Go(func() {
			for i := range uint64(1000) {
				c.at(now + i*1e7)
			}
		})
	}
	wg.Wait()
}

func BenchmarkWall(b *testing.B) {
	now := uint64(bootNow())
	b.ReportAllocs()
	for b.Loop() {
		Wall(now)
	}
}
