package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"net/netip"
	"reflect"
	"slices"

	"warren/netpol"
)

// rows are what a State is in the kernel, with the same value in both slots.
type rows struct {
	places    map[stateAddr]statePlaceEntry
	networks  map[stateNetwork]stateNetworkEntry
	endpoints map[uint32]stateEndpoint // without numbers and times
	sets      map[uint32]*netpol.Set   // of each endpoint, by interface
	audited   map[uint32]bool          // endpoints whose sets deny nothing, by interface
	reports   []EndpointReport         // as State's endpoints

	state   *State // what they were made of
	missing map[int]bool
	// samePlaces says that places are those of the rows before, the same map.
	samePlaces bool
}

// addrKey is an address as the kernel's maps have it.
func addrKey(a netip.Addr) stateAddr { return stateAddr{Bytes: a.As16()} }

// networkKey is a network as the kernel's maps have it; its host bits are 0.
func networkKey(p netip.Prefix) stateNetwork {
	addr, n := p.Addr(), p.Bits()
	if addr.Is4() {
		n += 96
	}
	return stateNetwork{Prefix: uint32(n), Addr: masked(addr.As16(), n)}
}

// masked clears all but the first n bits.
func masked(a [16]byte, n int) [16]byte {
	for i := range a {
		switch have := n - 8*i; {
		case have <= 0:
			a[i] = 0
		case have < 8:
			a[i] &= 0xff << (8 - have)
		}
	}
	return a
}

// be16 and be32 are numbers as they are in packets.
func be16(n uint16) uint16 { return bits.ReverseBytes16(n) }

func node4Of(a netip.Addr) uint32 {
	if a = a.Unmap(); !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.LittleEndian.Uint32(b[:])
}

// everything are the networks that are always there.
var everything = []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")}

// A cover finds the longest network that an address is in.
type cover[V any] struct {
	rows    map[stateNetwork]V
	lengths []int // the longest first
}

func newCover[V any](rows map[stateNetwork]V) cover[V] {
	var has [129]bool
	for n := range rows {
		has[min(n.Prefix, 128)] = true
	}
	c := cover[V]{rows: rows}
	for n := 128; n >= 0; n-- {
		if has[n] {
			c.lengths = append(c.lengths, n)
		}
	}
	return c
}

// of returns the row of the longest network that the first most bits are in.
func (c cover[V]) of(a [16]byte, most int) (row V, ok bool) {
	for _, n := range c.lengths {
		if n > most {
			continue
		}
		if row, ok = c.rows[stateNetwork{Prefix: uint32(n), Addr: masked(a, n)}]; ok {
			return row, true
		}
	}
	return row, false
}

// newRows makes the rows of a state, but for the endpoints whose interfaces are
// missing. Most changes of policy leave addresses alone, which are many: where
// nothing that they are made of has changed, those of the rows before are shared.
func newRows(state *State, missing map[int]bool, before *rows) (*rows, error) {
	if state.Policy == nil {
		return nil, errors.New("a state without a policy")
	}
	r := &rows{
		networks:  make(map[stateNetwork]stateNetworkEntry, len(state.Policy.Networks)+len(state.Routes)+len(everything)),
		endpoints: make(map[uint32]stateEndpoint, len(state.Endpoints)),
		sets:      make(map[uint32]*netpol.Set, len(state.Endpoints)),
		audited:   make(map[uint32]bool),
		state:     state,
		missing:   maps.Clone(missing),
	}
	ids, routes := r.setNetworks(state)
	if before != nil && r.placesLike(before) {
		r.places, r.samePlaces = before.places, true
	} else {
		r.places = make(map[stateAddr]statePlaceEntry, max(len(state.Policy.Addresses), len(state.Places)))
		r.setPlaces(state, ids, routes)
	}
	r.setEndpoints(state, missing, ids)
	return r, nil
}

