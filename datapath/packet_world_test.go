package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"

	"warren/internal/testkit"
)

// What programs answer.
const (
	toStack    = 0xffffffff // TC_ACT_UNSPEC
	toDrop     = 2
	toRedirect = 7
)

// deviceMAC is that of all devices: what is sent there is for this node.
var deviceMAC = [6]byte{0x02, 0, 0, 0, 0, 0xff}

func podMAC(name string) []byte { return []byte{0x02, 0, 0, 0, 0, name[0]} }

// The world of packet tests: pods a, b and d here, c on another node.
const (
	idA, idB, idC, idD  = 101, 102, 103, 104
	idHost, idNode      = 11, 12
	idWorld4, idWorld6  = 21, 22
	setA, setB, setD    = 1, 2, 4
	hostAddr, nodeAddr  = "192.168.0.1", "192.168.0.2"
	service4, service6  = "10.96.0.1", "fd96::1"
	world4, world6      = "203.0.113.9", "2001:db8::9"
	numberA, numberB    = 1, 2
	remoteC4, remoteC6  = "10.0.9.3", "fd00:9::3"
	podA4, podB4, podD4 = "10.0.0.1", "10.0.0.2", "10.0.0.4"
	podA6, podB6, podD6 = "fd00::1", "fd00::2", "fd00::4"
)

// A packetWorld is loaded programs with a configuration, in a network namespace
// with the devices that packets are run on.
type packetWorld struct {
	testing.TB
	*kernelSide
	ns      *testkit.Netns
	devices map[string]uint32 // a, b, d, uplink, tunnel
	config  stateConfig
	ring    *ringbuf.Reader
}

// small makes maps no larger than tests want them.
func small(maps map[string]*ebpf.MapSpec) {
	for name, entries := range map[string]uint32{
		"flows": 1 << 16, "sweeps": 1 << 17, "verdicts": 1 << 16, "addresses": 1 << 10, "endpoints": 1 << 8, "sets": 1 << 8,
	} {
		if maps[name] != nil {
			maps[name].MaxEntries = entries
		}
	}
}

// sharedPacketWorld is what most tests begin with, from the first of them to the
// end of the process: to load the programs takes an emulated machine seconds.
// Tests run one after the other.
var sharedPacketWorld *packetWorld

// lasting does not end with a test.
type lasting struct{ testing.TB }

func (lasting) Cleanup(func()) {}

// newPacketWorld is a world as it was when it was new. Whoever counts what becomes
// of flows that nobody sends for has one of its own, by newPacketWorldOf: the
// kernel may still find those of tests before.
func newPacketWorld(t *testing.T) *packetWorld {
	t.Helper()
	if sharedPacketWorld == nil {
		sharedPacketWorld = newPacketWorldOf(lasting{t}, small)
	}
	return sharedPacketWorld.again(t)
}

// newPacketWorldOf is a world of the test's own, with maps of other sizes.
func newPacketWorldOf(t testing.TB, resize func(maps map[string]*ebpf.MapSpec)) *packetWorld {
	t.Helper()
	w := &packetWorld{TB: t, kernelSide: loadKernelSide(t, resize), devices: map[string]uint32{}}
	w.ns = testkit.NewNetns(t)
	err := w.ns.Do(func() error {
		for _, name := range []string{"a", "b", "d", "uplink", "tunnel"} {
			err := netlink.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr(deviceMAC[:])},
				PeerName:  name + "-peer",
			})
			if err != nil {
				return fmt.Errorf("add %s: %w", name, err)
			}
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			w.devices[name] = uint32(link.Attrs().Index)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.ring, err = ringbuf.NewReader(w.Events); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.ring.Close() })

	w.fill()
	return w
}

