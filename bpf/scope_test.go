package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

func TestBPFScope(t *testing.T) {
	testkit.NeedRoot(t)
	for _, root := range []string{"", "/"} {
		s, dir, err := openScope(root)
		if err != nil || dir != nil || !s.whole() || s != (scope{}) {
			t.Errorf("%q: %+v, %v", root, s, err)
		}
	}
	cg := testkit.NewCgroup(t, "outer")
	inner := cg.Path + "/in ner"
	if err := os.Mkdir(filepath.Join(cg.Dir, "in ner"), 0o755); err != nil {
		t.Fatal(err)
	}
	for level, root := range map[uint32]string{1: cg.Path, 2: inner} {
		s, dir, err := openScope(root)
		if err != nil {
			t.Fatal(err)
		}
		dir.Close()
		var st unix.Stat_t
		if err := unix.Stat(filepath.Dir(cg.Dir)+root, &st); err != nil {
			t.Fatal(err)
		}
		if want := (scope{path: root, id: st.Ino, level: level}); s != want || s.whole() {
			t.Errorf("%+v, want %+v", s, want)
		}
	}
}

// What is no subtree is refused with its name and what is wrong with it.
func TestBPFScopeRefused(t *testing.T) {
	needBPF(t)
	cg := testkit.NewCgroup(t, "x")
	const form = "want a path from the root of the cgroup hierarchy, like /k8s/node1"
	for _, tt := range []struct {
		root, want string
		err        error
	}{
		{"k8s/node1", form, unix.EINVAL},
		{cg.Path + "/", form, unix.EINVAL},
		{"//", form, unix.EINVAL},
		{cg.Path + "/../" + filepath.Base(cg.Path), form, unix.EINVAL},
		{"/a\x00b", form, unix.EINVAL},
		{filepath.Join(filepath.Dir(cg.Dir), cg.Path), "has no such control group", fs.ErrNotExist}, // the path of a mount
		{cg.Path + "/none", "has no such control group", fs.ErrNotExist},
		{cg.Path + "/cgroup.procs", "has no such control group", unix.ENOTDIR},
	} {
		r, err := NewRoad(Config{CgroupRoot: tt.root})
		if err == nil {
			r.Close()
		}
		var u *UnavailableError
		if !errors.As(err, &u) || !errors.Is(err, tt.err) || !strings.Contains(u.Reason, tt.want) || u.Feature != "cgroup root "+tt.root {
			t.Errorf("%q: %v", tt.root, err)
		}
	}
}

// TestBPFScopeInNamespace looks for the hierarchy as an agent in a container
// does, in a cgroup namespace and a mount namespace of its own: what the
// container's own mount shows is not the root, what the machine's shows is.
func TestBPFScopeInNamespace(t *testing.T) {
	testkit.NeedRoot(t)
	cg := testkit.NewCgroup(t, "container")
	for _, tt := range []struct{ name, mounts, want string }{
		{"the machine's", "all", "ok\n"},
		{"both, its own first", "both", "ok\n"},
		{"its own", "own", "cgroup hierarchy is unavailable: only a part of the cgroup hierarchy can be seen here, at %s: " +
			"in a container, the machine's /sys/fs/cgroup has to be mounted\n"},
		{"none", "none", "cgroup hierarchy is unavailable: only a part of the cgroup hierarchy can be seen here: " +
			"in a container, the machine's /sys/fs/cgroup has to be mounted\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := t.TempDir()
			cmd := testkit.Command(t, "scope", tt.mounts, at, cg.Path)
			var out strings.Builder
			cmd.Stdout = &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP}
			cg.Start(t, cmd)
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(tt.want, "%s", at); out.String() != want {
				t.Errorf("%q, want %q", out.String(), want)
			}
		})
	}
}

// helperScope MOUNTS DIR PATH mounts as a container's runtime would, finds the
// cgroup at PATH, and says how that went.
func helperScope(args []string) int {
	if err := arrangeMounts(args[0], args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s, dir, err := openScope(args[2])
	if err != nil {
		_, reason, _ := strings.Cut(err.Error(), args[2]+": ")
		fmt.Println(reason)
		return 0
	}
	var st unix.Stat_t
	switch err := unix.Fstat(int(dir.Fd()), &st); {
	case err != nil:
		fmt.Println(err)
	case s.id != st.Ino || s.level != 1:
		fmt.Printf("%+v, cgroup %d\n", s, st.Ino)
	default:
		fmt.Println("ok")
	}
	return 0
}

func arrangeMounts(which, at string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if which == "all" {
		return nil
	}
	all, err := mounts()
	if err != nil {
		return err
	}
	machine, err := openHierarchy()
	if err != nil {
		return err
	}
	defer machine.Close()
	tree, err := unix.OpenTree(int(machine.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	defer unix.Close(tree)
	for _, m := range all {
		if m.fstype == "cgroup2" {
			if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", m.point, err)
			}
		}
	}
	if which != "none" {
		if err := unix.Mount("cgroup2", at, "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount its own: %w", err)
		}
	}
	if which != "both" {
		return nil
	}
	// The machine's lies somewhere else, read-only.
	host := filepath.Join(filepath.Dir(at), "host")
	if err := os.MkdirAll(host, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, host, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move mount: %w", err)
	}
	return unix.Mount("", host, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}
