package identity

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"warren/cluster"
	"warren/event"
)

const (
	cartUID   = "8f3a1c9b-7e5d-4046-af18-c3b9d7e6f504"
	staticUID = "8f3a1c9b7e5d2046af18c3b9d7e6f504"
)

func cartPod(change ...func(*cluster.Pod)) *cluster.Pod {
	p := &cluster.Pod{
		UID: cartUID, Name: "cart-7d9f-x2", Namespace: "shop", Node: "node-1", Labels: map[string]string{"app": "cart"},
		Workload: cluster.Workload{Kind: "Deployment", Name: "cart"}, ReplicaSet: "cart-7d9f",
		Containers: []cluster.Container{
			{Name: "migrate", ID: id64(1), Image: "shop/cart:v1", Kind: cluster.Init},
			{Name: "mesh", ID: id64(2), Image: "mesh:v3", Kind: cluster.Sidecar},
			{Name: "cart", ID: id64(3), Image: "shop/cart:v1", Kind: cluster.Main},
			{Name: "worker", Image: "shop/cart:v1", Kind: cluster.Main}, // its status has not come yet
			{Name: "debug", ID: id64(4), Image: "busybox", Kind: cluster.Ephemeral},
		},
	}
	for _, fn := range change {
		fn(p)
	}
	return p
}

func podPath(uid, id string) string { return "/kubepods/burstable/pod" + uid + "/" + id }

// first makes the first process of a container, from the cgroup's creation to
// its first exec, and returns what the exec told.
func (m *machine) first(pid uint32, path string) *event.Event {
	k, _ := m.fork(event.Key{}, pid, m.cgroup(uint64(pid), path))
	return m.exec(k, nil, "/bin/app")
}

func TestPodOfFirstExec(t *testing.T) {
	f := newFakeCluster()
	f.set(cartUID, cartPod(), "cart", "cart-headless")
	f.set(staticUID, cartPod(func(p *cluster.Pod) {
		p.UID, p.StaticUID, p.Name, p.Namespace = "11111111-2222-3333-4444-555555555555", staticUID, "kube-apiserver-node-1", "kube-system"
		p.Workload = cluster.Workload{Kind: "Node", Name: "node-1"}
		p.Containers[2].ID = id64(13)
	}))
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	for n, tt := range []struct {
		name, path, pod, container string
		kind                       cluster.ContainerKind
		image                      string
	}{
		{"init", podPath(cartUID, id64(1)), "cart-7d9f-x2", "migrate", cluster.Init, "shop/cart:v1"},
		{"sidecar", podPath(cartUID, id64(2)), "cart-7d9f-x2", "mesh", cluster.Sidecar, "mesh:v3"},
		{"main, of the init container's image", podPath(cartUID, id64(3)), "cart-7d9f-x2", "cart", cluster.Main, "shop/cart:v1"},
		{"ephemeral", podPath(cartUID, id64(4)), "cart-7d9f-x2", "debug", cluster.Ephemeral, "busybox"},
		{"which one nobody tells", podPath(cartUID, id64(5)), "cart-7d9f-x2", "", "", ""},
		{"systemd driver", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(cartUID, "-", "_") + ".slice/cri-containerd-" + id64(3) + ".scope", "cart-7d9f-x2", "cart", cluster.Main, "shop/cart:v1"},
		{"kubelet below a root of its own", "/k8s/node1" + podPath(cartUID, id64(3)), "cart-7d9f-x2", "cart", cluster.Main, "shop/cart:v1"},
		{"kubelet in a container", "/docker/" + id64(9) + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + strings.ReplaceAll(cartUID, "-", "_") + ".slice/cri-containerd-" + id64(2) + ".scope", "cart-7d9f-x2", "mesh", cluster.Sidecar, "mesh:v3"},
		{"static pod", podPath(staticUID, id64(13)), "kube-apiserver-node-1", "cart", cluster.Main, "shop/cart:v1"},
	} {
		e := m.first(uint32(100+n), tt.path)
		c := e.Process.Container
		if c == nil || c.Pod == nil || c.Pod.Name != tt.pod || c.PodContainer != tt.container || c.PodContainerKind != tt.kind || c.Image != tt.image || c.Pending {
			t.Errorf("%s: %+v", tt.name, c)
		}
		if tt.pod == "cart-7d9f-x2" && strings.Join(c.Services, " ") != "cart cart-headless" {
			t.Errorf("%s: services %q", tt.name, c.Services)
		}
		if m.Pending(e) {
			t.Errorf("%s: waits though the cluster has told and no runtime can", tt.name)
		}
	}
	if e := m.first(200, "/docker/"+id64(8)); e.Process.Container.Pod != nil {
		t.Errorf("a container outside pods: %+v", e.Process.Container.Pod)
	}
	m.check()
}

