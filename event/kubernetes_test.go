package event

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"warren/cluster"
)

// inCluster is a connection from one pod to another.
func inCluster() *Event {
	e := sample()
	e.Process.Container = &Container{
		ID: "abc", PodContainer: "cart", PodContainerKind: cluster.Main, SandboxID: strings.Repeat("12", 32), Services: []string{"cart", "cart-headless"},
		Pod: &cluster.Pod{
			UID: "u-1", Name: "cart-7d9f-x2", Namespace: "shop", Node: "node-1", ReplicaSet: "cart-7d9f", ServiceAccount: "cart",
			Labels: map[string]string{"app": "cart", "a/b": "c d", "empty": ""}, NamespaceLabels: map[string]string{"team": "web"},
			Addrs:    []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7"), netip.MustParseAddr("fd00::8")},
			Workload: cluster.Workload{Kind: "Deployment", Name: "cart"},
		},
	}
	SocketOf(e).RemotePeer = &cluster.Peer{Kind: cluster.PeerPod, Pod: &cluster.Pod{
		UID: "u-2", Name: "db-0", Namespace: "data", Node: "node-2", Labels: map[string]string{"app": "db"}, Workload: cluster.Workload{Kind: "StatefulSet", Name: "db"},
	}}
	return e
}

func TestKubernetesFields(t *testing.T) {
	host.node = "node-1"
	t.Cleanup(func() { host.node = "" })
	e := inCluster()
	text := func(e *Event, name string) string {
		f, ok := Lookup(name)
		if !ok {
			t.Fatalf("no field %s", name)
		}
		s, ok := f.Str(e, 0)
		if b, got := f.Append(nil, e, 0); string(b) != s || got != ok {
			t.Errorf("%s: Append = %q, %v; Str = %q, %v", name, b, got, s, ok)
		}
		if !ok && s != "" {
			t.Errorf("%s: missing, and %q", name, s)
		}
		return s
	}
	for name, want := range map[string]string{
		"k8s.node.name": "node-1", "k8s.pod.name": "cart-7d9f-x2", "k8s.pod.uid": "u-1", "k8s.pod.id": "u-1", "k8s.ns.name": "shop",
		"k8s.container.name": "cart", "k8s.container.kind": "main", "k8s.svc.name": "cart", "k8s.sa.name": "cart", "k8s.rs.name": "cart-7d9f",
		"k8s.workload.kind": "Deployment", "k8s.workload.name": "cart", "k8s.deployment.name": "cart",
		"k8s.daemonset.name": "", "k8s.statefulset.name": "", "k8s.cronjob.name": "", "k8s.rc.name": "", "k8s.job.name": "",
		"k8s.pod.full_sandbox_id": strings.Repeat("12", 32), "k8s.pod.sandbox_id": "121212121212",
		"k8s.pod.labels": "a/b:c d, app:cart, empty:", "k8s.ns.labels": "team:web", "k8s.pod.label": "",
		"k8s.remote.kind": "pod", "k8s.remote.pod.name": "db-0", "k8s.remote.pod.uid": "u-2", "k8s.remote.ns.name": "data", "k8s.remote.node.name": "node-2",
		"k8s.remote.workload.kind": "StatefulSet", "k8s.remote.workload.name": "db", "k8s.remote.svc.name": "", "k8s.remote.pod.labels": "app:db",
	} {
		if got := text(e, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"k8s.pod.labels": "cart", "k8s.pod.label": "cart", "k8s.remote.pod.labels": "db"} {
		f, _ := Lookup(name)
		if got, ok := f.Key(e, "app"); !ok || got != want {
			t.Errorf("%s[app] = %q, %v", name, got, ok)
		}
		if _, ok := f.Key(e, "none"); ok || f.Arg != KeyArg || f.KeyOptional != (name != "k8s.pod.label") {
			t.Errorf("%s[none] exists: %v; %+v", name, ok, f)
		}
	}
	f, _ := Lookup("k8s.pod.ip")
	for i, want := range []string{"10.244.1.7", "fd00::7", "invalid IP"} {
		if a, _ := f.Addr(e, i); a.String() != want {
			t.Errorf("k8s.pod.ip[%d] = %v", i, a)
		}
	}
	// The far end can be other things, or nothing.
	for _, tt := range []struct {
		peer           *cluster.Peer
		kind, ns, what string
	}{
		{&cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Namespace: "shop", Name: "cart"}}, "service", "shop", "k8s.remote.svc.name=cart"},
		{&cluster.Peer{Kind: cluster.PeerNode, Node: &cluster.Node{Name: "node-3"}}, "node", "", "k8s.remote.node.name=node-3"},
		{&cluster.Peer{Kind: cluster.PeerWorld}, "world", "", "k8s.remote.pod.name="},
		{nil, "", "", "k8s.remote.pod.labels="},
	} {
		SocketOf(e).RemotePeer = tt.peer
		name, want, _ := strings.Cut(tt.what, "=")
		if text(e, "k8s.remote.kind") != tt.kind || text(e, "k8s.remote.ns.name") != tt.ns || text(e, name) != want {
			t.Errorf("%+v: kind %q, namespace %q, %s %q", tt.peer, text(e, "k8s.remote.kind"), text(e, "k8s.remote.ns.name"), name, text(e, name))
		}
	}
	// Who is in no pod, no container, or unknown, has none of it.
	for _, p := range []*Process{nil, {}, {Container: &Container{}}, {Container: &Container{Pod: &cluster.Pod{}}}} {
		for _, f := range Fields() {
			if !strings.HasPrefix(f.Name, "k8s.") || f.Name == "k8s.node.name" || f.Type != String {
				continue
			}
			e := &Event{Process: p, Data: &Connection{}}
			if s, ok := f.Str(e, 0); ok {
				t.Errorf("%s of %+v = %q", f.Name, p, s)
			}
			if s, ok := f.Key(e, "app"); ok {
				t.Errorf("%s[app] of %+v = %q", f.Name, p, s)
			}
		}
	}
}