// placesLike says whether places are made of the same things as those of other
// rows. Maps of a State are compared by whether they are the same map.
func (r *rows) placesLike(other *rows) bool {
	a, b := r.state, other.state
	return sameMap(a.Policy.Addresses, b.Policy.Addresses) && sameMap(a.Policy.Networks, b.Policy.Networks) &&
		sameMap(a.Places, b.Places) && sameMap(a.Routes, b.Routes) && maps.Equal(r.missing, other.missing) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, func(a, b Endpoint) bool {
			return a.Ifindex == b.Ifindex && a.MAC == b.MAC && a.HostMAC == b.HostMAC && slices.Equal(a.Addrs, b.Addrs)
		})
}

// sameMap says whether two maps are one. Both are alive, so that they cannot be
// at one place one after the other.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// setNetworks makes the rows of networks: those that policy knows and those
// that packets are sent to, each with what the longest of the other kind says.
func (r *rows) setNetworks(state *State) (cover[netpol.ID], cover[netip.Addr]) {
	id := make(map[stateNetwork]netpol.ID, len(state.Policy.Networks)+len(everything))
	for _, p := range everything {
		id[networkKey(p)] = 0
	}
	for p, n := range state.Policy.Networks {
		if p.IsValid() {
			id[networkKey(p)] = n
		}
	}
	node := make(map[stateNetwork]netip.Addr, len(state.Routes))
	for p, via := range state.Routes {
		if p.IsValid() {
			node[networkKey(p)] = via
		}
	}
	ids, routes := newCover(id), newCover(node)
	for _, keys := range []iter.Seq[stateNetwork]{keysOf(id), keysOf(node)} {
		for key := range keys {
			n, _ := ids.of(key.Addr, int(key.Prefix)) // there is always one
			via, _ := routes.of(key.Addr, int(key.Prefix))
			place := statePlace{Id: uint32(n), Node4: node4Of(via)}
			r.networks[key] = stateNetworkEntry{Slot: [2]statePlace{place, place}}
		}
	}
	return ids, routes
}

