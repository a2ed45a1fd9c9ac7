package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
)

func TestBPFArgs(t *testing.T) {
	w := observe(t)
	path := install(t, exits(0), "x")
	long := strings.Repeat("0123456789abcdef", 1024)
	for _, tt := range []struct {
		name string
		argv []string
		want []string // nil: argv
		cut  bool
	}{
		{name: "none but the name", argv: []string{"x"}},
		{name: "empty ones", argv: []string{"x", "", "", "a", ""}},
		{name: "only an empty one", argv: []string{""}},
		{name: "blanks, newlines, escapes", argv: []string{"a b", "line\nline", "\x1b[31mred", "\t"}},
		{name: "no UTF-8", argv: []string{"\xff\xfe", "a\x80b"}},
		{name: "32 KiB, all of it", argv: []string{"x", long, long[:16*1024-4]}},
		{name: "a byte more", argv: []string{"x", long, long[:16*1024-3]}, want: []string{"x", long, long[:16*1024-3]}, cut: true},
		{name: "64 KiB", argv: []string{"x", long, long, long, long}, want: []string{"x", long, long[:16*1024-3]}, cut: true},
		{name: "many", argv: slices.Repeat([]string{"y"}, 5000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := w.execOf(&exec.Cmd{Path: path, Args: tt.argv})
			want := tt.want
			if want == nil {
				want = tt.argv
			}
			if diff := cmp.Diff(want, p.Args); diff != "" || p.ArgsCut != tt.cut {
				t.Errorf("cut: %v; arguments (-want +got):\n%.2000s", p.ArgsCut, diff)
			}
		})
	}
}

func TestBPFScript(t *testing.T) {
	w := observe(t)
	dir := t.TempDir()
	interp := write(t, dir+"/interp", exits(0).elf(), 0o755)
	script := write(t, dir+"/script\n\xff", []byte("#!"+interp+" -x y\n"), 0o755)
	p := w.execOf(&exec.Cmd{Path: script, Args: []string{"other name", "arg"}})
	if p.Filename != script || p.Interp != interp || p.ExePath != interp || p.Name != "script\n\xff" {
		t.Errorf("%q %q %q %q", p.Filename, p.Interp, p.ExePath, p.Name)
	}
	if diff := cmp.Diff([]string{interp, "-x y", script, "arg"}, p.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

// What the inode of the executable tells.
func TestBPFInode(t *testing.T) {
	w := observe(t)
	path := install(t, exits(0), "x")
	for _, tt := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
		cred     *syscall.Credential
		writable bool
	}{
		{"owner may write", 0o755, 0, 0, nil, true},
		{"owner may not, capabilities do not count", 0o555, 0, 0, nil, false},
		{"owner may not though others may", 0o557, 0, 0, nil, false},
		{"group may", 0o775, 1, 2000, &syscall.Credential{Uid: 1000, Gid: 2000}, true},
		{"supplementary group may", 0o775, 1, 2000, &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{5, 1999, 2000, 2001, 40000}}, true},
		{"another group", 0o775, 1, 2000, &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{5, 1999, 2001}}, false},
		{"group may not though others may", 0o757, 1, 2000, &syscall.Credential{Uid: 1000, Gid: 2000}, false},
		{"all may", 0o757, 1, 2000, &syscall.Credential{Uid: 1000, Gid: 1000}, true},
		{"set-user-id", 0o755 | os.ModeSetuid, 0, 0, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.Chown(path, tt.uid, tt.gid); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: tt.cred}
			openWay(t, path)
			p := w.execOf(cmd)
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			dev := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev))
			if p.ExeInode != st.Ino || p.ExeDev != dev || p.ExeMode != st.Mode || p.ExeUID != st.Uid || p.ExeCtime != st.Ctim.Nano() || p.ExeMtime != st.Mtim.Nano() {
				t.Errorf("inode %d dev %#x mode %o uid %d ctime %d mtime %d; stat says %d %#x %o %d %d %d",
					p.ExeInode, p.ExeDev, p.ExeMode, p.ExeUID, p.ExeCtime, p.ExeMtime, st.Ino, dev, st.Mode, st.Uid, st.Ctim.Nano(), st.Mtim.Nano())
			}
			if p.ExeWritable != tt.writable {
				t.Errorf("writable: %v", p.ExeWritable)
			}
			if p.ExeDeleted || p.ExeMemfd || p.ExeUpper || p.ExeLower || p.ExeUnresolved {
				t.Errorf("%+v", p)
			}
		})
	}
}

