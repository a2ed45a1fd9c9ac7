package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// An Object is an object file in the kernel: its maps, and those of its
// programs that are attached or were asked for.
type Object struct {
	name string
	road *Road
	spec *ebpf.CollectionSpec // its map specs are without contents

	maps map[string]*ebpf.Map
	vars map[string]*ebpf.Variable

	mu       sync.Mutex
	programs map[string]*ebpf.Program // asked for by Program
	shared   map[string]*shared       // attached to tracepoints
	slots    []uint32                 // of programs, in the road's costs
	hooks    map[string]*attached
	closed   bool
}

// Open creates the maps of an object file, with its variables as they are set
// in spec, except that the maps called critical, bulk, counters and exes are the
// road's. It loads no program. spec is not changed.
func (r *Road) Open(name string, spec *ebpf.CollectionSpec) (_ *Object, err error) {
	o := &Object{
		name:     name,
		road:     r,
		spec:     spec.Copy(),
		programs: map[string]*ebpf.Program{},
		shared:   map[string]*shared{},
		hooks:    map[string]*attached{},
	}
	for v, value := range map[string]any{
		"critical_size": uint64(r.cfg.CriticalBytes), "bulk_size": uint64(r.cfg.BulkBytes),
		"scope_id": r.scope.id, "scope_level": r.scope.level,
	} {
		if vs := o.spec.Variables[v]; vs != nil {
			if err := vs.Set(value); err != nil {
				return nil, fmt.Errorf("open object %s: set %s: %w", name, v, err)
			}
		}
	}
	ours := map[string]*ebpf.Map{}
	for m, ms := range o.spec.Maps {
		if sharedMaps[m] {
			r.resize(ms)
			ours[m] = r.maps[m]
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("open object %s: %w", name, ErrClosed)
	}
	coll, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{
		Maps:      o.spec.Maps,
		Variables: o.spec.Variables,
		Types:     o.spec.Types,
		ByteOrder: o.spec.ByteOrder,
	}, ebpf.CollectionOptions{MapReplacements: ours, Cache: r.btf.get()})
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", name, explainMap(err))
	}
	o.maps, o.vars = coll.Maps, coll.Variables
	// The contents are in the kernel now: programs loaded later must not write
	// them again, and could not where the map is frozen.
	for _, ms := range o.spec.Maps {
		ms.Contents = nil
	}
	r.objects[o] = struct{}{}
	return o, nil
}

// Map returns a map of the object, nil if it has none of that name. It belongs
// to the object.
func (o *Object) Map(name string) *ebpf.Map { return o.maps[name] }

// Variable returns a global variable of the object, nil if it has none of that
// name. Those of the C const are as they were set before Open.
func (o *Object) Variable(name string) *ebpf.Variable { return o.vars[name] }

// Program loads one program without attaching it; asked again it returns the
// same one, which belongs to the object.
func (o *Object) Program(name string) (*ebpf.Program, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, fmt.Errorf("load %s: %w", name, ErrClosed)
	}
	if p := o.programs[name]; p != nil {
		return p, nil
	}
	p, slots, err := o.load(name)
	if err != nil {
		return nil, err
	}
	o.programs[name] = p
	o.slots = append(o.slots, slots...)
	return p, nil
}

// A shared program is loaded once for all hooks that attach it to tracepoints.
type shared struct {
	*ebpf.Program
	measured bool            // by the slot that its cookie is
	places   map[string]bool // where hooks attach it
}