// again is the world as it was when it was new, for a subtest.
func (w *packetWorld) again(t testing.TB) *packetWorld {
	t.Helper()
	next := *w
	next.TB = t
	next.devices = maps.Clone(w.devices)
	var device uint32
	var ep stateEndpoint
	for it := w.Endpoints.Iterate(); it.Next(&device, &ep); {
		next.put(w.Numbers, uint32(ep.Number), uint32(0))
	}
	for _, m := range []*ebpf.Map{w.Addresses, w.Networks, w.Endpoints, w.Sets, w.Verdicts, w.Flows, w.Fragments} {
		next.empty(m)
	}
	for _, m := range []*ebpf.Map{w.Counters, w.Quotas} {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			t.Fatal(err)
		}
		for i := range m.MaxEntries() {
			next.put(m, i, slices.Repeat([][16]byte{{}}, cpus))
		}
	}
	next.events()
	next.fill()
	return &next
}

func (w *packetWorld) empty(m *ebpf.Map) {
	w.Helper()
	var keys [][]byte
	key := make([]byte, m.KeySize())
	value := make([]byte, m.ValueSize())
	for it := m.Iterate(); it.Next(&key, &value); {
		keys = append(keys, bytes.Clone(key))
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			w.Fatal(err)
		}
	}
}

// fill writes the configuration that tests begin with.
func (w *packetWorld) fill() {
	w.Helper()
	w.config = stateConfig{
		Mode: uint32(stateModeMODE_ROUTED), Uplink: w.devices["uplink"], Vni: 87,
		Flags: uint32(stateConfigFlagsCONFIG_TELL),
	}
	w.configure()
	pod, here := uint32(statePlaceFlagsPLACE_POD), w.devices
	w.place(podA4, statePlace{Id: idA, Ifindex: here["a"], Flags: pod})
	w.place(podA6, statePlace{Id: idA, Ifindex: here["a"], Flags: pod})
	w.place(podB4, statePlace{Id: idB, Ifindex: here["b"], Flags: pod, Mac: [6]uint8(podMAC("b")), HostMac: deviceMAC})
	w.place(podB6, statePlace{Id: idB, Ifindex: here["b"], Flags: pod, Mac: [6]uint8(podMAC("b")), HostMac: deviceMAC})
	w.place(podD4, statePlace{Id: idD, Ifindex: here["d"], Flags: pod})
	node4 := binary.NativeEndian.Uint32(netip.MustParseAddr(nodeAddr).AsSlice())
	w.place(remoteC4, statePlace{Id: idC, Flags: pod, Node4: node4})
	w.place(remoteC6, statePlace{Id: idC, Flags: pod, Node4: node4})
	w.place(hostAddr, statePlace{Id: idHost, Flags: uint32(statePlaceFlagsPLACE_HOST)})
	w.place(nodeAddr, statePlace{Id: idNode, Flags: uint32(statePlaceFlagsPLACE_NODE)})
	w.place(service4, statePlace{Flags: uint32(statePlaceFlagsPLACE_SERVICE)})
	w.place(service6, statePlace{Flags: uint32(statePlaceFlagsPLACE_SERVICE)})
	w.network("0.0.0.0/0", idWorld4)
	w.network("::/0", idWorld6)
	w.endpoint("a", stateEndpoint{Ip4: addrOf(podA4), Ip6: addrOf(podA6), Set: both(setA), Number: numberA})
	w.endpoint("b", stateEndpoint{Ip4: addrOf(podB4), Ip6: addrOf(podB6), Set: both(setB), Number: numberB})
	w.endpoint("d", stateEndpoint{Ip4: addrOf(podD4), Ip6: addrOf(podD6), Set: both(setD), Number: 4})
	for _, set := range []uint32{setA, setB, setD} {
		w.set(set, stateSet{})
	}
}

func both(n uint32) [2]uint32 { return [2]uint32{n, n} }

func addrOf(s string) stateAddr { return stateAddr{Bytes: netip.MustParseAddr(s).As16()} }

func (w *packetWorld) put(m *ebpf.Map, key, value any) {
	w.Helper()
	if err := m.Put(key, value); err != nil {
		w.Fatal(err)
	}
}

