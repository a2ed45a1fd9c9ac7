package cni

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"warren/api"
)

func TestParseArgs(t *testing.T) {
	for args, want := range map[string]pod{
		"":                  {},
		";;":                {},
		"IgnoreUnknown=1":   {},
		"K8S_POD_UID=0-AbC": {uid: "0-AbC"},
		"IgnoreUnknown=true;X=y;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c-1;K8S_POD_UID=u;K8S_POD_INFRA_CONTAINER_ID=0": {"u", "a", "b.c-1"},
	} {
		if got, err := parseArgs(args); err != nil || got != want {
			t.Errorf("%q: %+v, %v", args, got, err)
		}
	}
	for _, args := range []string{
		"x", "=1", "X=1", "IgnoreUnknown=0;X=1", "IgnoreUnknown=maybe", "K8S_POD_NAME=a", "K8S_POD_NAMESPACE=a", "K8S_POD_NAME=;K8S_POD_NAMESPACE=a",
		"K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=a", "K8S_POD_NAMESPACE=A;K8S_POD_NAME=a", "K8S_POD_NAMESPACE=-a;K8S_POD_NAME=a", "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b",
		"K8S_POD_NAME=a;K8S_POD_NAMESPACE=" + strings.Repeat("a", 64), "K8S_POD_UID=" + strings.Repeat("a", 129), "K8S_POD_UID=a\x00", "K8S_POD_UID=a\nb",
	} {
		_, err := parseArgs(args)
		if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrInvalidEnvironmentVariables {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestNodeCheck(t *testing.T) {
	node := func(mtu int, list ...string) Node {
		n := Node{MTU: mtu}
		for _, s := range list {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(s))
		}
		return n
	}
	for _, n := range []Node{node(1500, "10.0.0.0/24"), node(1280, "fd00::/64"), node(576, "10.0.0.0/32"), node(9000, "10.0.0.0/24", "10.0.1.0/24", "fd00::/112")} {
		if err := n.Check(); err != nil {
			t.Errorf("%+v: %v", n, err)
		}
	}
	for _, n := range []Node{
		{}, {MTU: 1500, PodCIDRs: []netip.Prefix{{}}}, node(1500), node(0, "10.0.0.0/24"), node(70000, "10.0.0.0/24"), node(1279, "fd00::/64"), node(1500, "10.0.0.1/24"), node(1500, "0.0.0.0/0"),
		node(1500, "127.0.0.0/8"), node(1500, "fe80::/64"), node(1500, "ff00::/16"), node(1500, "::ffff:10.0.0.0/120"), node(1500, "10.0.0.0/24", "10.0.0.128/25"),
	} {
		if n.Check() == nil {
			t.Errorf("%+v is accepted", n)
		}
		if WriteNode(t.TempDir(), n) == nil {
			t.Errorf("%+v is written", n)
		}
	}
	dir := t.TempDir() + "/a/b"
	want := node(1450, "10.0.0.0/24", "fd00::/64")
	if err := WriteNode(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadNode(dir)
	if err != nil || got.MTU != 1450 || len(got.PodCIDRs) != 2 || got.Boot != bootID() {
		t.Errorf("%+v, %v", got, err)
	}
	for range 2 {
		if err := RemoveNode(dir); err != nil {
			t.Error(err)
		}
	}
}

func TestNames(t *testing.T) {
	a := api.Attachment{ContainerID: strings.Repeat("a", 64), Interface: "eth0"}
	seen := map[string]bool{}
	for _, n := range []string{"warren", "other"} {
		for _, i := range []string{"eth0", "eth1"} {
			a.Interface = i
			name := hostName(n, a)
			pod, host := hardware(n, a)
			if len(name) != 15 || seen[name] || pod == host || pod[0]&3 != 2 || host[0]&3 != 2 {
				t.Errorf("%s %s: %s %s %s", n, i, name, pod, host)
			}
			seen[name] = true
		}
	}
	a.ContainerID = strings.Repeat("a", 253)
	if len(alias(strings.Repeat("n", 64), a)) > maxAlias {
		t.Error("the alias is too long")
	}
	for _, args := range [][]string{{"/opt/cni/bin/warren-cni"}, {"warren-cni-other"}, {"warren", "cni"}, {"warren-cni", "x"}} {
		if !Called(args) {
			t.Errorf("%q is not the plugin", args)
		}
	}
	for _, args := range [][]string{nil, {"warren"}, {"warren-cnix"}, {"warren", "agent", "cni"}, {"/warren-cni/warren"}} {
		if Called(args) {
			t.Errorf("%q is the plugin", args)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"1.1.0","name":"warren","type":"warren-cni","stateDir":"/s","socket":"/a","mtu":1400,"statusGrace":5,"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":2,"protocol":"UDP","hostIP":"::ffff:1.2.3.4"}]}}`,
		`{"cniVersion":"1.1.0","name":"w","prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"interface":0,"address":"10.0.0.1/32"}],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		`{"cniVersion":"0.3.1","name":"w","prevResult":{"ips":[{"version":"4","address":"10.0.0.1/32"}]}}`,
		`{"name":"w","cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]}`,
		`{"name":"w","cni.dev/valid-attachments":null}`, `null`, `{"prevResult":{}}`, `{"cniVersion":"0.2.0","name":"w","prevResult":{"ip4":{"ip":"10.0.0.1/8"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err != nil {
			if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code == 0 || e.Msg == "" {
				t.Fatalf("an error that no runtime understands: %v", err)
			}
			return
		}
		if validName(c.Name) != nil || !strings.HasPrefix(c.StateDir, "/") || !strings.HasPrefix(c.socketOf(Node{}), "/") || c.MTU < 0 {
			t.Errorf("accepted: %+v", c)
		}
		for _, p := range c.RuntimeConfig.PortMappings {
			if p.check() != nil || protocolNumbers[p.Protocol] == 0 {
				t.Errorf("accepted: %+v", p)
			}
			p.forwarding(netip.MustParseAddr("10.0.0.1"))
			p.forwarding(netip.MustParseAddr("fd00::1"))
		}
		if valid, err := c.valid(); err == nil && valid == nil {
			t.Error("neither a list nor an error")
		}
		if c.prev != nil {
			w := wire{a: api.Attachment{ContainerID: "a", Interface: "eth0"}}
			_ = told(c.prev, podRoutes(1, netip.MustParseAddr("10.0.0.1"))[1])
			for _, ip := range c.prev.IPs {
				_ = addrOf(ip.Address.IP)
			}
			_ = w
		}
	})
}

func FuzzArgs(f *testing.F) {
	for _, s := range []string{"", "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c", "A=B=C", ";", "=", "IgnoreUnknown="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseArgs(s)
		if err != nil {
			if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrInvalidEnvironmentVariables {
				t.Fatalf("an error that no runtime understands: %v", err)
			}
			return
		}
		if strings.ContainsAny(p.name+p.namespace+p.uid, "/\x00\n \x1b") || len(p.name) > 253 || len(p.namespace) > 63 {
			t.Errorf("accepted: %+v", p)
		}
	})
}

// Files of the state directory may be anybody's: whatever is in them, they are
// read or refused.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"containerID":"a","interface":"eth0","netns":"/n","hostInterface":"wrn0","addrs":["10.0.0.1","fd00::1"],"ports":[{"hostPort":1,"containerPort":2,"protocol":"tcp"}],"boot":"b","made":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"podCIDRs":["10.0.0.0/24","fd00::/64"],"mtu":1500,"reserved":["10.0.0.1"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRecord(b); err == nil {
			for _, p := range r.Ports {
				p.forwarding(r.Addrs[0])
			}
			if _, err := json.Marshal(r); err != nil && r.Made.Year() < 10000 && r.Made.Year() >= 0 {
				t.Errorf("read and not written: %v", err)
			}
		}
		if n, err := parseNode(b); err == nil {
			if _, err := (&state{t.TempDir()}).choose(occupied{}, n); err != nil {
				if full := (*exhaustedError)(nil); !errors.As(err, &full) {
					t.Errorf("%+v: %v", n, err)
				}
			}
		}
	})
}
