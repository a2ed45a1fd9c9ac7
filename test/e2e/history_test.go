package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"warren/internal/testkit"
)

// again starts an agent on the state that another one has left.
func (a *agent) again(args ...string) *agent {
	a.t.Helper()
	b := newAgent(a.t, options{args: append([]string{"--socket", a.socket, "--state", filepath.Join(a.dir, "state")}, args...)})
	b.socket, b.dir = a.socket, a.dir
	b.launch()
	b.waitReady()
	return b
}

// servers answers every question of DNS with an address, on which somebody
// listens, in a network of its own. It returns who listens, and on which port.
func servers(t *testing.T, n *testkit.Netns, address netip.Addr) (listener net.Listener, port string) {
	t.Helper()
	var dns net.PacketConn
	err := n.Do(func() (err error) {
		if dns, err = net.ListenPacket("udp4", "127.0.0.1:53"); err != nil {
			return err
		}
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(address, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dns.Close(), listener.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := dns.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := answer(buf[:size], address); err == nil {
				_, _ = dns.WriteTo(reply, from)
			}
		}
	}()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = c.Write([]byte("welcome"))
			_ = c.Close()
		}
	}()
	return listener, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// TestE2EHistory lets programs do things, kills the agent, and asks the next one
// what happened.
func TestE2EHistory(t *testing.T) {
	a := start(t, options{})
	n := testkit.NewNetns(t)
	begin := time.Now()
	_, port := servers(t, n, netip.MustParseAddr("127.83.0.10"))
	const name = "history.example.test"
	for range 2 {
		helper := testkit.Command(t, "talk", name, port)
		if err := n.Do(helper.Run); err != nil {
			t.Fatal(err)
		}
	}
	word := unique(t)
	lived := shell(t, "read x", word)
	hold, err := lived.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := lived.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the start of a process that lives", func() bool {
		return len(a.objects("events", "--since", "1h", "evt.kind = exec and proc.name = sh and proc.cmdline contains "+word)) == 1
	})
	moment := time.Now()
	_ = hold.Close()
	if err := lived.Wait(); err == nil {
		t.Fatal("read read nothing, and said it did")
	}
	since := begin.Format(time.RFC3339Nano)
	testkit.Wait(t, "the end of all of them", func() bool {
		return len(a.objects("events", "--since", since, "evt.kind = exit and proc.name = sh and proc.cmdline contains "+word)) == 1 &&
			len(a.objects("events", "--since", since, "evt.type = close and fd.rport = "+port)) > 0
	})
	check := func(t *testing.T, a *agent, gaps int) {
		t.Helper()
		// What happened, and in which order; and when nobody looked, whatever is asked.
		var types []string
		told := 0
		for _, o := range a.objects("events", "--since", since, "proc.name = sh and proc.cmdline contains "+word+" and evt.kind in (exec, exit)") {
			if o.str("evt.kind") == "lost" && o.str("lost.lane") == "agent" {
				told++
				continue
			}
			types = append(types, o.str("evt.kind"))
		}
		if !slices.Equal(types, []string{"exec", "exit"}) {
			t.Errorf("of the process that lived: %v", types)
		}
		if told != gaps {
			t.Errorf("%d times without an agent are told, want %d", told, gaps)
		}
		// Who it was, by name and by address.
		for _, to := range []string{name, name + ":" + port, "127.83.0.10:" + port, "127.83.0.0/28:" + port} {
			var who struct {
				Rows []struct {
					ExePath     string `json:"proc.exepath"`
					Direction   string `json:"conn.direction"`
					Connections int
					Sent        int `json:"bytes_sent"`
					Received    int `json:"bytes_received"`
					Processes   int
					Ancestry    []struct {
						Name string `json:"proc.name"`
					}
				}
			}
			if err := json.Unmarshal([]byte(a.ok("who", to, "--since", since, "-o", "json")), &who); err != nil {
				t.Fatal(err)
			}
			if len(who.Rows) != 1 {
				t.Errorf("who %s: %+v", to, who)
				continue
			}
			r := who.Rows[0]
			if r.ExePath != readlink(t, "/proc/self/exe") || r.Direction != "out" || r.Connections != 2 || r.Sent != 10 || r.Received != 14 || r.Processes != 2 || len(r.Ancestry) == 0 {
				t.Errorf("who %s: %+v", to, r)
			}
		}
		if table := a.ok("who", name, "--since", since); !strings.Contains(table, filepath.Base(readlink(t, "/proc/self/exe"))) {
			t.Errorf("who, for people:\n%s", table)
		}
		// The connections there were.
		closed := 0
		for _, o := range a.objects("connection", "list", "--since", since, "fd.rport = "+port) {
			if o.str("conn.state") == "CLOSED" && o.str("fd.rip.name") == name {
				closed++
				if o.str("evt.count") != "" {
					closed++
				}
			}
		}
		if closed != 2 {
			t.Errorf("%d connections were closed, want 2:\n%s", closed, a.ok("connection", "list", "--since", since, "fd.rport = "+port))
		}
		// Who ran.
		at := moment.Format(time.RFC3339Nano)
		if tree := a.ok("process", "tree", "--at", at); strings.Count(tree, word) != 1 {
			t.Errorf("the tree at a moment of the past has the process %d times:\n%s", strings.Count(tree, word), tree)
		}
		if n := len(a.objects("process", "list", "--at", at, "proc.pid = "+strconv.Itoa(os.Getpid()))); n != 1 {
			t.Errorf("a process older than the agent was there %d times", n)
		}
		later := time.Now().Format(time.RFC3339Nano)
		if tree := a.ok("process", "tree", "--at", later); strings.Contains(tree, word) {
			t.Errorf("the tree of now has what has ended:\n%s", tree)
		}
		if st := a.ok("history", "status"); !strings.Contains(st, "reaches back") {
			t.Errorf("the history's state:\n%s", st)
		}
	}
	check(t, a, 0)
	done := time.Now()
	testkit.Wait(t, "a second after which nothing may be lost", func() bool { return time.Since(done) > 1100*time.Millisecond })
	if err := a.end(syscall.SIGKILL); err == nil {
		t.Error("killed, and yet no error")
	}
	b := a.again()
	t.Run("killed", func(t *testing.T) { check(t, b, 1) })
	if err := b.end(syscall.SIGTERM); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	c := a.again()
	t.Run("stopped", func(t *testing.T) { check(t, c, 2) })

	// Taken away, it is gone; what happens is kept again.
	if out := c.ok("history", "prune", "--before", "now", "--yes"); !strings.Contains(out, "taken away") {
		t.Error(out)
	}
	if left := c.objects("events", "--since", since, "proc.name = sh and proc.cmdline contains "+word); len(left) > 0 {
		t.Errorf("what was taken away is there: %v", left)
	}
	if r := c.warren("history", "prune", "--before", "1h"); r.code != 2 {
		t.Errorf("nobody was asked: exit code %d: %s", r.code, r.stderr)
	}
}

