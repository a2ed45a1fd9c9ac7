package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// pod is what a State knows of a pod.
type pod struct {
	told *Pod // as it was told last
	// begun is since when it can have had an address; seen is when it was last
	// told that it had not ended.
	begun, seen int64
	// ended is when its end was told, 0 while it goes on.
	ended int64
	// vague is an end of which only is told that the pod is gone.
	vague bool
	// slices are those that have it as an endpoint, services whose they are.
	slices   []*slice
	services []*Service
	// The pods of its namespace.
	namespace  *namespace
	next, prev *pod
}

// namespace is what a State knows of a namespace.
type namespace struct {
	told   bool // false where only pods have named it
	labels map[string]string
	first  *pod
}

// owned is a replica set or a job.
type owned struct {
	namespace string
	Workload
}

// SetPod tells a pod as it is at a time. It takes p: nobody may change it
// afterwards. A pod without a uid is nobody's and ignored.
func (s *State) SetPod(p *Pod, at time.Time) {
	if p == nil || p.UID == "" {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.cleanPod(p)
	s.resolve(p)
	known := s.pods[p.UID]
	n := s.namespaces[p.Namespace]
	switch {
	case n != nil && n.told:
		p.NamespaceLabels = n.labels
	case known != nil && p.NamespaceLabels == nil:
		p.NamespaceLabels = known.told.NamespaceLabels // the namespace is gone, the pod goes on
	}
	if known != nil && p.Controller == known.told.Controller && p.Workload == p.Controller {
		p.Workload = known.told.Workload // likewise its controller's owner
	}
	now := nanos(at)
	over := p.Phase == "Succeeded" || p.Phase == "Failed"
	switch {
	case p.Ended.IsZero() && over && known != nil && known.ended != 0:
		p.Ended = known.told.Ended
	case p.Ended.IsZero() && over:
		p.Ended = moment(now)
	case !p.Ended.IsZero():
		// The clock is that of its node: it cannot have ended after it was
		// told, nor before it was seen alive.
		end := min(nanos(p.Ended), now)
		if known != nil {
			end = max(end, known.seen)
		}
		p.Ended = moment(end)
	}
	if known == nil && !p.Ended.IsZero() && now-nanos(p.Ended) >= int64(s.config.Remember) {
		return // would be forgotten at once
	}
	if known != nil && known.ended == 0 && p.Ended.IsZero() && same(known.told, p) {
		known.seen = now // most of what an API tells of pods is nothing that is kept
		return
	}
	s.change(at, func() { s.setPod(known, p, now) })
}

// same is true for pods of which the same is told.
func same(a, b *Pod) bool {
	return a.UID == b.UID && a.StaticUID == b.StaticUID && a.Name == b.Name && a.Namespace == b.Namespace && a.Node == b.Node &&
		a.HostNetwork == b.HostNetwork && a.Controller == b.Controller && a.Workload == b.Workload &&
		a.ReplicaSet == b.ReplicaSet && a.Job == b.Job && a.ServiceAccount == b.ServiceAccount && a.Phase == b.Phase &&
		a.Created.Equal(b.Created) && a.Started.Equal(b.Started) && a.Ended.Equal(b.Ended) &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Containers, b.Containers) && slices.Equal(a.Ports, b.Ports) &&
		maps.Equal(a.Labels, b.Labels) && maps.Equal(a.NamespaceLabels, b.NamespaceLabels)
}

// cleanPod makes a pod's texts harmless and shared.
func (s *State) cleanPod(p *Pod) {
	share := &s.share
	p.UID = share.own(p.UID, maxID)
	p.StaticUID = share.own(p.StaticUID, maxID)
	p.Name = share.own(p.Name, maxName)
	p.Namespace = share.text(p.Namespace, maxName)
	p.Node = share.text(p.Node, maxName)
	p.Labels = share.labels(p.Labels)
	p.NamespaceLabels = share.labels(p.NamespaceLabels)
	p.Addrs = share.addrs(p.Addrs)
	for _, w := range []*Workload{&p.Controller, &p.Workload} {
		w.Kind, w.Name = share.text(w.Kind, maxName), share.text(w.Name, maxName)
	}
	p.ReplicaSet = share.text(p.ReplicaSet, maxName)
	p.Job = share.text(p.Job, maxName)
	p.ServiceAccount = share.text(p.ServiceAccount, maxName)
	p.Phase = share.text(p.Phase, maxName)
	p.Ports = share.ports(p.Ports)
	p.Containers = atMost(share, p.Containers, maxContainers)
	for i := range p.Containers {
		c := &p.Containers[i]
		c.Name = share.text(c.Name, maxName)
		c.ID = share.own(c.ID, maxID)
		c.Image = share.text(c.Image, maxImage)
		c.Kind = ContainerKind(share.text(string(c.Kind), maxName))
	}
}

