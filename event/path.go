package event

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// splitPath cuts a path at its last slash: the directory that it lies in, "/" for
// what is in the root, and its name there. What has no slash has no directory.
func splitPath(p string) (dir, name string) {
	i := strings.LastIndexByte(p, '/')
	switch {
	case i < 0:
		return "", p
	case i == 0:
		return p[:1], p[1:]
	}
	return p[:i], p[i+1:]
}

// fdPath returns the path that fd.name has in events of files.
func fdPath(e *Event) string {
	switch d := e.Data.(type) {
	case *Open:
		return d.Name
	case *File:
		return d.FDName
	case *FileClose:
		return d.Name
	}
	return ""
}

// pathName returns fs.path.name of the kinds that keep it under another name.
func pathName(e *Event) string {
	switch d := e.Data.(type) {
	case *Open:
		return d.Name
	case *FileClose:
		return d.Name
	case *Mount:
		return d.Target
	}
	return ""
}

func pathNameRaw(e *Event) string {
	switch d := e.Data.(type) {
	case *Open:
		return d.NameRaw
	case *Mount:
		return d.TargetRaw
	}
	return ""
}

func fdNum(e *Event, i int) (int64, bool) {
	switch d := e.Data.(type) {
	case *Open:
		return d.RawRes, i == 0 && d.RawRes >= 0
	case *File:
		return int64(d.FD), i == 0 && d.FD >= 0
	case *Syscall:
		return int64(d.FD), i == 0 && d.FD >= 0
	}
	return 0, false
}

// objectOf returns the file of an event that has one, nil for others.
func objectOf(e *Event) *FileObject {
	switch d := e.Data.(type) {
	case *Open:
		return &d.FileObject
	case *File:
		return &d.FileObject
	case *FileClose:
		return &d.FileObject
	}
	return nil
}

// objectNum makes a getter of a number that files have; no file, no number.
func objectNum(fn func(*FileObject) uint32) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		o := objectOf(e)
		return int64(fn(o)), i == 0 && o.FileMode != 0
	}}
}

// Type returns what the file is: regular, directory, symlink, char, block, fifo
// or socket; "" where there is none, or a type that has no name.
func (o *FileObject) Type() string {
	switch o.FileMode & unix.S_IFMT {
	case unix.S_IFREG:
		return "regular"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return ""
}

// fdType returns the type of a descriptor of the file as Falco has it.
func (o *FileObject) fdType() string {
	switch {
	case o.FileMode == 0:
		return ""
	case o.FileMode&unix.S_IFMT == unix.S_IFDIR:
		return "directory"
	}
	return "file"
}

func (o *FileObject) fdTypeChar() string {
	if t := o.fdType(); t != "" {
		return t[:1]
	}
	return ""
}

func (o *FileObject) appendMode(b []byte) []byte {
	if o.FileMode == 0 {
		return b
	}
	return appendOctal(b, o.FileMode&^unix.S_IFMT)
}

// appendOctal writes a mode as chmod(1) takes it: 0644.
func appendOctal(b []byte, mode uint32) []byte {
	b = append(b, '0')
	if mode == 0 {
		return b
	}
	return strconv.AppendUint(b, uint64(mode), 8)
}

func argMode(b []byte, e *Event) []byte {
	switch d := e.Data.(type) {
	case *Open:
		if d.Flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 || d.Type == "creat" {
			return appendOctal(b, d.Mode)
		}
	case *File:
		switch d.Type {
		case "mkdir", "mkdirat":
			return appendOctal(b, d.Mode)
		case "chmod", "fchmod", "fchmodat", "fchmodat2":
			return appendFlags(b, uint64(d.Mode), modeNames)
		}
	}
	return b
}

// argPath makes a getter of a call's path, for the calls that have it under the
// same name: the absolute one where it is known, else as the process gave it.
func argPath(types ...string) getter {
	return str(func(e *Event) string {
		switch d := e.Data.(type) {
		case *Open:
			if slices.Contains(types, d.Type) {
				return cmp.Or(d.Name, d.NameRaw)
			}
		case *File:
			if slices.Contains(types, d.Type) {
				return cmp.Or(d.Name, d.NameRaw)
			}
		case *Mount:
			if slices.Contains(types, d.Type) {
				return cmp.Or(d.Target, d.TargetRaw)
			}
		}
		return ""
	})
}

// fileStr makes a getter of a text that calls of these types have.
func fileStr(fn func(*File) string, types ...string) getter {
	return str(func(e *Event) string {
		if f := e.Data.(*File); slices.Contains(types, f.Type) {
			return fn(f)
		}
		return ""
	})
}

// fileNum makes a getter of a number that calls of these types have.
func fileNum(fn func(*File) int64, types ...string) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		f := e.Data.(*File)
		return fn(f), i == 0 && slices.Contains(types, f.Type)
	}}
}

// symlink reports whether the source is a text that no path need be.
func (f *File) symlink() bool { return f.Type == "symlink" || f.Type == "symlinkat" }

func (f *File) oldPath() string {
	if f.symlink() {
		return ""
	}
	return cmp.Or(f.Source, f.SourceRaw)
}

func (f *File) newPath() string {
	if f.symlink() {
		return ""
	}
	return cmp.Or(f.Target, f.TargetRaw)
}

// dirTypes are the calls whose relative paths begin at a descriptor.
var dirTypes = []string{"openat", "openat2", "open_by_handle_at", "unlinkat", "mkdirat", "fchmodat", "fchmodat2", "fchownat", "renameat", "renameat2", "linkat"}

func argDir(b []byte, e *Event) []byte {
	switch d := e.Data.(type) {
	case *Open:
		if slices.Contains(dirTypes, d.Type) {
			return appendDir(b, d.Dir)
		}
	case *File:
		if slices.Contains(dirTypes, d.Type) {
			return appendDir(b, d.Dir)
		}
	}
	return b
}

func argNewDir(b []byte, e *Event) []byte {
	switch f := e.Data.(*File); f.Type {
	case "renameat", "renameat2", "linkat", "symlinkat":
		return appendDir(b, f.NewDir)
	}
	return b
}

func appendDir(b []byte, fd int32) []byte {
	if fd == AtCwd {
		return append(b, "AT_FDCWD"...)
	}
	return strconv.AppendInt(b, int64(fd), 10)
}