// openWay lets every user reach a file of the test's.
func openWay(t testing.TB, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// lastExec runs the helper through actions and returns its last exec.
func (w *watch) lastExec(cmd *exec.Cmd) (*event.Exec, *event.Process) {
	w.t.Helper()
	pid := run(w.t, cmd)
	x, at := data[*event.Exec](w.of(pid))
	if len(x) != 2 {
		w.t.Fatalf("%d execs, want the helper's and another", len(x))
	}
	return x[1], at[1].Process
}

func TestBPFNamelessExe(t *testing.T) {
	w := observe(t)
	path := install(t, exits(0), "x")

	x, p := w.lastExec(testkit.Command(t, "do", "memfd|"+path+"|some name"))
	if x.Type != "execveat" || !p.ExeMemfd || !p.ExeDeleted || p.ExeUnresolved || p.ExePath != "memfd:some name" || !strings.HasPrefix(p.Filename, "/dev/fd/") {
		t.Errorf("memfd: %s %+v", x.Type, p)
	}
	x, p = w.lastExec(testkit.Command(t, "do", "execdeleted|"+path))
	if x.Type != "execveat" || p.ExeMemfd || !p.ExeDeleted || p.ExeUnresolved || p.ExePath != path {
		t.Errorf("deleted: %s %+v", x.Type, p)
	}
	// A file that only looks like one of memory.
	dir := t.TempDir()
	fake := write(t, dir+"/memfd:x", exits(0).elf(), 0o755)
	_, p = w.lastExec(testkit.Command(t, "do", "execdeleted|"+fake))
	if p.ExeMemfd || !p.ExeDeleted || p.ExePath != fake {
		t.Errorf("fake memfd: %+v", p)
	}
}

func TestBPFPaths(t *testing.T) {
	w := observe(t)
	path := install(t, exits(0), "x")
	name255 := strings.Repeat("n", 255)
	dig := func(name string, n int) []string {
		return slices.Repeat([]string{"dig|" + name}, n)
	}
	for _, tt := range []struct {
		name  string
		below []string
		depth string // of directories below the test's
		gone  bool
	}{
		{"200 levels", dig("0123456789abcde", 200), strings.Repeat("/0123456789abcde", 200), false},
		{"1000 levels", dig("a", 1000), strings.Repeat("/a", 1000), false},
		{"names of 255 bytes", dig(name255, 15), strings.Repeat("/"+name255, 15), false},
		{"newline, escape and no UTF-8", dig("a\n\x1b\xff b", 1), "/a\n\x1b\xff b", false},
		{"longer than a path may be", dig(name255, 20), "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := testkit.Command(t, "do", append(tt.below, "copy|"+path+"|y", "exec|./y")...)
			cmd.Dir = t.TempDir()
			_, p := w.lastExec(cmd)
			cwd, exe := cmd.Dir+tt.depth, cmd.Dir+tt.depth+"/y"
			if tt.gone {
				cwd, exe = "", ""
			}
			if p.Cwd != cwd || p.ExePath != exe || p.ExeUnresolved != tt.gone || p.Filename != "./y" {
				t.Errorf("cwd of %d bytes, want %d; executable of %d, want %d; unresolved %v\n%.300q", len(p.Cwd), len(cwd), len(p.ExePath), len(exe), p.ExeUnresolved, p.ExePath)
			}
		})
	}

	// To the byte: the longest path there can be, and one that is too long.
	for _, over := range []int{0, 1} {
		t.Run(fmt.Sprintf("4096 bytes and %d", over), func(t *testing.T) {
			dir := t.TempDir()
			var below []string
			left := 4096 - len(dir) - len("/y") + over
			for left > 0 {
				n := min(left-1, 200)
				if left-1-n == 1 {
					n-- // no room for a slash and a name
				}
				below = append(below, "dig|"+name255[:n])
				left -= n + 1
			}
			cmd := testkit.Command(t, "do", append(below, "copy|"+path+"|y", "exec|./y")...)
			cmd.Dir = dir
			_, p := w.lastExec(cmd)
			if want := 4096 * (1 - over); len(p.ExePath) != want || p.ExeUnresolved != (over == 1) {
				t.Errorf("executable of %d bytes, want %d; unresolved %v", len(p.ExePath), want, p.ExeUnresolved)
			}
		})
	}

	t.Run("root", func(t *testing.T) {
		cmd := exec.Command(path)
		cmd.Dir = "/"
		if p := w.execOf(cmd); p.Cwd != "/" {
			t.Errorf("cwd %q", p.Cwd)
		}
	})
	t.Run("chroot", func(t *testing.T) {
		cmd := exec.Command("/" + filepath.Base(path))
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: filepath.Dir(path)}
		if p := w.execOf(cmd); p.ExePath != "/x" || p.Cwd != "/" {
			t.Errorf("executable %q, cwd %q", p.ExePath, p.Cwd)
		}
	})
	t.Run("outside the chroot", func(t *testing.T) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		jail := t.TempDir()
		if err := os.Mkdir(jail+"/proc", 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := testkit.Command(t, "do", "bind|/proc|"+jail+"/proc", "chroot|"+jail, "exec|/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{f}
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if _, p := w.lastExec(cmd); p.ExePath != path || p.ExeUnresolved {
			t.Errorf("executable %q, unresolved %v", p.ExePath, p.ExeUnresolved)
		}
	})
	t.Run("bind mount", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := testkit.Command(t, "do", "bind|"+filepath.Dir(path)+"|"+dir+"/a/b", "chdir|"+dir+"/a/b", "exec|"+dir+"/a/b/x")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if _, p := w.lastExec(cmd); p.ExePath != dir+"/a/b/x" || p.Cwd != dir+"/a/b" {
			t.Errorf("executable %q, cwd %q", p.ExePath, p.Cwd)
		}
	})
	t.Run("mount of a file on a mount", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/m", 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := testkit.Command(t, "do", "bind|"+dir+"|"+dir+"/m", "copy|/dev/null|"+dir+"/m/f", "bind|"+path+"|"+dir+"/m/f", "exec|"+dir+"/m/f")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if _, p := w.lastExec(cmd); p.ExePath != dir+"/m/f" {
			t.Errorf("executable %q", p.ExePath)
		}
	})
	t.Run("unmounted", func(t *testing.T) {
		dir := t.TempDir()
		cmd := testkit.Command(t, "do", "bind|"+filepath.Dir(path)+"|"+dir, "chdir|"+dir, "detach|"+dir, "exec|./x")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if _, p := w.lastExec(cmd); p.ExePath != "" || !p.ExeUnresolved || p.Cwd != "" {
			t.Errorf("executable %q, unresolved %v, cwd %q", p.ExePath, p.ExeUnresolved, p.Cwd)
		}
	})
}

