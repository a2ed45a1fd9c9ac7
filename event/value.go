package event

import (
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// An Errno is the outcome of a system call: 0, or a positive error number.
type Errno int32

// String returns SUCCESS or the error's name, like ECONNREFUSED.
func (e Errno) String() string {
	if e == 0 {
		return "SUCCESS"
	}
	if s := unix.ErrnoName(unix.Errno(e)); s != "" {
		return s
	}
	return "E" + strconv.Itoa(int(e))
}

// A Signal is a signal's number.
type Signal int32

// String returns the signal's name, like SIGKILL; SIGRTn for real-time ones.
func (s Signal) String() string {
	if n := unix.SignalName(unix.Signal(s)); n != "" {
		return n
	}
	if s >= 34 && s <= 64 {
		return "SIGRT" + strconv.Itoa(int(s)-34)
	}
	return "SIG" + strconv.Itoa(int(s))
}

// A LoginUID is the audit login uid; the kernel's 2^32-1 stands for nobody.
type LoginUID uint32

// NoLogin is the LoginUID of a process that no login started.
const NoLogin LoginUID = 1<<32 - 1

// A Proto is an IP protocol number.
type Proto uint8

// The protocols that sockets are watched for.
const (
	TCP Proto = unix.IPPROTO_TCP
	UDP Proto = unix.IPPROTO_UDP
)

// String returns the protocol's name in lower case.
func (p Proto) String() string {
	switch p {
	case 0:
		return ""
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmp6"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// A TCPState is a state of enum tcp_state of the kernel (include/net/tcp_states.h).
type TCPState uint8

// The states; UDP flows are Established or Close.
const (
	Established TCPState = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
)

var tcpStates = [...]string{"", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV"}

// String returns the state as ss(8) writes it.
func (s TCPState) String() string {
	if int(s) < len(tcpStates) {
		return tcpStates[s]
	}
	return strconv.Itoa(int(s))
}

// ResetBy says which end reset a connection.
type ResetBy uint8

// The ends that can reset a connection.
const (
	NotReset ResetBy = iota
	ResetLocal
	ResetRemote
)

// String returns local, remote, or nothing.
func (r ResetBy) String() string {
	switch r {
	case ResetLocal:
		return "local"
	case ResetRemote:
		return "remote"
	}
	return ""
}

// A CapSet is a set of capabilities: bit n is capability n.
type CapSet uint64

// capNames are the capabilities by number (include/uapi/linux/capability.h).
var capNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capStrings remembers rendered sets, so that evaluating a filter allocates
// nothing. A machine has a handful; an attacker who makes more pays alone.
var capStrings struct {
	sync.RWMutex
	m map[CapSet]string
}

const maxCapStrings = 1024

// String returns the names in the order of their numbers, separated by blanks.
func (c CapSet) String() string {
	if c == 0 {
		return ""
	}
	capStrings.RLock()
	s, ok := capStrings.m[c]
	capStrings.RUnlock()
	if ok {
		return s
	}
	s = c.render()
	capStrings.Lock()
	defer capStrings.Unlock()
	if capStrings.m == nil || len(capStrings.m) >= maxCapStrings {
		capStrings.m = map[CapSet]string{}
	}
	capStrings.m[c] = s
	return s
}

func (c CapSet) render() string {
	var b strings.Builder
	for i := range 64 {
		if c&(1<<i) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if i < len(capNames) {
			b.WriteString(capNames[i])
		} else {
			b.WriteString("CAP_" + strconv.Itoa(i))
		}
	}
	return b.String()
}
