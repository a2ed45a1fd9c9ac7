package store

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"unsafe"
)

// codeStrs makes the dictionary of a column of strings. Most strings of events
// are interned: where one lies tells which it is, without looking at it.
func (b *builder) codeStrs(v *Vector, strs []string) {
	v.Codes, v.Strs = grow(v.Codes, len(strs)), v.Strs[:0]
	if b.known == nil {
		b.known = map[string]uint32{}
	}
	clear(b.known)
	for i := range b.recent {
		b.recent[i].used = false
	}
	for i, s := range strs {
		if !v.Valid[i] {
			v.Codes[i] = 0
			continue
		}
		at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		r := &b.recent[(at>>3^at>>11^uintptr(len(s)))&255]
		if r.used && len(r.s) == len(s) && unsafe.StringData(r.s) == unsafe.StringData(s) {
			v.Codes[i] = r.code
			continue
		}
		code, ok := b.known[s]
		if !ok {
			code = uint32(len(v.Strs))
			b.known[s] = code
			v.Strs = append(v.Strs, s)
		}
		*r = recentStr{s, code, true}
		v.Codes[i] = code
	}
}

func (b *builder) codeAddrs(v *Vector, addrs []netip.Addr) {
	v.Codes, v.Addrs = grow(v.Codes, len(addrs)), v.Addrs[:0]
	if b.knownAddr == nil {
		b.knownAddr = map[netip.Addr]uint32{}
	}
	clear(b.knownAddr)
	var last netip.Addr
	var code uint32
	for i, a := range addrs {
		if !v.Valid[i] {
			v.Codes[i] = 0
			continue
		}
		if a != last {
			var ok bool
			if code, ok = b.knownAddr[a]; !ok {
				code = uint32(len(v.Addrs))
				b.knownAddr[a] = code
				v.Addrs = append(v.Addrs, a)
			}
			last = a
		}
		v.Codes[i] = code
	}
}

func (b *builder) codeLists(v *Vector, lists [][]string) {
	v.Codes, v.Lists = grow(v.Codes, len(lists)), v.Lists[:0]
	known := map[string]uint32{}
	var key []byte
	for i, l := range lists {
		v.Codes[i] = 0
		if !v.Valid[i] {
			continue
		}
		key = appendStrings(key[:0], l)
		code, ok := known[string(key)]
		if !ok {
			code = uint32(len(v.Lists))
			known[string(key)] = code
			v.Lists = append(v.Lists, l)
		}
		v.Codes[i] = code
	}
}

func (b *builder) codeMaps(v *Vector, all []map[string]string) {
	v.Codes, v.Maps = grow(v.Codes, len(all)), v.Maps[:0]
	known := map[string]uint32{}
	same := map[unsafe.Pointer]uint32{} // labels are shared by all events of a pod
	var key []byte
	for i, m := range all {
		v.Codes[i] = 0
		if !v.Valid[i] {
			continue
		}
		at := *(*unsafe.Pointer)(unsafe.Pointer(&m))
		code, ok := same[at]
		if !ok {
			key = appendStrings(key[:0], flatten(m))
			if code, ok = known[string(key)]; !ok {
				code = uint32(len(v.Maps))
				known[string(key)] = code
				v.Maps = append(v.Maps, m)
			}
			same[at] = code
		}
		v.Codes[i] = code
	}
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
