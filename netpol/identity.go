package netpol

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

// kind is what identities are of, so that one is never of two kinds.
type kind uint8

const (
	worldKind kind = iota + 1
	nodeKind
	podKind
)

// An identity is the addresses that are in the same groups, and whose names of
// ports stand for the same.
type identity struct {
	id     ID
	key    string
	groups []*group
	named  []namedPort
	// uses are places and regions that have it.
	uses int
}

// identityOf returns the identity for what a place or a region is in: the groups
// of who is there, and those of its network.
func (c *Compiler) identityOf(of kind, own []*group, named []namedPort, signature string, around *region) *identity {
	short := identityKey{of, signature, around.signature}
	if id := c.shortcuts[short]; id != nil {
		return id
	}
	groups := own
	for _, g := range around.groups {
		if _, in := slices.BinarySearchFunc(groups, g, byNumber); !in {
			groups = insert(groups, g)
		}
	}
	key := string(appendNamed(append([]byte{byte(of)}, numbers(groups)...), named))
	id := c.identities[key]
	if id == nil {
		id = &identity{id: c.nextID(), key: key, groups: groups, named: named}
		c.identities[key] = id
		c.byID[id.id] = id
		for _, g := range groups {
			g.members[id] = true
			g.version = c.round
		}
	}
	c.shortcuts[short] = id
	return id
}

type identityKey struct {
	of             kind
	signature, net string
}

// nextID returns a number that is nobody's and was not for the longest time.
func (c *Compiler) nextID() ID {
	for {
		c.lastID++
		if c.lastID != 0 && c.byID[c.lastID] == nil {
			return c.lastID
		}
	}
}

// collect gives up the identities that nobody has.
func (c *Compiler) collect() {
	for _, id := range c.unused {
		if id.uses > 0 || c.identities[id.key] != id {
			continue
		}
		delete(c.identities, id.key)
		delete(c.byID, id.id)
		for _, g := range id.groups {
			delete(g.members, id)
			g.version = c.round
		}
	}
	c.unused = c.unused[:0]
}

// setSignature writes down what others can see of a class.
func (c *Compiler) setSignature(cl *class) {
	cl.named = nil
	for _, name := range c.names.list {
		if keys := name.resolve(cl.ports); len(keys) > 0 {
			cl.named = append(cl.named, namedPort{name, keys})
		}
	}
	signature := string(appendNamed([]byte(numbers(cl.groups)), cl.named))
	if signature == cl.signature && signature != "" {
		return
	}
	cl.signature = signature
	for p := range cl.pods {
		for _, addr := range p.addrs {
			c.dirtyPlaces[addr] = true
		}
	}
}

// setPlaces gives addresses the identities of who has them now. Where networks
// have changed, every address is asked.
func (c *Compiler) setPlaces() {
	if c.netsChanged {
		for _, pl := range c.places {
			c.setPlace(pl)
		}
	} else {
		for addr := range c.dirtyPlaces {
			if pl := c.places[addr]; pl != nil {
				c.setPlace(pl)
			}
		}
	}
	for addr := range c.dirtyPlaces {
		if pl := c.places[addr]; pl != nil {
			if holder, n := pl.holder(); holder == nil && n == nil {
				c.has(&pl.identity, nil)
				delete(c.places, addr)
				c.setAddress(addr, nil, owner{})
			}
		}
	}
}

// setPlace gives an address the identity of who has it now.
func (c *Compiler) setPlace(pl *place) {
	p, n := pl.holder()
	if p == nil && n == nil {
		return
	}
	around := c.regions.at(pl.addr)
	if p != nil {
		if pl.kind != podKind || pl.signature != p.class.signature || pl.region != around.signature || pl.identity == nil {
			pl.kind, pl.signature, pl.region = podKind, p.class.signature, around.signature
			c.has(&pl.identity, c.identityOf(podKind, p.class.groups, p.class.named, p.class.signature, around))
		}
		c.setAddress(pl.addr, pl.identity, owner{pod: podKey(p.told), node: p.told.Node})
		return
	}
	signature := numbers(n.groups)
	if pl.kind != nodeKind || pl.signature != signature || pl.region != around.signature || pl.identity == nil {
		pl.kind, pl.signature, pl.region = nodeKind, signature, around.signature
		c.has(&pl.identity, c.identityOf(nodeKind, n.groups, nil, signature, around))
	}
	c.setAddress(pl.addr, pl.identity, owner{node: n.node.Name})
}

// has gives a place or a region an identity instead of what it had.
func (c *Compiler) has(held **identity, id *identity) {
	if old := *held; old != nil {
		if old.uses--; old.uses == 0 {
			c.unused = append(c.unused, old)
		}
	}
	if *held = id; id != nil {
		id.uses++
	}
}

// setAddress writes an address into the next Program, which shares its tables
// with the last one until something differs; nil is one that is nobody's.
func (c *Compiler) setAddress(addr netip.Addr, id *identity, has owner) {
	next := &c.next
	if id == nil {
		next.ownAddresses()
		delete(next.Addresses, addr)
		delete(next.owners, addr)
		return
	}
	if next.Addresses[addr] != id.id || next.owners[addr] != has {
		next.ownAddresses()
		next.Addresses[addr] = id.id
		next.owners[addr] = has
	}
}

// A nextProgram is a Program while it is made of the last one.
type nextProgram struct {
	*Program
	own bool // addresses are not the last one's
}

func (d *nextProgram) ownAddresses() {
	if !d.own {
		d.Addresses, d.owners, d.own = maps.Clone(d.Addresses), maps.Clone(d.owners), true
	}
}

// setRegions cuts the world anew, and gives its networks identities.
func (c *Compiler) setRegions() {
	old := c.regions
	c.regions = newRegions(c.inForce)
	c.next.Networks = make(map[netip.Prefix]ID, len(c.regions.of))
	c.next.lengths4, c.next.lengths6 = c.regions.lengths4, c.regions.lengths6
	for prefix, r := range c.regions.of {
		if r.parent != nil && r.signature == r.parent.signature {
			continue // what is around it says the same
		}
		c.has(&r.identity, c.identityOf(worldKind, nil, nil, "", r))
		c.next.Networks[prefix] = r.identity.id
	}
	for _, r := range old.of {
		c.has(&r.identity, nil)
	}
}

// numbers are the numbers of groups as a text.
func numbers(groups []*group) string {
	b := binary.AppendUvarint(make([]byte, 0, 8+4*len(groups)), uint64(len(groups)))
	for _, g := range groups {
		b = binary.BigEndian.AppendUint32(b, g.number)
	}
	return string(b)
}

// appendNamed appends what names of ports stand for.
func appendNamed(b []byte, named []namedPort) []byte {
	for _, n := range named {
		b = appendText(appendText(b, n.name.name), n.name.protocol)
		for _, k := range n.keys {
			b = append(b, k.protocol, byte(k.port>>8), byte(k.port))
		}
		b = append(b, 0) // no protocol
	}
	return b
}
