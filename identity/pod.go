package identity

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"warren/cluster"
	"warren/event"
)

// A pod is a pod of this machine: what its containers share. Who it is stands in
// the path of its cgroup, by uid; the rest the cluster tells, and where that is
// away, the labels that the kubelet gives containers.
type pod struct {
	uid string // as the cgroup's path has it: for static pods not the API's
	// value is what events tell: replaced, never changed.
	value *cluster.Pod
	// state is what the cluster last said, nil while it does not know the pod.
	state      *cluster.Pod
	services   []string // names, sorted
	sandbox    string   // id of its sandbox
	containers []*container

	links[pod] // in containers.followed, while something may change of it
}

// Labels that the kubelet puts on every container.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
)

// sandboxName is what the kubelet calls the container that holds the namespaces
// of a pod; no other can have a name in capitals.
const sandboxName = "POD"

// isSandbox reports whether d describes the sandbox of a pod: by the label that
// its runtime sets itself, whatever the image brought.
func (d *Description) isSandbox() bool {
	switch d.Runtime {
	case "containerd":
		return d.Labels["io.cri-containerd.kind"] == "sandbox"
	case "docker":
		return d.Labels["io.kubernetes.docker.type"] == "podsandbox"
	}
	return d.Name == sandboxName // CRI-O's and podman's, which no container of a pod can have
}

// parse tells where a cgroup's path leads. On a node whose kubelet runs in a
// container itself (kind, k3d), the pods' containers count, not the node's; but
// not in what is a user's own.
func (i *Identity) parse(path string) Place {
	if i.cfg.Cluster != nil {
		if at := strings.Index(path, "kubepods"); at > 0 && (!strings.Contains(path[:at], "/user@") || strings.Contains(path[:at], "/user@0.service")) {
			if p := ParseCgroup(path[strings.LastIndexByte(path[:at], '/')+1:]); p.ID != "" && p.PodUID != "" {
				return p
			}
		}
	}
	return ParseCgroup(path)
}

// enter puts a container into its pod.
func (i *Identity) enter(c *container, uid string) {
	t := &i.conts
	p := t.pods[uid]
	if p == nil {
		uid = strings.Clone(uid)
		p = &pod{uid: uid, value: &cluster.Pod{UID: uid}}
		t.pods[uid] = p
		i.askCluster(p)
	}
	p.containers = append(p.containers, c)
	c.pod = p
	t.follow(p)
}

// follow has what the cluster tells of a pod from now on looked at.
func (t *containers) follow(p *pod) {
	if p.list == nil {
		t.followed.push(p, &p.links)
	}
}

// over reports whether nothing changes of a pod any more: it has ended, and none
// of its processes is left.
func (p *pod) over() bool {
	return p.state != nil && !p.state.Ended.IsZero() && !slices.ContainsFunc(p.containers, func(c *container) bool { return c.living > 0 })
}

// withdraw takes a container that is forgotten out of its pod.
func (t *containers) withdraw(c *container) {
	p := c.pod
	if p == nil {
		return
	}
	p.containers = slices.DeleteFunc(p.containers, func(other *container) bool { return other == c })
	if len(p.containers) > 0 {
		return
	}
	delete(t.pods, p.uid)
	if p.list != nil {
		t.followed.drop(&p.links)
	}
}

// askCluster looks what the cluster knows of a pod by now, and reports whether
// events are to tell something else of it. A pod that the cluster no longer knows
// stays as it was: processes of it are still remembered.
func (i *Identity) askCluster(p *pod) (changed bool) {
	if i.cfg.Cluster == nil {
		return false
	}
	now := i.cfg.Cluster.Pod(p.uid)
	if now == nil {
		return false
	}
	first := p.state == nil
	if first || now != p.state {
		// Which containers it has decides what is said of each.
		changed = first || !sameToEvents(p.value, now) || !slices.Equal(p.state.Containers, now.Containers)
		if first || !sameToEvents(p.value, now) {
			p.value = now
		}
		p.state = now
	}
	if first || now.Ended.IsZero() { // whatever stood for it when it ended, did
		if names := serviceNames(i.cfg.Cluster.ServicesOf(now)); !slices.Equal(names, p.services) {
			p.services, changed = names, true
		}
	}
	return changed
}

