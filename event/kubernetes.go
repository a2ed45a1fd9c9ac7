package event

import (
	"maps"
	"net/netip"
	"slices"

	"warren/cluster"
)

// PodOf returns the pod that acted, nil outside pods. A flow's is the pod at its
// near end, also where no process is known.
func PodOf(e *Event) *cluster.Pod {
	if f, ok := e.Data.(*Flow); ok && f.LocalPeer != nil && f.LocalPeer.Pod != nil {
		return f.LocalPeer.Pod
	}
	if e.Process == nil || e.Process.Container == nil {
		return nil
	}
	return e.Process.Container.Pod
}

// remotePodOf returns the pod at the far end of a socket, nil where there is
// none.
func remotePodOf(e *Event) *cluster.Pod {
	if p := socketOf(e).RemotePeer; p != nil {
		return p.Pod
	}
	return nil
}

// podStr makes a getter of a value that a pod has.
func podStr(of func(*Event) *cluster.Pod, fn func(*cluster.Pod) string) getter {
	return str(func(e *Event) string {
		if p := of(e); p != nil {
			return fn(p)
		}
		return ""
	})
}

// workloadOf makes a getter of the name of workloads of one kind.
func workloadOf(kind string) getter {
	return podStr(PodOf, func(p *cluster.Pod) string {
		if p.Workload.Kind == kind {
			return p.Workload.Name
		}
		return ""
	})
}

func podLabels(p *cluster.Pod) map[string]string       { return p.Labels }
func namespaceLabels(p *cluster.Pod) map[string]string { return p.NamespaceLabels }

// labels makes a getter of a pod's labels, by key.
func labels(of func(*Event) *cluster.Pod, fn func(*cluster.Pod) map[string]string) getter {
	all := func(e *Event) map[string]string {
		if p := of(e); p != nil {
			return fn(p)
		}
		return nil
	}
	return getter{all: all, key: func(e *Event, key string) (string, bool) {
		s, ok := all(e)[key]
		return s, ok
	}}
}

// joined makes labels readable without a key too: as Falco writes them.
func joined(g getter) getter {
	all := g.all
	c := composed(func(b []byte, e *Event) []byte {
		m := all(e)
		var room [32]string
		for i, k := range appendSortedKeys(room[:0], m) {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(b, k...)
			b = append(b, ':')
			b = append(b, m[k]...)
		}
		return b
	})
	g.str, g.app = c.str, c.app
	return g
}

func appendSortedKeys(keys []string, m map[string]string) []string {
	keys = slices.AppendSeq(keys, maps.Keys(m))
	slices.Sort(keys)
	return keys
}

// podAddr returns the i-th address of the pod that acted; Kubernetes gives a pod
// at most one of each family.
func podAddr(e *Event, i int) (netip.Addr, bool) {
	p := PodOf(e)
	if p == nil || i >= min(2, len(p.Addrs)) {
		return netip.Addr{}, false
	}
	return p.Addrs[i], true
}

// sandboxID returns the first 12 digits of the id of the pod's sandbox.
func sandboxID(e *Event) string {
	if e.Process == nil || e.Process.Container == nil {
		return ""
	}
	id := e.Process.Container.SandboxID
	return id[:min(12, len(id))]
}

// peerStr makes a getter of a value that what is at the far end has.
func peerStr(fn func(*cluster.Peer) string) getter {
	return str(func(e *Event) string {
		if p := socketOf(e).RemotePeer; p != nil {
			return fn(p)
		}
		return ""
	})
}

func peerNamespace(p *cluster.Peer) string {
	switch {
	case p.Pod != nil:
		return p.Pod.Namespace
	case p.Service != nil:
		return p.Service.Namespace
	}
	return ""
}

func peerService(p *cluster.Peer) string {
	if p.Service != nil {
		return p.Service.Name
	}
	return ""
}

func peerNode(p *cluster.Peer) string {
	switch {
	case p.Node != nil:
		return p.Node.Name
	case p.Pod != nil:
		return p.Pod.Node
	}
	return ""
}
