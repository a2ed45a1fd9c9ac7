package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/alert"
	"warren/event"
)

// A receiver takes alerts as a test wants it.
type receiver struct {
	mu     sync.Mutex
	got    []string // outputs of what was taken
	answer func(output string) error
	hang   chan struct{} // closed to let a send return that ignores its context
	opened int
	closed int
}

func (r *receiver) send(ctx context.Context, alerts [][]byte) (int, error) {
	if r.hang != nil {
		<-r.hang
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, a := range alerts {
		text := outputOf(a)
		if r.answer != nil {
			if err := r.answer(text); err != nil {
				return i, err
			}
		}
		r.got = append(r.got, text)
	}
	return len(alerts), nil
}

func (r *receiver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed++
}

func (r *receiver) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// outputOf is what stands behind time and priority.
func outputOf(alert []byte) string {
	var of struct{ Output, Priority string }
	if err := json.Unmarshal(alert, &of); err != nil {
		return string(alert)
	}
	_, text, _ := strings.Cut(of.Output, of.Priority+" ")
	return text
}

// testSet opens channels whose type is "test", each with its receiver.
func testSet(t *testing.T, dir string, receivers map[string]*receiver, configs ...Config) *Set {
	t.Helper()
	s := &Set{env: Env{Dir: dir, Hostname: "here", Version: "v1", Log: slog.New(slog.DiscardHandler)}}
	s.kinds = map[string]kind{"test": {most: 4, to: func(*Config) string { return "" }, open: func(c *Config, _ *Env) (sender, error) {
		r := receivers[c.Name]
		r.mu.Lock()
		defer r.mu.Unlock()
		r.opened++
		return r, nil
	}}}
	for i := range configs {
		configs[i].Type = "test"
	}
	if err := s.Replace(configs, alert.Falco{}); err != nil {
		t.Fatal(err)
	}
	return s
}

func alertEvent(output, priority string, tags ...string) *event.Event {
	return &event.Event{Time: time.Now(), Data: &event.Alert{Type: "alert", Rule: "r", Priority: priority, Source: "syscall", Output: output, Fields: "{}", Tags: tags, ID: "id"}}
}

func offer(s *Set, from, to int) {
	for i := from; i < to; i++ {
		s.Offer(alertEvent(strconv.Itoa(i), "Warning"))
	}
}

func texts(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}

func one(s *Set, name string) Status {
	list, _ := s.Status()
	return list[slices.IndexFunc(list, func(c Status) bool { return c.Name == name })]
}

func TestFilterAndPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, bad, shop := &receiver{}, &receiver{}, &receiver{}
		s := testSet(t, t.TempDir(), map[string]*receiver{"all": all, "bad": bad, "shop": shop},
			Config{Name: "all"}, Config{Name: "bad", Priority: "error"}, Config{Name: "shop", Filter: "alert.tags intersects (shop)"})
		s.Offer(alertEvent("a", "Warning"))
		s.Offer(alertEvent("b", "Critical", "shop", "x"))
		s.Offer(&event.Event{Data: &event.Exit{}})
		s.Offer(&event.Event{Data: &event.Lost{Count: 7}})
		synctest.Wait()
		if a, b, c := all.all(), bad.all(), shop.all(); !slices.Equal(a, []string{"a", "b"}) || !slices.Equal(b, []string{"b"}) || !slices.Equal(c, []string{"b"}) {
			t.Errorf("all %v, bad %v, shop %v", a, b, c)
		}
		if _, lost := s.Status(); lost != 7 {
			t.Errorf("lost %d", lost)
		}
		s.Close()
		if s.Offer(alertEvent("c", "Critical")); all.opened != 1 || all.closed != 1 {
			t.Errorf("opened %d times, closed %d", all.opened, all.closed)
		}
	})
}

