package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/cni"
	"warren/datapath"
	"warren/netpol"
)

// network is the node's part of the cluster's network: what the cluster says of
// pods and policies becomes what the kernel does with packets.
//
//	cluster.State ──┐                       ┌─> datapath.Host: routes, tunnels
//	                ├─> pass: one at a time ┼─> netpol.Compiler ─> datapath: programs and maps
//	CNI plugin ─────┘   of changes          └─> CNI: the runtime may add pods
//	  by api.Endpoints
//
// The kernel goes on with what it was told last while nobody tells it more: the
// API server away, the agent ended, the cluster not known yet after a start. So
// nothing is applied before the State is complete, and nothing is taken away at
// the end.
type network struct {
	cfg     NetworkConfig
	node    string
	state   *cluster.State
	kernel  networkKernel
	host    networkHost
	runtime networkRuntime
	find    finder // for pods that another CNI plugin connects; or nil
	// links tells of devices that are added, until ctx ends; or nil.
	links func(ctx context.Context) (<-chan struct{}, error)
	log   *slog.Logger
	store *networkStore
	// devices lists this node's network devices by index, with their names;
	// addresses are those that the node itself has.
	devices   func() (map[int]string, error)
	addresses func() ([]netip.Addr, error)

	// kick has room for one signal: something besides the State has changed.
	kick chan struct{}

	// What follows is for the goroutine of run alone.
	compiler *netpol.Compiler
	seen     *cluster.Snapshot
	built    built // from seen
	wired    wired
	missed   map[string]int // how often a pod was looked for, by uid
	hunts    int            // how often any was since a device was added
	again    *time.Timer    // when they are looked for again
	said     string         // the last error that was logged
	ready    *cni.Node      // what the container runtime was told

	mu        sync.Mutex
	endpoints map[api.Attachment]*endpoint
	progress  progress

	// force is what is in force, for who asks what stands behind a number.
	force atomic.Pointer[inForce]
}

// networkKernel is what the network asks of a [datapath.Datapath].
type networkKernel interface {
	Run(ctx context.Context) error
	Apply(ctx context.Context, state *datapath.State) (datapath.Report, error)
	AttachHost(ifindex int, part datapath.HostPart) error
	DetachHost(part datapath.HostPart) error
	Status() (datapath.Status, error)
	Close() error
}

// networkHost is what it asks of a [datapath.Host].
type networkHost interface {
	Reconcile(want datapath.HostState) (datapath.HostDevices, error)
}

// networkRuntime is the container runtime of the node.
type networkRuntime interface {
	// Ready tells it that pods can be added. It does nothing where that was told.
	Ready(n cni.Node) error
}

// wired is what connects the node: its devices, as they were found last.
type wired struct {
	done    bool
	devices datapath.HostDevices
	own     []netip.Addr // addresses of the node's devices
}

// progress is how far the network has come, for the status.
type progress struct {
	waiting  string // for what, before the first Apply
	err      error  // of the last pass
	wired    wired
	report   datapath.Report
	problems map[string][]string // by uid of a policy
	full     map[string]string   // by uid, those that the kernel has no room for
	policies []*cluster.Policy
	enforced map[string]enforced // by uid of a policy
	unfound  int                 // pods of another plugin whose devices are not known
	applied  uint64              // how often
	failed   uint64
	last     time.Time // Apply
	compile  time.Duration
	apply    time.Duration
}

const (
	// gather is how long after a change others are waited for: what a person
	// applies at once becomes one change in the kernel. In a large cluster
	// something changes all the time: there it is a few times what the last pass
	// has taken, but no more than mostGather. A pod that is added waits no longer
	// than gather.
	gather, mostGather = 10 * time.Millisecond, 250 * time.Millisecond
	gatherTimes        = 4
	// lookAgain is how often is looked for what nobody signals: devices that are
	// gone, routes that somebody has removed.
	lookAgain = 30 * time.Second
	// Between two tries of what has failed.
	leastRetry, mostRetry = time.Second, 30 * time.Second
)

