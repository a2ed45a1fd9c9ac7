package testkit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A Cgroup is a control group of a test.
type Cgroup struct {
	// Path is below the hierarchy's root, beginning with a slash, as
	// /proc/PID/cgroup has it.
	Path string
	// Dir is where it can be reached in this mount namespace.
	Dir string
}

// NewCgroup makes a cgroup below the root of the v2 hierarchy. name is added to
// it; the test's and the process's make it unique.
func NewCgroup(t testing.TB, name string) *Cgroup {
	t.Helper()
	return newCgroup(t, "cgroup2", "", name)
}

// NewCgroupV1 makes one in a v1 hierarchy (controller "pids"), or skips the test
// where the machine has none.
func NewCgroupV1(t testing.TB, controller, name string) *Cgroup {
	t.Helper()
	return newCgroup(t, "cgroup", controller, name)
}

func newCgroup(t testing.TB, fstype, controller, name string) *Cgroup {
	t.Helper()
	NeedRoot(t)
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root := cgroupMount(string(info), fstype, controller)
	switch {
	case root == "" && fstype == "cgroup":
		t.Skipf("this machine has no v1 hierarchy with %s", controller)
	case root == "":
		t.Fatal("cgroup2 is not mounted")
	}
	safe := strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())
	path := "/warren-" + safe + "-" + name
	c := &Cgroup{Path: path, Dir: filepath.Join(root, path)}
	if err := os.Mkdir(c.Dir, 0o755); err != nil {
		t.Fatalf("make cgroup: %v", err)
	}
	t.Cleanup(func() { c.remove(t) })
	return c
}

// cgroupMount finds the root of a hierarchy in the text of mountinfo.
func cgroupMount(mountinfo, fstype, controller string) string {
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 / /sys/fs/cgroup rw,noatime master:1 - cgroup2 cgroup2 rw,nsdelegate
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 3 || fields[3] != "/" || rest[0] != fstype {
			continue
		}
		if controller == "" || slices.Contains(strings.Split(rest[2], ","), controller) {
			return fields[4]
		}
	}
	return ""
}

// ID is the cgroup's number in the kernel.
func (c *Cgroup) ID(t testing.TB) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(c.Dir, &st); err != nil {
		t.Fatalf("stat cgroup: %v", err)
	}
	return st.Ino
}

// Start starts a command inside the cgroup, from its first instruction in v2.
// In v1 it is moved there right after: cmd should be a helper that waits.
func (c *Cgroup) Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	dir, err := os.Open(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		t.Fatalf("statfs cgroup: %v", err)
	}
	v2 := fs.Type == unix.CGROUP2_SUPER_MAGIC
	if v2 {
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start in cgroup: %v", err)
	}
	if !v2 {
		c.Add(t, cmd.Process.Pid)
	}
}

// Add moves a process into the cgroup.
func (c *Cgroup) Add(t testing.TB, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.Dir, "cgroup.procs"), []byte(itoa(pid)), 0); err != nil {
		t.Fatalf("move process into cgroup: %v", err)
	}
}

// remove kills what is left in the cgroup and those below it, and removes them.
func (c *Cgroup) remove(t testing.TB) {
	Wait(t, "the end of the processes of cgroup "+c.Path, func() bool {
		return errors.Is(removeTree(c.Dir), os.ErrNotExist)
	})
}

// removeTree removes a cgroup and those below it as far as that is possible
// now; the error of one that is gone is fs.ErrNotExist.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = removeTree(filepath.Join(dir, e.Name()))
		}
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(procs)) {
		// What is in a cgroup of ours was put there by the test.
		if n := atoi(pid); n > 1 {
			_ = unix.Kill(n, unix.SIGKILL)
		}
	}
	_ = unix.Rmdir(dir)
	_, err = os.Stat(dir)
	return err
}
