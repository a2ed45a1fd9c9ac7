package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

// history is a directory with segments, as the store would have it.
type history struct {
	dir string

	mu   sync.Mutex
	list []Segment
}

func newHistory(t *testing.T, segments int) *history {
	h := &history{dir: t.TempDir()}
	for i := range segments {
		h.seal(t, i)
	}
	return h
}

// seal adds the ith segment.
func (h *history) seal(t *testing.T, i int) Segment {
	t.Helper()
	s := Segment{
		Name: fmt.Sprintf("kind=exec/date=2026-11-21/node-a-%d-%d-%d.parquet", i, i+1, i),
		Size: int64(1000 + 50_000*i),
		Last: time.Unix(int64(i+1), 0),
	}
	path := filepath.Join(h.dir, s.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte{byte(i)}, int(s.Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, s)
	return s
}

// remove is what retention does.
func (h *history) remove(t *testing.T, s Segment) {
	t.Helper()
	if err := os.Remove(filepath.Join(h.dir, s.Name)); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = slices.DeleteFunc(h.list, func(o Segment) bool { return o.Name == s.Name })
}

func (h *history) segments() []Segment {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}

// files gives what a directory holds, with sizes.
func files(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == journalName {
			return err
		}
		info, err := d.Info()
		found[path] = info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

type archiver struct {
	*Archive
	log  *lockedBuffer
	stop func()
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs an archive with short pauses, until the test or stop ends it.
func (h *history) start(t *testing.T, url string, change func(*Config)) archiver {
	t.Helper()
	target, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Dir: h.dir, Target: target, Segments: h.segments, Retry: time.Millisecond}
	if change != nil {
		change(&c)
	}
	log := &lockedBuffer{}
	a, err := Open(c, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return archiver{Archive: a, log: log, stop: stop}
}

func (a archiver) waitIdle(t *testing.T) {
	t.Helper()
	testkit.Wait(t, "everything to be archived", func() bool { s := a.Status(); return s.Waiting == 0 && s.Error == "" })
}

func TestDirectory(t *testing.T) {
	h, to := newHistory(t, 3), t.TempDir()
	a := h.start(t, "file://"+to, nil)
	a.waitIdle(t)
	if d := cmp.Diff(files(t, h.dir), files(t, to)); d != "" {
		t.Errorf("archive (-history +archive):\n%s", d)
	}
	s := h.seal(t, 3)
	if !a.Held(s.Name) {
		t.Error("a segment that is not archived is not held")
	}
	a.Wake()
	a.waitIdle(t)
	if a.Held(s.Name) {
		t.Error("a segment that is archived is held")
	}
	if got := a.Status(); got.Copied != 4 || got.CopiedBytes != 4*1000+6*50_000 || got.LastCopy.IsZero() {
		t.Errorf("status %+v", got)
	}
	a.stop()

	// What was archived is remembered, and not copied again.
	if err := os.RemoveAll(filepath.Join(to, "kind=exec")); err != nil {
		t.Fatal(err)
	}
	s = h.seal(t, 4)
	b := h.start(t, "file://"+to, nil)
	b.waitIdle(t)
	if d := cmp.Diff(map[string]int64{s.Name: s.Size}, files(t, to)); d != "" {
		t.Errorf("after a restart (-want +archive):\n%s", d)
	}
	b.stop()

	// Another target has nothing yet.
	other := t.TempDir()
	h.start(t, "file://"+other, nil).waitIdle(t)
	if d := cmp.Diff(files(t, h.dir), files(t, other)); d != "" {
		t.Errorf("another target (-history +archive):\n%s", d)
	}
}

// TestJournalDamage holds that a damaged list costs a copy, and no more.
func TestJournalDamage(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func([]byte) []byte
		again  int
	}{
		{"none", func(b []byte) []byte { return b }, 0},
		{"torn", func(b []byte) []byte { return b[:len(b)-3] }, 1},
		{"a bit", func(b []byte) []byte { b[len(b)-30] ^= 1; return b }, 1},
		{"head", func(b []byte) []byte { b[0] = 'x'; return b }, 3},
		{"empty", func([]byte) []byte { return nil }, 3},
		{"zeros", func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, to := newHistory(t, 3), t.TempDir()
			a := h.start(t, "file://"+to, nil)
			a.waitIdle(t)
			a.stop()
			path := filepath.Join(h.dir, journalName)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.damage(text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, again := range []int{test.again, 0} {
				a = h.start(t, "file://"+to, nil)
				a.waitIdle(t)
				a.stop()
				if got := a.Status().Copied; got != again {
					t.Errorf("%d segments were copied again, want %d", got, again)
				}
			}
			if d := cmp.Diff(files(t, h.dir), files(t, to)); d != "" {
				t.Errorf("archive (-history +archive):\n%s", d)
			}
		})
	}
}

// TestJournalUnusable holds that segments are copied where that cannot be
// remembered, that this is told, and that they are remembered when it can.
func TestJournalUnusable(t *testing.T) {
	h, to := newHistory(t, 2), t.TempDir()
	path := filepath.Join(h.dir, journalName)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	a := h.start(t, "file://"+to, nil)
	testkit.Wait(t, "both segments to be copied", func() bool { return a.Status().Copied == 2 })
	if !strings.Contains(a.log.String(), "cannot be remembered") {
		t.Errorf("the trouble is not told:\n%s", a.log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	h.seal(t, 2)
	a.Wake()
	a.waitIdle(t)
	a.stop()
	b := h.start(t, "file://"+to, nil)
	b.waitIdle(t)
	if s := b.Status(); s.Copied != 0 || s.Archived != 3 || s.ArchivedBytes != 3*1000+3*50_000 {
		t.Errorf("after a restart: %+v", s)
	}
}

func TestJournalForgets(t *testing.T) {
	j, err := openJournal(filepath.Join(t.TempDir(), journalName), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	for i := range 1000 {
		if err := j.add(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.keep(map[string]bool{"7": true}); err != nil {
		t.Fatal(err)
	}
	if err := j.add("new"); err != nil {
		t.Fatal(err)
	}
	again, err := openJournal(j.path, "x")
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if d := cmp.Diff([]string{"7", "new"}, slices.Sorted(maps.Keys(again.names))); d != "" {
		t.Errorf("remembered (-want +got):\n%s", d)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(entry("kind=exec/a.parquet")))
	f.Add([]byte("00000000 \"\"\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if name, ok := parseEntry(line); ok {
			if again, ok := parseEntry([]byte(entry(name))); !ok || again != name {
				t.Errorf("%q is read as %q, and that as %q", line, name, again)
			}
		}
	})
}

// TestMissed holds that what retention takes first is told of.
func TestMissed(t *testing.T) {
	h, to := newHistory(t, 2), filepath.Join(t.TempDir(), "absent")
	a := h.start(t, "file://"+to, nil)
	testkit.Wait(t, "the archive to fail", func() bool { return a.Status().Error != "" })
	first := h.segments()[0]
	h.remove(t, first)
	testkit.Wait(t, "the loss to be seen", func() bool { a.Wake(); return a.Status().Missed == 1 })
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	a.waitIdle(t)
	s := a.Status()
	if s.Missed != 1 || s.MissedBytes != first.Size || s.Copied != 1 || !s.FailingSince.IsZero() {
		t.Errorf("status %+v", s)
	}
	for what, n := range map[string]int{"cannot be archived": 1, "is archived again": 1, "removed before they were archived": 1} {
		if got := strings.Count(a.log.String(), what); got != n {
			t.Errorf("the log says %q %d times, want %d:\n%s", what, got, n, a.log)
		}
	}
}

// TestUnreadable holds that a segment that cannot be read is in nobody's way.
func TestUnreadable(t *testing.T) {
	h, to := newHistory(t, 3), t.TempDir()
	first := h.segments()[0]
	path := filepath.Join(h.dir, first.Name)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	a := h.start(t, "file://"+to, nil)
	testkit.Wait(t, "the others to be archived", func() bool { s := a.Status(); return s.Waiting == 1 && s.Error != "" })
	if got := len(files(t, to)); got != 2 {
		t.Errorf("%d files were copied, want 2", got)
	}
	if !a.Held(first.Name) {
		t.Error("what cannot be read is not held")
	}
}

// TestHangingDirectory has a file system that does not return from a call, as
// NFS does when its server is away.
func TestHangingDirectory(t *testing.T) {
	h, to := newHistory(t, 1), t.TempDir()
	s := h.segments()[0]
	part := partName(filepath.Join(to, s.Name))
	if err := os.MkdirAll(filepath.Dir(part), 0o700); err != nil {
		t.Fatal(err)
	}
	// Nobody opens its other end.
	if err := unix.Mkfifo(part, 0o600); err != nil {
		t.Fatal(err)
	}
	a := h.start(t, "file://"+to, func(c *Config) { c.Stall = 10 * time.Millisecond })
	testkit.Wait(t, "a copy to be given up", func() bool { return strings.Contains(a.log.String(), "no progress for 10ms") })
	testkit.Wait(t, "the next one to be refused", func() bool { return strings.Contains(a.Status().Error, "does not return") })
	if !a.Held(s.Name) {
		t.Error("what hangs is not held")
	}
	a.stop() // returns although the copy does not
	if err := os.Rename(part, part+".away"); err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile(part+".away", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

// bucketServer is a server of buckets that can be broken.
type bucketServer struct {
	url     string
	backend *s3mem.Backend

	mu     sync.Mutex
	broken func(w http.ResponseWriter, r *http.Request) // nil: it works
	puts   map[string]int                               // that arrived whole
	heads  []http.Header
}

func newBucketServer(t *testing.T) *bucketServer {
	b := &bucketServer{backend: s3mem.New(), puts: map[string]int{}}
	if err := b.backend.CreateBucket("traces"); err != nil {
		t.Fatal(err)
	}
	works := gofakes3.New(b.backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		broken := b.broken
		b.heads = append(b.heads, r.Header.Clone())
		b.mu.Unlock()
		if broken != nil {
			broken(w, r)
			return
		}
		works.ServeHTTP(w, r)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.puts[r.Method+" "+r.URL.Path]++
	}))
	t.Cleanup(server.Close)
	b.url = "s3://traces/node/logs?endpoint=" + server.URL
	return b
}

func (b *bucketServer) breakBy(f func(w http.ResponseWriter, r *http.Request)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = f
}

// objects gives what the bucket holds below the prefix.
func (b *bucketServer) objects(t *testing.T) map[string]int64 {
	t.Helper()
	list, err := b.backend.ListBucket("traces", nil, gofakes3.ListBucketPage{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, o := range list.Contents {
		name, ok := strings.CutPrefix(o.Key, "node/logs/")
		if !ok {
			t.Errorf("object %s is not below the prefix", o.Key)
		}
		found[name] = o.Size
	}
	return found
}

func setKeys(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_REGION", "")
}

// TestBucketOutages breaks a bucket in every way that a network can, while
// segments are sealed: in the end each is there, once.
func TestBucketOutages(t *testing.T) {
	setKeys(t)
	server, h := newBucketServer(t), newHistory(t, 2)
	gone := make(chan struct{})
	outages := []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request)
		says  string
	}{
		{"busy", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusServiceUnavailable) }, "503"},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>")
		}, "Access Denied"},
		{"cut", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 500)
			panic(http.ErrAbortHandler)
		}, ""},
		{"hangs", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-gone:
			}
		}, "no progress for"},
	}
	defer close(gone)
	a := h.start(t, server.url, func(c *Config) { c.Stall = 200 * time.Millisecond })
	a.waitIdle(t)
	for i, o := range outages {
		server.breakBy(o.fault)
		s := h.seal(t, 2+i)
		a.Wake()
		testkit.Wait(t, o.name+": a failure", func() bool { s := a.Status(); return s.Error != "" && strings.Contains(s.Error, o.says) })
		if !a.Held(s.Name) {
			t.Errorf("%s: a segment that did not arrive is not held", o.name)
		}
		server.breakBy(nil)
		a.waitIdle(t)
	}
	if d := cmp.Diff(files(t, h.dir), server.objects(t)); d != "" {
		t.Errorf("bucket (-history +bucket):\n%s", d)
	}
	for what, n := range server.puts {
		if n != 1 || !strings.HasPrefix(what, "PUT /traces/node/logs/kind=exec/") {
			t.Errorf("%s came %d times, and only the right to put each once should be needed", what, n)
		}
	}
	a.stop()
	if log := a.log.String(); strings.Contains(log, "hush") || strings.Contains(log, "AKIDTEST") || strings.Count(log, "cannot be archived") != len(outages) {
		t.Errorf("the log has keys in it, or does not tell of each outage once:\n%s", log)
	}

	// What arrived is remembered.
	b := h.start(t, server.url, nil)
	b.waitIdle(t)
	if n := b.Status().Copied; n != 0 {
		t.Errorf("%d segments were copied again", n)
	}
}

