package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// locks are what keeps other agents off our state and our socket. The kernel
// lets go of them when the process ends, however it ends.
type locks []*os.File

// lockInstance makes the directories of an agent and takes them for us. The
// error names the process that has them already.
func lockInstance(cfg Config) (_ locks, err error) {
	var l locks
	defer func() {
		if err != nil {
			l.release()
		}
	}()
	// State is for root alone; the socket must be found by others.
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	for _, want := range []struct{ path, what, flag string }{
		{filepath.Join(cfg.State, "lock"), "state " + cfg.State, "--state"},
		{cfg.Socket + ".lock", "socket " + cfg.Socket, "--socket"},
	} {
		f, err := lockOfDying(want.path)
		if holder := (*heldError)(nil); errors.As(err, &holder) {
			return nil, fmt.Errorf("another agent%s uses the %s: to run a second one beside it, give it its own --instance or %s", holder.who(), want.what, want.flag)
		}
		if err != nil {
			return nil, fmt.Errorf("lock the %s: %w", want.what, err)
		}
		l = append(l, f)
	}
	return l, nil
}

// release lets others have them. The files stay: to remove a file that is
// locked lets two processes hold two locks of the same name.
func (l locks) release() {
	for _, f := range l {
		_ = f.Close() // nothing was written that could be lost
	}
}

// heldError says that another process has a lock.
type heldError struct{ pid int } // 0: unknown

// Error implements error.
func (e *heldError) Error() string { return "held" + e.who() }

func (e *heldError) who() string {
	if e.pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", e.pid)
}

// dyingTime is how long a lock is waited for whose holder is ending: one that was
// killed keeps it until the kernel has detached all its programs.
const dyingTime = 30 * time.Second

// lockOfDying takes the file at path, as lock does. Where a process that is ending
// has it, it waits for the end.
func lockOfDying(path string) (*os.File, error) {
	for begun := time.Now(); ; {
		f, err := lock(path)
		holder := (*heldError)(nil)
		if !errors.As(err, &holder) || !dying(holder.pid) || time.Since(begun) > dyingTime {
			return f, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// pfExiting is PF_EXITING of the kernel's include/linux/sched.h.
const pfExiting = 0x4

// dying reports whether a process is ending, or has just ended.
func dying(pid int) bool {
	if pid == 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return true
	}
	// pid (comm) state ppid pgrp session tty_nr tpgid flags ...; comm can have
	// anything in it.
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if err != nil || len(fields) < 7 {
		return false
	}
	flags, _ := strconv.ParseUint(fields[6], 10, 32)
	return flags&pfExiting != 0 || fields[0] == "Z" || fields[0] == "X"
}

// lock takes the file at path for this process, and writes its pid into it.
func lock(path string) (_ *os.File, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		b, _ := io.ReadAll(io.LimitReader(f, 32)) // who it is, is a courtesy
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return nil, &heldError{max(0, pid)}
	}
	if err != nil {
		return nil, fmt.Errorf("flock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, err
	}
	return f, nil
}