// TestRetry tries again, ever later, in order, and nothing is lost.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		var tries []time.Time
		r.answer = func(string) error {
			if tries = append(tries, time.Now()); len(tries) <= 8 {
				return errors.New("not now")
			}
			return nil
		}
		s := testSet(t, t.TempDir(), map[string]*receiver{"c": r}, Config{Name: "c", Retry: time.Second, MaxRetry: 10 * time.Second})
		defer s.Close()
		offer(s, 0, 10)
		synctest.Wait()
		if st := one(s, "c"); st.Error != "not now" || st.Failing.IsZero() || st.Waiting != 10 || st.Sent != 0 || st.Retried != 1 {
			t.Errorf("status %+v", st)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := r.all(); !slices.Equal(got, texts(0, 10)) {
			t.Errorf("got %v", got)
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
			want *= time.Second
			if d := tries[i+1].Sub(tries[i]); d < want || d > want*5/4+time.Millisecond {
				t.Errorf("pause %d: %v, want %v", i, d, want)
			}
		}
		if st := one(s, "c"); st.Error != "" || !st.Failing.IsZero() || st.Waiting != 0 || st.Sent != 10 || st.Retried != 8 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestRetryAfter waits as long as the receiver asks, but not for ever.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		var tries []time.Time
		r.answer = func(string) error {
			switch tries = append(tries, time.Now()); len(tries) {
			case 1:
				return &laterError{errors.New("later"), 90 * time.Second}
			case 2:
				return &laterError{errors.New("much later"), 1000 * time.Hour}
			}
			return nil
		}
		s := testSet(t, t.TempDir(), map[string]*receiver{"c": r}, Config{Name: "c"})
		defer s.Close()
		offer(s, 0, 1)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if a, b := tries[1].Sub(tries[0]), tries[2].Sub(tries[1]); len(tries) != 3 || a < 90*time.Second || a > 2*time.Minute || b < maxWait || b > maxWait*5/4+time.Second {
			t.Errorf("waited %v and %v", a, b)
		}
	})
}

// TestRefused puts aside what will never be taken, and goes on.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := &receiver{answer: func(text string) error {
			switch text {
			case "3":
				return &refusedError{errors.New("too spicy")}
			case "5":
				return errors.New("always fails")
			}
			return nil
		}}
		s := testSet(t, dir, map[string]*receiver{"c": r}, Config{Name: "c", GiveUp: time.Hour})
		defer s.Close()
		offer(s, 0, 7)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got, want := r.all(), []string{"0", "1", "2", "4", "6"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		st := one(s, "c")
		if st.Dead != 2 || st.Sent != 5 || st.Waiting != 0 {
			t.Errorf("status %+v", st)
		}
		b, err := os.ReadFile(filepath.Join(dir, "c", "dead.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		var letters []string
		for line := range strings.Lines(string(b)) {
			var l deadLetter
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			letters = append(letters, l.Error+": "+outputOf(l.Alert))
		}
		if want := []string{"too spicy: 3", "not taken for 1h0m0s: always fails: 5"}; !slices.Equal(letters, want) {
			t.Errorf("dead letters %q, want %q", letters, want)
		}
	})
}

// TestHang has one receiver that does not return, whatever it is told: no other
// waits for it, and when it does return, nothing is sent twice.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := &receiver{hang: make(chan struct{})}, &receiver{}
		s := testSet(t, t.TempDir(), map[string]*receiver{"bad": bad, "good": good}, Config{Name: "bad"}, Config{Name: "good"})
		offer(s, 0, 10)
		synctest.Wait()
		if got := good.all(); !slices.Equal(got, texts(0, 10)) {
			t.Errorf("good got %v", got)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := one(s, "bad"); st.Error != errStuck.Error() || st.Waiting != 10 {
			t.Errorf("status %+v", st)
		}
		if err := s.Test(t.Context(), "bad"); !errors.Is(err, errStuck) {
			t.Errorf("a test of it: %v", err)
		}
		close(bad.hang)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := bad.all(); !slices.Equal(got, texts(0, 10)) {
			t.Errorf("bad got %v", got)
		}
		if st := one(s, "bad"); st.Error != "" || st.Sent != 10 || bad.opened != 1 {
			t.Errorf("status %+v, opened %d times", st, bad.opened)
		}
		s.Close()
	})
}