// TestKeys follows keys from where they are to the server.
func TestKeys(t *testing.T) {
	setKeys(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	server, h := newBucketServer(t), newHistory(t, 1)
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := h.start(t, server.url, nil)
	testkit.Wait(t, "keys to be missing", func() bool {
		return strings.Contains(a.Status().Error, "the environment has no AWS_ACCESS_KEY_ID or no AWS_SECRET_ACCESS_KEY")
	})
	a.stop()

	write("[other]\naws_access_key_id = WRONG\naws_secret_access_key = hush\n[default]\naws_access_key_id: bad\n")
	b := h.start(t, server.url, func(c *Config) { c.Credentials = file })
	testkit.Wait(t, "keys to be missing", func() bool {
		return strings.Contains(b.Status().Error, "section default of "+file+" has no aws_access_key_id")
	})
	// Keys are replaced while the agent runs.
	write("# of the node\n[default]\naws_access_key_id = RIGHT\naws_secret_access_key=hush==\naws_session_token = token\n[other]\naws_access_key_id = WRONG\n")
	b.waitIdle(t)
	if d := cmp.Diff(files(t, h.dir), server.objects(t)); d != "" {
		t.Errorf("bucket (-history +bucket):\n%s", d)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	last := server.heads[len(server.heads)-1]
	if auth := last.Get("Authorization"); !strings.Contains(auth, "Credential=RIGHT/") || !strings.Contains(auth, "/us-east-1/s3/") || last.Get("X-Amz-Security-Token") != "token" {
		t.Errorf("the request was signed as %v", last)
	}
	if last.Get("Content-Md5") == "" {
		t.Error("nothing holds what arrives against what was sent")
	}
	if strings.Contains(b.log.String(), "hush") {
		t.Errorf("the log has a key in it:\n%s", b.log)
	}
}

func TestParseURL(t *testing.T) {
	for _, test := range []struct {
		url  string
		want string // of the target without its text, or of the error
	}{
		{"file:///mnt/archive/", "{Path:/mnt/archive Bucket: Prefix: Endpoint: Plain:false Region:"},
		{"s3://traces", "Bucket:traces Prefix: Endpoint:s3.amazonaws.com Plain:false Region:"},
		{"s3://traces/a/b/?region=eu-west-1", "Bucket:traces Prefix:a/b Endpoint:s3.amazonaws.com Plain:false Region:eu-west-1"},
		{"s3://traces/a?endpoint=http://10.0.0.1:9000", "Prefix:a Endpoint:10.0.0.1:9000 Plain:true"},
		{"s3://traces?endpoint=https://minio.example/", "Endpoint:minio.example Plain:false"},
		{"", "segments cannot be copied to"},
		{"/mnt/archive", "segments cannot be copied to"},
		{"http://x/y", `segments cannot be copied to "http"`},
		{"file://mnt/archive", "three slashes"},
		{"file:///", "no directory"},
		{"file:///a?x=1", `no setting "x"`},
		{"s3://id:secret@traces", "keys do not belong into the URL"},
		{"s3://id:sec%ret@traces", "no URL"},
		{"s3://", "no bucket"},
		{"s3://host:9000/traces", "no bucket"},
		{"s3://traces/../x", "cannot be a prefix"},
		{"s3://traces//x", "Prefix:x"},
		{"s3://traces/a//b", "cannot be a prefix"},
		{"s3://traces?endpoint=minio:9000", "endpoint: want"},
		{"s3://traces?endpoint=https://id:secret@minio", "endpoint: want"},
		{"s3://traces?region=a&region=b", "region is there twice"},
		{"s3://traces?secret=x", `no setting "secret"`},
		{"s3://traces#x", "#"},
	} {
		target, err := ParseURL(test.url)
		got := ""
		if err != nil {
			got = err.Error()
			if strings.Contains(got, "sec%ret") {
				t.Errorf("%s: the error has the key in it: %s", test.url, got)
			}
		} else {
			if target.String() != test.url {
				t.Errorf("%s is written %s", test.url, target)
			}
			target.text = ""
			type plain Target
			got = fmt.Sprintf("%+v", plain(target))
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s: %s, want %s", test.url, got, test.want)
		}
	}
}

func TestArchiveInsideItself(t *testing.T) {
	dir := t.TempDir()
	for _, below := range []string{"", "/kind=exec", "/archive"} {
		target, err := ParseURL("file://" + dir + below)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: dir, Target: target}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "inside of it") {
			t.Errorf("an archive in %q of the history is opened: %v", below, err)
		}
	}
}