// The cluster may hear of a pod later than the kernel.
func TestPodThatTheClusterDoesNotKnowYet(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	e := m.first(100, podPath(cartUID, id64(3)))
	if c := e.Process.Container; c.Pod == nil || c.Pod.UID != cartUID || c.Pod.Name != "" || !c.Pending {
		t.Errorf("before: %+v", c)
	}
	if s := m.Stats(); s.Pods != 1 || s.PodsUntold != 1 || s.Pending != 1 {
		t.Errorf("before: %+v", s)
	}
	if !m.Pending(e) {
		t.Fatal("the first exec does not wait")
	}
	m.run()
	f.set(cartUID, cartPod())
	m.await("the pod", func() bool { return !m.Pending(e) })
	m.Resolve(e, false)
	if c := e.Process.Container; c.Pod.Name != "cart-7d9f-x2" || c.PodContainer != "cart" || c.Pending {
		t.Errorf("after: %+v", c)
	}
	if c := m.Process(e.Actor).Container; c != e.Process.Container {
		t.Errorf("the table has another description: %+v", c)
	}
	if s := m.Stats(); s.PodsUntold != 0 || s.Pending != 0 {
		t.Errorf("after: %+v", s)
	}
}

// Nobody waits for ever for a cluster that is away.
func TestPodWaitEnds(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.Cluster = newFakeCluster() })
	e := m.first(100, podPath(cartUID, id64(3)))
	if !m.Pending(e) {
		t.Fatal("does not wait")
	}
	m.tick(500 * time.Millisecond)
	if m.Pending(e) {
		t.Error("still waits after half a second")
	}
	m.Resolve(e, true)
	if c := e.Process.Container; !c.Pending || c.Pod.UID != cartUID {
		t.Errorf("told as if complete: %+v", c)
	}
	m.sweepOnce(m.ktime)
	if c := m.exec(e.Actor, nil, "/bin/next").Process.Container; c.Pending {
		t.Errorf("still marked after the time: %+v", c)
	}
	m = newMachine(t, func(c *Config) { c.Cluster, c.WaitContainer = newFakeCluster(), -1 })
	if e := m.first(100, podPath(cartUID, id64(3))); m.Pending(e) || e.Process.Container.Pending {
		t.Error("waits though nothing ever should")
	}
}

