package event

import (
	"strings"
	"testing"
)

// TestFalcoTable holds the table of Falco's fields against the fields: what it
// says is there, is, in the forms that it has; what is not, is not.
func TestFalcoTable(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range FalcoFields() {
		for _, x := range c.Fields {
			if seen[x.Name] {
				t.Errorf("%s stands twice", x.Name)
			}
			seen[x.Name] = true
			f, ok := Lookup(x.Name)
			if x.Name == "evt.rawarg" {
				f, ok = Lookup("evt.rawarg.fd")
			}
			switch {
			case ok != (x.Why == ""):
				t.Errorf("%s: there is a field: %t", x.Name, ok)
			case ok && FalcoWhy(x.Name) != "":
				t.Errorf("%s: a reason, %q, though it is there", x.Name, FalcoWhy(x.Name))
			case !ok && FalcoWhy(x.Name) != x.Why:
				t.Errorf("%s: the reason is %q", x.Name, FalcoWhy(x.Name))
			case ok && strings.Contains(x.Form, "[n]") && f.Arg == NoArg && x.Name != "proc.args":
				t.Errorf("%s takes no number", x.Name)
			case ok && strings.Contains(x.Form, "[KEY]") && f.Arg != KeyArg:
				t.Errorf("%s takes no key", x.Name)
			}
		}
	}
	if len(seen) < 250 {
		t.Errorf("%d fields", len(seen))
	}
	for name, want := range map[string]string{"k8s.rc.label.app": noMeta, "container.mount.source": noMounts, "container.mount[0]": "", "proc.nam": "", "fd.types": noFDTable} {
		if got := FalcoWhy(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
