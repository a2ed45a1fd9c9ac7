package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"warren/bpf"
	"warren/reconcile"
)

// Config says what a Datapath is for. All but Mode can be left out: then
// sizes are the defaults, and it is pinned in the machine's BPF file system as
// instance "warren".
type Config struct {
	// BPFFS and Instance say where maps and links are pinned: see bpf.OpenPins.
	// Agents of different instances, or with different file systems, have
	// nothing in common in the kernel.
	BPFFS, Instance string
	Mode            Mode
	// FlowInterval is how often a flow that goes on is told of: 0 means 5 s.
	FlowInterval time.Duration
	// Flows, Verdicts and Addresses are how many of them there is room for; 0
	// means the default. To change one moves what is there to new maps.
	Flows, Verdicts, Addresses int
	// EventBytes is the size of the ring of flow events: a power of two, 0 means
	// 8 MiB.
	EventBytes int
	// VNI is the tunnel's number, 0 means DefaultVNI; Port is its port of UDP, 0 means
	// DefaultPort. Pods cannot send there but to pods.
	VNI  uint32
	Port uint16
	// PodDevices is how the names of pods' devices begin, "" if nobody knows: those
	// that are no endpoint's, yet or any more, are left alone.
	PodDevices string
	// Rung forces how programs are attached: "tcx" or "clsact"; "" is the first
	// of these that the kernel takes.
	Rung string
}

// HostPart is the part that a device of the node has.
type HostPart uint8

// The devices of a node that programs are attached to: the one to other nodes,
// and the one of the tunnel.
const (
	Uplink HostPart = iota
	Tunnel
)

// String returns uplink or tunnel.
func (k HostPart) String() string {
	switch k {
	case Uplink:
		return "uplink"
	case Tunnel:
		return "tunnel"
	}
	return "unknown"
}

// ErrClosed means that the Datapath has been closed; the kernel goes on without
// it.
var ErrClosed = errors.New("datapath is closed")

// A Datapath is what the kernel does with packets, and the way to change it. It
// belongs to the network namespace of whoever opened it. Its methods may be
// called from any goroutine, of any network namespace.
type Datapath struct {
	cfg    Config
	log    *slog.Logger
	home   *home
	pins   *bpf.Pins
	kernel *kernel
	grace  *grace

	attacher *attacher
	devices  *reconcile.Table[uint32, device]

	settingsMu sync.Mutex // held by who changes them
	settings   reconcile.Map[uint32, stateConfig]

	mu      sync.Mutex // held by Apply, and whoever else changes what it does
	tables  *tables
	last    *State
	parts   [2]uint32         // devices of the node, by HostPart
	kinds   [2]device         // what these are
	others  map[uint32]device // and all others that are no pods', nil before they were looked for
	unread  map[string]bool   // names of devices that cannot be watched
	missing map[int]bool      // interfaces of endpoints that are gone
	closed  bool

	eventsMu sync.Mutex   // held by who reads what the kernel tells
	events   *eventReader // nil when closed
}

// Apply makes the kernel do what state says. Policy changes as a whole: every
// packet is judged by the former state or by this one. If Apply fails before the
// new policy is in force the former one stays, wholly; either way another Apply
// finishes what was begun. Calls wait for each other.
//
// An endpoint whose programs cannot be attached fails alone, and in the report.
func (d *Datapath) Apply(ctx context.Context, state *State) (Report, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Report{}, fmt.Errorf("apply state: %w", ErrClosed)
	}
	report, err := d.apply(ctx, state)
	if err != nil {
		return report, fmt.Errorf("apply state: %w", err)
	}
	return report, nil
}

func (d *Datapath) apply(ctx context.Context, state *State) (Report, error) {
	d.last = state
	for index := range d.missing {
		if !slices.ContainsFunc(state.Endpoints, func(e Endpoint) bool { return e.Ifindex == index }) {
			delete(d.missing, index)
		}
	}
	report, found, err := d.applyOnce(ctx, state)
	if err == nil && found {
		// What was written for devices that are gone goes too.
		report, _, err = d.applyOnce(ctx, state)
	}
	return report, err
}

// applyOnce applies a state but for the endpoints whose devices are known to be
// gone; found says that there are more of them than was known.
func (d *Datapath) applyOnce(ctx context.Context, state *State) (_ Report, found bool, err error) {
	if err := d.configure(state); err != nil {
		return Report{}, false, err
	}
	c, err := d.tables.begin(ctx, state, d.missing)
	if err != nil {
		return Report{}, false, err
	}
	if d.kernel.other {
		if err := d.takeOver(); err != nil {
			return Report{}, false, err
		}
	}
	// Programs of endpoints that go are detached before these are forgotten, and
	// those of new ones attached when they are known.
	if d.others == nil {
		if err := d.lookAround(); err != nil {
			return Report{}, false, err
		}
	}
	d.devices.Replace(d.wantDevices(c.rows.endpoints), func(a, b device) bool { return a == b })
	d.devices.Prune()
	d.devices.Reconcile(ctx)
	for index := range c.rows.endpoints {
		if st, ok := d.devices.Status(index); ok && gone(st.Err) {
			d.missing[int(index)] = true
			found = true
		}
	}
	err = d.tables.finish(c)
	return d.tables.report(c, state.Policy.Rules, d.attached), found, err
}

// attached says how an endpoint's programs are attached, or why not.
func (d *Datapath) attached(index int) (string, error) {
	st, ok := d.devices.Status(uint32(index))
	switch {
	case !ok:
		return "", nil
	case st.Err != nil:
		return "", st.Err
	case st.State != reconcile.Done:
		return "", errors.New("not attached yet")
	}
	return d.attacher.rung(uint32(index)), nil
}

