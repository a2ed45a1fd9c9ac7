package identity

// Stats say how full the tables are, and what they had to forget.
type Stats struct {
	Processes     int    // living
	Exited        int    // ended and remembered
	Replaced      int    // snapshots that were replaced and are remembered
	ProcessBytes  int64  // of snapshots, ancestors kept by others included
	ProcessBudget int64  // Config.ProcessBytes
	Evicted       uint64 // processes forgotten for want of memory
	Stripped      uint64 // living processes cut down for want of memory
	Vanished      uint64 // processes whose end was never told
	Unknown       uint64 // events whose process was unknown
	Overtaken     uint64 // replaced snapshots forgotten while events of their time might still come

	Connections        int // living, listening sockets included
	Closed             int // closed and remembered
	ConnectionBytes    int64
	ConnectionBudget   int64
	ConnectionsEvicted uint64 // forgotten for want of memory
	ConnectionsStale   uint64 // whose end was never told

	Cgroups    int
	Containers int // remembered
	Pods       int // of these containers
	PodsUntold int // of these: neither the cluster nor a runtime has named them
	Pending    int // of these: not yet described by the runtime that is asked

	PeersWaiting int    // connections whose far end the cluster does not know yet
	PeersDropped uint64 // for which there was no room to wait

	Names        int // addresses with a DNS name
	NamesEvicted uint64
	UserRoots    int // mount namespaces whose users are known
}

// Stats returns the present state of the tables.
func (i *Identity) Stats() Stats {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := Stats{
		Processes: i.procs.living.n, Exited: i.procs.exited.n,
		ProcessBytes: i.procs.bytes, ProcessBudget: i.cfg.ProcessBytes,
		Evicted: i.procs.evicted, Stripped: i.procs.stripped, Vanished: i.procs.vanished, Unknown: i.procs.unknown,
		Replaced: i.procs.recent.n, Overtaken: i.procs.overtaken,
		Connections: i.conns.living.n, Closed: i.conns.closed.n,
		ConnectionBytes: i.conns.bytes, ConnectionBudget: i.cfg.ConnectionBytes,
		ConnectionsEvicted: i.conns.evicted, ConnectionsStale: i.conns.stale,
		Cgroups: len(i.conts.cgroups), Containers: len(i.conts.byID), Pods: len(i.conts.pods),
		PeersWaiting: len(i.peers.waiting), PeersDropped: i.peers.dropped,
		Names: len(i.names.m), NamesEvicted: i.names.evicted,
	}
	for _, c := range i.conts.byID {
		if c.desc.Pending {
			s.Pending++
		}
	}
	for _, p := range i.conts.pods {
		if p.value.Name == "" {
			s.PodsUntold++
		}
	}
	for _, m := range i.users.byMnt {
		if m.accounts != nil {
			s.UserRoots++
		}
	}
	return s
}
