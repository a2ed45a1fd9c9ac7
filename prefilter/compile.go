package prefilter

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"warren/event"
	"warren/interest"
)

// The sizes of interest.h.
const (
	maxTerms = 256
	maxTypes = 128
	maxText  = 64
	maxName  = 16
	// maxPaths and maxKeys are half of a map: one slot's share.
	maxPaths   = 8192 / 2
	maxKeys    = 4096 / 2
	maxCgroups = 8192 / 2
)

// A mask is a set of terms.
type mask [maxTerms / 64]uint64

func (m *mask) set(term int) { m[term/64] |= 1 << (term % 64) }

func (m *mask) or(o mask) {
	for i := range m {
		m[i] |= o[i]
	}
}

func (m mask) bytes() []byte {
	var b []byte
	for _, w := range m {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// An entry is a key of a map, without the slot, and its terms.
type entry struct {
	key  func(slot uint32) []byte
	mask mask
}

// table is struct interest_table.
type table struct {
	Types                                     [maxTypes]mask
	Calls                                     [32]mask
	Heads, Tails                              [256]mask
	NoUID, NoInode, NoPath, NoRaw, NoWorkload mask
	NoPort, NoNet                             mask
	NoExe, NoComm, NoActor                    mask
	Plain, Enough, PathFirst                  mask
	UIDs, Inodes, Paths, Raws, Workloads      uint32
	Ports, Nets                               uint32
	Exes, Comms                               uint32
	Counts, CountDirs                         uint32
	Zero                                      uint32
}

// tables is what a slot holds.
type tables struct {
	table   table
	entries [numMaps][]entry
	works   []work
}

// A work is a condition on containers with the terms that have it.
type work struct {
	interest.Workload
	mask mask
}

// compile makes tables of terms. Of these it keeps the dimensions that are
// judged.
func compile(terms []interest.Term, types []Type, judged []string) (tables, Status) {
	terms = slices.Clone(terms)
	for i := range terms { // what the kernel does not judge
		terms[i] = terms[i].Only(judged...)
	}
	terms, widened := interest.Limit(terms, maxTerms)
	status := Status{Widened: widened}
	over := func(name string, n, most int, widen func(*interest.Term)) {
		if n <= most {
			return
		}
		status.Widened = append(status.Widened, name)
		for i := range terms {
			widen(&terms[i])
		}
	}
	var uids, inodes, paths, ports, nets, exes, names, notExes, notNames int
	for i := range terms {
		ports += len(terms[i].Ports)
		nets += len(terms[i].Nets)
		uids += len(terms[i].UIDs)
		inodes += len(terms[i].Inodes)
		paths += 2 * len(terms[i].Paths) // a directory has two entries
		exes += 2 * len(terms[i].Exes)
		names += 2 * len(terms[i].Names)
		notExes += beside(terms[i].NotExes)
		notNames += beside(terms[i].NotNames)
	}
	over("uids", uids, maxKeys, func(t *interest.Term) { t.UIDs = nil })
	over("inodes", inodes, maxKeys, func(t *interest.Term) { t.Inodes = nil })
	over("paths", paths, maxPaths, func(t *interest.Term) { t.Paths = nil })
	over("ports", ports, maxKeys, func(t *interest.Term) { t.Ports = nil })
	over("exes", exes, maxKeys, func(t *interest.Term) { t.Exes = nil })
	over("names", names, maxKeys, func(t *interest.Term) { t.Names = nil })
	over("not_exes", exes+notExes, maxKeys, func(t *interest.Term) { t.NotExes = nil })
	over("not_names", names+notNames, maxKeys, func(t *interest.Term) { t.NotNames = nil })
	over("nets", nets, maxKeys, func(t *interest.Term) { t.Nets = nil })
	for i := range terms { // of these, beginnings alone are compared
		suffix := func(p interest.Path) bool { return p.Op == interest.Suffix }
		if slices.ContainsFunc(terms[i].Exes, suffix) {
			terms[i].Exes = nil
		}
		if slices.ContainsFunc(terms[i].Names, suffix) {
			terms[i].Names = nil
		}
	}
	for i := range terms { // a device alone cannot be looked up
		if slices.ContainsFunc(terms[i].Inodes, func(n interest.Inode) bool { return n.Ino == 0 }) {
			terms[i].Inodes = nil
			if !slices.Contains(status.Widened, "inodes") {
				status.Widened = append(status.Widened, "inodes")
			}
		}
	}
	status.Terms = terms
	return assemble(terms, types), status
}

func assemble(terms []interest.Term, types []Type) tables {
	var (
		t                      tables
		byType                 [maxTypes]mask
		calls                  [32]mask
		noUID, noInode, noPath mask
		noRaw                  mask
		raws                   int
		counted                interest.Counted
		uids                   = map[uint32]mask{}
		ports                  = map[uint16]mask{}
		nets                   = map[netip.Prefix]mask{}
		inodes                 = map[interest.Inode]mask{}
		paths                  [2]map[string]mask // heads, tails
		exes, names            texts
		letters                [2][256]mask
	)
	paths[0], paths[1] = map[string]mask{}, map[string]mask{}
	for n := range terms {
		term := &terms[n]
		for i, typ := range types {
			if typ.Kind != 0 && wants(term, typ) {
				byType[i].set(n)
			}
		}
		for i := range calls {
			failed := i&16 != 0
			if term.Open != 0 && term.Open&interest.OpenMask(i&15) == 0 {
				continue
			}
			if term.Outcome == interest.Failed && !failed || term.Outcome == interest.Succeeded && failed {
				continue
			}
			calls[i].set(n)
		}
		if term.UIDs == nil {
			noUID.set(n)
		}
		for _, uid := range term.UIDs {
			add(uids, uid, n)
		}
		if term.Inodes == nil {
			noInode.set(n)
		}
		for _, i := range term.Inodes {
			add(inodes, i, n)
		}
		if term.RawDots {
			raws++
		} else {
			noRaw.set(n)
		}
		if term.Paths == nil {
			noPath.set(n)
		}
		switch {
		case term.Counted != 0:
			counted |= term.Counted
		case term.Paths == nil:
			t.table.Enough.set(n)
			fallthrough
		default:
			t.table.Plain.set(n)
		}
		if term.NotExes == nil && term.NotNames == nil && term.Workload == nil && anyProcess(term) {
			t.table.NoActor.set(n)
		}
		if pathFirst(term) {
			t.table.PathFirst.set(n)
		}
		for _, p := range term.Paths {
			addPath(p, n, &paths, &letters)
		}
		if !exes.add(n, term.Exes, term.NotExes, maxText) {
			t.table.NoExe.set(n)
		}
		if !names.add(n, term.Names, term.NotNames, maxName) {
			t.table.NoComm.set(n)
		}
		if term.Workload == nil {
			t.table.NoWorkload.set(n)
		} else {
			t.addWork(term.Workload, n)
		}
		if term.Ports == nil {
			t.table.NoPort.set(n)
		}
		for _, port := range term.Ports {
			add(ports, port, n)
		}
		if term.Nets == nil {
			t.table.NoNet.set(n)
		}
		for _, net := range term.Nets {
			add(nets, within6(net), n)
		}
	}
	t.table.Types, t.table.Calls = byType, calls
	t.table.Heads, t.table.Tails = letters[0], letters[1]
	t.table.NoUID, t.table.NoInode, t.table.NoPath = noUID, noInode, noPath
	t.table.NoRaw, t.table.Raws = noRaw, flag(raws)
	t.table.Counts, t.table.CountDirs = flag(int(counted)), flag(int(counted&interest.CountedByDirectory))
	t.table.UIDs, t.table.Inodes, t.table.Paths = flag(len(uids)), flag(len(inodes)), flag(len(paths[0])+len(paths[1]))
	t.table.Exes, t.table.Comms = flag(len(exes)), flag(len(names))
	t.table.Workloads, t.table.Ports, t.table.Nets = flag(len(t.works)), flag(len(ports)), flag(len(nets))

	for uid, m := range uids {
		t.entries[mapUIDs] = append(t.entries[mapUIDs], entry{func(slot uint32) []byte {
			return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uid), slot)
		}, m})
	}
	for i, m := range inodes {
		t.entries[mapInodes] = append(t.entries[mapInodes], entry{func(slot uint32) []byte {
			b := binary.LittleEndian.AppendUint64(nil, i.Ino)
			b = binary.LittleEndian.AppendUint64(b, i.Dev)
			return binary.LittleEndian.AppendUint64(b, uint64(slot))
		}, m})
	}
	t.entries[mapHeads], t.entries[mapTails] = prefixes(paths[0], slotKey), prefixes(paths[1], slotKey)
	t.entries[mapExes], t.entries[mapComms] = exes.entries(maxText), names.entries(maxName)
	for port, m := range ports {
		t.entries[mapPorts] = append(t.entries[mapPorts], entry{func(slot uint32) []byte {
			return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(port)), slot)
		}, m})
	}
	t.entries[mapNets] = networks(nets)
	return t
}