// change changes the settings; the generation is not among them.
func (d *Datapath) change(f func(*stateConfig)) error {
	d.settingsMu.Lock()
	defer d.settingsMu.Unlock()
	if d.settings == nil {
		return fmt.Errorf("write settings: %w", ErrClosed)
	}
	have, err := d.settings.Get(0)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	want := have
	f(&want)
	if want == have {
		return nil
	}
	if err := d.settings.Put(0, want); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// configure writes the settings that follow from the configuration and, if there
// is one, from a state.
func (d *Datapath) configure(state *State) error {
	return d.change(func(c *stateConfig) {
		c.Mode = map[Mode]uint32{
			Routed:  uint32(stateModeMODE_ROUTED),
			VXLAN:   uint32(stateModeMODE_VXLAN),
			Chained: uint32(stateModeMODE_CHAINED),
		}[d.cfg.Mode]
		c.Vni = DefaultVNI
		if d.cfg.VNI != 0 {
			c.Vni = d.cfg.VNI
		}
		c.FlowInterval = 5
		if d.cfg.FlowInterval > 0 {
			c.FlowInterval = uint32(max(d.cfg.FlowInterval/time.Second, 1))
		}
		if state == nil {
			return
		}
		c.Mtu = uint32(max(state.MTU, 0))
		c.Node4, c.Node6 = stateAddr{}, stateAddr{}
		if state.Node4.IsValid() {
			c.Node4 = addrKey(state.Node4)
		}
		if state.Node6.IsValid() {
			c.Node6 = addrKey(state.Node6)
		}
	})
}

// Tell says whether somebody listens to flow events: otherwise the kernel writes
// none. It counts all the same.
func (d *Datapath) Tell(listening bool) error {
	return d.change(func(c *stateConfig) {
		c.Flags &^= uint32(stateConfigFlagsCONFIG_TELL)
		if listening {
			c.Flags |= uint32(stateConfigFlagsCONFIG_TELL)
		}
	})
}

// AttachHost attaches the programs of the node to one of its devices, in the
// place of the one that had that part until now.
func (d *Datapath) AttachHost(ifindex int, part HostPart) error {
	if ifindex <= 0 || part > Tunnel {
		return fmt.Errorf("attach %v: no interface has the number %d", part, ifindex)
	}
	return d.setPart(uint32(ifindex), part)
}

// DetachHost takes them away again. What is not attached is fine.
func (d *Datapath) DetachHost(part HostPart) error {
	if part > Tunnel {
		return nil
	}
	return d.setPart(0, part)
}

func (d *Datapath) setPart(index uint32, part HostPart) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("attach %v: %w", part, ErrClosed)
	}
	kind := device(0)
	if index != 0 {
		var err error
		if kind, err = d.partDevice(index, part); err != nil {
			return fmt.Errorf("attach %v: %w", part, err)
		}
	}
	before := d.parts[part]
	d.parts[part], d.kinds[part] = index, kind
	if before != 0 && before != index {
		d.setOther(before)
	}
	if err := d.setParts(); err != nil {
		return err
	}
	if index == 0 {
		d.devices.Reconcile(context.Background())
		return nil
	}
	have := d.devices.Wanted()[index]
	if st, ok := d.devices.Status(index); !ok || st.State != reconcile.Done || have != kind && have != d.kinds[1-part] {
		d.devices.Want(index, kind)
	}
	d.devices.Reconcile(context.Background())
	if st, _ := d.devices.Status(index); st.Err != nil {
		return fmt.Errorf("attach %v: %w", part, st.Err)
	}
	return nil
}

// setParts says which are the devices of the node.
func (d *Datapath) setParts() error {
	return d.change(func(c *stateConfig) { c.Uplink, c.Tunnel = d.parts[Uplink], d.parts[Tunnel] })
}

func (k HostPart) device() device {
	if k == Tunnel {
		return tunnelDevice
	}
	return uplinkDevice
}

// Close lets go of the kernel: everything there goes on.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.eventsMu.Lock()
	defer d.eventsMu.Unlock()
	d.settingsMu.Lock()
	defer d.settingsMu.Unlock()
	d.settings = nil
	var errs []error
	if d.events != nil {
		errs = append(errs, d.events.ring.Close())
		d.events = nil
	}
	if d.kernel != nil {
		errs = append(errs, d.kernel.close())
	}
	if d.grace != nil {
		errs = append(errs, d.grace.close())
	}
	if d.home != nil {
		errs = append(errs, d.home.close())
	}
	return errors.Join(errs...)
}

// Remove takes everything away from the kernel that this instance put there:
// programs, maps, pins, and queueing disciplines that it made. Run must have
// ended.
func (d *Datapath) Remove() error {
	err := d.home.do(func() error { return Remove(d.cfg) })
	return errors.Join(err, d.Close())
}

// A Report says what Apply has made true.
type Report struct {
	// Generation is that of the policy in force; a flow's verdict has one too.
	Generation uint32
	// Flipped says that policy has changed for what was there before.
	Flipped bool
	// InForce is when the new state was in force.
	InForce   time.Time
	Endpoints []EndpointReport
	// Policies are, by uid, those with rules for pods of this node.
	Policies map[string]PolicyReport
}

// An EndpointReport says what became of an endpoint.
type EndpointReport struct {
	Name, PodUID string
	Ifindex      int
	// Hook is how its programs are attached: tcx or clsact, "" if they are not,
	// which Err says why.
	Hook string
	Err  error
}

// A PolicyReport says for how many of this node's pods a policy is in force.
type PolicyReport struct {
	Endpoints int
	// Failed are the names of pods for which it is not, though it should be.
	Failed []string
}
