package netpol

import (
	"cmp"
	"maps"
	"slices"

	"warren/cluster"
)

// A policy is what a Compiler knows of one. It is never changed into another:
// when it is told anew there is a new one.
type policy struct {
	told     *cluster.Policy
	serial   uint64
	problems []string
	// classes are how many, with subjects, it selects; with none it is not in
	// force, and its rules are nil.
	classes int
	rules   [2][]*rule
	// numbered are the numbers that rules have had, to have them again.
	numbered map[Ref]numbered
	round    uint64
}

type numbered struct {
	id  RuleID
	key string
}

// A rule is one of a policy in force. Rules that match nothing are not there.
type rule struct {
	id     RuleID
	ref    Ref
	action cluster.PolicyAction
	// group is who it is about, nil for everybody.
	group *group
	ports []portKey
	// names of ports: of the subject, or for egress of those who are in
	// listeners, which is group, or every pod.
	names     []portName
	listeners *group
}

// tiers are policies in the order in which they are asked.
type tiers struct {
	admin, baseline []*policy
	network         map[string][]*policy // by namespace
}

// names are the names of ports that rules for egress ask for.
type names struct {
	rules   map[portName]int
	list    []portName // sorted
	changed bool
}

func (n *names) use(name portName, rules int) {
	n.rules[name] += rules
	if now := n.rules[name]; now == 0 {
		delete(n.rules, name)
		n.changed = true
	} else if now == rules {
		n.changed = true
	}
}

// policyKey is the same for policies that are one.
type policyKey struct {
	uid, namespace, name string
	tier                 cluster.PolicyTier
}

func keyOf(p *cluster.Policy) policyKey {
	if p.UID != "" {
		return policyKey{uid: p.UID}
	}
	return policyKey{namespace: p.Namespace, name: p.Name, tier: p.Tier}
}

// setAllPolicies learns the policies of a World. Classes that policies may
// select that have changed must find out by which they are.
func (c *Compiler) setAllPolicies(w *World) {
	namespaces := make(map[string]bool) // of NetworkPolicies that have changed
	everywhere := false
	changed := func(p *cluster.Policy) {
		if p.Tier == cluster.NetworkTier {
			namespaces[p.Namespace] = true
		} else {
			everywhere = true
		}
	}
	for _, told := range w.Policies {
		key := keyOf(told)
		p := c.policies[key]
		if p == nil || p.told != told {
			c.serial++
			next := &policy{told: told, serial: c.serial, problems: problemsOf(told)}
			if p != nil {
				next.numbered = p.numbered
				changed(p.told)
			}
			changed(told)
			p = next
			c.policies[key] = p
		}
		p.round = c.round
	}
	for key, p := range c.policies {
		if p.round != c.round {
			delete(c.policies, key)
			changed(p.told)
		}
	}
	if len(namespaces) == 0 && !everywhere {
		return
	}
	c.tiers = tiers{network: make(map[string][]*policy)}
	for _, p := range c.policies {
		switch p.told.Tier {
		case cluster.AdminTier:
			c.tiers.admin = append(c.tiers.admin, p)
		case cluster.NetworkTier:
			c.tiers.network[p.told.Namespace] = append(c.tiers.network[p.told.Namespace], p)
		case cluster.BaselineTier:
			c.tiers.baseline = append(c.tiers.baseline, p)
		}
	}
	order := func(a, b *policy) int { return comparePolicies(a.told, b.told) }
	slices.SortFunc(c.tiers.admin, order)
	slices.SortFunc(c.tiers.baseline, order)
	for _, of := range c.tiers.network {
		slices.SortFunc(of, order)
	}
	for _, cl := range c.classes {
		if cl.subjects > 0 && (everywhere || namespaces[cl.space.name]) {
			c.staleClasses[cl] = true
		}
	}
}

// policiesOf returns the policies that select a class.
func (c *Compiler) policiesOf(cl *class) []*policy {
	var of []*policy
	for _, tier := range [][]*policy{c.tiers.admin, c.tiers.network[cl.space.name], c.tiers.baseline} {
		for _, p := range tier {
			if !p.told.Subject.Pods.Matches(cl.labels) {
				continue
			}
			if p.told.Tier == cluster.NetworkTier || p.told.Subject.Namespaces.Matches(cl.space.labels) {
				of = append(of, p)
			}
		}
	}
	return of
}

