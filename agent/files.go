package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"warren/api"
	"warren/event"
	"warren/sensor/process"
)

// openFiles answers what a process has open, in words.
func openFiles(f *process.Files) func(event.Key, int) ([]api.OpenFile, int, error) {
	return func(p event.Key, most int) ([]api.OpenFile, int, error) {
		files, total, err := f.Read(p, most)
		if err != nil {
			return nil, 0, err
		}
		list := make([]api.OpenFile, len(files))
		for i, x := range files {
			raw := api.RawFile{
				FD: x.FD, Flags: x.Flags, Mode: x.Mode, Inode: x.Inode, Dev: x.Dev, Magic: x.Magic, Pos: x.Pos,
				Path: x.Path, PathError: x.NoPath.String(), Nameless: x.Nameless, Outside: x.Outside, Deleted: x.Deleted,
			}
			if x.Thread != p.PID {
				raw.Thread = x.Thread
			}
			if s := x.Socket; s != nil {
				raw.Socket = &api.RawSocket{Family: s.Family, Type: s.Type, Protocol: s.Protocol, State: s.State, Local: end(s.Local, s.Path), Remote: end(s.Remote, s.PeerPath)}
			}
			list[i] = raw.OpenFile()
		}
		return list, total, nil
	}
}

// end writes one end of a socket: an address, or the name of a Unix socket. ""
// stands for none.
func end(a netip.AddrPort, name string) string {
	switch {
	case strings.HasPrefix(name, "\x00"):
		return "@" + name[1:]
	case name != "" || !a.IsValid() || a.Port() == 0 && a.Addr().IsUnspecified():
		return name
	}
	return a.String()
}

// locate says what a path of the host leads to. Device and inode are those that
// the kernel's own objects have: stat(2) tells of others on some file systems. k
// is the agent's own process.
func locate(root string, f *process.Files, k func() event.Key) func(string) (api.FileID, error) {
	return func(path string) (api.FileID, error) {
		fd, err := openBelow(root, path)
		if err != nil {
			return api.FileID{}, err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return api.FileID{}, fmt.Errorf("look at %s: %w", path, err)
		}
		id := api.FileID{Dev: uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev)), Ino: st.Ino, Dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
		// The name that the kernel has for it, as the host sees it.
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && root == "/" && filepath.IsAbs(target) {
			id.Path = target
		}
		files, _, err := f.Read(k(), 1<<16)
		if err != nil {
			return id, nil //nolint:nilerr // what stat says is right on most file systems
		}
		for _, x := range files {
			if x.FD == uint32(fd) {
				id.Dev, id.Ino = x.Dev, x.Inode
			}
		}
		return id, nil
	}
}

// openBelow opens a path as seen from a root directory, links included, to be
// looked at.
func openBelow(root, path string) (int, error) {
	if root == "/" {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("open %s: %w", path, err)
		}
		return fd, nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}
