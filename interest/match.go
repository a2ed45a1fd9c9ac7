package interest

import (
	"net/netip"
	"slices"
	"strings"

	"warren/event"
)

// names are the fields that hold a file's path, as its sensor reports it.
var names = []string{"fd.name", "fs.path.name", "fs.path.source", "fs.path.target"}

// SocketKinds, PathKinds and OpenKinds are the kinds of events that have ends
// with addresses, names of files, and purposes a file is opened for.
var (
	SocketKinds = having("fd.lport")
	PathKinds   = event.Kinds(event.KindOpen, event.KindFile, event.KindMount, event.KindFileClose)
	OpenKinds   = having("evt.is_open_read", "evt.is_open_write")
)

// having returns the kinds of which events can have one of some fields.
func having(fields ...string) event.KindSet {
	var ks event.KindSet
	for _, name := range fields {
		if f, ok := event.Lookup(name); ok {
			ks |= f.Kinds()
		}
	}
	return ks
}

// Match reports whether t holds for e. It is the meaning of a term, which the
// kernel's engine is held against.
func (t *Term) Match(e *event.Event) bool {
	if e.Data == nil || !t.Kinds.Has(e.Data.Kind()) {
		return false
	}
	switch {
	case t.Types != nil && !t.matchType(e):
	case t.Outcome != AnyOutcome && !t.matchOutcome(e):
	case t.Open != 0 && !t.matchOpen(e):
	case t.RawDots && !matchDots(e):
	case t.Paths != nil && !t.matchPath(e):
	case t.Inodes != nil && !t.matchInode(e):
	case t.UIDs != nil && !t.matchUID(e):
	case t.Exes != nil && !matchText(e, "proc.exepath", t.Exes):
	case t.Names != nil && !matchText(e, "proc.name", t.Names):
	case t.NotExes != nil && matchText(e, "proc.exepath", t.NotExes):
	case t.NotNames != nil && matchText(e, "proc.name", t.NotNames):
	case t.Workload != nil && !t.Workload.Match(e):
	case t.Ports != nil && !t.matchPort(e):
	case t.Nets != nil && !t.matchNet(e):
	default:
		return true
	}
	return false
}

func text(e *event.Event, name string) (string, bool) {
	f, ok := event.Lookup(name)
	if !ok {
		return "", false
	}
	return f.Str(e, 0)
}

func number(e *event.Event, name string) (int64, bool) {
	f, ok := event.Lookup(name)
	if !ok {
		return 0, false
	}
	return f.Num(e, 0)
}

func (t *Term) matchType(e *event.Event) bool {
	typ, _ := text(e, "evt.type")
	_, ok := slices.BinarySearch(t.Types, typ)
	return ok
}

// matchOutcome asks both fields that tell of an outcome: where an event has
// just one, or two that contradict each other, either will do.
func (t *Term) matchOutcome(e *event.Event) bool {
	res, hasRes := text(e, "evt.res")
	raw, hasRaw := number(e, "evt.rawres")
	if t.Outcome == Failed {
		return hasRes && res != "SUCCESS" || hasRaw && raw < 0
	}
	return hasRes && res == "SUCCESS" || hasRaw && raw >= 0
}

func (t *Term) matchOpen(e *event.Event) bool { return openMask(e)&t.Open != 0 }

func openMask(e *event.Event) OpenMask {
	var m OpenMask
	for name, bit := range map[string]OpenMask{"evt.is_open_read": OpenRead, "evt.is_open_write": OpenWrite, "evt.is_open_exec": OpenExec, "evt.is_open_create": OpenCreate} {
		if v, ok := number(e, name); ok && v != 0 {
			m |= bit
		}
	}
	return m
}

func (t *Term) matchPath(e *event.Event) bool {
	if Unnamed(e) {
		return true
	}
	for _, field := range names {
		if field == "fs.path.source" && rawSource(e) {
			continue
		}
		name, ok := text(e, field)
		if ok && slices.ContainsFunc(t.Paths, func(p Path) bool { return p.Match(name) }) {
			return true
		}
	}
	return false
}

// Unnamed reports whether e is about a file whose name is not known, though it has
// one: no comparison with a path can tell whether it would hold. A call that
// failed has no file, and a name there is none of.
func Unnamed(e *event.Event) bool {
	var why event.PathError
	switch d := e.Data.(type) {
	case *event.Open:
		why = d.Error
	case *event.File:
		why = d.Error
	case *event.Mount:
		why = d.Error
	case *event.FileClose:
		why = d.Error
	}
	return why != event.PathKnown && why != event.PathFailed
}

func matchDots(e *event.Event) bool {
	raw, _ := text(e, "fd.nameraw")
	return strings.Contains(raw, "..")
}

// rawSource reports whether fs.path.source of e is what the process gave, and no
// path of the kernel's: what a symlink points at, what is mounted.
func rawSource(e *event.Event) bool {
	typ, _ := text(e, "evt.type")
	return e.Data.Kind() == event.KindMount || typ == "symlink" || typ == "symlinkat"
}

func (t *Term) matchInode(e *event.Event) bool {
	ino, ok := number(e, "fd.ino")
	if !ok && Unnamed(e) {
		return true // which file it is, is not known either
	}
	dev, okDev := number(e, "fd.dev")
	return slices.ContainsFunc(t.Inodes, func(i Inode) bool {
		return (i.Ino == 0 || ok && i.Ino == uint64(ino)) && (i.Dev == 0 || okDev && i.Dev == uint64(dev))
	})
}

func (t *Term) matchUID(e *event.Event) bool {
	uid, ok := number(e, "user.uid")
	if !ok {
		return false
	}
	_, ok = slices.BinarySearch(t.UIDs, uint32(uid))
	return ok
}

func matchText(e *event.Event, field string, ps []Path) bool {
	value, ok := text(e, field)
	return ok && slices.ContainsFunc(ps, func(p Path) bool { return p.Match(value) })
}

func (t *Term) matchPort(e *event.Event) bool {
	for _, field := range []string{"fd.lport", "fd.rport"} {
		if port, ok := number(e, field); ok {
			if _, ok := slices.BinarySearch(t.Ports, uint16(port)); ok {
				return true
			}
		}
	}
	return false
}

func (t *Term) matchNet(e *event.Event) bool {
	for _, field := range []string{"fd.lip", "fd.rip"} {
		f, ok := event.Lookup(field)
		if !ok {
			continue
		}
		addr, ok := f.Addr(e, 0)
		if ok && slices.ContainsFunc(t.Nets, func(n netip.Prefix) bool { return n.Contains(addr.Unmap()) }) {
			return true
		}
	}
	return false
}