// run keeps the kernel's network as the cluster wants it until ctx ends; the
// kernel goes on with it.
func (n *network) run(ctx context.Context) error {
	changed, stop := n.state.Watch()
	defer stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	retry := time.NewTimer(0) // the first pass
	n.again.Stop()
	defer n.again.Stop()
	added := n.watchDevices(ctx)
	wait := leastRetry
	var took time.Duration // by the last pass
	for {
		looking, more := false, min(max(gather, gatherTimes*took), mostGather)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-n.kick:
			more = gather
		case <-retry.C:
			looking = true
		case <-look.C:
			looking = true
		case _, ok := <-added:
			if !ok {
				added = n.watchDevices(ctx)
			}
			if !n.huntAnew() {
				continue
			}
			more = 0
		case <-n.again.C:
			if !n.hunt() {
				continue
			}
			more = 0
		}
		if !n.gather(ctx, more) {
			return nil
		}
		// What came meanwhile is part of this pass.
		drain(changed)
		drain(n.kick)
		began := time.Now()
		err := n.pass(ctx, looking)
		took = time.Since(began)
		if ctx.Err() != nil {
			return nil
		}
		n.tell(err)
		if err != nil {
			retry.Reset(wait)
			wait = min(2*wait, mostRetry)
		} else {
			retry.Stop()
			wait = leastRetry
		}
	}
}

// pass makes the kernel's network what the cluster wants now. looking says to
// look at the devices of the node, too. One part that fails keeps none of the
// others from being done.
func (n *network) pass(ctx context.Context, looking bool) error {
	now := n.state.Snapshot(n.seen)
	if !now.Synced {
		n.await("all of the cluster to be known")
		return nil // what the kernel does, it goes on doing
	}
	self := nodeNamed(now.Nodes, n.node)
	if self == nil {
		n.await("the cluster to know node " + n.node)
		return nil
	}

	// The node: devices, routes, tunnels, masquerading.
	var wiring error
	if looking || !n.wired.done || n.seen == nil || n.seen.Versions.Nodes != now.Versions.Nodes {
		wiring = n.wire(self, now.Nodes)
	}

	// Its pods: those that the CNI plugin has added, or that are found.
	found := n.find != nil && (n.seen == nil || n.seen.Versions.Pods != now.Versions.Pods)
	if err := n.prune(looking || found); err != nil {
		wiring = errors.Join(wiring, err)
	}
	if n.find != nil {
		wiring = errors.Join(wiring, n.discover(now, looking))
	}
	pods := n.resolve(now)

	// Policy -> what is allowed, for their addresses.
	n.build(now, self, pods)
	began := time.Now()
	program, err := n.compiler.Compile(n.built.world, n.built.isSubject)
	if err != nil {
		return errors.Join(wiring, fmt.Errorf("compile policy: %w", err))
	}
	compiled := time.Now()

	// -> the kernel.
	n.force.Store(n.inForceAfter(program))
	report, err := n.kernel.Apply(ctx, n.kernelState(program, pods))
	n.seen = now
	n.settle(pods, program, report, err, compiled.Sub(began), time.Since(compiled))
	if err != nil {
		return errors.Join(wiring, fmt.Errorf("apply policy: %w", err))
	}

	// -> and who adds pods may.
	if err := n.store.save(n.list()); err != nil {
		wiring = errors.Join(wiring, err)
	}
	if n.wired.done && n.cfg.Mode != datapath.Chained {
		wiring = errors.Join(wiring, n.tellRuntime(n.cniNode(self), looking))
	}
	return wiring
}

// tellRuntime tells who adds pods what it must know, where that is new, and
// where its files are to be looked at.
func (n *network) tellRuntime(node cni.Node, looking bool) error {
	if !looking && n.ready != nil && reflect.DeepEqual(*n.ready, node) {
		return nil
	}
	n.ready = nil
	if err := n.runtime.Ready(node); err != nil {
		return fmt.Errorf("tell the container runtime: %w", err)
	}
	n.ready = &node
	return nil
}

