package api

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenFile is something that a process has open. Its JSON is part of the API.
type OpenFile struct {
	FD uint32 `json:"fd"`
	// Target is what is open in one text: a path, or pipe:[17], or
	// tcp 127.0.0.1:80->127.0.0.1:4242 of a socket.
	Target string `json:"target"`
	// Where the kernel cannot be asked, /proc tells the two above and nothing
	// else.

	// Type is file, directory, symlink, char, block, fifo, pipe, socket, memfd,
	// namespace, pidfd, or what the kernel calls it: eventfd, eventpoll, ...
	Type string `json:"type,omitempty"`
	// Path is as the process sees it, from the kernel's own objects. Where it has
	// none, PathError says why: detached, escaped, too_long, unproven.
	Path      string `json:"path,omitempty"`
	PathError string `json:"path_error,omitempty"`
	Outside   bool   `json:"outside_root,omitempty"` // Path is not below the process's root
	Deleted   bool   `json:"deleted,omitempty"`      // it has no name any more
	Flags     string `json:"flags,omitempty"`        // O_RDWR|O_APPEND
	Mode      string `json:"mode,omitempty"`         // permissions, octal
	Inode     uint64 `json:"ino,omitempty"`
	Dev       uint64 `json:"dev,omitempty"` // as the field fd.dev has it
	Pos       int64  `json:"pos,omitempty"` // bytes from the beginning
	// Thread is whose table of descriptors it is in, where threads have their own.
	Thread uint32      `json:"thread,omitempty"`
	Socket *OpenSocket `json:"socket,omitempty"`
}

// OpenSocket is a socket that a process has open.
type OpenSocket struct {
	Family   string `json:"family"` // unix, ipv4, ipv6, netlink, packet, vsock, or a number
	Type     string `json:"type"`   // stream, dgram, seqpacket, raw, or a number
	Protocol string `json:"protocol,omitempty"`
	State    string `json:"state,omitempty"` // listening, connected, ...
	Local    string `json:"local,omitempty"` // address and port, or a path; @name is abstract
	Remote   string `json:"remote,omitempty"`
}

// openFlags names the flags that a file is open with as open(2) does, joined by |.
func openFlags(flags uint32) string {
	names := []string{"O_RDONLY"}
	switch {
	case flags&unix.O_PATH != 0:
		names[0] = "O_PATH"
	case flags&unix.O_ACCMODE == unix.O_WRONLY:
		names[0] = "O_WRONLY"
	case flags&unix.O_ACCMODE == unix.O_RDWR:
		names[0] = "O_RDWR"
	}
	for _, f := range []struct {
		bits uint32
		name string
	}{
		{unix.O_APPEND, "O_APPEND"}, {unix.O_NONBLOCK, "O_NONBLOCK"}, {unix.O_SYNC, "O_SYNC"}, {unix.O_DSYNC, "O_DSYNC"}, {unix.O_DIRECT, "O_DIRECT"},
		{unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_NOATIME, "O_NOATIME"}, {unix.O_TMPFILE &^ unix.O_DIRECTORY, "O_TMPFILE"}, {unix.O_ASYNC, "O_ASYNC"},
	} {
		if flags&f.bits == f.bits {
			names = append(names, f.name)
			flags &^= f.bits // O_SYNC has the bit of O_DSYNC
		}
	}
	return strings.Join(names, "|")
}

// pidfsMagic is that of the file system of pidfds, which x/sys does not have.
const pidfsMagic = 0x50494446

// A RawFile is an open file as the kernel's objects have it.
type RawFile struct {
	FD, Flags, Mode uint32
	Inode, Dev      uint64
	Magic           uint64 // of the file system
	Pos             int64
	Path, PathError string
	Nameless        bool // Path is no path: the file is in no directory
	Outside         bool
	Deleted         bool
	Thread          uint32
	Socket          *RawSocket
}

// A RawSocket is a socket with the numbers of socket(2).
type RawSocket struct {
	Family, Type, Protocol uint16
	State                  uint8
	Local, Remote          string
}

