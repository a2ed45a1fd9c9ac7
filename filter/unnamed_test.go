package filter

import (
	"testing"

	"warren/event"
)

// TestUnnamed: what a filter could accept of an event of which nobody knows which
// file it is about, and what it never would.
func TestUnnamed(t *testing.T) {
	e := &event.Event{Process: &event.Process{Name: "rm"}, Data: &event.File{Type: "unlink", Error: event.PathUnproven, NameRaw: "/etc/passwd"}}
	for expr, want := range map[string]bool{
		"evt.type = unlink and fd.name startswith /etc":                                  true,
		"evt.type = unlink and fs.path.name = /etc/passwd":                               true,
		"evt.type = rename and fd.name startswith /etc":                                  false,
		"evt.type = unlink and proc.name = mv and fd.filename = passwd":                  false,
		"evt.type = unlink and not fd.name startswith /usr and fd.directory = /etc":      true,
		"evt.type = unlink and not (proc.name = rm or fd.name = /x)":                     false,
		"fd.ino = 7 and evt.kind = file":                                                 true,
		"evt.type = unlink and evt.abspath = /etc/passwd":                                true,
		"evt.type = unlink and basename(fd.name) = passwd":                               true,
		"evt.type = unlink and proc.name in (rm) and tolower(fd.name) = val(proc.name)":  true,
		"(evt.type = unlink and fd.name = /a) or (evt.type = unlink and proc.name = mv)": true,
	} {
		p, err := Compile(expr)
		if err != nil {
			t.Fatal(err)
		}
		u := p.Unnamed()
		if u == nil || u.Match(e) != want {
			t.Errorf("%s: %v", expr, u)
		}
		if p.Match(e) {
			t.Errorf("%s: accepts what it does not know", expr)
		}
	}
	for _, expr := range []string{"", "evt.type = unlink and proc.name = rm"} {
		if p, err := Compile(expr); err != nil || p.Unnamed() != nil {
			t.Errorf("%s: %v, %v", expr, p.Unnamed(), err)
		}
	}
}
