package event

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setArg gives a call an argument. Of several of a name it is the first of which
// the call then says what was given.
func (m *maker) setArg(field, name, text string) error {
	d := m.e.Data.(*Syscall)
	if d.Call == nil {
		return fmt.Errorf("the call is not known")
	}
	if n, err := strconv.Atoi(name); err == nil {
		a := d.argAt(n)
		if a == nil {
			return fmt.Errorf("%s has no such argument", d.Type)
		}
		name = a.Name
	}
	first, last := -1, fmt.Errorf("%s has no such argument", d.Type)
	was := *d
	for i := range d.Call.Args {
		a := &d.Call.Args[i]
		if a.Name != name {
			continue
		}
		*d = was
		if err := d.give(a, text); err != nil {
			last = err
			continue
		}
		if m.check(field, Value{Text: text}) == nil {
			return nil
		}
		if first < 0 {
			first = i
		}
	}
	*d = was
	if first < 0 {
		return last
	}
	// It may need another argument, which comes later.
	return d.give(&d.Call.Args[first], text)
}

// give sets what an argument is read from.
func (s *Syscall) give(a *CallArg, text string) error {
	switch a.Form {
	case FormText, FormBytes:
		m := &s.Memory[a.Read-1]
		for len(m.Bytes) < int(a.Off) {
			m.Bytes += "\x00"
		}
		m.Bytes, m.There = m.Bytes[:a.Off]+text, true
		return nil
	case FormAddress:
		sa, err := sockaddr(text)
		s.Memory[a.Read-1] = CallMemory{sa, true}
		return err
	case FormSignalSet:
		var set uint64
		for name := range strings.FieldsSeq(text) {
			n, err := signalOf(name)
			if err != nil {
				return err
			}
			set |= 1 << (n - 1)
		}
		s.Memory[a.Read-1] = CallMemory{string(binary.NativeEndian.AppendUint64(nil, set)), true}
		return nil
	}
	n, err := a.parse(text)
	if err != nil {
		return err
	}
	switch {
	case a.Read > 0:
		m := &s.Memory[a.Read-1]
		size := int(a.Bits / 8)
		b := []byte(m.Bytes)
		for len(b) < int(a.Off)+size {
			b = append(b, 0)
		}
		if size == 4 {
			binary.NativeEndian.PutUint32(b[a.Off:], uint32(n))
		} else {
			binary.NativeEndian.PutUint64(b[a.Off:], uint64(n))
		}
		m.Bytes, m.There = string(b), true
	case a.At == AtResult:
		s.RawRes = n
	case a.Mask != 0:
		s.Regs[a.At] = s.Regs[a.At]&^a.Mask | uint64(n)
	default:
		s.Regs[a.At] = uint64(n)
	}
	return nil
}

// parse reads the number of an argument's text.
func (a *CallArg) parse(text string) (int64, error) {
	if a.Form == FormHex {
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 64)
		if err != nil {
			return 0, fmt.Errorf("that is no hexadecimal number")
		}
		return int64(n), nil
	}
	if n, err := numberText(text); err == nil {
		return n, nil
	}
	switch a.Form {
	case FormFlags, FormMode:
		n, err := flagsOf(text, a.Names)
		return int64(n), err
	case FormEnum:
		first, _, _ := strings.Cut(text, "|")
		for _, f := range a.Names {
			if f.name == first {
				return int64(f.bit), nil
			}
		}
		return 0, fmt.Errorf("there is no %s", first)
	case FormSignal:
		return signalOf(text)
	case FormFD, FormResult:
		if text == "AT_FDCWD" {
			return unix.AT_FDCWD, nil
		}
		for n := int64(1); n < 4096; n++ {
			if Errno(n).String() == text {
				return -n, nil
			}
		}
	}
	return 0, fmt.Errorf("that is no number")
}

func signalOf(name string) (int64, error) {
	for i := int64(1); i <= 64; i++ {
		if Signal(i).String() == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("there is no signal %s", name)
}

// sockaddr is the inverse of appendAddress, for addresses.
func sockaddr(text string) (string, error) {
	if a, err := parseEnd(text); err == nil {
		port := []byte{byte(a.Port() >> 8), byte(a.Port())}
		if a.Addr().Is4() {
			ip := a.Addr().As4()
			b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
			return string(append(append(append(b, port...), ip[:]...), make([]byte, 8)...)), nil
		}
		ip := a.Addr().As16()
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
		return string(append(append(append(append(b, port...), 0, 0, 0, 0), ip[:]...), 0, 0, 0, 0)), nil
	}
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX)
	if rest, ok := strings.CutPrefix(text, "@"); ok {
		return string(b) + "\x00" + rest, nil
	}
	if strings.HasPrefix(text, "/") {
		return string(b) + text, nil
	}
	return "", fmt.Errorf("that is neither ADDRESS:PORT nor a path")
}
