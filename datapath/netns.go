package datapath

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A home is the network namespace that a Datapath belongs to: interfaces have
// their numbers there.
type home struct {
	file  *os.File
	inode uint64
}

const threadNetns = "/proc/thread-self/ns/net"

// openHome is the network namespace of the calling thread.
func openHome() (*home, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	file, err := os.Open(threadNetns)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		file.Close()
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &home{file: file, inode: st.Ino}, nil
}

// do calls f on a thread that is at home.
func (h *home) do(f func() error) error {
	if h.here() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// The goroutine may have come to another thread in between.
		if h.here() {
			return f()
		}
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := errors.New("the function ended its goroutine")
		defer func() { result <- err }()
		if err = unix.Setns(int(h.file.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
	}()
	return <-result
}

// here says whether the calling thread is at home.
func (h *home) here() bool {
	var st unix.Stat_t
	return unix.Stat(threadNetns, &st) == nil && st.Ino == h.inode
}

func (h *home) close() error { return h.file.Close() }