// TestHangAtTheEnd ends though a receiver does not return; what it was given waits
// for the next agent.
func TestHangAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		bad := &receiver{hang: make(chan struct{})}
		s := testSet(t, dir, map[string]*receiver{"c": bad}, Config{Name: "c"})
		offer(s, 0, 10)
		synctest.Wait()
		begun := time.Now()
		s.Close()
		if d := time.Since(begun); d > closeGrace {
			t.Errorf("closing took %v", d)
		}
		next := &receiver{}
		s = testSet(t, dir, map[string]*receiver{"c": next}, Config{Name: "c"})
		offer(s, 10, 12)
		synctest.Wait()
		if got := next.all(); !slices.Equal(got, texts(0, 12)) {
			t.Errorf("got %v", got)
		}
		close(bad.hang)
		s.Close()
		if synctest.Wait(); bad.closed != 1 {
			t.Errorf("the sender that was stuck was closed %d times", bad.closed)
		}
	})
}

// TestHangAndGiveUp does not give up what a receiver still has: it may be taken.
func TestHangAndGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := &receiver{hang: make(chan struct{})}
		s := testSet(t, t.TempDir(), map[string]*receiver{"c": bad}, Config{Name: "c", GiveUp: time.Second})
		defer s.Close()
		offer(s, 0, 10)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := one(s, "c"); st.Dead != 0 || st.Waiting != 10 {
			t.Errorf("status %+v", st)
		}
		close(bad.hang)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := one(s, "c"); st.Sent != 10 || st.GivenUp != 0 || st.Dead != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestCloseAgain does not wait once more.
func TestCloseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testSet(t, t.TempDir(), nil)
		s.all.Add(1) // a channel that does not end
		s.Close()
		begun := time.Now()
		if s.Close(); time.Since(begun) != 0 {
			t.Errorf("closing again took %v", time.Since(begun))
		}
		s.all.Done()
	})
}

// TestUnreadable waits for what cannot be read now, and gives it up after a while.
func TestUnreadable(t *testing.T) {
	for _, mended := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			away := true
			r := &receiver{answer: func(string) error {
				if away {
					return errors.New("away")
				}
				return nil
			}}
			s := testSet(t, dir, map[string]*receiver{"c": r}, Config{Name: "c", Spool: 8 * minSegment, GiveUp: time.Hour, MaxRetry: time.Minute})
			defer s.Close()
			pad := strings.Repeat("x", minSegment*2/3) // a segment for each
			for i := range 6 {
				s.Offer(alertEvent(strconv.Itoa(i)+pad, "Warning"))
			}
			synctest.Wait()
			mend := unreadable(t, filepath.Join(dir, "c", fmt.Sprintf("%020d.spool", 5)))
			r.mu.Lock()
			away = false
			r.mu.Unlock()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if st := one(s, "c"); st.Waiting != 2 || st.Sent != 4 || st.GivenUp != 0 || st.Failing.IsZero() || !strings.Contains(st.Error, "symbolic links") {
				t.Errorf("status %+v", st)
			}
			want := int64(5)
			if mended {
				mend()
				want = 6
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if st := one(s, "c"); st.Waiting != 0 || st.Sent != want || st.GivenUp != 6-want || st.Error != "" {
				t.Errorf("mended %t: status %+v", mended, st)
			}
		})
	}
}

