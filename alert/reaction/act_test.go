package reaction

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"warren/alert/channel"
	"warren/internal/testkit"
	"warren/settings"
)

// TestProgram runs programs that do what they should, and others.
func TestProgram(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	plain, open2 := file("plain", 0o644), file("open", 0o777)
	cfg := Config{Enabled: true, Programs: []string{"/bin/sh", plain, open2, dir, filepath.Join(dir, "none")}}
	s := open(t, cfg, nil)
	for _, test := range []struct{ name, reaction, want string }{
		{"its input and environment", `{program: [/bin/sh, -c, 'cat >$0/in; env >$0/env; pwd; echo said >&2', "` + dir + `"]}`, "done: / said"},
		{"a failure", `{program: [/bin/sh, -c, "echo no such host; exit 3"]}`, "failed: exit status 3: no such host"},
		{"one that never ends", `{program: [/bin/sh, -c, "sleep 1000"], timeout: 100ms}`, "failed: it took longer than 100ms, and was ended"},
		{"no end of output", `{program: [/bin/sh, -c, "while :; do echo 0123456789; done"], timeout: 300ms}`, "failed: it took longer than 300ms, and was ended*"},
		{"one that reads nothing", `{program: [/bin/sh, -c, "exec <&-"]}`, "done"},
		{"hostile output", `{program: [/bin/sh, -c, "printf 'a\\033[31m\\nb\\377'"]}`, "done: a[31m b"},
		{"a dry run", `{program: [/bin/sh, -c, "exit 1"], dry-run: true}`, "done dry"},
		{"a dry run of none", `{program: [` + dir + `/none], dry-run: true}`, "failed dry: stat " + dir + "/none: no such file or directory"},
		{"none", `{program: [` + dir + `/none]}`, "failed: stat " + dir + "/none: no such file or directory"},
		{"a directory", `{program: [` + dir + `]}`, "failed: " + dir + " is no program"},
		{"a text", `{program: [` + plain + `]}`, "failed: " + plain + " is no program"},
		{"one that anybody can change", `{program: [` + open2 + `]}`, "failed: " + open2 + " can be changed by others than its owner"},
		{"what it leaves behind", `{program: [/bin/sh, -c, 'sleep 1000 & echo $! >$0/left', "` + dir + `"]}`, "done"},
	} {
		r := ruleOf(t, test.name, test.reaction)
		s.alertOf(r, "a", nil)
		got := s.next(t)
		prefix := "a program " + strings.Join(r.Reactions[0].Program, " ") + " "
		said, ok := strings.CutPrefix(got, prefix)
		want, part := strings.CutSuffix(test.want, "*")
		if !ok || said != want && !(part && strings.HasPrefix(said, want)) || len(got) > len(prefix)+2*512 {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var alert struct{ Rule, UUID string }
	if in := read("in"); json.Unmarshal([]byte(in), &alert) != nil || alert.UUID != "a" || strings.Count(in, "\n") != 1 {
		t.Errorf("it read %q", in)
	}
	for line := range strings.Lines(read("env")) {
		if name, _, _ := strings.Cut(line, "="); name != "PATH" && name != "PWD" && name != "SHLVL" && name != "_" {
			t.Errorf("its environment has %q", line)
		}
	}
	left, err := strconv.Atoi(strings.TrimSpace(read("left")))
	if err != nil || left <= 1 {
		t.Fatal(left, err)
	}
	if err := syscall.Kill(left, syscall.SIGKILL); err != nil {
		t.Errorf("what it has left behind: %v", err)
	}
}

// TestProgramOfOthers runs no program in whose place others can put one.
func TestProgramOfOthers(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"own": 0o755, "open": 0o777, "sticky": 0o777 | os.ModeSticky} {
		must(os.Mkdir(at(name), 0o700))
		must(os.WriteFile(at(name+"/program"), []byte("#!/bin/sh\n"), 0o600))
		must(os.Chmod(at(name+"/program"), 0o755))
		must(os.Chmod(at(name), mode)) // whatever the umask is
	}
	must(os.Symlink(at("open/program"), at("own/there")))
	must(os.Symlink(at("own/program"), at("open/here")))
	changed := at("open") + " can be changed by others than its owner, who can have something else run"
	for name, want := range map[string]string{
		"own/program": "", "sticky/program": "", "open/program": changed, "own/there": changed, "open/here": changed,
	} {
		if err := runnable(at(name)); err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	must(os.Chown(at("own/program"), 4711, -1))
	if err := runnable(at("own/program")); err == nil || err.Error() != at("own/program")+" is of user 4711, who can have something else run" {
		t.Errorf("a program of somebody else: %v", err)
	}
}

// TestProgramEnds ends a program with all that it has started.
func TestProgramEnds(t *testing.T) {
	dir := t.TempDir()
	r := ruleOf(t, "r", `{program: [/bin/sh, -c, 'sleep 1000 & echo begun; echo $! >$0/new; mv $0/new $0/child; wait', "`+dir+`"]}`)
	ctx, cancel := context.WithCancelCause(t.Context())
	type outcome struct {
		said string
		err  error
	}
	over := make(chan outcome, 1)
	go func() {
		said, err := run(ctx, &r.Reactions[0], []byte("{}"), false)
		over <- outcome{said, err}
	}()
	var child string
	testkit.Wait(t, "the program", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "child"))
		child = strings.TrimSpace(string(b))
		return err == nil
	})
	cancel(errEnds)
	if got := <-over; got.said != "begun" || !errors.Is(got.err, errEnds) {
		t.Errorf("it ended with %+v", got)
	}
	// Somebody has to wait for a process that nobody has left: that it is a zombie is
	// as good as that it is gone.
	testkit.Wait(t, "the end of what it had started", func() bool {
		b, err := os.ReadFile(filepath.Join("/proc", child, "stat"))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

// TestWebhook calls webhooks whose receivers do what they should, and others.
func TestWebhook(t *testing.T) {
	var mu sync.Mutex
	tries := map[string]int{}
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var alert struct{ Rule, UUID string }
		if b, err := io.ReadAll(r.Body); err != nil || json.Unmarshal(b, &alert) != nil || alert.UUID != "a" || r.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("%s: %q with %v", r.URL.Path, b, r.Header)
		}
		mu.Lock()
		tries[r.URL.Path]++
		try := tries[r.URL.Path]
		mu.Unlock()
		switch r.URL.Path {
		case "/good":
			_, _ = io.WriteString(w, "thank\x1b you\n")
		case "/later":
			if try < 3 {
				http.Error(w, "not yet", http.StatusServiceUnavailable)
			}
		case "/never":
			http.Error(w, "no", http.StatusBadRequest)
		case "/busy":
			w.Header().Set("Retry-After", "3600")
			http.Error(w, "busy", http.StatusTooManyRequests)
		case "/moved":
			http.Redirect(w, r, "http://other.example/", http.StatusFound)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/hangs":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}
	}))
	defer server.Close()
	defer close(stop)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("Bearer x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Enabled: true}
	for _, name := range []string{"good", "later", "never", "busy", "moved", "endless", "hangs"} {
		w := channel.Config{Name: name, URL: server.URL + "/" + name, HeaderFiles: map[string]string{"Authorization": token}, Timeout: time.Minute}
		if name == "hangs" {
			w.Timeout = 50 * time.Millisecond
		}
		cfg.Webhooks = append(cfg.Webhooks, w)
	}
	s := open(t, cfg, nil)
	s.pause = time.Millisecond
	host := strings.TrimPrefix(server.URL, "http://")
	for name, want := range map[string]string{
		"good": "done: thank you", "later": "done by 3 attempts", "never": "failed: " + host + " answers 400 Bad Request: no",
		"busy": "failed: " + host + " answers 429 Too Many Requests: busy", "endless": "done",
		"moved": "failed by 3 attempts: " + host + " answers 302: it sends us on to http://other.example, which is not followed: give the right url",
		"hangs": "failed by 3 attempts: " + host + ": *", // wherever it was by then
	} {
		s.alertOf(ruleOf(t, "r", "{webhook: "+name+"}"), "a", nil)
		want, part := strings.CutSuffix("a webhook "+name+" "+want, "*")
		if got := s.next(t); got != want && !(part && strings.HasPrefix(got, want)) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	s.alertOf(ruleOf(t, "r", "{webhook: good, dry-run: true}"), "a", nil)
	got := s.next(t)
	mu.Lock()
	defer mu.Unlock()
	if got != "a webhook good done dry" || tries["/good"] != 1 {
		t.Errorf("%q after %d calls", got, tries["/good"])
	}
}

// TestConfig reads what is allowed.
func TestConfig(t *testing.T) {
	for text, want := range map[string]string{
		"{enabled: true, limit: 3/1h, programs: '/bin/a,/bin/b', pods: 'label,delete', labels: 'a,x.y/z', namespaces: 'shop', protected-namespaces: off, webhooks: [{name: a, url: 'http://a'}, {name: b, url-file: /b}]}": "",
		"{programs: a}":                           `a:1:12: programs: "a" is no absolute path of a program`,
		"{programs: '/bin/a,'}":                   `a:1:12: programs: "" is no absolute path of a program`,
		"{pods: restart}":                         `a:1:8: pods: "restart" is neither label nor delete`,
		"{pods: program}":                         `a:1:8: pods: "program" is neither label nor delete`,
		"{labels: 'a, b'}":                        `a:1:10: labels: " b" cannot be the key of a label`,
		"{namespaces: A}":                         `a:1:14: namespaces: "A" cannot be a namespace's name`,
		"{limit: 5}":                              `a:1:9: limit: "5" is no limit, like 5/1m: from 1 to 100000 times, in 1s to 24h`,
		"{webhooks: [{url: 'http://a'}]}":         "a:1:13: webhooks: a webhook has no name: give name",
		"{webhooks: [{name: a}]}":                 "a:1:13: webhooks: webhook a: give url, or url-file",
		"{webhooks: [{name: a, url: 'ftp://a'}]}": "a:1:28: url: this is no URL like https://HOST:PORT/PATH",
		"{webhooks: [{name: a, url: 'http://a', spool: off}]}":                 `a:1:40: no key "spool" under webhooks; keys are name, timeout, url, url-file, method, content-type, template, template-file, user-agent, headers, header-files, compress, tls`,
		"{webhooks: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]}": "a:1:41: webhooks: two webhooks have the name a",
	} {
		var c Config
		err := settings.Parse("a", []byte(text), Options(), &c)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s:\n%s, want\n%s", text, got, want)
		}
	}
	if err := (&Config{Enabled: true, Namespaces: []string{"a"}, Protected: []string{"a"}}).Check(); err == nil {
		t.Error("a namespace can be allowed and protected")
	}
	if err := (&Config{DryRun: true}).Check(); err == nil {
		t.Error("a dry run of nothing")
	}
}
