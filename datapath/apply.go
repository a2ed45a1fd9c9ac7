package datapath

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"warren/netpol"
	"warren/reconcile"
)

// tables are the maps that a State goes into. They know neither programs nor
// devices, so that they can be tested with maps that are not the kernel's. One
// goroutine uses them at a time.
type tables struct {
	settings  reconcile.Map[uint32, stateConfig]
	setting   sync.Locker // held by who changes the settings
	places    slotted[stateAddr, statePlaceEntry, statePlace]
	networks  slotted[stateNetwork, stateNetworkEntry, statePlace]
	endpoints slotted[uint32, stateEndpoint, uint32]
	numbers   reconcile.Map[uint32, uint32]
	sets      *reconcile.Mirror[uint32, stateSet]
	verdicts  reconcile.Map[stateVerdictKey, stateVerdict]
	// grace returns when every packet that was on its way when it was called has
	// been judged.
	grace func() error

	loaded bool
	// settled are the rows that are all there, and no others; nil if nobody knows.
	settled *rows
	// looked says that since the last flip there has been a time of grace.
	looked bool

	// Sets in the kernel are numbered here: a Program's own numbers begin anew
	// with each agent.
	numberOf  map[*netpol.Set]uint32
	contentOf map[content]uint32
	inKernel  map[uint32]*netpol.Set // complete ones
	half      map[uint32]*netpol.Set // of which nobody knows how much is there
	foreign   bool                   // there are, or may be, sets of an earlier agent
	lastSet   uint32
	seeds     [2]maphash.Seed

	lastNumber uint16
	numbered   map[uint16]uint32 // interfaces by their endpoints' numbers

	policies map[*netpol.Set][]string
}

// content is that of a set: two hashes of it.
type content [2]uint64

type tableMaps struct {
	settings  reconcile.Map[uint32, stateConfig]
	setting   sync.Locker // held by who changes the settings
	places    reconcile.Map[stateAddr, statePlaceEntry]
	networks  reconcile.Map[stateNetwork, stateNetworkEntry]
	endpoints reconcile.Map[uint32, stateEndpoint]
	numbers   reconcile.Map[uint32, uint32]
	sets      reconcile.Map[uint32, stateSet]
	verdicts  reconcile.Map[stateVerdictKey, stateVerdict]
}

