package event

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"warren/cluster"
)

// access makes the column that of members of Go type t at an offset.
func (c *Column) access(t reflect.Type, off uintptr) {
	switch t {
	case reflect.TypeFor[string](), reflect.TypeFor[cluster.ContainerKind](): // of one layout
		c.text(off)
	case reflect.TypeFor[[]string]():
		c.Type, c.Rep = String, ListRep
		c.lists, c.setList = members[[]string](off)
	case reflect.TypeFor[map[string]string]():
		c.Type, c.Rep = String, MapRep
		c.maps, c.setMap = members[map[string]string](off)
	case reflect.TypeFor[netip.Addr]():
		c.Type, c.Rep = IP, AddrRep
		c.addrs, c.setAddr = members[netip.Addr](off)
	case reflect.TypeFor[[]netip.Addr]():
		addrList(c, off)
	case reflect.TypeFor[[]Answer]():
		answerList(c, off)
	case reflect.TypeFor[bool]():
		c.Type, c.Rep = Bool, IntRep
		c.ints, c.setInt = func(at []unsafe.Pointer, dst []int64) {
			for i, p := range at {
				dst[i] = int64(Digit(*(*bool)(unsafe.Add(p, off))))
			}
		}, func(p unsafe.Pointer, v int64) { *(*bool)(unsafe.Add(p, off)) = v != 0 }
	case reflect.TypeFor[time.Time]():
		c.Type, c.Rep, c.null = Time, IntRep, noInt
		c.ints, c.setInt = func(at []unsafe.Pointer, dst []int64) {
			for i, p := range at {
				dst[i] = noInt
				if t := (*time.Time)(unsafe.Add(p, off)); !t.IsZero() {
					dst[i] = t.UnixNano()
				}
			}
		}, func(p unsafe.Pointer, v int64) { *(*time.Time)(unsafe.Add(p, off)) = time.Unix(0, v) }
	case reflect.TypeFor[LoginUID]():
		numbers[int32](c, Int, off)
	case reflect.TypeFor[Errno]():
		named32[Errno](c, off, 4096, "E")
	case reflect.TypeFor[Signal]():
		named32[Signal](c, off, 65, "SIG")
	case reflect.TypeFor[CapSet]():
		numbers[uint64](c, String, off)
		c.names = setNaming(func(v uint64) string { return CapSet(v).String() }, 64, " ")
	case reflect.TypeFor[TCPFlags]():
		numbers[uint8](c, String, off)
		c.names = setNaming(func(v uint64) string { return TCPFlags(v).String() }, 8, ",")
	case reflect.TypeFor[Proto]():
		named8[Proto](c, off)
	case reflect.TypeFor[TCPState]():
		named8[TCPState](c, off)
	case reflect.TypeFor[ResetBy]():
		named8[ResetBy](c, off)
	case reflect.TypeFor[Verdict]():
		named8[Verdict](c, off)
	case reflect.TypeFor[DropReason]():
		named8[DropReason](c, off)
	case reflect.TypeFor[PathError]():
		named8[PathError](c, off)
	case reflect.TypeFor[cluster.PolicyTier]():
		named8[cluster.PolicyTier](c, off)
	case reflect.TypeFor[int]():
		numbers[int](c, Int, off)
	case reflect.TypeFor[int32]():
		numbers[int32](c, Int, off)
	case reflect.TypeFor[int64]():
		numbers[int64](c, Int, off)
	case reflect.TypeFor[uint8]():
		numbers[uint8](c, Uint, off)
	case reflect.TypeFor[uint16]():
		numbers[uint16](c, Uint, off)
	case reflect.TypeFor[uint32]():
		numbers[uint32](c, Uint, off)
	case reflect.TypeFor[uint64]():
		numbers[uint64](c, Uint, off)
	default:
		panic(fmt.Sprintf("event: no column of %v", t))
	}
}

// text makes the column that of strings at an offset.
func (c *Column) text(off uintptr) {
	c.Type, c.Rep = String, StrRep
	c.strs, c.setStr = members[string](off)
}

func members[T any](off uintptr) (get func([]unsafe.Pointer, []T), set func(unsafe.Pointer, T)) {
	return func(at []unsafe.Pointer, dst []T) {
			for i, p := range at {
				dst[i] = *(*T)(unsafe.Add(p, off))
			}
		}, func(p unsafe.Pointer, v T) {
			*(*T)(unsafe.Add(p, off)) = v
		}
}

