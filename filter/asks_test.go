package filter_test

import (
	"testing"

	"warren/event"
	"warren/filter"
)

func TestAsked(t *testing.T) {
	all := event.AllKinds
	usual := all &^ event.OnDemandKinds
	for _, tt := range []struct {
		expr string
		want event.KindSet
	}{
		{"", usual},
		{"proc.name = nginx", usual},
		{"not proc.name = nginx and user.uid = 0", usual},
		{"tolower(proc.name) = nginx", usual},
		{"evt.kind exists", all},
		{"proc.name = nginx and evt.kind exists", all},
		{"not evt.kind = exec", all &^ event.Kinds(event.KindExec)},
		{"evt.type = openat", event.Kinds(event.KindOpen)},
		{"basename(fd.nameraw) = x", event.Kinds(event.KindOpen)},
		{"proc.name = cat and evt.is_open_read = true", event.Kinds(event.KindOpen)},
		{"evt.kind = exec", event.Kinds(event.KindExec)},
	} {
		p, err := filter.Compile(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Asked(); got != tt.want {
			t.Errorf("%q asks for %s, want %s", tt.expr, got, tt.want)
		}
	}
}
