package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vishvananda/netlink"

	"warren/internal/wholefile"
)

func cidrs(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func TestNodeAddr(t *testing.T) {
	for pods, want := range map[string]string{
		"10.240.1.0/24":      "10.240.1.1",
		"10.240.1.77/24":     "10.240.1.1",
		"fd00:240:0:1::/64":  "fd00:240:0:1::1",
		"10.0.0.0/31":        "10.0.0.1",
		"10.0.0.9/32":        "invalid IP",
		"255.255.255.255/32": "invalid IP",
	} {
		if got := NodeAddr(netip.MustParsePrefix(pods)); got.String() != want {
			t.Errorf("%s: %s, want %s", pods, got, want)
		}
	}
}

func TestTunnelMAC(t *testing.T) {
	four := TunnelMAC(netip.MustParseAddr("172.30.0.12"))
	if want := [6]byte{0x0e, 0x57, 172, 30, 0, 12}; four != want {
		t.Errorf("%x, want %x", four, want)
	}
	if mapped := TunnelMAC(netip.MustParseAddr("::ffff:172.30.0.12")); mapped != four {
		t.Errorf("%x for the same address of IPv6, %x of IPv4", mapped, four)
	}
	six := TunnelMAC(netip.MustParseAddr("fd00:30::12"))
	if six[0]&1 != 0 || six[0]&2 == 0 || six == TunnelMAC(netip.MustParseAddr("fd00:30::13")) {
		t.Errorf("%x: of one device, and given by nobody", six)
	}
}

func TestSpans(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []netip.Prefix
		six  bool
		want []string
	}{
		{"none", nil, false, nil},
		{"one", cidrs("10.0.0.0/24"), false, []string{"10.0.0.0-10.0.0.255"}},
		{"neighbours are one", cidrs("10.0.1.0/24", "10.0.0.0/24"), false, []string{"10.0.0.0-10.0.1.255"}},
		{"a part of another", cidrs("10.0.0.0/8", "10.3.0.0/16", "11.0.0.1/32"), false, []string{"10.0.0.0-10.255.255.255", "11.0.0.1-11.0.0.1"}},
		{"to the end of all", cidrs("224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"), false, []string{"224.0.0.0-255.255.255.255"}},
		{"the other family", cidrs("10.0.0.0/8", "fd00::/8"), true, []string{"fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
	} {
		var got []string
		for _, s := range spans(test.in, test.six) {
			got = append(got, s.String())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	// An interval that ends with the last address has no end in the kernel.
	last := elements(spans(cidrs("10.0.0.0/8", "224.0.0.0/3"), false))
	if len(last) != 3 || last[1].IntervalEnd != true || last[2].IntervalEnd {
		t.Errorf("elements %+v", last)
	}
}

// FuzzSpans holds spans against the networks that they are made of.
func FuzzSpans(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 3, 0, 0, 16, 255, 255, 255, 255, 32}, uint32(0x0a000001))
	f.Add([]byte{0, 0, 0, 0, 1, 128, 0, 0, 0, 1}, uint32(0xffffffff))
	f.Fuzz(func(t *testing.T, data []byte, asked uint32) {
		var all []netip.Prefix
		for part := range slices.Chunk(data, 5) {
			if len(part) == 5 {
				all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte(part)), int(part[4])%33).Masked())
			}
		}
		list := spans(all, false)
		for i, s := range list {
			if s.First.Compare(s.Last) > 0 || i > 0 && list[i-1].Last.Next().Compare(s.First) >= 0 {
				t.Fatalf("%v touch or are not in order", list)
			}
		}
		a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, asked)))
		in := slices.ContainsFunc(list, func(s span) bool { return s.First.Compare(a) <= 0 && a.Compare(s.Last) <= 0 })
		if want := slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) }); in != want {
			t.Errorf("%s in %v: %v, in %v: %v", a, list, in, all, want)
		}
	})
}