// share loads a program for tracepoints, unless a hook has it already. It is nil
// where another hook attaches it to one of these places: no place takes a program
// twice. The caller holds o.mu, and calls release.
func (o *Object) share(name string, places []string) (*shared, error) {
	if s := o.shared[name]; s != nil {
		if slices.ContainsFunc(places, func(place string) bool { return s.places[place] }) {
			return nil, nil
		}
		s.occupy(places)
		return s, nil
	}
	ps := o.spec.Programs[name]
	if ps == nil {
		return nil, fmt.Errorf("load %s: object %s has no such program", name, o.name)
	}
	s := &shared{places: map[string]bool{}}
	var err error
	if !o.road.cfg.Unmeasured {
		if m := measure(ps, o.road.costs.table, slotByCookie()); m != nil {
			s.Program, err = o.loadSpec(name, m)
			if err != nil && !crowded(err) {
				return nil, err
			}
			s.measured = err == nil
		}
	}
	if !s.measured {
		if s.Program, err = o.loadSpec(name, ps); err != nil {
			return nil, err
		}
	}
	s.occupy(places)
	o.shared[name] = s
	return s, nil
}

func (s *shared) occupy(places []string) {
	for _, place := range places {
		s.places[place] = true
	}
}

// release gives back what share gave.
func (o *Object) release(name string, places []string) error {
	s := o.shared[name]
	for _, place := range places {
		delete(s.places, place)
	}
	if len(s.places) > 0 {
		return nil
	}
	delete(o.shared, name)
	return s.Close()
}

// giveBack gives back what a hook has that other hooks may have too. It is closed.
func (o *Object) giveBack(a *attached) error {
	var errs []error
	for program, places := range a.shared {
		errs = append(errs, o.release(program, places))
	}
	o.road.costs.free(a.slots)
	return errors.Join(errs...)
}

// load puts one program into the kernel, on the object's maps, and where there
// is room has it measured: then it has a slot of the road's costs.
func (o *Object) load(name string) (_ *ebpf.Program, slots []uint32, err error) {
	ps := o.spec.Programs[name]
	if ps == nil {
		return nil, nil, fmt.Errorf("load %s: object %s has no such program", name, o.name)
	}
	if o.road.cfg.Unmeasured {
		p, err := o.loadSpec(name, ps)
		return p, nil, err
	}
	slot, ok := o.road.costs.take(o.name, name)
	if ok {
		if m := measure(ps, o.road.costs.table, slotIs(slot)); m != nil {
			p, err := o.loadSpec(name, m)
			if err == nil {
				return p, []uint32{slot}, nil
			}
			if !crowded(err) {
				o.road.costs.free([]uint32{slot})
				return nil, nil, err
			}
		}
		o.road.costs.free([]uint32{slot})
	}
	p, err := o.loadSpec(name, ps)
	return p, nil, err
}

func (o *Object) loadSpec(name string, ps *ebpf.ProgramSpec) (*ebpf.Program, error) {
	// Only the maps that the program refers to: each is one more file otherwise.
	specs, maps := map[string]*ebpf.MapSpec{}, map[string]*ebpf.Map{}
	for _, ins := range ps.Instructions {
		if m := ins.Reference(); ins.IsLoadFromMap() && o.maps[m] != nil {
			specs[m], maps[m] = o.spec.Maps[m], o.maps[m]
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{
		Maps:      specs,
		Programs:  map[string]*ebpf.ProgramSpec{name: ps},
		Types:     o.spec.Types,
		ByteOrder: o.spec.ByteOrder,
	}, ebpf.CollectionOptions{MapReplacements: maps, Cache: o.road.btf.get()})
	if err != nil {
		return nil, explainLoad(ps, err, o.road.btf.get())
	}
	p := coll.Programs[name]
	coll.Programs = nil
	coll.Close()
	return p, nil
}

// Iterate runs an iterator program (section iter/...) over all that exists and
// returns when everything it wrote has been decoded. Where the program calls
// record_pause, or returns 1 to be given the same element once more, Iterate
// waits for the reader before it goes on, so that a full ring loses nothing.
// Run must be running.
func (o *Object) Iterate(ctx context.Context, program string) error {
	p, err := o.Program(program)
	if err != nil {
		return err
	}
	it, err := link.AttachIter(link.IterOptions{Program: p})
	if err != nil {
		return explainAttach(Iter(program), o.spec.Programs[program], err)
	}
	defer it.Close()
	rd, err := it.Open()
	if err != nil {
		return fmt.Errorf("open iterator %s: %w", program, err)
	}
	defer rd.Close()

	// One byte: the kernel returns as soon as the program has written any.
	var pause [1]byte
	for {
		// Sync may find all done, however it was asked.
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read iterator %s: %w", program, err)
		}
		n, err := rd.Read(pause[:])
		if n == 0 && errors.Is(err, io.EOF) {
			return o.road.Sync(ctx)
		}
		// EAGAIN: the program returned 1, to see the same element again.
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("read iterator %s: %w", program, err)
		}
		if err := o.road.Sync(ctx); err != nil {
			return fmt.Errorf("read iterator %s: %w", program, err)
		}
	}
}