// templateHash is the label that the deployment controller, and nobody else,
// puts on its replica sets and their pods; their names end in it.
const templateHash = "pod-template-hash"

// resolve fills what made the pod outermost from its controller.
func (s *State) resolve(p *Pod) {
	switch p.Controller.Kind {
	case "":
		if p.Workload == (Workload{}) {
			p.Workload = Workload{Kind: "Pod", Name: p.Name}
		}
		return
	case "ReplicaSet":
		p.ReplicaSet = p.Controller.Name
	case "Job":
		p.Job = p.Controller.Name
	}
	p.Workload = p.Controller
	if owner, ok := s.owners[owned{p.Namespace, p.Controller}]; ok {
		p.Workload = owner
		return
	}
	if p.Controller.Kind != "ReplicaSet" {
		return
	}
	if hash := p.Labels[templateHash]; hash != "" {
		name := p.Controller.Name
		if cut := len(name) - len(hash) - 1; cut > 0 && name[cut] == '-' && name[cut+1:] == hash {
			p.Workload = Workload{Kind: "Deployment", Name: s.share.text(name[:cut], maxName)}
		}
	}
}

// setPod puts a pod in its tables. known is what they have of it, or nil.
func (s *State) setPod(known *pod, told *Pod, now int64) {
	if known == nil || known.ended != 0 || !asJudged(known.told, told) {
		s.versions.Pods++
	}
	p, fresh := known, known == nil
	var had []netip.Addr // addresses that it has had for longer
	if fresh {
		p = &pod{told: told, begun: begin(told.Created, told.Started, now)}
		s.link(p)
	} else {
		s.unindex(p, told)
		had = s.keep(p, told, now)
		p.told = told
	}
	s.pods[told.UID] = p
	if uid := told.StaticUID; uid != "" && (s.statics[uid] == nil || s.statics[uid].ended != 0) {
		s.statics[uid] = p // not another's that goes on: anybody can write such an annotation
	}
	s.nameOf(p)
	s.adopt(p)
	if told.Ended.IsZero() {
		p.seen = now
	}
	if !told.HostNetwork {
		for _, addr := range told.Addrs {
			if !slices.Contains(had, addr) {
				s.take(p, addr, now, fresh)
			}
		}
	}
	s.joinWaiting(p)
	if !told.Ended.IsZero() {
		s.endPod(p, now)
	}
}

// keep frees the addresses that a known pod no longer has, returns those that
// it keeps, and sets since when it can have had the others.
func (s *State) keep(p *pod, told *Pod, now int64) (kept []netip.Addr) {
	had := p.told.Addrs
	if p.told.HostNetwork {
		had = nil
	}
	back := p.ended != 0 && told.Ended.IsZero() // was told gone, and is there
	switch {
	case back:
		p.ended, p.vague, p.begun = 0, false, now
		s.living++
	case len(had) == 0:
		p.begun = begin(told.Created, told.Started, now)
	default:
		p.begun = now
	}
	for _, addr := range had {
		if !told.HostNetwork && slices.Contains(told.Addrs, addr) {
			if !back {
				kept = append(kept, addr)
			}
			continue
		}
		until := now
		if !told.Ended.IsZero() {
			// Some ends take the addresses out of what is told.
			until = nanos(told.Ended)
		}
		s.places[addr].pods.release(p, until)
		s.past.push(now, forgetting(func() uint64 { return s.forgetPodAt(addr, p, true) }))
	}
	return kept
}

// begin is since when something can have an address, by two clocks that may
// not be ours: it was made by the API server's, and begun by its node's.
func begin(created, started time.Time, told int64) int64 {
	made := min(nanos(created), told)
	if created.IsZero() {
		made = told
	}
	if begun := nanos(started); !started.IsZero() && begun <= told {
		if created.IsZero() || begun >= made {
			return begun
		}
	}
	return made
}

// link puts a fresh pod in its namespace.
func (s *State) link(p *pod) {
	n := s.namespace(p.told.Namespace)
	p.namespace, p.next = n, n.first
	if n.first != nil {
		n.first.prev = p
	}
	n.first = p
	s.living++
}

