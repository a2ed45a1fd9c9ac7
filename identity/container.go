package identity

import (
	"slices"
	"strings"
	"time"

	"warren/event"
)

// containers are the cgroups, and the containers that their paths tell.
type containers struct {
	cgroups map[event.CgroupKey]*cgroup
	last    *cgroup // the one asked for last, nil after any were forgotten
	byID    map[containerID]*container
	pods    map[string]*pod // by the uid that stands in cgroups' paths
	// followed are the pods of which something may change.
	followed list[pod]
	// The sizes at which those that nothing uses are looked for.
	maxCgroups, maxContainers int
	forgotten                 uint64
}

// cgroupsTold is how many cgroups are remembered at least: as many as the kernel
// remembers to have told, since it tells each once.
const cgroupsTold = 16384

// minContainers is how many containers are remembered at least.
const minContainers = 1024

func (t *containers) init() {
	t.cgroups = map[event.CgroupKey]*cgroup{}
	t.byID = map[containerID]*container{}
	t.pods = map[string]*pod{}
	t.maxCgroups, t.maxContainers = cgroupsTold, minContainers
}

// A cgroup is one directory of a cgroup hierarchy.
type cgroup struct {
	event.Cgroup // Path is empty where it has not been told
	cont         *container
	procs        int    // living processes in it
	told         uint64 // ktime at which it was first named
}

// A containerID names a container on this machine.
type containerID struct {
	runtime string // as its path has it, which may be a guess
	id      string
	// user is whose runtime made it, "" for the machine's: users can make cgroups
	// of any name below their own, so that theirs are never taken for others.
	user string
}

func (p *Place) key() containerID { return containerID{p.Runtime, p.ID, p.UserID} }

// byUser reports whether a user made the cgroup that p is of.
func (p *Place) byUser() bool { return p.UserID != "" && p.UserID != "0" }

// containerAs returns the container that a snapshot tells of, nil where it is
// forgotten.
func (i *Identity) containerAs(p *event.Process) *container {
	if en := i.procs.get(p.Key); en != nil && en.cont != nil && en.cont.id.id == p.Container.FullID {
		return en.cont
	}
	return i.conts.byID[containerID{runtime: p.Container.Type, id: p.Container.FullID}]
}

// A container is one container, and what is known of it.
type container struct {
	id       containerID
	place    Place
	desc     *event.Container // replaced, never changed
	pod      *pod             // nil outside pods
	role     string           // its name in the pod, as the runtime's labels have it
	sandbox  string           // id of the sandbox it belongs to, as the runtime has it
	cgroups  []*cgroup        // that lie in it, as far as they are told
	members  *entry           // all processes in it that are remembered
	living   int
	deadline uint64 // ktime until which its events are Pending
	asked    bool   // a description is under way
	told     bool   // a runtime has described it
	// generation of the sockets when it was last asked for.
	generation uint32
}

// applyCgroup learns the path of a cgroup. A process that the event names has
// moved there.
func (i *Identity) applyCgroup(e *event.Event, d *event.CgroupState) {
	cg := i.cgroupOf(d.Cgroup.CgroupKey)
	if d.Cgroup.CgroupID != 0 {
		cg.CgroupID = d.Cgroup.CgroupID
	}
	if d.Cgroup.Path != "" && d.Cgroup.Path != cg.Path {
		i.setPath(cg, d.Cgroup.Path)
	}
	if e.Actor.IsZero() {
		return
	}
	if en, q := i.change(e.Actor); en != nil && q.Exited == nil && q.Cgroup.CgroupKey != cg.CgroupKey {
		q.Cgroup = event.Cgroup{CgroupKey: cg.CgroupKey}
		i.place(q, en)
		i.commit(en, q, e.Ktime)
		e.Process = q
	}
}

