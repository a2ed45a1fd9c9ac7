// Package cluster has the nouns of a Kubernetes cluster as plain values: what
// events, filters and tables talk about. It knows no API server; package kube
// fills a [State] from one.
//
// Values are immutable once they are in a State: a change makes a new one.
// Tags of fields are those of package event.
package cluster

import (
	"net/netip"
	"time"
)

// A Pod is a pod as it was at one time.
type Pod struct {
	UID string `field:"k8s.pod.uid" doc:"uid of the pod"`
	// StaticUID is the name that a kubelet has for a static pod, in cgroups and
	// for the container runtime: not the uid of its mirror in the API. "" for
	// other pods.
	StaticUID string `column:"-"`
	Name      string `field:"k8s.pod.name" doc:"name of the pod"`
	Namespace string `field:"k8s.ns.name" doc:"namespace of the pod"`
	// Node is the node that it is bound to, "" while there is none.
	Node   string            `column:"k8s.pod.node"`
	Labels map[string]string `field:"k8s.pod.labels" joined:"1" doc:"labels of the pod: k8s.pod.labels[app]; without a key, all of them: key:value, joined by commas and blanks"`
	// NamespaceLabels are those of its namespace, as they were when the pod was
	// last told; pods of one namespace share the map.
	NamespaceLabels map[string]string `field:"k8s.ns.labels" joined:"1" doc:"labels of the namespace: k8s.ns.labels[team]; without a key, all of them"`
	// Addrs are its addresses, of both families; those of its node where
	// HostNetwork is set.
	Addrs       []netip.Addr `column:"k8s.pod.addrs"`
	HostNetwork bool         `field:"k8s.pod.host_network,omitzero" doc:"true when the pod shares its node's network"`
	// Controller is the pod's own controller as the API tells it: a replica set,
	// a job, ... A State fills Workload, ReplicaSet and Job from it, where it is
	// not zero.
	Controller Workload `fields:"-" column:"-"`
	// Workload is the outermost controller: the deployment, not its replica set.
	Workload Workload
	// ReplicaSet is the replica set in between, "" where there is none; Job
	// likewise, for a cron job's.
	ReplicaSet     string `field:"k8s.rs.name" doc:"name of the replica set that made the pod"`
	Job            string `field:"k8s.job.name" doc:"name of the job that made the pod"`
	ServiceAccount string `field:"k8s.sa.name" doc:"service account of the pod"`
	// Phase is Pending, Running, Succeeded, Failed or Unknown.
	Phase string `column:"-"`
	// Created and Started say since when it can have had its addresses: made,
	// and taken up by its node. Started is zero before that.
	Created, Started time.Time `column:"-"`
	// Ended is when it was deleted or its last container ended; zero before.
	Ended      time.Time   `column:"-"`
	Containers []Container `column:"-"`
	// Ports are those that have names, which policies can use; kept where
	// somebody wants policies. A name that is there twice stays twice.
	Ports []PodPort `column:"-"`
}

// A PodPort is a named port of a pod.
type PodPort struct {
	Name     string
	Protocol string // tcp, udp, sctp
	Port     uint16
}

// A Workload is a controller of pods.
type Workload struct {
	Kind string `field:"k8s.workload.kind" doc:"what made the pod, outermost: Deployment, StatefulSet, DaemonSet, Job, CronJob, Node (static pods), ..."`
	Name string `field:"k8s.workload.name" doc:"name of the outermost controller that made the pod; the pod's own where none did"`
}

// A Container is one container of a pod.
type Container struct {
	Name  string
	ID    string // the runtime's, without its scheme; "" until it is made
	Image string // as the pod asks for it
	Kind  ContainerKind
}

// ContainerKind says in which role a container is in its pod.
type ContainerKind string

// The kinds of containers. A Sidecar is an init container that keeps running.
const (
	Main      ContainerKind = "main"
	Init      ContainerKind = "init"
	Sidecar   ContainerKind = "sidecar"
	Ephemeral ContainerKind = "ephemeral"
	// Sandbox holds the namespaces of the pod; the pod's own list has it not.
	Sandbox ContainerKind = "sandbox"
)

// A Service is an address that stands for pods.
type Service struct {
	UID, Namespace, Name string
	Labels               map[string]string
	// ClusterIPs, ExternalIPs and load balancers' addresses; none for headless.
	Addrs   []netip.Addr
	Ports   []Port
	Created time.Time
}

// An Endpoint is one address behind a service.
type Endpoint struct {
	Addr netip.Addr
	// PodUID is the pod that has the address, "" where none is named: then the
	// address says which it is.
	PodUID string
}

// A Port is a port of a service.
type Port struct {
	Name     string
	Protocol string // tcp, udp, sctp
	Port     uint16
	NodePort uint16 // 0 where there is none
}

// A Node is a machine of the cluster.
type Node struct {
	UID, Name string
	Labels    map[string]string
	// Addrs are its internal and external addresses, in this order.
	Addrs []netip.Addr
	// PodCIDRs are the networks its pods get addresses from, where it has some.
	PodCIDRs []netip.Prefix
	Created  time.Time
}

// A Peer is what an address stood for at one time. At most one of Pod, Service
// and Node is set; for none, Kind is World.
type Peer struct {
	Kind    PeerKind
	Pod     *Pod
	Service *Service
	Node    *Node
}

// PeerKind says what an address stands for.
type PeerKind string

// The kinds of peers. Loopback addresses and those of no cluster have none.
const (
	PeerPod     PeerKind = "pod"
	PeerService PeerKind = "service"
	PeerNode    PeerKind = "node"
	PeerWorld   PeerKind = "world"
)

// A User is who asks, as Kubernetes knows them.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}
