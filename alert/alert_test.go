package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/event"
	"warren/rule"
)

// fakeSpine hands events to the streams that want them.
type fakeSpine struct {
	mu      sync.Mutex
	seq     uint64
	streams []*fakeStream
	told    []*event.Event
	begun   int // times that Replace was called
}

type fakeStream struct {
	want   Want
	events chan *event.Event
}

func (s *fakeSpine) Replace(old []Stream, with []Want) (list []Stream, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	for _, o := range old {
		o := o.(*fakeStream)
		s.streams = slices.DeleteFunc(s.streams, func(x *fakeStream) bool { return x == o })
		close(o.events)
	}
	for _, w := range with {
		st := &fakeStream{want: w, events: make(chan *event.Event, 1<<16)}
		s.streams = append(s.streams, st)
		list = append(list, st)
	}
	return list, nil
}

func (s *fakeSpine) Tell(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, e)
}

// emit hands an event out, as the pipeline does.
func (s *fakeSpine) emit(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	e.Seq = s.seq
	for _, st := range s.streams {
		if st.want.Kinds.Has(e.Data.Kind()) && st.want.Interest.Match(e) && (st.want.Match == nil || st.want.Match(e)) || e.Data.Kind() == event.KindLost {
			st.events <- e
		}
	}
}

// alerts returns what was told since the last time, by rule and output, sorted.
func (s *fakeSpine) alerts() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.told {
		a := e.Data.(*event.Alert)
		text := a.Rule + ": " + a.Output
		if a.Times != 1 {
			text += fmt.Sprintf(" x%d", a.Times)
		}
		list = append(list, text)
	}
	s.told = nil
	slices.Sort(list)
	return list
}

func (s *fakeStream) Next(ctx context.Context) (*event.Event, error) {
	select {
	case e, ok := <-s.events:
		if !ok {
			return nil, io.EOF
		}
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *fakeStream) Close() {}

// files are rule files that a test changes.
type files struct {
	mu   sync.Mutex
	text string
	err  error
}

func (f *files) set(text string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.err = text, err
}

func (f *files) load() ([]rule.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []rule.File{{Name: "rules.yaml", Text: []byte(f.text)}}, f.err
}

const someRules = `
- rule: shell
  desc: d
  condition: evt.type = execve and proc.name = sh
  output: "%proc.name by %proc.pname"
  priority: WARNING
  tags: [b, a]
- rule: any
  desc: d
  condition: evt.type = execve
  output: "%proc.name"
  priority: NOTICE
- rule: off
  desc: d
  condition: evt.type = execve
  output: o
  priority: NOTICE
  enabled: false
`

func exec(pid uint32, name string) *event.Event {
	e := &event.Event{Time: time.Now(), Actor: event.Key{PID: pid, Start: 1}, Data: &event.Exec{Type: "execve"}}
	e.Process = &event.Process{Key: e.Actor, PID: pid, Name: name, Parent: &event.Process{Name: "parent"}}
	return e
}

// run runs an engine in a bubble of synctest until the test ends it.
func run(t *testing.T, cfg Config) (*Engine, *fakeSpine, func()) {
	spine := &fakeSpine{}
	e, err := New(cfg, spine, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	synctest.Wait()
	return e, spine, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestAlerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: someRules}
		e, spine, stop := run(t, Config{Load: f.load})
		defer stop()
		spine.emit(exec(1, "sh"))
		spine.emit(exec(2, "ls"))
		spine.emit(&event.Event{Data: &event.Exit{}})
		synctest.Wait()
		if got, want := spine.alerts(), []string{"any: ls", "any: sh", "shell: sh by parent"}; !slices.Equal(got, want) {
			t.Errorf("alerts %q, want %q", got, want)
		}
		if st := e.Status(); st.Alerts != 3 || len(st.Rules) != 3 || st.Rules[0].Matches != 1 || st.Rules[1].Matches != 2 || st.Rules[2].Enabled {
			t.Errorf("status %+v", st)
		}
	})
}

func TestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: someRules}
		_, spine, stop := run(t, Config{Load: f.load, First: true, Least: new(rule.Warning)})
		defer stop()
		spine.emit(exec(1, "sh"))
		spine.emit(exec(2, "ls"))
		synctest.Wait()
		if got, want := spine.alerts(), []string{"shell: sh by parent"}; !slices.Equal(got, want) {
			t.Errorf("alerts %q, want %q", got, want)
		}
	})
}

