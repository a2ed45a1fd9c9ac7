package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/api"
)

func TestReport(t *testing.T) {
	const locked = "lockdown refuses fentry (a trampoline on kernel text): its mode is integrity"
	process := api.Sensor{Name: "process", Running: true, Hooks: []api.Hook{
		{Name: "process.credentials", Purpose: "changes of users, groups and capabilities", Rung: "tracepoint", Refused: []api.Refusal{{Rung: "fentry", Reason: locked}}},
		{Name: "process.exec", Purpose: "programs started", Rung: "tp_btf"},
	}}
	socket := api.Sensor{Name: "socket", Running: true, Hooks: []api.Hook{
		{Name: "socket.accept", Purpose: "who accepts a connection", Rung: "tracepoint", Refused: []api.Refusal{{Rung: "fentry", Reason: locked}, {Rung: "fentry", Reason: locked}}},
		{Name: "socket.connect", Purpose: "connects that fail at once", Error: "everything was refused", Refused: []api.Refusal{{Rung: "fentry", Reason: locked}, {Rung: "kprobe", Reason: "this kernel is built without kprobes"}}},
		{Name: "socket.packet", Purpose: "UDP flows and DNS messages", Error: "CAP_NET_ADMIN is missing"},
	}}
	caps := func(missing ...string) []api.Cap {
		var list []api.Cap
		for _, n := range needs {
			r := right{need: n, held: true}
			for _, m := range missing {
				r.held = r.held && r.name() != m
			}
			returned := n.startOnly && r.held
			list = append(list, api.Cap{Name: r.name(), For: n.feature, Required: n.required, Held: r.held && !returned, Returned: returned})
		}
		return list
	}
	whole := api.Status{
		Version: "v0.1.0", Instance: "warren", PID: 4242, Kernel: "6.12.107+deb13-cloud-amd64", Lockdown: "none", Ready: true,
		StateDir: "/var/lib/warren", Listen: []string{"unix:/run/warren/warren.sock", "http://127.0.0.1:7117"},
		Capabilities: caps(), Sensors: []api.Sensor{process, socket},
	}
	other := whole
	other.Instance, other.StateDir, other.Listen = "lab", "/var/lib/lab", []string{"unix:/run/lab/warren.sock"}
	other.Lockdown = "integrity"
	other.Capabilities = caps("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
	lame := socket
	lame.Error = "start sensor socket: attach socket.packet: socket.packet is unavailable: cgroup: CAP_NET_ADMIN is missing"
	other.Sensors = []api.Sensor{process, lame}
	idle := whole
	idle.Sensors = []api.Sensor{process, {Name: "socket"}, {Name: "file", Error: "start sensor file: no such hook"}}

	node := whole
	node.Sensors = nil
	node.Node, node.CgroupRoot, node.Kubernetes = "node-1", "/k8s/node-1", &api.Kubernetes{Server: "https://10.96.0.1", Connected: true}
	away, off := node, node
	away.CgroupRoot, away.Kubernetes = "", &api.Kubernetes{Server: "https://10.96.0.1"}
	off.Kubernetes = &api.Kubernetes{Off: "switched off by configuration"}

	for name, st := range map[string]api.Status{"whole": whole, "incomplete": other, "idle": idle, "node": node, "node-away": away, "node-off": off} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := report(&b, st); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata/report", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), b.String()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestParseRSSAnon(t *testing.T) {
	for in, want := range map[string]uint64{
		"VmRSS:\t 9 kB\nRssAnon:\t    1234 kB\nRssFile:\t1 kB\n": 1234 * 1024,
		"RssAnon:\tmany kB\n": 0,
		"":                    0,
	} {
		if got := parseRSSAnon(in); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
	if rssAnon() == 0 || heapBytes() == 0 {
		t.Error("this process has no memory")
	}
}
