package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
)

// A Hook is one thing to observe, with its implementations, best first.
type Hook struct {
	Name    string // "socket.accept"
	Purpose string // what it observes, for people
	Rungs   []Rung
}

// A Rung is one implementation of a hook: it works as a whole or not at all.
type Rung struct {
	Kind        string // fentry, tp_btf, tracepoint, kprobe, cgroup, iter
	Attachments []Attachment
}

// An Attachment is one program at one place. The same program may be attached
// in several places. It is made by [BTF], [Tracepoint], [Kprobe], [Kretprobe],
// [Cgroup] or [Iter].
type Attachment struct {
	Program string // its name in the object
	Target  string // the place; "" for BTF: what the program's section says

	how    how
	group  string
	symbol string
	at     ebpf.AttachType
}

type how uint8

const (
	byBTF how = iota
	byTracepoint
	byKprobe
	byKretprobe
	byCgroup
	byIter
)

// BTF attaches a program of the sections tp_btf, fentry or fexit to the place
// that the section names.
func BTF(program string) Attachment {
	return Attachment{Program: program, how: byBTF}
}

// Tracepoint attaches a program of the section tracepoint, or tp, to the
// tracepoint group/name of tracefs.
func Tracepoint(program, group, name string) Attachment {
	return Attachment{Program: program, Target: group + "/" + name, how: byTracepoint, group: group, symbol: name}
}

// Kprobe attaches a program of the section kprobe to the entry of a kernel
// function.
func Kprobe(program, symbol string) Attachment {
	return Attachment{Program: program, Target: symbol, how: byKprobe, symbol: symbol}
}

// Kretprobe attaches a program of the section kretprobe to the return of a
// kernel function.
func Kretprobe(program, symbol string) Attachment {
	return Attachment{Program: program, Target: symbol, how: byKretprobe, symbol: symbol}
}

// Cgroup attaches a program of a cgroup section to the cgroup that
// [Config].CgroupRoot names. Other programs there go on running.
func Cgroup(program string, at ebpf.AttachType) Attachment {
	return Attachment{Program: program, Target: cgroupPlace(at), how: byCgroup, at: at}
}

// cgroupPlace names a place of cgroups as sections of programs do.
func cgroupPlace(at ebpf.AttachType) string {
	switch at {
	case ebpf.AttachCGroupInetIngress:
		return "cgroup_skb/ingress"
	case ebpf.AttachCGroupInetEgress:
		return "cgroup_skb/egress"
	case ebpf.AttachCGroupInetSockCreate:
		return "cgroup/sock_create"
	case ebpf.AttachCgroupInetSockRelease:
		return "cgroup/sock_release"
	}
	return strings.ToLower(at.String())
}

// Iter makes sure that an iterator program (section iter/...) works on this
// kernel; [Object.Iterate] runs it.
func Iter(program string) Attachment {
	return Attachment{Program: program, how: byIter}
}

// A HookStatus says how a hook is attached, and why not better.
type HookStatus struct {
	Hook, Purpose string
	Rung          string    // the kind of the rung that is used; "" if none is
	Target        string    // the places it is attached to, separated by spaces
	Refused       []Refusal // the better rungs, best first
	Err           string    // why no rung works; "" if one does
}

// A Refusal says why a rung is not used.
type Refusal struct {
	Rung, Reason string
}

// Attach loads and attaches the first rung of h that this kernel takes. The
// reasons against better ones are in the status. If no rung works, or the one
// that the configuration forces does not, the error is an *[UnavailableError].
// A hook of that name that is attached already is an error.
func (o *Object) Attach(h Hook) (HookStatus, error) {
	o.mu.Lock()
	defer o.mu.Unlock()

	st := HookStatus{Hook: h.Name, Purpose: h.Purpose}
	fail := func(err error) (HookStatus, error) {
		st.Err = reasonOf(err)
		return st, err
	}
	if o.closed {
		return fail(fmt.Errorf("attach %s: %w", h.Name, ErrClosed))
	}
	if o.hooks[h.Name] != nil {
		return fail(fmt.Errorf("attach %s: already attached", h.Name))
	}

	rungs, forced := h.Rungs, o.road.cfg.Rungs[h.Name]
	if forced != "" {
		rungs = nil
		var kinds []string
		for _, r := range h.Rungs {
			kinds = append(kinds, r.Kind)
			if r.Kind == forced {
				rungs = append(rungs, r)
			}
		}
		if len(rungs) == 0 {
			return fail(&UnavailableError{Feature: h.Name, Reason: fmt.Sprintf(
				"the configuration forces %s, which is none of its rungs: %s", forced, strings.Join(kinds, ", "))})
		}
	}

	var errs []error
	for _, rung := range rungs {
		a, err := o.climb(h.Name, rung)
		if err == nil {
			o.hooks[h.Name] = a
			st.Rung, st.Target = rung.Kind, strings.Join(a.targets, " ")
			return st, nil
		}
		st.Refused = append(st.Refused, Refusal{Rung: rung.Kind, Reason: reasonOf(err)})
		errs = append(errs, err)
	}

	reason := tellRefusals(st.Refused)
	if forced != "" {
		reason = fmt.Sprintf("the configuration forces %s, which does not work: %s", forced, reason)
		st.Refused = nil // no better rung was tried
	}
	return fail(&UnavailableError{Feature: h.Name, Reason: reason, Err: errors.Join(errs...)})
}

