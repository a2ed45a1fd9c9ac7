package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A mount is a line of /proc/self/mountinfo.
type mount struct {
	root   string // what of the file system is mounted
	point  string // where
	fstype string
}

// mounts returns what is mounted in this process's mount namespace, in order.
func mounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads mountinfo: see proc(5). Lines that are not of that form are
// skipped.
func parseMounts(r io.Reader) ([]mount, error) {
	var out []mount
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		// 36 35 98:0 /root /point options [optional...] - type source options
		left, right, ok := strings.Cut(s.Text(), " - ")
		l, t := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(t) < 1 {
			continue
		}
		out = append(out, mount{root: unescape(l[3]), point: unescape(l[4]), fstype: t[0]})
	}
	return out, s.Err()
}

// unescape undoes mountinfo's \040 for bytes that would break its lines.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mounted returns a directory where the whole file system of that type is
// mounted, nil if there is none that can be opened.
func mounted(fstype string) (*os.File, error) {
	return findMount(fstype, func(m mount, _ *os.File) bool { return m.root == "/" })
}

// findMount returns the first directory where a file system of that type is
// mounted and that is wanted, nil if there is none that can be opened.
func findMount(fstype string, wanted func(mount, *os.File) bool) (*os.File, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.fstype != fstype {
			continue
		}
		f, err := os.Open(m.point)
		if err != nil {
			continue
		}
		// Another mount may lie over it.
		if isFS(f, fstype) && wanted(m, f) {
			return f, nil
		}
		f.Close()
	}
	return nil, nil
}

// fsMagic identifies file systems by statfs(2).
var fsMagic = map[string]int64{
	"tracefs":    unix.TRACEFS_MAGIC,
	"cgroup2":    unix.CGROUP2_SUPER_MAGIC,
	"securityfs": unix.SECURITYFS_MAGIC,
	"bpf":        unix.BPF_FS_MAGIC,
}

func isFS(f *os.File, fstype string) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == fsMagic[fstype]
}

// detachedMount mounts a file system nowhere: it can be reached through the
// returned directory only, and goes away with it. Nothing changes on the
// machine. It needs CAP_SYS_ADMIN.
func detachedMount(fstype string) (*os.File, error) {
	f, err := mountNowhere(fstype)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, &UnavailableError{Feature: fstype, Reason: "this kernel has no " + fstype, Err: err}
	case errors.Is(err, unix.EPERM):
		reason := fstype + " is not mounted, and mounting it needs CAP_SYS_ADMIN"
		if Effective().Has(unix.CAP_SYS_ADMIN) {
			reason = fstype + " is not mounted, and the kernel refuses to mount it here though CAP_SYS_ADMIN is there"
		}
		return nil, &UnavailableError{Feature: fstype, Reason: reason, Err: err}
	}
	return f, err
}

// mountNowhere is detachedMount without the words for its errors.
func mountNowhere(fstype string) (*os.File, error) {
	fsfd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, fmt.Errorf("fsconfig %s: %w", fstype, err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount %s: %w", fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// openFS returns the root of a kernel file system: where it is mounted, else
// mounted for us alone.
func openFS(fstype string) (*os.File, error) {
	f, err := mounted(fstype)
	if f != nil {
		return f, nil
	}
	d, derr := detachedMount(fstype)
	if derr != nil {
		return nil, errors.Join(derr, err)
	}
	return d, nil
}

// readAt reads a small file below dir.
func readAt(dir *os.File, name string) (string, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return strings.TrimSpace(string(b)), err
}