// cgroupOf returns a cgroup, which may not have been told yet.
func (i *Identity) cgroupOf(k event.CgroupKey) *cgroup {
	t := &i.conts
	if t.last != nil && t.last.CgroupKey == k {
		return t.last
	}
	cg := t.cgroups[k]
	if cg == nil {
		if len(t.cgroups) >= t.maxCgroups {
			i.forgetCgroups()
		}
		cg = &cgroup{Cgroup: event.Cgroup{CgroupKey: k, CgroupID: k.ID}, told: i.procs.now}
		t.cgroups[k] = cg
	}
	t.last = cg
	return cg
}

// forgetCgroups forgets the cgroups in which nobody lives. One told just now is
// about to get its first process, and stays as long as there is room.
func (i *Identity) forgetCgroups() {
	t := &i.conts
	const fresh, room = 60e9, 2 * cgroupsTold
	t.last = nil
	for _, keep := range []uint64{fresh, 0} {
		for k, cg := range t.cgroups {
			if cg.procs == 0 && cg.told+keep <= i.procs.now {
				i.drop(k, cg)
				t.forgotten++
			}
		}
		if len(t.cgroups) < room {
			break
		}
	}
	t.maxCgroups = max(cgroupsTold, 2*len(t.cgroups))
}

// setPath tells the path of a cgroup, to those already in it as well.
func (i *Identity) setPath(cg *cgroup, path string) {
	place := i.parse(path)
	cg.Path, cg.Unit = i.procs.intern.str(path), i.procs.intern.str(place.Unit)
	i.cfg.Workloads.Doubt(cg.CgroupKey)
	cg.withdraw()
	if cg.cont = i.containerOf(place); cg.cont != nil {
		cg.cont.cgroups = append(cg.cont.cgroups, cg)
	}
	defer i.judge(cg)
	if cg.procs == 0 {
		return
	}
	for en := range i.procs.living.all {
		if en.cg == cg {
			q := *en.snap.p
			i.place(&q, en)
			i.procs.complete(en, &q, en.snap.parent)
			i.join(en, &q)
		}
	}
}

// drop forgets a cgroup.
func (i *Identity) drop(k event.CgroupKey, cg *cgroup) {
	i.cfg.Workloads.Doubt(k)
	cg.withdraw()
	delete(i.conts.cgroups, k)
}

// withdraw takes a cgroup out of its container's.
func (cg *cgroup) withdraw() {
	if c := cg.cont; c != nil {
		c.cgroups = slices.DeleteFunc(c.cgroups, func(o *cgroup) bool { return o == cg })
	}
}

// doubt has nothing of a container judged by its cgroups: what is known of it is
// about to change. What happens before know is judged by who knows what it is then.
func (i *Identity) doubt(c *container) {
	for _, cg := range c.cgroups {
		i.cfg.Workloads.Doubt(cg.CgroupKey)
	}
}

// know has a container judged by its cgroups, if all is known of it that will be.
func (i *Identity) know(c *container) {
	for _, cg := range c.cgroups {
		i.judge(cg)
	}
}

// judge has what happens in a cgroup judged by its container: not while that is to
// be described yet, by its runtime or by the cluster.
func (i *Identity) judge(cg *cgroup) {
	var d *event.Container
	if cg.cont != nil {
		if d = cg.cont.desc; d.Pending || d.Pod != nil && d.Pod.Name == "" {
			return
		}
	}
	i.cfg.Workloads.Know(cg.CgroupKey, d)
}

// containerOf returns the container that a path lies in, nil for the host.
func (i *Identity) containerOf(place Place) *container {
	if place.ID == "" {
		return nil
	}
	t := &i.conts
	id := place.key()
	c := t.byID[id]
	if c == nil {
		if len(t.byID) >= t.maxContainers {
			i.forgetContainers()
		}
		id.id = strings.Clone(id.id)
		place.ID = id.id
		c = &container{id: id, place: place, desc: &event.Container{
			FullID: id.id, ID: shortID(id.id), Type: id.runtime,
		}}
		t.byID[id] = c
		if place.PodUID != "" && !place.byUser() { // its name would be anybody's
			i.enter(c, place.PodUID)
			c.inPod(c.desc)
		}
		if i.ask(c); !c.asked && c.pod != nil && c.pod.state == nil && i.cfg.Cluster != nil {
			i.wait(c) // the cluster is all that can tell
		}
	}
	return c
}