// tellRefusals tells why each kind of rung is not used, each reason once.
func tellRefusals(refused []Refusal) string {
	kinds := map[string][]string{}
	var reasons []string
	for _, r := range refused {
		if kinds[r.Reason] == nil {
			reasons = append(reasons, r.Reason)
		}
		if !slices.Contains(kinds[r.Reason], r.Rung) {
			kinds[r.Reason] = append(kinds[r.Reason], r.Rung)
		}
	}
	for i, r := range reasons {
		reasons[i] = strings.Join(kinds[r], ", ") + ": " + r
	}
	return strings.Join(reasons, "; ")
}

// attached is what a hook holds in the kernel.
type attached struct {
	programs map[string]*ebpf.Program
	shared   map[string][]string // of these the object's: where they are attached
	cookies  map[string]uint64   // of these
	links    []closer
	targets  []string
	slots    []uint32 // of programs, in the road's costs
	skips    *skips   // where the programs are watched
}

// close closes all links at once: for some the kernel waits until all CPUs have
// left its program, which takes tens of milliseconds. Programs that are shared
// remain.
func (a *attached) close(hook string) error {
	errs := make([]error, len(a.links))
	var wg sync.WaitGroup
	for i, l := range a.links {
		wg.Go(func() { errs[i] = l.Close() })
	}
	wg.Wait()
	for name, p := range a.programs {
		a.skips.leave(hook, p) // no run of it is left out any more
		if a.shared[name] == nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// climb loads and attaches all of one rung, or nothing.
func (o *Object) climb(hook string, rung Rung) (_ *attached, err error) {
	if len(rung.Attachments) == 0 {
		return nil, errors.New("the rung has no attachments")
	}
	a := &attached{programs: map[string]*ebpf.Program{}, shared: map[string][]string{}, cookies: map[string]uint64{}, skips: &o.road.skips}
	defer func() {
		if err != nil {
			a.close(hook) // what failed first is what counts
			_ = o.giveBack(a)
			return
		}
		o.road.costs.serves(hook, a.slots)
	}()
	for _, at := range rung.Attachments {
		if a.programs[at.Program] != nil {
			continue
		}
		if err := o.provide(a, at, rung); err != nil {
			return nil, err
		}
		o.road.skips.watch(hook, a.programs[at.Program])
	}
	for _, at := range rung.Attachments {
		spec, p := o.spec.Programs[at.Program], a.programs[at.Program]
		if at.Target == "" {
			at.Target = spec.AttachTo
		}
		l, err := o.road.places.attach(at, p, a.cookies[at.Program])
		if err != nil {
			return nil, explainAttach(at, spec, err)
		}
		a.links = append(a.links, l)
		a.targets = append(a.targets, at.Target)
	}
	return a, nil
}

// provide loads the program of an attachment of a rung, or has it from the object.
func (o *Object) provide(a *attached, at Attachment, rung Rung) error {
	var s *shared
	var places []string
	if at.how == byTracepoint {
		for _, other := range rung.Attachments {
			if other.Program == at.Program {
				places = append(places, other.Target)
			}
		}
		var err error
		if s, err = o.share(at.Program, places); err != nil {
			return err
		}
	}
	if s == nil {
		p, slots, err := o.load(at.Program)
		if err != nil {
			return err
		}
		a.programs[at.Program] = p
		a.slots = append(a.slots, slots...)
		return nil
	}
	a.programs[at.Program] = s.Program
	a.shared[at.Program] = places
	a.cookies[at.Program] = costSlots // nobody's
	if !s.measured {
		return nil
	}
	if slot, ok := o.road.costs.take(o.name, at.Program); ok {
		a.cookies[at.Program] = uint64(slot)
		a.slots = append(a.slots, slot)
	}
	return nil
}
