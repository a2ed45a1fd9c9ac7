// Package identity knows who is who on this machine: which process, in which
// container and under which unit, behind which connection and which name, at
// the moment of an event.
//
// [Identity.Apply] learns from each event and completes it. It is called by one
// goroutine at a time, in the order of the events, and never waits: what needs
// a file or a runtime's API is asked for by the goroutines of [Identity.Run]
// and arrives later. All other methods may be called by any goroutine at any
// time. What they return is immutable.
//
// All tables are bounded; see [Config]. When memory is short, ended processes
// and closed connections are forgotten first, oldest first, and [Stats] says
// how many.
package identity

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/event"
)

// Config are the bounds of the tables and the places where to look; zero values
// stand for the defaults.
type Config struct {
	// ProcessBytes bounds the memory of process snapshots, those kept as
	// ancestors and behind connections included. Default 32 MiB.
	ProcessBytes int64
	// MaxExited is how many ended processes are remembered. Default 16384.
	MaxExited int
	// ExitedAge is how long ended processes are remembered. Default 15 min.
	ExitedAge time.Duration
	// ConnectionBytes bounds the memory of the connection table. Default 16 MiB.
	ConnectionBytes int64
	// MaxClosed is how many closed connections are remembered. Default 8192.
	MaxClosed int
	// MaxNames is how many addresses with a name are remembered. Default 16384.
	MaxNames int
	// WaitContainer bounds how long the events of a container not yet described
	// are Pending. Negative: they never are. Default 500 ms.
	WaitContainer time.Duration
	// DescribeFor bounds how long a runtime is asked for a container that it
	// does not know. Default 20 s.
	DescribeFor time.Duration
	// Sockets are where container runtimes listen.
	Sockets Sockets
	// Cluster is what is known of the Kubernetes cluster that the machine is a
	// node of; nil where it is none.
	Cluster Cluster
	// Workloads is told which container each cgroup is of; nil: nobody is.
	Workloads Workloads
	// CgroupRoot is the subtree of the unified hierarchy that the sensors see, as
	// /k8s/node1; empty for all of it. What is looked up in /proc and lies outside
	// is not taken into the tables.
	CgroupRoot string
	// Root is where the host's file system is seen. Default "/".
	Root string
	// Proc is where the host's proc file system is seen. Default "/proc".
	Proc string
	// Now is the wall clock. Default time.Now.
	Now func() time.Time
	// Ktime is the kernel's clock, nanoseconds since boot, suspend included.
	// Default CLOCK_BOOTTIME.
	Ktime func() uint64
}

// Cluster is what identity asks of a [cluster.State]. Every method may be called
// by any goroutine, answers at once, and returns what never changes.
type Cluster interface {
	// Pod returns a pod by its uid or, for static pods, by the hash of their
	// configuration; ended ones while they are remembered. Nil: unknown.
	Pod(uid string) *cluster.Pod
	// Peer returns what an address stood for at a time; false where that is not
	// known.
	Peer(addr netip.Addr, port uint16, proto string, at time.Time) (cluster.Peer, bool)
	// ServicesOf returns the services that stand for a pod.
	ServicesOf(p *cluster.Pod) []*cluster.Service
	// Changed is signalled when something new is known; one signal can stand for
	// many changes.
	Changed() <-chan struct{}
}

// Workloads is told of containers by their cgroups, so that the kernel can judge
// by these what happens in a container before it is recorded. It answers at once.
type Workloads interface {
	// Know says that processes in a cgroup belong to a container from now on, nil
	// for the host.
	Know(k event.CgroupKey, c *event.Container)
	// Doubt says that nothing is known of a cgroup any more, until Know does. It
	// returns before anything else is told of the cgroup's processes.
	Doubt(k event.CgroupKey)
}

// noWorkloads is for those whom nobody asks.
type noWorkloads struct{}

func (noWorkloads) Know(event.CgroupKey, *event.Container) {}
func (noWorkloads) Doubt(event.CgroupKey)                  {}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	if c.ProcessBytes <= 0 {
		c.ProcessBytes = 32 << 20
	}
	if c.ConnectionBytes <= 0 {
		c.ConnectionBytes = 16 << 20
	}
	def(&c.MaxExited, 16384)
	def(&c.MaxClosed, 8192)
	def(&c.MaxNames, 16384)
	if c.ExitedAge <= 0 {
		c.ExitedAge = 15 * time.Minute
	}
	if c.WaitContainer == 0 {
		c.WaitContainer = 500 * time.Millisecond
	}
	if c.DescribeFor <= 0 {
		c.DescribeFor = 20 * time.Second
	}
	c.Sockets = c.Sockets.withDefaults()
	if c.Workloads == nil {
		c.Workloads = noWorkloads{}
	}
	if c.Root == "" {
		c.Root = "/"
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ktime == nil {
		c.Ktime = boottime
	}
	return c
}

func boottime() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0 // cannot happen: the clock exists since Linux 2.6.39
	}
	return uint64(ts.Nano())
}