func TestBPFOverlay(t *testing.T) {
	w := observe(t)
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := write(t, dir+"/lower/image", exits(0).elf(), 0o755)
	write(t, dir+"/lower/changed", exits(0).elf(), 0o755)
	overlay := "overlay|" + strings.Join([]string{dir + "/lower", dir + "/upper", dir + "/work", dir + "/merged"}, "|")
	inside := func(actions ...string) *exec.Cmd {
		cmd := testkit.Command(t, "do", append([]string{overlay}, actions...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		return cmd
	}
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(b), "\toverlay\n") {
		t.Skipf("this kernel has no overlayfs: %v", err)
	}
	m := dir + "/merged/"
	for _, tt := range []struct {
		name  string
		cmd   *exec.Cmd
		exe   string
		upper bool
	}{
		{"of the image", inside("exec|" + m + "image"), m + "image", false},
		{"copied into it", inside("copy|"+path+"|"+m+"new", "exec|"+m+"new"), m + "new", true},
		{"changed in it", inside("chmod|"+m+"changed", "exec|"+m+"changed"), m + "changed", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, p := w.lastExec(tt.cmd); p.ExePath != tt.exe || p.ExeUpper != tt.upper || p.ExeLower == tt.upper {
				t.Errorf("%q, upper %v, lower %v", p.ExePath, p.ExeUpper, p.ExeLower)
			}
		})
	}
}

// A terminal of its own.
func TestBPFTerminal(t *testing.T) {
	w := observe(t)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this machine has no pseudo terminals")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd := exec.Command(install(t, exits(0), "x"))
	cmd.Stdin = slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := w.execOf(cmd)
	if want := uint32(136<<8 | n&0xff); p.TTY != want || p.SID != p.PID || p.PGID != p.PID {
		t.Errorf("terminal %#x, session %d, group %d of process %d; want terminal %#x", p.TTY, p.SID, p.PGID, p.PID, want)
	}
}

// Inside a pid namespace, in a session and group from outside and its own.
func TestBPFPidNamespace(t *testing.T) {
	w := observe(t)
	path := install(t, exits(0), "x")
	for _, own := range []bool{false, true} {
		cmd := exec.Command(path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setsid: own}
		p := w.execOf(cmd)
		var want uint32
		if own {
			want = 1
		}
		if p.VPID != 1 || p.VSID != want || p.VPGID != want || p.PidNS == nsOf(t, "thread-self", "pid") {
			t.Errorf("pid %d, session %d, group %d in namespace %d; want 1, %d, %d", p.VPID, p.VSID, p.VPGID, p.PidNS, want, want)
		}
	}
}