// TestE2EHistorySeam has processes start in a flood while somebody begins to look,
// from the past on: each is told once, in the order of their starts.
func TestE2EHistorySeam(t *testing.T) {
	const most = 3000
	a := start(t, options{})
	word := unique(t)
	since := time.Now().Format(time.RFC3339Nano)
	flood := shell(t, fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true %s-$i-; i=$((i+1)); done", most, word))
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "some of the flood in the history", func() bool {
		return len(a.objects("events", "--since", since, "--limit", "200", "evt.kind = exec and proc.args startswith "+word)) == 200
	})
	list := a.objects("events", "--since", since, "-f", "--limit", strconv.Itoa(most), "evt.kind = exec and proc.args startswith "+word)
	if err := flood.Wait(); err != nil {
		t.Fatal(err)
	}
	next, last := 0, uint64(0)
	for _, o := range list {
		if o.str("evt.kind") == "lost" {
			t.Fatalf("events were lost: %v", o)
		}
		num, err := strconv.ParseUint(o.str("evt.num"), 10, 64)
		if want := fmt.Sprintf("%s-%d-", word, next); err != nil || o.str("proc.args") != want || num <= last {
			t.Fatalf("event %d, number %d after %d, is %s, want %s", next, num, last, o.str("proc.args"), want)
		}
		next, last = next+1, num
	}
	if next != most {
		t.Errorf("%d events, want %d", next, most)
	}
}