// OpenFile puts into words what the kernel says.
func (r RawFile) OpenFile() OpenFile {
	f := OpenFile{
		FD: r.FD, Type: r.kind(), Flags: openFlags(r.Flags), Mode: fmt.Sprintf("%04o", r.Mode&0o7777), Inode: r.Inode, Dev: r.Dev, Pos: r.Pos,
		PathError: r.PathError, Outside: r.Outside, Deleted: r.Deleted, Thread: r.Thread,
	}
	switch {
	case r.Socket != nil:
		f.Socket = r.Socket.words()
		f.Target = f.Socket.text(r.Inode)
	case r.PathError != "":
		f.Target = fmt.Sprintf("%s:[%d]", f.Type, r.Inode)
	case !r.Nameless:
		f.Path, f.Target = r.Path, r.Path
	case f.Type == "memfd":
		f.Target, f.Deleted = r.Path, false // it never had a name
	case r.Magic == unix.ANON_INODE_FS_MAGIC || r.Mode&unix.S_IFMT == 0:
		f.Target, f.Deleted = "anon_inode:"+r.Path, false
	default:
		f.Target, f.Deleted = fmt.Sprintf("%s:[%d]", f.Type, r.Inode), false
	}
	return f
}

func (r RawFile) kind() string {
	switch {
	case r.Socket != nil || r.Mode&unix.S_IFMT == unix.S_IFSOCK && r.Nameless:
		return "socket"
	case r.Nameless && strings.HasPrefix(r.Path, "memfd:"):
		return "memfd"
	case r.Magic == pidfsMagic:
		return "pidfd"
	case r.Magic == unix.NSFS_MAGIC:
		return "namespace"
	case r.Nameless && r.Path != "" && (r.Magic == unix.ANON_INODE_FS_MAGIC || r.Mode&unix.S_IFMT == 0):
		return strings.Trim(r.Path, "[]")
	}
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		if r.Nameless {
			return "pipe"
		}
		return "fifo"
	}
	return "file"
}

func numberName(n uint16, names map[uint16]string) string {
	if s, ok := names[n]; ok {
		return s
	}
	return fmt.Sprint(n)
}

var (
	familyNames = map[uint16]string{
		unix.AF_UNIX: "unix", unix.AF_INET: "ipv4", unix.AF_INET6: "ipv6", unix.AF_NETLINK: "netlink", unix.AF_PACKET: "packet", unix.AF_VSOCK: "vsock", unix.AF_ALG: "alg", unix.AF_XDP: "xdp", unix.AF_BLUETOOTH: "bluetooth",
	}
	socketTypeNames = map[uint16]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "dgram", unix.SOCK_SEQPACKET: "seqpacket", unix.SOCK_RAW: "raw"}
	protocolNames   = map[uint16]string{
		unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmp6", unix.IPPROTO_MPTCP: "mptcp", unix.IPPROTO_SCTP: "sctp", unix.IPPROTO_UDPLITE: "udplite",
	}
	// The kernel's numbers of TCP's states; other sockets use some of them.
	stateNames = [...]string{
		1: "connected", 2: "connecting", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2", 6: "time_wait", 7: "closed", 8: "close_wait", 9: "last_ack", 10: "listening", 11: "closing", 12: "syn_recv",
	}
)

func (s *RawSocket) words() *OpenSocket {
	w := &OpenSocket{Family: numberName(s.Family, familyNames), Type: numberName(s.Type, socketTypeNames), Local: s.Local, Remote: s.Remote}
	switch s.Family {
	case unix.AF_INET, unix.AF_INET6:
		w.Protocol = numberName(s.Protocol, protocolNames)
	case unix.AF_UNIX:
	default:
		return w // what state means there is not known
	}
	if int(s.State) < len(stateNames) {
		w.State = stateNames[s.State]
	}
	if w.State == "closed" {
		w.State = "" // not connected: what is to be said of most sockets without connections
	}
	return w
}

// text is the socket in one line.
func (s *OpenSocket) text(inode uint64) string {
	what := s.Protocol
	if what == "" {
		what = s.Family
	}
	switch {
	case s.Local == "" && s.Remote == "":
		return fmt.Sprintf("%s:[%d]", what, inode)
	case s.Remote == "":
		return what + " " + s.Local
	}
	return what + " " + s.Local + "->" + s.Remote
}