// TestEnd looks at what the stream still has when the engine shall end.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: someRules}
		_, spine, stop := run(t, Config{Load: f.load, Workers: 2})
		begun := time.Now()
		time.AfterFunc(time.Second, func() { // the pipeline takes its time
			for range 100 {
				spine.emit(exec(1, "ls"))
				spine.emit(exec(2, "ls"))
			}
			spine.mu.Lock()
			defer spine.mu.Unlock()
			for _, st := range spine.streams {
				close(st.events)
			}
		})
		stop()
		if n := len(spine.alerts()); n != 200 {
			t.Errorf("%d alerts, want 200", n)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("it ends after %v", took)
		}
		// A stream without an end is left.
		_, _, stop = run(t, Config{Load: f.load})
		begun = time.Now()
		stop()
		if took := time.Since(begun); took != drainTime {
			t.Errorf("without an end it ends after %v", took)
		}
	})
}

// TestReload changes the rules while events come: each event meets the old rules
// or the new ones, and files with mistakes change nothing.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: someRules}
		e, spine, stop := run(t, Config{Load: f.load, Workers: 3})
		defer stop()
		f.set(strings.ReplaceAll(someRules, "proc.name = sh", "proc.nmae = sh"), nil)
		time.Sleep(1500 * time.Millisecond)
		spine.emit(exec(1, "sh"))
		synctest.Wait()
		if got, want := spine.alerts(), []string{"any: sh", "shell: sh by parent"}; !slices.Equal(got, want) {
			t.Errorf("with a broken file: alerts %q, want %q", got, want)
		}
		var bad *BadRulesError
		if st := e.Status(); !errors.As(st.Refused, &bad) || !strings.HasPrefix(bad.Error(), "rules.yaml:4:36: no field proc.nmae (LOAD_ERR_COMPILE_CONDITION)") {
			t.Errorf("refused: %v", st.Refused)
		}
		f.set(someRules, errors.New("read rules.yaml: permission denied"))
		time.Sleep(1500 * time.Millisecond)
		if st := e.Status(); st.Refused == nil || st.Refused.Error() != "read rules.yaml: permission denied" {
			t.Errorf("refused: %v", st.Refused)
		}
		f.set(strings.ReplaceAll(someRules, "proc.name = sh", "proc.name = ls"), nil)
		time.Sleep(1500 * time.Millisecond)
		spine.emit(exec(1, "sh"))
		spine.emit(exec(2, "ls"))
		synctest.Wait()
		if got, want := spine.alerts(), []string{"any: ls", "any: sh", "shell: ls by parent"}; !slices.Equal(got, want) {
			t.Errorf("with other rules: alerts %q, want %q", got, want)
		}
		if st := e.Status(); st.Refused != nil || st.Rules[0].Matches != 1 {
			t.Errorf("status %+v", st)
		}
		if spine.begun != 2 {
			t.Errorf("the streams began %d times, want 2", spine.begun)
		}
	})
}

// TestWorkers compares what one worker and several make of the same events.
func TestWorkers(t *testing.T) {
	var want []string
	for _, workers := range []int{1, 2, 5} {
		synctest.Test(t, func(t *testing.T) {
			f := &files{text: someRules}
			_, spine, stop := run(t, Config{Load: f.load, Workers: workers, Budget: 1 << 20})
			defer stop()
			for i := range 500 {
				spine.emit(exec(uint32(i%37+2), []string{"sh", "ls", "cat"}[i%3]))
			}
			synctest.Wait()
			got := spine.alerts()
			if want == nil {
				want = got
			}
			if len(got) != 667 || !slices.Equal(got, want) {
				t.Errorf("%d workers make %d alerts, one makes %d", workers, len(got), len(want))
			}
		})
	}
}

// TestFlood lets one rule match far too often: the other's alerts come all the
// same, and every match is counted.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: someRules}
		e, spine, stop := run(t, Config{Load: f.load, Workers: 1, Budget: 10})
		defer stop()
		time.Sleep(time.Second)
		for range 1000 {
			spine.emit(exec(1, "ls"))
		}
		spine.emit(exec(1, "sh"))
		synctest.Wait()
		time.Sleep(2 * time.Second)
		got := spine.alerts()
		if !slices.Contains(got, "shell: sh by parent") || !slices.Contains(got, "any: sh x991") || len(got) != 12 {
			t.Errorf("%d alerts: %q", len(got), got)
		}
		if st := e.Status(); st.Rules[1].Matches != 1001 || st.Alerts != 1002 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestLost tells of what was lost before the streams once, though each of them