// ask has a container described, where there is somebody to ask.
func (i *Identity) ask(c *container) {
	if c.asked || !i.describer.reachable(c.place) || !i.describer.ask(c.place) {
		return
	}
	c.asked, c.generation = true, i.describer.generation.Load()
	if !c.told {
		i.wait(c)
	}
}

// wait has the events of a container wait for its description.
func (i *Identity) wait(c *container) {
	if i.cfg.WaitContainer <= 0 {
		return
	}
	d := *c.desc
	d.Pending = true
	i.setDescription(c, &d)
	c.deadline = i.cfg.Ktime() + uint64(i.cfg.WaitContainer)
}

// setDescription replaces what is known of a container, in the snapshots of its
// processes too.
func (i *Identity) setDescription(c *container, d *event.Container) {
	i.doubt(c)
	defer i.know(c)
	c.desc = d
	for en := c.members; en != nil; en = en.cnext {
		q := *en.snap.p
		q.Container = d
		i.procs.complete(en, &q, en.snap.parent)
	}
}

// forgetContainers forgets the containers in which no process is remembered. One
// whose cgroup was told just now is about to get its first process, and stays as
// long as there is room: the kernel does not tell a cgroup twice.
func (i *Identity) forgetContainers() {
	t := &i.conts
	const fresh, room = 5e9, 4 * minContainers
	for _, keep := range []uint64{fresh, 0} {
		inUse := map[*container]bool{}
		for _, cg := range t.cgroups {
			if cg.cont != nil && (cg.procs > 0 || cg.told+keep > i.procs.now) {
				inUse[cg.cont] = true
			}
		}
		for id, c := range t.byID {
			if c.members == nil && !inUse[c] {
				delete(t.byID, id)
				t.withdraw(c)
				t.forgotten++
			}
		}
		if len(t.byID) < room {
			break
		}
	}
	for k, cg := range t.cgroups {
		if cg.cont != nil && t.byID[cg.cont.id] != cg.cont {
			i.drop(k, cg)
			t.last = nil
		}
	}
	t.maxContainers = max(minContainers, 2*len(t.byID))
}

// place tells a snapshot, not yet published, where it runs. Where the kernel
// did not say, it runs where from did.
func (i *Identity) place(p *event.Process, from *entry) {
	if p.Cgroup.CgroupKey == (event.CgroupKey{}) {
		switch {
		case p.Cgroup.Path != "": // read from /proc
			place := i.parse(p.Cgroup.Path)
			p.Cgroup.Unit = i.procs.intern.str(place.Unit)
			if c := i.containerOf(place); c != nil {
				p.Container = c.desc
			}
		case from != nil:
			p.Cgroup, p.Container = from.snap.p.Cgroup, from.snap.p.Container
		}
		return
	}
	var cg *cgroup
	if from != nil && from.cg != nil && from.cg.CgroupKey == p.Cgroup.CgroupKey {
		cg = from.cg
	} else {
		cg = i.cgroupOf(p.Cgroup.CgroupKey)
	}
	if cg.Path == "" {
		if p.Cgroup.Path != "" {
			i.setPath(cg, p.Cgroup.Path)
		} else {
			i.filler.ask(p.Key, i.procs.now)
		}
	}
	id := p.Cgroup.CgroupID
	p.Cgroup = cg.Cgroup
	if id != 0 {
		p.Cgroup.CgroupID = id
	}
	p.Container = nil
	if cg.cont != nil {
		p.Container = cg.cont.desc
	}
}

