package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"warren/event"
	"warren/internal/testkit"
	"warren/internal/wholefile"
)

// sink keeps what it is told.
type sink struct {
	mu      sync.Mutex
	ids     []string
	lost    uint64
	crowded bool
}

func (s *sink) Tell(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, e.Data.(*event.K8sAudit).ID)
}

func (s *sink) TellLost(l *event.Lost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += l.Count
}

func (s *sink) Crowded(event.Kind) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crowded
}

func (s *sink) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.ids, " ")
}

// wait waits until exactly these events were told.
func (s *sink) wait(t *testing.T, want string) {
	t.Helper()
	testkit.Wait(t, "the events "+want, func() bool {
		got := s.got()
		if !strings.HasPrefix(want, got) {
			t.Fatalf("told %q, want %q", got, want)
		}
		return got == want
	})
}

func item(id string) string {
	return `{"level":"Metadata","auditID":"` + id + `","stage":"ResponseComplete","verb":"get","stageTimestamp":"2026-11-21T10:00:00.000000Z"}`
}

func list(items ...string) string {
	return `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(items, ",") + `]}`
}

func packed(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text)) // a buffer takes all
	_ = z.Close()
	return b.String()
}

// TestWebhook takes what API servers send, and answers everything else with why not.
func TestWebhook(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := strings.Replace(item("big"), `"level"`, `"x":"`+strings.Repeat("x", 8<<10)+`","level"`, 1)
	for _, tt := range []struct {
		name, method, path, body string
		header                   map[string]string
		code                     int
		answer, told             string
		bad, large, refused      uint64
	}{
		{name: "list", body: list(item("a"), item("b")), code: 200, told: "a b"},
		{name: "none", body: list(), code: 200},
		{name: "one", body: strings.Replace(item("a"), "{", `{"kind":"Event","apiVersion":"audit.k8s.io/v1",`, 1), code: 200, told: "a"},
		{name: "packed", body: packed(list(item("a"))), header: map[string]string{"Content-Encoding": "gzip"}, code: 200, told: "a"},
		{name: "charset", body: list(item("a")), header: map[string]string{"Content-Type": "application/json; charset=utf-8"}, code: 200, told: "a"},
		{name: "again", body: list(item("a"), item("a")), code: 200, told: "a"},
		{name: "bad item", body: list(item("a"), `{"auditID":"x"}`, "7", item("b")), code: 200, told: "a b", bad: 2},
		{name: "large item", body: list(big, item("b")), code: 200, told: "b", large: 1},

		{name: "GET", method: "GET", code: 405, answer: "want POST", refused: 1},
		{name: "path", path: "/", code: 404, answer: "/k8s-audit", refused: 1},
		{name: "no token", header: map[string]string{"Authorization": ""}, body: list(item("a")), code: 401, answer: "bearer token", refused: 1},
		{name: "wrong token", header: map[string]string{"Authorization": "Bearer secre"}, body: list(item("a")), code: 401, answer: "bearer token", refused: 1},
		{name: "basic", header: map[string]string{"Authorization": "Basic secret"}, body: list(item("a")), code: 401, answer: "bearer token", refused: 1},
		{name: "yaml", header: map[string]string{"Content-Type": "application/yaml"}, body: list(item("a")), code: 415, answer: "want application/json", refused: 1},
		{name: "br", header: map[string]string{"Content-Encoding": "br"}, body: list(item("a")), code: 415, answer: "want gzip", refused: 1},
		{name: "not JSON", body: list(item("a"))[1:], code: 400, answer: "no EventList", bad: 1},
		{name: "empty", body: "", code: 400, answer: "no EventList", bad: 1},
		{name: "version", body: strings.Replace(list(item("a")), "/v1", "/v1beta1", 1), code: 400, answer: "want audit.k8s.io/v1", bad: 1},
		{name: "kind", body: strings.Replace(list(item("a")), "EventList", "PodList", 1), code: 400, answer: "want an EventList", bad: 1},
		{name: "no array", body: strings.Replace(list(), "[]", "{}", 1), code: 400, answer: "no array", bad: 1},
		{name: "no items", body: strings.Replace(list(), "[]", "null", 1), code: 200},
		{name: "not packed", body: list(item("a")), header: map[string]string{"Content-Encoding": "gzip"}, code: 400, answer: "unpack", bad: 1},
		{name: "large", body: list(strings.Repeat("x", 70<<10)), code: 413, answer: "65536 bytes", bad: 1},
		{name: "large packed", body: packed(strings.Repeat("x", 10<<20)), header: map[string]string{"Content-Encoding": "gzip"}, code: 413, answer: "65536 bytes", bad: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sink{}
			in := NewIntake(s, slog.New(slog.DiscardHandler))
			in.SetMaxEvent(4 << 10)
			w, err := NewWebhook(in, WebhookConfig{TokenFile: token, MaxBody: 64 << 10}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			method, path := tt.method, tt.path
			if method == "" {
				method = http.MethodPost
			}
			if path == "" {
				path = Path
			}
			req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(tt.body))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer secret")
			for k, v := range tt.header {
				req.Header.Set(k, v)
			}
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, req)
			if rec.Code != tt.code || !strings.Contains(rec.Body.String(), tt.answer) {
				t.Errorf("answered %d %q, want %d %q", rec.Code, rec.Body, tt.code, tt.answer)
			}
			if tt.code == 405 && rec.Header().Get("Allow") != "POST" {
				t.Error(rec.Header())
			}
			if got := s.got(); got != tt.told {
				t.Errorf("told %q, want %q", got, tt.told)
			}
			st := in.Stats()
			if st.Bad != tt.bad || st.TooLarge != tt.large || st.Refused != tt.refused {
				t.Errorf("%+v", st)
			}
			in.sayLost()
			in.sayLost()
			if s.lost != tt.bad+tt.large {
				t.Errorf("%d events were said to be lost, want %d", s.lost, tt.bad+tt.large)
			}
		})
	}
}

// TestWebhookBroken counts nothing as lost that its sender knows was not taken.
func TestWebhookBroken(t *testing.T) {
	for name, text := range map[string]string{"": list(item("a")), "gzip": packed(list(item("a")))} {
		for _, n := range []int{0, 5, len(text) - 5} {
			s := &sink{}
			in := NewIntake(s, slog.New(slog.DiscardHandler))
			w, err := NewWebhook(in, WebhookConfig{}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, io.MultiReader(strings.NewReader(text[:n]), iotest.ErrReader(io.ErrUnexpectedEOF)))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Content-Encoding", name)
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, req)
			if st := in.Stats(); rec.Code != http.StatusRequestTimeout || st.Lost() != 0 || st.Refused != 1 {
				t.Errorf("%d bytes %s: answered %d, %+v", n, name, rec.Code, st)
			}
		}
	}
}

// TestWebhookEnds answers who is not heard to the end that nothing of it was taken.
func TestWebhookEnds(t *testing.T) {
	s := &sink{}
	in := NewIntake(s, slog.New(slog.DiscardHandler))
	w, err := NewWebhook(in, WebhookConfig{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, Path, strings.NewReader(list(item("a"))))
	req.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, req)
	if rec.Code != http.StatusServiceUnavailable || s.got() != "" || in.stats.Lost() != 0 {
		t.Errorf("answered %d, told %q", rec.Code, s.got())
	}
}

// TestWebhookOver takes a request to its end that is being read when others are to
// take events; no other one is.
func TestWebhookOver(t *testing.T) {
	s := &sink{}
	in := NewIntake(s, slog.New(slog.DiscardHandler))
	w, err := NewWebhook(in, WebhookConfig{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(t.Context(), l, over) }()
	body, rest := io.Pipe()
	answered := make(chan int, 1)
	go func() {
		defer close(answered)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.Addr().String()+Path, body)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		answer.Body.Close()
		answered <- answer.StatusCode
	}()
	testkit.Wait(t, "the request", func() bool { return len(w.bodies) == 1 })
	close(over)
	testkit.Wait(t, "the end of listening", func() bool {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(rest, list(item("a"))); err != nil {
		t.Error(err)
	}
	rest.Close()
	if code := <-answered; code != http.StatusOK || s.got() != "a" || in.Stats().Refused != 0 {
		t.Errorf("answered %d, told %q, refused %d", code, s.got(), in.Stats().Refused)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWebhookTLS lets in who shows a certificate, and believes another authority once
// the files have changed.
func TestWebhookTLS(t *testing.T) {
	ours, theirs := testkit.NewAuthority(t, "ours"), testkit.NewAuthority(t, "theirs")
	dir := ours.Directory(t, "warren-audit")
	s := &sink{}
	in := NewIntake(s, slog.New(slog.DiscardHandler))
	w, err := NewWebhook(in, WebhookConfig{
		Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), ClientCA: filepath.Join(dir, "ca.crt"),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, l, nil) }()
	post := func(by *testkit.Authority, id string) error {
		t.Helper()
		tc := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "warren-audit"}
		tc.RootCAs.AddCert(ours.Cert)
		if by != nil {
			cert, key := by.Issue(t, nil, "api-server")
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			tc.Certificates = []tls.Certificate{pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: tc, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+l.Addr().String()+Path, strings.NewReader(list(item(id))))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
	if err := post(ours, "a"); err != nil {
		t.Error(err)
	}
	if post(nil, "b") == nil || post(theirs, "c") == nil {
		t.Error("somebody without a certificate of the authority was let in")
	}
	testkit.WriteFiles(t, dir, map[string][]byte{"ca.crt": theirs.PEM})
	if err := post(theirs, "d"); err != nil {
		t.Error(err)
	}
	testkit.WriteFiles(t, dir, map[string][]byte{"ca.crt": nil})
	if err := post(theirs, "e"); err != nil { // the former one stays in force
		t.Error(err)
	}
	s.wait(t, "a d e")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := NewWebhook(in, WebhookConfig{TokenFile: filepath.Join(dir, "none")}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a token that is not there")
	}
}

// TestRepeats forgets the oldest first.
func TestRepeats(t *testing.T) {
	r := newRepeats(2)
	for i, tt := range []struct {
		text string
		want bool
	}{{"a", false}, {"b", false}, {"a", true}, {"c", false}, {"a", false}, {"c", true}, {"b", false}} {
		if got := r.add([]byte(tt.text)); got != tt.want {
			t.Errorf("%d: %s is known: %v", i, tt.text, got)
		}
	}
}

// following is a log that is followed.
type following struct {
	t    *testing.T
	dir  string
	path string
	sink *sink
	log  *Log
	in   *Intake
	end  func()
}

// follow follows a log in a directory, and has looked at it once when it returns.
func follow(t *testing.T, dir string) *following {
	t.Helper()
	f := &following{t: t, dir: dir, path: filepath.Join(dir, "audit.log"), sink: &sink{}}
	f.begin()
	testkit.Wait(t, "the begin", func() bool {
		_, err := os.Stat(filepath.Join(dir, "position"))
		return err == nil
	})
	return f
}

func (f *following) begin() {
	f.in = NewIntake(f.sink, slog.New(slog.DiscardHandler))
	f.in.SetMaxEvent(4 << 10)
	f.log = NewLog(f.in, LogConfig{Path: f.path, State: filepath.Join(f.dir, "position"), Look: time.Millisecond}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.log.Run(ctx); err != nil {
			f.t.Error(err)
		}
	}()
	f.end = sync.OnceFunc(func() { cancel(); <-done })
	f.t.Cleanup(f.end)
}

func (f *following) write(text string) {
	f.t.Helper()
	w, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = w.WriteString(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *following) rename(name string) {
	f.t.Helper()
	if err := os.Rename(f.path, filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// TestLog follows a log from its end, line by line, across rotation and restarts.
func TestLog(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "audit.log"), []byte(item("old")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, dir)
	f.write(item("a") + "\n" + item("b")[:20])
	f.sink.wait(t, "a")
	f.write(item("b")[20:] + "\n\n" + item("c") + "\n")
	f.sink.wait(t, "a b c")

	f.write(item("d"))
	f.rename("audit-2026-11-21T10-00-00.000.log")
	f.write(item("e") + "\n")
	f.sink.wait(t, "a b c d e")

	f.end()
	f.write(item("f") + "\n")
	f.rename("audit-2026-11-21T11-00-00.000.log")
	f.write(item("g") + "\n")
	f.begin()
	f.sink.wait(t, "a b c d e f g")

	f.end()
	left := filepath.Join(dir, wholefile.TempPrefix+"position-1") // of one that was killed
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.begin()
	f.write(item("h") + "\n")
	f.sink.wait(t, "a b c d e f g h")
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was not complete is still there: %v", err)
	}
	if st := f.in.Stats(); st.Lost() != 0 || st.Repeated != 0 {
		t.Errorf("%+v", st)
	}
}

// TestLogCreated stays with a file that is renamed until something is in the new one.
func TestLogCreated(t *testing.T) {
	f := follow(t, t.TempDir())
	f.write(item("a") + "\n")
	f.sink.wait(t, "a")
	was, err := os.OpenFile(f.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer was.Close()
	f.rename("audit.log.1")
	f.write("")
	for _, id := range []string{"b", "c", "d"} {
		if _, err := was.WriteString(item(id) + "\n"); err != nil {
			t.Fatal(err)
		}
		f.sink.wait(t, "a b c d"[:1+2*int(id[0]-'a')])
	}
	f.write(item("e") + "\n")
	f.sink.wait(t, "a b c d e")
	if st := f.in.Stats(); st.Lost() != 0 || st.Repeated != 0 {
		t.Errorf("%+v", st)
	}
}

// TestLogEnds leaves to the next one what nobody may look at any more.
func TestLogEnds(t *testing.T) {
	s := &sink{}
	l := NewLog(NewIntake(s, slog.New(slog.DiscardHandler)), LogConfig{}, slog.New(slog.DiscardHandler))
	lines := []byte(item("a") + "\n\n" + item("b") + "\n")
	ctx, cancel := context.WithCancel(t.Context())
	if n := l.take(ctx, lines); n != len(lines) || s.got() != "a b" {
		t.Errorf("%d bytes of %d were taken: %q", n, len(lines), s.got())
	}
	cancel()
	if n := l.take(ctx, []byte(item("c")+"\n")); n != 0 || s.got() != "a b" {
		t.Errorf("%d bytes were taken behind the end: %q", n, s.got())
	}
}

// TestLogNotThere waits for a log, and begins at its begin.
func TestLogNotThere(t *testing.T) {
	f := follow(t, t.TempDir())
	f.end()
	f.write(item("a") + "\n")
	f.rename("audit.log.1")
	f.write(item("b") + "\n")
	f.begin()
	f.write(item("c") + "\n")
	f.sink.wait(t, "a b c")
}

// TestLogEmptied notices that a log was emptied, also where it has grown since.
func TestLogEmptied(t *testing.T) {
	f := follow(t, t.TempDir())
	f.write(item("a") + "\n" + item("b") + "\n")
	f.sink.wait(t, "a b")
	if err := os.Truncate(f.path, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "that it is seen", func() bool { return f.log.State().Gaps == 1 })
	f.write(item("c") + "\n")
	f.sink.wait(t, "a b c")
	f.end()
	// In one step: nobody sees it empty.
	w, err := os.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = w.WriteString(item("d") + "\n" + item("e") + "\n" + item("f") + "\n")
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.begin()
	f.sink.wait(t, "a b c d e f")
	if n := f.log.State().Gaps; n != 1 {
		t.Errorf("%d gaps", n)
	}
}

// TestLogCopied reads on in the copy that was made of a log before it was emptied.
func TestLogCopied(t *testing.T) {
	f := follow(t, t.TempDir())
	empty := func(name string) {
		t.Helper()
		text, err := os.ReadFile(f.path)
		if err == nil {
			err = os.WriteFile(filepath.Join(f.dir, name), text, 0o600)
		}
		if err == nil {
			err = os.Truncate(f.path, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.write(item("a") + "\n")
	f.sink.wait(t, "a")
	f.end()
	f.write(item("b") + "\n")
	empty("audit.log.1")
	f.write(item("c") + "\n")
	f.begin()
	f.sink.wait(t, "a b c")
	testkit.Wait(t, "that it is done with", func() bool {
		st := f.log.State()
		return st.File == f.path && st.Offset == int64(len(item("c")))+1
	})
	empty("audit.log-20261121")
	f.write(item("d") + "\n" + item("e") + "\n")
	f.sink.wait(t, "a b c d e")
	if st := f.in.Stats(); st.Lost() != 0 || st.Repeated != 0 || f.log.State().Gaps != 0 {
		t.Errorf("%+v, %+v", st, f.log.State())
	}
}

// TestLogGone says that the log which was read is not there any more.
func TestLogGone(t *testing.T) {
	f := follow(t, t.TempDir())
	f.write(item("a") + "\n")
	f.sink.wait(t, "a")
	f.end()
	tmp := filepath.Join(f.dir, "new")
	if err := os.WriteFile(tmp, []byte(item("b")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, f.path); err != nil {
		t.Fatal(err)
	}
	f.begin()
	f.sink.wait(t, "a b")
	if st := f.in.Stats(); st.Bad != 1 || f.log.State().Gaps != 1 {
		t.Errorf("%+v, %+v", st, f.log.State())
	}
}

// TestLogBadLines counts what cannot be read, and lines that have no end.
func TestLogBadLines(t *testing.T) {
	f := follow(t, t.TempDir())
	f.write("no JSON\n" + item("a") + "\n")
	f.sink.wait(t, "a")
	f.write(strings.Repeat("x", 5<<10) + "\n" + item("b") + "\n")
	f.sink.wait(t, "a b")
	f.write(strings.Repeat("y", 3*chunk))
	f.write(strings.Repeat("y", 3*chunk) + "\n" + item("c") + "\n")
	f.sink.wait(t, "a b c")
	if st := f.in.Stats(); st.Bad != 1 || st.TooLarge != 2 {
		t.Errorf("%+v", st)
	}
}

// TestLogCrowded goes on though somebody takes nothing.
func TestLogCrowded(t *testing.T) {
	f := follow(t, t.TempDir())
	f.sink.mu.Lock()
	f.sink.crowded = true
	f.sink.mu.Unlock()
	f.write(item("a") + "\n")
	f.sink.wait(t, "a")
	f.write(item("b") + "\n")
	f.sink.wait(t, "a b")
}

// TestLogNames tells what a log was renamed to from what is another one's.
func TestLogNames(t *testing.T) {
	dir := t.TempDir()
	at := time.Now().Add(-time.Hour)
	for _, name := range []string{
		"audit-2026-11-21T10-00-00.000.log", "audit.log.2", "audit.log.1", "audit.log-20261121", "audit.log",
		"audit-2026-11-21T10-00-00.000.log.gz", "audit.log.1.gz", "audit-policy.log", "audit.logs", "other.log", "xaudit.log", "audit.log.d",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	files, err := NewLog(nil, LogConfig{Path: filepath.Join(dir, "audit.log")}, nil).files()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.path))
	}
	if want := []string{"audit-2026-11-21T10-00-00.000.log", "audit.log.2", "audit.log.1", "audit.log-20261121", "audit.log"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

// FuzzList takes any body.
func FuzzList(f *testing.F) {
	f.Add([]byte(list(item("a"))))
	f.Add([]byte(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","stageTimestamp":"2026-11-21T10:00:00Z"}`))
	f.Add([]byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[null,{},[]]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &sink{}
		in := NewIntake(s, slog.New(slog.DiscardHandler))
		items, err := parseList(body)
		if err != nil {
			return
		}
		var all uint64
		for x := range items {
			in.take(x)
			all++
		}
		st := in.Stats()
		if n := st.Events + st.Repeated + st.Lost(); n != all || st.Events != uint64(len(s.ids)) {
			t.Errorf("%d of %d events are accounted for", n, all)
		}
	})
}