// tells of it, and of what each lost itself.
func TestLost(t *testing.T) {
	for workers := 1; workers <= 3; workers++ {
		synctest.Test(t, func(t *testing.T) {
			f := &files{text: someRules}
			e, spine, stop := run(t, Config{Load: f.load, Workers: workers})
			defer stop()
			spine.emit(&event.Event{Data: &event.Lost{Count: 3, What: "process.exec", Lane: "critical"}})
			spine.emit(&event.Event{Data: &event.Lost{Count: 4, What: "process.exec", Lane: "critical"}})
			spine.emit(&event.Event{Data: &event.Lost{Count: 5, What: "open", Lane: "queue", Consumer: "rules"}})
			synctest.Wait()
			time.Sleep(2 * time.Second)
			sum := 0
			all := spine.alerts()
			for _, text := range all {
				var n int
				if _, err := fmt.Sscanf(text, LostRule+": %d events", &n); err == nil {
					sum += n
				}
			}
			// Each of what was lost has its own number.
			if !slices.ContainsFunc(all, func(s string) bool {
				return strings.HasPrefix(s, LostRule+": 7 events") && strings.Contains(s, "process.exec (critical)")
			}) {
				t.Errorf("%d workers: %q", workers, all)
			}
			if want := 7 + 5*workers; sum != want || e.Status().Lost != uint64(want) {
				t.Errorf("%d workers: %d events were lost, want %d: %q; %+v", workers, sum, want, all, e.Status())
			}
		})
	}
}

func TestFalcoJSON(t *testing.T) {
	ev := exec(1, "sh")
	ev.Time = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	ev.Data = &event.Alert{Rule: "shell", Priority: "Warning", Source: "syscall", Output: "sh \x1b\n", Fields: `{"proc.name":"sh"}`, Tags: []string{"a", "b"}, ID: "id"}
	got := string(AppendFalco(nil, ev, "host"))
	want := `{"hostname":"host","output":"04:05:06.000000789: Warning sh \u001b\n","output_fields":{"evt.time":1770091506000000789,"proc.name":"sh"},"priority":"Warning","rule":"shell","source":"syscall","tags":["a","b"],"time":"2026-02-03T04:05:06.000000789Z","uuid":"id"}`
	if got != want || !json.Valid([]byte(got)) {
		t.Errorf("%s\nwant %s", got, want)
	}
	ev.Data.(*event.Alert).Fields = "{}"
	if got := AppendFalco(nil, ev, "host"); !json.Valid(got) {
		t.Errorf("%s", got)
	}
	for _, test := range []struct {
		f    Falco
		want string
	}{
		{Falco{NoOutput: true, NoTags: true, NoFields: true}, `{"hostname":"host","priority":"Warning","rule":"shell","source":"syscall","time":"2026-02-03T04:05:06.000000789Z","uuid":"id"}`},
		{Falco{Message: true, ISOTime: true}, `{"hostname":"host","message":"sh \u001b\n","output":"2026-02-03T04:05:06.000000789+0000: Warning sh \u001b\n",` +
			`"output_fields":{"evt.time.iso8601":"2026-02-03T04:05:06.000000789+0000"},"priority":"Warning","rule":"shell","source":"syscall","tags":["a","b"],"time":"2026-02-03T04:05:06.000000789Z","uuid":"id"}`},
	} {
		if got := string(test.f.Append(nil, ev, "host")); got != test.want {
			t.Errorf("%s\nwant %s", got, test.want)
		}
	}
	if a, b := NewID(), NewID(); a == b || len(a) != 36 || a[14] != '4' {
		t.Errorf("ids %s and %s", a, b)
	}
}

