package event

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// number returns the number behind an argument, sign and width as it has them.
// It reports false where the call has none: the condition does not hold, or the
// memory that it lies in is missing.
func (s *Syscall) number(a *CallArg) (int64, bool) {
	var v uint64
	switch {
	case !a.Form.HasNumber():
		return 0, false
	case a.Read > 0:
		b := s.Memory[a.Read-1].Bytes
		n := int(a.Bits / 8)
		if len(b) < int(a.Off)+n {
			return 0, false
		}
		if b = b[a.Off:]; n == 4 {
			v = uint64(binary.NativeEndian.Uint32([]byte(b[:4])))
		} else {
			v = binary.NativeEndian.Uint64([]byte(b[:8]))
		}
	case a.At == AtResult:
		return s.RawRes, true
	default:
		v = s.Regs[a.At]
	}
	if a.Mask != 0 {
		v &= a.Mask
	}
	if a.Bits == 32 {
		if a.Form <= FormPID {
			return int64(int32(v)), true
		}
		v = uint64(uint32(v))
	}
	return int64(v), true
}

// appendArg appends an argument as evt.arg.NAME has it. It reports whether there
// is one.
func (s *Syscall) appendArg(b []byte, a *CallArg) (_ []byte, ok bool) {
	if a.Form >= FormSignalSet {
		return s.appendMemory(b, a)
	}
	n, ok := s.number(a)
	if !ok {
		return b, false
	}
	before := len(b)
	switch a.Form {
	case FormFD:
		return appendFD(b, n), true
	case FormInt, FormPID:
		return strconv.AppendInt(b, n, 10), true
	case FormResult:
		if n < 0 {
			return append(b, Errno(-n).String()...), true
		}
		return strconv.AppendInt(b, n, 10), true
	case FormHex:
		return appendHex(b, uint64(n)), true
	case FormFlags:
		b = appendFlags(b, uint64(n), a.Names)
	case FormEnum:
		b = appendEnum(b, uint64(n), a.Names)
	case FormMode:
		b = appendNodeMode(b, uint64(n), a.Names)
	case FormSignal:
		if n != 0 {
			b = append(b, Signal(n).String()...)
		}
	}
	if len(b) == before { // a number without a name
		b = strconv.AppendUint(b, uint64(n), 10)
	}
	return b, true
}

// appendPlain appends the number that Falco's evt.args has before the name.
func (s *Syscall) appendPlain(b []byte, a *CallArg) []byte {
	n, ok := s.number(a)
	switch {
	case !ok:
		return b
	case a.Form == FormMode:
		return strconv.AppendUint(b, uint64(n), 8)
	case a.Form == FormHex:
		return appendHex(b, uint64(n))
	case a.Form <= FormPID, a.Form == FormResult:
		return strconv.AppendInt(b, n, 10)
	}
	return strconv.AppendUint(b, uint64(n), 10)
}

// appendArgs appends all arguments as Falco writes them: NAME=VALUE, and behind a
// number that has a name, the name in parentheses. Memory that could not be read
// is NULL, as there.
func (s *Syscall) appendArgs(b []byte) []byte {
	if s.Call == nil {
		return b
	}
	start := len(b)
	for i := range s.Call.Args {
		a := &s.Call.Args[i]
		if !a.If.Holds(&s.Regs, s.RawRes) {
			continue
		}
		if len(b) > start {
			b = append(b, ' ')
		}
		b = append(append(b, a.Name...), '=')
		at := len(b)
		if b = s.appendPlain(b, a); len(b) == at {
			var ok bool
			if b, ok = s.appendArg(b, a); !ok {
				b = append(b, "NULL"...)
			}
			continue
		}
		plain := string(b[at:])
		mark := len(b)
		b = append(b, '(')
		if typed := s.typed(a); typed != "" {
			b = append(b, typed...)
		} else {
			b, _ = s.appendArg(b, a)
		}
		if string(b[mark+1:]) == plain {
			b = b[:mark]
		} else {
			b = append(b, ')')
		}
	}
	return b
}

// typed returns what an argument that is the call's descriptor refers to, "" for
// others, and where that is not known.
func (s *Syscall) typed(a *CallArg) string {
	n, ok := s.number(a)
	if !ok || a.Form != FormFD || n < 0 || n != int64(s.FD) {
		return ""
	}
	return fdTyped(&Event{Data: s})
}

