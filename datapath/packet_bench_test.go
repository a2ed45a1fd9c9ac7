package datapath

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// testRun is the part of union bpf_attr for BPF_PROG_TEST_RUN.
type testRun struct {
	fd, verdict       uint32
	dataIn, dataOut   uint32
	data, out         *byte
	repeat, took      uint32 // took: ns, mean
	ctxIn, ctxOut     uint32
	ctx, ctxAfter     *skBuff
	flags, cpu, batch uint32
	_                 uint32
}

// A meter runs a program with one packet after the other.
type meter struct {
	attr testRun
	ctx  skBuff
}

func newMeter(p *ebpf.Program, ifindex uint32) *meter {
	m := &meter{ctx: skBuff{Ifindex: ifindex}}
	m.attr = testRun{fd: uint32(p.FD()), repeat: 1, ctx: &m.ctx, ctxIn: uint32(unsafe.Sizeof(m.ctx))}
	return m
}

// run gives the verdict and what the kernel says that the run took, ns.
func (m *meter) run(packet []byte) (uint32, uint32, error) {
	m.attr.data, m.attr.dataIn = &packet[0], uint32(len(packet))
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&m.attr)), unsafe.Sizeof(m.attr))
	runtime.KeepAlive(packet)
	if errno != 0 {
		return 0, 0, errno
	}
	return m.attr.verdict, m.attr.took, nil
}

// median runs packets in turn and gives the median of what a run took, ns.
func (w *packetWorld) median(p *ebpf.Program, device string, want uint32, packets [][]byte, runs int) float64 {
	w.Helper()
	all := make([]uint32, 0, runs)
	err := w.ns.Do(func() error {
		m := newMeter(p, w.devices[device])
		for i := range runs {
			verdict, took, err := m.run(packets[i%len(packets)])
			if err != nil {
				return err
			}
			if verdict != want {
				return fmt.Errorf("run %d: program returned %d, want %d", i, int32(verdict), int32(want))
			}
			all = append(all, took)
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	slices.Sort(all)
	return float64(all[len(all)/2])
}

// floor is what a test run of a program costs that does nothing.
func (w *packetWorld) floor(packet []byte) float64 {
	w.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		w.Fatal(err)
	}
	defer p.Close()
	return w.median(p, "a", toStack, [][]byte{packet}, 20_000)
}

// flows makes packets of n flows between two addresses, of one direction.
func manyFlows(src, dst string, sport uint16, dport uint16, n int, reply bool) [][]byte {
	packets := make([][]byte, 0, n)
	for i := range n {
		t := tcp(sport+uint16(i), dport, ack)
		if reply {
			t = tcp(dport, sport+uint16(i), ack)
		}
		packets = append(packets, ether(ip(src, dst, t)))
	}
	return packets
}

// BenchmarkBPFPacket is what a packet of a known flow costs, and one that begins
// one, beside what a test run costs by itself.
func BenchmarkBPFPacket(b *testing.B) {
	for _, v := range []struct{ name, a, b, c string }{
		{"IPv4", podA4, podB4, remoteC4}, {"IPv6", podA6, podB6, remoteC6},
	} {
		for _, flows := range []int{1, 50_000} {
			for _, path := range []string{"out-pod", "out-node", "out-world", "in-stack", "in-node"} {
				b.Run(fmt.Sprintf("%s/%s/flows=%d", v.name, path, flows), func(b *testing.B) {
					w := newPacketWorldOf(b, small)
					w.config.Flags = 0
					w.configure()
					w.policies(setA, 5000)
					w.policies(setB, 5000)
					p, device, want := w.pod.EndpointFrom, "a", uint32(toRedirect)
					var packets [][]byte
					switch path {
					case "out-pod":
						packets = manyFlows(v.a, v.b, 1000, 80, flows, false)
					case "out-node":
						packets = manyFlows(v.a, v.c, 1000, 80, flows, false)
					case "out-world":
						world := world4
						if v.name == "IPv6" {
							world = world6
						}
						packets, want = manyFlows(v.a, world, 1000, 80, flows, false), toStack
					case "in-stack":
						world := world4
						if v.name == "IPv6" {
							world = world6
						}
						packets = manyFlows(world, v.b, 1000, 80, flows, false)
						p, device, want = w.pod.EndpointTo, "b", toStack
					case "in-node":
						packets = manyFlows(v.c, v.b, 1000, 80, flows, false)
						p, device = w.node.HostFrom, "uplink"
					}
					floor := w.floor(packets[0])
					first := w.median(p, device, want, packets, max(flows, 1))
					hot := 0.0
					for b.Loop() {
						hot = w.median(p, device, want, packets, max(20_000, flows))
					}
					b.ReportMetric(floor, "floor-ns")
					b.ReportMetric(first, "first-ns")
					b.ReportMetric(hot, "ns/packet")
					b.ReportMetric(0, "ns/op")
				})
			}
		}
	}
}

// BenchmarkBPFPolicies is what packets cost by how many policies there are: those
// of a known flow always the same.
func BenchmarkBPFPolicies(b *testing.B) {
	for _, n := range []int{0, 50, 500, 5000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			w := newPacketWorldOf(b, small)
			w.config.Flags = 0
			w.configure()
			w.policies(setA, n)
			w.policies(setB, n)
			packets := manyFlows(podA4, podB4, 1000, 80, 50_000, false)
			floor := w.floor(packets[0])
			first := w.median(w.pod.EndpointFrom, "a", toRedirect, packets, len(packets))
			hot := 0.0
			for b.Loop() {
				hot = w.median(w.pod.EndpointFrom, "a", toRedirect, packets[:1], 20_000)
			}
			b.ReportMetric(floor, "floor-ns")
			b.ReportMetric(first, "first-ns")
			b.ReportMetric(hot, "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// policies makes a set refuse all but n rules, one of which is for the packets of
// benchmarks.
func (w *packetWorld) policies(set uint32, n int) {
	w.Helper()
	if n == 0 {
		return
	}
	var keys []stateVerdictKey
	var values []stateVerdict
	for i := range n {
		for _, direction := range []uint8{0, 0x80} {
			k := stateVerdictKey{Set: set, Peer: uint32(10_000 + i), Bits: 16 | direction, Proto: protoTCP}
			binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&k.Port))[:], 80)
			if i == 0 {
				k.Peer = 0
			}
			keys = append(keys, k)
			values = append(values, stateVerdict{Order: [2]uint32{0, order(uint32(i+1), allow)}, Rule: [2]uint32{0, uint32(i + 1)}})
		}
	}
	if _, err := w.Verdicts.BatchUpdate(keys, values, nil); err != nil {
		w.Fatal(err)
	}
	w.set(set, stateSet{Bits: [2]uint32{1 << 16, 1 << 16}, Isolated: [2]uint8{1, 1}})
}