// TestFalcoReceivers: whatever alerts, receivers of Falco's JSON find what they want
// of it: falcosidekick refuses an alert without a rule, a time, a priority that it
// knows, or any field, and takes names of namespaces and pods for texts.
func TestFalcoReceivers(t *testing.T) {
	ev := exec(1, "sh")
	for _, a := range []event.Alert{
		{Rule: "r", Priority: rule.Emergency.String(), Source: "syscall", Output: "o", Fields: "{}"},
		{Rule: "r", Priority: rule.Informational.String(), Source: "k8s_audit", Output: "o", Fields: `{"k8s.ns.name":null,"k8s.pod.name":"p"}`, Tags: []string{"a"}},
		{Rule: "r", Priority: rule.Debug.String(), Source: "syscall", Output: "o", Fields: "{}", Times: 7, First: ev.Time, Last: ev.Time},
		{Rule: LostRule, Priority: rule.Warning.String(), Source: "internal", Output: "o", Fields: `{"lost.count":7}`},
	} {
		ev.Data = &a
		var got struct {
			UUID, Output, Priority, Rule, Source, Hostname string
			Time                                           time.Time
			OutputFields                                   map[string]any `json:"output_fields"`
			Tags                                           []string
		}
		d := json.NewDecoder(bytes.NewReader(AppendFalco(nil, ev, "host")))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		_, known := rule.ParsePriority(got.Priority)
		if got.Rule == "" || got.Output == "" || got.Source == "" || got.Hostname == "" || !known || !got.Time.Equal(ev.Time) || len(got.OutputFields) == 0 || got.Tags == nil {
			t.Errorf("%+v", got)
		}
		for _, name := range []string{"k8s.ns.name", "k8s.pod.name"} {
			if v, ok := got.OutputFields[name].(string); !ok && got.OutputFields[name] != nil {
				t.Errorf("%s is %v", name, v)
			}
		}
	}
}

const logins = `
- rule: logins
  desc: a program begins
  condition: evt.type = execve and proc.name = x
  output: "%proc.name in %container.id by %user.uid (pid=%proc.pid at %evt.time)"
  priority: INFO
- rule: other
  desc: the same
  condition: evt.type = execve and user.uid = 7
  output: "%user.uid"
  priority: INFO
`

// TestAggregate tells what is alike once, and then how often it was.
func TestAggregate(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spine := &fakeSpine{}
				f := &files{text: logins}
				added := rule.Config{Add: []rule.Addition{{Fields: []rule.ExtraField{{Name: "who", Format: "%proc.name %proc.pid"}, {Name: "proc.pid"}}}}}
				e, err := New(Config{Load: f.load, Rules: added, Aggregate: time.Minute, Workers: workers}, spine, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- e.Run(ctx) }()
				synctest.Wait()
				pid := uint32(0)
				emit := func(container string, uid uint32) {
					pid++
					p := &event.Process{Key: event.Key{PID: pid, Start: 1}, PID: pid, Name: "x", Creds: event.Creds{UID: uid}}
					if container != "" {
						p.Container = &event.Container{FullID: container + "0", ID: container}
					}
					spine.emit(&event.Event{Time: time.Now(), Actor: p.Key, Process: p, Data: &event.Exec{Type: "execve"}})
				}
				told := func() (list []string) {
					synctest.Wait()
					spine.mu.Lock()
					defer spine.mu.Unlock()
					for _, x := range spine.told {
						a := x.Data.(*event.Alert)
						text, _, _ := strings.Cut(a.Output, " (pid")
						text = fmt.Sprintf("%s: %s x%d", a.Rule, text, a.Times)
						if !a.First.IsZero() {
							text += fmt.Sprintf(" for %v", a.Last.Sub(a.First))
						}
						list = append(list, text)
					}
					spine.told = nil
					slices.Sort(list)
					return list
				}
				equal := func(what string, want ...string) {
					t.Helper()
					if got := told(); !slices.Equal(got, want) {
						t.Errorf("%s: told %q, want %q", what, got, want)
					}
				}
				emit("", 1)
				emit("", 1)
				emit("a", 1)
				emit("b", 1)
				emit("", 7)
				equal("different ones", "logins: x in a by 1 x1", "logins: x in b by 1 x1", "logins: x in host by 1 x1", "logins: x in host by 7 x1", "other: 7 x1")
				for range 20 {
					time.Sleep(time.Second)
					emit("", 1)
					emit("", 7)
				}
				equal("alike")
				time.Sleep(time.Minute)
				equal("the window's end", "logins: x in host by 1 x21 for 20s", "logins: x in host by 7 x20 for 19s", "other: 7 x20 for 19s")
				emit("", 1)
				equal("it goes on")
				time.Sleep(time.Minute)
				equal("the next window", "logins: x in host by 1 x1 for 0s")
				time.Sleep(2 * time.Minute)
				equal("nothing more")
				emit("", 1)
				equal("again", "logins: x in host by 1 x1")
				emit("", 1)
				synctest.Wait()
				cancel()
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				equal("the end", "logins: x in host by 1 x1 for 0s")
				if st := e.Status(); st.Alerts != st.Rules[0].Matches+st.Rules[1].Matches || st.Unlike != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// TestAggregateFlood counts a flood of one rule, and of different alerts, without
// losing another rule's.
func TestAggregateFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spine := &fakeSpine{}
		f := &files{text: logins}
		e, err := New(Config{Load: f.load, Aggregate: time.Minute, Workers: 1, Budget: 200}, spine, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		synctest.Wait()
		emit := func(container, name string, uid uint32) {
			p := &event.Process{Key: event.Key{PID: 1, Start: 1}, PID: 1, Name: name, Creds: event.Creds{UID: uid}, Container: &event.Container{FullID: container, ID: container}}
			spine.emit(&event.Event{Time: time.Now(), Actor: p.Key, Process: p, Data: &event.Exec{Type: "execve"}})
		}
		const all = maxGroups + 100
		for i := range all {
			emit(fmt.Sprint(i), "x", 1)
		}
		for range 3_000 {
			emit("same", "x", 1)
		}
		emit("z", "y", 7)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		var n, other uint64
		for _, x := range spine.told {
			switch a := x.Data.(*event.Alert); a.Rule {
			case "logins":
				n += a.Times
			case "other":
				other += a.Times
			}
		}
		if n != all+3_000 || other != 1 || len(spine.told) > maxGroups {
			t.Errorf("%d and %d events in %d alerts", n, other, len(spine.told))
		}
		if st := e.Status(); st.Unlike == 0 {
			t.Errorf("nothing found no room: %+v", st)
		}
	})
}

