package api

import "time"

// Network is the node's part of the cluster's network, where the agent connects
// its pods or enforces policy on them.
type Network struct {
	// Mode is routed, vxlan or chained.
	Mode string `json:"mode"`
	// InForce says that what the cluster wanted at Applied is what the kernel does.
	// Before the first time, Waiting says for what is waited; what an earlier
	// agent has left goes on.
	InForce bool   `json:"in_force"`
	Waiting string `json:"waiting,omitempty"`
	// Error is what is not as it should be; it is tried again.
	Error string `json:"error,omitempty"`
	// Problems keep some packets from arriving, and are not the agent's to mend.
	Problems []string `json:"problems"`
	Uplink   string   `json:"uplink,omitempty"` // device to other nodes
	MTU      int      `json:"mtu,omitempty"`    // of pods

	// Generation is that of the policy in force.
	Generation uint32    `json:"generation"`
	Applied    time.Time `json:"applied,omitzero"`
	// ComputeTime and ApplyTime are what the last change has taken.
	ComputeTime time.Duration `json:"compute_ns"`
	ApplyTime   time.Duration `json:"apply_ns"`
	Changes     uint64        `json:"changes"` // since the start
	Failures    uint64        `json:"failures"`

	Endpoints []NetworkEndpoint `json:"endpoints"`
	// Policies are those that are for pods of this node, those of the cluster, and
	// those with problems.
	Policies []NetworkPolicy `json:"policies"`
	Hooks    []NetworkHook   `json:"hooks"`
	Maps     []NetworkMap    `json:"maps"`
	// Packets are those of this node's pods, by what became of them.
	Packets []NetworkPackets `json:"packets"`
	// EventsLost are flow events that found no room; the flows count on. Evicted
	// are flows that gave way to others before their time, Unflowed packets that
	// passed without a flow, for want of room.
	EventsLost uint64 `json:"events_lost"`
	Evicted    uint64 `json:"evicted"`
	Unflowed   uint64 `json:"unflowed"`
}

// NetworkEndpoint is a pod of this node, as it is connected.
type NetworkEndpoint struct {
	Pod       string   `json:"pod"` // namespace/name
	Interface string   `json:"interface"`
	Addresses []string `json:"addresses"`
	InForce   bool     `json:"in_force"`
	Hook      string   `json:"hook,omitempty"` // tcx or clsact
	// Audit says that what policy would deny is told, and passes.
	Audit bool   `json:"audit,omitempty"`
	Error string `json:"error,omitempty"` // why it is not in force
}

// NetworkPolicy is a network policy, as it is in force on this node.
type NetworkPolicy struct {
	UID       string `json:"uid,omitempty"`
	Tier      string `json:"tier"` // Admin, Network or Baseline
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Generation is the API's: which version of the policy the node knows, and
	// InForce which one is in force, 0 for none yet.
	Generation int64 `json:"generation"`
	InForce    int64 `json:"in_force"`
	// Endpoints are the pods of this node that it is in force for, Audited those of
	// them where what it denies is told and passes, Failed those for which it is not
	// in force though it should be.
	Endpoints int      `json:"endpoints"`
	Audited   int      `json:"audited,omitempty"`
	Failed    []string `json:"failed,omitempty"`
	// Uncounted says that pods are not counted, because the caller may not see all
	// of them.
	Uncounted bool `json:"uncounted,omitempty"`
	// Problems are what of it is not in force, or not understood.
	Problems []string `json:"problems,omitempty"`
}

// NetworkHook says how programs are attached to one kind of device.
type NetworkHook struct {
	Name    string    `json:"name"` // endpoint, uplink, tunnel or other
	Rung    string    `json:"rung,omitempty"`
	Devices int       `json:"devices"`
	Refused []Refusal `json:"refused,omitempty"`
}

// NetworkMap says how full a map of the kernel's programs is.
type NetworkMap struct {
	Name     string `json:"name"`
	Used     int    `json:"used"`
	Capacity int    `json:"capacity"`
}

// NetworkPackets are packets that had the same fate.
type NetworkPackets struct {
	Direction string `json:"direction"`        // egress or ingress
	Verdict   string `json:"verdict"`          // allowed, denied or audited
	Reason    string `json:"reason,omitempty"` // why they were dropped
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}