// join counts a process in the cgroup and the container of its snapshot.
func (i *Identity) join(en *entry, p *event.Process) {
	if en.list == &i.procs.exited {
		return
	}
	var cg *cgroup
	var c *container
	if k := p.Cgroup.CgroupKey; k != (event.CgroupKey{}) {
		if cg = en.cg; cg == nil || cg.CgroupKey != k {
			cg = i.cgroupOf(k)
		}
		c = cg.cont
	} else if p.Container != nil {
		c = i.containerOf(i.parse(p.Cgroup.Path))
	}
	if cg == en.cg && c == en.cont {
		return
	}
	i.leave(en)
	if en.cg = cg; cg != nil {
		cg.procs++
	}
	if c == nil {
		return
	}
	if c.living == 0 && c.told && c.members != nil {
		i.ask(c) // it may have been started anew, under the same id
	}
	if c.pod != nil {
		i.conts.follow(c.pod) // it may have been told to have ended
	}
	c.living++
	en.cont = c
	en.cprev, en.cnext = nil, c.members
	if c.members != nil {
		c.members.cprev = en
	}
	c.members = en
}

// leave takes a process out of its cgroup and container.
func (i *Identity) leave(en *entry) {
	if en.cg != nil {
		en.cg.procs--
		en.cg = nil
	}
	c := en.cont
	if c == nil {
		return
	}
	if en.list == &i.procs.living {
		c.living--
	}
	if en.cprev != nil {
		en.cprev.cnext = en.cnext
	} else {
		c.members = en.cnext
	}
	if en.cnext != nil {
		en.cnext.cprev = en.cprev
	}
	en.cont, en.cprev, en.cnext = nil, nil, nil
}

// describedAs takes the answer of a runtime: nil where none knows the
// container.
func (i *Identity) describedAs(place Place, d *Description) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.conts.byID[place.key()]
	if c == nil {
		return
	}
	c.asked = false
	if d == nil {
		if c.desc.Pending {
			u := *c.desc
			u.Pending = false
			i.setDescription(c, &u)
		}
		i.signal()
		return
	}
	c.told = true
	i.toldByRuntime(c, d)
	i.setDescription(c, d.container(c))
	i.signal()
}

// describedPartly takes a part of the answer, before the rest of it: the
// container stays Pending where it is.
func (i *Identity) describedPartly(place Place, part *Description) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.conts.byID[place.key()]
	if c == nil || c.told || c.desc.Name != "" {
		return
	}
	i.toldByRuntime(c, part)
	d := part.container(c)
	d.Pending = c.desc.Pending
	i.setDescription(c, d)
	i.signal()
}

// A Description is what a runtime tells of a container.
type Description struct {
	Runtime     string // docker, podman, containerd, cri-o
	Name        string
	Image       string // as it was asked for
	ImageID     string
	ImageDigest string // sha256:..., where it does not stand in Image
	Labels      map[string]string
	Started     time.Time
	Privileged  bool
	// Kubernetes is true when the runtime answered as that of a kubelet, so that
	// the labels of pods are the kubelet's.
	Kubernetes bool
	Sandbox    string // id of the sandbox of the pod that the container is in
}

// maxLabelBytes bounds the labels kept of one container; images can carry
// whole documents in theirs. The longest are left out.
const maxLabelBytes = 32 << 10

func (d *Description) container(c *container) *event.Container {
	n := &event.Container{
		FullID: c.desc.FullID, ID: c.desc.ID, Type: c.id.runtime,
		Name: d.Name, Image: d.Image, ImageID: d.ImageID, ImageDigest: d.ImageDigest,
		Labels: boundLabels(d.Labels), StartTime: d.Started, Privileged: d.Privileged,
	}
	if c.place.Guess && d.Runtime != "" {
		n.Type = d.Runtime
	}
	ref := ParseImage(d.Image)
	n.ImageRepo, n.ImageTag = ref.Repo, ref.Tag
	if ref.Digest != "" {
		n.ImageDigest = ref.Digest
	}
	c.inPod(n)
	return n
}
