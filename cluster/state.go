package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config bounds a State. Its zero value works.
type Config struct {
	// Remember is how long ended pods and freed addresses are known; 0 is an hour.
	Remember time.Duration
	// MaxEnded is how many of them are known at most, the latest; 0 is 20,000.
	MaxEnded int
}

const (
	defaultRemember = time.Hour
	defaultMaxEnded = 20_000
)

// State is all that is known of a cluster, with a memory: an address is asked
// for at a time. Any goroutine may call any method at any time; what they hand
// out never changes.
//
// Readers hold one lock for the time of a few look-ups in maps and allocate
// nothing, because a peer is asked for with each connection. Writers do what
// takes time, cleaning and sharing texts, outside of it.
type State struct {
	config Config
	// changed has room for one signal: who waits learns that there was
	// something, not how often, so writers never wait.
	changed chan struct{}
	// ears are those of who waits beside.
	ears ears

	// write is held by whoever changes something, for all of the change. So one
	// who holds it may read everything below without table.
	write sync.Mutex
	share sharer
	past  queue

	// table is held over every change of what is below.
	table      sync.RWMutex
	pods       map[string]*pod // by uid
	statics    map[string]*pod // by static uid
	podNames   map[name]*pod   // the last of its name
	namespaces map[string]*namespace
	owners     map[owned]Workload
	// orphans are the pods whose controller may have an owner not told yet.
	orphans  map[owned][]*pod
	services map[string]*service // by uid
	// serviceNames has the services told, and those that only a slice has named.
	serviceNames map[name]*serviceName
	slices       map[name]*slice
	// waiting are slices with endpoints of pods not told yet.
	waiting   map[Endpoint][]*slice
	nodes     map[string]*node
	policies  map[string]*Policy // by uid
	versions  Versions
	places    map[netip.Addr]place
	frontends map[frontend]*holding[service]
	nodePorts map[nodePort]*holding[service]
	networks  networks
	synced    map[string]bool // what is expected, and whether it was told
	complete  bool            // all of it was
	living    int             // pods that have not ended
	forgotten struct{ pods, addresses uint64 }
}

// name is what a namespaced object is called.
type name struct{ namespace, name string }

// NewState returns a State of a cluster of which nothing is known.
func NewState(c Config) *State {
	if c.Remember <= 0 {
		c.Remember = defaultRemember
	}
	if c.MaxEnded <= 0 {
		c.MaxEnded = defaultMaxEnded
	}
	return &State{
		config:       c,
		changed:      make(chan struct{}, 1),
		pods:         make(map[string]*pod),
		statics:      make(map[string]*pod),
		podNames:     make(map[name]*pod),
		namespaces:   make(map[string]*namespace),
		owners:       make(map[owned]Workload),
		orphans:      make(map[owned][]*pod),
		services:     make(map[string]*service),
		serviceNames: make(map[name]*serviceName),
		slices:       make(map[name]*slice),
		waiting:      make(map[Endpoint][]*slice),
		nodes:        make(map[string]*node),
		policies:     make(map[string]*Policy),
		places:       make(map[netip.Addr]place),
		frontends:    make(map[frontend]*holding[service]),
		nodePorts:    make(map[nodePort]*holding[service]),
		synced:       make(map[string]bool),
	}
}

// change runs f with everything locked, forgets what is too old at that time,
// and tells who waits.
func (s *State) change(at time.Time, f func()) {
	s.table.Lock()
	f()
	s.forget(nanos(at))
	s.table.Unlock()
	s.signal()
}

func (s *State) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // one signal waits already
	}
	s.ears.signal()
}

// Changed tells that something is known that was not: one signal for any
// number of changes, so that one goroutine can wait for it. Others use Watch.
func (s *State) Changed() <-chan struct{} { return s.changed }

// Expect says that a resource will be told: Synced waits for it.
func (s *State) Expect(resource string) {
	s.table.Lock()
	defer s.table.Unlock()
	if !s.synced[resource] {
		s.synced[resource], s.complete = false, false
	}
}