func serviceNames(services []*cluster.Service) []string {
	if len(services) == 0 {
		return nil
	}
	names := make([]string, len(services))
	for n, s := range services {
		names[n] = s.Name
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sameToEvents reports whether events tell the same of two states of a pod: a
// pod changes often in ways that no field shows.
func sameToEvents(a, b *cluster.Pod) bool {
	return a.UID == b.UID && a.Name == b.Name && a.Namespace == b.Namespace && a.Node == b.Node && a.HostNetwork == b.HostNetwork &&
		a.Workload == b.Workload && a.ReplicaSet == b.ReplicaSet && a.Job == b.Job && a.ServiceAccount == b.ServiceAccount &&
		slices.Equal(a.Addrs, b.Addrs) && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.NamespaceLabels, b.NamespaceLabels)
}

// inPod completes the description of a container by what is known of its pod.
func (c *container) inPod(d *event.Container) {
	p := c.pod
	if p == nil {
		return
	}
	d.Pod, d.Services = p.value, p.services
	d.PodContainer, d.PodContainerKind, d.SandboxID = c.role, "", c.sandbox
	if d.SandboxID == "" {
		d.SandboxID = p.sandbox
	}
	if c.role == sandboxName {
		d.PodContainerKind, d.SandboxID = cluster.Sandbox, d.FullID
		return
	}
	if p.state == nil {
		return
	}
	// By its id, which is its own; by its name while the pod does not tell ids.
	at := slices.IndexFunc(p.state.Containers, func(k cluster.Container) bool { return k.ID == d.FullID })
	if at < 0 && c.role != "" {
		at = slices.IndexFunc(p.state.Containers, func(k cluster.Container) bool { return k.Name == c.role })
	}
	if at < 0 {
		return
	}
	k := &p.state.Containers[at]
	d.PodContainer, d.PodContainerKind = k.Name, k.Kind
	if d.Image == "" {
		ref := ParseImage(k.Image)
		d.Image, d.ImageRepo, d.ImageTag = k.Image, ref.Repo, ref.Tag
	}
}

// toldByRuntime takes what a runtime's labels say of a container's pod.
//
// Images bring labels too, so that anybody could claim to be any pod: labels are
// believed where the path of the cgroup names the same pod, or where the runtime
// answered for Kubernetes.
func (i *Identity) toldByRuntime(c *container, d *Description) {
	uid := d.Labels[labelPodUID]
	if c.pod == nil && d.Kubernetes && isUID(uid) {
		i.enter(c, uid)
	}
	p := c.pod
	if p == nil || uid != p.uid {
		return
	}
	sandbox := d.isSandbox()
	switch name := d.Labels[labelContainerName]; {
	case sandbox:
		c.role = sandboxName
	case isName(name):
		c.role = name
	}
	if isID(d.Sandbox) {
		c.sandbox = d.Sandbox
	}
	if sandbox {
		p.sandbox = c.id.id
	} else if p.sandbox == "" {
		p.sandbox = c.sandbox
	}
	if p.state == nil { // who asked the API knows more
		told := &cluster.Pod{UID: p.uid, Labels: p.value.Labels}
		if name, namespace := d.Labels[labelPodName], d.Labels[labelPodNamespace]; isName(name) && isName(namespace) {
			told.Name, told.Namespace = name, namespace
		}
		if sandbox {
			told.Labels = podLabels(boundLabels(d.Labels))
		}
		if !sameToEvents(p.value, told) {
			p.value = told
		}
	}
	i.podChanged(p, c)
}

// podLabels returns those of a sandbox's labels that are the pod's own, and not
// put there by the kubelet or the runtime.
func podLabels(labels map[string]string) map[string]string {
	var own map[string]string
	for k, v := range labels {
		if strings.HasPrefix(k, "io.kubernetes.pod.") || strings.HasPrefix(k, "io.kubernetes.container.") || strings.HasPrefix(k, "io.kubernetes.docker.") ||
			strings.HasPrefix(k, "io.cri-containerd.") || strings.HasPrefix(k, "io.containerd.") || k == "io.container.manager" {
			continue
		}
		if own == nil {
			own = map[string]string{}
		}
		own[k] = v
	}
	return own
}

// isName reports whether s can be the name of an object of Kubernetes.
func isName(s string) bool {
	for n := range len(s) {
		if c := s[n]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return s != "" && len(s) <= 253
}

// podChanged tells the containers of a pod, but for one, what is known of it now.
func (i *Identity) podChanged(p *pod, but *container) {
	for _, c := range p.containers {
		if c == but {
			continue
		}
		d := *c.desc
		c.inPod(&d)
		if d.Pending && !c.asked && p.state != nil {
			d.Pending = false
		}
		if sameInPod(c.desc, &d) {
			continue
		}
		i.replaceDescription(c, &d)
	}
}

// sameInPod reports whether two descriptions of a container differ in nothing
// that its pod has to do with.
func sameInPod(a, b *event.Container) bool {
	return a.Pod == b.Pod && a.PodContainer == b.PodContainer && a.PodContainerKind == b.PodContainerKind && a.SandboxID == b.SandboxID &&
		a.Image == b.Image && a.Pending == b.Pending && slices.Equal(a.Services, b.Services)
}

// replaceDescription tells the processes of a container what is true of its pod
// from now on. Those that have ended keep what was true of them, unless that was
// nothing yet.
func (i *Identity) replaceDescription(c *container, d *event.Container) {
	i.doubt(c)
	defer i.know(c)
	c.desc = d
	for en := c.members; en != nil; en = en.cnext {
		old := en.snap.p.Container
		known := old != nil && old.Pod != nil && old.Pod.Name != "" && !old.Pending
		q := *en.snap.p
		q.Container = d
		switch {
		case !known:
			i.procs.complete(en, &q, en.snap.parent)
		case q.Exited == nil:
			i.procs.replace(en, &q, en.snap.parent, en.snap.img, i.procs.now)
		}
	}
}

// followCluster learns what the cluster tells until ctx ends.
func (i *Identity) followCluster(ctx context.Context) {
	if i.cfg.Cluster == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.cfg.Cluster.Changed():
			i.askForPods()
		}
		i.peers.lookAgain()
		if !pause(ctx, clusterPause) {
			return
		}
	}
}

// clusterPause is between two looks at what has changed in the cluster: a large
// one changes all the time, mostly elsewhere.
const clusterPause = 50 * time.Millisecond

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// askForPods looks what is new of the pods of this machine. It holds the lock
// for one at a time.
func (i *Identity) askForPods() {
	t := &i.conts
	i.mu.Lock()
	pods := slices.AppendSeq(make([]*pod, 0, t.followed.n), t.followed.all)
	i.mu.Unlock()
	some := false
	for _, p := range pods {
		i.mu.Lock()
		if p.list != nil { // it may be forgotten
			if i.askCluster(p) {
				i.podChanged(p, nil)
				some = true
			}
			if p.over() {
				t.followed.drop(&p.links)
			}
		}
		i.mu.Unlock()
	}
	if some {
		i.signal()
	}
}