// anyProcess reports whether a term does not pick processes by user, executable or
// name. It may leave some out.
func anyProcess(t *interest.Term) bool { return t.UIDs == nil && t.Exes == nil && t.Names == nil }

// pathFirst reports whether a term asks for paths, and for nothing else that often
// says no at less than what it costs to look for a path. Of conditions on containers
// those are taken for such that do not hold for the host.
func pathFirst(t *interest.Term) bool {
	return t.Paths != nil && t.Inodes == nil && !t.RawDots && anyProcess(t) && (t.Workload == nil || t.Workload.Match(placed(nil)))
}

// addWork adds a term to those of its workload.
func (t *tables) addWork(w interest.Workload, term int) {
	i := slices.IndexFunc(t.works, func(o work) bool { return o.String() == w.String() })
	if i < 0 {
		i = len(t.works)
		t.works = append(t.works, work{Workload: w})
	}
	t.works[i].mask.set(term)
}

// within6 is a network among those of IPv6.
func within6(p netip.Prefix) netip.Prefix {
	if !p.Addr().Is4() {
		return p
	}
	return netip.PrefixFrom(netip.AddrFrom16(p.Addr().As16()), p.Bits()+96)
}

// networks returns the entries of a trie in which every network has the terms of
// all that hold it.
func networks(nets map[netip.Prefix]mask) []entry {
	var out []entry
	for p := range nets {
		var m mask
		for q, terms := range nets {
			if q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
				m.or(terms)
			}
		}
		out = append(out, entry{func(slot uint32) []byte {
			b := binary.LittleEndian.AppendUint32(nil, uint32(32+p.Bits()))
			b = binary.LittleEndian.AppendUint32(b, slot)
			a := p.Addr().As16()
			return append(b, a[:]...)
		}, m})
	}
	return out
}

