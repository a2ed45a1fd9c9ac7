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