func numbers[T number](c *Column, t Type, off uintptr) {
	c.Type, c.Rep = t, IntRep
	c.ints, c.setInt = func(at []unsafe.Pointer, dst []int64) {
		for i, p := range at {
			dst[i] = int64(*(*T)(unsafe.Add(p, off)))
		}
	}, func(p unsafe.Pointer, v int64) { *(*T)(unsafe.Add(p, off)) = T(v) }
}

// addrList makes the column that of lists of addresses, each as text.
func addrList(c *Column, off uintptr) {
	c.Type, c.Rep = IP, ListRep
	c.lists, c.setList = func(at []unsafe.Pointer, dst [][]string) {
		for i, p := range at {
			dst[i] = nil
			for _, a := range *(*[]netip.Addr)(unsafe.Add(p, off)) {
				dst[i] = append(dst[i], a.String())
			}
		}
	}, func(p unsafe.Pointer, v []string) {
		list := make([]netip.Addr, 0, len(v))
		for _, s := range v {
			a, err := netip.ParseAddr(s)
			if err == nil {
				list = append(list, a)
			}
		}
		*(*[]netip.Addr)(unsafe.Add(p, off)) = list
	}
}

// answerList makes the column that of the addresses in answers, each as text:
// address, seconds that it is good for, name.
func answerList(c *Column, off uintptr) {
	c.Type, c.Rep = String, ListRep
	c.lists, c.setList = func(at []unsafe.Pointer, dst [][]string) {
		for i, p := range at {
			dst[i] = nil
			for _, a := range *(*[]Answer)(unsafe.Add(p, off)) {
				var room [128]byte
				b := a.Addr.AppendTo(room[:0])
				b = append(b, ' ')
				b = strconv.AppendUint(b, uint64(a.TTL), 10)
				b = append(b, ' ')
				dst[i] = append(dst[i], string(append(b, a.Name...)))
			}
		}
	}, func(p unsafe.Pointer, v []string) {
		list := make([]Answer, 0, len(v))
		for _, s := range v {
			addr, rest, _ := strings.Cut(s, " ")
			ttl, name, _ := strings.Cut(rest, " ")
			n, _ := strconv.ParseUint(ttl, 10, 32)
			a, _ := netip.ParseAddr(addr) // what is none is no address
			list = append(list, Answer{Name: name, Addr: a, TTL: uint32(n)})
		}
		*(*[]Answer)(unsafe.Add(p, off)) = list
	}
}

// naming is what the numbers of a column are called.
type naming struct {
	text   func(v int64) string
	number func(s string) (int64, bool)
}

func named8[T interface {
	~uint8
	fmt.Stringer
}](c *Column, off uintptr) {
	numbers[T](c, String, off)
	text := func(v int64) string { return T(v).String() }
	c.names = &naming{text, byName(text, 256, "")}
}

func named32[T interface {
	~int32
	fmt.Stringer
}](c *Column, off uintptr, n int, prefix string) {
	numbers[T](c, String, off)
	text := func(v int64) string { return T(v).String() }
	c.names = &naming{text, byName(text, n, prefix)}
}

// byName finds the number of a name among the first n numbers; what has no name
// is called by a prefix and its number.
func byName(text func(int64) string, n int, prefix string) func(string) (int64, bool) {
	names := sync.OnceValue(func() map[string]int64 {
		m := make(map[string]int64, n)
		for v := int64(n) - 1; v >= 0; v-- {
			m[text(v)] = v
		}
		return m
	})
	return func(s string) (int64, bool) {
		if v, ok := names()[s]; ok {
			return v, true
		}
		rest, ok := strings.CutPrefix(s, prefix)
		if !ok {
			return 0, false
		}
		v, err := strconv.ParseInt(rest, 10, 32)
		return v, err == nil
	}
}

// setNaming is that of numbers whose bits have names, joined by a separator.
func setNaming(text func(uint64) string, bits int, sep string) *naming {
	one := sync.OnceValue(func() map[string]uint64 {
		m := make(map[string]uint64, bits)
		for i := range bits {
			m[text(1<<i)] = 1 << i
		}
		return m
	})
	return &naming{func(v int64) string { return text(uint64(v)) }, func(s string) (int64, bool) {
		var v uint64
		if s == "" {
			return 0, true
		}
		for part := range strings.SplitSeq(s, sep) {
			bit, ok := one()[part]
			if !ok {
				return 0, false
			}
			v |= bit
		}
		return int64(v), true
	}}
}
