package api

import (
	"strings"
	"time"
	"unsafe"

	"warren/cluster"
	"warren/event"
)

// A flowRecord is what the ring keeps of an event: what its flows are told
// from. It holds no process, with its arguments and ancestors, alive.
type flowRecord struct {
	time   time.Time
	seq    uint64
	before uint64 // flows seen before; the ring's
	flows  int    // how many flows the event is
	bytes  int    // about what the record costs
	actor  flowActor
	// One of these is set.
	conn *event.Connection
	dns  *event.DNS
	lost *event.Lost
	flow *event.Flow
}

// flowActor is the process at the near end, as far as flows tell of it.
type flowActor struct {
	key       event.Key
	known     bool
	uid       uint32
	name      string
	exePath   string
	user      string
	unit      string
	cgroup    uint64
	container *event.Container // shared, nil on the host
}

// newFlowRecord returns what is kept of an event, nil where it is no flow.
func newFlowRecord(e *event.Event) *flowRecord {
	var r *flowRecord
	switch d := e.Data.(type) {
	case *event.Connection:
		n := connectionFlows(d)
		if n == 0 {
			return nil
		}
		both := &struct {
			r flowRecord
			c event.Connection
		}{c: *d}
		r = &both.r
		r.conn, r.flows, r.bytes = &both.c, n, int(unsafe.Sizeof(*both))
		r.bytes += len(d.LocalName) + len(d.RemoteName)
	case *event.DNS:
		if !d.Remote.IsValid() {
			return nil
		}
		both := &struct {
			r flowRecord
			d event.DNS
		}{d: *d}
		r = &both.r
		r.dns, r.flows, r.bytes = &both.d, 1, int(unsafe.Sizeof(*both))
		r.bytes += len(d.Name) + len(d.Addrs)*int(unsafe.Sizeof(event.Answer{}))
		for _, a := range d.Answers {
			r.bytes += len(a) + int(unsafe.Sizeof(a))
		}
	case *event.Flow:
		both := &struct {
			r flowRecord
			f event.Flow
		}{f: *d}
		r = &both.r
		r.flow, r.flows, r.bytes = &both.f, packetFlows(d), int(unsafe.Sizeof(*both))
		r.bytes += len(d.LocalName) + len(d.RemoteName) + len(d.Nearest)
	case *event.Lost:
		if !losesFlows(d) {
			return nil
		}
		lost := *d
		r = &flowRecord{lost: &lost}
		r.bytes = int(unsafe.Sizeof(*r) + unsafe.Sizeof(lost))
	default:
		return nil
	}
	r.time, r.seq = e.Time, e.Seq
	r.actor.key = e.Actor
	if p := e.Process; p != nil {
		r.actor = flowActor{key: p.Key, known: true, uid: p.UID, name: p.Name, exePath: p.ExePath, user: p.UserName,
			unit: p.Cgroup.Unit, cgroup: p.Cgroup.CgroupID, container: p.Container}
		r.bytes += len(p.Name) + len(p.ExePath)
	}
	return r
}

// losesFlows reports whether what was lost were flows: records of sockets or of
// the datapath, or events that this consumer did not read in time.
func losesFlows(l *event.Lost) bool {
	return l.Lane == "queue" || strings.Contains(l.What, "socket.") || strings.HasPrefix(l.What, "flow.")
}

// socket returns what the record says of the socket, nil for a loss.
func (r *flowRecord) socket() *event.Socket {
	switch {
	case r.conn != nil:
		return &r.conn.Socket
	case r.dns != nil:
		return &r.dns.Socket
	case r.flow != nil:
		return &r.flow.Socket
	}
	return nil
}

// pod returns the pod at the near end, nil where there is none.
func (a *flowActor) pod() *cluster.Pod {
	if a.container == nil {
		return nil
	}
	return a.container.Pod
}

// namespaces returns the namespaces of both ends, "" where there is none.
func (r *flowRecord) namespaces() (local, remote string) {
	s := r.socket()
	if s == nil {
		return "", ""
	}
	if p := r.actor.pod(); p != nil {
		local = p.Namespace
	} else if r.flow != nil && r.flow.LocalPeer != nil && r.flow.LocalPeer.Pod != nil {
		local = r.flow.LocalPeer.Pod.Namespace
	}
	if p := s.RemotePeer; p != nil {
		switch {
		case p.Pod != nil:
			remote = p.Pod.Namespace
		case p.Service != nil:
			remote = p.Service.Namespace
		}
	}
	return local, remote
}