// configure writes w.config.
func (w *packetWorld) configure() { w.put(w.Settings, uint32(0), w.config) }

func (w *packetWorld) place(addr string, p statePlace) {
	w.put(w.Addresses, addrOf(addr), bothSlots(p))
}

func (w *packetWorld) network(prefix string, id uint32) {
	p := netip.MustParsePrefix(prefix)
	bits := uint32(p.Bits())
	if p.Addr().Is4() {
		bits += 96
	}
	w.put(w.Networks, stateNetwork{Prefix: bits, Addr: p.Addr().As16()}, stateNetworkEntry{Slot: bothSlots(statePlace{Id: id}).Slot})
}

func (w *packetWorld) endpoint(device string, ep stateEndpoint) {
	ep.Mac, ep.HostMac = [6]uint8(podMAC(device)), deviceMAC
	w.put(w.Endpoints, w.devices[device], ep)
	w.put(w.Numbers, uint32(ep.Number), w.devices[device])
}

func (w *packetWorld) set(id uint32, s stateSet) { w.put(w.Sets, id, s) }

const (
	allow = uint32(stateActionACTION_ALLOW)
	deny  = uint32(stateActionACTION_DENY)
	pass  = uint32(stateActionACTION_PASS)

	egress  = uint8(stateDirectionEGRESS)
	ingress = uint8(stateDirectionINGRESS)
)

// order is that of a rule: precedence and action.
func order(precedence, action uint32) uint32 { return precedence<<2 | action }

// A rule is one entry of a set; bits 16 is one port, 0 all.
type testRule struct {
	set       uint32
	direction uint8
	peer      uint32
	proto     uint8
	port      uint16
	bits      uint8
	tier      int
	order     uint32
	rule      uint32
}

// isolate makes a set deny what no rule allows, in both directions.
func (w *packetWorld) isolate(set uint32) {
	w.Helper()
	var s stateSet
	if err := w.Sets.Lookup(set, &s); err != nil {
		w.Fatal(err)
	}
	s.Isolated = [2]uint8{1, 1}
	w.set(set, s)
}

// rule adds a rule to a set.
func (w *packetWorld) rule(r testRule) {
	w.Helper()
	var s stateSet
	if err := w.Sets.Lookup(r.set, &s); err != nil {
		w.Fatal(err)
	}
	key := stateVerdictKey{Set: r.set, Peer: r.peer, Bits: r.bits, Proto: r.proto}
	port := r.port & uint16(uint32(0xffff0000)>>r.bits)
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&key.Port))[:], port)
	if r.proto == 0 {
		s.AnyProto[r.direction] = 1
	} else {
		s.Bits[r.direction] |= 1 << r.bits
	}
	if r.direction == ingress {
		key.Bits |= 0x80 // KEY_INGRESS
	}
	var v stateVerdict
	if err := w.Verdicts.Lookup(key, &v); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		w.Fatal(err)
	}
	v.Order[r.tier], v.Rule[r.tier] = r.order, r.rule
	w.put(w.Verdicts, key, v)
	w.set(r.set, s)
}

// flip puts what was written into the other slots in force.
func (w *packetWorld) flip() {
	w.config.Generation++
	w.configure()
}

// skBuff is struct __sk_buff as far as tests set and read it.
type skBuff struct {
	_       [2]uint32
	Mark    uint32
	_       [7]uint32
	Ifindex uint32
	_       [27]uint32
	Tstamp  uint64
	WireLen uint32
	GSOSegs uint32
	_       uint64
	GSOSize uint32
	_       uint32
	_       uint64
}

// A ran is what became of a packet.
type ran struct {
	verdict uint32
	out     []byte
	mark    uint32
}