// TestReplaceAtOnce has a channel that is taken away and comes back before it has
// ended: the new one waits for the directory, and goes on counting.
func TestReplaceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		hang := make(chan struct{})
		bad, next := &receiver{}, &receiver{}
		bad.answer = func(text string) error {
			if text == "4" {
				<-hang
			}
			return nil
		}
		s := testSet(t, dir, map[string]*receiver{"c": bad}, Config{Name: "c"})
		offer(s, 0, 4)
		synctest.Wait()
		offer(s, 4, 10)
		synctest.Wait()
		if err := s.Replace(nil, alert.Falco{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		k := s.kinds["test"]
		k.open = func(*Config, *Env) (sender, error) { return next, nil }
		s.kinds["test"] = k
		for _, priority := range []string{"error", "warning"} {
			if err := s.Replace([]Config{{Name: "c", Type: "test", Priority: priority}}, alert.Falco{}); err != nil {
				t.Fatal(err)
			}
		}
		offer(s, 10, 12)
		synctest.Wait()
		if st := one(s, "c"); s.list[0].spool.Load() != nil || st.Sent != 4 || st.Waiting != 2 {
			t.Errorf("at once: status %+v", st)
		}
		time.Sleep(closeGrace)
		synctest.Wait()
		if got := next.all(); !slices.Equal(got, texts(4, 12)) {
			t.Errorf("got %v", got)
		}
		if st := one(s, "c"); st.Sent != 12 || st.Error != "" || !st.Failing.IsZero() {
			t.Errorf("then: status %+v", st)
		}
		close(hang)
		s.Close()
		if len(s.last) != 0 {
			t.Errorf("%d channels have not ended", len(s.last))
		}
	})
}

// TestResume sends what a former agent could not.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := &receiver{answer: func(string) error { return errors.New("away") }}
		s := testSet(t, dir, map[string]*receiver{"c": r}, Config{Name: "c"})
		offer(s, 0, 100)
		synctest.Wait()
		s.Close()
		r = &receiver{}
		s = testSet(t, dir, map[string]*receiver{"c": r}, Config{Name: "c"})
		offer(s, 100, 110)
		synctest.Wait()
		if got := r.all(); !slices.Equal(got, texts(0, 110)) {
			t.Errorf("got %v", got)
		}
		s.Close()
	})
}

// TestCloseSends sends what is on the way before it ends.
func TestCloseSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		s := testSet(t, t.TempDir(), map[string]*receiver{"c": r}, Config{Name: "c", Spool: -1})
		offer(s, 0, 500)
		s.Close()
		if got := r.all(); !slices.Equal(got, texts(0, 500)) {
			t.Errorf("got %d", len(got))
		}
	})
}

// TestReplace changes channels while alerts come: each alert arrives once at the
// old receiver or at the new one of its name, in order.
func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := map[string]*receiver{"a": {}, "b": {}, "c": {}}
		s := testSet(t, dir, r, Config{Name: "a"}, Config{Name: "b"})
		offer(s, 0, 300)
		if err := s.Replace([]Config{{Name: "b", Type: "test"}, {Name: "a", Type: "test", Priority: "critical"}, {Name: "c", Type: "test"}}, alert.Falco{}); err != nil {
			t.Fatal(err)
		}
		offer(s, 300, 310)
		s.Offer(alertEvent("310", "Critical"))
		synctest.Wait()
		if got, want := r["a"].all(), append(texts(0, 300), "310"); !slices.Equal(got, want) {
			t.Errorf("a got %v", got)
		}
		if got, want := r["b"].all(), texts(0, 311); !slices.Equal(got, want) {
			t.Errorf("b got %v", got)
		}
		if got, want := r["c"].all(), texts(300, 311); !slices.Equal(got, want) {
			t.Errorf("c got %v", got)
		}
		if st := one(s, "a"); st.Sent != 301 || r["b"].opened != 1 {
			t.Errorf("a %+v, b was opened %d times", st, r["b"].opened)
		}
		if err := s.Replace(nil, alert.Falco{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if list, _ := s.Status(); len(list) != 0 || r["b"].closed != 1 {
			t.Errorf("%d channels are left", len(list))
		}
		s.Close()
	})
}

// TestReplaceFailing says since when the new channel fails, not the old one.
func TestReplaceFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(string) error { return errors.New("away") }}
		s := testSet(t, t.TempDir(), map[string]*receiver{"c": r}, Config{Name: "c"})
		defer s.Close()
		offer(s, 0, 1)
		time.Sleep(time.Hour)
		if err := s.Replace([]Config{{Name: "c", Type: "test", Priority: "error"}}, alert.Falco{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if st := one(s, "c"); time.Since(st.Failing) != 0 || st.Error != "away" {
			t.Errorf("status %+v", st)
		}
	})
}

