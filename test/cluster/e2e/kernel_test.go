package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A kernelObject is of BPF.
type kernelObject struct {
	kind string // prog_id, map_id or link_id, as /proc has it
	id   uint32
}

// objectsIn reads what the files of /proc/PID/fdinfo say of BPF.
func objectsIn(pattern string) (map[kernelObject][]string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	all := make(map[kernelObject][]string)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(text)) {
			kind, value, _ := strings.Cut(line, ":")
			if id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32); err == nil && slices.Contains([]string{"prog_id", "map_id", "link_id"}, kind) {
				o := kernelObject{kind, uint32(id)}
				all[o] = append(all[o], name)
			}
		}
	}
	return all, nil
}

// heldBy gives what a process has of BPF.
func heldBy(t *testing.T, pid int) map[kernelObject]bool {
	t.Helper()
	files, err := objectsIn(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[kernelObject]bool)
	for o := range files {
		all[o] = true
	}
	return all
}

// lives tells whether the kernel still has it.
func (o kernelObject) lives() (bool, error) {
	command := map[string]uintptr{"prog_id": unix.BPF_PROG_GET_FD_BY_ID, "map_id": unix.BPF_MAP_GET_FD_BY_ID, "link_id": unix.BPF_LINK_GET_FD_BY_ID}[o.kind]
	attr := struct{ id, next, flags uint32 }{id: o.id}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&attr)
	switch {
	case errno == 0:
		return true, unix.Close(int(fd))
	case errors.Is(errno, unix.ENOENT):
		return false, nil
	}
	return false, errno
}

// holders says what an object is and who keeps it: processes, programs that use a
// map, links that have a program. It is for messages, and says what it can.
func (o kernelObject) holders() string {
	what, users := o.describe(), o.users()
	files, _ := objectsIn("/proc/[0-9]*/fdinfo/*")
	for _, name := range files[o] {
		pid := strings.Split(name, "/")[2]
		comm, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		users = append(users, fmt.Sprintf("process %s %s", pid, strings.TrimSpace(string(comm))))
	}
	if len(users) == 0 {
		users = []string{"neither a process nor a program, so a pin or the kernel"}
	}
	return what + ", kept by " + strings.Join(users, "; ")
}

func (o kernelObject) describe() string {
	switch o.kind {
	case "map_id":
		m, err := ebpf.NewMapFromID(ebpf.MapID(o.id))
		if err != nil {
			return err.Error()
		}
		defer func() { _ = m.Close() }()
		if info, err := m.Info(); err == nil {
			return fmt.Sprintf("map %q (%s)", info.Name, info.Type)
		}
	case "prog_id":
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id))
		if err != nil {
			return err.Error()
		}
		defer func() { _ = p.Close() }()
		if info, err := p.Info(); err == nil {
			return fmt.Sprintf("program %q (%s)", info.Name, info.Type)
		}
	}
	return o.kind
}

// users are the objects that keep another one.
func (o kernelObject) users() (all []string) {
	switch o.kind {
	case "map_id":
		for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
			p, err := ebpf.NewProgramFromID(id)
			if err != nil {
				continue
			}
			info, err := p.Info()
			_ = p.Close()
			if err != nil {
				continue
			}
			if ids, ok := info.MapIDs(); ok && slices.Contains(ids, ebpf.MapID(o.id)) {
				all = append(all, fmt.Sprintf("program %d %q", id, info.Name))
			}
		}
	case "prog_id":
		links := new(link.Iterator)
		defer links.Close()
		for links.Next() {
			if info, err := links.Link.Info(); err == nil && uint32(info.Program) == o.id {
				all = append(all, fmt.Sprintf("link %d (%v)", info.ID, info.Type))
			}
		}
	}
	return all
}

// sorted puts objects in the order of their kinds and numbers.
func sorted(objects map[kernelObject]bool) []kernelObject {
	return slices.SortedFunc(maps.Keys(objects), func(a, b kernelObject) int {
		if a.kind != b.kind {
			return strings.Compare(a.kind, b.kind)
		}
		return int(a.id) - int(b.id)
	})
}
