package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"warren/api"
	"warren/cluster"
	"warren/datapath"
)

// describe returns what there is to know of the network, for the status; nil
// where packets are left alone.
func (n *network) describe() *api.Network {
	if n == nil {
		return nil
	}
	out := &api.Network{
		Mode: n.cfg.Mode.String(), Problems: []string{}, Endpoints: []api.NetworkEndpoint{}, Policies: []api.NetworkPolicy{},
		Hooks: []api.NetworkHook{}, Maps: []api.NetworkMap{}, Packets: []api.NetworkPackets{},
	}
	n.describeProgress(out)
	kernel, err := n.kernel.Status()
	if err != nil {
		out.Error = cmp.Or(out.Error, err.Error())
		return out
	}
	describeKernel(out, &kernel)
	return out
}

func (n *network) describeProgress(out *api.Network) {
	f := n.force.Load()
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &n.progress
	out.InForce = p.applied > 0 && p.waiting == "" && p.err == nil
	out.Waiting = p.waiting
	if p.err != nil {
		out.Error = p.err.Error()
	}
	out.Problems = append(out.Problems, p.wired.devices.Problems...)
	if p.unfound > 0 {
		out.Problems = append(out.Problems, fmt.Sprintf("%d pods have devices that are not found: no policy is in force for them", p.unfound))
	}
	out.Uplink, out.MTU = p.wired.devices.UplinkName, p.wired.devices.MTU
	out.Generation, out.Applied = p.report.Generation, p.last
	out.ComputeTime, out.ApplyTime = p.compile, p.apply
	out.Changes, out.Failures = p.applied, p.failed
	for _, e := range n.sorted() {
		one := api.NetworkEndpoint{Pod: e.PodNamespace + "/" + e.PodName, Interface: e.HostInterface, InForce: e.inForce, Hook: e.hook, Addresses: []string{}}
		for _, a := range e.Addrs {
			one.Addresses = append(one.Addresses, a.String())
		}
		switch {
		case e.failed != nil:
			one.Error = e.failed.Error()
		case !e.inForce:
			one.Error = "waits for " + cmp.Or(e.waits, "its turn")
		}
		if f != nil {
			one.Audit = f.world.Namespaces[e.PodNamespace][auditLabel] == auditValue
		}
		out.Endpoints = append(out.Endpoints, one)
	}
	out.Policies = n.policies(func(*cluster.Policy) bool { return false })
}

// policies says which policies are in force: those that are for pods of this
// node, or that something is wrong with, those of the cluster, and those that
// are asked for. The lock is held.
func (n *network) policies(asked func(*cluster.Policy) bool) []api.NetworkPolicy {
	list, p := []api.NetworkPolicy{}, &n.progress
	for _, one := range p.policies {
		is := p.enforced[one.UID]
		problems := slices.Concat(one.Problems, p.problems[one.UID])
		if full := p.full[one.UID]; full != "" {
			problems = append(problems, full)
		}
		slices.Sort(problems)
		problems = slices.Compact(problems)
		quiet := one.Tier == cluster.NetworkTier && is.pods+len(is.failed)+len(problems) == 0 && is.generation == one.Generation
		if quiet && !asked(one) {
			continue
		}
		list = append(list, api.NetworkPolicy{
			UID: one.UID, Tier: one.Tier.String(), Namespace: one.Namespace, Name: one.Name, Generation: one.Generation, InForce: is.generation,
			Endpoints: is.pods, Audited: is.audited, Failed: is.failed, Problems: problems,
		})
	}
	slices.SortFunc(list, api.ComparePolicies)
	return list
}

// policyStatus answers where policies are in force, as far as this node is asked.
func (n *network) policyStatus(q api.PolicyStatusQuestion) api.NodePolicies {
	if n == nil {
		return api.NodePolicies{Mode: api.ModeOff, Policies: []api.NetworkPolicy{}}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	out := api.NodePolicies{Mode: n.cfg.Mode.String(), Waiting: n.progress.waiting, Applied: n.progress.last}
	if err := n.progress.err; err != nil {
		out.Error = err.Error()
	}
	out.Policies = slices.DeleteFunc(n.policies(func(p *cluster.Policy) bool { return slices.Contains(q.Namespaces, p.Namespace) }), func(p api.NetworkPolicy) bool {
		return p.Namespace != "" && (q.Cluster || len(q.Namespaces) > 0 && !slices.Contains(q.Namespaces, p.Namespace))
	})
	return out
}

// enforced is for how many pods of this node a policy is in force.
type enforced struct {
	generation    int64 // of the policy
	pods, audited int
	failed        []string // pods for which it is not
}

// with counts a pod that a policy selects.
func (p enforced) with(e *endpoint, audited bool) enforced {
	switch {
	case e.failed != nil:
		p.failed = append(p.failed, e.pod.Namespace+"/"+e.pod.Name)
	case audited:
		p.pods, p.audited = p.pods+1, p.audited+1
	default:
		p.pods++
	}
	return p
}

// audits says whether what policy denies passes in a namespace.
func (n *network) audits(namespace string) bool {
	return n.built.world.Namespaces[namespace][auditLabel] == auditValue
}

func describeKernel(out *api.Network, s *datapath.Status) {
	out.Generation = max(out.Generation, s.Generation)
	for _, h := range s.Hooks {
		hook := api.NetworkHook{Name: h.Hook, Rung: h.Rung, Devices: h.Devices}
		for _, rung := range slices.Sorted(maps.Keys(h.Refused)) {
			hook.Refused = append(hook.Refused, api.Refusal{Rung: rung, Reason: h.Refused[rung]})
		}
		out.Hooks = append(out.Hooks, hook)
	}
	for _, m := range s.Maps {
		out.Maps = append(out.Maps, api.NetworkMap{Name: m.Name, Used: m.Used, Capacity: m.Capacity})
	}
	for _, device := range slices.Sorted(maps.Keys(s.Failed)) {
		out.Problems = append(out.Problems, device+": "+s.Failed[device])
	}
	c := &s.Counters
	for kind, count := range c.Packets {
		out.Packets = append(out.Packets, api.NetworkPackets{
			Direction: kind.Direction.String(), Verdict: verdictName(kind.Verdict), Reason: datapath.ReasonText(kind.Reason), Packets: count.Packets, Bytes: count.Bytes,
		})
	}
	slices.SortFunc(out.Packets, func(a, b api.NetworkPackets) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Reason, b.Reason))
	})
	for _, lost := range c.Lost {
		out.EventsLost += lost
	}
	out.Evicted, out.Unflowed = c.Evicted, c.Unflowed
}

func verdictName(v datapath.FlowVerdict) string {
	switch v {
	case datapath.Allowed:
		return "allowed"
	case datapath.Denied:
		return "denied"
	case datapath.Audited:
		return "audited"
	}
	return "unjudged"
}
