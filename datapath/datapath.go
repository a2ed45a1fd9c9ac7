package datapath

import (
	"context"
	"errors"
	"log/slog"
	"time"
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
	cfg Config
	log *slog.Logger
}

// Open loads the programs, on the maps that an earlier agent of the instance has
// left, and puts them in the place of that agent's: connections, policy and
// everything that was counted live on. It changes nothing that the kernel does:
// only [Datapath.Apply] does that.
func Open(cfg Config, log *slog.Logger) (*Datapath, error) {
	return nil, errors.New("open datapath: not there yet")
}

// Run keeps programs attached: it sees devices go and come, attaches again what
// somebody has detached, and tries again what has failed. It ends with ctx.
func (d *Datapath) Run(ctx context.Context) error { return ErrClosed }

// Apply makes the kernel do what state says. Policy changes as a whole: every
// packet is judged by the former state or by this one. If Apply fails before the
// new policy is in force the former one stays, wholly; either way another Apply
// finishes what was begun. Calls wait for each other.
//
// An endpoint whose programs cannot be attached fails alone, and in the report.
func (d *Datapath) Apply(ctx context.Context, state *State) (Report, error) {
	return Report{}, ErrClosed
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

// AttachHost attaches the programs of the node to one of its devices, in the
// place of the one that had that part until now.
func (d *Datapath) AttachHost(ifindex int, part HostPart) error { return ErrClosed }

// DetachHost takes them away again. What is not attached is fine.
func (d *Datapath) DetachHost(part HostPart) error { return ErrClosed }

// Tell says whether somebody listens to flow events: otherwise the kernel writes
// none. It counts all the same.
func (d *Datapath) Tell(listening bool) error { return ErrClosed }

// Close lets go of the kernel: everything there goes on.
func (d *Datapath) Close() error { return nil }

// Remove takes everything away from the kernel that this instance put there:
// programs, maps, pins, and queueing disciplines that it made.
func (d *Datapath) Remove() error { return nil }

// Remove takes everything away that an instance put into the kernel, also if no
// agent runs.
func Remove(cfg Config) error { return nil }