func flag(n int) uint32 { return uint32(min(n, 1)) }

func add[K comparable](to map[K]mask, key K, term int) {
	m := to[key]
	m.set(term)
	to[key] = m
}

// wants reports whether a term may hold for events of a type.
func wants(t *interest.Term, typ Type) bool {
	return t.Kinds.Has(typ.Kind) && (t.Types == nil || slices.Contains(t.Types, typ.Name))
}

// addPath adds a path to the texts that begin or end a name, and to the letters
// that it can have there.
func addPath(p interest.Path, term int, paths *[2]map[string]mask, letters *[2][256]mask) {
	for _, text := range beginnings(p) {
		add(paths[0], text[:min(len(text), maxText)], term)
		// The letters are the second and the third.
		addLetters(&letters[0], text, 1, 2, term)
	}
	if p.Op == interest.Suffix {
		b := []byte(p.Text)
		slices.Reverse(b)
		add(paths[1], string(b[:min(len(b), maxText)]), term)
		addLetters(&letters[1], string(b), 1, 0, term)
	}
}

// beginnings returns what a name that satisfies p begins with: one of them. A
// whole name has a zero byte behind it.
func beginnings(p interest.Path) []string {
	switch p.Op {
	case interest.Exact:
		return []string{p.Text + "\x00"}
	case interest.Under:
		return []string{p.Text + "\x00", p.Text + "/"}
	case interest.Prefix:
		return []string{p.Text}
	}
	return nil
}

// texts are conditions of terms on one text: by term.
type texts map[int]*textTerm

// A textTerm is what one of some texts has to begin with, if there are any, and what
// it must not begin with.
type textTerm struct{ one, none []string }

