package api

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"warren/cluster"
	"warren/event"
)

// Identities that stand for what has no labels of its own, as Cilium numbers
// them.
const (
	identityUnknown    = 0
	identityHost       = 1
	identityWorld      = 2
	identityRemoteNode = 6
	identityAPIServer  = 7
)

// identityOfLabels is set in numbers that stand for labels: they are ours, and
// never one of Cilium's, all of which are smaller. Nobody decides anything by
// them.
const identityOfLabels = 1 << 31

// passing are labels of pods that change from one to the next of the same kind:
// they are shown, but make no other identity.
var passing = []string{
	"apps.kubernetes.io/pod-index",
	"batch.kubernetes.io/controller-uid",
	"batch.kubernetes.io/job-completion-index",
	"batch.kubernetes.io/job-name",
	"controller-revision-hash",
	"controller-uid",
	"job-name",
	"pod-template-generation",
	"pod-template-hash",
	"statefulset.kubernetes.io/pod-name",
}

// identityOf returns a number for a set of labels: the same on every node, at
// every start.
func identityOf(labels []string) uint32 {
	h := fnv.New64a()
	for _, l := range labels {
		_, _ = h.Write([]byte(l))
		_, _ = h.Write([]byte{0})
	}
	sum := h.Sum64()
	return identityOfLabels | uint32(sum^sum>>32)
}

// flowEnd is one end of a flow.
type flowEnd struct {
	endpoint *flowpb.Endpoint
	service  *flowpb.Service
	names    []string
}

// near returns the end whose process was seen.
func (t *flowTeller) near(r *flowRecord) flowEnd {
	end := flowEnd{endpoint: t.actor(&r.actor)}
	if f := r.flow; f != nil && f.LocalPeer != nil && f.LocalPeer.Pod != nil {
		end.endpoint = t.pod(f.LocalPeer.Pod) // though no process is known
	}
	if s := r.socket(); s.LocalName != "" {
		end.names = []string{s.LocalName}
	}
	return end
}

func (t *flowTeller) actor(a *flowActor) *flowpb.Endpoint {
	switch c := a.container; {
	case !a.known:
		return &flowpb.Endpoint{}
	case c == nil:
		e := &flowpb.Endpoint{Identity: identityHost, ClusterName: t.cluster, Labels: []string{"reserved:host"}}
		if a.unit != "" {
			e.Workloads = []*flowpb.Workload{{Kind: "Unit", Name: a.unit}}
		}
		return e
	case c.Pod != nil:
		return t.pod(c.Pod)
	default:
		return t.container(c)
	}
}

// far returns the end of which only the address was seen.
func (t *flowTeller) far(r *flowRecord) flowEnd {
	s := r.socket()
	end := flowEnd{endpoint: &flowpb.Endpoint{}}
	if s.RemoteName != "" {
		end.names = []string{s.RemoteName}
	}
	switch p := s.RemotePeer; {
	case p == nil:
		end.endpoint = t.address(r)
	case p.Pod != nil:
		end.endpoint = t.pod(p.Pod)
	case p.Service != nil:
		v := p.Service
		end.service = &flowpb.Service{Name: v.Name, Namespace: v.Namespace}
		// Which of its pods answered is not known at this end.
		end.endpoint.Namespace, end.endpoint.ClusterName = v.Namespace, t.cluster
		end.endpoint.Workloads = []*flowpb.Workload{{Kind: "Service", Name: v.Name}}
		if v.Namespace == "default" && v.Name == "kubernetes" {
			end.endpoint.Identity, end.endpoint.Labels = identityAPIServer, []string{"reserved:kube-apiserver"}
		}
	case p.Node != nil:
		end.endpoint.Identity, end.endpoint.Labels = identityRemoteNode, []string{"reserved:remote-node"}
		if p.Node.Name == t.self {
			end.endpoint.Identity, end.endpoint.Labels = identityHost, []string{"reserved:host"}
		}
		end.endpoint.ClusterName = t.cluster
		if p.Node.Name != s.RemoteName {
			end.names = append(end.names, p.Node.Name)
		}
	case p.Kind == cluster.PeerWorld:
		end.endpoint.Identity, end.endpoint.Labels = identityWorld, []string{"reserved:world"}
	}
	return end
}

