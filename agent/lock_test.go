package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"warren/internal/testkit"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	a := Config{State: filepath.Join(dir, "a", "state"), Socket: filepath.Join(dir, "a", "run", "s")}
	b := Config{State: filepath.Join(dir, "b", "state"), Socket: filepath.Join(dir, "b", "run", "s")}
	first, err := lockInstance(a)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(a.State)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o700 {
		t.Errorf("state directory has mode %v", fi.Mode())
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(a.State, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name          string
		state, socket string
		want          string // "" if it is let in
	}{
		{"both", a.State, a.Socket, "state " + a.State},
		{"state", a.State, b.Socket, "state " + a.State},
		{"state by another name", link, b.Socket, "state " + link},
		{"socket", b.State, a.Socket, "socket " + a.Socket},
		{"neither", b.State, b.Socket, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := lockInstance(Config{State: tt.state, Socket: tt.socket})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				l.release()
				return
			}
			want := fmt.Sprintf("another agent (pid %d) uses the %s: ", os.Getpid(), tt.want)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v\nwant %s...", err, want)
			}
		})
	}
	first.release()
	again, err := lockInstance(a)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again.release()
}

func TestLockRefusesLinks(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := lockInstance(Config{State: dir, Socket: filepath.Join(dir, "s")}); err == nil {
		t.Error("a lock that is a link was followed")
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the file behind it has become %q", b)
	}
}

// TestLockOfDying waits for the lock of a process that was killed, but for none of
// one that lives.
func TestLockOfDying(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockOfDying(path); err == nil || err.Error() != fmt.Sprintf("held (pid %d)", os.Getpid()) {
		t.Errorf("of one that lives: %v", err)
	}
	// A process that has ended, and that nobody has waited for, is dying.
	gone := exec.CommandContext(t.Context(), "/bin/true")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the end of a process", func() bool { return dying(gone.Process.Pid) })
	if _, err := held.WriteAt([]byte(fmt.Sprintf("%d       \n", gone.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		f, err := lockOfDying(path)
		if err == nil {
			f.Close()
		}
		got <- err
	}()
	held.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := gone.Wait(); err != nil {
		t.Error(err)
	}
	if dying(os.Getpid()) || dying(0) || !dying(1<<30) {
		t.Error("who is dying?")
	}
}