// TestE2EHistoryWithoutRoom has an agent whose history cannot be: it says so, and
// what happens is shown all the same.
func TestE2EHistoryWithoutRoom(t *testing.T) {
	a := start(t, options{args: []string{"--history", "/proc/no/such"}})
	word := unique(t)
	f := a.follow("proc.cmdline contains " + word)
	if err := shell(t, "exit 0", word).Run(); err != nil {
		t.Fatal(err)
	}
	f.wait("the exit", func(o object) bool { return o.str("evt.kind") == "exit" })
	if n := strings.Count(a.out.String(), "nothing is kept for later"); n != 1 {
		t.Errorf("said %d times:\n%s", n, a.out)
	}
	if st := a.ok("status"); !strings.Contains(st, "the history fails: ") {
		t.Errorf("status does not tell:\n%s", st)
	}
	if r := a.warren("events", "--since", "1h"); r.code != 1 || !strings.Contains(r.stderr, "/proc/no/such") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if who := a.ok("who", "127.0.0.1"); strings.Contains(who, "/proc/no") {
		t.Error(who)
	}
	// A directory that can be used after all is used.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	late := start(t, options{args: []string{"--history", filepath.Join(file, "history")}})
	if st := late.ok("status"); !strings.Contains(st, "the history fails: ") {
		t.Errorf("status does not tell:\n%s", st)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "what happens in the history", func() bool {
		if late.warren("events", "--since", "1h").code != 0 {
			return false
		}
		if err := shell(t, "exit 0", word).Run(); err != nil {
			t.Fatal(err)
		}
		return len(late.objects("events", "--since", "1h", "evt.kind = exit and proc.cmdline contains "+word)) > 0
	})
	if st := late.ok("status"); strings.Contains(st, "the history fails: ") {
		t.Errorf("status tells of what is over:\n%s", st)
	}
	off := start(t, options{args: []string{"--history", "off"}})
	if r := off.warren("history", "status"); r.code != 1 || !strings.Contains(r.stderr, "keeps no history") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

// archived is what `warren history status` says of the archive.
func (a *agent) archived() (st struct {
	URL      string
	Segments int
	Waiting  int `json:"waiting_segments"`
	Error    string
	LastCopy time.Time `json:"last_copy"`
}) {
	a.t.Helper()
	var all struct{ Archive any }
	all.Archive = &st
	if err := json.Unmarshal([]byte(a.ok("history", "status", "-o", "json")), &all); err != nil {
		a.t.Fatal(err)
	}
	return st
}

// segmentsIn are the sealed files below a directory, with what is in them.
func segmentsIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "kind=*", "date=*", "*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(b)
	}
	return found
}

// sameSegments compares two directories, whose files nothing changes meanwhile.
func sameSegments(t *testing.T, history, archive string) {
	t.Helper()
	here, there := segmentsIn(t, history), segmentsIn(t, archive)
	if len(here) == 0 {
		t.Error("nothing is sealed")
	}
	for name, b := range here {
		if got, ok := there[name]; !ok || got != b {
			t.Errorf("%s is archived: %t, whole: %t", name, ok, got == b)
		}
	}
	for name := range there {
		if _, ok := here[name]; !ok {
			t.Errorf("%s is archived, and not in the history", name)
		}
	}
}

