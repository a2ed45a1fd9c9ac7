package bpf

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A CapSet is a set of capabilities, bit n for capability number n of
// capabilities(7): unix.CAP_BPF and so on.
type CapSet uint64

// Has reports whether the set has a capability.
func (s CapSet) Has(c int) bool { return s&(1<<c) != 0 }

// Effective returns the effective capabilities of the calling thread; those of
// a Go program's threads are all alike unless it changed them. Capabilities
// that count in a user namespace only are not in it: the kernel ignores them
// for all that this package does.
func Effective() CapSet {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0 // the kernel cannot refuse it for the thread itself
	}
	if inUserNamespace() {
		return 0
	}
	return CapSet(data[0].Effective) | CapSet(data[1].Effective)<<32
}

// initUserNS is the inode number of the initial user namespace: part of the
// kernel's interface (PROC_USER_INIT_INO of linux/proc_ns.h). The map of users
// does not tell: another namespace can have the same.
const initUserNS = 0xeffffffd

// inUserNamespace reports whether this process is in another user namespace
// than the initial one.
func inUserNamespace() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &st) == nil && st.Ino != initUserNS
}

var capNames = map[int]string{
	unix.CAP_BPF:             "CAP_BPF",
	unix.CAP_PERFMON:         "CAP_PERFMON",
	unix.CAP_NET_ADMIN:       "CAP_NET_ADMIN",
	unix.CAP_SYS_ADMIN:       "CAP_SYS_ADMIN",
	unix.CAP_SYS_PTRACE:      "CAP_SYS_PTRACE",
	unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
	unix.CAP_DAC_OVERRIDE:    "CAP_DAC_OVERRIDE",
	unix.CAP_SYSLOG:          "CAP_SYSLOG",
}

// CapName returns the name of a capability that Warren has to do with, else its
// number.
func CapName(c int) string {
	if n := capNames[c]; n != "" {
		return n
	}
	return fmt.Sprintf("capability %d", c)
}

// missing returns before followed by which of the capabilities are missing, or
// "" if none is. CAP_SYS_ADMIN stands for those that were once part of it.
func missing(before string, caps ...int) string {
	have := Effective()
	var names []string
	for _, c := range caps {
		partOfAdmin := c == unix.CAP_BPF || c == unix.CAP_PERFMON || c == unix.CAP_NET_ADMIN
		if !have.Has(c) && !(partOfAdmin && have.Has(unix.CAP_SYS_ADMIN)) {
			names = append(names, CapName(c))
		}
	}
	var s string
	switch len(names) {
	case 0:
		return ""
	case 1:
		s = names[0] + " is missing"
	default:
		s = strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " are missing"
	}
	if inUserNamespace() {
		s += " (capabilities of a user namespace do not count)"
	}
	return before + s
}
