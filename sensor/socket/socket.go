// Package socket observes TCP connections, listening sockets and UDP flows,
// each with the process that owns it, and the DNS messages that they carry.
//
// Who owns a socket is decided in the kernel; see sock.h. TCP connections come
// from the changes of a socket's state, UDP flows and DNS from cgroup_skb
// programs on the root of the cgroup hierarchy, or of the part of it that the
// road is limited to. What exists already, and the counters of what lasts, are
// read by iterators through the same records.
//
// # Concurrency
//
// The decoders are called by the reader of the road alone and share nothing
// with the rest of the sensor but atomics. A goroutine of the sensor, from
// Start to Stop, runs the iterators.
package socket

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/sensor"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type sock_record -type dns_record -type sock_what -type sock_reset -type sweep_mode socket socket.bpf.c -- -O2 -Wall -Werror -I../../bpf/include

// Config tunes the sensor. The zero value is usable.
type Config struct {
	// Interval is how often the counters of long-lived connections and flows
	// are reported, if they changed. 0 means 10 s.
	Interval time.Duration
	// FlowIdle is how long a UDP flow lives without a datagram. 0 means 60 s.
	FlowIdle time.Duration
	// Flows is how many UDP flows the kernel counts at once. 0 means 65536; an
	// entry takes about 200 bytes of kernel memory while it lives.
	Flows uint32
	// Trying tells of sockets that ask for a connection, before there is an
	// outcome: for who sees packets and wants to know whose they are.
	Trying bool
}

func (c Config) withDefaults() Config {
	if c.Interval <= 0 {
		c.Interval = 10 * time.Second
	}
	if c.FlowIdle <= 0 {
		c.FlowIdle = time.Minute
	}
	if c.Flows == 0 {
		c.Flows = 65536
	}
	return c
}

// A Sensor is the socket sensor. Make one with New.
type Sensor struct {
	road *bpf.Road
	cfg  Config
	log  *slog.Logger

	// Of the decoders.
	emit atomic.Pointer[func(*event.Event)]
	want atomic.Uint32 // event.KindSet
	dns  dnsDecoder

	// Of the goroutine that calls Start, Snapshot and Stop.
	obj     *bpf.Object
	status  map[string]bpf.HookStatus
	stop    context.CancelFunc
	stopped chan struct{}

	// Of whoever runs the iterators.
	sweeping sync.Mutex
	sweepID  uint32
	// ended asks for a sweep of flows, because sockets with several are gone;
	// again for a snapshot. One request waits, more say the same.
	ended, again chan struct{}
}

var _ sensor.Sensor = (*Sensor)(nil)

// New returns a sensor that writes to road. It starts nothing.
func New(road *bpf.Road, cfg Config, log *slog.Logger) *Sensor {
	return &Sensor{
		road:   road,
		cfg:    cfg.withDefaults(),
		log:    log,
		status: map[string]bpf.HookStatus{},
		ended:  make(chan struct{}, 1),
		again:  make(chan struct{}, 1),
	}
}

// Name implements [sensor.Sensor].
func (*Sensor) Name() string { return "socket" }

// Kinds implements [sensor.Sensor]. The sensor also emits Lost events, for
// datagrams that found the table of flows full.
func (s *Sensor) Kinds() event.KindSet {
	if s.cfg.Trying {
		return kindConn | kindDNS | kindTrying
	}
	return kindConn | kindDNS
}

const (
	kindConn   = event.KindSet(1) << event.KindConnection
	kindDNS    = event.KindSet(1) << event.KindDNS
	kindTrying = event.KindSet(1) << event.KindSocket
)

// hook is a hook with the kinds that need it.
type hook struct {
	bpf.Hook
	kinds event.KindSet
	// needed hooks make Start fail when no rung works.
	needed event.KindSet
}

// hooks are attached in this order, so that the owner of a socket is known
// before its events come.
func hooks() []hook {
	rung := func(kind string, at ...bpf.Attachment) bpf.Rung { return bpf.Rung{Kind: kind, Attachments: at} }
	return []hook{
		{bpf.Hook{Name: "socket.create", Purpose: "who creates a socket, when it is released", Rungs: []bpf.Rung{
			rung("cgroup", bpf.Cgroup("socket_create", ebpf.AttachCGroupInetSockCreate),
				bpf.Cgroup("socket_release", ebpf.AttachCgroupInetSockRelease)),
		}}, kindConn | kindDNS, 0},
		{bpf.Hook{Name: "socket.accept", Purpose: "who accepts a connection", Rungs: []bpf.Rung{
			rung("fentry", bpf.BTF("socket_acc_old")), // until 6.9
			rung("fentry", bpf.BTF("socket_acc_new")),
			rung("tracepoint", bpf.Tracepoint("socket_acc_tp", "syscalls", "sys_exit_accept"),
				bpf.Tracepoint("socket_acc4_tp", "syscalls", "sys_exit_accept4")),
			rung("kprobe", bpf.Kretprobe("socket_acc_kr", "inet_csk_accept")),
			rung("tp_btf", bpf.BTF("socket_acc_est")),
		}}, kindConn, 0},
		{bpf.Hook{Name: "socket.connect", Purpose: "connects that fail at once", Rungs: []bpf.Rung{
			rung("fentry", bpf.BTF("socket_con_fx"), bpf.BTF("socket_con_fe")),
			rung("tracepoint", bpf.Tracepoint("socket_con_tx", "syscalls", "sys_exit_connect"),
				bpf.Tracepoint("socket_con_te", "syscalls", "sys_enter_connect")),
			rung("kprobe", bpf.Kretprobe("socket_con_kx", "__sys_connect_file"),
				bpf.Kprobe("socket_con_ke", "__sys_connect_file")),
		}}, kindConn, 0},
		{bpf.Hook{Name: "socket.reset", Purpose: "who resets a connection", Rungs: []bpf.Rung{
			rung("tp_btf", bpf.BTF("socket_rst_out"), bpf.BTF("socket_rst_in")),
		}}, kindConn, 0},
		{bpf.Hook{Name: "socket.state", Purpose: "TCP connections and listening sockets", Rungs: []bpf.Rung{
			rung("tp_btf", bpf.BTF("socket_state_tp")),
		}}, kindConn, kindConn},
		{bpf.Hook{Name: "socket.packet", Purpose: "UDP flows and DNS messages", Rungs: []bpf.Rung{
			rung("cgroup", bpf.Cgroup("socket_egress", ebpf.AttachCGroupInetEgress),
				bpf.Cgroup("socket_ingress", ebpf.AttachCGroupInetIngress)),
		}}, kindConn | kindDNS, kindDNS},
		{bpf.Hook{Name: "socket.existing", Purpose: "sockets that exist already, counters of long-lived ones", Rungs: []bpf.Rung{
			rung("iter", bpf.Iter("socket_files")),
		}}, kindConn | kindDNS, 0},
	}
}

