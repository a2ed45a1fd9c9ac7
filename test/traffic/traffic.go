// Package traffic makes up the events of a busy machine: programs in and outside
// of containers, with the same few peers again and again and many that are asked
// for once. It is for tests and benchmarks.
//
// The same seed gives the same events. A Source is used by one goroutine.
package traffic

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"warren/cluster"
	"warren/event"
)

// Config is what the machine is like; zero values stand for a busy one.
type Config struct {
	Seed  uint64
	Start time.Time // of the first event
	// Every is the time between two events, 10 µs if 0: 100,000 a second.
	Every time.Duration
	// Processes that live at the same time, peers and names that they know, and
	// containers that most of them are in: 2000, 4000 and 40.
	Processes, Peers, Containers int
	// Churn is how many connection events there are for each process that ends
	// and is followed by another one, 200 if 0.
	Churn int
	// Distinct makes connections by everybody to everybody, so that hardly two
	// within a second are alike and could be told as one.
	Distinct bool
}

// A peer is an address that processes connect to.
type peer struct {
	addr netip.Addr
	name string
	port uint16
	pod  *cluster.Peer
}

// open is a connection that has not ended.
type open struct {
	process *event.Process
	event.Socket
	start time.Time
}

// A Source makes events, in the order of their times.
type Source struct {
	c         Config
	rng       *rand.Rand
	now       time.Time
	ktime     uint64
	seq       uint64
	boot      time.Time
	init      *event.Process
	processes []*event.Process
	spawned   int
	pick      *rand.Zipf // of processes
	pickPeer  *rand.Zipf
	peers     []peer
	local     netip.Addr
	open      []open
	cookie    uint64
	queue     []*event.Event // of a process that follows another one
}

// programs are what runs: executable and arguments.
var programs = [][]string{
	{"/usr/sbin/nginx", "-g", "daemon off;"},
	{"/usr/bin/curl", "-fsS", "--max-time", "5", "https://api.example.com/v1/items"},
	{"/usr/local/bin/node", "--max-old-space-size=512", "/srv/shop/server.js"},
	{"/usr/bin/python3.11", "-m", "gunicorn", "shop.wsgi:application", "--workers", "4"},
	{"/usr/lib/jvm/java-17/bin/java", "-Xmx512m", "-jar", "/opt/orders/orders.jar", "--spring.profiles.active=prod"},
	{"/usr/sbin/haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"},
	{"/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/postgresql/15/main"},
	{"/usr/bin/redis-server", "*:6379"},
	{"/usr/sbin/sshd", "-D"},
	{"/usr/bin/dockerd", "-H", "fd://"},
	{"/opt/agent/bin/telemetry", "--config", "/etc/telemetry.yaml"},
	{"/bin/bash", "-c", "while sleep 1; do /usr/bin/curl -s http://localhost/health; done"},
}

var ports = []uint16{443, 443, 443, 80, 5432, 6379, 8080, 9092, 53, 3306}

// New returns a source of events.
func New(c Config) *Source {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Processes, 2000)
	def(&c.Peers, 4000)
	def(&c.Containers, 40)
	def(&c.Churn, 200)
	if c.Every == 0 {
		c.Every = 10 * time.Microsecond
	}
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	}
	s := &Source{
		c: c, rng: rand.New(rand.NewPCG(c.Seed, 0x77617272656e)), now: c.Start,
		boot: c.Start.Add(-50 * time.Hour), local: netip.MustParseAddr("10.1.2.3"), cookie: 1 << 20,
	}
	s.ktime = uint64(s.now.Sub(s.boot))
	s.pick = rand.NewZipf(s.rng, 1.1, 8, uint64(c.Processes-1))
	s.pickPeer = rand.NewZipf(s.rng, 1.1, 4, uint64(c.Peers-1))
	s.init = &event.Process{PID: 1, Key: event.Key{PID: 1, Start: 1e9}, Name: "systemd", ExePath: "/usr/lib/systemd/systemd", StartTime: s.boot}
	s.init.SetArgs([]string{"/sbin/init"})
	containers := s.containers()
	for range c.Peers {
		s.peers = append(s.peers, s.newPeer())
	}
	for i := range c.Processes {
		var in *event.Container
		if i%4 != 0 {
			in = containers[s.rng.IntN(len(containers))]
		}
		s.processes = append(s.processes, s.newProcess(in, s.boot.Add(time.Duration(i)*time.Second)))
	}
	return s
}

// Seq is the number of the last event.
func (s *Source) Seq() uint64 { return s.seq }

// Now is its time.
func (s *Source) Now() time.Time { return s.now }

// Processes are those that live now; the slice is the caller's.
func (s *Source) Processes() []*event.Process {
	return append([]*event.Process{s.init}, s.processes...)
}

