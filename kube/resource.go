package kube

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/cluster"
)

// A resource is one that is watched: where it is, what of it is kept, and where.
type resource struct {
	name string
	path string
	// fields and labels select objects of it.
	fields, labels string
	// metadata asks for names, labels and owners only.
	metadata bool
	// optional is one without which addresses still stand for what they do.
	optional bool
	// extension is one that a cluster may not have at all; then there are none,
	// and it is looked for again.
	extension bool
	// quiet is one that nobody has to be told of where it may not be read: it is
	// an extra, and the Stats say it.
	quiet bool
	// convert takes what is kept out of an object, with the key that it is known
	// by; a nil value is an object of which nothing is kept.
	convert func(runtime.Object) (key string, value any)
	// set and gone tell it. gone has the object's last value, or nil where
	// nobody has it.
	set  func(key string, value any, at time.Time)
	gone func(key string, value any, at time.Time)
}

// resources are all that a State has of a cluster.
func resources(st *cluster.State, o Options) []*resource {
	pods := ""
	if o.OwnPodsOnly && o.Node != "" {
		pods = "spec.nodeName=" + o.Node
	}
	list := []*resource{
		{
			// Policies select namespaces.
			name: "namespaces", path: "/api/v1/namespaces", metadata: true, optional: !o.Enforce,
			convert: metadata(func(m *metav1.ObjectMeta) (string, any) { return m.Name, m.Labels }),
			set: func(key string, v any, at time.Time) {
				labels, _ := v.(map[string]string)
				st.SetNamespace(key, labels, at)
			},
			gone: func(key string, _ any, at time.Time) { st.DeleteNamespace(key, at) },
		},
		{
			name: "nodes", path: "/api/v1/nodes",
			convert: of(func(n *corev1.Node) (string, any) { return string(n.UID), nodeOf(n) }),
			set:     set(st.SetNode),
			gone:    func(key string, _ any, at time.Time) { st.DeleteNode(key, at) },
		},
		owners(st, "replicasets", "/apis/apps/v1/replicasets", "ReplicaSet", "!pod-template-hash"),
		owners(st, "jobs", "/apis/batch/v1/jobs", "Job", ""),
		{
			name: "services", path: "/api/v1/services",
			convert: of(func(v *corev1.Service) (string, any) { return string(v.UID), serviceOf(v) }),
			set:     set(st.SetService),
			gone:    func(key string, _ any, at time.Time) { st.DeleteService(key, at) },
		},
		{
			name: "pods", path: "/api/v1/pods", fields: pods,
			convert: of(func(p *corev1.Pod) (string, any) {
				pod := podOf(p, o.Node != "" && p.Spec.NodeName == o.Node)
				if o.Policies {
					pod.Ports = namedPortsOf(p)
				}
				return string(p.UID), pod
			}),
			set: set(st.SetPod),
			gone: func(key string, v any, at time.Time) {
				// Its last word may be when its containers ended.
				if p, ok := v.(*cluster.Pod); ok && !p.Ended.IsZero() {
					st.SetPod(p, at)
				}
				st.DeletePod(key, at)
			},
		},
		{
			name: "endpointslices", path: "/apis/discovery.k8s.io/v1/endpointslices", optional: true,
			convert: of(func(s *discoveryv1.EndpointSlice) (string, any) { return s.Namespace + "/" + s.Name, endpointsOf(s) }),
			set: func(key string, v any, at time.Time) {
				if e, ok := v.(*endpoints); ok {
					namespace, name, _ := strings.Cut(key, "/")
					st.SetEndpoints(namespace, name, e.service, e.list, at)
				}
			},
			gone: func(key string, _ any, at time.Time) {
				namespace, name, _ := strings.Cut(key, "/")
				st.DeleteEndpoints(namespace, name, at)
			},
		},
	}
	if o.Policies {
		list = append(list, policies(st, !o.Enforce)...)
	}
	return list
}