func TestHostConfig(t *testing.T) {
	for name, c := range map[string]HostConfig{
		"network identifier": {VNI: 1 << 24},
		"MTU":                {MTU: 1000},
		"uplink":             {Uplink: "a-name-that-is-too-long"},
		"off":                {KeepSource: cidrs("0.0.0.0/0")},
	} {
		if _, err := NewHost(c, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	h, err := NewHost(HostConfig{KeepSource: cidrs("10.1.2.3/8")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := HostConfig{Instance: "warren", Sysctl: "/proc/sys", VNI: 87, Port: 8472, KeepSource: cidrs("10.0.0.0/8")}
	if diff := cmp.Diff(want, h.cfg, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestHostNames(t *testing.T) {
	protocols := make(map[int]string)
	for _, instance := range []string{"warren", "a", "second", "a-name-of-thirty-two-characters-"} {
		h, err := NewHost(HostConfig{Instance: instance}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if name := h.tunnelName(); len(name) > 15 {
			t.Errorf("%s: the name %s of a device has more than 15 bytes", instance, name)
		}
		p := h.protocol()
		if other, taken := protocols[p]; taken {
			t.Errorf("%s and %s have the same protocol %d", instance, other, p)
		}
		protocols[p] = instance
	}
}

func TestHostMTU(t *testing.T) {
	self := Node{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	six := Node{Addrs: self.Addrs[1:]}
	for _, test := range []struct {
		name         string
		mode         Mode
		self         Node
		set, uplink  int
		want         int
		complaint    string
		configurable bool
	}{
		{name: "routed", mode: Routed, self: self, uplink: 1500, want: 1500},
		{name: "jumbo", mode: Routed, self: self, uplink: 9000, want: 9000},
		{name: "tunnels over IPv4", mode: VXLAN, self: self, uplink: 1500, want: 1450},
		{name: "tunnels over IPv6", mode: VXLAN, self: six, uplink: 1500, want: 1430},
		{name: "smaller", mode: VXLAN, self: self, uplink: 1500, set: 1400, want: 1400},
		{name: "larger than fits", mode: VXLAN, self: self, uplink: 1500, set: 1500, want: 1450, complaint: "leaves 1450"},
		{name: "a narrow uplink", mode: VXLAN, self: self, uplink: 1300, want: 1250, complaint: "IPv6 needs 1280"},
	} {
		h, err := NewHost(HostConfig{MTU: test.set}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.mtu(HostState{Mode: test.mode, Self: test.self}, test.uplink)
		if got != test.want || (err == nil) != (test.complaint == "") || err != nil && !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("%s: %d, %v; want %d", test.name, got, err, test.want)
		}
	}
}

func TestMasqueradings(t *testing.T) {
	self := Node{Addrs: []netip.Addr{netip.MustParseAddr("172.30.0.11")}, PodCIDRs: cidrs("10.240.0.0/24", "fd00:240::/64")}
	other := Node{Addrs: []netip.Addr{netip.MustParseAddr("172.30.0.12")}, PodCIDRs: cidrs("10.240.1.0/24", "fd00:240:0:1::/64")}
	config := HostConfig{KeepSource: cidrs("192.168.0.0/16")}
	const pods, rest = "[10.240.0.0-10.240.1.255]", "224.0.0.0-239.255.255.255 255.255.255.255-255.255.255.255]"
	for _, test := range []struct {
		mode   Mode
		config HostConfig
		want   string
	}{
		{Routed, config, "[10.240.0.0-10.240.0.255] " + pods + " [172.30.0.11-172.30.0.12 192.168.0.0-192.168.255.255 " + rest + " invalid IP"},
		// The network below tunnels may not know where pods are.
		{VXLAN, config, "[10.240.0.0-10.240.0.255] " + pods + " [192.168.0.0-192.168.255.255 " + rest + " 10.240.0.1"},
		{VXLAN, HostConfig{NoMasquerade: true}, "[] " + pods + " [] 10.240.0.1"},
		{Chained, config, "[] [] [] invalid IP"},
		{Routed, HostConfig{NoMasquerade: true}, "[] [] [] invalid IP"},
	} {
		h, err := NewHost(test.config, nil)
		if err != nil {
			t.Fatal(err)
		}
		m := h.masqueradings(HostState{Mode: test.mode, Self: self, Others: []Node{other}})[0]
		if got := fmt.Sprint(spanTexts(m.Own), " ", spanTexts(m.Pods), " ", spanTexts(m.Keep), " ", m.Tunnel); got != test.want {
			t.Errorf("%s: %s, want %s", test.mode, got, test.want)
		}
	}
}

func spanTexts(all []span) string {
	var texts []string
	for _, s := range all {
		texts = append(texts, s.String())
	}
	return "[" + strings.Join(texts, " ") + "]"
}

// TestSysctlsElsewhere holds that settings are written to the folder that is
// given, and what happens where they cannot be.
func TestSysctlsElsewhere(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	s := sysctls{root: root, dir: state}
	const name = "net/ipv4/ip_default_ttl" // every machine has it, and it is not 77
	if err := s.want(name, "77"); err == nil || !strings.Contains(err.Error(), "net.ipv4.ip_default_ttl is ") {
		t.Errorf("a setting that cannot be written: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.want(name, "77"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(text) != "77" {
		t.Errorf("%q, %v", text, err)
	}
	if err := s.want("net/ipv4/no_such_setting", "1"); err == nil {
		t.Error("a setting that does not exist could be set")
	}
	// Whoever comes later reads what was, and leaves alone what is not so any more. What
	// one that was killed has left of a file goes.
	if err := os.WriteFile(filepath.Join(state, wholefile.TempPrefix+sysctlRecord+"-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	later := sysctls{root: root, dir: state}
	if err := later.load(); err != nil || later.was[name].Now != "77" {
		t.Errorf("%+v, %v", later.was, err)
	}
	if err := later.restore(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// A file that says other things than ours leads nowhere else.
	evil := `{"boot": "` + bootID() + `", "settings": {"../../etc/passwd": {"was": "x", "now": ""}, "kernel/panic": {"was": "1", "now": "2"}}}`
	if err := os.WriteFile(filepath.Join(state, sysctlRecord), []byte(evil), 0o600); err != nil {
		t.Fatal(err)
	}
	third := sysctls{root: root, dir: state}
	if err := third.load(); err != nil || len(third.was) != 0 {
		t.Errorf("%+v, %v", third.was, err)
	}
}

// TestKindOf says how packets of devices begin.
func TestKindOf(t *testing.T) {
	for encap, want := range map[string]device{
		"ether": uplinkDevice, "none": uplinkDevice | bareDevice, "ipip": uplinkDevice | bareDevice, "ppp": uplinkDevice | bareDevice,
		"infiniband": 0, "loopback": 0, "": 0,
	} {
		got, err := kindOf(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "dev", EncapType: encap}}, uplinkDevice)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %v (%#x), %v; want %#x", encap, got, uint8(got), err, uint8(want))
		}
	}
}
