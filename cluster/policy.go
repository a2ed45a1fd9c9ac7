package cluster

import "net/netip"

// A Policy is a network policy of any kind, as it was at one time: a
// NetworkPolicy, or a ClusterNetworkPolicy of either tier. What it means is said
// by package netpol.
type Policy struct {
	UID string
	// Namespace is "" for policies of the cluster.
	Namespace, Name string
	Tier            PolicyTier
	// Priority orders policies of the admin and baseline tiers: lower is first.
	Priority int32
	// Subject selects the pods that the policy is for. Its namespaces are
	// ignored for NetworkPolicies: those are for their own.
	Subject PolicySubject
	// IsolatesIngress and IsolatesEgress say for which directions a NetworkPolicy
	// denies what no NetworkPolicy allows; other tiers isolate nothing.
	IsolatesIngress, IsolatesEgress bool
	Ingress, Egress                 []PolicyRule
	// Generation is the API's: which version of the object this is.
	Generation int64
	// Problems say what of it could not be understood; such rules are not in the
	// lists above, and what they would have meant is said by their texts.
	Problems []string
}

// PolicyTier says when a policy is asked.
type PolicyTier uint8

// The tiers, in the order in which they decide.
const (
	AdminTier    PolicyTier = iota + 1 // ClusterNetworkPolicy, tier Admin
	NetworkTier                        // NetworkPolicy
	BaselineTier                       // ClusterNetworkPolicy, tier Baseline
)

// String returns Admin, Network or Baseline.
func (t PolicyTier) String() string {
	switch t {
	case AdminTier:
		return "Admin"
	case NetworkTier:
		return "Network"
	case BaselineTier:
		return "Baseline"
	}
	return "unknown"
}

// A PolicySubject selects pods: those that Pods selects in the namespaces that
// Namespaces selects.
type PolicySubject struct {
	Namespaces, Pods Selector
}

// A PolicyRule is one rule of a policy.
type PolicyRule struct {
	// Name is the rule's own, "" where it has none.
	Name   string
	Action PolicyAction
	// Peers are who it is about; AnyPeer says everybody, and then there are none.
	// Neither is a rule that matches nobody.
	Peers   []PolicyPeer
	AnyPeer bool
	// Ports are what it is about; none is all of them.
	Ports []PolicyPort
}

// PolicyAction is what a rule says of what it matches.
type PolicyAction uint8

// The actions. Rules of NetworkPolicies allow; Pass leaves it to NetworkPolicies.
const (
	AllowAction PolicyAction = iota + 1
	DenyAction
	PassAction
)

// String returns Accept, Deny or Pass, as ClusterNetworkPolicy calls them.
func (a PolicyAction) String() string {
	switch a {
	case AllowAction:
		return "Accept"
	case DenyAction:
		return "Deny"
	case PassAction:
		return "Pass"
	}
	return "unknown"
}

// A PolicyPeer is who is at the other end. One of the groups of fields is set.
type PolicyPeer struct {
	// Pods selects pods, in the namespaces that Namespaces selects. For a
	// NetworkPolicy without a namespaceSelector, SameNamespace is set instead.
	Pods, Namespaces *Selector
	SameNamespace    bool
	// Networks are addresses, of pods too, without those in Except.
	Networks, Except []netip.Prefix
	// Nodes selects nodes.
	Nodes *Selector
}

// A PolicyPort is a range of ports, or a name that each pod resolves for itself.
type PolicyPort struct {
	// Protocol is tcp, udp or sctp; "" is all of them, then there is no port.
	Protocol string
	// Name is a named port of the pod that is asked, "" where there is none.
	Name string
	// First and Last are the range, both 0 for all ports.
	First, Last uint16
}

// A Selector selects by labels. Its zero value selects everything.
type Selector struct {
	Equal map[string]string
	Rules []SelectorRule
}

// A SelectorRule is one matchExpression.
type SelectorRule struct {
	Key    string
	Op     SelectorOp
	Values []string // for In and NotIn
}

// SelectorOp is how a SelectorRule compares.
type SelectorOp uint8

// The operators of matchExpressions.
const (
	OpIn SelectorOp = iota + 1
	OpNotIn
	OpExists
	OpDoesNotExist
)

// Matches reports whether labels are selected.
func (s *Selector) Matches(labels map[string]string) bool {
	for k, v := range s.Equal {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, r := range s.Rules {
		have, ok := labels[r.Key]
		in := false
		for _, v := range r.Values {
			in = in || ok && v == have
		}
		switch r.Op {
		case OpIn:
			if !in {
				return false
			}
		case OpNotIn:
			if in {
				return false
			}
		case OpExists:
			if !ok {
				return false
			}
		case OpDoesNotExist:
			if ok {
				return false
			}
		default:
			return false
		}
	}
	return true
}
