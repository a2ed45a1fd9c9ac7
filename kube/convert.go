package kube

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"warren/cluster"
)

// mirrorAnnotation is on the pods by which a kubelet shows static pods: its own
// uid of the pod.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// podOf is what Warren knows of a pod. containers says whether to keep those:
// they are the largest part, and of use only on the pod's own node.
func podOf(p *corev1.Pod, containers bool) *cluster.Pod {
	out := &cluster.Pod{
		UID: string(p.UID), Name: p.Name, Namespace: p.Namespace, Node: p.Spec.NodeName,
		Labels: p.Labels, HostNetwork: p.Spec.HostNetwork, ServiceAccount: p.Spec.ServiceAccountName,
		Phase: string(p.Status.Phase), Created: p.CreationTimestamp.UTC(), Addrs: addrsOf(p),
	}
	if p.Status.StartTime != nil {
		out.Started = p.Status.StartTime.UTC()
	}
	out.Ended = endOf(p)
	controller, ours := controllerOf(p.OwnerReferences)
	if ours {
		out.Controller = controller
	} else {
		out.Workload = controller
	}
	if controller.Kind == "Node" {
		out.StaticUID = p.Annotations[mirrorAnnotation]
	}
	if containers {
		out.Containers = containersOf(p)
	}
	return out
}

func addrsOf(p *corev1.Pod) []netip.Addr {
	texts := make([]string, 0, len(p.Status.PodIPs)+1)
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	if len(texts) == 0 && p.Status.PodIP != "" {
		texts = append(texts, p.Status.PodIP)
	}
	return parseAddrs(texts)
}

// parseAddrs leaves out what is no address.
func parseAddrs(texts []string) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// endOf is when a pod's last container ended, zero while one may go on. The API
// tells whole seconds, rounded down: the end is in the second after.
func endOf(p *corev1.Pod) time.Time {
	over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	if !over && (p.DeletionTimestamp == nil || len(p.Status.ContainerStatuses) < len(p.Spec.Containers)) {
		return time.Time{}
	}
	var end time.Time
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			switch t := c.State.Terminated; {
			case t != nil && t.FinishedAt.After(end):
				end = t.FinishedAt.Time
			case t == nil && !over:
				return time.Time{}
			}
		}
	}
	if end.IsZero() {
		return end
	}
	return end.Add(time.Second).UTC()
}

// controllerOf is what made an object. ours is false for a kind that has only
// the name of one whose own owner is asked for.
func controllerOf(owners []metav1.OwnerReference) (controller cluster.Workload, ours bool) {
	for _, o := range owners {
		if o.Controller == nil || !*o.Controller {
			continue
		}
		group, _, _ := strings.Cut(o.APIVersion, "/")
		ours := o.Kind != "ReplicaSet" && o.Kind != "Job" || o.Kind == "ReplicaSet" && group == "apps" || o.Kind == "Job" && group == "batch"
		return cluster.Workload{Kind: o.Kind, Name: o.Name}, ours
	}
	return cluster.Workload{}, true
}

func containersOf(p *corev1.Pod) []cluster.Container {
	out := make([]cluster.Container, 0, len(p.Spec.Containers)+len(p.Spec.InitContainers)+len(p.Spec.EphemeralContainers))
	for _, c := range p.Spec.Containers {
		out = append(out, cluster.Container{Name: c.Name, Image: c.Image, Kind: cluster.Main, ID: idOf(p.Status.ContainerStatuses, c.Name)})
	}
	for _, c := range p.Spec.InitContainers {
		kind := cluster.Init
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			kind = cluster.Sidecar
		}
		out = append(out, cluster.Container{Name: c.Name, Image: c.Image, Kind: kind, ID: idOf(p.Status.InitContainerStatuses, c.Name)})
	}
	for _, c := range p.Spec.EphemeralContainers {
		out = append(out, cluster.Container{Name: c.Name, Image: c.Image, Kind: cluster.Ephemeral, ID: idOf(p.Status.EphemeralContainerStatuses, c.Name)})
	}
	return out
}

// idOf is the runtime's name of a container, of containerd://ID the ID.
func idOf(statuses []corev1.ContainerStatus, name string) string {
	for i := range statuses {
		if statuses[i].Name != name {
			continue
		}
		if _, id, ok := strings.Cut(statuses[i].ContainerID, "://"); ok {
			return id
		}
		return statuses[i].ContainerID
	}
	return ""
}

func serviceOf(v *corev1.Service) *cluster.Service {
	texts := slices.Concat(v.Spec.ClusterIPs, []string{v.Spec.ClusterIP}, v.Spec.ExternalIPs)
	for _, ingress := range v.Status.LoadBalancer.Ingress {
		texts = append(texts, ingress.IP)
	}
	out := &cluster.Service{
		UID: string(v.UID), Namespace: v.Namespace, Name: v.Name, Labels: v.Labels,
		Addrs: parseAddrs(texts), Created: v.CreationTimestamp.UTC(),
	}
	for _, p := range v.Spec.Ports {
		protocol := "tcp" // what the API means with none
		if p.Protocol != "" {
			protocol = strings.ToLower(string(p.Protocol))
		}
		out.Ports = append(out.Ports, cluster.Port{Name: p.Name, Protocol: protocol, Port: portOf(p.Port), NodePort: portOf(p.NodePort)})
	}
	return out
}

// portOf is 0 for what is no port.
func portOf(p int32) uint16 {
	if p < 0 || p > 0xffff {
		return 0
	}
	return uint16(p)
}

func nodeOf(n *corev1.Node) *cluster.Node {
	out := &cluster.Node{UID: string(n.UID), Name: n.Name, Labels: n.Labels, Created: n.CreationTimestamp.UTC()}
	texts := make([]string, 0, len(n.Status.Addresses))
	// Nodes reach each other by the internal ones: they come first.
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				texts = append(texts, a.Address)
			}
		}
	}
	out.Addrs = parseAddrs(texts)
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, cidr := range cidrs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, prefix)
		}
	}
	return out
}

// endpoints are those of one slice.
type endpoints struct {
	service string
	list    []cluster.Endpoint
}

// endpointsOf has those that are not ready too: what goes to them still comes
// by the service.
func endpointsOf(s *discoveryv1.EndpointSlice) *endpoints {
	out := &endpoints{service: s.Labels[discoveryv1.LabelServiceName], list: make([]cluster.Endpoint, 0, len(s.Endpoints))}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if ref := e.TargetRef; ref != nil && ref.Kind == "Pod" && ref.UID != "" {
			out.list = append(out.list, cluster.Endpoint{PodUID: string(ref.UID)})
			continue
		}
		for _, addr := range parseAddrs(e.Addresses) {
			out.list = append(out.list, cluster.Endpoint{Addr: addr})
		}
	}
	return out
}