func (s *State) namespace(name string) *namespace {
	n := s.namespaces[name]
	if n == nil {
		n = &namespace{}
		s.namespaces[name] = n
	}
	return n
}

// unlink takes a forgotten pod out of its namespace.
func (s *State) unlink(p *pod) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		p.namespace.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	}
	if n := p.namespace; n.first == nil && !n.told {
		delete(s.namespaces, p.told.Namespace)
	}
	p.next, p.prev = nil, nil
}

// unindex takes out what the pod is found by and will not be any more. A
// namespace is part of what a uid stands for: the first one told stays.
func (s *State) unindex(p *pod, told *Pod) {
	if told.Namespace != p.told.Namespace {
		told.Namespace = p.told.Namespace
		told.NamespaceLabels = p.told.NamespaceLabels
	}
	if old := p.told.StaticUID; old != "" && old != told.StaticUID && s.statics[old] == p {
		delete(s.statics, old)
	}
	if old := (name{p.told.Namespace, p.told.Name}); told.Name != p.told.Name && s.podNames[old] == p {
		delete(s.podNames, old)
	}
	if told.Controller != p.told.Controller {
		s.unadopt(p)
	}
}

// nameOf lets the pod be found by its name, unless one that goes on has it.
func (s *State) nameOf(p *pod) {
	key := name{p.told.Namespace, p.told.Name}
	if other := s.podNames[key]; other != nil && other != p && other.ended == 0 && !p.told.Ended.IsZero() {
		return
	}
	s.podNames[key] = p
}

// adopt remembers a pod whose controller may have an owner that is not told yet.
func (s *State) adopt(p *pod) {
	controller := p.told.Controller
	if controller.Kind != "ReplicaSet" && controller.Kind != "Job" {
		return
	}
	key := owned{p.told.Namespace, controller}
	if p.told.Workload == controller && !slices.Contains(s.orphans[key], p) {
		s.orphans[key] = append(s.orphans[key], p)
	}
}

func (s *State) unadopt(p *pod) {
	key := owned{p.told.Namespace, p.told.Controller}
	orphans := s.orphans[key]
	i := slices.Index(orphans, p)
	if i < 0 {
		return
	}
	if orphans = slices.Delete(orphans, i, i+1); len(orphans) == 0 {
		delete(s.orphans, key)
		return
	}
	s.orphans[key] = orphans
}

// take gives a pod an address.
func (s *State) take(p *pod, addr netip.Addr, now int64, fresh bool) {
	at := s.places[addr]
	if ended := p.told.Ended; ended.IsZero() {
		vague := at.pods != nil && at.pods.owner.vague
		at.pods = at.pods.hold(claim[pod]{owner: p, from: p.begun, told: now, fresh: fresh, vague: vague})
	} else {
		at.pods = at.pods.held(p, p.begun, max(nanos(ended), p.begun+1))
	}
	s.put(addr, at)
}

// endPod ends what goes on of a pod.
func (s *State) endPod(p *pod, now int64) {
	for _, addr := range p.told.Addrs {
		s.places[addr].pods.release(p, nanos(p.told.Ended))
		s.succeed(p, addr, now)
	}
	if p.ended == 0 {
		p.ended = now
		s.living--
		s.past.push(now, p)
	}
}

// succeed gives the address of a pod that has ended to another that goes on and
// says that it is its own: the one of two that had to be wrong was not it.
func (s *State) succeed(p *pod, addr netip.Addr, now int64) {
	at := s.places[addr]
	if at.pods == nil || at.pods.until == forever {
		return
	}
	for h := at.pods; h != nil; h = h.older {
		other := h.owner
		if other != p && other.ended == 0 && other.told.Ended.IsZero() && slices.Contains(other.told.Addrs, addr) && !other.told.HostNetwork {
			at.pods = at.pods.hold(claim[pod]{owner: other, from: at.pods.until, told: now})
			s.put(addr, at)
			return
		}
	}
}

// DeletePod tells that a pod is gone since at, which is when it ended if its
// end was not told before.
func (s *State) DeletePod(uid string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	p := s.pods[uid]
	if p == nil || p.ended != 0 {
		return
	}
	told := *p.told
	told.Ended = moment(max(nanos(at), p.begun))
	s.change(at, func() {
		p.told, p.vague = &told, true
		s.endPod(p, nanos(at))
		s.versions.Pods++
	})
}

