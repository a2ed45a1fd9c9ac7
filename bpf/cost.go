package bpf

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// A Cost is what a hook's programs have cost since they were attached. Every run
// is counted, and one of [SampleEvery] on each CPU is measured, by the programs
// themselves: the kernel's own statistics are one switch for the whole machine,
// and make every program dearer.
type Cost struct {
	Runs    uint64
	Sampled uint64        // of these: measured
	Time    time.Duration // of those measured, without what reading the clock takes
}

// SampleEvery is how many runs of a program on one CPU there are for each that
// is measured.
const SampleEvery = 1024

// sampleAt is the first run that is measured: soon, for those of a hook can be
// rare, but when what it touches is in the caches.
const sampleAt = 16

// Mean returns how long a run takes, 0 while none was measured.
func (c Cost) Mean() time.Duration {
	if c.Sampled == 0 {
		return 0
	}
	return c.Time / time.Duration(c.Sampled)
}

func (c *Cost) add(o Cost) {
	c.Runs += o.Runs
	c.Sampled += o.Sampled
	c.Time += o.Time
}

// costEntry is what the map costs holds of a program on one CPU. It is 32 bytes
// and in the order that measure counts on.
type costEntry struct {
	Runs, Sampled uint64
	Time          int64  // nanoseconds
	Zero          uint64 // always
}

// The members' offsets.
const (
	costRuns    = 0
	costSampled = 8
	costTime    = 16
	costZero    = 24
)

// costSlots is how many programs are measured at once, those that hooks share once
// for each; what is beyond is not. The map has one entry more, for these.
const costSlots = 512

// costs says whose the entries of the map are.
type costs struct {
	mu    sync.Mutex
	table *ebpf.Map
	slots [costSlots]costOwner
	// hooks names the hook that a program was last attached for. Who runs a
	// program that is not attached, an iterator, does it for that one.
	hooks map[costOwner]string
}

type costOwner struct{ object, program, hook string }

func (c *costs) open() (err error) {
	c.hooks = map[costOwner]string{}
	c.table, err = ebpf.NewMap(&ebpf.MapSpec{Name: "costs", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 32, MaxEntries: costSlots + 1})
	if err != nil {
		return fmt.Errorf("create map costs: %w", explainMap(err))
	}
	return nil
}

// take reserves an entry, empty, for a program. There may be none.
func (c *costs) take(object, program string) (slot uint32, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		if c.slots[i] != (costOwner{}) {
			continue
		}
		if err := c.table.Put(uint32(i), make([]costEntry, ebpf.MustPossibleCPU())); err != nil {
			return 0, false
		}
		c.slots[i] = costOwner{object: object, program: program}
		return uint32(i), true
	}
	return 0, false
}

// serves says that the programs of these entries are attached for a hook.
func (c *costs) serves(hook string, slots []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range slots {
		c.hooks[c.slots[s]] = hook
		c.slots[s].hook = hook
	}
}

func (c *costs) free(slots []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range slots {
		c.slots[s] = costOwner{}
	}
}

func (c *costs) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table == nil {
		return nil
	}
	return c.table.Close()
}

// read returns the costs by hook.
func (c *costs) read() (map[string]Cost, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sums := map[string]Cost{}
	var entries []costEntry
	for i, o := range c.slots {
		if o == (costOwner{}) {
			continue
		}
		hook := o.hook
		if hook == "" {
			hook = c.hooks[o]
		}
		if hook == "" {
			continue
		}
		if err := c.table.Lookup(uint32(i), &entries); err != nil {
			return nil, fmt.Errorf("read costs: %w", err)
		}
		sum := sums[hook]
		for _, e := range entries {
			// Less than the clock's own time is noise.
			sum.add(Cost{e.Runs, e.Sampled, time.Duration(max(0, e.Time))})
		}
		sums[hook] = sum
	}
	return sums, nil
}

// Costs returns what each attached hook has cost, by its name. Hooks of which no
// program is measured are absent. After Close it is empty.
func (r *Road) Costs() map[string]Cost {
	c, err := r.costs.read()
	if err != nil {
		return nil // the map is closed
	}
	return c
}

// A costSlot is how a program finds its entry: it stores the number at RFP-4. In R1
// is its context.
type costSlot asm.Instructions

