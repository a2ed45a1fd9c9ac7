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
	o.FileObject = objectOf(&r.File, r.Marks)
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
	o.Mismatch = !o.Memfd && mismatch(raw, name, o.Flags&unix.O_NOFOLLOW != 0, has(fileFileMarksFILE_SHARED))
	e.event = event.Event{
		Time: bpf.Wall(r.H.Ktime), Ktime: r.H.Ktime, CPU: r.H.Cpu + 1,
		Actor: event.Key{PID: r.Actor.Pid, Start: r.Actor.Start},
		Data:  o,
	}
	s.send(&e.event)
	if counts := s.counts.Load(); r.Example != 0 && counts != nil {
		counts.Example(r.Example, &e.event)
	}
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

// mismatch reports whether what was asked for has another last name than what it
// led to, though no symlink was allowed, or though the memory it was read from
// is others' too, who may have changed it.
func mismatch(asked, got string, nofollow, shared bool) bool {
	if got == "" || asked == "" || !nofollow && !shared {
		return false
	}
	asked = strings.TrimRight(asked, "/")
	asked = asked[strings.LastIndexByte(asked, '/')+1:]
	if asked == "" || asked == "." || asked == ".." {
		return false
	}
	return asked != got[strings.LastIndexByte(got, '/')+1:]
}

// changeTypes are the evt.types of change records.
var changeTypes = [...]string{
	fileFileWhatFILE_UNLINK:      "unlink",
	fileFileWhatFILE_UNLINKAT:    "unlinkat",
	fileFileWhatFILE_RMDIR:       "rmdir",
	fileFileWhatFILE_RENAME:      "rename",
	fileFileWhatFILE_RENAMEAT:    "renameat",
	fileFileWhatFILE_RENAMEAT2:   "renameat2",
	fileFileWhatFILE_LINK:        "link",
	fileFileWhatFILE_LINKAT:      "linkat",
	fileFileWhatFILE_SYMLINK:     "symlink",
	fileFileWhatFILE_SYMLINKAT:   "symlinkat",
	fileFileWhatFILE_MKDIR:       "mkdir",
	fileFileWhatFILE_MKDIRAT:     "mkdirat",
	fileFileWhatFILE_CHMOD:       "chmod",
	fileFileWhatFILE_FCHMOD:      "fchmod",
	fileFileWhatFILE_FCHMODAT:    "fchmodat",
	fileFileWhatFILE_FCHMODAT2:   "fchmodat2",
	fileFileWhatFILE_CHOWN:       "chown",
	fileFileWhatFILE_LCHOWN:      "lchown",
	fileFileWhatFILE_FCHOWN:      "fchown",
	fileFileWhatFILE_FCHOWNAT:    "fchownat",
	fileFileWhatFILE_TRUNCATE:    "truncate",
	fileFileWhatFILE_FTRUNCATE:   "ftruncate",
	fileFileWhatFILE_MOUNT:       "mount",
	fileFileWhatFILE_UMOUNT:      "umount2", // which the kernel calls umount
	fileFileWhatFILE_MOVE_MOUNT:  "move_mount",
	fileFileWhatFILE_CLOSE:       "close",
	fileFileWhatFILE_CLOSE_DUP2:  "close",
	fileFileWhatFILE_CLOSE_DUP3:  "close",
	fileFileWhatFILE_CLOSE_RANGE: "close",
	fileFileWhatFILE_CLOSE_EXEC:  "close",
	fileFileWhatFILE_CLOSE_EXIT:  "close",
}

// closers are what closes a file, by the kinds of closes.
var closers = [...]string{
	fileFileWhatFILE_CLOSE:       "close",
	fileFileWhatFILE_CLOSE_DUP2:  "dup2",
	fileFileWhatFILE_CLOSE_DUP3:  "dup3",
	fileFileWhatFILE_CLOSE_RANGE: "close_range",
	fileFileWhatFILE_CLOSE_EXEC:  "exec",
	fileFileWhatFILE_CLOSE_EXIT:  "exit",
}

// texts are the paths of a change record: names of the kernel's objects, and
// what was asked for. Calls with one path have it as first, but those that make
// a symlink or mount something have their name as the second.
type texts struct{ name, target, raw, targetRaw string }

func changeTexts(r *fileChangeRecord, rec []byte) (t texts, err error) {
	at := int(unsafe.Sizeof(*r)) + int(r.Pad)
	for _, x := range []struct {
		to *string
		n  uint16
	}{{&t.name, r.NameLen}, {&t.target, r.TargetLen}, {&t.raw, r.RawLen}, {&t.targetRaw, r.TargetRawLen}} {
		var ok bool
		if *x.to, at, ok = cut(rec, at, int(x.n)); !ok {
			return t, fmt.Errorf("%w: %d bytes, with texts of %d, %d, %d and %d", errRecord, len(rec), r.NameLen, r.TargetLen, r.RawLen, r.TargetRawLen)
		}
	}
	return t, nil
}

