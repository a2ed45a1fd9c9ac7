package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"warren/event"
	"warren/filter"
	"warren/internal/testkit"
)

// A fakeHistory keeps events in memory. Those of an earlier run come first.
type fakeHistory struct {
	mu      sync.Mutex
	earlier []*event.Event
	events  []*event.Event
	waiting []*event.Event // published and not kept yet
	procs   []*event.Process
	status  HistoryStatus
	spoilt  int // segments that a question finds broken
	err     error
	asked   []PastQuestion
	pruned  time.Time
}

func newFakeHistory(events ...*event.Event) *fakeHistory {
	return &fakeHistory{events: events, status: HistoryStatus{Dir: "/h", Kinds: []string{"exec", "exit", "connection", "dns", "lost"}, Oldest: time.Unix(9e8, 0), Newest: time.Unix(1e9, 9), Segments: []HistorySegments{}}}
}

// put publishes an event to the history, which keeps it later.
func (h *fakeHistory) put(e *event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = append(h.waiting, e)
}

// keep keeps some of what waits.
func (h *fakeHistory) keep(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n = min(n, len(h.waiting))
	h.events = append(h.events, h.waiting[:n]...)
	h.waiting = h.waiting[n:]
}

func (h *fakeHistory) Sync(context.Context) (uint64, error) {
	h.keep(1 << 30)
	h.mu.Lock()
	defer h.mu.Unlock()
	cut := uint64(0)
	for _, e := range h.events {
		cut = max(cut, e.Seq)
	}
	return cut, h.err
}

func (h *fakeHistory) Events(_ context.Context, q PastQuestion) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		h.mu.Lock()
		h.asked = append(h.asked, q)
		h.status.Broken = h.spoilt
		all := slices.Clone(h.events)
		if q.After == 0 {
			all = append(slices.Clone(h.earlier), all...)
		}
		run := len(all) - len(h.events)
		h.mu.Unlock()
		var list []*event.Event
		for i, e := range all {
			k := e.Data.Kind()
			if i >= run && (e.Seq <= q.After || q.UpTo > 0 && e.Seq > q.UpTo) || !q.Since.IsZero() && e.Time.Before(q.Since) || !q.Until.IsZero() && !e.Time.Before(q.Until) {
				continue
			}
			if q.Kinds != 0 && !q.Kinds.Has(k) || q.Filter != nil && !q.Filter.Match(e) && k != event.KindLost {
				continue
			}
			list = append(list, e)
		}
		slices.SortStableFunc(list, func(a, b *event.Event) int { return a.Time.Compare(b.Time) })
		if q.Limit > 0 && len(list) > q.Limit {
			if q.Newest {
				list = list[len(list)-q.Limit:]
			} else {
				list = list[:q.Limit]
			}
		}
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
		if h.err != nil {
			yield(nil, h.err)
		}
	}
}

func (h *fakeHistory) Processes(_ context.Context, at time.Time) iter.Seq2[*event.Process, error] {
	return func(yield func(*event.Process, error) bool) {
		for _, p := range h.procs {
			if !p.StartTime.After(at) && !yield(p, nil) {
				return
			}
		}
	}
}

func (h *fakeHistory) Status() HistoryStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

func (h *fakeHistory) Export(ctx context.Context, w io.Writer, q PastQuestion) (n int64, err error) {
	err = each(h.Events(ctx, q), func(*event.Event) error { n++; return nil })
	if err != nil {
		return n, err
	}
	_, err = fmt.Fprintf(w, "PAR1%dPAR1", n)
	return n, err
}

func (h *fakeHistory) Prune(_ context.Context, before time.Time) (Pruned, error) {
	h.pruned = before
	return Pruned{Segments: 2, Bytes: 3, Before: before}, h.err
}

// pastDay is what the fake remembers, in the order of time.
func pastDay(f *fake) []*event.Event {
	list := slices.Clone(f.recent)
	c := *list[2]
	c.Time = time.Unix(1e9, 3)
	list[2] = &c
	return list
}