// TestE2EHistoryBucket has the history copied to a bucket that is away at first.
func TestE2EHistoryBucket(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("traces"); err != nil {
		t.Fatal(err)
	}
	var there atomic.Bool
	bucket := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !there.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		bucket.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("[default]\naws_access_key_id = AKIDTEST\naws_secret_access_key = hush-hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := start(t, options{config: "history:\n  segment-age: 1s\n  archive:\n    url: s3://traces/node?endpoint=" + server.URL + "\n    credentials: " + keys + "\n"})
	metric := func(line string) func() bool {
		return func() bool {
			metrics, err := a.get("/metrics")
			return err == nil && strings.Contains(string(metrics), "\n"+line)
		}
	}
	if err := shell(t, "exit 0", unique(t)).Run(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the bucket to be missed", metric("warren_archive_working 0"))
	there.Store(true)
	testkit.Wait(t, "the bucket to be found", metric("warren_archive_working 1"))
	testkit.Wait(t, "the programs in the bucket", func() bool {
		list, err := backend.ListBucket("traces", nil, gofakes3.ListBucketPage{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Contents, func(o *gofakes3.Content) bool {
			b, err := os.ReadFile(filepath.Join(a.dir, "state", "history", strings.TrimPrefix(o.Key, "node/")))
			return err == nil && int64(len(b)) == o.Size && strings.HasPrefix(o.Key, "node/kind=exec/")
		})
	})
	if st := a.archived(); st.LastCopy.IsZero() || st.Segments == 0 || strings.Contains(a.out.String(), "hush-hush") {
		t.Errorf("the archive's state: %+v; said:\n%s", st, a.out)
	}
}

// TestE2EHistoryArchive has the history copied to a directory that is not there at
// first: that is told once, and nothing else suffers; then each file is in both.
func TestE2EHistoryArchive(t *testing.T) {
	to := filepath.Join(t.TempDir(), "traces")
	a := start(t, options{config: "history:\n  archive:\n    url: file://" + to + "\n"})
	happen := func() {
		t.Helper()
		word := unique(t)
		f := a.follow("proc.cmdline contains " + word)
		if err := shell(t, "exit 0", word).Run(); err != nil {
			t.Fatal(err)
		}
		f.wait("the exit", func(o object) bool { return o.str("evt.kind") == "exit" })
		testkit.Wait(t, "the exit in the history", func() bool {
			return len(a.objects("events", "--since", "1h", "evt.kind = exit and proc.cmdline contains "+word)) == 1
		})
		a.ok("history", "prune", "--before", "5d", "--yes") // seals
	}
	happen()
	testkit.Wait(t, "the archive to fail", func() bool { st := a.archived(); return st.Error != "" && st.Waiting > 0 })
	happen()
	for _, args := range [][]string{{"status"}, {"history", "status"}} {
		if st := a.ok(args...); !strings.Contains(st, "archived to      file://"+to) || !strings.Contains(st, "no such file") || !strings.Contains(st, "waiting  ") {
			t.Errorf("%v does not tell:\n%s", args, st)
		}
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	idle := func(a *agent) func() bool {
		return func() bool {
			st := a.archived()
			return st.Error == "" && st.Waiting == 0 && st.Segments > 0
		}
	}
	testkit.Wait(t, "the archive", idle(a))
	history := filepath.Join(a.dir, "state", "history")
	sameSegments(t, history, to)
	if st := a.archived(); st.URL != "file://"+to || st.LastCopy.IsZero() {
		t.Errorf("the archive's state: %+v", st)
	}
	happen()
	testkit.Wait(t, "what is new in the archive", idle(a))
	sameSegments(t, history, to)
	for what, n := range map[string]int{"the history cannot be archived": 1, "the history is archived again": 1} {
		if got := strings.Count(a.out.String(), what); got != n {
			t.Errorf("said %q %d times, want %d:\n%s", what, got, n, a.out)
		}
	}

	// What comes after the next start is copied, by itself and soon; nothing else is.
	before := segmentsIn(t, to)
	if err := a.end(syscall.SIGTERM); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	if err := os.RemoveAll(filepath.Join(to, "kind=exec")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(a.dir, "config.yaml")
	if err := os.WriteFile(file, []byte("history:\n  segment-age: 1s\n  archive:\n    url: file://"+to+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := a.again("--config", file)
	word := unique(t)
	if err := shell(t, "exit 0", word).Run(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "an exec that is archived", func() bool {
		for name := range segmentsIn(t, to) {
			if _, old := before[name]; !old && strings.HasPrefix(name, "kind=exec/") {
				return true
			}
		}
		return false
	})
	testkit.Wait(t, "the archive", idle(b))
	for name := range before {
		if _, err := os.Stat(filepath.Join(to, name)); strings.HasPrefix(name, "kind=exec/") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s, which was archived: %v", name, err)
		}
	}
}