// TestAggregateSockets takes a client's port for no difference.
func TestAggregateSockets(t *testing.T) {
	set, _ := rule.Load([]rule.File{{Name: "r.yaml", Text: []byte("- rule: r\n  desc: d\n  condition: evt.type = connect\n  output: '%fd.name %fd.lport %fd.rport'\n  priority: INFO\n")}}, rule.Config{})
	n := newNoise(time.Minute, set)
	connect := func(from, to string) bool {
		c := &event.Connection{Type: "connect"}
		c.Local, c.Remote = netip.MustParseAddrPort(from).Addr(), netip.MustParseAddrPort(to).Addr()
		c.LocalPort, c.RemotePort = netip.MustParseAddrPort(from).Port(), netip.MustParseAddrPort(to).Port()
		_, again := n.add(nil, set.Rules[0], &event.Event{Time: time.Unix(1, 0), Data: c}, time.Unix(1, 0))
		return again
	}
	if connect("10.0.0.1:4000", "10.0.0.2:443") || !connect("10.0.0.1:4001", "10.0.0.2:443") || connect("10.0.0.1:4000", "10.0.0.2:80") || connect("10.0.0.1:4000", "10.0.0.3:443") {
		t.Error("who talks to whom is told wrong")
	}
}

// TestSources shows rules the events of their own source, and no others.
func TestSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: someRules + `
- rule: request
  desc: d
  condition: ka.verb = get
  output: "%ka.user.name"
  priority: NOTICE
  source: k8s_audit
- rule: no request
  desc: d
  condition: evt.type = audit
  output: o
  priority: NOTICE
`}
		e, spine, stop := run(t, Config{Load: f.load, Workers: 4})
		defer stop()
		<-e.Began()
		spine.emit(exec(1, "ls"))
		for i := range 3 {
			ev, err := event.ParseAudit(fmt.Appendf(nil, `{"auditID":"a%d","verb":"get","user":{"username":"ann"},"stageTimestamp":"2026-11-21T10:00:00.5Z"}`, i))
			if err != nil {
				t.Fatal(err)
			}
			spine.emit(ev)
		}
		synctest.Wait()
		spine.mu.Lock()
		for _, a := range spine.told {
			if want := map[bool]string{true: "k8s_audit", false: "syscall"}[a.Data.(*event.Alert).Rule == "request"]; a.Data.(*event.Alert).Source != want {
				t.Errorf("%+v", a.Data)
			}
		}
		spine.mu.Unlock()
		if got, want := spine.alerts(), []string{"any: ls", "request: ann", "request: ann", "request: ann"}; !slices.Equal(got, want) {
			t.Errorf("alerts %q, want %q", got, want)
		}
	})
}