// decodeChange decodes a struct change_record and the texts behind it.
func (s *Sensor) decodeChange(rec []byte) error {
	r, err := bpf.View[fileChangeRecord](rec)
	if err != nil {
		return err
	}
	if int(r.What) >= len(changeTypes) || changeTypes[r.What] == "" {
		return fmt.Errorf("%w: what %d", errRecord, r.What)
	}
	if r.Error > uint8(event.PathUnproven) {
		return fmt.Errorf("%w: error %d", errRecord, r.Error)
	}
	t, err := changeTexts(r, rec)
	if err != nil {
		return err
	}
	e := &event.Event{Time: bpf.Wall(r.H.Ktime), Ktime: r.H.Ktime, CPU: r.H.Cpu + 1, Actor: event.Key{PID: r.Actor.Pid, Start: r.Actor.Start}}
	switch kindOf(fileFileWhat(r.What)) {
	case event.KindMount:
		e.Data = mountOf(r, &t)
	case event.KindFileClose:
		e.Data = closeOf(r, &t)
	default:
		e.Data = changeOf(r, &t)
	}
	s.send(e)
	return nil
}

// kindOf returns the kind of a change.
func kindOf(what fileFileWhat) event.Kind {
	switch what {
	case fileFileWhatFILE_MOUNT, fileFileWhatFILE_UMOUNT, fileFileWhatFILE_MOVE_MOUNT:
		return event.KindMount
	}
	if what >= fileFileWhatFILE_CLOSE {
		return event.KindFileClose
	}
	return event.KindFile
}

func objectOf(o *fileFileObject, marks uint16) event.FileObject {
	m := fileFileMarks(marks)
	return event.FileObject{
		Inode: o.Ino, Dev: uint64(o.Dev), FileMode: o.Mode, FileUID: o.Uid, Links: o.Links,
		Deleted: m&fileFileMarksFILE_DELETED != 0, Memfd: m&fileFileMarksFILE_MEMFD != 0,
	}
}

func changeOf(r *fileChangeRecord, t *texts) *event.File {
	shared := fileFileMarks(r.Marks)&fileFileMarksFILE_SHARED != 0
	f := &event.File{
		Type: changeTypes[r.What], Res: event.Errno(-min(r.Res, 0)), RawRes: int64(r.Res),
		Error: event.PathError(r.Error), FileObject: objectOf(&r.File, r.Marks),
		FD: r.Fd, Dir: r.Dir, NewDir: r.TargetDir, Flags: uint32(r.Flags), Mode: r.Mode, UID: r.Uid, GID: r.Gid, Size: int64(r.Size),
		IOUring: fileFileMarks(r.Marks)&fileFileMarksFILE_IO_URING != 0,
	}
	f.NoName = f.Error != event.PathKnown
	switch fileFileWhat(r.What) {
	case fileFileWhatFILE_RENAME, fileFileWhatFILE_RENAMEAT, fileFileWhatFILE_RENAMEAT2, fileFileWhatFILE_LINK, fileFileWhatFILE_LINKAT:
		f.Source, f.SourceRaw, f.Target, f.TargetRaw = t.name, t.raw, t.target, t.targetRaw
		f.Mismatch = mismatch(t.raw, t.name, true, shared) || mismatch(t.targetRaw, t.target, true, shared)
	case fileFileWhatFILE_SYMLINK, fileFileWhatFILE_SYMLINKAT:
		f.Source, f.SourceRaw, f.Target, f.TargetRaw = t.raw, t.raw, t.target, t.targetRaw
		f.Mismatch = mismatch(t.targetRaw, t.target, true, shared)
	case fileFileWhatFILE_FCHMOD, fileFileWhatFILE_FCHOWN, fileFileWhatFILE_FTRUNCATE:
		f.Name, f.FDName = t.name, t.name
	case fileFileWhatFILE_UNLINK, fileFileWhatFILE_UNLINKAT, fileFileWhatFILE_RMDIR, fileFileWhatFILE_MKDIR, fileFileWhatFILE_MKDIRAT:
		f.Name, f.NameRaw = t.name, t.raw
		f.Mismatch = mismatch(t.raw, t.name, true, shared)
	default: // these follow symlinks
		f.Name, f.NameRaw = t.name, t.raw
		f.Mismatch = mismatch(t.raw, t.name, false, shared)
	}
	return f
}

func mountOf(r *fileChangeRecord, t *texts) *event.Mount {
	m := &event.Mount{
		Type: changeTypes[r.What], Res: event.Errno(-min(r.Res, 0)), RawRes: int64(r.Res),
		Source: t.raw, SourceRaw: t.raw, Target: t.target, TargetRaw: t.targetRaw, FSType: bpf.CString(r.Fstype[:]),
		Flags: r.Flags, Error: event.PathError(r.Error),
	}
	m.NoName = m.Error != event.PathKnown
	return m
}

func closeOf(r *fileChangeRecord, t *texts) *event.FileClose {
	c := &event.FileClose{
		Type: changeTypes[r.What], By: closers[r.What], Res: event.Errno(-min(r.Res, 0)), RawRes: int64(r.Res), FD: r.Fd, Name: t.name,
		Error: event.PathError(r.Error), FileObject: objectOf(&r.File, r.Marks), Size: int64(r.Size),
		IOUring: fileFileMarks(r.Marks)&fileFileMarksFILE_IO_URING != 0,
	}
	c.NoName = c.Error != event.PathKnown
	return c
}