// Output runs an iterator program (section iter/...) over all that exists and
// returns what it writes by bpf_seq_write: reading makes it go on. The caller
// closes it.
func (o *Object) Output(program string) (io.ReadCloser, error) {
	p, err := o.Program(program)
	if err != nil {
		return nil, err
	}
	it, err := link.AttachIter(link.IterOptions{Program: p})
	if err != nil {
		return nil, explainAttach(Iter(program), o.spec.Programs[program], err)
	}
	defer it.Close() // what is open goes on
	rd, err := it.Open()
	if err != nil {
		return nil, fmt.Errorf("open iterator %s: %w", program, err)
	}
	return rd, nil
}

// PinHook pins the links of an attached hook into a set, as NAME-0, NAME-1 and
// so on, with dashes for the dots of its name: it then stays attached when the
// object is closed.
func (o *Object) PinHook(d *PinDir, hook string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.hooks[hook]
	if a == nil {
		return fmt.Errorf("pin hook %s: not attached", hook)
	}
	for i, l := range a.links {
		link, ok := l.(interface{ FD() int })
		if !ok {
			return fmt.Errorf("pin hook %s: its link cannot be pinned", hook)
		}
		if err := d.Pin(fmt.Sprintf("%s-%d", strings.ReplaceAll(hook, ".", "-"), i), link); err != nil {
			return fmt.Errorf("pin hook %s: %w", hook, err)
		}
	}
	return nil
}

// Detach removes hooks from the kernel, all at once: for many the kernel waits as
// long as for one. Detaching what is not attached does nothing.
func (o *Object) Detach(hooks ...string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.detach(hooks)
}

// detach is Detach for who holds o.mu.
func (o *Object) detach(hooks []string) error {
	hooks = slices.DeleteFunc(slices.Clone(hooks), func(name string) bool { return o.hooks[name] == nil })
	if len(hooks) == 0 {
		return nil
	}
	errs := make([]error, len(hooks))
	var closing []*attached
	var wg sync.WaitGroup
	for i, name := range hooks {
		a := o.hooks[name]
		delete(o.hooks, name)
		wg.Go(func() {
			if err := a.close(name); err != nil {
				errs[i] = fmt.Errorf("detach %s: %w", name, err)
			}
		})
		closing = append(closing, a)
	}
	wg.Wait()
	o.road.places.reaper.leave()
	for _, a := range closing {
		errs = append(errs, o.giveBack(a))
	}
	return errors.Join(errs...)
}

// Close detaches all hooks, then frees programs and maps.
func (o *Object) Close() error {
	o.road.mu.Lock()
	delete(o.road.objects, o)
	o.road.mu.Unlock()

	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	errs := []error{o.detach(slices.Collect(maps.Keys(o.hooks)))}
	for _, p := range o.programs {
		errs = append(errs, p.Close())
	}
	o.road.costs.free(o.slots)
	for _, m := range o.maps {
		errs = append(errs, m.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close object %s: %w", o.name, err)
	}
	return nil
}