// SetSynced says that all there is of a resource was told once.
func (s *State) SetSynced(resource string) {
	s.table.Lock()
	s.synced[resource] = true
	s.complete = true
	for _, told := range s.synced {
		s.complete = s.complete && told
	}
	s.table.Unlock()
	s.signal()
}

// Synced is true when all that is expected was told once. Where nothing was
// ever told it is false.
func (s *State) Synced() bool {
	s.table.RLock()
	defer s.table.RUnlock()
	return s.complete
}

// Pods yields the pods that have not ended, in no order. It is a copy of
// the list that is walked: f may call any method.
func (s *State) Pods(yield func(*Pod) bool) {
	s.table.RLock()
	all := make([]*Pod, 0, s.living)
	for _, p := range s.pods {
		if p.ended == 0 {
			all = append(all, p.told)
		}
	}
	s.table.RUnlock()
	each(all, yield)
}

// Nodes yields the nodes that are, in no order.
func (s *State) Nodes(yield func(*Node) bool) {
	s.table.RLock()
	all := make([]*Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.ended == 0 {
			all = append(all, n.told)
		}
	}
	s.table.RUnlock()
	each(all, yield)
}

// Services yields the services that are, in no order.
func (s *State) Services(yield func(*Service) bool) {
	s.table.RLock()
	all := make([]*Service, 0, len(s.services))
	for _, v := range s.services {
		if v.ended == 0 {
			all = append(all, v.told)
		}
	}
	s.table.RUnlock()
	each(all, yield)
}

func each[T any](all []T, yield func(T) bool) {
	for _, one := range all {
		if !yield(one) {
			return
		}
	}
}

// Namespaces returns the names of the namespaces that were told, sorted.
func (s *State) Namespaces() []string {
	s.table.RLock()
	defer s.table.RUnlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.namespaces)) {
		if s.namespaces[name].told {
			names = append(names, name)
		}
	}
	return names
}

// Stats are the sizes of a State, and what it has forgotten since its start.
type Stats struct {
	Pods, EndedPods, Services, EndpointSlices, Nodes, Namespaces, Policies int
	// Addresses are those of which something is known, now or of the past.
	Addresses int
	// ForgottenPods and ForgottenAddresses were too many or too old.
	ForgottenPods, ForgottenAddresses uint64
	// Trimmed are texts that were too long or had bytes that no name has, and
	// lists that were too long.
	Trimmed uint64
}

// Stats says how much is known.
func (s *State) Stats() Stats {
	s.table.RLock()
	defer s.table.RUnlock()
	stats := Stats{
		Pods:               s.living,
		EndedPods:          len(s.pods) - s.living,
		EndpointSlices:     len(s.slices),
		Policies:           len(s.policies),
		Addresses:          len(s.places),
		ForgottenPods:      s.forgotten.pods,
		ForgottenAddresses: s.forgotten.addresses,
		Trimmed:            s.share.trimmed.Load(),
	}
	for _, v := range s.services {
		if v.ended == 0 {
			stats.Services++
		}
	}
	for _, n := range s.nodes {
		if n.ended == 0 {
			stats.Nodes++
		}
	}
	for _, n := range s.namespaces {
		if n.told {
			stats.Namespaces++
		}
	}
	return stats
}

// nanos is a time as the tables keep it. The zero time is long ago, not now.
func nanos(t time.Time) int64 {
	switch {
	case t.Before(earliest):
		return 1
	case t.After(latest):
		return forever - 1
	}
	return t.UnixNano()
}

// The times that nanoseconds since 1970 can tell; others are garbage.
var (
	earliest = time.Unix(0, 1)
	latest   = time.Unix(0, forever-1)
)

// moment is a time of the tables as others know it.
func moment(ns int64) time.Time { return time.Unix(0, ns).UTC() }
