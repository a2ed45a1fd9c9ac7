package datapath

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// grace waits until the programs have ended that are running. When user space
// changes a map of maps, the kernel promises to return only when no program can
// be using the former one: this one is there for nothing else.
type grace struct {
	mu    sync.Mutex
	outer *ebpf.Map
	inner *ebpf.Map
}

func newGrace() (*grace, error) {
	spec := &ebpf.MapSpec{Name: "grace_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create map: %w", err)
	}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Name: "grace", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create map: %w", err), inner.Close())
	}
	return &grace{outer: outer, inner: inner}, nil
}

func (g *grace) wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.outer.Put(uint32(0), g.inner); err != nil {
		return fmt.Errorf("wait for programs that run: %w", err)
	}
	return nil
}

func (g *grace) close() error {
	return errors.Join(g.outer.Close(), g.inner.Close())
}
