package cluster

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// SetPolicy tells a policy as it is at a time. It takes p: nobody may change it
// afterwards. Its selectors stay as they were told, however odd: to clean them
// could make them select more.
func (s *State) SetPolicy(p *Policy, at time.Time) {
	if p == nil || p.UID == "" {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	p.UID = s.share.own(p.UID, maxID)
	p.Namespace = s.share.text(p.Namespace, maxName)
	p.Name = s.share.own(p.Name, maxName)
	// What is asked of a policy has not changed while its generation has not.
	if known := s.policies[p.UID]; known != nil && p.Generation != 0 && known.Generation == p.Generation &&
		known.Namespace == p.Namespace && known.Name == p.Name && slices.Equal(known.Problems, p.Problems) {
		return
	}
	s.change(at, func() {
		s.policies[p.UID] = p
		s.versions.Policies++
	})
}

// DeletePolicy tells that a policy is gone since at.
func (s *State) DeletePolicy(uid string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	if s.policies[uid] == nil {
		return
	}
	s.change(at, func() {
		delete(s.policies, uid)
		s.versions.Policies++
	})
}

// Policies yields the policies that are, in no order. It is a copy of the list
// that is walked: f may call any method.
func (s *State) Policies(yield func(*Policy) bool) {
	s.table.RLock()
	all := slices.Collect(maps.Values(s.policies))
	s.table.RUnlock()
	each(all, yield)
}

// Versions count the changes of what policies are about, by kind. Most of what
// changes of a pod is nothing to them.
type Versions struct {
	Pods, Nodes, Services, Namespaces, Policies uint64
}

// A Snapshot is what policies are about, at one moment. Nobody may change it.
type Snapshot struct {
	Versions Versions
	// Synced is [State.Synced] at that moment.
	Synced bool
	// Pods have not ended; those without addresses are among them.
	Pods  []*Pod
	Nodes []*Node
	// Services have addresses.
	Services   []*Service
	Namespaces map[string]map[string]string // labels by name
	Policies   []*Policy
}

// Snapshot returns what policies are about now. What is the same as in last,
// which may be nil, is shared with it, so that it can be recognised and costs
// nothing: the lock is held for as long as it takes to copy a list of pointers.
func (s *State) Snapshot(last *Snapshot) *Snapshot {
	s.table.RLock()
	defer s.table.RUnlock()
	now := &Snapshot{Versions: s.versions, Synced: s.complete}
	was := Versions{}
	if last != nil {
		*now, was = *last, last.Versions
		now.Versions, now.Synced = s.versions, s.complete
	}
	if last == nil || was.Pods != now.Versions.Pods {
		now.Pods = make([]*Pod, 0, s.living)
		for _, p := range s.pods {
			if p.ended == 0 {
				now.Pods = append(now.Pods, p.told)
			}
		}
	}
	if last == nil || was.Nodes != now.Versions.Nodes {
		now.Nodes = make([]*Node, 0, len(s.nodes))
		for _, n := range s.nodes {
			if n.ended == 0 {
				now.Nodes = append(now.Nodes, n.told)
			}
		}
	}
	if last == nil || was.Services != now.Versions.Services {
		now.Services = nil
		for _, v := range s.services {
			if v.ended == 0 && len(v.told.Addrs) > 0 {
				now.Services = append(now.Services, v.told)
			}
		}
	}
	if last == nil || was.Namespaces != now.Versions.Namespaces {
		now.Namespaces = make(map[string]map[string]string, len(s.namespaces))
		for name, n := range s.namespaces {
			if n.told {
				now.Namespaces[name] = n.labels
			}
		}
	}
	if last == nil || was.Policies != now.Versions.Policies {
		now.Policies = slices.Collect(maps.Values(s.policies))
	}
	return now
}

// asJudged is true for pods that no policy can tell from each other in two
// states of the same pod.
func asJudged(a, b *Pod) bool {
	return a.Node == b.Node && a.HostNetwork == b.HostNetwork && a.Ended.IsZero() == b.Ended.IsZero() && a.Started.Equal(b.Started) &&
		a.Namespace == b.Namespace && a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports) &&
		maps.Equal(a.Labels, b.Labels) && maps.Equal(a.NamespaceLabels, b.NamespaceLabels)
}

// Watch is Changed for one more who waits; stop lets go of the channel, which
// is never closed.
func (s *State) Watch() (changed <-chan struct{}, stop func()) {
	ear := make(chan struct{}, 1) // as with changed: who tells never waits
	s.ears.mu.Lock()
	defer s.ears.mu.Unlock()
	s.ears.list = append(slices.Clone(s.ears.list), ear)
	return ear, func() {
		s.ears.mu.Lock()
		defer s.ears.mu.Unlock()
		s.ears.list = slices.DeleteFunc(slices.Clone(s.ears.list), func(other chan struct{}) bool { return other == ear })
	}
}

// ears are the channels of those who wait. The list is replaced, never changed.
type ears struct {
	mu   sync.Mutex
	list []chan struct{}
}

func (e *ears) signal() {
	e.mu.Lock()
	list := e.list
	e.mu.Unlock()
	for _, ear := range list {
		select {
		case ear <- struct{}{}:
		default: // one signal waits already
		}
	}
}