// slotIs is for a program that has one entry.
func slotIs(slot uint32) costSlot {
	return costSlot{asm.StoreImm(asm.RFP, -4, int64(slot), asm.Word)}
}

// slotByCookie is for a program that hooks share: where it is attached says which.
func slotByCookie() costSlot {
	return costSlot{asm.FnGetAttachCookie.Call(), asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word)}
}

// measure returns the program that runs ps and counts what that costs in an
// entry of the map: a main function, and ps as a function that it calls. What
// the verifier knows at the call is the same whether the run is measured or
// not, so that it looks at ps once.
//
//	entry = costs[slot]
//	start = entry.zero
//	if ++entry.runs % SampleEvery == sampleAt
//		start = now, later by what reading the clock takes
//	result = ps(context)
//	if start
//		entry.time += max(now - start, 0); entry.sampled++
//
// It is nil for a program that cannot be a function.
func measure(ps *ebpf.ProgramSpec, table *ebpf.Map, slot costSlot) *ebpf.ProgramSpec {
	inner := ps.Instructions
	if len(inner) == 0 {
		return nil
	}
	fn := btf.FuncMetadata(&inner[0])
	if fn == nil {
		return nil
	}
	// The return value in the case that cannot be, a slot that the map has not:
	// 1 lets a packet pass.
	never := int32(0)
	switch ps.Type {
	case ebpf.CGroupSKB, ebpf.CGroupSock, ebpf.CGroupSockAddr:
		never = 1
	}
	const (
		context = asm.R6
		start   = asm.R7
		entry   = asm.R8
		result  = asm.R9
	)
	load := asm.LoadMapPtr(asm.R1, 0)
	if err := load.AssociateMap(table); err != nil {
		return nil // never: it is a load
	}
	outer := append(asm.Instructions{asm.Mov.Reg(context, asm.R1)}, slot...)
	outer = append(outer,
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		load,
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "cost_found"),
		asm.Mov.Imm(asm.R0, never),
		asm.Return(),
		asm.Mov.Reg(entry, asm.R0).WithSymbol("cost_found"),
		asm.LoadMem(start, entry, costZero, asm.DWord),
		asm.LoadMem(asm.R1, entry, costRuns, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(entry, costRuns, asm.R1, asm.DWord),
		asm.And.Imm(asm.R1, SampleEvery-1),
		asm.JNE.Imm(asm.R1, sampleAt, "cost_call"),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(start, asm.R0),
		asm.FnKtimeGetNs.Call(),
		// The reading at the end takes as long as this one: so much later, what
		// is measured begins.
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Sub.Reg(asm.R1, start),
		asm.Mov.Reg(start, asm.R0),
		asm.Add.Reg(start, asm.R1),
		asm.Mov.Reg(asm.R1, context).WithSymbol("cost_call"),
		asm.Call.Label("cost_body"),
		asm.JEq.Imm(start, 0, "cost_out"),
		asm.Mov.Reg(result, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.Sub.Reg(asm.R0, start),
		// An interrupt between the two readings before took longer than the run.
		asm.JSGE.Imm(asm.R0, 0, "cost_add"),
		asm.Mov.Imm(asm.R0, 0),
		asm.LoadMem(asm.R1, entry, costTime, asm.DWord).WithSymbol("cost_add"),
		asm.Add.Reg(asm.R1, asm.R0),
		asm.StoreMem(entry, costTime, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, entry, costSampled, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(entry, costSampled, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R0, result),
		asm.Return().WithSymbol("cost_out"),
	)
	outer[0] = btf.WithFuncMetadata(outer[0].WithSymbol(inner[0].Symbol()).WithSource(inner[0].Source()), fn)

	body := *fn
	body.Name, body.Linkage = fn.Name+"_body", btf.StaticFunc
	inner = append(asm.Instructions(nil), inner...)
	inner[0] = btf.WithFuncMetadata(inner[0].WithSymbol("cost_body"), &body)

	out := ps.Copy()
	out.Instructions = append(outer, inner...)
	return out
}

// crowded reports whether the verifier refused a program for the room that
// being called takes: then it runs unmeasured.
func crowded(err error) bool {
	var ve *ebpf.VerifierError
	if !errors.As(err, &ve) {
		return false
	}
	text := fmt.Sprintf("%+v", ve)
	return strings.Contains(text, "combined stack size") || strings.Contains(text, "call stack of")
}
