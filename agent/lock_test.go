package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