// TestTest goes past what waits, and says what the receiver said.
func TestTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(text string) error {
			if strings.Contains(text, "test") {
				return nil
			}
			return errors.New("away")
		}}
		s := testSet(t, t.TempDir(), map[string]*receiver{"c": r}, Config{Name: "c", Priority: "emergency", Retry: time.Hour})
		s.Offer(alertEvent("0", "Emergency"))
		synctest.Wait()
		if err := s.Test(t.Context(), "c"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := r.all(); !slices.Equal(got, []string{"This is a test of the channel c"}) {
			t.Errorf("got %v", got)
		}
		r.mu.Lock()
		r.answer = func(string) error { return errors.New("gone") }
		r.mu.Unlock()
		if err := s.Test(t.Context(), "c"); err == nil || err.Error() != "gone" {
			t.Error(err)
		}
		if err := s.Test(t.Context(), "d"); !errors.Is(err, ErrNoChannel) {
			t.Error(err)
		}
		if st := one(s, "c"); st.Waiting != 1 {
			t.Errorf("status %+v", st)
		}
		s.Close()
		if err := s.Test(t.Context(), "c"); !errors.Is(err, ErrNoChannel) {
			t.Error(err)
		}
	})
}

// slow is a writer that a test looks at.
type slow struct {
	mu sync.Mutex
	b  []byte
}

func (w *slow) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p...)
	return len(p), nil
}

func TestStdout(t *testing.T) {
	w := &slow{}
	s, err := Open([]Config{{Name: "out", Type: "stdout"}, {Name: "json", Type: "stdout", Format: "json"}}, Env{Dir: t.TempDir(), Stdout: w, Hostname: "h", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e := alertEvent("a\nb", "Warning")
	s.Offer(e)
	s.Close()
	lines := strings.Split(string(w.b), "\n")
	slices.Sort(lines)
	if want := e.Time.Format("15:04:05.000000000") + ": Warning a b"; len(lines) != 3 || !slices.Contains(lines, want) || !strings.Contains(string(w.b), `"output":"`+e.Time.Format("15:04:05.000000000")+`: Warning a\nb"`) {
		t.Errorf("wrote %q", lines)
	}
}

// TestFile rotates, and begins anew where somebody has moved the file.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Path: filepath.Join(dir, "sub", "alerts.log"), Size: 100, Keep: 2, Format: formatJSON}
	w, err := openFile(&cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	send := func(from, to int) {
		t.Helper()
		var list [][]byte
		for i := from; i < to; i++ {
			list = append(list, []byte(fmt.Sprintf("%029d", i))) // 30 with the end of the line: 3 for each file
		}
		if n, err := w.send(t.Context(), list); n != len(list) || err != nil {
			t.Fatal(n, err)
		}
	}
	has := func(name string, from, to int) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "sub", name))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(b)) {
			n, _ := strconv.Atoi(strings.TrimSpace(line))
			got = append(got, strconv.Itoa(n))
		}
		if !slices.Equal(got, texts(from, to)) {
			t.Errorf("%s has %v, want %d to %d", name, got, from, to)
		}
	}
	send(0, 11)
	has("alerts.log", 9, 11)
	has("alerts.log.1", 6, 9)
	has("alerts.log.2", 3, 6)
	if _, err := os.Stat(cfg.Path + ".3"); err == nil {
		t.Error("an old file is left")
	}
	if err := os.Rename(cfg.Path, cfg.Path+".moved"); err != nil {
		t.Fatal(err)
	}
	send(11, 13)
	has("alerts.log", 11, 13)
	w.close()
	w, err = openFile(&cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	send(13, 15) // the third of the file, and the first of the next
	has("alerts.log", 14, 15)
	w.close()
	if _, err := openFile(&Config{Path: dir}, nil); err == nil {
		t.Error("a directory was opened")
	}
}

var _ io.Writer = (*slow)(nil)
