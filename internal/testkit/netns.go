package testkit

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A Netns is a network namespace of a test, with its loopback up and nothing
// else in it.
type Netns struct{ file *os.File }

// NewNetns makes a network namespace that ends with the test and with the
// processes and sockets in it.
func NewNetns(t testing.TB) *Netns {
	t.Helper()
	NeedRoot(t)
	var file *os.File
	err := throwaway(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := linkUp("lo"); err != nil {
			return err
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &Netns{file: file}
}

// FD is the namespace, open until the test ends.
func (n *Netns) FD() int { return int(n.file.Fd()) }

// Inode is the namespace's number.
func (n *Netns) Inode(t testing.TB) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(n.FD(), &st); err != nil {
		t.Fatalf("stat network namespace: %v", err)
	}
	return uint32(st.Ino)
}

// Do calls f on a thread inside the namespace and gives its error. Sockets that
// f opens and processes that it starts belong there; goroutines that it starts
// do not.
func (n *Netns) Do(f func() error) error {
	return throwaway(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// throwaway runs f on a thread that ends with it, so that whatever f does to
// its thread harms nobody.
func throwaway(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := errors.New("the function ended its goroutine")
		defer func() { result <- err }()
		err = f()
	}()
	return <-result
}

func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return fmt.Errorf("flags of %s: %w", name, err)
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}
