package agent

import (
	"errors"
	"fmt"

	"warren/cluster"
	"warren/datapath"
	"warren/netpol"
)

// fullShare is which part of what there is a policy must have to be named as one
// that the kernel has no room for, and the largest is always.
const fullShare = 10

// fullOf says, by uid, which policies need most of what the kernel had no room
// for; nothing where that is not why an Apply failed.
func (n *network) fullOf(program *netpol.Program, err error) map[string]string {
	var full *datapath.FullError
	if !errors.As(err, &full) {
		return nil
	}
	var need map[string]int
	what, more := full.Map, ""
	switch full.Map {
	case "verdicts":
		need, more = verdictsOf(program), " (network.verdicts makes more)"
	case "networks":
		need = networksOf(n.built.world.Policies)
	default:
		return nil // not policies'
	}
	all, most := 0, 0
	for _, count := range need {
		all, most = all+count, max(most, count)
	}
	out := make(map[string]string)
	for uid, count := range need {
		if count == most || count >= all/fullShare {
			out[uid] = fmt.Sprintf("this version is not in force, nor is any later change of policy: this node has room for %d %s%s, and %d of these are the policy's", full.Room, what, more, count)
		}
	}
	return out
}

// verdictsOf counts by uid of a policy the verdicts that its rules give.
func verdictsOf(program *netpol.Program) map[string]int {
	need := make(map[string]int)
	for _, set := range program.Sets {
		for _, v := range set.Verdicts {
			for _, rule := range v.Rule {
				if rule != 0 {
					need[program.Rules[rule].UID]++
				}
			}
		}
	}
	return need
}

// networksOf counts those that policies name.
func networksOf(policies []*cluster.Policy) map[string]int {
	need := make(map[string]int)
	for _, p := range policies {
		for _, rules := range [][]cluster.PolicyRule{p.Ingress, p.Egress} {
			for i := range rules {
				for _, peer := range rules[i].Peers {
					if n := len(peer.Networks) + len(peer.Except); n > 0 {
						need[p.UID] += n
					}
				}
			}
		}
	}
	return need
}