func TestPodChanges(t *testing.T) {
	f := newFakeCluster()
	f.set(cartUID, cartPod(), "cart")
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	e := m.first(100, podPath(cartUID, id64(3)))
	m.cgroup(101, podPath(cartUID, id64(2)))
	dead, _ := m.fork(e.Actor, 102)
	m.exit(dead, 0)
	told := e.Process.Container

	// What no field shows changes nothing.
	f.set(cartUID, cartPod(func(p *cluster.Pod) { p.Phase = "Running" }), "cart")
	m.askForPods()
	if p := m.Process(e.Actor); p != e.Process {
		t.Error("a new snapshot that tells nothing new")
	}

	before := e.Process
	f.set(cartUID, cartPod(func(p *cluster.Pod) { p.Labels = map[string]string{"app": "cart", "canary": "true"} }), "cart", "cart-canary")
	m.tick(time.Second)
	m.askForPods()
	now := m.exec(e.Actor, nil, "/bin/app2").Process
	if c := now.Container; c.Pod.Labels["canary"] != "true" || strings.Join(c.Services, " ") != "cart cart-canary" || c.PodContainer != "cart" {
		t.Errorf("after the change: %+v", c)
	}
	if before.Container != told || told.Pod.Labels["canary"] != "" || len(told.Services) != 1 {
		t.Error("an event that was published has changed")
	}
	if p := m.Process(dead); p.Container.Pod.Labels["canary"] != "" {
		t.Error("a process that had ended has labels of later")
	}

	// The name of a container arrives with the pod's status.
	other := m.first(103, podPath(cartUID, id64(6)))
	if c := other.Process.Container; c.PodContainer != "" {
		t.Errorf("container %q", c.PodContainer)
	}
	f.set(cartUID, cartPod(func(p *cluster.Pod) { p.Containers[3].ID = id64(6) }), "cart")
	m.askForPods()
	if c := m.Process(other.Actor).Container; c.PodContainer != "worker" || c.PodContainerKind != cluster.Main {
		t.Errorf("after its status: %+v", c)
	}

	// A pod that has ended loses its services, but was served by them.
	f.set(cartUID, cartPod(func(p *cluster.Pod) { p.Ended = time.Unix(1, 0) }))
	m.askForPods()
	if c := m.Process(e.Actor).Container; len(c.Services) != 1 {
		t.Errorf("services of an ended pod: %q", c.Services)
	}
	// One that the cluster has forgotten stays what it was.
	f.set(cartUID, nil)
	m.askForPods()
	if c := m.exec(e.Actor, nil, "/bin/app3").Process.Container; c.Pod.Name != "cart-7d9f-x2" {
		t.Errorf("forgotten: %+v", c.Pod)
	}
	m.check()
}

// Pods that are over cost no look at each change of the cluster, of which a large
// one has many; one that turns out to go on does again.
func TestEndedPodsAreNotFollowed(t *testing.T) {
	f := newFakeCluster()
	f.set(cartUID, cartPod(func(p *cluster.Pod) { p.Ended = time.Unix(1, 0) }))
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	e := m.first(100, podPath(cartUID, id64(3)))
	m.askForPods()
	if n := m.conts.followed.n; n != 1 {
		t.Errorf("%d followed while a process lives", n)
	}
	m.exit(e.Actor, 0)
	m.askForPods()
	if n := m.conts.followed.n; n != 0 {
		t.Errorf("%d followed of those that are over", n)
	}
	f.set(cartUID, cartPod(func(p *cluster.Pod) { p.Node = "node-2" })) // it was told gone, and is there
	e = m.first(101, podPath(cartUID, id64(3)))
	m.askForPods()
	if c := m.Process(e.Actor).Container; m.conts.followed.n != 1 || c.Pod.Node != "node-2" {
		t.Errorf("back again: %d followed, %+v", m.conts.followed.n, c.Pod)
	}
	// One of which the cluster has not told yet may be told any time.
	unknown := m.first(102, podPath(staticUID, id64(20)))
	m.exit(unknown.Actor, 0)
	m.askForPods()
	f.set(staticUID, cartPod(func(p *cluster.Pod) { p.Ended = time.Unix(1, 0) }))
	m.askForPods()
	if c := m.Process(unknown.Actor).Container; c.Pod.Name != "cart-7d9f-x2" {
		t.Errorf("told after its end: %+v", c.Pod)
	}
	m.check()
}

// criMachine is a machine with CRI-O and no API server.
func criMachine(t *testing.T, f Cluster, containers map[string]*cri.ContainerStatus, pods map[string]map[string]string) *machine {
	t.Helper()
	fake := &fakeCRI{containers: map[string]*cri.ContainerStatusResponse{}, pods: map[string]*cri.PodSandboxStatusResponse{}}
	for id, s := range containers {
		s.StartedAt = 1
		fake.containers[id] = &cri.ContainerStatusResponse{Status: s, Info: map[string]string{"info": `{"sandboxID":"` + id64(7) + `"}`}}
	}
	for id, labels := range pods {
		fake.pods[id] = &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{CreatedAt: 1, Labels: labels}}
	}
	socket := serveGRPC(t, func(s *grpc.Server) { cri.RegisterRuntimeServiceServer(s, fake) })
	return newMachine(t, func(c *Config) { c.Cluster, c.Sockets.CRIO = f, []string{socket} })
}

func kubeletLabels(uid, name, namespace, container string) map[string]string {
	l := map[string]string{labelPodUID: uid, labelPodName: name, labelPodNamespace: namespace}
	if container != "" {
		l[labelContainerName] = container
	}
	return l
}

