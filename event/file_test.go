package event

import (
	"encoding/json"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// values holds the fields of an event against what they are to be; "" is none.
func values(t *testing.T, d Data, want map[string]string) {
	t.Helper()
	var have map[string]any
	if err := json.Unmarshal(AppendJSON(nil, &Event{Data: d}), &have); err != nil {
		t.Fatal(err)
	}
	for name, want := range want {
		f, ok := Lookup(name)
		if !ok {
			t.Errorf("no field %s", name)
			continue
		}
		b, ok, _ := appendValue(nil, f, &Event{Data: d}, 0)
		got := strings.Trim(string(b), `"`)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
		if _, there := have[name]; there != (want != "" && !f.Virtual) {
			t.Errorf("%s in JSON: %t", name, there)
		}
	}
}

func TestOpenFields(t *testing.T) {
	values(t, &Open{
		Type: "openat", RawRes: 3, Name: "/etc/ssh/sshd_config", NameRaw: "../ssh/sshd_config", Dir: AtCwd,
		Flags: unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC | OpenCreated | OpenUpper, Mode: 0o640,
		FileObject: FileObject{Inode: 12, Dev: 5, FileMode: unix.S_IFREG | 0o600, Links: 2},
		Read:       true, Write: true, Create: true,
	}, map[string]string{
		"evt.res": "SUCCESS", "fd.num": "3", "fd.name": "/etc/ssh/sshd_config", "fd.nameraw": "../ssh/sshd_config", "fd.directory": "/etc/ssh", "fd.filename": "sshd_config",
		"fd.type": "file", "fd.typechar": "f", "fd.ino": "12", "fd.dev": "5", "fs.path.name": "/etc/ssh/sshd_config", "fs.path.nameraw": "../ssh/sshd_config",
		"evt.arg.flags": "O_CREAT|O_RDWR|O_CLOEXEC|O_F_CREATED|FD_UPPER_LAYER", "evt.arg.mode": "0640", "evt.arg.name": "/etc/ssh/sshd_config", "evt.arg.dirfd": "AT_FDCWD",
		"evt.is_open_read": "true", "evt.is_open_write": "true", "evt.is_open_exec": "false", "evt.is_open_create": "true", "evt.io_uring": "",
		"fd.name_unresolved": "", "fd.name_error": "", "fd.name_mismatch": "", "file.type": "regular", "file.mode": "0600", "file.uid": "0", "file.links": "2", "file.deleted": "",
		"fd.containername": "", "fd.containerdirectory": "",
	})
	values(t, &Open{Type: "open", Res: 2, RawRes: -2, NameRaw: "/none", NoName: true, Error: PathFailed, Flags: unix.O_WRONLY, Write: true}, map[string]string{
		"evt.res": "ENOENT", "evt.rawres": "-2", "fd.num": "", "fd.name": "", "fd.nameraw": "/none", "fd.name_unresolved": "true", "fd.name_error": "failed", "fd.type": "", "fd.typechar": "",
		"fd.directory": "", "fd.filename": "", "fd.ino": "", "file.type": "", "file.mode": "", "file.uid": "", "evt.arg.name": "/none", "evt.arg.dirfd": "", "evt.arg.mode": "", "evt.arg.flags": "O_WRONLY",
	})
	values(t, &Open{Type: "openat", RawRes: 4, Name: "/", Dir: 7, FileObject: FileObject{FileMode: unix.S_IFDIR | 0o755}}, map[string]string{
		"fd.directory": "/", "fd.filename": "", "fd.type": "directory", "fd.typechar": "d", "evt.arg.flags": "O_RDONLY", "evt.arg.dirfd": "7",
	})
}

func TestOpenFlags(t *testing.T) {
	for want, flags := range map[string]uint64{
		"O_RDONLY":                                      0,
		"O_SYNC|O_WRONLY":                               unix.O_SYNC | unix.O_WRONLY,
		"O_DSYNC|O_RDONLY":                              unix.O_DSYNC,
		"O_RDWR|O_TMPFILE":                              unix.O_TMPFILE | unix.O_RDWR,
		"O_DIRECTORY|O_NOFOLLOW|O_PATH":                 unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW,
		"O_RDWR":                                        3,
		"O_LARGEFILE|O_RDONLY|FD_LOWER_LAYER":           0o100000 | OpenLower,
		"O_DIRECT|O_NONBLOCK|O_APPEND|O_WRONLY":         unix.O_DIRECT | unix.O_NONBLOCK | unix.O_APPEND | unix.O_WRONLY,
		"O_EXCL|O_RDONLY|O_NOATIME|O_NOCTTY|0x10000000": unix.O_EXCL | unix.O_NOATIME | unix.O_NOCTTY | 1<<28,
	} {
		if got := string(appendOpenFlags(nil, flags)); got != want {
			t.Errorf("%#x is %q, want %q", flags, got, want)
		}
	}
}

func TestFileFields(t *testing.T) {
	values(t, &File{Type: "renameat2", FD: -1, Dir: AtCwd, NewDir: 5, Source: "/a/b", SourceRaw: "b", Target: "/c/d", TargetRaw: "d", Flags: unix.RENAME_EXCHANGE}, map[string]string{
		"fs.path.name": "", "fs.path.source": "/a/b", "fs.path.target": "/c/d", "evt.arg.oldpath": "/a/b", "evt.arg.newpath": "/c/d", "evt.arg.path": "", "evt.arg.dirfd": "AT_FDCWD", "evt.arg.newdirfd": "5",
		"evt.arg.flags": "RENAME_EXCHANGE", "fd.num": "", "fd.name": "", "evt.arg.mode": "", "evt.arg.uid": "", "evt.arg.length": "", "evt.arg.target": "",
	})
	values(t, &File{Type: "symlinkat", FD: -1, NewDir: AtCwd, Source: "../x", SourceRaw: "../x", TargetRaw: "l", NoName: true, Error: PathUnproven}, map[string]string{
		"fs.path.source": "../x", "fs.path.target": "", "fs.path.targetraw": "l", "evt.arg.target": "../x", "evt.arg.linkpath": "l", "evt.arg.oldpath": "", "evt.arg.newpath": "", "evt.arg.newdirfd": "AT_FDCWD",
		"fd.name_error": "unproven", "fd.name_unresolved": "true",
	})
	values(t, &File{Type: "unlinkat", FD: -1, Dir: 3, Name: "/t/x", NameRaw: "x", Flags: unix.AT_REMOVEDIR}, map[string]string{
		"evt.arg.name": "/t/x", "evt.arg.path": "", "evt.arg.flags": "AT_REMOVEDIR", "evt.arg.dirfd": "3", "fs.path.nameraw": "x",
	})
	values(t, &File{Type: "unlink", FD: -1, NameRaw: "x"}, map[string]string{"evt.arg.path": "x", "evt.arg.name": "", "evt.arg.dirfd": ""})
	values(t, &File{Type: "fchmod", FD: 4, FDName: "/t/x", Name: "/t/x", Mode: 0o4711}, map[string]string{
		"evt.arg.mode": "S_IXOTH|S_IXGRP|S_IXUSR|S_IWUSR|S_IRUSR|S_ISUID", "fd.num": "4", "fd.name": "/t/x", "fd.directory": "/t", "fd.filename": "x",
	})
	values(t, &File{Type: "chmod", FD: -1, Name: "/t/x"}, map[string]string{"evt.arg.filename": "/t/x", "fd.name": "", "fd.directory": ""})
	values(t, &File{Type: "mkdirat", FD: -1, Dir: AtCwd, Name: "/t/d", Mode: 0o755}, map[string]string{"evt.arg.mode": "0755", "evt.arg.path": "/t/d"})
	values(t, &File{Type: "fchownat", FD: -1, Dir: AtCwd, Name: "/t/x", UID: 0, GID: 1<<32 - 1, Flags: unix.AT_SYMLINK_NOFOLLOW}, map[string]string{
		"evt.arg.uid": "0", "evt.arg.gid": "4294967295", "evt.arg.pathname": "/t/x", "evt.arg.flags": "AT_SYMLINK_NOFOLLOW",
	})
	values(t, &File{Type: "ftruncate", FD: 4, Size: 0}, map[string]string{"evt.arg.length": "0", "evt.arg.uid": ""})
}

func TestMountFields(t *testing.T) {
	values(t, &Mount{Type: "mount", Source: "tmpfs", SourceRaw: "tmpfs", Target: "/mnt", TargetRaw: "mnt", FSType: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV}, map[string]string{
		"evt.arg.dev": "tmpfs", "evt.arg.dir": "/mnt", "evt.arg.type": "tmpfs", "evt.arg.flags": "NOSUID|NODEV", "fs.path.name": "/mnt", "fs.path.nameraw": "mnt", "fs.path.source": "tmpfs", "evt.arg.name": "",
	})
	values(t, &Mount{Type: "umount2", TargetRaw: "mnt", Flags: unix.MNT_DETACH, Res: 22, RawRes: -22, NoName: true, Error: PathFailed}, map[string]string{
		"evt.arg.name": "mnt", "evt.arg.dir": "", "evt.arg.flags": "DETACH", "evt.res": "EINVAL",
	})
	values(t, &Mount{Type: "move_mount", Target: "/mnt", Flags: unix.MOVE_MOUNT_F_EMPTY_PATH}, map[string]string{"evt.arg.flags": "MOVE_MOUNT_F_EMPTY_PATH", "evt.arg.dir": "/mnt"})
}

func TestFileCloseFields(t *testing.T) {
	values(t, &FileClose{Type: "close", By: "exit", FD: 0, Name: "/t/x", FileObject: FileObject{FileMode: unix.S_IFREG | 0o644, Inode: 9}}, map[string]string{
		"fd.num": "0", "evt.closed_by": "exit", "fd.name": "/t/x", "fd.directory": "/t", "fd.filename": "x", "fd.type": "file", "fs.path.name": "/t/x", "file.size": "0", "fd.ino": "9",
	})
}

func TestPathErrors(t *testing.T) {
	for p := PathKnown; p < numPathErrors; p++ {
		if (p.String() == "") != (p == PathKnown) {
			t.Errorf("%d is %q", p, p.String())
		}
	}
	if got := numPathErrors.String(); got != "7" {
		t.Errorf("one that there is not is %q", got)
	}
}