// forget takes a pod out of all tables.
func (p *pod) forget(s *State, at int64) (addresses uint64) {
	if p.ended != at || s.pods[p.told.UID] != p {
		return 0
	}
	delete(s.pods, p.told.UID)
	if s.statics[p.told.StaticUID] == p {
		delete(s.statics, p.told.StaticUID)
	}
	if key := (name{p.told.Namespace, p.told.Name}); s.podNames[key] == p {
		delete(s.podNames, key)
	}
	s.unadopt(p)
	s.unlink(p)
	for _, sl := range p.slices {
		sl.pods = slices.DeleteFunc(sl.pods, func(other *pod) bool { return other == p })
	}
	for _, addr := range p.told.Addrs {
		addresses += s.forgetPodAt(addr, p, false)
	}
	s.forgotten.pods++
	return addresses
}

// forgetPodAt forgets what a pod had of an address, of one that it may have
// again only what is over.
func (s *State) forgetPodAt(addr netip.Addr, p *pod, endedOnly bool) (n uint64) {
	at := s.places[addr]
	at.pods, n = at.pods.without(p, endedOnly)
	s.put(addr, at)
	return n
}

// Pod returns a pod by its uid or static uid, ended ones too while they are
// remembered; nil when it is not known.
func (s *State) Pod(uid string) *Pod {
	s.table.RLock()
	defer s.table.RUnlock()
	if p := s.pods[uid]; p != nil {
		return p.told
	}
	if p := s.statics[uid]; p != nil {
		return p.told
	}
	return nil
}

// PodByName returns the pod of a name: the one that is, or the last that was.
func (s *State) PodByName(namespace, podName string) *Pod {
	s.table.RLock()
	defer s.table.RUnlock()
	if p := s.podNames[name{namespace, podName}]; p != nil {
		return p.told
	}
	return nil
}

// SetNamespace tells the labels of a namespace. It takes labels. The pods of
// the namespace that go on have them from now.
func (s *State) SetNamespace(name string, labels map[string]string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	name = s.share.text(name, maxName)
	labels = s.share.labels(labels)
	type change struct {
		p    *pod
		told *Pod
	}
	var changes []change
	if n := s.namespaces[name]; n != nil {
		for p := n.first; p != nil; p = p.next {
			if p.ended != 0 || maps.Equal(p.told.NamespaceLabels, labels) {
				continue
			}
			told := *p.told
			told.NamespaceLabels = labels
			changes = append(changes, change{p, &told})
		}
	}
	s.change(at, func() {
		n := s.namespace(name)
		if !n.told || !maps.Equal(n.labels, labels) {
			s.versions.Namespaces++
		}
		if len(changes) > 0 {
			s.versions.Pods++
		}
		n.told, n.labels = true, labels
		for _, c := range changes {
			c.p.told = c.told
		}
	})
}

// DeleteNamespace tells that a namespace is gone; its pods keep their labels.
func (s *State) DeleteNamespace(name string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	name = s.share.text(name, maxName)
	n := s.namespaces[name]
	if n == nil {
		return
	}
	s.change(at, func() {
		n.told, n.labels = false, nil
		s.versions.Namespaces++
		if n.first == nil {
			delete(s.namespaces, name)
		}
	})
}

// SetOwner tells what made a replica set or a job; the zero Workload that
// nothing did.
func (s *State) SetOwner(namespace string, of, owner Workload, at time.Time) {
	if owner == (Workload{}) {
		s.DeleteOwner(namespace, of, at)
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	key := s.owned(namespace, of)
	owner = Workload{s.share.text(owner.Kind, maxName), s.share.text(owner.Name, maxName)}
	s.change(at, func() {
		s.owners[key] = owner
		for _, p := range s.orphans[key] {
			told := *p.told
			told.Workload = owner
			p.told = &told
		}
		delete(s.orphans, key)
	})
}

func (s *State) owned(namespace string, of Workload) owned {
	return owned{s.share.text(namespace, maxName), Workload{s.share.text(of.Kind, maxName), s.share.text(of.Name, maxName)}}
}

// DeleteOwner tells that a replica set or a job is gone, or made by nothing.
// Its pods keep what made them.
func (s *State) DeleteOwner(namespace string, of Workload, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	key := s.owned(namespace, of)
	if _, ok := s.owners[key]; ok {
		s.change(at, func() { delete(s.owners, key) })
	}
}
