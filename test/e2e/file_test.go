package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

// stream starts a command that shows objects as they come, until the test ends,
// and returns when hooks are attached for it.
func (a *agent) stream(hooks []string, args ...string) *follower {
	a.t.Helper()
	f, _ := a.read(strings.Join(args, " "), a.t.Output(), args...)
	testkit.Wait(a.t, "hooks of "+f.filter, func() bool {
		status, err := a.get("/v1/status")
		if err != nil {
			return false
		}
		var s struct {
			Sensors []struct {
				Hooks []struct{ Name string }
			}
		}
		if err := json.Unmarshal(status, &s); err != nil {
			a.t.Fatalf("status: %v", err)
		}
		var there []string
		for _, sensor := range s.Sensors {
			for _, h := range sensor.Hooks {
				there = append(there, h.Name)
			}
		}
		return !slices.ContainsFunc(hooks, func(h string) bool { return !slices.Contains(there, h) })
	})
	return f
}

// TestE2EFileWatch: a file is followed by all of its names, and who asks for it in
// vain is seen.
func TestE2EFileWatch(t *testing.T) {
	a := start(t, options{})
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(at(name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) int {
		t.Helper()
		cmd := exec.Command(name, args...)
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	write("file")
	write("mounted")
	f := a.stream([]string{"file.open", "file.openat", "file.rename", "file.link", "file.remove", "file.mount"}, "file", "watch", at("file"))
	opened := func(pid int, name, res string) {
		t.Helper()
		f.wait(fmt.Sprintf("%s by %d: %s", name, pid, res), func(o object) bool {
			return o.str("evt.kind") == "open" && o.str("proc.pid") == strconv.Itoa(pid) && o.str("evt.res") == res && (o.str("fd.name") == name || o.str("fd.nameraw") == name)
		})
	}
	changed := func(call, name string) {
		t.Helper()
		f.wait(call+" of "+name, func(o object) bool {
			return strings.HasPrefix(o.str("evt.type"), call) && slices.ContainsFunc([]string{"fs.path.name", "fs.path.nameraw", "fs.path.source", "fs.path.sourceraw", "fs.path.target", "fs.path.targetraw"}, func(field string) bool {
				return o.str(field) == name || filepath.Base(o.str(field)) == filepath.Base(name) && !filepath.IsAbs(o.str(field))
			})
		})
	}

	opened(run("cat", at("file")), at("file"), "SUCCESS")
	if err := os.Link(at("file"), at("hard")); err != nil {
		t.Fatal(err)
	}
	changed("link", at("hard"))
	opened(run("cat", at("hard")), at("hard"), "SUCCESS")
	opened(run("unshare", "-m", "sh", "-c", `mount --bind "$0" "$1" && exec cat "$1"`, at("file"), at("mounted")), at("mounted"), "SUCCESS")

	// Away, by names that are relative to a descriptor, and from there again.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, names := range [][2]string{{"file", "moved"}, {"moved", "again"}} {
		if err := unix.Renameat(fd, names[0], fd, names[1]); err != nil {
			t.Fatal(err)
		}
		changed("rename", at(names[1]))
		opened(run("cat", at(names[1])), at(names[1]), "SUCCESS")
	}
	opened(run("cat", at("file")), at("file"), "ENOENT")

	// Another file in its place is followed too, and the former one still is.
	write("new")
	if err := os.Rename(at("new"), at("file")); err != nil {
		t.Fatal(err)
	}
	changed("rename", at("file"))
	opened(run("cat", at("file")), at("file"), "SUCCESS")
	opened(run("cat", at("again")), at("again"), "SUCCESS")

	// Who may not.
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opened(run("setpriv", "--reuid", "65534", "--clear-groups", "cat", at("file")), at("file"), "EACCES")
	if err := os.Remove(at("file")); err != nil {
		t.Fatal(err)
	}
	changed("unlink", at("file"))
}

// TestE2ECountBy: a flood of opens is counted where it happens, to the last one.
func TestE2ECountBy(t *testing.T) {
	a := start(t, options{})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	recorded := func() (n int64) {
		t.Helper()
		var s struct {
			Records []struct {
				Name      string
				Submitted int64
			}
		}
		status, err := a.get("/v1/status")
		if err == nil {
			err = json.Unmarshal(status, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range s.Records {
			if r.Name == "file.open" {
				n = r.Submitted
			}
		}
		return n
	}
	f := a.stream([]string{"file.open", "file.openat"}, "events", "--count-by", "proc.name,fd.directory", "evt.kind = open and fd.directory = "+dir)
	before := recorded()
	const rounds = 5000
	for range 2 {
		if err := shell(t, "i=0; while [ $i -lt "+strconv.Itoa(rounds)+` ]; do i=$((i+1)); : <"$0/f"; done`, dir).Run(); err != nil {
			t.Fatal(err)
		}
	}
	f.wait("all opens", func(o object) bool { return o.str("total") == strconv.Itoa(2*rounds) })
	if n := recorded() - before; n > rounds/10 {
		t.Errorf("%d records left the kernel", n)
	} else {
		t.Logf("RATIO %d records of %d opens", n, 2*rounds)
	}
	rows, _ := f.all()[len(f.all())-1]["rows"].([]any)
	if len(rows) != 1 || !strings.Contains(fmt.Sprint(rows[0]), "sh "+dir) {
		t.Errorf("rows %v", rows)
	}

	for expr, says := range map[string]string{
		"evt.kind = open and fd.name startswith /etc": "in the kernel    open",
		"evt.kind = open and fd.ino = 7":              `the kernel cannot count by "fd.ino = 7"`,
	} {
		if out := a.ok("filter", "explain", "--count-by", "proc.exe", expr); !strings.Contains(out, says) {
			t.Errorf("%s: %s", expr, out)
		}
	}
}

// TestE2EOpenFiles: what a process has open is shown with it.
func TestE2EOpenFiles(t *testing.T) {
	a := start(t, options{})
	path := filepath.Join(t.TempDir(), unique(t))
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if out := a.ok("process", "show", strconv.Itoa(os.Getpid())); !strings.Contains(out, path) {
		t.Errorf("no %s in:\n%s", path, out)
	}
}
