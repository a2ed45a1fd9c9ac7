package event

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// A flagName is a bit of a system call's argument and what Falco calls it.
type flagName struct {
	bit  uint64
	name string
}

// cloneFlags are the flags of clone(2), in Falco's order.
var cloneFlags = []flagName{
	{unix.CLONE_FILES, "CLONE_FILES"},
	{unix.CLONE_FS, "CLONE_FS"},
	{unix.CLONE_IO, "CLONE_IO"},
	{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	{unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{unix.CLONE_NEWNS, "CLONE_NEWNS"},
	{unix.CLONE_NEWPID, "CLONE_NEWPID"},
	{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
	{unix.CLONE_PARENT, "CLONE_PARENT"},
	{unix.CLONE_PARENT_SETTID, "CLONE_PARENT_SETTID"},
	{unix.CLONE_PTRACE, "CLONE_PTRACE"},
	{unix.CLONE_SIGHAND, "CLONE_SIGHAND"},
	{unix.CLONE_SYSVSEM, "CLONE_SYSVSEM"},
	{unix.CLONE_THREAD, "CLONE_THREAD"},
	{unix.CLONE_UNTRACED, "CLONE_UNTRACED"},
	{unix.CLONE_VM, "CLONE_VM"},
	{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
	{unix.CLONE_CHILD_CLEARTID, "CLONE_CHILD_CLEARTID"},
	{unix.CLONE_CHILD_SETTID, "CLONE_CHILD_SETTID"},
	{unix.CLONE_SETTLS, "CLONE_SETTLS"},
	{unix.CLONE_VFORK, "CLONE_VFORK"},
	{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
	{unix.CLONE_PIDFD, "CLONE_PIDFD"},
	{unix.CLONE_CLEAR_SIGHAND, "CLONE_CLEAR_SIGHAND"},
	{unix.CLONE_INTO_CGROUP, "CLONE_INTO_CGROUP"},
	{unix.CLONE_NEWTIME, "CLONE_NEWTIME"}, // clone3 only, and unknown to Falco
}

// openFlags are the flags of open(2), in Falco's order, and what it adds to them.
// O_RDWR is not a bit but both of the access modes: see appendOpenFlags.
var openFlags = []flagName{
	{0o100000, "O_LARGEFILE"},
	{unix.O_DIRECTORY, "O_DIRECTORY"},
	{unix.O_DIRECT, "O_DIRECT"},
	{unix.O_TRUNC, "O_TRUNC"},
	{unix.O_SYNC &^ unix.O_DSYNC, "O_SYNC"},
	{unix.O_NONBLOCK, "O_NONBLOCK"},
	{unix.O_EXCL, "O_EXCL"},
	{unix.O_DSYNC, "O_DSYNC"},
	{unix.O_APPEND, "O_APPEND"},
	{unix.O_CREAT, "O_CREAT"},
	{openReadWrite, "O_RDWR"},
	{openWriteOnly, "O_WRONLY"},
	{openReadOnly, "O_RDONLY"},
	{unix.O_CLOEXEC, "O_CLOEXEC"},
	{unix.O_TMPFILE &^ unix.O_DIRECTORY, "O_TMPFILE"},
	{OpenCreated, "O_F_CREATED"},
	{OpenUpper, "FD_UPPER_LAYER"},
	{OpenLower, "FD_LOWER_LAYER"},
	{unix.O_NOFOLLOW, "O_NOFOLLOW"}, // this and what follows is unknown to Falco
	{unix.O_NOATIME, "O_NOATIME"},
	{unix.O_NOCTTY, "O_NOCTTY"},
	{unix.O_PATH, "O_PATH"},
}

// Access modes are numbers; as bits they stand where no flag is.
const (
	openReadOnly uint64 = 1 << (60 + iota)
	openWriteOnly
	openReadWrite
)

func appendOpenFlags(b []byte, flags uint64) []byte {
	access := [...]uint64{openReadOnly, openWriteOnly, openReadWrite, openReadWrite}[flags&unix.O_ACCMODE]
	if flags&unix.O_PATH != 0 {
		access = 0
	}
	flags = flags&^unix.O_ACCMODE | access
	if flags&unix.O_SYNC == unix.O_SYNC {
		flags &^= unix.O_DSYNC // which is a part of it
	}
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		flags &^= unix.O_DIRECTORY // as well
	}
	return appendFlags(b, flags, openFlags)
}

// modeNames are the bits of a mode, in Falco's order.
var modeNames = []flagName{
	{unix.S_IXOTH, "S_IXOTH"}, {unix.S_IWOTH, "S_IWOTH"}, {unix.S_IROTH, "S_IROTH"},
	{unix.S_IXGRP, "S_IXGRP"}, {unix.S_IWGRP, "S_IWGRP"}, {unix.S_IRGRP, "S_IRGRP"},
	{unix.S_IXUSR, "S_IXUSR"}, {unix.S_IWUSR, "S_IWUSR"}, {unix.S_IRUSR, "S_IRUSR"},
	{unix.S_ISVTX, "S_ISVTX"}, {unix.S_ISGID, "S_ISGID"}, {unix.S_ISUID, "S_ISUID"},
}

// Flags of calls that take few.
var (
	unlinkFlags = []flagName{{unix.AT_REMOVEDIR, "AT_REMOVEDIR"}}
	renameFlags = []flagName{{unix.RENAME_NOREPLACE, "RENAME_NOREPLACE"}, {unix.RENAME_EXCHANGE, "RENAME_EXCHANGE"}, {unix.RENAME_WHITEOUT, "RENAME_WHITEOUT"}}
	atFlags     = []flagName{{unix.AT_SYMLINK_FOLLOW, "AT_SYMLINK_FOLLOW"}, {unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"}, {unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"}}
	mountFlags  = []flagName{
		{unix.MS_RDONLY, "RDONLY"}, {unix.MS_NOSUID, "NOSUID"}, {unix.MS_NODEV, "NODEV"}, {unix.MS_NOEXEC, "NOEXEC"},
		{unix.MS_SYNCHRONOUS, "SYNCHRONOUS"}, {unix.MS_REMOUNT, "REMOUNT"}, {unix.MS_MANDLOCK, "MANDLOCK"}, {unix.MS_DIRSYNC, "DIRSYNC"},
		{unix.MS_NOATIME, "NOATIME"}, {unix.MS_NODIRATIME, "NODIRATIME"}, {unix.MS_BIND, "BIND"}, {unix.MS_MOVE, "MOVE"},
		{unix.MS_REC, "REC"}, {unix.MS_SILENT, "SILENT"}, {unix.MS_POSIXACL, "POSIXACL"}, {unix.MS_UNBINDABLE, "UNBINDABLE"},
		{unix.MS_PRIVATE, "PRIVATE"}, {unix.MS_SLAVE, "SLAVE"}, {unix.MS_SHARED, "SHARED"}, {unix.MS_RELATIME, "RELATIME"},
		{unix.MS_KERNMOUNT, "KERNMOUNT"}, {unix.MS_I_VERSION, "I_VERSION"}, {unix.MS_STRICTATIME, "STRICTATIME"}, {unix.MS_LAZYTIME, "LAZYTIME"},
	}
	umountFlags    = []flagName{{unix.MNT_FORCE, "FORCE"}, {unix.MNT_DETACH, "DETACH"}, {unix.MNT_EXPIRE, "EXPIRE"}, {unix.UMOUNT_NOFOLLOW, "NOFOLLOW"}}
	moveMountFlags = []flagName{
		{unix.MOVE_MOUNT_F_SYMLINKS, "MOVE_MOUNT_F_SYMLINKS"}, {unix.MOVE_MOUNT_F_AUTOMOUNTS, "MOVE_MOUNT_F_AUTOMOUNTS"}, {unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"},
		{unix.MOVE_MOUNT_T_SYMLINKS, "MOVE_MOUNT_T_SYMLINKS"}, {unix.MOVE_MOUNT_T_AUTOMOUNTS, "MOVE_MOUNT_T_AUTOMOUNTS"}, {unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_T_EMPTY_PATH"},
		{unix.MOVE_MOUNT_SET_GROUP, "MOVE_MOUNT_SET_GROUP"},
	}
)

// argFlags appends the flags of a call, by name.
func argFlags(b []byte, e *Event) []byte {
	switch d := e.Data.(type) {
	case *Fork:
		return appendFlags(b, d.cloneFlags(), cloneFlags)
	case *Attempt:
		if d.Type == "unshare" {
			return appendFlags(b, d.Arg0, cloneFlags)
		}
		return b
	case *Open:
		return appendOpenFlags(b, d.Flags)
	case *File:
		switch d.Type {
		case "unlinkat":
			return appendFlags(b, uint64(d.Flags), unlinkFlags)
		case "renameat2":
			return appendFlags(b, uint64(d.Flags), renameFlags)
		}
		return appendFlags(b, uint64(d.Flags), atFlags)
	case *Mount:
		switch d.Type {
		case "mount":
			return appendFlags(b, d.Flags, mountFlags)
		case "move_mount":
			return appendFlags(b, d.Flags, moveMountFlags)
		}
		return appendFlags(b, d.Flags, umountFlags)
	}
	return b
}

// cloneFlags returns the flags without the signal that clone keeps among them.
func (f *Fork) cloneFlags() uint64 {
	if f.Type == "clone3" {
		return f.Flags
	}
	return f.Flags &^ unix.CSIGNAL
}

// appendFlags appends the names of the bits that are set, joined by |. Bits
// without a name follow as one hexadecimal number; for none at all it is
// nothing.
func appendFlags(b []byte, flags uint64, names []flagName) []byte {
	start := len(b)
	for _, f := range names {
		if flags&f.bit == 0 {
			continue
		}
		flags &^= f.bit
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, f.name...)
	}
	if flags != 0 {
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, "0x"...)
		b = strconv.AppendUint(b, flags, 16)
	}
	return b
}