// holds reports whether the term may hold for a text of which this is the beginning,
// and no more of it than the beginnings of some condition is known.
func (t *textTerm) holds(text string) bool {
	begins := func(with string) bool { return strings.HasPrefix(text, with) }
	return (t.one == nil || slices.ContainsFunc(t.one, begins)) && !slices.ContainsFunc(t.none, begins)
}

// beside is how many entries conditions on what a text is not need at most: one that
// is every text's beginning, and two each.
func beside(none []interest.Path) int {
	if none == nil {
		return 0
	}
	return 1 + 2*len(none)
}

// add adds a term's conditions; of a text most bytes at most are compared. It reports
// whether there are any.
func (ts *texts) add(term int, one, none []interest.Path, most int) bool {
	if one == nil && none == nil {
		return false
	}
	var t textTerm
	for _, p := range one {
		for _, text := range beginnings(p) {
			t.one = append(t.one, text[:min(len(text), most)])
		}
	}
	for _, p := range none {
		for _, text := range beginnings(p) {
			if len(text) <= most { // else another text may begin like that
				t.none = append(t.none, text)
			}
		}
	}
	if *ts == nil {
		*ts = texts{}
	}
	(*ts)[term] = &t
	return true
}

// entries returns a trie in which every beginning that some condition speaks of has
// the terms that may hold for what begins so, and with no longer one of them.
func (ts texts) entries(most int) []entry {
	masks := map[string]mask{}
	for _, t := range ts {
		if t.one == nil {
			masks[""] = mask{}
		}
		for _, text := range slices.Concat(t.one, t.none) {
			masks[text] = mask{}
		}
	}
	key := ownKey(most)
	var out []entry
	for text, m := range masks {
		for n, t := range ts {
			if t.holds(text) {
				m.set(n)
			}
		}
		out = append(out, entry{func(slot uint32) []byte { return key(text, slot) }, m})
	}
	return out
}

// addLetters adds a term for all letters that the bytes at two places of a text
// can be: what lies behind its end can be any.
func addLetters(to *[256]mask, text string, first, second, term int) {
	// Behind the zero byte that ends a name, the kernel sees zeros.
	at := func(i int) (least, most int) {
		switch {
		case i < len(text):
			return int(text[i]), int(text[i])
		case strings.HasSuffix(text, "\x00"):
			return 0, 0
		}
		return 0, 255
	}
	a0, a1 := at(first)
	b0, b1 := at(second)
	for a := a0; a <= a1; a++ {
		for b := b0; b <= b1; b++ {
			to[(a*31+b)&255].set(term)
		}
	}
}

// slotKey is the key of a beginning in a map of both slots, ownKey in one of two.
func slotKey(text string, slot uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(32+8*len(text)))
	b = binary.LittleEndian.AppendUint32(b, slot)
	b = append(b, text...)
	return append(b, make([]byte, maxText-len(text))...)
}

func ownKey(size int) func(string, uint32) []byte {
	return func(text string, _ uint32) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(8*len(text)))
		b = append(b, text...)
		return append(b, make([]byte, size-len(text))...)
	}
}

// prefixes returns the entries of a trie in which every text has the terms of
// all its prefixes.
func prefixes(texts map[string]mask, key func(text string, slot uint32) []byte) []entry {
	sorted := make([]string, 0, len(texts))
	for s := range texts {
		sorted = append(sorted, s)
	}
	slices.SortFunc(sorted, cmp.Compare[string])
	var out []entry
	var above []string // prefixes of the text at hand, the shortest first
	for _, s := range sorted {
		for len(above) > 0 && !strings.HasPrefix(s, above[len(above)-1]) {
			above = above[:len(above)-1]
		}
		m := texts[s]
		if len(above) > 0 {
			m.or(texts[above[len(above)-1]])
			texts[s] = m
		}
		above = append(above, s)
		out = append(out, entry{func(slot uint32) []byte { return key(s, slot) }, m})
	}
	return out
}

// Kinds returns the kinds of the types.
func Kinds(types []Type) event.KindSet {
	var ks event.KindSet
	for _, t := range types {
		if t.Kind != 0 {
			ks |= event.Kinds(t.Kind)
		}
	}
	return ks
}
