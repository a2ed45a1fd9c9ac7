package cli

import (
	"slices"
	"testing"
	"time"

	"warren/event"
)

// TestTablesAskForWhatTheyShow makes each row twice: of all fields, and of those
// that the table asks the agent for.
func TestTablesAskForWhatTheyShow(t *testing.T) {
	chosen, err := parseColumns("proc.aname[0],proc.aname,fd.ip,fd.port[1],container.label[x],evt.time")
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return now }
	streams := map[string]streamTable{
		"columns": &fieldTable{chosen: chosen, now: clock},
	}
	lists := map[string]*processTable{}
	for name, yes := range map[string]bool{"": false, ", wide": true} {
		streams["events"+name] = &eventTable{wide: yes, now: clock}
		streams["connections"+name] = &connectionTable{wide: yes, now: clock}
		streams["connections as they change"+name] = &connectionTable{wide: yes, follow: true, now: clock}
		lists["processes"+name] = &processTable{wide: yes, exited: true, now: now}
	}
	check := func(name string, fields []string, row func(*record) []cell, lines [][]byte) {
		t.Helper()
		for _, line := range lines {
			var all, some record
			if err := all.parse(line); err != nil {
				t.Fatal(err)
			}
			if err := some.parse(all.appendJSON(nil, func(key string) bool { return slices.Contains(fields, fieldOf(key)) })); err != nil {
				t.Fatal(err)
			}
			if want, got := row(&all), row(&some); !slices.Equal(got, want) {
				t.Errorf("%s: of all fields\n%v\nof those asked for\n%v\nof %s", name, want, got, line)
			}
		}
	}
	m := newMachine()
	for name, st := range streams {
		kinds := event.AllKinds &^ event.NoticeKinds &^ event.StateKinds
		samples := m.events
		if _, ok := st.(*connectionTable); ok {
			kinds, samples = event.Kinds(event.KindConnection), m.connections
		}
		check(name, st.fields(), st.row, linesOf(kinds, samples))
	}
	var states []*event.Event
	for _, p := range []*event.Process{m.systemd, m.kthread, m.curl, m.memfd, m.failed, m.webapp} {
		states = append(states, p.State(now, ktime(now)))
	}
	for name, pt := range lists {
		check(name, pt.fields(), pt.row, linesOf(event.Kinds(event.KindProcess), states))
	}
}

// linesOf returns events as the agent tells them, and others with a value in
// every field of their kinds.
func linesOf(kinds event.KindSet, samples []*event.Event) [][]byte {
	var lines [][]byte
	for _, e := range samples {
		if !event.NoticeKinds.Has(e.Data.Kind()) {
			lines = append(lines, event.AppendJSON(nil, e))
		}
	}
	for _, text := range []string{"plain", "true", "SUCCESS"} {
		h := hostile{text: text}
		for _, k := range kinds.List() {
			for _, typ := range k.Types() {
				lines = append(lines, h.record(k, typ))
			}
		}
	}
	return lines
}