// While the API server is away, what the runtime knows is told.
func TestPodByRuntimeAlone(t *testing.T) {
	sandbox := kubeletLabels(cartUID, "cart-7d9f-x2", "shop", "")
	sandbox["app"], sandbox["app.kubernetes.io/name"] = "cart", "cart"
	f := newFakeCluster()
	for _, away := range []Cluster{nil, f} {
		m := criMachine(t, away, map[string]*cri.ContainerStatus{
			id64(3): {Metadata: &cri.ContainerMetadata{Name: "cart"}, Labels: kubeletLabels(cartUID, "cart-7d9f-x2", "shop", "cart"), Image: &cri.ImageSpec{Image: "shop/cart:v1"}},
		}, map[string]map[string]string{id64(7): sandbox})
		m.run()
		pause := m.first(100, "/kubepods/pod"+cartUID+"/crio-"+id64(7))
		app := m.first(101, "/kubepods/pod"+cartUID+"/crio-"+id64(3))
		for _, e := range []*event.Event{pause, app} {
			m.await("the description", func() bool { return !m.Pending(e) })
			m.Resolve(e, false)
		}
		want := map[string]string{"app": "cart", "app.kubernetes.io/name": "cart"}
		c := pause.Process.Container
		if c.PodContainer != "POD" || c.PodContainerKind != cluster.Sandbox || c.SandboxID != id64(7) || c.Pod.Name != "cart-7d9f-x2" || c.Pod.Namespace != "shop" || c.Pod.UID != cartUID {
			t.Errorf("the sandbox: %+v %+v", c, c.Pod)
		}
		c = m.Process(app.Actor).Container
		if c.PodContainer != "cart" || c.PodContainerKind != "" || c.SandboxID != id64(7) || c.Pod.Name != "cart-7d9f-x2" || c.Image != "shop/cart:v1" {
			t.Errorf("the container: %+v %+v", c, c.Pod)
		}
		if !sameToEvents(c.Pod, &cluster.Pod{UID: cartUID, Name: "cart-7d9f-x2", Namespace: "shop", Labels: want}) {
			t.Errorf("the pod: %+v", c.Pod)
		}
		if away == nil {
			continue
		}
		// And when it is back, it is believed.
		f.set(cartUID, cartPod(), "cart")
		m.await("the API server", func() bool { return m.Process(app.Actor).Container.Pod.Workload.Name == "cart" })
		if c := m.Process(app.Actor).Container; c.PodContainer != "cart" || c.PodContainerKind != cluster.Main || c.Image != "shop/cart:v1" {
			t.Errorf("the container: %+v", c)
		}
		if c := m.Process(pause.Actor).Container; c.PodContainer != "POD" || c.PodContainerKind != cluster.Sandbox {
			t.Errorf("the sandbox: %+v", c)
		}
	}
}

// Labels can hold anything, and images bring their own.
func TestPodLabelsThatLie(t *testing.T) {
	long := strings.Repeat("a", 300)
	for name, labels := range map[string]map[string]string{
		"another pod's":        kubeletLabels("22222222-2222-2222-2222-222222222222", "victim", "kube-system", "app"),
		"control characters":   kubeletLabels(cartUID, "a\x1b[2Jb", "shop", "app\n"),
		"other scripts":        kubeletLabels(cartUID, "тележка", "shop", "購"),
		"too long":             kubeletLabels(cartUID, long, "shop", long),
		"an empty namespace":   kubeletLabels(cartUID, "cart", "", ""),
		"capitals like POD":    kubeletLabels(cartUID, "Cart", "shop", "POD"),
		"none":                 nil,
		"what is no path part": kubeletLabels(cartUID, "../../etc", "shop", "a/b"),
	} {
		m := criMachine(t, nil, map[string]*cri.ContainerStatus{id64(3): {Metadata: &cri.ContainerMetadata{Name: "x"}, Labels: labels}}, nil)
		m.run()
		e := m.first(100, podPath(cartUID, id64(3)))
		m.await(name, func() bool { return !m.Pending(e) })
		m.Resolve(e, false)
		if c := e.Process.Container; c.Pod == nil || c.Pod.UID != cartUID || c.Pod.Name != "" || c.Pod.Namespace != "" || c.PodContainer != "" || c.PodContainerKind != "" {
			t.Errorf("%s: %+v %+v", name, c, c.Pod)
		}
	}
	// A container of docker's, whose image says that it is a pod's.
	body := strings.Replace(dockerInspect, `"Labels": {`, `"Labels": {"`+labelPodUID+`": "`+cartUID+`", "`+labelPodName+`": "cart", "`+labelPodNamespace+`": "shop", `, 1)
	if body == dockerInspect {
		t.Fatal("no labels to add to")
	}
	socket := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+id64(3)+"/json") {
			_, _ = w.Write([]byte(body))
			return
		}
		http.NotFound(w, r)
	})
	f := newFakeCluster()
	f.set(cartUID, cartPod())
	m := newMachine(t, func(c *Config) { c.Cluster, c.Sockets.Docker = f, []string{socket} })
	m.run()
	e := m.first(100, "/docker/"+id64(3))
	m.await("docker", func() bool { return !m.Pending(e) })
	m.Resolve(e, false)
	if c := e.Process.Container; c.Name == "" || c.Pod != nil {
		t.Errorf("an image's labels made it a pod: %+v %+v", c, c.Pod)
	}
}

