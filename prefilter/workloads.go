package prefilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"

	"warren/event"
)

// Workloads tell the engines which container the processes of a cgroup belong
// to, so that the kernel can judge conditions on containers and pods by the
// cgroup of a task. Who knows containers says so by Know, and by Doubt before
// they become something else: a cgroup of which nothing has been said is not
// judged, and what happens in it is let through.
//
// All methods may be called by any goroutine. The zero value knows nothing.
type Workloads struct {
	mu      sync.Mutex
	known   map[event.CgroupKey]*event.Event // as conditions look at them
	engines []*places
}

// Know says that processes of a cgroup belong to a container, nil for the host.
// The container is not changed afterwards.
func (w *Workloads) Know(k event.CgroupKey, c *event.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		w.known = map[event.CgroupKey]*event.Event{}
	}
	e := placed(c)
	w.known[k] = e
	for _, p := range w.engines {
		for slot := range p.slots {
			p.judge(uint32(slot), k, e)
		}
	}
}

// placed is an event of a container, nil for the host, as conditions on containers
// look at it: at nothing of an event but its process's.
func placed(c *event.Container) *event.Event {
	return &event.Event{Process: &event.Process{Container: c}, Data: &event.Open{}}
}

// Doubt says that nothing is known of a cgroup any more. When it returns, all
// that happens in it is let through.
func (w *Workloads) Doubt(k event.CgroupKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[k] == nil {
		return
	}
	delete(w.known, k)
	for _, p := range w.engines {
		for slot := range p.slots {
			p.forget(uint32(slot), k)
		}
	}
}

// places are the cgroups in one engine's map.
type places struct {
	of    *Workloads
	m     *ebpf.Map
	slots [2]struct {
		works    []work
		has      map[event.CgroupKey]mask
		unjudged int // for which there was no room
	}
}

// join adds the map of an engine. Of a nil w nothing is ever known.
func (w *Workloads) join(m *ebpf.Map) *places {
	if w == nil {
		w = &Workloads{}
	}
	p := &places{of: w, m: m}
	for i := range p.slots {
		p.slots[i].has = map[event.CgroupKey]mask{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.engines = append(w.engines, p)
	return p
}

// leave has the map left alone.
func (p *places) leave() {
	w := p.of
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, o := range w.engines {
		if o == p {
			w.engines = append(w.engines[:i:i], w.engines[i+1:]...)
			return
		}
	}
}

// prepare makes one slot judge by other conditions.
func (p *places) prepare(slot uint32, works []work) error {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	s := &p.slots[slot]
	for k := range s.has {
		if err := p.m.Delete(placeKey(k, slot)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("empty map interest_groups: %w", err)
		}
		delete(s.has, k)
	}
	s.works, s.unjudged = works, 0
	for k, e := range p.of.known {
		p.judge(slot, k, e)
	}
	return nil
}

// judge writes which terms want what happens in a cgroup. The caller holds the
// lock of Workloads.
func (p *places) judge(slot uint32, k event.CgroupKey, e *event.Event) {
	s := &p.slots[slot]
	if len(s.works) == 0 {
		return
	}
	var m mask
	for _, w := range s.works {
		if w.Match(e) {
			m.or(w.mask)
		}
	}
	had, has := s.has[k]
	if has && had == m {
		return
	}
	if len(s.has) < maxCgroups || has {
		if err := p.m.Put(placeKey(k, slot), m.bytes()); err == nil {
			s.has[k] = m
			return
		}
	}
	// No room, or no memory: it is not judged.
	s.unjudged++
	p.forget(slot, k)
}

// forget takes a cgroup out of the map. The caller holds the lock of Workloads.
func (p *places) forget(slot uint32, k event.CgroupKey) {
	s := &p.slots[slot]
	if _, has := s.has[k]; has {
		_ = p.m.Delete(placeKey(k, slot)) // it is there, and can be taken out
		delete(s.has, k)
	}
}

// count returns how many cgroups are judged, and for how many there was no room.
func (p *places) count(slot uint32) (judged, unjudged int) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	return len(p.slots[slot].has), p.slots[slot].unjudged
}

func placeKey(k event.CgroupKey, slot uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, k.ID)
	b = binary.LittleEndian.AppendUint32(b, k.Hierarchy)
	return binary.LittleEndian.AppendUint32(b, slot)
}
