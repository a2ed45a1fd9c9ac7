package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A waiter waits until a ring has woken the reader, somebody kicked it, or time
// is up. It is edge-triggered: data that is merely there wakes nobody, only the
// kernel's deliberate wake-ups do.
//
// The goroutine waits in the runtime's poller. A system call of its own would
// hold a thread, and each time the runtime would hand that thread's processor
// over and take it back: a quarter dearer, measured at a thousand waits a second.
type waiter struct {
	epoll  *os.File
	conn   syscall.RawConn
	events [numLanes + 1]unix.EpollEvent

	mu    sync.Mutex // so that a late kick meets no other file's number
	event int        // -1 when closed
}

func newWaiter(rings ...int) (w *waiter, err error) {
	w = &waiter{event: -1}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	// The runtime polls files that do not block.
	err = unix.SetNonblock(fd, true)
	w.epoll = os.NewFile(uintptr(fd), "epoll")
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if w.conn, err = w.epoll.SyscallConn(); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if w.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	for _, watched := range append([]int{w.event}, rings...) {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(watched)}
		if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, watched, &ev); err != nil {
			return nil, fmt.Errorf("watch ring: %w", err)
		}
	}
	return w, nil
}

// wait returns after at most d; woken says that a ring asked for it. One
// goroutine waits at a time.
func (w *waiter) wait(d time.Duration) (woken bool, err error) {
	if err := w.epoll.SetReadDeadline(time.Now().Add(d)); err != nil {
		return false, err
	}
	var n int
	var errWait error
	err = w.conn.Read(func(fd uintptr) (done bool) {
		n, errWait = unix.EpollWait(int(fd), w.events[:], 0)
		if errors.Is(errWait, unix.EINTR) {
			n, errWait = 0, nil
		}
		return n > 0 || errWait != nil
	})
	if err == nil {
		err = errWait
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	for _, e := range w.events[:max(n, 0)] {
		if int(e.Fd) != w.event {
			woken = true
		}
	}
	return woken, err
}

// kick ends the current wait, or the next.
func (w *waiter) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Each write is an edge, though nobody reads. It would fail only after 2^64
	// of them.
	one := [8]byte{1}
	_, _ = unix.Write(w.event, one[:])
}

func (w *waiter) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	if w.epoll != nil {
		errs = append(errs, w.epoll.Close())
	}
	if w.event >= 0 {
		errs = append(errs, unix.Close(w.event))
	}
	w.epoll, w.event = nil, -1
	return errors.Join(errs...)
}