// Users may make cgroups of any name below their own: what runs there is in no
// pod, and not in the container whose id the cgroup has.
func TestUsersCgroupsAreNoPods(t *testing.T) {
	f := newFakeCluster()
	f.set(cartUID, cartPod(), "cart")
	containerd := serveGRPC(t, func(s *grpc.Server) {})
	for _, known := range []Cluster{nil, f} {
		m := newMachine(t, func(c *Config) { c.Cluster = known })
		cart := m.first(100, podPath(cartUID, id64(3))).Process.Container
		m.describer.sockets.Containerd = []string{containerd}
		for n, path := range []string{
			podPath(cartUID, id64(3)),
			"/kubepods.slice/kubepods-pod" + strings.ReplaceAll(cartUID, "-", "_") + ".slice/cri-containerd-" + id64(3) + ".scope",
			"/cri-containerd-" + id64(3) + ".scope",
		} {
			e := m.first(uint32(200+n), "/user.slice/user-1000.slice/user@1000.service/app.slice"+path)
			if c := e.Process.Container; c == nil || c.FullID != id64(3) || c.Pod != nil || c.PodContainer != "" || c.Services != nil || c.Pending {
				t.Errorf("%s: %+v", path, c)
			}
		}
		if cart.Pod == nil || cart.Pod.UID != cartUID {
			t.Errorf("the pod itself: %+v", cart)
		}
		// Root is nobody's user.
		if c := m.first(300, "/user.slice/user-0.slice/user@0.service/test.scope"+podPath(cartUID, id64(2))).Process.Container; c.Pod == nil || c.Pod.UID != cartUID {
			t.Errorf("root's: %+v", c)
		}
		m.check()
	}
}

// Containers come and go; what they leave behind is forgotten.
func TestManyPods(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster, c.MaxExited = f, 16 })
	for n := range 3000 {
		m.tick(10 * time.Millisecond)
		uid := "8f3a1c9b-7e5d-4046-af18-" + id64(n)[52:]
		f.set(uid, cartPod(func(p *cluster.Pod) { p.UID = uid }))
		e := m.first(uint32(1000+n), podPath(uid, id64(n)))
		if c := e.Process.Container; c.Pod == nil || c.Pod.UID != uid {
			t.Fatalf("pod %d: %+v", n, c)
		}
		m.exit(e.Actor, 0)
	}
	if n := len(m.conts.pods); n > 2048 {
		t.Errorf("%d pods remembered of those that were", n)
	}
	for uid, p := range m.conts.pods {
		if uid != p.uid || len(p.containers) != 1 || p.containers[0].pod != p || m.conts.byID[p.containers[0].id] != p.containers[0] {
			t.Fatalf("%s: %+v", uid, p)
		}
	}
	if m.conts.followed.n != len(m.conts.pods) {
		t.Errorf("%d of %d pods followed, none of which has ended", m.conts.followed.n, len(m.conts.pods))
	}
	m.check()
}