// run runs a program on a device with a packet. change may set more.
func (w *packetWorld) run(p *ebpf.Program, device string, packet []byte, change ...func(*skBuff)) ran {
	w.Helper()
	ctx := skBuff{Ifindex: w.devices[device]}
	for _, f := range change {
		f(&ctx)
	}
	var r ran
	err := w.ns.Do(func() error {
		var after skBuff
		opts := ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256), Context: ctx, ContextOut: &after}
		var err error
		r.verdict, err = p.Run(&opts)
		r.out, r.mark = opts.DataOut, after.Mark
		return err
	})
	if err != nil {
		w.Fatalf("run on %s: %v", device, err)
	}
	return r
}

func withMark(mark uint32) func(*skBuff) { return func(s *skBuff) { s.Mark = mark } }

// from runs what a pod sends.
func (w *packetWorld) from(pod string, packet []byte) uint32 {
	w.Helper()
	return w.run(w.pod.EndpointFrom, pod, packet).verdict
}

// to runs what the stack sends a pod.
func (w *packetWorld) to(pod string, packet []byte) uint32 {
	w.Helper()
	return w.run(w.pod.EndpointTo, pod, packet).verdict
}

// want fails the test if a packet did not go the way that it should.
func (w *packetWorld) want(what string, got, want uint32) {
	w.Helper()
	if got != want {
		w.Errorf("%s: program returned %d, want %d", what, int32(got), int32(want))
	}
}

// keyOf is a flow's key as the contract has it, and whether the sender is b.
func keyOf(src, dst string, sport, dport uint16, proto uint8) (stateFlowKey, bool) {
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	x, y := a.As16(), b.As16()
	swap := string(x[:]) > string(y[:]) || x == y && sport > dport
	if swap {
		x, y, sport, dport = y, x, dport, sport
	}
	return stateFlowKey{
		A: stateAddr{Bytes: x}, B: stateAddr{Bytes: y},
		PortA: networkOrder(sport), PortB: networkOrder(dport), Proto: proto,
	}, swap
}

func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// flow finds the flow that the client has begun; fails where there is none.
func (w *packetWorld) flow(client, server string, sport, dport uint16, proto uint8) stateFlow {
	w.Helper()
	key, swapped := keyOf(client, server, sport, dport, proto)
	var f stateFlow
	if err := w.Flows.Lookup(key, &f); err != nil {
		w.Fatalf("flow %s:%d > %s:%d: %v", client, sport, server, dport, err)
	}
	if (f.Reversed == 1) != swapped {
		w.Errorf("flow %s:%d > %s:%d: the client is the other one", client, sport, server, dport)
	}
	return f
}

func (w *packetWorld) noFlow(client, server string, sport, dport uint16, proto uint8) {
	w.Helper()
	key, _ := keyOf(client, server, sport, dport, proto)
	var f stateFlow
	if err := w.Flows.Lookup(key, &f); !errors.Is(err, ebpf.ErrKeyNotExist) {
		w.Errorf("flow %s:%d > %s:%d is there: %+v, %v", client, sport, server, dport, f, err)
	}
}

// events are all that have come by now.
func (w *packetWorld) events() []stateFlowEvent {
	w.Helper()
	var all []stateFlowEvent
	w.ring.SetDeadline(time.Unix(1, 0))
	for {
		r, err := w.ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			w.Fatal(err)
		}
		var e stateFlowEvent
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)), r.RawSample)
		all = append(all, e)
	}
}

// kinds are those of all events that have come by now.
func (w *packetWorld) kinds() []stateEventKind {
	w.Helper()
	kinds := []stateEventKind{}
	for _, e := range w.events() {
		kinds = append(kinds, stateEventKind(e.Kind))
	}
	return kinds
}

// counter is the sum over all CPUs.
func (w *packetWorld) counter(index uint32) stateCounter {
	w.Helper()
	var each []stateCounter
	if err := w.Counters.Lookup(index, &each); err != nil {
		w.Fatal(err)
	}
	var sum stateCounter
	for _, c := range each {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum
}

func (w *packetWorld) dropped(direction uint8, reason stateReason) uint64 {
	w.Helper()
	return w.counter(uint32(direction)*16 + uint32(reason)).Packets
}
