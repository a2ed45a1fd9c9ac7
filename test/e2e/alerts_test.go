package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"warren/internal/testkit"
)

// A hook receives alerts, as falcosidekick does.
type hook struct {
	*httptest.Server
	mu    sync.Mutex
	fails bool
	taken []string // outputs
}

func newHook(t *testing.T) *hook {
	h := &hook{fails: true}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var alert struct {
			Output, Rule string
			OutputFields map[string]any `json:"output_fields"`
		}
		if err != nil || json.Unmarshal(b, &alert) != nil {
			t.Errorf("not an alert: %q", b)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.fails {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if strings.HasPrefix(alert.Rule, "Warren: ") {
			return
		}
		name, _ := alert.OutputFields["fd.name"].(string)
		h.taken = append(h.taken, filepath.Base(name))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) take() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails = false
}

// got returns the files, by their numbers, that alerts were about.
func (h *hook) got() (list []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range h.taken {
		if n, err := strconv.Atoi(name); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// TestE2EAlertChannels has a receiver that fails while alerts come and while the
// agent is killed: when it takes them at last, all are there, once and in order.
func TestE2EAlertChannels(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte("- rule: canary\n  desc: d\n  condition: evt.type in (open, openat, creat) and evt.is_open_write = true and fd.name startswith "+dir+"/canary/\n"+
		"  output: '%proc.name wrote %fd.name'\n  priority: CRITICAL\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "canary"), 0o700); err != nil {
		t.Fatal(err)
	}
	h := newHook(t)
	channels := "rules: {aggregate: 0}\nalerts:\n  channels:\n    - {name: hook, type: webhook, url: '" + h.URL + "', retry: 50ms, max-retry: 200ms}\n"
	a := start(t, options{config: channels, args: []string{"--rules", dir}})
	// One process, so that there is one order.
	touch := func(from, to int) {
		t.Helper()
		if err := shell(t, `i=$1; while [ $i -lt $2 ]; do echo x > "$0/canary/$i"; i=$((i + 1)); done`, dir, strconv.Itoa(from), strconv.Itoa(to)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	// waits reports whether an alert about a file is written down.
	spool := filepath.Join(a.dir, "state", "alerts", "hook")
	waits := func(file string) bool {
		list, err := filepath.Glob(filepath.Join(spool, "*.spool"))
		return err == nil && slices.ContainsFunc(list, func(path string) bool {
			text, err := os.ReadFile(path)
			return err == nil && strings.Contains(string(text), dir+"/canary/"+file+`"`)
		})
	}
	attached := func(name string) { // the hooks come a moment after the agent answers
		t.Helper()
		testkit.Wait(t, "a first alert", func() bool {
			if err := shell(t, `echo x > "$0/canary/$1"`, dir, name).Run(); err != nil {
				t.Fatal(err)
			}
			return waits(name)
		})
	}
	attached("first")
	touch(0, 20)
	testkit.Wait(t, "all alerts to wait", func() bool { return waits("19") })
	if r := a.warren("alert", "test", "hook"); r.code != 1 || !strings.Contains(r.stderr, "answers 500") {
		t.Errorf("a test of the channel: %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if r := a.warren("alert", "test", "hok"); r.code != 1 || !strings.Contains(r.stderr, "channels are hook") {
		t.Errorf("a test of none: %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if out := a.ok("status"); !strings.Contains(out, "answers 500") {
		t.Errorf("status:\n%s", out)
	}
	_ = a.end(syscall.SIGKILL)

	b := newAgent(t, options{config: channels, args: []string{"--rules", dir, "--state", filepath.Join(a.dir, "state")}})
	b.launch()
	b.waitReady()
	attached("second")
	touch(20, 30)
	testkit.Wait(t, "all alerts to wait again", func() bool { return waits("29") })
	h.take()
	testkit.Wait(t, "all alerts", func() bool { return len(h.got()) >= 30 })
	want := make([]int, 30)
	for i := range want {
		want[i] = i
	}
	if got := h.got(); !slices.Equal(got, want) {
		t.Errorf("alerts about %v", got)
	}
	if out := b.ok("alert", "test", "hook"); !strings.Contains(out, "hook has taken it") {
		t.Errorf("a test of the channel: %s", out)
	}

	// A changed configuration is taken over; one with a mistake is not.
	config, file := filepath.Join(b.dir, "config.yaml"), filepath.Join(dir, "alerts.log")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(config+".new", config); err != nil {
			t.Fatal(err)
		}
	}
	write(channels + "    - {name: log, type: file, path: " + file + ", format: text}\n")
	testkit.Wait(t, "the new channel", func() bool { return b.warren("alert", "test", "log").code == 0 })
	write(channels + "    - {name: log, type: fil}\n")
	testkit.Wait(t, "a word about the mistake", func() bool { return strings.Contains(b.ok("status"), "did you mean file?") })
	touch(30, 31)
	testkit.Wait(t, "an alert in the file", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), ": Critical sh wrote "+dir+"/canary/30 container_id=") && strings.Contains(string(text), "This is a test of the channel log\n")
	})
}

// TestE2EAlertChannelsWrong refuses to start.
func TestE2EAlertChannelsWrong(t *testing.T) {
	a := newAgent(t, options{config: "alerts:\n  channels:\n    - {name: x, type: webhook}\n"})
	a.launch()
	<-a.ended
	if a.cmd.ProcessState.ExitCode() != 2 || !strings.Contains(a.out.String(), "config.yaml:3:7: channels: channel x: give url, or url-file") {
		t.Errorf("the agent ended with %v", a.err)
	}
}
