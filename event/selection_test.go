package event

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestSelection(t *testing.T) {
	s, err := Select("fd.sport", "evt.type", "proc.aname", "container.label", "fd.sport", "exit.code", "proc.cwd")
	if err != nil {
		t.Fatal(err)
	}
	// In the order asked for, each once; what the event has not is absent.
	const want = `{"fd.sport":443,"evt.type":"connect","proc.aname":["bash","systemd"],"container.label[app]":"shop"}`
	if got := string(s.AppendJSON(nil, sample())); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	ends, err := Select("fd.ip", "fd.port", "fd.typechar")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(ends.AppendJSON(nil, sample())), `{"fd.ip":["10.0.0.1","10.0.0.2"],"fd.port":[4000,443],"fd.typechar":"4"}`; got != want {
		t.Errorf("fields of either end: %s, want %s", got, want)
	}
	listening := &Event{Data: &Connection{Type: "listen", Socket: Socket{Local: netip.MustParseAddr("127.0.0.1"), LocalPort: 80, Server: true}}}
	if got, want := string(ends.AppendJSON(nil, listening)), `{"fd.ip":["127.0.0.1"],"fd.port":[80],"fd.typechar":"4"}`; got != want {
		t.Errorf("fields of the only end: %s, want %s", got, want)
	}
	lost := &Event{Time: time.Unix(1, 0), Data: &Lost{Type: "lost", Count: 3, What: "process.exec", Lane: "critical"}}
	if got, want := string(s.AppendJSON(nil, lost)), string(AppendJSON(nil, lost)); got != want {
		t.Errorf("of what was lost: %s, want all of it: %s", got, want)
	}
	var everything *Selection
	if got, want := string(everything.AppendJSON(nil, sample())), string(AppendJSON(nil, sample())); got != want {
		t.Errorf("without a selection: %s, want %s", got, want)
	}
	var unknown *UnknownFieldError
	if _, err := Select("evt.type", "fd.nmae"); !errors.As(err, &unknown) || unknown.Name != "fd.nmae" {
		t.Errorf("error %v", err)
	}
}

func BenchmarkSelection(b *testing.B) {
	e := sample()
	s, err := Select("evt.type", "evt.time", "proc.pid", "proc.ppid", "proc.name", "proc.cmdline")
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = s.AppendJSON(buf[:0], e)
	}
}