func TestKubernetesJSON(t *testing.T) {
	e := inCluster()
	e.Process.Container.Pod.Labels["bad\xff\n\"\u202e"] = "\x00\xfe\u200b"
	b := AppendJSON(nil, e)
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for k, want := range map[string]any{
		"k8s.pod.name": "cart-7d9f-x2", "k8s.pod.labels[app]": "cart", "k8s.ns.labels[team]": "web", "k8s.container.name": "cart",
		"k8s.remote.pod.labels[app]": "db", "k8s.remote.kind": "pod", "k8s.pod.labels[bad\ufffd\n\"\u202e]": "\x00\ufffd\u200b", "k8s.pod.labels[empty]": "",
	} {
		if m[k] != want {
			t.Errorf("%s = %v, want %v", k, m[k], want)
		}
	}
	for _, k := range []string{"k8s.pod.labels", "k8s.pod.label[app]", "k8s.deployment.name", "k8s.remote.svc.name", "k8s.node.name", "k8s.pod.host_network"} {
		if v, ok := m[k]; ok {
			t.Errorf("%s = %v, want no key", k, v)
		}
	}
	if ips, ok := m["k8s.pod.ip"].([]any); !ok || len(ips) != 2 {
		t.Errorf("k8s.pod.ip = %v", m["k8s.pod.ip"])
	}
	if s, ok := m["k8s.svc.name"].([]any); !ok || len(s) != 2 {
		t.Errorf("k8s.svc.name = %v", m["k8s.svc.name"])
	}
	if i := slices.IndexFunc(b, func(c byte) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		t.Errorf("control character at %d", i)
	}
	again := AppendJSON(nil, e)
	if string(again) != string(b) {
		t.Error("the order of labels changes")
	}
}

// Labels are read for each event that a filter looks at.
func TestKubernetesAllocatesNothing(t *testing.T) {
	e := inCluster()
	buf := make([]byte, 0, 256)
	for _, name := range []string{"k8s.pod.labels", "k8s.remote.pod.labels", "k8s.pod.name", "k8s.deployment.name", "k8s.remote.ns.name"} {
		f, _ := Lookup(name)
		if n := testing.AllocsPerRun(100, func() {
			buf, _ = f.Append(buf[:0], e, 0)
			_, _ = f.Key(e, "app")
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestNodes(t *testing.T) {
	n := &Nodes{Type: "nodes", Total: 4, Answered: 3, Missing: []string{"node-2: connection refused"}}
	if got := n.Sentence(); got != "3 of 4 nodes answered; node-2: connection refused" {
		t.Error(got)
	}
	if got := (&Nodes{Total: 2, Answered: 2}).Sentence(); got != "2 of 2 nodes answered" {
		t.Error(got)
	}
	e := &Event{Data: n}
	s, err := Select("proc.name")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{AppendJSON(nil, e), s.AppendJSON(nil, e)} {
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if m["evt.kind"] != "nodes" || m["evt.type"] != "nodes" || m["nodes.total"] != 4.0 || m["nodes.answered"] != 3.0 || len(m["nodes.missing"].([]any)) != 1 {
			t.Errorf("%s", b)
		}
	}
	if NoticeKinds != Kinds(KindLost, KindNodes) || NoticeKinds&StateKinds != 0 {
		t.Errorf("notices: %v", NoticeKinds)
	}
}

// Snapshots of processes are most of what the agent's memory holds: what belongs
// to a container or pod is not to be in them.
func TestProcessSize(t *testing.T) {
	if n := unsafe.Sizeof(Process{}); n > 576 {
		t.Errorf("a process takes %d bytes", n)
	}
}