// Questions about the past are answered by the history alone.
func TestPastEvents(t *testing.T) {
	f := newFake()
	h := newFakeHistory(pastDay(f)...)
	f.recent = nil
	c, _ := listen(t, f, Config{History: h})
	ctx := t.Context()
	begin := time.Unix(1e9, 2)
	all := []string{"exec bash", "exec curl", "connection curl", "dns curl", "exit old"}
	for _, tt := range []struct {
		q    Question
		want []string
	}{
		{Question{Since: begin.Add(-time.Hour)}, all},
		{Question{Since: begin}, all[1:]},
		{Question{Until: begin}, all[:1]},
		{Question{Since: begin, Until: begin.Add(3)}, all[1:4]},
		{Question{Since: begin, Limit: 2}, all[3:]},
		{Question{Since: begin, Filter: "proc.name = curl"}, all[1:4]},
		{Question{Limit: 2}, all[3:]},
	} {
		equal(t, names(t, c.Recent(ctx, tt.q)), tt.want)
	}
	for target, want := range map[string]string{
		"/v1/events?since=1h&until=2h":                   "is not before until",
		"/v1/events?since=soon":                          "is no moment",
		"/v1/events?since=2100-01-01":                    "future",
		"/v1/events?until=1h&follow=true":                "until ends an answer",
		"/v1/events?since=1h&filter=evt.kind%20=%20open": "the history has no events of kind open",
		"/v1/processes?at=1h&exited=true":                "leave out exited",
		"/v1/flows?since=1h":                             "unknown parameter",
	} {
		w := httptest.NewRecorder()
		newServer(f, Config{History: h}).ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		if w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %q", target, w.Code, w.Body, want)
		}
	}
	for _, target := range []string{"/v1/events?since=1h", "/v1/events?since=1h&follow=true", "/v1/connections?since=1h", "/v1/processes?at=1h", "/v1/history"} {
		w := httptest.NewRecorder()
		newServer(f, Config{}).ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		if w.Code != 503 || !strings.Contains(w.Body.String(), "keeps no history") {
			t.Errorf("%s without a history: %d %s", target, w.Code, w.Body)
		}
	}
}

