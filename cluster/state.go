package cluster

import (
	"net/netip"
	"time"
)

// Config bounds a State. Its zero value works.
type Config struct {
	// Remember is how long ended pods and freed addresses are known; 0 is an hour.
	Remember time.Duration
	// MaxEnded is how many of them are known at most, the latest; 0 is 20,000.
	MaxEnded int
}

// State is all that is known of a cluster, with a memory: an address is asked
// for at a time. Any goroutine may call any method at any time.
type State struct{}

// NewState returns a State of a cluster of which nothing is known.
func NewState(c Config) *State { return &State{} }

// SetPod tells a pod as it is at a time. It takes p: nobody may change it
// afterwards.
func (s *State) SetPod(p *Pod, at time.Time) {}

// DeletePod tells that a pod is gone since at.
func (s *State) DeletePod(uid string, at time.Time) {}

// Pod returns a pod by its uid or static uid, ended ones too while they are
// remembered; nil when it is not known.
func (s *State) Pod(uid string) *Pod { return nil }

// PodByName returns the pod of a name: the one that is, or the last that was.
func (s *State) PodByName(namespace, name string) *Pod { return nil }

// SetService tells a service as it is at a time. It takes v.
func (s *State) SetService(v *Service, at time.Time) {}

// DeleteService tells that a service is gone since at.
func (s *State) DeleteService(uid string, at time.Time) {}

// SetEndpoints tells the endpoints that one slice has of a service.
func (s *State) SetEndpoints(namespace, slice, service string, endpoints []Endpoint, at time.Time) {}

// DeleteEndpoints tells that a slice is gone.
func (s *State) DeleteEndpoints(namespace, slice string, at time.Time) {}

// ServicesOf returns the services whose endpoints hold the pod. Nobody may
// change the slice.
func (s *State) ServicesOf(p *Pod) []*Service { return nil }

// SetNode tells a node as it is at a time. It takes n.
func (s *State) SetNode(n *Node, at time.Time) {}

// DeleteNode tells that a node is gone since at.
func (s *State) DeleteNode(uid string, at time.Time) {}

// SetNamespace tells the labels of a namespace. It takes labels.
func (s *State) SetNamespace(name string, labels map[string]string, at time.Time) {}

// DeleteNamespace tells that a namespace is gone; its pods keep their labels.
func (s *State) DeleteNamespace(name string, at time.Time) {}

// SetOwner tells what made a replica set or a job: zero for nothing.
func (s *State) SetOwner(namespace string, of, owner Workload, at time.Time) {}

// DeleteOwner tells that a replica set or a job is gone.
func (s *State) DeleteOwner(namespace string, of Workload, at time.Time) {}

// Peer returns what addr stood for at a time; the zero time asks for now.
func (s *State) Peer(addr netip.Addr, port uint16, proto string, at time.Time) (Peer, bool) {
	return Peer{}, false
}

// Pods yields the pods that are, in no order.
func (s *State) Pods(yield func(*Pod) bool) {}

// Nodes yields the nodes that are, in no order.
func (s *State) Nodes(yield func(*Node) bool) {}

// Services yields the services that are, in no order.
func (s *State) Services(yield func(*Service) bool) {}

// Namespaces returns the names of the namespaces, sorted.
func (s *State) Namespaces() []string { return nil }

// Changed tells that something is known that was not: one signal for any
// number of changes, so that one goroutine can wait for it.
func (s *State) Changed() <-chan struct{} { return nil }

// Expect says that a resource will be told: Synced waits for it.
func (s *State) Expect(resource string) {}

// SetSynced says that all there is of a resource was told once.
func (s *State) SetSynced(resource string) {}

// Synced is true when all that is expected was told once.
func (s *State) Synced() bool { return false }

// Stats says how much is known.
func (s *State) Stats() Stats { return Stats{} }

// Stats are the sizes of a State, and what it has forgotten since its start.
type Stats struct {
	Pods, EndedPods, Services, EndpointSlices, Nodes, Namespaces int
	Addresses                                                    int    // with their past
	ForgottenPods, ForgottenAddresses                            uint64 // for their number or their age
	Trimmed                                                      uint64 // texts that were too long or held bytes that names cannot
}
