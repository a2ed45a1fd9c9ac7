package syscall

import (
	"errors"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// recordOf returns the bytes of a record and what lies behind it.
func recordOf(r syscallSyscallRecord, data string) []byte {
	r.Hdr.Len = uint32(int(unsafe.Sizeof(r)) + len(data))
	b := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))...)
	return append(b, data...)
}

func callRecord(name string) syscallSyscallRecord {
	return syscallSyscallRecord{Key: syscallTaskKey{Start: 7, Pid: 40, Tid: 41}, Call: uint16(event.CallIndex(event.LookupCall(name)) + 1)}
}

func TestDecode(t *testing.T) {
	r := callRecord("finit_module")
	r.Args = [6]uint64{3, 0x1000, 1}
	r.There, r.Lens[0], r.Object.PathLen, r.Object.Mode = 1, 5, 7, unix.S_IFREG
	e, err := decodeCall(recordOf(r, "a=1 b/x/y.ko"))
	if err != nil {
		t.Fatal(err)
	}
	d := e.Data.(*event.Syscall)
	if e.Actor != (event.Key{PID: 40, Start: 7}) || d.Type != "finit_module" || d.FD != 3 || d.FDName != "/x/y.ko" || d.FDType != "file" || d.Memory[0].Bytes != "a=1 b" {
		t.Errorf("%+v", d)
	}
	r = callRecord("pivot_root")
	r.Ret, r.Bad, r.Cut, r.There, r.Lens[1] = -int64(unix.EFAULT), 1, 2, 2, 2
	if e, err = decodeCall(recordOf(r, "ab")); err != nil {
		t.Fatal(err)
	}
	if d = e.Data.(*event.Syscall); d.Res != event.Errno(unix.EFAULT) || len(d.Unreadable) != 1 || d.Unreadable[0] != "new_root" || len(d.Truncated) != 1 || d.Truncated[0] != "put_old" {
		t.Errorf("%+v", d)
	}
	for name, rec := range map[string][]byte{
		"no call":       recordOf(syscallSyscallRecord{}, ""),
		"call unknown":  recordOf(syscallSyscallRecord{Call: 60000}, ""),
		"piece missing": recordOf(r, "a"),
		"path missing":  recordOf(func() syscallSyscallRecord { r := callRecord("dup"); r.Object.PathLen = 1; return r }(), ""),
	} {
		if _, err := decodeCall(rec); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeCall(make([]byte, 20)); !errors.Is(err, bpf.ErrShort) {
		t.Errorf("short record: %v", err)
	}
}

// FuzzDecode: whatever the bytes, there is an event that can be written, or an
// error.
func FuzzDecode(f *testing.F) {
	for i := range event.Calls {
		r := callRecord(event.Calls[i].Name)
		r.Args = [6]uint64{1, 2, 3, 4, 5, 6}
		r.There, r.Lens[0], r.Lens[1] = 3, 8, 2
		r.Object.Family, r.Object.PathLen = unix.AF_INET6, 2
		f.Add(recordOf(r, "\x02\x00\x00\x50\x7f\x00\x00\x01\x01\x00/x"))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, rec []byte) {
		e, err := decodeCall(rec)
		if (e == nil) == (err == nil) {
			t.Fatal("neither an event nor an error, or both")
		}
		if err != nil {
			return
		}
		event.AppendJSON(nil, e)
		for _, f := range event.Fields() {
			switch {
			case f.Arg == event.KeyArg:
				f.Key(e, "1")
			case f.Type == event.String:
				f.Str(e, 0)
			default:
				f.Num(e, 0)
			}
		}
	})
}
