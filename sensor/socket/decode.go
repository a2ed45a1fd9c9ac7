package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"warren/bpf"
	"warren/event"
)

// errRecord means that a record says what no program of ours writes.
var errRecord = errors.New("record makes no sense")

// The address families of Linux.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

// connEvent is an event and its data in one allocation.
type connEvent struct {
	event event.Event
	conn  event.Connection
}

// whats is what may stand in sock_record.what, and the evt.type that it means.
var whats = [...]string{
	socketSockWhatSOCK_LISTEN:     "listen",
	socketSockWhatSOCK_CONNECT:    "connect",
	socketSockWhatSOCK_ACCEPT:     "accept",
	socketSockWhatSOCK_ACCEPT4:    "accept4",
	socketSockWhatSOCK_SENDTO:     "sendto",
	socketSockWhatSOCK_RECVFROM:   "recvfrom",
	socketSockWhatSOCK_UPDATE:     "update",
	socketSockWhatSOCK_CLOSE:      "close",
	socketSockWhatSOCK_RELEASED:   "",
	socketSockWhatSOCK_TABLE_FULL: "",
	socketSockWhatSOCK_TRYING:     "",
}

// decodeSock decodes a struct sock_record.
func (s *Sensor) decodeSock(rec []byte) error {
	r, err := bpf.View[socketSockRecord](rec)
	if err != nil {
		return err
	}
	switch socketSockWhat(r.What) {
	case socketSockWhatSOCK_RELEASED:
		request(s.ended)
		return nil
	case socketSockWhatSOCK_TABLE_FULL:
		s.send(&event.Event{Time: bpf.Wall(r.H.Ktime), Ktime: r.H.Ktime,
			Data: &event.Lost{Type: "lost", Count: r.Received, What: "socket.udp", Lane: "table"}})
		return nil
	}
	if socketSockWhat(r.What) == socketSockWhatSOCK_TRYING {
		e, err := trying(r)
		if err != nil {
			return err
		}
		s.send(e)
		return nil
	}
	if !event.KindSet(s.want.Load()).Has(event.KindConnection) {
		return nil // sockets are also listed for the owners of DNS messages
	}
	e, err := connection(r)
	if err != nil {
		return err
	}
	s.send(e)
	return nil
}

func (s *Sensor) send(e *event.Event) {
	if emit := s.emit.Load(); emit != nil {
		(*emit)(e)
	}
}

// connection makes an event of a record.
func connection(r *socketSockRecord) (*event.Event, error) {
	if int(r.What) >= len(whats) || whats[r.What] == "" {
		return nil, fmt.Errorf("%w: what %d", errRecord, r.What)
	}
	if r.State > uint8(event.NewSynRecv) || r.Reset > uint8(event.ResetRemote) {
		return nil, fmt.Errorf("%w: state %d, reset %d", errRecord, r.State, r.Reset)
	}
	if r.L4 != uint8(event.TCP) && r.L4 != uint8(event.UDP) {
		return nil, fmt.Errorf("%w: protocol %d", errRecord, r.L4)
	}
	if r.Error < 0 || r.Res > 0 && !accepts(r.What) {
		return nil, fmt.Errorf("%w: result %d, error %d", errRecord, r.Res, r.Error)
	}
	e := new(connEvent)
	c := &e.conn
	if err := fillEnds(&c.Socket, r.Family, &r.Laddr, &r.Raddr, r.Lport, r.Rport); err != nil {
		return nil, err
	}
	c.L4 = event.Proto(r.L4)
	c.Server = r.Server != 0
	c.NetNS = r.Netns
	c.Cookie = r.Cookie
	c.Type = whats[r.What]
	c.Res = event.Errno(-min(r.Res, 0))
	c.RawRes = int64(r.Res)
	c.State = event.TCPState(r.State)
	if r.Began != 0 {
		c.Start = wall(r.Began, r.H.Ktime)
	}
	c.Duration = int64(r.Duration)
	c.Latency = int64(r.Latency)
	c.BytesSent, c.BytesReceived = r.Sent, r.Received
	c.PacketsSent, c.PacketsRecv = r.PacketsOut, r.PacketsIn
	c.RTT, c.MinRTT = int64(r.Rtt)*1000, int64(r.RttMin)*1000
	c.Retransmits, c.Lost = r.Retrans, r.Lost
	c.Reset = event.ResetBy(r.Reset)
	c.Error = event.Errno(r.Error)
	c.Existing = r.Existing != 0
	c.Shared = r.Shared != 0

	e.event = event.Event{
		Time:  bpf.Wall(r.H.Ktime),
		Ktime: r.H.Ktime,
		CPU:   r.H.Cpu + 1,
		Actor: event.Key{PID: r.Owner.Pid, Start: r.Owner.Start},
		Data:  c,
	}
	return &e.event, nil
}

// trying makes an event of the record of a socket that asks for a connection.
func trying(r *socketSockRecord) (*event.Event, error) {
	d := &event.SocketState{Type: "socket"}
	if err := fillEnds(&d.Socket, r.Family, &r.Laddr, &r.Raddr, r.Lport, r.Rport); err != nil {
		return nil, err
	}
	if !d.Socket.Local.IsValid() || r.Lport == 0 {
		return nil, fmt.Errorf("%w: a connection from nowhere", errRecord)
	}
	d.Socket.L4, d.Socket.NetNS, d.Socket.Cookie = event.Proto(r.L4), r.Netns, r.Cookie
	return &event.Event{Time: bpf.Wall(r.H.Ktime), Ktime: r.H.Ktime, CPU: r.H.Cpu + 1, Actor: event.Key{PID: r.Owner.Pid, Start: r.Owner.Start}, Data: d}, nil
}

// accepts says whether the result of a record may be a descriptor.
func accepts(what uint8) bool {
	return what == uint8(socketSockWhatSOCK_ACCEPT) || what == uint8(socketSockWhatSOCK_ACCEPT4)
}

// wall is the wall time of an earlier moment than the record's own, on the same
// reading of the clock: the span between both is exact.
func wall(ktime, now uint64) time.Time {
	return bpf.Wall(now).Add(-time.Duration(now - ktime))
}

// fillEnds sets addresses and ports. IPv4 within IPv6 becomes IPv4; the
// unspecified address is that of a socket without a peer, otherwise no address.
func fillEnds(s *event.Socket, family uint8, laddr, raddr *[16]uint8, lport, rport uint16) error {
	switch family {
	case familyIPv4:
		s.Local = netip.AddrFrom4([4]byte(laddr[:4]))
		s.Remote = netip.AddrFrom4([4]byte(raddr[:4]))
	case familyIPv6:
		s.Local = netip.AddrFrom16(*laddr).Unmap()
		s.Remote = netip.AddrFrom16(*raddr).Unmap()
	default:
		return fmt.Errorf("%w: family %d", errRecord, family)
	}
	s.LocalPort, s.RemotePort = lport, rport
	if s.Remote.IsUnspecified() && rport == 0 {
		s.Remote = netip.Addr{}
	} else if s.Local.IsUnspecified() {
		s.Local = netip.Addr{}
	}
	return nil
}
