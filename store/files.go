package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A file is what a log is written to and read from.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error // of what was written: fdatasync
}

// files makes files; tests have some that fail.
type files interface {
	create(path string) (file, error)
	open(path string) (file, error)
	syncDir(path string) error
}

// disk is the real one.
type disk struct{}

type diskFile struct{ *os.File }

func (f diskFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (disk) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// A LockedError says that another agent has the directory.
type LockedError struct {
	Dir    string
	Holder string // who, as far as it says: "pid 123 (/usr/bin/warren)"
}

// Error implements error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("history %s: in use by %s", e.Dir, e.Holder)
}

// lock takes the directory for this process, until the file is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir+"/lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		said, _ := io.ReadAll(io.LimitReader(f, 512)) // who has just begun has not said yet
		holder := strings.TrimSpace(string(said))
		if holder == "" {
			holder = "another process"
		}
		return nil, &LockedError{dir, holder}
	}
	exe, _ := os.Executable() // says who, where it can be said
	text := fmt.Sprintf("pid %d (%s)\n", os.Getpid(), exe)
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(text), 0) // on a full disk the lock holds all the same
	}
	return f, nil
}
