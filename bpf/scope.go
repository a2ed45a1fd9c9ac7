package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A scope is the part of the machine that a road is limited to: a subtree of
// the unified cgroup hierarchy. The zero value is the whole machine.
type scope struct {
	path  string // from the root of the hierarchy
	id    uint64 // the kernel's number of the cgroup at path
	level uint32 // how deep that is: 1 for /k8s
}

// whole reports whether the scope is the whole machine.
func (s scope) whole() bool { return s.path == "" }

// openScope finds the subtree at a path from the root of the hierarchy and
// opens its directory. Of the whole machine, "" or "/", it opens nothing: where
// the hierarchy is matters only once a program is attached there.
//
// A subtree that is removed and made again is another one to the kernel.
func openScope(root string) (scope, *os.File, error) {
	if root == "" || root == "/" {
		return scope{}, nil, nil
	}
	fail := func(reason string, err error) (scope, *os.File, error) {
		return scope{}, nil, &UnavailableError{Feature: "cgroup root " + root, Reason: reason, Err: err}
	}
	if !path.IsAbs(root) || path.Clean(root) != root || strings.ContainsRune(root, 0) {
		return fail("want a path from the root of the cgroup hierarchy, like /k8s/node1", unix.EINVAL)
	}
	top, err := openHierarchy()
	if err != nil {
		return scope{}, nil, fmt.Errorf("open cgroup root %s: %w", root, err)
	}
	defer top.Close()
	fd, err := unix.Openat(int(top.Fd()), root[1:], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return fail("the hierarchy at "+top.Name()+" has no such control group", err)
	case err != nil:
		return fail(err.Error(), err)
	}
	dir := os.NewFile(uintptr(fd), path.Join(top.Name(), root))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || !isFS(dir, "cgroup2") {
		dir.Close()
		return fail(dir.Name()+" is covered by another file system", err)
	}
	return scope{path: root, id: st.Ino, level: uint32(strings.Count(root, "/"))}, dir, nil
}

// openHierarchy returns the root of the unified cgroup hierarchy: where it is
// mounted, else mounted for us alone.
//
// What a mount shows is not told by mountinfo: to a process in a cgroup
// namespace of its own, as containers are, its own cgroup is called / and the
// true root /../.. or so.
func openHierarchy() (*os.File, error) {
	part := "" // where only a part of the hierarchy is mounted
	f, err := findMount("cgroup2", func(m mount, f *os.File) bool {
		if isHierarchyRoot(f) {
			return true
		}
		part = m.point
		return false
	})
	if f != nil {
		return f, nil
	}
	f, derr := detachedMount("cgroup2")
	if f != nil && isHierarchyRoot(f) {
		return f, nil
	}
	if f != nil {
		f.Close()
	} else if part == "" {
		return nil, errors.Join(derr, err)
	}
	reason := "only a part of the cgroup hierarchy can be seen here"
	if part != "" {
		reason += ", at " + part
	}
	return nil, &UnavailableError{Feature: "cgroup hierarchy", Err: derr,
		Reason: reason + ": in a container, the machine's /sys/fs/cgroup has to be mounted"}
}

// isHierarchyRoot reports whether a directory of a cgroup v2 file system is the
// root of the hierarchy: there alone the file cgroup.events is missing.
func isHierarchyRoot(dir *os.File) bool {
	return errors.Is(unix.Faccessat(int(dir.Fd()), "cgroup.events", unix.F_OK, 0), unix.ENOENT)
}