func keysOf[K comparable, V any](m map[K]V) iter.Seq[K] {
	return func(yield func(K) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

func bothSlots(p statePlace) statePlaceEntry {
	return statePlaceEntry{Slot: [2]statePlace{p, p}}
}

var placeFlags = map[PlaceKind]statePlaceFlags{
	PodPlace:     statePlaceFlagsPLACE_POD,
	NodePlace:    statePlaceFlagsPLACE_NODE,
	HostPlace:    statePlaceFlagsPLACE_HOST,
	ServicePlace: statePlaceFlagsPLACE_SERVICE,
}

func (r *rows) setPlaces(state *State, ids cover[netpol.ID], routes cover[netip.Addr]) {
	for a, place := range state.Places {
		key := addrKey(a)
		id, ok := state.Policy.Addresses[a.Unmap()]
		if !ok {
			id, _ = ids.of(key.Bytes, 128)
		}
		via := place.Node
		if place.Kind == PodPlace && !via.IsValid() {
			via, _ = routes.of(key.Bytes, 128)
		}
		r.places[key] = bothSlots(statePlace{Id: uint32(id), Node4: node4Of(via), Flags: uint32(placeFlags[place.Kind])})
	}
	for a, id := range state.Policy.Addresses {
		key := addrKey(a)
		if _, ok := r.places[key]; ok {
			continue
		}
		via, _ := routes.of(key.Bytes, 128)
		r.places[key] = bothSlots(statePlace{Id: uint32(id), Node4: node4Of(via)})
	}
}

func (r *rows) setEndpoints(state *State, missing map[int]bool, ids cover[netpol.ID]) {
	taken := make(map[stateAddr]string)
	r.reports = make([]EndpointReport, len(state.Endpoints))
	for i := range state.Endpoints {
		e := &state.Endpoints[i]
		report := &r.reports[i]
		*report = EndpointReport{Name: e.Name, PodUID: e.PodUID, Ifindex: e.Ifindex}
		if missing[e.Ifindex] {
			report.Err = fmt.Errorf("endpoint %s: its interface %d is gone", e.Name, e.Ifindex)
			continue
		}
		if report.Err = r.setEndpoint(e, state.Policy, taken, ids); report.Err != nil {
			report.Err = fmt.Errorf("endpoint %s: %w", e.Name, report.Err)
		}
	}
}

func (r *rows) setEndpoint(e *Endpoint, policy *netpol.Program, taken map[stateAddr]string, ids cover[netpol.ID]) error {
	if e.Ifindex <= 0 || e.Ifindex > 1<<31-1 {
		return fmt.Errorf("no interface has the number %d", e.Ifindex)
	}
	index := uint32(e.Ifindex)
	if _, ok := r.endpoints[index]; ok {
		return fmt.Errorf("interface %d is another endpoint's", index)
	}
	row := stateEndpoint{Mac: e.MAC, HostMac: e.HostMAC}
	if e.Audit {
		r.audited[index] = true
	}
	if e.Chained {
		row.Flags |= uint32(stateEndpointFlagsEP_CHAINED)
	}
	var keys []stateAddr
	for _, a := range e.Addrs {
		if !a.IsValid() {
			return errors.New("an address of it is none")
		}
		key := addrKey(a)
		mine := &row.Ip6
		if a.Unmap().Is4() {
			mine = &row.Ip4
		}
		if *mine != (stateAddr{}) && *mine != key {
			return fmt.Errorf("%v is its second address of one family", a)
		}
		if other, ok := taken[key]; ok {
			return fmt.Errorf("%v is the address of %s", a, other)
		}
		*mine = key
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return errors.New("it has no address")
	}
	for _, key := range keys {
		taken[key] = e.Name
		if r.samePlaces {
			continue
		}
		entry, ok := r.places[key]
		place := entry.Slot[0]
		if !ok {
			id, _ := ids.of(key.Bytes, 128)
			place.Id = uint32(id)
		}
		place.Node4 = 0
		place.Flags |= uint32(statePlaceFlagsPLACE_POD)
		place.Ifindex, place.Mac, place.HostMac = index, e.MAC, e.HostMAC
		r.places[key] = bothSlots(place)
	}
	r.endpoints[index] = row
	if number, ok := policy.SetOf[e.PodUID]; ok && policy.Sets[number] != nil {
		r.sets[index] = policy.Sets[number]
		return nil
	}
	r.sets[index] = denyAll
	return errNoPolicy
}

// denyAll is the set of a pod that policy knows nothing of.
var denyAll = &netpol.Set{Isolated: [2]bool{true, true}}

var errNoPolicy = errors.New("no policy is known for its pod: all it sends and receives is denied")

// verdicts calls see for all rows of a set, which has a number in the kernel.
func verdictsOf(number uint32, set *netpol.Set, see func(stateVerdictKey, stateVerdict)) {
	for k, v := range set.Verdicts {
		key := stateVerdictKey{Set: number, Peer: uint32(k.Peer), Port: be16(k.Port), Bits: k.Bits, Proto: k.Protocol}
		if k.Direction == netpol.Ingress {
			key.Bits |= keyIngress
		}
		see(key, stateVerdict{
			Order: [2]uint32{uint32(v.Order[0]), uint32(v.Order[1])},
			Rule:  [2]uint32{uint32(v.Rule[0]), uint32(v.Rule[1])},
		})
	}
}

// keyIngress is KEY_INGRESS of state.h, setAudit SET_AUDIT.
const (
	keyIngress = 0x80
	setAudit   = 0x80000000
)

// setOf is the row of a set.
func setOf(set *netpol.Set) stateSet {
	var row stateSet
	for k := range set.Verdicts {
		d := k.Direction & 1
		if k.Protocol == 0 {
			row.AnyProto[d] = 1
		} else {
			row.Bits[d] |= 1 << k.Bits
		}
	}
	for d, isolated := range set.Isolated {
		if isolated {
			row.Isolated[d] = 1
		}
	}
	return row
}

// policiesOf are the uids of the policies that a set has rules of.
func policiesOf(set *netpol.Set, rules map[netpol.RuleID]netpol.Ref) []string {
	seen := make(map[netpol.RuleID]struct{})
	var uids []string
	for _, v := range set.Verdicts {
		for _, rule := range v.Rule {
			if _, ok := seen[rule]; ok || rule == 0 {
				continue
			}
			seen[rule] = struct{}{}
			if ref, ok := rules[rule]; ok && !slices.Contains(uids, ref.UID) {
				uids = append(uids, ref.UID)
			}
		}
	}
	slices.Sort(uids)
	return uids
}
