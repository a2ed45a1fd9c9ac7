package agent

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"warren/internal/testkit"
)

// In a container the machine's files are behind its first process.
func TestHostRoot(t *testing.T) {
	testkit.NeedRoot(t)
	stay := func(flags uintptr) string {
		cmd := testkit.Command(t, "stay")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags}
		return startStay(t, cmd)
	}
	if got, err := hostRoot(stay(0)); got != "/" || err != nil {
		t.Errorf("beside us: %s, %v", got, err)
	}
	elsewhere := stay(syscall.CLONE_NEWNS)
	if got, err := hostRoot(elsewhere); got != filepath.Join(elsewhere, "root") || err != nil {
		t.Errorf("in another mount namespace: %s, %v", got, err)
	}
	if got, err := hostRoot("/proc/0"); got != "/" || err == nil {
		t.Errorf("nobody: %s, %v", got, err)
	}
}

// startStay starts a process that ends with the test, and returns its folder of
// /proc.
func startStay(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // how it ended does not matter
	})
	return fmt.Sprintf("/proc/%d", cmd.Process.Pid)
}
