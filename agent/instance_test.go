package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBPFSecondAgent(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	first := startAgent(t, filepath.Join(dir, "a"), "-http", "127.0.0.1:0").running(t)
	pid := first.cmd.Process.Pid
	state, socket := filepath.Join(dir, "a", "state"), filepath.Join(dir, "a", "run", "s")
	t.Run("same state and socket", func(t *testing.T) {
		startAgent(t, filepath.Join(dir, "a")).refused(t, fmt.Sprintf("another agent (pid %d) uses the state %s", pid, state))
	})
	t.Run("same state", func(t *testing.T) {
		startAgent(t, filepath.Join(dir, "b"), "-state", state).refused(t, fmt.Sprintf("another agent (pid %d) uses the state %s", pid, state))
	})
	t.Run("same socket", func(t *testing.T) {
		startAgent(t, filepath.Join(dir, "b"), "-socket", socket).refused(t, fmt.Sprintf("another agent (pid %d) uses the socket %s", pid, socket))
	})
	t.Run("same HTTP address", func(t *testing.T) {
		http := ""
		for _, l := range first.status(t).Listen {
			http, _ = strings.CutPrefix(l, "http://")
		}
		startAgent(t, filepath.Join(dir, "b"), "-http", http).refused(t, "listen on "+http+": the address is in use: give another with --http, or --http off")
	})
	t.Run("socket of another program", func(t *testing.T) {
		path := filepath.Join(dir, "other")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		startAgent(t, filepath.Join(dir, "b"), "-socket", path).refused(t, fmt.Sprintf("listen on %s: process %d listens there already", path, os.Getpid()))
	})
	t.Run("its own everything", func(t *testing.T) {
		second := startAgent(t, filepath.Join(dir, "b"), "-instance", "other").running(t)
		second.sees(t)
		first.sees(t)
		if code := second.stop(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("after a crash", func(t *testing.T) {
		if err := first.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-first.done
		if _, err := os.Lstat(socket); err != nil {
			t.Fatalf("the dead agent's socket: %v", err)
		}
		startAgent(t, filepath.Join(dir, "a")).running(t).sees(t)
	})
}