// wire makes the node's own part of the network true.
func (n *network) wire(self *cluster.Node, nodes []*cluster.Node) error {
	own, err := n.addresses()
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	want := datapath.HostState{Mode: n.cfg.Mode, Self: hostNode(self)}
	for _, other := range nodes {
		if other != self {
			want.Others = append(want.Others, hostNode(other))
		}
	}
	if n.cfg.Mode != datapath.Chained && len(self.PodCIDRs) == 0 {
		return fmt.Errorf("node %s has no network for pods: the cluster gives it none (podCIDRs)", self.Name)
	}
	devices, err := n.host.Reconcile(want)
	for _, part := range []struct {
		part    datapath.HostPart
		ifindex int
		before  int
	}{{datapath.Uplink, devices.Uplink, n.wired.devices.Uplink}, {datapath.Tunnel, devices.Tunnel, n.wired.devices.Tunnel}} {
		var failed error
		switch {
		case part.ifindex != 0:
			failed = n.kernel.AttachHost(part.ifindex, part.part)
		case part.before != 0 || !n.wired.done:
			failed = n.kernel.DetachHost(part.part)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("attach to the %s: %w", part.part, failed))
		}
	}
	n.wired = wired{done: err == nil, devices: devices, own: own}
	return err
}

// cniNode is what the plugin must know of the node.
func (n *network) cniNode(self *cluster.Node) cni.Node {
	out := cni.Node{PodCIDRs: self.PodCIDRs, MTU: n.wired.devices.MTU, Mode: n.cfg.Mode.String()}
	for _, p := range self.PodCIDRs {
		if a := datapath.NodeAddr(p); a.IsValid() {
			out.Reserved = append(out.Reserved, a)
		}
	}
	return out
}

// await says what the network waits for; who adds a pod hears it.
func (n *network) await(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.progress.waiting = what
}

// tell remembers how a pass has ended, and logs what is new of that.
func (n *network) tell(err error) {
	n.mu.Lock()
	n.progress.err = err
	n.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == n.said:
	case err != nil:
		n.log.Warn("the network is not as it should be, and it is tried again", "err", err)
	default:
		n.log.Info("the network is as it should be")
	}
	n.said = text
}

// settle remembers what an Apply has made true, and answers who waits for it.
func (n *network) settle(pods []*endpoint, program *netpol.Program, report datapath.Report, err error, compile, apply time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &n.progress
	p.compile, p.apply, p.last, p.wired = compile, apply, time.Now(), n.wired
	p.problems, p.policies, p.unfound = program.Problems, n.seen.Policies, n.unfound()
	p.full = n.fullOf(program, err)
	if err != nil {
		p.failed++
		for _, e := range pods {
			e.waits = fmt.Sprintf("its policy is not in force: %v", err)
		}
		return
	}
	p.applied++
	p.waiting, p.report = "", report
	failed := make(map[int]error, len(report.Endpoints))
	hooks := make(map[int]string, len(report.Endpoints))
	for _, r := range report.Endpoints {
		failed[r.Ifindex], hooks[r.Ifindex] = r.Err, r.Hook
	}
	p.enforced = make(map[string]enforced)
	for _, e := range pods {
		e.finish(hooks[e.HostIndex], failed[e.HostIndex])
		if e.pod == nil {
			continue
		}
		for _, policy := range program.Selecting[e.pod.UID] {
			p.enforced[policy.UID] = p.enforced[policy.UID].with(e, n.audits(e.pod.Namespace))
		}
	}
	// Those that select nobody here have nothing to do, and do it.
	for _, policy := range p.policies {
		of := p.enforced[policy.UID]
		of.generation = policy.Generation
		p.enforced[policy.UID] = of
	}
}

func nodeNamed(nodes []*cluster.Node, name string) *cluster.Node {
	for _, one := range nodes {
		if one.Name == name {
			return one
		}
	}
	return nil
}

func hostNode(of *cluster.Node) datapath.Node {
	return datapath.Node{Name: of.Name, Addrs: of.Addrs, PodCIDRs: of.PodCIDRs}
}

// gather waits for more that changes, and is false where ctx ended before.
func (n *network) gather(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	kicked := false
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-n.kick:
			if !kicked {
				kicked = true
				timer.Reset(min(d, gather))
			}
		}
	}
}

func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}
