package store

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"unsafe"
)

// A coder makes the dictionary of one column of a batch, some rows at a time:
// the places of values in it, each of which is there once.
type coder struct {
	known  map[string]uint32 // texts; lists and maps as appendStrings writes them
	recent []recentText
	slots  []uint32                  // of addresses: 1 + place
	same   map[unsafe.Pointer]uint32 // maps by where they lie: labels are shared by all events of a pod
	key    []byte
	used   bool // since it was cleared
}

// A recentText is a text whose place is known. Most texts of events are interned:
// where one lies tells which it is, without looking at it.
type recentText struct {
	s    string
	code uint32
}

// recentTexts is how many of them are remembered, a power of two.
const recentTexts = 1 << 9

func (k *coder) clear() {
	if !k.used {
		return
	}
	k.used = false
	clear(k.known)
	clear(k.recent)
	clear(k.slots)
	clear(k.same)
}

// begin makes the coder one of texts.
func (k *coder) begin() {
	k.used = true
	if k.recent == nil {
		k.known, k.recent = map[string]uint32{}, make([]recentText, recentTexts)
	}
}

// text returns the place of a text.
func (k *coder) text(dict *[]string, s string) uint32 {
	if !k.used {
		k.begin()
	}
	at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
	r := &k.recent[(at>>3^at>>13^uintptr(len(s)))%recentTexts]
	if len(r.s) == len(s) && unsafe.StringData(r.s) == unsafe.StringData(s) && len(s) > 0 {
		return r.code
	}
	code, ok := k.known[s]
	if !ok {
		code = uint32(len(*dict))
		k.known[s] = code
		*dict = append(*dict, s)
	}
	*r = recentText{s, code}
	return code
}

func (k *coder) texts(codes []uint32, dict, texts []string, valid []bool) []string {
	clear(codes)
	for i, s := range texts {
		if valid[i] {
			codes[i] = k.text(&dict, s)
		}
	}
	return dict
}

func (k *coder) addresses(codes []uint32, dict, addrs []netip.Addr, valid []bool) []netip.Addr {
	k.used = true
	for i, a := range addrs {
		if !valid[i] {
			codes[i] = 0
			continue
		}
		if 2*len(dict) >= len(k.slots) {
			k.widen(dict)
		}
		at := hashAddr(a)
		for {
			at &= uint64(len(k.slots) - 1)
			code := k.slots[at]
			if code == 0 {
				dict = append(dict, a)
				code = uint32(len(dict))
				k.slots[at] = code
			}
			if dict[code-1] == a {
				codes[i] = code - 1
				break
			}
			at++
		}
	}
	return dict
}

// widen makes room for more addresses than a dictionary has.
func (k *coder) widen(dict []netip.Addr) {
	k.slots = make([]uint32, max(256, 4*len(k.slots)))
	for i, a := range dict {
		at := hashAddr(a) & uint64(len(k.slots)-1)
		for k.slots[at] != 0 {
			at = (at + 1) & uint64(len(k.slots)-1)
		}
		k.slots[at] = uint32(i + 1)
	}
}

// hashAddr mixes an address; its low bits are to be used.
func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	const m = 0x9e3779b97f4a7c15
	h := (binary.LittleEndian.Uint64(b[8:]) ^ binary.LittleEndian.Uint64(b[:8])*m) * m
	return (h ^ h>>32) * m >> 32
}

func (k *coder) lists(codes []uint32, dict, lists [][]string, valid []bool) [][]string {
	k.used = true
	if k.known == nil {
		k.known = map[string]uint32{}
	}
	for i, l := range lists {
		codes[i] = 0
		if !valid[i] {
			continue
		}
		k.key = appendStrings(k.key[:0], l)
		code, ok := k.known[string(k.key)]
		if !ok {
			code = uint32(len(dict))
			k.known[string(k.key)] = code
			dict = append(dict, l)
		}
		codes[i] = code
	}
	return dict
}

func (k *coder) maps(codes []uint32, dict, all []map[string]string, valid []bool) []map[string]string {
	k.used = true
	if k.same == nil {
		k.known, k.same = map[string]uint32{}, map[unsafe.Pointer]uint32{}
	}
	for i, m := range all {
		codes[i] = 0
		if !valid[i] {
			continue
		}
		at := *(*unsafe.Pointer)(unsafe.Pointer(&m))
		code, ok := k.same[at]
		if !ok {
			k.key = appendStrings(k.key[:0], flatten(m))
			if code, ok = k.known[string(k.key)]; !ok {
				code = uint32(len(dict))
				k.known[string(k.key)] = code
				dict = append(dict, m)
			}
			k.same[at] = code
		}
		codes[i] = code
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