func newTables(m tableMaps, grace func() error) *tables {
	return &tables{
		settings: m.settings,
		setting:  m.setting,
		places: slotted[stateAddr, statePlaceEntry, statePlace]{
			name:   "addresses",
			mirror: reconcile.NewMirror(m.places),
			slots:  func(p *statePlaceEntry) *[2]statePlace { return &p.Slot },
			alike:  alikePlaces,
		},
		networks: slotted[stateNetwork, stateNetworkEntry, statePlace]{
			name:   "networks",
			mirror: reconcile.NewMirror(m.networks),
			slots:  func(p *stateNetworkEntry) *[2]statePlace { return &p.Slot },
			alike:  alikePlaces,
		},
		endpoints: slotted[uint32, stateEndpoint, uint32]{
			name:   "endpoints",
			mirror: reconcile.NewMirror(m.endpoints),
			slots:  func(e *stateEndpoint) *[2]uint32 { return &e.Set },
			judged: func(a, b stateEndpoint) bool { return a.Flags != b.Flags },
		},
		numbers:   m.numbers,
		sets:      reconcile.NewMirror(m.sets),
		verdicts:  m.verdicts,
		grace:     grace,
		numberOf:  make(map[*netpol.Set]uint32),
		contentOf: make(map[content]uint32),
		inKernel:  make(map[uint32]*netpol.Set),
		half:      make(map[uint32]*netpol.Set),
		seeds:     [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		numbered:  make(map[uint16]uint32),
		policies:  make(map[*netpol.Set][]string),
	}
}

// alikePlaces says whether packets from and to two places are judged alike. The
// rest is how they get there, and no flow remembers that.
func alikePlaces(a, b statePlace) bool {
	return a.Id == b.Id && a.Flags == b.Flags && a.Ifindex == b.Ifindex
}

// load reads what an earlier agent has left.
func (t *tables) load() error {
	if t.loaded {
		return nil
	}
	if err := errors.Join(t.places.load(), t.networks.load(), t.endpoints.load()); err != nil {
		return err
	}
	if err := t.sets.Load(); err != nil {
		return fmt.Errorf("read sets: %w", err)
	}
	for number := range t.sets.All() {
		t.lastSet = max(t.lastSet, number)
	}
	err := t.numbers.Each(func(number, index uint32) error {
		if index != 0 {
			t.numbered[uint16(number)] = index
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read numbers: %w", err)
	}
	for index, e := range t.endpoints.mirror.All() {
		t.numbered[e.Number] = index
		t.lastSet = max(t.lastSet, e.Set[0]&^setAudit, e.Set[1]&^setAudit)
	}
	// Verdicts of sets that were never finished have no row in sets.
	t.foreign = true
	err = t.verdicts.Each(func(key stateVerdictKey, _ stateVerdict) error {
		t.lastSet = max(t.lastSet, key.Set)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read verdicts: %w", err)
	}
	t.loaded = true
	return nil
}

// A change is a State on its way into the kernel.
type change struct {
	rows       *rows
	networks   delta[stateNetwork]
	places     delta[stateAddr]
	endpoints  delta[uint32]
	generation uint32
	flipped    bool
	inForce    time.Time
}

// begin puts what depends on policy in force: until it returns without an error
// everything is judged as before, afterwards as state says. Either way finish
// comes next, or begin again. Endpoints whose interfaces are missing are left
// out.
func (t *tables) begin(ctx context.Context, state *State, missing map[int]bool) (*change, error) {
	if err := t.load(); err != nil {
		return nil, err
	}
	config, err := t.settings.Get(0)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	force := config.Generation & 1
	if !t.looked {
		// The slot that is to be written was in force a moment ago, perhaps.
		if err := t.grace(); err != nil {
			return nil, err
		}
		t.looked = true
	}
	for _, settle := range []func() error{
		t.places.mirror.Settle, t.networks.mirror.Settle, t.endpoints.mirror.Settle, t.sets.Settle} {
		if err := settle(); err != nil {
			return nil, err
		}
	}
	rows, err := newRows(state, missing, t.settled)
	if err != nil {
		return nil, err
	}
	c := &change{rows: rows, generation: config.Generation}
	if err := t.installSets(ctx, rows); err != nil {
		return nil, err
	}
	t.completeEndpoints(rows)
	if err := t.putNumbers(rows); err != nil {
		return nil, err
	}

	c.networks, c.endpoints = t.networks.compare(rows.networks), t.endpoints.compare(rows.endpoints)
	if !rows.samePlaces {
		c.places = t.places.compare(rows.places)
	}
	t.settled = nil // until this is
	before, after := t.covers(rows, force)
	beforeAddr := func(a stateAddr) statePlace { return before(stateNetwork{Prefix: 128, Addr: a.Bytes}) }
	afterAddr := func(a stateAddr) statePlace { return after(stateNetwork{Prefix: 128, Addr: a.Bytes}) }
	if t.networks.changes(rows.networks, c.networks, force, before, after) ||
		t.places.changes(rows.places, c.places, force, beforeAddr, afterAddr) ||
		t.endpoints.changes(rows.endpoints, c.endpoints, force, nil, nil) {
		if err := t.networks.prepare(rows.networks, c.networks, force, before, after); err != nil {
			return nil, err
		}
		if err := t.places.prepare(rows.places, c.places, force, beforeAddr, afterAddr); err != nil {
			return nil, err
		}
		if err := t.endpoints.prepare(rows.endpoints, c.endpoints, force, nil, nil); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := t.flip(c); err != nil {
			return nil, err
		}
	}
	c.inForce = time.Now()
	return c, nil
}

// covers say what is judged of addresses and networks that have no row: in the
// kernel now, and when rows are in force. The longest network that they are in
// says it, and a network without a row is in shorter ones.
func (t *tables) covers(rows *rows, force uint32) (before, after uncovered[stateNetwork, statePlace]) {
	old := newCover(maps.Collect(t.networks.mirror.All()))
	now := newCover(rows.networks)
	before = func(n stateNetwork) statePlace {
		row, _ := old.of(n.Addr, int(n.Prefix))
		return row.Slot[force]
	}
	after = func(n stateNetwork) statePlace {
		row, _ := now.of(n.Addr, int(n.Prefix))
		return row.Slot[0]
	}
	return before, after
}

// flip puts the other slot in force: that is the one moment.
func (t *tables) flip(c *change) error {
	t.setting.Lock()
	defer t.setting.Unlock()
	config, err := t.settings.Get(0)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	next := c.generation + 1
	config.Generation = next
	t.looked = false
	if err := t.settings.Put(0, config); err != nil {
		// It may have been written all the same.
		if config, look := t.settings.Get(0); look != nil || config.Generation != next {
			return fmt.Errorf("put generation %d in force: %w", next, err)
		}
	}
	c.generation, c.flipped = next, true
	return nil
}

// finish removes what c has made superfluous, and brings the slot in line that
// was in force before. If it fails nothing is wrong yet, but more than needed is
// in the kernel; it, or another change, is to be tried again.
func (t *tables) finish(c *change) error {
	if !t.looked {
		if err := t.grace(); err != nil {
			return err
		}
		t.looked = true
	}
	if err := t.networks.settle(c.rows.networks, c.networks); err != nil {
		return err
	}
	if err := t.places.settle(c.rows.places, c.places); err != nil {
		return err
	}
	if err := t.endpoints.settle(c.rows.endpoints, c.endpoints); err != nil {
		return err
	}
	for number, index := range t.numbered {
		if row, ok := c.rows.endpoints[index]; ok && row.Number == number {
			continue
		}
		if err := t.numbers.Put(uint32(number), 0); err != nil {
			return fmt.Errorf("write numbers: %w", err)
		}
		delete(t.numbered, number)
	}
	if err := t.pruneSets(c.rows); err != nil {
		return err
	}
	t.settled = c.rows
	return nil
}

// completeEndpoints gives endpoints what the State does not say: the number of
// their set, and their own, which they keep.
func (t *tables) completeEndpoints(rows *rows) {
	for index, row := range rows.endpoints {
		set := t.numberOf[rows.sets[index]]
		if rows.audited[index] {
			set |= setAudit
		}
		row.Set = [2]uint32{set, set}
		have, ok := t.endpoints.mirror.Get(index)
		row.Number, row.Born = have.Number, have.Born
		if !ok {
			row.Born = bootTime()
		}
		if !ok || have.Number > maxNumber {
			row.Number = t.freeNumber(index)
		}
		rows.endpoints[index] = row
	}
}

// maxNumber is the last number of an endpoint: what is above has a meaning.
// An earlier agent may have given one more.
const maxNumber = 0xfffd

// freeNumber finds a number for an endpoint: one that nobody has, and that was
// not somebody's a moment ago, for packets carry them. There are more than
// endpoints has room for.
func (t *tables) freeNumber(index uint32) uint16 {
	for n, other := range t.numbered {
		if other == index && n <= maxNumber {
			return n // of an attempt that failed
		}
	}
	for {
		t.lastNumber = t.lastNumber%maxNumber + 1
		if _, ok := t.numbered[t.lastNumber]; !ok {
			t.numbered[t.lastNumber] = index
			return t.lastNumber
		}
	}
}

// putNumbers writes whose the numbers are.
func (t *tables) putNumbers(rows *rows) error {
	var keys, values []uint32
	for index, row := range rows.endpoints {
		if have, ok := t.endpoints.mirror.Get(index); !ok || have.Number != row.Number {
			keys, values = append(keys, uint32(row.Number)), append(values, index)
		}
	}
	if _, err := t.numbers.PutMany(keys, values); err != nil {
		return fmt.Errorf("write numbers: %w", err)
	}
	return nil
}

// installSets writes the sets that the kernel does not have; nobody refers to
// them yet.
func (t *tables) installSets(ctx context.Context, rows *rows) error {
	var w verdictWriter
	fresh := make(map[uint32]stateSet)
	for _, set := range rows.sets {
		if _, ok := t.numberOf[set]; ok {
			continue
		}
		hash := t.hash(set)
		number, ok := t.contentOf[hash]
		if !ok {
			t.lastSet++
			number = t.lastSet
			fresh[number] = setOf(set)
			t.half[number] = set
			w.add(number, set)
			t.contentOf[hash] = number
		}
		t.numberOf[set] = number
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := t.dropHalf(fresh); err != nil {
		return err
	}
	err := w.write(ctx, t.verdicts)
	if err == nil {
		_, err = t.sets.Put(maps.All(fresh))
	}
	if err != nil {
		t.forget(func(number uint32) bool { _, ok := fresh[number]; return ok })
		err = errors.Join(err, t.dropHalf(nil)) // or what there was no room for takes it from others
		return fmt.Errorf("write sets of verdicts: %w", err)
	}
	for number := range fresh {
		t.inKernel[number] = t.half[number]
		delete(t.half, number)
	}
	return nil
}

// dropHalf deletes the verdicts of sets that were never finished, but for those
// that are being written.
func (t *tables) dropHalf(but map[uint32]stateSet) error {
	for number, set := range t.half {
		if _, ok := but[number]; ok {
			continue
		}
		if err := t.deleteVerdicts(number, set); err != nil {
			return err
		}
		delete(t.half, number)
	}
	return nil
}

func (t *tables) deleteVerdicts(number uint32, set *netpol.Set) error {
	var keys []stateVerdictKey
	verdictsOf(number, set, func(key stateVerdictKey, _ stateVerdict) { keys = append(keys, key) })
	if err := t.verdicts.Delete(keys...); err != nil {
		return fmt.Errorf("delete of verdicts: %w", err)
	}
	return nil
}

// forget makes numbers of sets nobody's.
func (t *tables) forget(these func(number uint32) bool) {
	maps.DeleteFunc(t.numberOf, func(_ *netpol.Set, n uint32) bool { return these(n) })
	maps.DeleteFunc(t.contentOf, func(_ content, n uint32) bool { return these(n) })
}

// hash is that of a set's content.
func (t *tables) hash(set *netpol.Set) (h content) {
	type row struct {
		key   netpol.Key
		value netpol.Value
	}
	for i, seed := range t.seeds {
		h[i] = maphash.Comparable(seed, set.Isolated)
		for key, value := range set.Verdicts {
			h[i] += maphash.Comparable(seed, row{key, value}) // in any order
		}
	}
	return h
}

// A verdictWriter writes verdicts of many sets, many at a time.
type verdictWriter struct {
	sets    []*netpol.Set
	numbers []uint32
}

func (w *verdictWriter) add(number uint32, set *netpol.Set) {
	w.sets, w.numbers = append(w.sets, set), append(w.numbers, number)
}

func (w *verdictWriter) write(ctx context.Context, to reconcile.Map[stateVerdictKey, stateVerdict]) (err error) {
	keys := make([]stateVerdictKey, 0, batchSize)
	values := make([]stateVerdict, 0, batchSize)
	flush := func() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && len(keys) > 0 {
			_, err = to.PutMany(keys, values)
		}
		keys, values = keys[:0], values[:0]
	}
	for i, set := range w.sets {
		verdictsOf(w.numbers[i], set, func(key stateVerdictKey, value stateVerdict) {
			keys, values = append(keys, key), append(values, value)
			if len(keys) == cap(keys) {
				flush()
			}
		})
	}
	flush()
	return err
}

// pruneSets deletes the sets that no endpoint refers to.
func (t *tables) pruneSets(rows *rows) error {
	used := make(map[uint32]bool, len(rows.sets))
	for _, row := range rows.endpoints {
		used[row.Set[0]&^setAudit] = true
	}
	var unused []uint32
	for number := range t.sets.All() {
		if !used[number] {
			unused = append(unused, number)
		}
	}
	t.forget(func(number uint32) bool { return !used[number] })
	if _, err := t.sets.Delete(slices.Values(unused)); err != nil {
		return fmt.Errorf("delete of sets: %w", err)
	}
	for _, gone := range []map[uint32]*netpol.Set{t.half, t.inKernel} {
		for number, set := range gone {
			if used[number] {
				continue
			}
			if err := t.deleteVerdicts(number, set); err != nil {
				return err
			}
			delete(gone, number)
			delete(t.policies, set)
		}
	}
	if !t.foreign {
		return nil
	}
	var keys []stateVerdictKey
	err := t.verdicts.Each(func(key stateVerdictKey, _ stateVerdict) error {
		if !used[key.Set] {
			keys = append(keys, key)
		}
		return nil
	})
	if err == nil {
		err = t.verdicts.Delete(keys...)
	}
	if err != nil {
		return fmt.Errorf("delete of verdicts: %w", err)
	}
	t.foreign = false
	return nil
}

// report says what c has made true, if every endpoint of which attached knows
// nothing bad is attached.
func (t *tables) report(c *change, rules map[netpol.RuleID]netpol.Ref, attached func(ifindex int) (string, error)) Report {
	r := Report{
		Generation: c.generation,
		Flipped:    c.flipped,
		InForce:    c.inForce,
		Endpoints:  c.rows.reports,
		Policies:   make(map[string]PolicyReport),
	}
	for i := range r.Endpoints {
		e := &r.Endpoints[i]
		set := c.rows.sets[uint32(e.Ifindex)]
		if set == nil {
			continue
		}
		hook, err := attached(e.Ifindex)
		e.Hook = hook
		if e.Err == nil {
			e.Err = err
		}
		uids, ok := t.policies[set]
		if !ok {
			uids = policiesOf(set, rules)
			t.policies[set] = uids
		}
		for _, uid := range uids {
			p := r.Policies[uid]
			if e.Err == nil {
				p.Endpoints++
			} else {
				p.Failed = append(p.Failed, e.Name)
			}
			r.Policies[uid] = p
		}
	}
	return r
}

// verdictsUsed is how many verdicts are in the kernel, as far as we wrote them.
func (t *tables) verdictsUsed() (n int) {
	for _, sets := range []map[uint32]*netpol.Set{t.inKernel, t.half} {
		for _, set := range sets {
			n += len(set.Verdicts)
		}
	}
	return n
}
