package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/netpol"
	"warren/reconcile"
)

// A spied map tells of each row that is written, one after the other, and fails
// when it is told to.
type spied[K comparable, V any] struct {
	reconcile.Map[K, V]
	s *spy
}

// A spy looks after each write of any of its maps.
type spy struct {
	look  func()
	left  int // writes until one fails, 0 for never
	late  bool
	wrote int
}

var errSpy = syscall.ENOMEM

// write does one write, unless it is the one that fails.
func (s *spy) write(do func() error) error {
	s.wrote++
	if s.left > 0 {
		if s.left--; s.left == 0 {
			if s.late {
				if err := do(); err != nil {
					return err
				}
				s.look()
			}
			return errSpy
		}
	}
	err := do()
	s.look()
	return err
}

func (m spied[K, V]) Put(key K, value V) error {
	return m.s.write(func() error { return m.Map.Put(key, value) })
}

func (m spied[K, V]) PutMany(keys []K, values []V) (int, error) {
	for i := range keys {
		if err := m.Put(keys[i], values[i]); err != nil {
			return i, err
		}
	}
	return len(keys), nil
}

func (m spied[K, V]) Delete(keys ...K) error {
	for _, key := range keys {
		if err := m.s.write(func() error { return m.Map.Delete(key) }); err != nil {
			return err
		}
	}
	return nil
}

// A fakeKernel reads maps as programs do.
type fakeKernel struct {
	settings  *reconcile.Memory[uint32, stateConfig]
	places    *reconcile.Memory[stateAddr, statePlaceEntry]
	networks  *reconcile.Memory[stateNetwork, stateNetworkEntry]
	endpoints *reconcile.Memory[uint32, stateEndpoint]
	numbers   *reconcile.Memory[uint32, uint32]
	sets      *reconcile.Memory[uint32, stateSet]
	verdicts  *reconcile.Memory[stateVerdictKey, stateVerdict]
	spy       *spy
}

func newFakeKernel() *fakeKernel {
	k := &fakeKernel{
		settings:  reconcile.NewMemory[uint32, stateConfig](),
		places:    reconcile.NewMemory[stateAddr, statePlaceEntry](),
		networks:  reconcile.NewMemory[stateNetwork, stateNetworkEntry](),
		endpoints: reconcile.NewMemory[uint32, stateEndpoint](),
		numbers:   reconcile.NewMemory[uint32, uint32](),
		sets:      reconcile.NewMemory[uint32, stateSet](),
		verdicts:  reconcile.NewMemory[stateVerdictKey, stateVerdict](),
		spy:       &spy{look: func() {}},
	}
	_ = k.settings.Put(0, stateConfig{}) // memory has room
	return k
}

func (k *fakeKernel) tables(grace func() error) *tables {
	return newTables(tableMaps{
		settings:  spied[uint32, stateConfig]{k.settings, k.spy},
		setting:   new(sync.Mutex),
		places:    spied[stateAddr, statePlaceEntry]{k.places, k.spy},
		networks:  spied[stateNetwork, stateNetworkEntry]{k.networks, k.spy},
		endpoints: spied[uint32, stateEndpoint]{k.endpoints, k.spy},
		numbers:   spied[uint32, uint32]{k.numbers, k.spy},
		sets:      spied[uint32, stateSet]{k.sets, k.spy},
		verdicts:  spied[stateVerdictKey, stateVerdict]{k.verdicts, k.spy},
	}, grace)
}

// A view is what a packet can be judged by: whose the addresses are, and what
// the endpoints' sets say.
type view struct {
	Places map[netip.Addr]placeView
	Sets   map[uint32]setView
}

type placeView struct{ ID, Flags, Ifindex uint32 }

type setView struct {
	Row      stateSet
	Audit    bool
	Verdicts map[stateVerdictKey]stateVerdict // with set 0
}

func (k *fakeKernel) generation() uint32 {
	c, _ := k.settings.Get(0)
	return c.Generation
}

// view is how a packet of a generation sees the maps.
func (k *fakeKernel) view(generation uint32) view {
	slot := generation & 1
	v := view{Places: make(map[netip.Addr]placeView), Sets: make(map[uint32]setView)}
	networks, _ := reconcile.Contents(k.networks)
	cover := newCover(networks)
	for _, a := range fakeAddrs {
		if p, err := k.places.Get(addrKey(a)); err == nil {
			v.Places[a] = placeView{p.Slot[slot].Id, p.Slot[slot].Flags, p.Slot[slot].Ifindex}
			continue
		}
		row, _ := cover.of(a.As16(), 128)
		v.Places[a] = placeView{ID: row.Slot[slot].Id}
	}
	verdicts, _ := reconcile.Contents(k.verdicts)
	endpoints, _ := reconcile.Contents(k.endpoints)
	for index, e := range endpoints {
		set := e.Set[slot] &^ setAudit
		row, err := k.sets.Get(set)
		if err != nil {
			row.Pad = 99 // there is none: like no other
		}
		s := setView{Row: row, Audit: e.Set[slot] != set, Verdicts: make(map[stateVerdictKey]stateVerdict)}
		for key, verdict := range verdicts {
			if key.Set == set {
				key.Set = 0
				s.Verdicts[key] = verdict
			}
		}
		v.Sets[index] = s
	}
	return v
}

