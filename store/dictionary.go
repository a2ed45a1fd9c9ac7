package store

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"unsafe"
)

// An index finds the values of a dictionary by their hashes.
type index struct {
	slots []slot // a power of two
	taken int    // at most half of them
}

// A slot is taken where place, which is 1 + that in the dictionary, is not 0.
type slot struct{ hash, place uint32 }

func (x *index) clear() {
	if x.taken > 0 {
		clear(x.slots)
		x.taken = 0
	}
}

// place returns the place of a value in a dictionary, at the end of which it is put
// if it is new.
func place[T comparable](x *index, dict *[]T, v T, hash uint64) uint32 {
	if 2*x.taken >= len(x.slots) {
		x.widen()
	}
	mask := uint32(len(x.slots) - 1)
	short := uint32(hash >> 32)
	for at := short & mask; ; at = (at + 1) & mask {
		switch s := &x.slots[at]; {
		case s.place == 0:
			*dict = append(*dict, v)
			*s = slot{short, uint32(len(*dict))}
			x.taken++
			return s.place - 1
		case s.hash == short && (*dict)[s.place-1] == v:
			return s.place - 1
		}
	}
}

func (x *index) widen() {
	old := x.slots
	x.slots = make([]slot, max(64, 2*len(old)))
	mask := uint32(len(x.slots) - 1)
	for _, s := range old {
		if s.place == 0 {
			continue
		}
		at := s.hash & mask
		for x.slots[at].place != 0 {
			at = (at + 1) & mask
		}
		x.slots[at] = s
	}
}

// textSeed is that of all hashes: who chooses texts and addresses cannot choose those.
var textSeed = maphash.MakeSeed()

// hashAddr is the hash of an address; IPv4 is as it lies in IPv6.
func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return maphash.Bytes(textSeed, b[:])
}

// A coder makes the dictionary of one column of a batch, some rows at a time:
// the places of values in it, each of which is there once.
type coder struct {
	index index
	known map[string]uint32         // lists and maps as appendStrings writes them
	same  map[unsafe.Pointer]uint32 // maps by where they lie: labels are shared by all events of a pod
	key   []byte
	used  bool // since it was cleared
	// seen are texts that came lately, by where they lie: most texts of events are
	// interned, and few come again and again.
	seen [64]seenText
}

// A seenText is a text whose place is known.
type seenText struct {
	data *byte
	size int
	code uint32
}

func (k *coder) clear() {
	if !k.used {
		return
	}
	k.used = false
	k.index.clear()
	clear(k.known)
	clear(k.same)
	clear(k.seen[:])
}

// texts finds the places of texts in a dictionary, which it returns with what is new
// in it: that of each is put among codes where rows says.
func (k *coder) texts(codes []uint32, dict, texts []string, rows []int32) []string {
	k.used = k.used || len(texts) > 0
	for i, s := range texts {
		data := unsafe.StringData(s)
		seen := &k.seen[uintptr(unsafe.Pointer(data))/8%uintptr(len(k.seen))]
		if len(s) == 0 || seen.data != data || seen.size != len(s) {
			*seen = seenText{data, len(s), k.text(&dict, s)}
		}
		codes[rows[i]] = seen.code
	}
	return dict
}

// text returns the place of a text.
func (k *coder) text(dict *[]string, s string) uint32 {
	return place(&k.index, dict, s, maphash.String(textSeed, s))
}

// addresses is texts of addresses.
func (k *coder) addresses(codes []uint32, dict, addrs []netip.Addr, rows []int32) []netip.Addr {
	k.used = k.used || len(addrs) > 0
	var last netip.Addr
	code := uint32(0)
	for i, a := range addrs {
		if a != last {
			last, code = a, place(&k.index, &dict, a, hashAddr(a))
		}
		codes[rows[i]] = code
	}
	return dict
}

// lists is texts of lists.
func (k *coder) lists(codes []uint32, dict, lists [][]string, rows []int32) [][]string {
	for i, l := range lists {
		k.key = appendStrings(k.key[:0], l)
		code, ok := k.known[string(k.key)]
		if !ok {
			code = k.learn(len(dict))
			dict = append(dict, l)
		}
		codes[rows[i]] = code
	}
	return dict
}

// learn notes that what k.key says has a place.
func (k *coder) learn(at int) uint32 {
	if k.known == nil {
		k.known = map[string]uint32{}
	}
	k.used = true
	k.known[string(k.key)] = uint32(at)
	return uint32(at)
}

// maps is texts of maps.
func (k *coder) maps(codes []uint32, dict, all []map[string]string, rows []int32) []map[string]string {
	if k.same == nil && len(all) > 0 {
		k.same = map[unsafe.Pointer]uint32{}
	}
	for i, m := range all {
		at := *(*unsafe.Pointer)(unsafe.Pointer(&m))
		code, ok := k.same[at]
		if !ok {
			k.key = appendStrings(k.key[:0], flatten(m))
			if code, ok = k.known[string(k.key)]; !ok {
				code = k.learn(len(dict))
				dict = append(dict, m)
			}
			k.same[at] = code
		}
		codes[rows[i]] = code
	}
	return dict
}

// flatten returns the keys of a map, sorted, each with its value behind it.
func flatten(m map[string]string) []string {
	list := make([]string, 0, 2*len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k, m[k])
	}
	return list
}

// appendStrings writes a list: how many, then each with its length.
func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}