// Peers are the addresses that are known, the most frequent first.
func (s *Source) Peers() []netip.Addr {
	var list []netip.Addr
	for _, p := range s.peers {
		list = append(list, p.addr)
	}
	return list
}

// Next returns the next event.
func (s *Source) Next() *event.Event {
	if n := len(s.queue); n > 0 {
		e := s.queue[0]
		s.queue = s.queue[1:]
		return s.stamp(e)
	}
	if s.seq%uint64(s.c.Churn) == uint64(s.c.Churn)-1 {
		return s.stamp(s.replace())
	}
	return s.stamp(s.connection())
}

// Connection returns the next event of a connection: no process comes or goes.
func (s *Source) Connection() *event.Event { return s.stamp(s.connection()) }

// stamp gives an event its number and time.
func (s *Source) stamp(e *event.Event) *event.Event {
	s.seq++
	// As calls come: at odd times, on the average as often as is said.
	step := time.Duration(s.rng.Int64N(2*int64(s.c.Every)) + 1)
	s.now = s.now.Add(step)
	s.ktime += uint64(step)
	e.Seq, e.Time, e.Ktime = s.seq, s.now, s.ktime
	if c, ok := e.Data.(*event.Connection); ok && c.Start.IsZero() {
		c.Start = s.now
	}
	return e
}

func (s *Source) connection() *event.Event {
	const most = 512 // that are open
	if len(s.open) < most/2 || len(s.open) < most && s.rng.IntN(2) == 0 {
		return s.connect()
	}
	at := s.rng.IntN(len(s.open))
	o := s.open[at]
	s.open[at] = s.open[len(s.open)-1]
	s.open = s.open[:len(s.open)-1]
	return s.end(o)
}

// connect is a connection that begins: two in three are made here, one comes in.
func (s *Source) connect() *event.Event {
	p := s.processes[s.someone()]
	to := s.peers[s.somewhere()]
	s.cookie++
	sock := event.Socket{
		Local: s.local, Remote: to.addr, LocalPort: uint16(32768 + s.rng.IntN(28232)), RemotePort: to.port, L4: event.TCP,
		RemoteName: to.name, NetNS: p.NetNS, Cookie: s.cookie, RemotePeer: to.pod,
	}
	c := &event.Connection{Socket: sock, Type: "connect", State: event.Established, Latency: s.spread(200_000)}
	if s.rng.IntN(3) == 0 {
		c.Type, c.Server, c.Latency = "accept4", true, 0
		c.LocalPort, c.RemotePort = 8080, uint16(32768+s.rng.IntN(28232))
		c.RawRes = int64(8 + s.rng.IntN(200))
	}
	s.open = append(s.open, open{process: p, Socket: c.Socket, start: s.now})
	return &event.Event{Actor: p.Key, Process: p, Data: c}
}

func (s *Source) end(o open) *event.Event {
	sent, received := uint64(s.spread(2000)), uint64(s.spread(20_000))
	rtt := s.spread(300_000)
	return &event.Event{Actor: o.process.Key, Process: o.process, Data: &event.Connection{
		Socket: o.Socket, Type: "close", State: event.Close, Start: o.start, Duration: int64(s.now.Sub(o.start)),
		BytesSent: sent, BytesReceived: received, PacketsSent: sent/1400 + 4, PacketsRecv: received/1400 + 4, RTT: rtt, MinRTT: rtt * 3 / 4,
	}}
}

// spread gives numbers around one, now and then much larger ones.
func (s *Source) spread(around int64) int64 {
	return int64(float64(around) * (0.5 + s.rng.ExpFloat64()))
}

func (s *Source) someone() int {
	if s.c.Distinct {
		return s.rng.IntN(len(s.processes))
	}
	return int(s.pick.Uint64())
}

func (s *Source) somewhere() int {
	if s.c.Distinct {
		return s.rng.IntN(len(s.peers))
	}
	return int(s.pickPeer.Uint64())
}

// replace ends a process and starts another one in its place: exit, fork, exec.
func (s *Source) replace() *event.Event {
	at := s.rng.IntN(len(s.processes))
	old := s.processes[at]
	for i := len(s.open) - 1; i >= 0; i-- {
		if s.open[i].process.Key == old.Key {
			s.open[i].process = s.init // who inherits the socket
		}
	}
	gone := *old
	exit := &event.Exit{Type: "procexit", Duration: int64(s.now.Sub(old.StartTime)), UserTime: s.spread(5e6), SysTime: s.spread(2e6), MaxRSS: uint64(s.spread(1 << 24))}
	gone.Exited = exit
	p := s.newProcess(old.Container, s.now)
	s.processes[at] = p
	s.queue = append(s.queue,
		&event.Event{Actor: p.Key, Process: p, Data: &event.Fork{Type: "clone"}},
		&event.Event{Actor: p.Key, Process: p, Data: &event.Exec{Type: "execve"}})
	return &event.Event{Actor: gone.Key, Process: &gone, Data: exit}
}