// address returns what an address alone tells of the far end.
func (t *flowTeller) address(r *flowRecord) *flowpb.Endpoint {
	s := r.socket()
	switch {
	case s.Remote.IsLoopback() || s.Remote == s.Local:
		return t.sameNetwork(&r.actor)
	case public(s.Remote):
		return &flowpb.Endpoint{Identity: identityWorld, Labels: []string{"reserved:world"}}
	}
	return &flowpb.Endpoint{}
}

// sameNetwork returns who is at the other end of a loopback: the same pod, or
// the host. Containers outside pods share networks as they like.
func (t *flowTeller) sameNetwork(a *flowActor) *flowpb.Endpoint {
	switch pod := a.pod(); {
	case !a.known:
	case a.container == nil, pod != nil && pod.HostNetwork:
		return &flowpb.Endpoint{Identity: identityHost, ClusterName: t.cluster, Labels: []string{"reserved:host"}}
	case pod != nil:
		return t.pod(pod)
	}
	return &flowpb.Endpoint{}
}

// public reports whether an address belongs to the Internet at large.
func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedSpace.Contains(a)
}

// sharedSpace is RFC 6598's: networks behind a carrier's NAT, and some clouds'
// pods.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// container returns a container that belongs to no pod. Its labels have a
// source of their own.
func (t *flowTeller) container(c *event.Container) *flowpb.Endpoint {
	e := &flowpb.Endpoint{}
	add := func(key, value string) {
		if value != "" {
			e.Labels = append(e.Labels, "container:"+key+"="+value)
		}
	}
	add("image", c.ImageRepo)
	add("name", c.Name)
	add("runtime", c.Type)
	if len(e.Labels) > 0 {
		e.Identity = identityOf(e.Labels)
	}
	if c.Name != "" {
		e.Workloads = []*flowpb.Workload{{Kind: "Container", Name: c.Name}}
	}
	return e
}

// pod returns a pod. One that shares its node's network is known by name, and
// to networks it is the host.
func (t *flowTeller) pod(p *cluster.Pod) *flowpb.Endpoint {
	part := t.parts.of(p, t.cluster)
	e := &flowpb.Endpoint{
		Identity: part.identity, ClusterName: t.cluster, Namespace: p.Namespace, PodName: p.Name, Labels: part.labels,
	}
	if p.HostNetwork {
		e.Identity = identityHost
	}
	if p.Workload.Name != "" {
		e.Workloads = []*flowpb.Workload{{Kind: p.Workload.Kind, Name: p.Workload.Name}}
	}
	return e
}

// podParts remembers what is worked out of pods: they never change, and many
// flows are of the same.
type podParts struct {
	mu sync.Mutex
	m  map[*cluster.Pod]podPart
}

// podPart are a pod's labels as Hubble writes them, sorted, and their identity.
// Nobody may change the labels.
type podPart struct {
	labels   []string
	identity uint32
}

// maxPodParts is more than the pods of a node and of its peers.
const maxPodParts = 8192

func (c *podParts) of(p *cluster.Pod, clusterName string) podPart {
	c.mu.Lock()
	part, ok := c.m[p]
	c.mu.Unlock()
	if ok {
		return part
	}
	part = newPodPart(p, clusterName)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxPodParts {
		c.m = make(map[*cluster.Pod]podPart)
	}
	c.m[p] = part
	return part
}

// newPodPart writes a pod's labels with the keys that people's filters have for
// them.
func newPodPart(p *cluster.Pod, clusterName string) podPart {
	if p.Name == "" {
		return podPart{} // a pod of which only the uid is known
	}
	var part podPart
	var lasting []string
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		l := "k8s:" + k + "=" + p.Labels[k]
		part.labels = append(part.labels, l)
		if !slices.Contains(passing, k) {
			lasting = append(lasting, l)
		}
	}
	of := []string{"k8s:io.cilium.k8s.policy.cluster=" + clusterName, "k8s:io.kubernetes.pod.namespace=" + p.Namespace}
	if p.ServiceAccount != "" {
		of = append(of, "k8s:io.cilium.k8s.policy.serviceaccount="+p.ServiceAccount)
	}
	for _, k := range slices.Sorted(maps.Keys(p.NamespaceLabels)) {
		of = append(of, "k8s:io.cilium.k8s.namespace.labels."+k+"="+p.NamespaceLabels[k])
	}
	part.labels = append(part.labels, of...)
	lasting = append(lasting, of...)
	slices.Sort(part.labels)
	slices.SortFunc(lasting, strings.Compare)
	part.identity = identityOf(lasting)
	return part
}
