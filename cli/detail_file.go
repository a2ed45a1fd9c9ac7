package cli

import (
	"fmt"
	"strings"

	"warren/event"
)

// fileFields are what the words for files are made of.
var fileFields = []string{
	"fd.name", "fd.nameraw", "fd.name_error", "fd.name_mismatch", "fd.name_unresolved", "evt.is_open_read", "evt.is_open_write", "evt.is_open_create", "evt.arg.flags", "evt.io_uring",
	"fs.path.name", "fs.path.nameraw", "fs.path.source", "fs.path.sourceraw", "fs.path.target", "fs.path.targetraw", "evt.arg.mode", "evt.arg.length", "file.size", "file.deleted", "evt.arg.type",
}

// fileDetail tells what was done to which file.
func (s screen) fileDetail(r *record) cell {
	var text string
	switch r.kind() {
	case event.KindOpen:
		text = s.path(r, "fd.name", "fd.nameraw") + s.openedTo(r)
	case event.KindFileClose:
		text = s.path(r, "fd.name", "") + " written"
		if r.has("file.size") {
			text += fmt.Sprintf(", %s now", byteCount(uint64(max(0, r.num("file.size")))))
		}
	case event.KindMount:
		text = s.path(r, "fs.path.target", "fs.path.targetraw")
		if from := s.path(r, "fs.path.source", "fs.path.sourceraw"); from != "?" {
			text = from + " on " + text
		}
		if t := r.str("evt.arg.type"); t != "" {
			text += " (" + s.safe(t) + ")"
		}
	default:
		text = s.changed(r)
	}
	c := cell{text: text + s.failure(r)}
	switch {
	case r.yes("fd.name_mismatch"):
		c.tail, c.tailColor = " (asked for "+s.safe(first(r.str("fd.nameraw"), r.str("fs.path.nameraw")))+": changed during the call)", red
	case r.kind() == event.KindFile && r.yes("fd.name_unresolved") && s.failure(r) == "":
		c.tail = " (as it was asked for)"
	case r.yes("file.deleted"):
		c.tail = " (without a name)"
	}
	return c
}

// path returns a path, or where it is not known what was asked for.
func (s screen) path(r *record, name, raw string) string {
	if p := r.str(name); p != "" {
		return s.safe(p)
	}
	if p := r.str(raw); raw != "" && p != "" {
		return s.safe(p)
	}
	return "?"
}

// openedTo says for what a file was opened.
func (s screen) openedTo(r *record) string {
	var words []string
	for _, w := range []struct{ field, word string }{{"evt.is_open_read", "read"}, {"evt.is_open_write", "write"}} {
		if r.yes(w.field) {
			words = append(words, w.word)
		}
	}
	if strings.Contains(r.str("evt.arg.flags"), "O_TRUNC") {
		words = append(words, "emptied")
	}
	if r.yes("evt.is_open_create") {
		words = append(words, "created")
	}
	if len(words) == 0 {
		return ""
	}
	return " to " + strings.Join(words, ", ")
}

// changed tells of calls that change what is in a directory or what a file is.
func (s screen) changed(r *record) string {
	from, to := s.path(r, "fs.path.source", "fs.path.sourceraw"), s.path(r, "fs.path.target", "fs.path.targetraw")
	if to != "?" {
		return from + " -> " + to
	}
	text := s.path(r, "fs.path.name", "fs.path.nameraw")
	if text == "?" {
		text = s.path(r, "fd.name", "")
	}
	switch typ := r.str("evt.type"); {
	case strings.Contains(typ, "chmod") && r.has("evt.arg.mode"):
		text += " to " + s.safe(r.str("evt.arg.mode"))
	case strings.Contains(typ, "chown"):
		for _, f := range []struct{ field, word string }{{"evt.arg.uid", "user"}, {"evt.arg.gid", "group"}} {
			if r.has(f.field) {
				text += " to " + f.word + " " + s.safe(r.str(f.field))
			}
		}
	case strings.Contains(typ, "truncate") && r.has("evt.arg.length"):
		text += " to " + byteCount(uint64(max(0, r.num("evt.arg.length"))))
	}
	return text
}
