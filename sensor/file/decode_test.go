package file

import (
	"errors"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// record makes the bytes of a record: its head, pad bytes and texts.
func record[T any](head T, pad int, texts ...string) []byte {
	b := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head))...)
	b = append(b, make([]byte, pad)...)
	for _, t := range texts {
		b = append(b, t...)
	}
	return b
}

// decoding returns a sensor without a kernel, and where its events go.
func decoding() (*Sensor, *[]*event.Event) {
	var got []*event.Event
	s := &Sensor{}
	emit := func(e *event.Event) { got = append(got, e) }
	s.emit.Store(&emit)
	return s, &got
}

func TestDecodeOpen(t *testing.T) {
	s, got := decoding()
	r := fileOpenRecord{What: uint8(fileFileWhatFILE_OPENAT2), Res: 5, Dir: 9, Pad: 3, NameLen: 4, RawLen: 1, Flags: unix.O_CREAT, Mode: 0o100,
		Marks: uint16(fileFileMarksFILE_WRITE | fileFileMarksFILE_CREATED | fileFileMarksFILE_UPPER | fileFileMarksFILE_SHARED)}
	r.Actor.Pid, r.Actor.Start, r.File.Ino, r.H.Ktime = 7, 8, 99, 5
	if err := s.decodeOpen(record(r, 3, "/a/b", "c")); err != nil {
		t.Fatal(err)
	}
	e := (*got)[0]
	o := e.Data.(*event.Open)
	if e.Actor != (event.Key{PID: 7, Start: 8}) || e.Ktime != 5 || o.Type != "openat2" || o.Name != "/a/b" || o.NameRaw != "c" || o.RawRes != 5 || o.Dir != 9 || o.Inode != 99 {
		t.Errorf("%+v", o)
	}
	if !o.Write || o.Read || !o.Create || !o.Exec || !o.Mismatch || o.NoName || o.Flags != unix.O_CREAT|event.OpenCreated|event.OpenUpper {
		t.Errorf("%+v", o)
	}
}

func TestDecodeNonsense(t *testing.T) {
	s, got := decoding()
	open := fileOpenRecord{What: uint8(fileFileWhatFILE_OPEN), NameLen: 4}
	change := fileChangeRecord{What: uint8(fileFileWhatFILE_UNLINK), TargetLen: 4}
	for name, err := range map[string]error{
		"short open":         s.decodeOpen(make([]byte, 20)),
		"open without text":  s.decodeOpen(record(open, 0, "/ab")),
		"open of nothing":    s.decodeOpen(record(fileOpenRecord{}, 0)),
		"open of a change":   s.decodeOpen(record(fileOpenRecord{What: uint8(fileFileWhatFILE_UNLINK)}, 0)),
		"odd error":          s.decodeOpen(record(fileOpenRecord{What: 1, Error: 200}, 0)),
		"short change":       s.decodeChange(make([]byte, 20)),
		"change no text":     s.decodeChange(record(change, 0, "/ab")),
		"change of an open":  s.decodeChange(record(fileChangeRecord{What: 1}, 0)),
		"change of no type":  s.decodeChange(record(fileChangeRecord{What: 255}, 0)),
		"change's odd error": s.decodeChange(record(fileChangeRecord{What: uint8(fileFileWhatFILE_UNLINK), Error: 99}, 0)),
	} {
		if !errors.Is(err, errRecord) && !errors.Is(err, bpf.ErrShort) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(*got) != 0 {
		t.Errorf("%d events", len(*got))
	}
}

func TestMismatch(t *testing.T) {
	for _, tt := range []struct {
		asked, got       string
		nofollow, shared bool
		want             bool
	}{
		{"/a/b", "/a/b", true, true, false},
		{"b", "/a/b", true, true, false},
		{"b/", "/a/b", true, true, false},
		{"c", "/a/b", false, false, false}, // a symlink
		{"c", "/a/b", true, false, true},
		{"c", "/a/b", false, true, true},
		{"c/..", "/a/b", true, true, false},
		{".", "/a/b", true, true, false},
		{"/", "/", true, true, false},
		{"", "/a/b", true, true, false},
		{"c", "", true, true, false},
	} {
		if got := mismatch(tt.asked, tt.got, tt.nofollow, tt.shared); got != tt.want {
			t.Errorf("%q led to %q (no symlinks %t, shared %t): %t", tt.asked, tt.got, tt.nofollow, tt.shared, got)
		}
	}
}

// TestTypes: every number of the programs has its type, and the types are those
// of the kinds.
func TestTypes(t *testing.T) {
	for what, typ := range types {
		if what != 0 && (typ.Name == "" || !event.KindsOfType(typ.Name).Has(typ.Kind)) {
			t.Errorf("%d is %+v", what, typ)
		}
	}
	for _, h := range hooks() {
		for _, typ := range h.types {
			if !event.KindsOfType(typ).Has(h.kind) {
				t.Errorf("%s: %s is no type of %v", h.Name, typ, h.kind)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(record(fileOpenRecord{What: uint8(fileFileWhatFILE_OPENAT), Pad: 1, NameLen: 2, RawLen: 1}, 1, "/a", "b"))
	f.Add(record(fileChangeRecord{What: uint8(fileFileWhatFILE_RENAME), NameLen: 1, TargetLen: 1, RawLen: 1, TargetRawLen: 1}, 0, "abcd"))
	f.Add(record(fileChangeRecord{What: uint8(fileFileWhatFILE_MOUNT), NameLen: 1}, 0, "a"))
	f.Add(record(fileChangeRecord{What: uint8(fileFileWhatFILE_CLOSE)}, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, got := decoding()
		_ = s.decodeOpen(b)
		_ = s.decodeChange(b)
		for _, e := range *got {
			event.AppendJSON(nil, e)
		}
	})
}