func (s *Syscall) appendMemory(b []byte, a *CallArg) (_ []byte, ok bool) {
	m := s.Memory[a.Read-1]
	if !m.There || len(m.Bytes) < int(a.Off) {
		return b, false
	}
	text := m.Bytes[a.Off:]
	switch a.Form {
	case FormText:
		for i := range len(text) {
			if text[i] == 0 {
				text = text[:i]
				break
			}
		}
		return append(b, text...), true
	case FormBytes:
		for i := range len(text) {
			if c := text[i]; c >= ' ' && c < 0x7f {
				b = append(b, c)
			} else {
				b = append(b, '.')
			}
		}
		return b, true
	case FormSignalSet:
		if len(text) < 8 {
			return b, false
		}
		return appendSignals(b, binary.NativeEndian.Uint64([]byte(text[:8]))), true
	}
	before := len(b)
	b = appendAddress(b, text)
	return b, len(b) > before
}

// appendFD appends a descriptor: what is negative by its name.
func appendFD(b []byte, n int64) []byte {
	switch {
	case n == unix.AT_FDCWD:
		return append(b, "AT_FDCWD"...)
	case n < -1:
		return append(b, Errno(-n).String()...)
	}
	return strconv.AppendInt(b, n, 10)
}

func appendHex(b []byte, n uint64) []byte {
	at := len(b)
	b = strconv.AppendUint(b, n, 16)
	for i := at; i < len(b); i++ {
		if b[i] >= 'a' {
			b[i] -= 'a' - 'A'
		}
	}
	return b
}

// appendEnum appends every name of a value, as Falco does: AF_LOCAL|AF_UNIX.
func appendEnum(b []byte, n uint64, names []flagName) []byte {
	start := len(b)
	for _, f := range names {
		if f.bit != n {
			continue
		}
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, f.name...)
	}
	return b
}

// appendNodeMode appends permissions by name and the one type; none is that of
// regular files.
func appendNodeMode(b []byte, n uint64, names []flagName) []byte {
	start := len(b)
	kind := n & unix.S_IFMT
	if kind == 0 {
		kind = unix.S_IFREG
	}
	n &^= unix.S_IFMT
	for _, f := range names {
		switch {
		case f.bit&unix.S_IFMT != 0 && f.bit == kind:
			kind = 0
		case f.bit&unix.S_IFMT == 0 && n&f.bit != 0:
			n &^= f.bit
		default:
			continue
		}
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, f.name...)
	}
	if n |= kind; n != 0 {
		if len(b) > start {
			b = append(b, '|')
		}
		b = strconv.AppendUint(append(b, "0x"...), n, 16)
	}
	return b
}

func appendSignals(b []byte, set uint64) []byte {
	start := len(b)
	for i := range 64 {
		if set>>i&1 == 0 {
			continue
		}
		if len(b) > start {
			b = append(b, ' ')
		}
		b = append(b, Signal(i+1).String()...)
	}
	return b
}

// appendAddress appends the address in a struct sockaddr: as sockets' ends are
// written, a path, or @ and a name in the abstract space. Other families are
// their name alone.
func appendAddress(b []byte, sa string) []byte {
	if len(sa) < 2 {
		return b
	}
	family := binary.NativeEndian.Uint16([]byte(sa[:2]))
	switch {
	case family == unix.AF_INET && len(sa) >= 8:
		a := netip.AddrFrom4([4]byte([]byte(sa[4:8])))
		return appendEnd(b, netip.AddrPortFrom(a, uint16(sa[2])<<8|uint16(sa[3])))
	case family == unix.AF_INET6 && len(sa) >= 24:
		a := netip.AddrFrom16([16]byte([]byte(sa[8:24])))
		return appendEnd(b, netip.AddrPortFrom(a, uint16(sa[2])<<8|uint16(sa[3])))
	case family == unix.AF_UNIX:
		path := sa[2:]
		if len(path) > 0 && path[0] == 0 {
			return append(append(b, '@'), path[1:]...)
		}
		for i := range len(path) {
			if path[i] == 0 {
				path = path[:i]
				break
			}
		}
		return append(b, path...)
	case family == 0:
		return b
	}
	at := len(b)
	if b = appendEnum(b, uint64(family), socketFamilies); len(b) == at {
		b = strconv.AppendUint(b, uint64(family), 10)
	}
	return b
}
