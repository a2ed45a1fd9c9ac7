package file

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// errRecord means that a record says what no program of ours writes.
var errRecord = errors.New("record makes no sense")

// openEvent is an event and its data in one allocation.
type openEvent struct {
	event event.Event
	open  event.Open
}

// openTypes are the evt.types of open records.
var openTypes = [...]string{
	fileFileWhatFILE_OPEN:           "open",
	fileFileWhatFILE_OPENAT:         "openat",
	fileFileWhatFILE_OPENAT2:        "openat2",
	fileFileWhatFILE_CREAT:          "creat",
	fileFileWhatFILE_OPEN_BY_HANDLE: "open_by_handle_at",
}

// decodeOpen decodes a struct open_record and the texts behind it.
func (s *Sensor) decodeOpen(rec []byte) error {
	r, err := bpf.View[fileOpenRecord](rec)
	if err != nil {
		return err
	}
	if int(r.What) >= len(openTypes) || openTypes[r.What] == "" {
		return fmt.Errorf("%w: what %d", errRecord, r.What)
	}
	if r.Error > uint8(event.PathUnproven) {
		return fmt.Errorf("%w: error %d", errRecord, r.Error)
	}
	at := int(unsafe.Sizeof(*r)) + int(r.Pad)
	name, rest, ok := cut(rec, at, int(r.NameLen))
	raw, _, okRaw := cut(rec, rest, int(r.RawLen))
	if !ok || !okRaw {
		return fmt.Errorf("%w: %d bytes, with texts of %d and %d", errRecord, len(rec), r.NameLen, r.RawLen)
	}
	marks := fileFileMarks(r.Marks)
	has := func(m fileFileMarks) bool { return marks&m != 0 }

	e := new(openEvent)
	o := &e.open
	o.Type = openTypes[r.What]
	o.Res, o.RawRes = event.Errno(-min(r.Res, 0)), int64(r.Res)
	o.Error = event.PathError(r.Error)
	o.NoName = o.Error != event.PathKnown
	o.Name, o.NameRaw = name, raw
	o.FileObject = event.FileObject{
		Inode: r.File.Ino, Dev: uint64(r.File.Dev), FileMode: r.File.Mode, FileUID: r.File.Uid, Links: r.File.Links,
		Deleted: has(fileFileMarksFILE_DELETED), Memfd: has(fileFileMarksFILE_MEMFD),
	}
	o.Dir, o.Flags, o.Mode = r.Dir, r.Flags, r.Mode
	o.Read, o.Write, o.Create = has(fileFileMarksFILE_READ), has(fileFileMarksFILE_WRITE), has(fileFileMarksFILE_CREATED)
	o.IOUring = has(fileFileMarksFILE_IO_URING)
	o.Exec = o.Flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 && o.Mode&0o111 != 0
	if has(fileFileMarksFILE_CREATED) {
		o.Flags |= event.OpenCreated
	}
	if has(fileFileMarksFILE_UPPER) {
		o.Flags |= event.OpenUpper
	}
	if has(fileFileMarksFILE_LOWER) {
		o.Flags |= event.OpenLower
	}
	o.Mismatch = mismatch(o)
	e.event = event.Event{
		Time: bpf.Wall(r.H.Ktime), Ktime: r.H.Ktime,
		Actor: event.Key{PID: r.Actor.Pid, Start: r.Actor.Start},
		Data:  o,
	}
	s.send(&e.event)
	return nil
}

// cut copies n bytes of rec at at. It returns where they end, and false where
// there are fewer.
func cut(rec []byte, at, n int) (text string, end int, ok bool) {
	if at+n > len(rec) {
		return "", at, false
	}
	return string(rec[at : at+n]), at + n, true
}

// mismatch reports whether what was asked for cannot name what was opened: the
// last name is another one, and there can be no symlink of that name.
func mismatch(o *event.Open) bool {
	if o.Name == "" || o.NameRaw == "" || o.Memfd {
		return false
	}
	asked := o.NameRaw[strings.LastIndexByte(o.NameRaw, '/')+1:]
	got := o.Name[strings.LastIndexByte(o.Name, '/')+1:]
	if asked == got || asked == "" || asked == "." || asked == ".." {
		return false
	}
	return o.Flags&unix.O_NOFOLLOW != 0
}