// setPolicies says which policies select a class. What comes into force does so
// at once; what goes out of it does when release is called, so that what both
// have goes on.
func (c *Compiler) setPolicies(cl *class, of []*policy) {
	if slices.Equal(cl.policies, of) {
		return
	}
	for _, p := range of {
		if p.classes++; p.classes == 1 {
			c.enforce(p)
		}
	}
	for _, p := range cl.policies {
		if p.classes--; p.classes == 0 {
			c.released = append(c.released, p)
		}
	}
	cl.policies, cl.told = of, make([]*cluster.Policy, len(of))
	for i, p := range of {
		cl.told[i] = p.told
	}
	c.setRecipe(cl, nil)
}

// enforce puts a policy in force.
func (c *Compiler) enforce(p *policy) {
	if p.rules[Egress] != nil {
		return // was released a moment ago
	}
	c.rulesChanged = true
	had := p.numbered
	p.numbered = make(map[Ref]numbered)
	for _, dir := range []Direction{Egress, Ingress} {
		p.rules[dir] = []*rule{}
		for i, told := range rulesOf(p.told, dir) {
			if !told.AnyPeer && len(told.Peers) == 0 {
				continue
			}
			r := &rule{ref: refOf(p.told, dir, i), action: told.Action, ports: portKeys(told.Ports), names: portNames(told.Ports)}
			if !told.AnyPeer {
				r.group = c.group(told.Peers, p.told.Namespace)
				c.use(r.group)
			}
			if len(r.names) > 0 && dir == Egress {
				r.listeners = r.group
				if r.listeners == nil {
					r.listeners = c.group(everyPod, "")
				}
				c.use(r.listeners)
				for _, name := range r.names {
					c.names.use(name, 1)
				}
			}
			key := r.key(&told)
			if old, ok := had[r.ref]; ok && old.key == key {
				r.id = old.id
			} else {
				c.lastRule++
				r.id = c.lastRule
			}
			p.numbered[r.ref] = numbered{r.id, key}
			p.rules[dir] = append(p.rules[dir], r)
		}
	}
}

// key is the same for rules that say the same.
func (r *rule) key(told *cluster.PolicyRule) string {
	b := []byte{byte(r.action)}
	if r.group != nil {
		b = appendText(b, r.group.key)
	}
	for _, p := range told.Ports {
		b = appendText(append(b, 1), p.Protocol)
		b = appendText(b, p.Name)
		b = append(b, byte(p.First>>8), byte(p.First), byte(p.Last>>8), byte(p.Last))
	}
	return string(b)
}

// maxRetired is how many rules that are not in force any more a Program still
// has: events that they caused are still on their way.
const maxRetired = 4096

// release takes policies out of force that select nobody any more.
func (c *Compiler) release() {
	for _, p := range c.released {
		if p.classes > 0 || p.rules[Egress] == nil {
			continue
		}
		c.rulesChanged = true
		for _, rules := range p.rules {
			for _, r := range rules {
				if r.group != nil {
					c.unuse(r.group)
				}
				if r.listeners != nil {
					c.unuse(r.listeners)
					for _, name := range r.names {
						c.names.use(name, -1)
					}
				}
				c.retired = append(c.retired, r)
			}
		}
		p.rules = [2][]*rule{}
	}
	c.released = c.released[:0]
	if over := len(c.retired) - maxRetired; over > 0 {
		c.retired = slices.Clone(c.retired[over:])
	}
}

// setNames makes the list of the names of ports that rules ask for.
func (c *Compiler) setNames() {
	if !c.names.changed {
		return
	}
	c.names.changed = false
	c.names.list = slices.SortedFunc(maps.Keys(c.names.rules), func(a, b portName) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol))
	})
	for _, cl := range c.classes {
		if len(cl.ports) > 0 {
			c.dirtyClasses[cl] = true
		}
	}
}

// ruleTable returns the rules in force, and the last that were.
func (c *Compiler) ruleTable() map[RuleID]Ref {
	table := make(map[RuleID]Ref)
	for _, r := range c.retired {
		table[r.id] = r.ref
	}
	for _, p := range c.policies {
		for _, rules := range p.rules {
			for _, r := range rules {
				table[r.id] = r.ref
			}
		}
	}
	return table
}
