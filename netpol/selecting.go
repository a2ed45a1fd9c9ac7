package netpol

import "warren/cluster"

// A Selection is one policy that selects a pod.
type Selection struct {
	Policy *cluster.Policy
	// Isolates says by Direction whether what it does not allow is denied.
	Isolates [2]bool
	// Rules are by Direction, in the order in which they are asked.
	Rules [2][]SelectedRule
	// Problems say what of it is not in force.
	Problems []string
}

// A SelectedRule is a rule that is in force for a pod, in words and in members.
type SelectedRule struct {
	Rule   Ref
	Action cluster.PolicyAction
	// Peers are who it is about, in words: "pods app=web of namespace shop".
	Peers []string
	// Pods and Nodes are those of them that there are now.
	Pods  []*cluster.Pod
	Nodes []*cluster.Node
	// Ports are what it is about, in words: "tcp 80-90", "http (tcp 8080)". A
	// name is resolved where this pod says which port it is.
	Ports []string
}

// Selecting says which policies select a pod, in the order in which they are
// asked: admin tier, NetworkPolicies, baseline tier.
func Selecting(pod *cluster.Pod, w *World) []Selection { return nil }