// Hooks returns every hook that the sensor may attach, whatever is wanted of it.
func Hooks() []bpf.Hook {
	var out []bpf.Hook
	for _, h := range hooks() {
		out = append(out, h.Hook)
	}
	return out
}

// Start implements [sensor.Sensor]. Without the hooks for TCP connections, or
// for DNS where that is wanted, it fails; of the others Hooks tells.
func (s *Sensor) Start(wanted interest.Set, emit func(*event.Event)) (err error) {
	want := wanted.Kinds() & s.Kinds()
	if want == 0 {
		return s.Stop()
	}
	had := event.KindSet(s.want.Load())
	running := s.obj != nil
	if !running {
		if err := s.open(); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = s.Stop() // what failed first is what counts
			}
		}()
	}
	s.emit.Store(&emit)
	s.want.Store(uint32(want))
	for name, on := range map[string]bool{"want_flows": want&kindConn != 0, "want_dns": want&kindDNS != 0, "want_trying": want&kindTrying != 0} {
		if err := s.set(name, on); err != nil {
			return err
		}
	}
	for _, h := range hooks() {
		if err := s.arrange(h, want); err != nil {
			return err
		}
	}
	if !running {
		s.launch()
	} else if want&kindConn != 0 && had&kindConn == 0 {
		request(s.again) // nobody else asks for a snapshot
	}
	return nil
}

// open makes the maps in the kernel and registers the decoders.
func (s *Sensor) open() error {
	spec, err := loadSocket()
	if err != nil {
		return fmt.Errorf("read object socket: %w", err)
	}
	spec.Maps["flows"].MaxEntries = s.cfg.Flows
	if err := spec.Variables["flow_idle"].Set(uint64(s.cfg.FlowIdle)); err != nil {
		return fmt.Errorf("set flow_idle: %w", err)
	}
	s.obj, err = s.road.Open("socket", spec)
	if err != nil {
		return err
	}
	s.road.Handle(bpf.RecTCP, "socket.tcp", bpf.Bulk, s.decodeSock)
	s.road.Handle(bpf.RecSock, "socket.existing", bpf.Bulk, s.decodeSock)
	s.road.Handle(bpf.RecUDP, "socket.udp", bpf.Bulk, s.decodeSock)
	s.road.Handle(bpf.RecUDPEnd, "socket.udp_end", bpf.Bulk, s.decodeSock)
	s.road.Handle(bpf.RecDNS, "socket.dns", bpf.Bulk, s.decodeDNS)
	return nil
}

// arrange attaches or detaches one hook.
func (s *Sensor) arrange(h hook, want event.KindSet) error {
	st, known := s.status[h.Name]
	attached := known && st.Err == ""
	if h.kinds&want == 0 {
		delete(s.status, h.Name)
		if !attached {
			return nil
		}
		if h.Name == "socket.state" {
			if err := s.set("closes_seen", false); err != nil {
				return err
			}
		}
		return s.obj.Detach(h.Name)
	}
	if attached {
		return nil
	}
	st, err := s.obj.Attach(h.Hook)
	s.status[h.Name] = st
	if err != nil {
		if h.needed&want != 0 {
			return fmt.Errorf("attach %s: %w", h.Name, err)
		}
		s.log.Warn("hook is not available", "hook", h.Name, "err", err)
		return nil
	}
	switch h.Name {
	case "socket.accept":
		return s.set("accept_raw", st.Rung == "tracepoint" || st.Rung == "kprobe")
	case "socket.state":
		return s.set("closes_seen", true)
	}
	return nil
}

// set sets a variable of the programs.
func (s *Sensor) set(name string, on bool) error {
	if err := s.obj.Variable(name).Set(on); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// Stop implements [sensor.Sensor].
func (s *Sensor) Stop() error {
	if s.obj == nil {
		return nil
	}
	if s.stop != nil {
		s.stop()
		<-s.stopped
		s.stop = nil
	}
	err := s.obj.Close()
	s.obj = nil
	s.want.Store(0)
	clear(s.status)
	return err
}

// Hooks implements [sensor.Sensor].
func (s *Sensor) Hooks() []sensor.HookStatus {
	var out []sensor.HookStatus
	for _, h := range hooks() {
		if st, ok := s.status[h.Name]; ok {
			out = append(out, sensor.HookStatus{HookStatus: st, Kinds: h.kinds})
		}
	}
	return out
}

// launch starts the goroutine that runs the iterators. It ends with Stop.
func (s *Sensor) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.stopped = cancel, make(chan struct{})
	obj := s.obj
	go func() {
		defer close(s.stopped)
		s.sweeper(ctx, obj)
	}()
}