// A time in which nothing was kept is told among the events, and by the history's state.
func TestGapsAreTold(t *testing.T) {
	f := newFake()
	from := time.Unix(1e9, 4).UTC()
	gap := &event.Event{Time: from, Seq: 1, Data: &event.Lost{Type: "lost", Lane: "agent", Until: from.Add(time.Minute)}}
	h := newFakeHistory(append(pastDay(f), gap, &event.Event{Time: from, Data: &event.Lost{Type: "lost", Count: 3, Lane: "bulk"}})...)
	f.recent = nil
	ask := func(target string) string {
		w := httptest.NewRecorder()
		newServer(f, Config{History: h}).ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		if w.Code != 200 {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
		return w.Body.String()
	}
	var st HistoryStatus
	if err := json.Unmarshal([]byte(ask("/v1/history")), &st); err != nil {
		t.Fatal(err)
	}
	if want := []HistoryGap{{From: from, To: from.Add(time.Minute)}}; !slices.Equal(st.Gaps, want) {
		t.Errorf("gaps %v, want %v", st.Gaps, want)
	}
	for _, path := range []string{"events", "connections"} {
		if got := ask("/v1/" + path + "?since=2001-09-01&until=2002-01-01&filter=fd.rport=443"); strings.Count(got, `"lost.until":"2001-09-09T01:47:40.000000004Z"`) != 1 {
			t.Errorf("%s do not tell of the gap: %s", path, got)
		}
	}
}

// TestManyGaps: of an agent that is started again and again, an answer has the last gaps.
func TestManyGaps(t *testing.T) {
	f := newFake()
	var gaps []*event.Event
	for i := range 2*mostGaps + 500 {
		at := time.Unix(1e9+int64(i), 0).UTC()
		gaps = append(gaps, &event.Event{Time: at, Seq: 1, Data: &event.Lost{Type: "lost", Lane: "agent", Until: at.Add(time.Second)}})
	}
	s := newServer(f, Config{History: newFakeHistory(gaps...)})
	for _, target := range []string{"/v1/history", "/v1/who?to=192.0.2.1"} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		var got struct {
			Gaps []HistoryGap `json:"gaps"`
			More int          `json:"more_gaps"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %v", target, w.Code, err)
		}
		if len(got.Gaps) != mostGaps || got.More != mostGaps+500 || !got.Gaps[mostGaps-1].From.Equal(gaps[len(gaps)-1].Time) {
			t.Errorf("%s tells of %d gaps and %d more", target, len(got.Gaps), got.More)
		}
	}
}

// An answer that breaks off does not look whole; one that never began says why.
func TestPastFails(t *testing.T) {
	f := newFake()
	h := newFakeHistory(f.recent...)
	h.err = errors.New("segment 7 cannot be read")
	c, _ := listen(t, f, Config{History: h})
	for _, follow := range []bool{false, true} {
		ask := c.Recent
		if follow {
			ask = c.Events
		}
		var err error
		for _, e := range ask(t.Context(), Question{Since: time.Unix(1e9, 0)}) {
			err = e
		}
		if err == nil || !strings.Contains(err.Error(), "segment 7") {
			t.Errorf("follow %v: %v", follow, err)
		}
	}
}

// The last events are those that are remembered, and before them those on disk.
func TestLastEvents(t *testing.T) {
	f := newFake()
	all := pastDay(f)
	f.recent = all[3:]
	c, _ := listen(t, f, Config{History: newFakeHistory(all...)})
	want := []string{"exec bash", "exec curl", "connection curl", "dns curl", "exit old"}
	for limit := 1; limit <= 5; limit++ {
		equal(t, names(t, c.Recent(t.Context(), Question{Limit: limit})), want[5-limit:])
	}
	equal(t, names(t, c.Recent(t.Context(), Question{Limit: 9})), want)
	equal(t, names(t, c.Recent(t.Context(), Question{})), want[3:])
}

// A bus publishes events as the pipeline does: in the order of their numbers, but
// for some that wait.
type bus struct {
	*fake
	mu      sync.Mutex
	seq     uint64
	held    []*event.Event
	history *fakeHistory
}

func (b *bus) Seq() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seq
}

func (b *bus) Settled() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.seq
	for _, e := range b.held {
		s = min(s, e.Seq-1)
	}
	return s
}

func (b *bus) Subscribe(who string, wanted *filter.Program, among event.KindSet) (Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &fakeStream{who, wanted.Match, wanted.Kinds() & among, make(chan *event.Event, 1<<20), make(chan struct{}), nil}
	b.streams = append(b.streams, s)
	return s, nil
}

// emit publishes an event, or lets it wait.
func (b *bus) emit(e *event.Event, wait bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq++
	e.Seq, e.Ktime = b.seq, b.seq*10
	if wait {
		b.held = append(b.held, e)
		return
	}
	b.publish(e)
}

// letOn publishes what waits.
func (b *bus) letOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.held {
		b.publish(e)
	}
	b.held = nil
}

func (b *bus) publish(e *event.Event) {
	b.history.put(e)
	b.fake.send(e)
}

// While events come in a flood, a stream that begins in the past tells each once:
// none is left out, and none twice.
func TestSeam(t *testing.T) {
	const most = 60_000
	for round := range 6 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			f := newFake()
			h := newFakeHistory()
			for i := range 100 { // of an earlier run, with the same numbers
				h.earlier = append(h.earlier, &event.Event{Time: time.Unix(9e8, int64(i)), Seq: uint64(i*700 + 1), Ktime: 1, Process: f.procs[0], Data: &event.Exit{Type: "procexit"}})
			}
			b := &bus{fake: f, history: h}
			path := filepath.Join(t.TempDir(), "s")
			l, err := ListenUnix(path)
			if err != nil {
				t.Fatal(err)
			}
			server := New(Config{History: h}, b, f, f, slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- server.Serve(ctx, l) }()
			defer func() { cancel(); <-ended }()

			random := rand.New(rand.NewPCG(uint64(round), 7))
			flood := make(chan struct{})
			go func() {
				defer close(flood)
				begin := time.Unix(1e9, 0)
				for i := range most {
					kind := event.Data(&event.Exec{Type: "execve"})
					if i%3 == 0 {
						kind = &event.Exit{Type: "procexit"}
					}
					b.emit(&event.Event{Time: begin.Add(time.Duration(i)), Process: f.procs[2], Data: kind}, random.IntN(50) == 0)
					switch random.IntN(40) {
					case 0:
						b.letOn()
					case 1, 2, 3:
						h.keep(random.IntN(100))
					}
				}
				b.letOn()
			}()
			if round%2 == 1 {
				testkit.Wait(t, "half of the flood", func() bool { return b.Seq() > most/2 })
			}
			seen := map[uint64]int{}
			earlier, last := 0, uint64(0)
			follow, stop := context.WithCancel(t.Context())
			defer stop()
			for line, err := range NewClient(path).Events(follow, Question{Since: time.Unix(8e8, 0), Filter: "evt.kind in (exec, exit)"}) {
				if err != nil {
					if follow.Err() == nil {
						t.Error(err)
					}
					break
				}
				var e struct {
					Num  uint64    `json:"evt.num"`
					Time time.Time `json:"evt.time"`
				}
				if err := json.Unmarshal(line, &e); err != nil {
					t.Fatal(err)
				}
				if e.Time.Before(time.Unix(95e7, 0)) {
					earlier++
					continue
				}
				seen[e.Num]++
				last = max(last, e.Num)
				if len(seen) == most {
					stop()
				}
			}
			<-flood
			if earlier != 100 {
				t.Errorf("%d events of an earlier run, want 100", earlier)
			}
			for n := uint64(1); n <= most; n++ {
				if seen[n] != 1 {
					t.Fatalf("event %d of %d was told %d times", n, last, seen[n])
				}
			}
		})
	}
}

// A limit counts over the seam.
func TestSeamLimit(t *testing.T) {
	f := newFake()
	h := newFakeHistory(f.recent...)
	c, _ := listen(t, f, Config{History: h})
	equal(t, len(names(t, c.Events(t.Context(), Question{Since: time.Unix(9e8, 0), Limit: 3}))), 3)
	done := make(chan []string)
	go func() { done <- names(t, c.Events(t.Context(), Question{Since: time.Unix(9e8, 0), Limit: 7})) }()
	f.stream(t, 0)
	for i := range 3 {
		f.send(&event.Event{Time: time.Unix(1e9, 9), Seq: uint64(6 + i), Process: f.procs[0], Data: &event.Exec{Type: "execve"}})
	}
	if got := <-done; len(got) != 7 || got[6] != "exec init" {
		t.Errorf("%q", got)
	}
}

func TestPastConnections(t *testing.T) {
	f := newFake()
	change := func(cookie uint64, kind string, sec int64, state event.TCPState, change func(*event.Connection)) *event.Event {
		c := &event.Connection{Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("203.0.113.7"), LocalPort: uint16(1000 + cookie), RemotePort: 443, L4: event.TCP, Cookie: cookie}, Type: kind, State: state, Start: time.Unix(1e9, 0).Add(time.Duration(cookie))}
		if change != nil {
			change(c)
		}
		return &event.Event{Time: time.Unix(1e9+sec, 0), Seq: uint64(sec), Process: f.procs[3], Actor: f.procs[3].Key, Data: c}
	}
	sent := func(n uint64) func(*event.Connection) { return func(c *event.Connection) { c.BytesSent = n } }
	h := newFakeHistory(
		change(1, "connect", 1, event.Established, nil), change(1, "close", 9, event.Close, sent(100)), // begun and ended
		change(2, "connect", 2, event.Established, nil), change(2, "update", 5, event.Established, sent(5)), // its end is not known
		change(3, "connect", 3, event.Established, nil),                                              // goes on: the table knows more
		change(4, "connect", 4, event.Established, nil), change(4, "close", 6, event.Close, sent(7)), // both know its end
	)
	f.conns = []*event.Event{change(3, "update", 20, event.Established, sent(33)), change(4, "close", 6, event.Close, sent(7)), change(5, "update", 20, event.Established, sent(55)), change(6, "close", -50, event.Close, sent(66))}
	c, _ := listen(t, f, Config{History: h})
	rows := func(q Question) []string {
		t.Helper()
		var got []string
		for line, err := range c.Connections(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			var r struct {
				Port  int    `json:"fd.lport"`
				State string `json:"conn.state"`
				Sent  uint64 `json:"conn.bytes_sent"`
			}
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(r.Port-1000, " ", r.State, " ", r.Sent))
		}
		slices.Sort(got)
		return got
	}
	since := time.Unix(1e9, 0)
	equal(t, rows(Question{Since: since}), []string{"1 CLOSED 100", "2 ESTAB 5", "3 ESTAB 33", "4 CLOSED 7", "5 ESTAB 55"})
	equal(t, rows(Question{Since: since, Until: since.Add(7 * time.Second)}), []string{"1 ESTAB 0", "2 ESTAB 5", "3 ESTAB 0", "4 CLOSED 7"})
	equal(t, rows(Question{Since: since, Filter: "conn.state = CLOSED"}), []string{"1 CLOSED 100", "4 CLOSED 7"})
	equal(t, rows(Question{Since: since, Filter: "proc.name = nobody"}), []string(nil))
	if q := h.asked[len(h.asked)-1]; q.Filter == nil {
		t.Error("who it was is asked of each event")
	}
}

func TestProcessesAt(t *testing.T) {
	f := newFake()
	h := newFakeHistory()
	h.procs = []*event.Process{f.procs[3], f.procs[0]}
	c, _ := listen(t, f, Config{History: h})
	equal(t, names(t, c.Processes(t.Context(), Question{At: time.Unix(1e9+300, 0)})), []string{"process init", "process curl"})
	equal(t, names(t, c.Processes(t.Context(), Question{At: time.Unix(1e9+100, 0)})), []string{"process init"})
	for line := range c.Processes(t.Context(), Question{At: time.Unix(1e9+31, 5), Fields: []string{"proc.duration", "evt.time"}}) {
		if !strings.Contains(string(line), `"proc.duration":30000000000`) {
			t.Errorf("half a minute after its start: %s", line)
		}
	}
	for _, err := range c.Processes(t.Context(), Question{At: time.Unix(8e8, 0)}) {
		if err == nil || !strings.Contains(err.Error(), "the history begins at") {
			t.Errorf("before the history: %v", err)
		}
	}
}

func TestExport(t *testing.T) {
	f := newFake()
	h := newFakeHistory(pastDay(f)...)
	c, _ := listen(t, f, Config{History: h})
	body, err := c.ExportHistory(t.Context(), Question{Filter: "proc.name = curl", Since: time.Unix(1e9, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || string(b) != "PAR13PAR1" {
		t.Errorf("%q, %v", b, err)
	}
	h.err = errors.New("segment 7")
	if _, err := c.ExportHistory(t.Context(), Question{}); err == nil || !strings.Contains(err.Error(), "segment 7") {
		t.Errorf("%v", err)
	}
}

func TestPrune(t *testing.T) {
	f := newFake()
	h := newFakeHistory()
	c, _ := listen(t, f, Config{History: h})
	before := time.Unix(95e7, 0)
	done, err := c.PruneHistory(t.Context(), before)
	if err != nil || done.Segments != 2 || !h.pruned.Equal(before) {
		t.Errorf("%+v, %v, %v", done, err, h.pruned)
	}
	p := newServer(f, Config{History: h}).pruner(http.NotFoundHandler())
	for _, tt := range []struct {
		method, body string
		status       int
	}{{"GET", "", 405}, {"POST", "", 400}, {"POST", "{}", 400}, {"POST", `{"before":"x"}`, 400}, {"POST", `{"before":"2001-01-01T00:00:00Z"}`, 200}} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(tt.method, pruneRoute, strings.NewReader(tt.body)))
		if w.Code != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.body, w.Code, w.Body)
		}
	}
	p.s.cfg.History = nil
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("POST", pruneRoute, strings.NewReader(`{"before":"2001-01-01T00:00:00Z"}`)))
	if w.Code != 503 {
		t.Errorf("without a history: %d", w.Code)
	}
	// Over TCP nobody takes anything away.
	w = httptest.NewRecorder()
	local(newServer(f, Config{History: h}), addr{}).ServeHTTP(w, httptest.NewRequest("POST", "http://localhost"+pruneRoute, strings.NewReader(`{"before":"2001-01-01T00:00:00Z"}`)))
	if w.Code == 200 {
		t.Error("history is taken away over TCP")
	}
}