var fakeAddrs = func() (all []netip.Addr) {
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.200", "10.0.1.1", "192.0.2.1", "fd00::1", "fd00::2", "fd00:0:0:1::1", "2001:db8::1"} {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}()

var fakeNetworks = func() (all []netip.Prefix) {
	for _, s := range []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/31", "10.0.0.2/32", "192.0.2.0/24", "::/0", "fd00::/16", "fd00::/64", "fd00::1/128"} {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}()

// fakeState is a state at random.
func fakeState(r *rand.Rand) *State {
	p := &netpol.Program{
		Addresses: make(map[netip.Addr]netpol.ID),
		Networks:  make(map[netip.Prefix]netpol.ID),
		Sets:      make(map[netpol.SetID]*netpol.Set),
		SetOf:     make(map[string]netpol.SetID),
	}
	s := &State{Policy: p, Places: make(map[netip.Addr]Place), Routes: make(map[netip.Prefix]netip.Addr)}
	id := func() netpol.ID { return netpol.ID(r.IntN(6)) }
	for _, a := range fakeAddrs {
		if r.IntN(2) == 0 {
			p.Addresses[a] = id()
		}
		if r.IntN(4) == 0 {
			s.Places[a] = Place{Kind: PlaceKind(r.IntN(5))}
		}
	}
	for _, n := range fakeNetworks {
		if n.Bits() == 0 || r.IntN(2) == 0 {
			p.Networks[n] = id()
		}
		if r.IntN(4) == 0 {
			s.Routes[n] = fakeAddrs[3]
		}
	}
	for n := range netpol.SetID(1 + r.IntN(3)) {
		set := &netpol.Set{ID: n, Isolated: [2]bool{r.IntN(2) == 0, r.IntN(2) == 0}, Verdicts: make(map[netpol.Key]netpol.Value)}
		for range r.IntN(4) {
			key := netpol.Key{Peer: id(), Direction: netpol.Direction(r.IntN(2))}
			if r.IntN(2) == 0 {
				key.Protocol, key.Port, key.Bits = 6, uint16(r.IntN(3)), 16
			}
			set.Verdicts[key] = netpol.Value{Order: [2]netpol.Order{netpol.Order(r.IntN(9)), netpol.Order(r.IntN(9))}, Rule: [2]netpol.RuleID{1, 2}}
		}
		p.Sets[n] = set
	}
	addrs := slices.Clone(fakeAddrs)
	for i := range 1 + r.IntN(3) {
		uid := fmt.Sprintf("uid-%d", i)
		p.SetOf[uid] = netpol.SetID(r.IntN(len(p.Sets)))
		n := r.IntN(len(addrs))
		s.Endpoints = append(s.Endpoints, Endpoint{Name: uid, PodUID: uid, Ifindex: 10 + r.IntN(4), Addrs: addrs[n : n+1], Audit: r.IntN(8) == 0})
		addrs = slices.Delete(slices.Clone(addrs), n, n+1)
	}
	return s
}

// viewOf is what a state means.
func viewOf(s *State) view {
	v := view{Places: make(map[netip.Addr]placeView), Sets: make(map[uint32]setView)}
	for _, a := range fakeAddrs {
		p := placeView{Flags: uint32(placeFlags[s.Places[a].Kind])}
		best := -1
		for n, id := range s.Policy.Networks {
			if n.Contains(a) && n.Bits() > best {
				best, p.ID = n.Bits(), uint32(id)
			}
		}
		if id, ok := s.Policy.Addresses[a]; ok {
			p.ID = uint32(id)
		}
		v.Places[a] = p
	}
	taken := make(map[netip.Addr]bool)
	for _, e := range s.Endpoints {
		index := uint32(e.Ifindex)
		if _, ok := v.Sets[index]; ok || taken[e.Addrs[0]] {
			continue // refused
		}
		taken[e.Addrs[0]] = true
		p := v.Places[e.Addrs[0]]
		p.Flags, p.Ifindex = p.Flags|uint32(statePlaceFlagsPLACE_POD), index
		v.Places[e.Addrs[0]] = p
		set := s.Policy.Sets[s.Policy.SetOf[e.PodUID]]
		if _, known := s.Policy.SetOf[e.PodUID]; !known {
			set = denyAll
		}
		sv := setView{Row: setOf(set), Audit: e.Audit, Verdicts: make(map[stateVerdictKey]stateVerdict)}
		verdictsOf(0, set, func(key stateVerdictKey, value stateVerdict) { sv.Verdicts[key] = value })
		v.Sets[index] = sv
	}
	return v
}

// sees reports whether what packets see is what v says, of the endpoints that
// are in both.
func (v view) sees(seen view) bool {
	if !maps.Equal(v.Places, seen.Places) {
		return false
	}
	for index, want := range v.Sets {
		if have, ok := seen.Sets[index]; ok && (have.Row != want.Row || have.Audit != want.Audit || !maps.Equal(have.Verdicts, want.Verdicts)) {
			return false
		}
	}
	return true
}

// Whatever changes, whatever write fails and whenever an agent dies, packets see
// the former state or the next one, and those on their way still the former.
func TestApplyIsOneStep(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { oneStep(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func oneStep(t *testing.T, r *rand.Rand) {
	k := newFakeKernel()
	var before, after *view // what may be seen; nil for whatever
	var onTheirWay *uint32  // generation of packets that are not judged yet
	wayView := view{}
	k.spy.look = func() {
		if t.Failed() {
			return
		}
		g := k.generation()
		seen := k.view(g)
		if onTheirWay != nil && *onTheirWay != g {
			if old := k.view(*onTheirWay); !wayView.sees(old) {
				t.Errorf("packets on their way see something else:\n%s", cmp.Diff(wayView, old))
			}
		}
		if before == nil {
			return
		}
		switch {
		case after.sees(seen):
			if !before.sees(seen) {
				*before = *after // from now on
			}
		case before.sees(seen):
		default:
			t.Errorf("neither as before nor as after:\n%s\n%s", cmp.Diff(*before, seen), cmp.Diff(*after, seen))
		}
	}
	grace := func() error {
		onTheirWay = nil
		return nil
	}
	tables := k.tables(grace)
	var last *State
	for step := range 12 {
		state := fakeState(r)
		if last != nil && r.IntN(3) == 0 {
			// Another policy of the same addresses.
			policy := *last.Policy
			policy.Sets, policy.SetOf = state.Policy.Sets, state.Policy.SetOf
			state = &State{Policy: &policy, Places: last.Places, Routes: last.Routes, Endpoints: slices.Clone(last.Endpoints)}
			if r.IntN(2) == 0 {
				state.Endpoints[0].Addrs = fakeAddrs[:1]
			}
			if r.IntN(2) == 0 {
				state.Endpoints[0].Audit = !state.Endpoints[0].Audit
			}
		}
		last = state
		v := viewOf(state)
		after = &v
		if r.IntN(3) == 0 {
			k.spy.left, k.spy.late = 1+r.IntN(12), r.IntN(2) == 0
		}
		if r.IntN(4) == 0 {
			tables = k.tables(grace) // another agent
		}
		g := k.generation()
		onTheirWay, wayView = &g, k.view(g)
		change, err := tables.begin(context.Background(), state, nil)
		if err == nil {
			if seen := k.view(k.generation()); !v.sees(seen) {
				t.Fatalf("step %d: not in force:\n%s", step, cmp.Diff(v, seen))
			}
			err = tables.finish(change)
		}
		if err != nil && !errors.Is(err, errSpy) {
			t.Fatal(err)
		}
		k.spy.left = 0
		if t.Failed() {
			t.Fatalf("step %d", step)
		}
		now := k.view(k.generation())
		before = &now
		if err == nil {
			checkRows(t, k, state)
		}
	}
}

// checkRows holds that the kernel has what a state wants, in both slots, and
// nothing else.
func checkRows(t *testing.T, k *fakeKernel, state *State) {
	t.Helper()
	want, err := newRows(state, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	places, _ := reconcile.Contents(k.places)
	if !maps.Equal(places, want.places) {
		t.Errorf("addresses: %s", cmp.Diff(len(want.places), len(places)))
	}
	networks, _ := reconcile.Contents(k.networks)
	if !maps.Equal(networks, want.networks) {
		t.Errorf("networks: %d, want %d", len(networks), len(want.networks))
	}
	endpoints, _ := reconcile.Contents(k.endpoints)
	used := make(map[uint32]bool)
	numbers := make(map[uint32]uint32)
	for index, e := range endpoints {
		w, ok := want.endpoints[index]
		w.Set, w.Number, w.Born = e.Set, e.Number, e.Born
		if !ok || w != e || e.Set[0] != e.Set[1] || e.Number == 0 || e.Born == 0 {
			t.Errorf("endpoint %d: %+v", index, e)
		}
		used[e.Set[0]&^setAudit] = true
		numbers[uint32(e.Number)] = index
	}
	if len(endpoints) != len(want.endpoints) {
		t.Errorf("%d endpoints, want %d", len(endpoints), len(want.endpoints))
	}
	have, _ := reconcile.Contents(k.numbers)
	maps.DeleteFunc(have, func(_, index uint32) bool { return index == 0 })
	if !maps.Equal(have, numbers) {
		t.Errorf("numbers %v, want %v", have, numbers)
	}
	sets, _ := reconcile.Contents(k.sets)
	for number := range sets {
		if !used[number] {
			t.Errorf("set %d is nobody's", number)
		}
	}
	verdicts, _ := reconcile.Contents(k.verdicts)
	for key := range verdicts {
		if !used[key.Set] {
			t.Errorf("verdict %+v is nobody's", key)
		}
	}
}

// An address that appears where a network was judged otherwise needs a new
// generation; what changes nothing needs none.
func TestApplyFlipsOnlyIfNeeded(t *testing.T) {
	k := newFakeKernel()
	tables := k.tables(func() error { return nil })
	set := &netpol.Set{ID: 1, Isolated: [2]bool{false, true}}
	addr := netip.MustParseAddr("10.0.0.1")
	state := func(change func(*State)) *State {
		s := &State{
			Policy:    oneSet(set, map[netip.Addr]netpol.ID{addr: 5}, "a", "b"),
			Endpoints: []Endpoint{{Name: "x/a", PodUID: "a", Ifindex: 3, Addrs: []netip.Addr{addr}}},
			Places:    map[netip.Addr]Place{addr: {Kind: PodPlace}},
		}
		change(s)
		return s
	}
	for _, tt := range []struct {
		name   string
		change func(*State)
		flips  bool
	}{
		{"first", func(*State) {}, true},
		{"the same", func(*State) {}, false},
		{"equal content in another set", func(s *State) {
			s.Policy.Sets[1] = &netpol.Set{ID: 1, Isolated: set.Isolated}
		}, false},
		{"another pod with an address that nobody judges otherwise", func(s *State) {
			other := netip.MustParseAddr("10.0.0.2")
			s.Policy.Addresses[other] = 1
			s.Endpoints = append(s.Endpoints, Endpoint{Name: "x/b", PodUID: "b", Ifindex: 4, Addrs: []netip.Addr{other}})
		}, true}, // it was no pod's
		{"it goes", func(*State) {}, true},
		{"another identity", func(s *State) { s.Policy.Addresses[addr] = 6 }, true},
		{"back", func(*State) {}, true},
		{"audited", func(s *State) { s.Endpoints[0].Audit = true }, true},
		{"of another hardware address", func(s *State) {
			s.Endpoints[0].Audit = true
			s.Endpoints[0].MAC[5] = 9
		}, false},
		{"another set", func(s *State) {
			s.Endpoints[0].Audit = true
			s.Policy.Sets[1] = &netpol.Set{ID: 1}
		}, true},
	} {
		before := k.generation()
		c, err := tables.begin(t.Context(), state(tt.change), nil)
		if err == nil {
			err = tables.finish(c)
		}
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if flipped := k.generation() != before; flipped != tt.flips || c.flipped != tt.flips {
			t.Errorf("%s: flipped %v", tt.name, flipped)
		}
	}
}

// TestApplyNumbers: numbers go round, but for those that mean something; a pod that has one
// of these by an earlier agent is given another.
func TestApplyNumbers(t *testing.T) {
	k := newFakeKernel()
	set := &netpol.Set{ID: 1}
	state := &State{Policy: oneSet(set, nil, "a", "b"), Endpoints: []Endpoint{
		{Name: "x/a", PodUID: "a", Ifindex: 3, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		{Name: "x/b", PodUID: "b", Ifindex: 4, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
	}}
	born := map[uint32]uint64{}
	apply := func(tables *tables) {
		t.Helper()
		c, err := tables.begin(t.Context(), state, nil)
		if err == nil {
			err = tables.finish(c)
		}
		if err != nil {
			t.Fatal(err)
		}
		checkRows(t, k, state)
		endpoints, _ := reconcile.Contents(k.endpoints)
		for index, e := range endpoints {
			if e.Number > maxNumber || (born[index] != 0 && e.Born != born[index]) {
				t.Errorf("endpoint %d: number %#x, born %d, was %d", index, e.Number, e.Born, born[index])
			}
			born[index] = e.Born
		}
	}
	first := k.tables(func() error { return nil })
	first.lastNumber = maxNumber - 1
	apply(first)

	row, _ := reconcile.Contents(k.endpoints)
	had := row[3]
	_ = k.numbers.Put(uint32(had.Number), 0)
	had.Number = 0xfffe
	_ = k.numbers.Put(0xfffe, 3)
	_ = k.endpoints.Put(3, had)
	next := k.tables(func() error { return nil })
	if err := next.load(); err != nil {
		t.Fatal(err)
	}
	apply(next)
}

// Endpoints that cannot be are refused, each for itself.
func TestApplyBadEndpoints(t *testing.T) {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	s := &State{Policy: oneSet(&netpol.Set{ID: 1}, nil, "a", "b", "c", "d", "e", "f"), Endpoints: []Endpoint{
		{Name: "good", PodUID: "a", Ifindex: 3, Addrs: addr("10.0.0.1")},
		{Name: "no interface", PodUID: "b", Addrs: addr("10.0.0.2")},
		{Name: "of another", PodUID: "c", Ifindex: 3, Addrs: addr("10.0.0.3")},
		{Name: "no address", PodUID: "d", Ifindex: 5},
		{Name: "taken", PodUID: "e", Ifindex: 6, Addrs: addr("::ffff:10.0.0.1")},
		{Name: "two", PodUID: "f", Ifindex: 7, Addrs: append(addr("10.0.0.7"), addr("10.0.0.8")...)},
		{Name: "invalid", PodUID: "f", Ifindex: 8, Addrs: []netip.Addr{{}}},
		{Name: "gone", PodUID: "f", Ifindex: 9, Addrs: addr("10.0.0.9")},
		{Name: "unknown", PodUID: "nobody", Ifindex: 10, Addrs: addr("10.0.0.10")},
	}}
	rows, err := newRows(s, map[int]bool{9: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rows.reports {
		if (r.Err == nil) != (i == 0) {
			t.Errorf("%s: %v", r.Name, r.Err)
		}
	}
	if len(rows.endpoints) != 2 || rows.sets[3].Isolated[0] || !rows.sets[10].Isolated[0] || !rows.sets[10].Isolated[1] {
		t.Errorf("endpoints %v, sets %v", rows.endpoints, rows.sets)
	}
	if _, err := newRows(&State{}, nil, nil); err == nil {
		t.Error("a state without policy is taken")
	}
}

func TestCover(t *testing.T) {
	rows := make(map[stateNetwork]int)
	for i, p := range fakeNetworks {
		rows[networkKey(p)] = i
	}
	c := newCover(rows)
	for _, tt := range []struct {
		addr string
		most int
		want string
	}{
		{"10.0.0.2", 128, "10.0.0.2/32"},
		{"10.0.0.2", 127, "10.0.0.0/24"},
		{"10.0.0.1", 128, "10.0.0.0/31"},
		{"11.0.0.1", 128, "0.0.0.0/0"},
		{"fd00::1", 127, "fd00::/64"},
		{"2001::", 128, "::/0"},
		{"10.0.0.1", 95, "::/0"},
	} {
		got, ok := c.of(netip.MustParseAddr(tt.addr).As16(), tt.most)
		if !ok || fakeNetworks[got].String() != tt.want {
			t.Errorf("%s/%d: %v", tt.addr, tt.most, fakeNetworks[got])
		}
	}
}

// TestFlipAndTell holds that nobody who changes other settings undoes a change of
// policy, nor is undone by one.
func TestFlipAndTell(t *testing.T) {
	k := newFakeKernel()
	d := &Datapath{settings: k.settings}
	d.tables = newTables(tableMaps{settings: k.settings, setting: &d.settingsMu, places: k.places, networks: k.networks, endpoints: k.endpoints,
		numbers: k.numbers, sets: k.sets, verdicts: k.verdicts}, func() error { return nil })
	const rounds = 2000
	told := make(chan error)
	go func() {
		for i := range rounds + 1 {
			if err := d.Tell(i%2 == 0); err != nil {
				told <- err
				return
			}
		}
		told <- nil
	}()
	var c change
	for range rounds {
		if err := d.tables.flip(&c); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	config, err := k.settings.Get(0)
	if err != nil || config.Generation != rounds || config.Flags&uint32(stateConfigFlagsCONFIG_TELL) == 0 {
		t.Errorf("settings %+v, %v, want generation %d, told", config, err, rounds)
	}
}