func (s *Source) newProcess(in *event.Container, start time.Time) *event.Process {
	s.spawned++
	argv := programs[s.rng.IntN(len(programs))]
	pid := uint32(1000 + s.spawned%4_000_000)
	p := &event.Process{
		PID: pid, TID: pid, Key: event.Key{PID: pid, Start: uint64(start.Sub(s.boot))}, Parent: s.init, ParentKey: s.init.Key, Depth: 1,
		VPID: uint32(1 + s.spawned%300), ExePath: argv[0], Cwd: "/", StartTime: start, ExecTime: start, Container: in, SID: pid, PGID: pid,
		Namespaces: event.Namespaces{MntNS: 4026531832, PidNS: 4026531836, NetNS: 4026531840, UserNS: 4026531837}, LoginUID: event.NoLogin,
		ExeInode: uint64(10_000 + len(argv[0])), ExeMode: 0o100755, UserName: "root", GroupName: "root",
	}
	p.Name = argv[0][lastSlash(argv[0])+1:]
	p.Name = p.Name[:min(15, len(p.Name))]
	args := append([]string(nil), argv...)
	if s.spawned%3 == 0 {
		args = append(args, fmt.Sprintf("--request-id=%08x", s.rng.Uint32()))
	}
	p.SetArgs(args)
	if in != nil {
		p.UID, p.GID, p.UserName, p.GroupName = 1000, 1000, "app", "app"
		p.NetNS, p.MntNS, p.PidNS = 4026532000+uint32(in.StartTime.Second()), 4026533000, 4026534000
		p.Cgroup = event.Cgroup{CgroupID: uint64(5000 + in.StartTime.Second()), Path: "/kubepods/burstable/pod" + in.Pod.UID + "/" + in.FullID}
	} else {
		p.Cgroup = event.Cgroup{CgroupID: 77, Path: "/system.slice/" + p.Name + ".service", Unit: p.Name + ".service"}
	}
	return p
}

func lastSlash(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '/' {
			return i
		}
	}
	return -1
}

func (s *Source) containers() []*event.Container {
	var list []*event.Container
	for i := range s.c.Containers {
		id := s.hex(32)
		app := fmt.Sprintf("shop-%d", i%12)
		pod := &cluster.Pod{
			UID: fmt.Sprintf("%s-%s-%s", s.hex(4), s.hex(2), s.hex(6)), Name: fmt.Sprintf("%s-%s", app, s.hex(3)), Namespace: fmt.Sprintf("team-%d", i%5),
			Labels: map[string]string{"app": app, "tier": "backend"}, Workload: cluster.Workload{Kind: "Deployment", Name: app},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, 0, byte(i)})},
		}
		list = append(list, &event.Container{
			FullID: id, ID: id[:12], Type: "containerd", Name: app, Image: "registry.example/" + app + ":1.4." + fmt.Sprint(i), ImageRepo: "registry.example/" + app,
			ImageTag: "1.4." + fmt.Sprint(i), StartTime: s.boot.Add(time.Duration(i) * time.Second), Pod: pod, PodContainer: app,
		})
	}
	return list
}

func (s *Source) hex(bytes int) string {
	b := make([]byte, (bytes+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], s.rng.Uint64())
	}
	return fmt.Sprintf("%x", b[:bytes])
}

func (s *Source) newPeer() peer {
	i := len(s.peers)
	p := peer{port: ports[s.rng.IntN(len(ports))]}
	switch i % 4 {
	case 0: // a pod of the cluster
		p.addr = netip.AddrFrom4([4]byte{10, 2, byte(1 + i>>8), byte(i)})
		p.pod = &cluster.Peer{Kind: cluster.PeerPod, Pod: &cluster.Pod{
			UID: fmt.Sprintf("%s-%s", s.hex(4), s.hex(6)), Name: fmt.Sprintf("peer-%d", i), Namespace: fmt.Sprintf("team-%d", i%5),
		}}
	case 1: // IPv6
		b := netip.MustParseAddr("2001:db8::").As16()
		binary.BigEndian.PutUint64(b[8:], s.rng.Uint64())
		p.addr = netip.AddrFrom16(b)
	default:
		p.addr = netip.AddrFrom4([4]byte{byte(11 + s.rng.IntN(160)), byte(s.rng.Uint32()), byte(s.rng.Uint32()), byte(1 + s.rng.IntN(250))})
	}
	if i%2 == 0 {
		p.name = fmt.Sprintf("host-%d.region-%d.example.com", i, i%9)
	}
	return p
}
