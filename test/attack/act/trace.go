package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// trace plays with a child of its own: "attach" seizes it, as a debugger would,
// "traceme" has it ask to be traced, and "nobody" goes on with one that is not
// traced.
func trace(args []string) error {
	how := at(args, 0)
	cmd := exec.Command("/proc/self/exe", "idle")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Ptrace: how == "traceme"}
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	switch how {
	case "attach":
		err = unix.PtraceAttach(pid)
	case "traceme":
		// It asked before it became another program.
	case "nobody":
		if err = unix.PtraceCont(pid, 0); errors.Is(err, unix.ESRCH) {
			err = nil
		}
	default:
		err = fmt.Errorf("trace how: %q?", how)
	}
	// What is traced stops for one reason or another, and more than once: it is
	// not let go on, but killed.
	err = errors.Join(err, cmd.Process.Kill(), input.Close())
	for {
		var status unix.WaitStatus
		_, waited := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(waited, unix.EINTR) || waited == nil && !status.Exited() && !status.Signaled() {
			continue
		}
		return errors.Join(err, waited)
	}
}