// Identity holds the tables.
type Identity struct {
	cfg       Config
	log       *slog.Logger
	described chan struct{} // capacity 1: a second signal says nothing new

	// mu guards all tables. Apply holds it for less than a microsecond at a
	// time; readers copy pointers and let go. They are few: a lock that readers
	// share would cost each event more than it spares them.
	mu    sync.Mutex
	procs processes
	conns connections
	conts containers
	peers peers
	names names
	users users

	describer describer
	filler    filler
}

// New returns empty tables. It starts nothing: see [Identity.Run].
func New(cfg Config, log *slog.Logger) *Identity {
	cfg = cfg.withDefaults()
	i := &Identity{cfg: cfg, log: log, described: make(chan struct{}, 1)}
	i.procs.init()
	i.conns.init()
	i.conts.init()
	i.peers.init()
	i.names.init(cfg.MaxNames)
	i.users.init(cfg)
	i.describer.init(cfg)
	i.filler.init(cfg)
	return i
}

// Run asks runtimes to describe containers, follows what the cluster tells,
// reads what events did not tell and forgets what is too old, until ctx ends. It
// can be called once.
func (i *Identity) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { i.describe(ctx); return nil })
	g.Go(func() error { i.loadUsers(ctx); return nil })
	g.Go(func() error { i.fill(ctx); return nil })
	g.Go(func() error { i.followCluster(ctx); return nil })
	g.Go(func() error { i.meetPeers(ctx); return nil })
	g.Go(func() error { i.sweep(ctx); return nil })
	return g.Wait()
}

// Apply learns from e and completes it: its process with parent, container and
// names of users; the names of its addresses; what was true before a change. It
// must be called with each event once, in their order, before the event is
// handed on; e.Process and e.Data belong to the tables afterwards.
//
// The process stays nil where it is unknown: its records were lost. It is then
// looked up in the background; see [Identity.Pending].
func (i *Identity) Apply(e *event.Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.procs.now = max(i.procs.now, e.Ktime)
	switch d := e.Data.(type) {
	case *event.Fork:
		i.applyFork(e)
	case *event.Exec:
		i.applyExec(e)
	case *event.Exit:
		i.applyExit(e, d)
	case *event.Credentials:
		i.applyCredentials(e, d)
	case *event.Namespace:
		i.applyNamespace(e, d)
	case *event.ProcessState:
		i.applyTask(e)
	case *event.CgroupState:
		i.applyCgroup(e, d)
	case *event.Connection:
		i.applyConnection(e, d, i.attribute(e))
	case *event.DNS:
		i.attribute(e)
		i.applyDNS(e, d)
	case *event.Flow:
		i.applyFlow(e, d)
	case *event.SocketState:
		i.applyTrying(e, d)
	default:
		i.attribute(e)
	}
	if i.procs.bytes > i.cfg.ProcessBytes || i.procs.exited.n > i.cfg.MaxExited {
		i.reclaim()
	}
}

// Pending reports whether waiting would complete e: its container is about to be
// described, the names of its users are being read, or its process is being
// looked up. Each of these waits is bounded: the first, counted from the
// container's first event, by Config.WaitContainer.
func (i *Identity) Pending(e *event.Event) bool {
	p := e.Process
	if p == nil {
		return !e.Actor.IsZero() && i.filler.waiting(e.Actor, i.cfg.Ktime())
	}
	if p.Container == nil {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if p.Container.Pending {
		if c := i.containerAs(p); c != nil && c.desc.Pending && i.cfg.Ktime() < c.deadline {
			return true
		}
	}
	m := i.users.byMnt[p.MntNS]
	return m != nil && m.busy && m.accounts == nil && i.cfg.WaitContainer > 0 && i.cfg.Ktime() < m.asked+usersWait
}

// Resolve completes e after it waited: with the description of its container
// and the names of its users, or with the process that has been found. What has
// not come stays missing, and marked so; the event is not asked for again.
func (i *Identity) Resolve(e *event.Event, _ bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e.Process == nil && !e.Actor.IsZero() {
		i.find(e)
	}
	e.Process = i.completed(e.Process)
}

// completed returns p with its container as it is described by now and users as
// they are named by now: p itself where nothing is new.
func (i *Identity) completed(p *event.Process) *event.Process {
	if p == nil || p.Container == nil {
		return p
	}
	described := p.Container
	if p.Container.Pending || p.Container.Pod != nil && p.Container.Pod.Name == "" {
		if c := i.containerAs(p); c != nil {
			described = c.desc
		}
	}
	who := ownersOf(p)
	if m := i.users.byMnt[p.MntNS]; m != nil && m.accounts != nil {
		who = m.accounts.owners(p)
	}
	if described == p.Container && who == ownersOf(p) {
		return p
	}
	// The table has usually made the same copy already.
	if en := i.procs.get(p.Key); en != nil {
		for s := en.snap; s != nil; s = s.older {
			if s.origin == p && s.p.Container == described && ownersOf(s.p) == who {
				return s.p
			}
		}
	}
	q := *p
	q.Container = described
	who.set(&q)
	return &q
}

// Described is signalled when something that events wait for has arrived, or
// is given up.
func (i *Identity) Described() <-chan struct{} { return i.described }

func (i *Identity) signal() {
	select {
	case i.described <- struct{}{}:
	default:
	}
}
