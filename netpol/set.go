package netpol

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"slices"

	"warren/cluster"
)

// A recipe is how a set is made: of which policies, for pods whose names of
// ports stand for what. Classes with the same recipe have the same set.
type recipe struct {
	key      string
	policies []*policy
	ports    []cluster.PodPort
	// groups that its rules are about: when their members change the set does.
	groups  []*group
	classes int
	made    uint64 // the round
	set     *Set
	// excess says that there are too many verdicts: all is denied.
	excess bool
}

// setRecipe gives a class another recipe, nil for none yet.
func (c *Compiler) setRecipe(cl *class, r *recipe) {
	if old := cl.recipe; old != nil {
		if old.classes--; old.classes == 0 {
			delete(c.recipes, old.key)
		}
	}
	if cl.recipe = r; r != nil {
		r.classes++
	} else if cl.subjects > 0 {
		c.hungry[cl] = true
	}
}

// recipeOf returns the recipe for a class.
func (c *Compiler) recipeOf(cl *class) *recipe {
	var key []byte
	for _, p := range cl.policies {
		key = binary.AppendUvarint(key, p.serial)
		for _, r := range p.rules[Ingress] {
			for _, name := range r.names {
				keys := name.resolve(cl.ports)
				key = binary.AppendUvarint(key, uint64(len(keys)))
				for _, k := range keys {
					key = append(key, k.protocol, byte(k.port>>8), byte(k.port))
				}
			}
		}
	}
	if r := c.recipes[string(key)]; r != nil {
		return r
	}
	r := &recipe{key: string(key), policies: cl.policies, ports: cl.ports}
	for _, p := range r.policies {
		for _, rules := range p.rules {
			for _, rule := range rules {
				for _, g := range []*group{rule.group, rule.listeners} {
					if g != nil && !slices.Contains(r.groups, g) {
						r.groups = append(r.groups, g)
					}
				}
			}
		}
	}
	c.recipes[r.key] = r
	return r
}

// isStale reports whether the set is not what the recipe makes now.
func (r *recipe) isStale() bool {
	return r.set == nil || slices.ContainsFunc(r.groups, func(g *group) bool { return g.version > r.made })
}

// make makes the set of a recipe.
func (c *Compiler) make(r *recipe) {
	s := &Set{Verdicts: make(map[Key]Value)}
	r.excess = false
	for _, dir := range []Direction{Egress, Ingress} {
		for _, p := range r.policies {
			s.Isolated[dir] = s.Isolated[dir] || isolates(p.told, dir)
		}
		m := &maker{c, r, s, dir, [2]Order{}, [2]bool{}, false}
		for _, p := range r.policies {
			m.policy(p)
		}
		r.excess = r.excess || m.excess
	}
	if r.excess {
		s = &Set{Isolated: [2]bool{true, true}}
	}
	r.made = c.round
	r.set = c.intern(s)
}

// A maker writes the verdicts of one direction into a set.
type maker struct {
	c   *Compiler
	r   *recipe
	set *Set
	dir Direction
	// next is the precedence of the next rule of each slot.
	next [2]Order
	// over says of a slot that a rule has matched everything: those after it
	// are never asked.
	over   [2]bool
	excess bool
}

// policy writes the verdicts of the next policy.
func (m *maker) policy(p *policy) {
	slot := 1
	switch {
	case p.told.Tier == cluster.AdminTier:
		slot = 0
	case p.told.Tier == cluster.BaselineTier && m.set.Isolated[m.dir]:
		return // NetworkPolicies decide
	}
	for _, r := range p.rules[m.dir] {
		if m.over[slot] || m.excess {
			return
		}
		action := r.action
		if slot == 1 && action == cluster.PassAction {
			action = cluster.AllowAction // nothing comes after the baseline tier
		}
		m.rule(r, slot, m.next[slot]<<2|Order(action))
		m.next[slot]++
	}
}

// rule writes the verdicts of one rule.
func (m *maker) rule(r *rule, slot int, order Order) {
	keys := r.ports
	if m.dir == Ingress {
		keys = slices.Clone(keys)
		for _, name := range r.names {
			keys = append(keys, name.resolve(m.r.ports)...)
		}
	} else {
		for _, name := range r.names {
			for id := range r.listeners.members {
				for _, named := range id.named {
					if named.name == name {
						m.put(id.id, named.keys, slot, order, r.id)
					}
				}
			}
		}
	}
	if r.group == nil {
		m.put(0, keys, slot, order, r.id)
		m.over[slot] = slices.Contains(keys, everyPort)
		return
	}
	for id := range r.group.members {
		m.put(id.id, keys, slot, order, r.id)
	}
}

// put writes verdicts for one peer, where no rule before has one.
func (m *maker) put(peer ID, ports []portKey, slot int, order Order, rule RuleID) {
	for _, p := range ports {
		key := Key{Peer: peer, Direction: m.dir, Protocol: p.protocol, Port: p.port, Bits: p.bits}
		value := m.set.Verdicts[key]
		if value.Order[slot] != 0 {
			continue
		}
		value.Order[slot], value.Rule[slot] = order, rule
		m.set.Verdicts[key] = value
		if p.protocol == 0 {
			m.set.AnyProtocol[m.dir] = true
		} else {
			m.set.Lengths[m.dir] |= 1 << p.bits
		}
	}
	m.excess = m.excess || len(m.set.Verdicts) > m.c.maxVerdicts
}

// intern returns the set with the content of s that there is already, or s with
// a number of its own.
func (c *Compiler) intern(s *Set) *Set {
	sum := uint64(len(s.Verdicts))
	for key, value := range s.Verdicts {
		sum += maphash.Comparable(c.seed, verdict{key, value}) // in any order
	}
	for _, have := range c.sets[sum] {
		if have.Isolated == s.Isolated && maps.Equal(have.Verdicts, s.Verdicts) {
			return have
		}
	}
	for {
		c.lastSet++
		if c.lastSet != 0 && !c.setUsed[c.lastSet] {
			break
		}
	}
	s.ID = c.lastSet
	c.setUsed[s.ID] = true
	c.sets[sum] = append(c.sets[sum], s)
	return s
}

type verdict struct {
	Key
	Value
}

// collectSets forgets the sets that a Program does not have.
func (c *Compiler) collectSets(used map[SetID]*Set) {
	if len(used) == len(c.setUsed) {
		return
	}
	for sum, sets := range c.sets {
		sets = slices.DeleteFunc(sets, func(s *Set) bool {
			if used[s.ID] == nil {
				delete(c.setUsed, s.ID)
				return true
			}
			return false
		})
		if len(sets) == 0 {
			delete(c.sets, sum)
		} else {
			c.sets[sum] = sets
		}
	}
}