// policies are all kinds of them.
func policies(st *cluster.State, optional bool) []*resource {
	gone := func(key string, _ any, at time.Time) { st.DeletePolicy(key, at) }
	return []*resource{
		{
			name: "networkpolicies", path: "/apis/networking.k8s.io/v1/networkpolicies", optional: optional, quiet: optional,
			convert: of(func(p *networkingv1.NetworkPolicy) (string, any) { return string(p.UID), networkPolicyOf(p) }),
			set:     set(st.SetPolicy), gone: gone,
		},
		{
			name: "clusternetworkpolicies", path: clusterPolicies, optional: optional, quiet: optional, extension: true,
			convert: of(func(p *policyv1alpha2.ClusterNetworkPolicy) (string, any) { return string(p.UID), clusterPolicyOf(p) }),
			set:     set(st.SetPolicy), gone: gone,
		},
	}
}

// owners are objects of which only is asked what made them. Those that nothing
// made are not kept. The replica sets of deployments need not be asked for
// either: they are all but a few, and pods have their deployment's name in
// theirs, see cluster.State.
func owners(st *cluster.State, name, path, kind, labels string) *resource {
	split := func(key string) (namespace string, of cluster.Workload) {
		namespace, name, _ := strings.Cut(key, "/")
		return namespace, cluster.Workload{Kind: kind, Name: name}
	}
	return &resource{
		name: name, path: path, labels: labels, metadata: true, optional: true,
		convert: metadata(func(m *metav1.ObjectMeta) (string, any) {
			owner, _ := controllerOf(m.OwnerReferences)
			if owner == (cluster.Workload{}) {
				return m.Namespace + "/" + m.Name, nil
			}
			return m.Namespace + "/" + m.Name, owner
		}),
		set: func(key string, v any, at time.Time) {
			owner, _ := v.(cluster.Workload)
			namespace, of := split(key)
			st.SetOwner(namespace, of, owner, at)
		},
		gone: func(key string, _ any, at time.Time) {
			namespace, of := split(key)
			st.DeleteOwner(namespace, of, at)
		},
	}
}

// of is a convert for objects of one type; others are garbage.
func of[T any](convert func(T) (string, any)) func(runtime.Object) (string, any) {
	return func(o runtime.Object) (string, any) {
		if typed, ok := o.(T); ok {
			return convert(typed)
		}
		return "", nil
	}
}

func metadata(convert func(*metav1.ObjectMeta) (string, any)) func(runtime.Object) (string, any) {
	return of(func(m *metav1.PartialObjectMetadata) (string, any) { return convert(&m.ObjectMeta) })
}

func set[T any](tell func(T, time.Time)) func(string, any, time.Time) {
	return func(_ string, v any, at time.Time) {
		if typed, ok := v.(T); ok {
			tell(typed, at)
		}
	}
}

// An item is what is kept of an API object on its way through a reflector: a
// few hundred bytes of its ten thousand.
type item struct {
	key   string
	value any

	namespace, name, version string
	// annotations are those of a bookmark: one says that the first list is over.
	annotations map[string]string
}

// GetObjectKind implements runtime.Object.
func (i *item) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. Items do not change.
func (i *item) DeepCopyObject() runtime.Object { return i }

// GetObjectMeta implements metav1.ObjectMetaAccessor.
func (i *item) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: i.namespace, Name: i.name, ResourceVersion: i.version, Annotations: i.annotations}
}

// itemList is a list of them.
type itemList struct {
	metav1.ListMeta
	Items []*item
}

// GetObjectKind implements runtime.Object.
func (l *itemList) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. Lists do not change.
func (l *itemList) DeepCopyObject() runtime.Object { return l }

// item keeps what is kept of an object; nil of one of which nothing is.
func (r *resource) item(o runtime.Object) *item {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil
	}
	i := &item{namespace: m.GetNamespace(), name: m.GetName(), version: m.GetResourceVersion()}
	i.key, i.value = r.convert(o)
	return i
}

// items keeps what is kept of a page of a list.
func (r *resource) items(list runtime.Object) (*itemList, error) {
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, fmt.Errorf("a list of %s is a %T: %w", r.name, list, err)
	}
	out := &itemList{ListMeta: metav1.ListMeta{ResourceVersion: m.GetResourceVersion(), Continue: m.GetContinue(), RemainingItemCount: m.GetRemainingItemCount()}}
	out.Items = make([]*item, 0, meta.LenList(list))
	err = meta.EachListItem(list, func(o runtime.Object) error {
		if i := r.item(o); i != nil && i.value != nil {
			out.Items = append(out.Items, i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("a list of %s: %w", r.name, err)
	}
	return out, nil
}
