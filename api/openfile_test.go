package api

import (
	"testing"

	"golang.org/x/sys/unix"
)

// rawFiles are open files of each sort.
var rawFiles = []RawFile{
	{FD: 0, Flags: unix.O_RDWR | unix.O_APPEND, Mode: unix.S_IFREG | 0o4640, Inode: 12, Dev: 8<<20 | 1, Pos: 5, Path: "/etc/passwd"},
	{FD: 1, Flags: unix.O_WRONLY | unix.O_SYNC, Mode: unix.S_IFREG | 0o600, Path: "/gone", Deleted: true, Thread: 9, Outside: true},
	{FD: 2, Flags: unix.O_PATH, Mode: unix.S_IFDIR | 0o755, Inode: 3, PathError: "detached"},
	{FD: 3, Mode: unix.S_IFIFO | 0o600, Inode: 17, Nameless: true, Magic: unix.PIPEFS_MAGIC, Deleted: true},
	{FD: 4, Mode: 0o600, Inode: 1, Nameless: true, Magic: unix.ANON_INODE_FS_MAGIC, Path: "[eventpoll]"},
	{FD: 5, Mode: 0o600, Inode: 1, Nameless: true, Magic: unix.ANON_INODE_FS_MAGIC, Path: "bpf-map"},
	{FD: 6, Mode: unix.S_IFREG | 0o777, Nameless: true, Path: "memfd:x", Deleted: true},
	{FD: 7, Mode: unix.S_IFREG, Nameless: true, Inode: 4026531840, Magic: unix.NSFS_MAGIC},
	{FD: 8, Mode: unix.S_IFREG, Nameless: true, Inode: 5, Magic: pidfsMagic},
	{FD: 9, Mode: unix.S_IFCHR | 0o666, Path: "/dev/null"},
	{FD: 10, Mode: unix.S_IFSOCK, Inode: 6, Socket: &RawSocket{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP, State: 1, Local: "127.0.0.1:80", Remote: "127.0.0.1:4242"}},
	{FD: 11, Mode: unix.S_IFSOCK, Inode: 6, Socket: &RawSocket{Family: unix.AF_INET6, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP, State: 7, Local: "[::1]:53"}},
	{FD: 12, Mode: unix.S_IFSOCK, Inode: 6, Socket: &RawSocket{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, State: 10, Local: "@x"}},
	{FD: 13, Mode: unix.S_IFSOCK, Inode: 6, Socket: &RawSocket{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, State: 1}},
	{FD: 14, Mode: unix.S_IFSOCK, Inode: 6, Socket: &RawSocket{Family: 77, Type: 99}},
}

func sampleFiles() []OpenFile {
	var list []OpenFile
	for _, r := range rawFiles {
		list = append(list, r.OpenFile())
	}
	return list
}

func TestOpenFile(t *testing.T) {
	want := []OpenFile{
		{Target: "/etc/passwd", Type: "file", Path: "/etc/passwd", Flags: "O_RDWR|O_APPEND", Mode: "4640", Inode: 12, Dev: 8<<20 | 1, Pos: 5},
		{FD: 1, Target: "/gone", Type: "file", Path: "/gone", Outside: true, Deleted: true, Flags: "O_WRONLY|O_SYNC", Mode: "0600", Thread: 9},
		{FD: 2, Target: "directory:[3]", Type: "directory", PathError: "detached", Flags: "O_PATH", Mode: "0755", Inode: 3},
		{FD: 3, Target: "pipe:[17]", Type: "pipe", Flags: "O_RDONLY", Mode: "0600", Inode: 17},
		{FD: 4, Target: "anon_inode:[eventpoll]", Type: "eventpoll", Flags: "O_RDONLY", Mode: "0600", Inode: 1},
		{FD: 5, Target: "anon_inode:bpf-map", Type: "bpf-map", Flags: "O_RDONLY", Mode: "0600", Inode: 1},
		{FD: 6, Target: "memfd:x", Type: "memfd", Flags: "O_RDONLY", Mode: "0777"},
		{FD: 7, Target: "namespace:[4026531840]", Type: "namespace", Flags: "O_RDONLY", Mode: "0000", Inode: 4026531840},
		{FD: 8, Target: "pidfd:[5]", Type: "pidfd", Flags: "O_RDONLY", Mode: "0000", Inode: 5},
		{FD: 9, Target: "/dev/null", Type: "char", Path: "/dev/null", Flags: "O_RDONLY", Mode: "0666"},
		{FD: 10, Target: "tcp 127.0.0.1:80->127.0.0.1:4242", Type: "socket", Flags: "O_RDONLY", Mode: "0000", Inode: 6, Socket: &OpenSocket{"ipv4", "stream", "tcp", "connected", "127.0.0.1:80", "127.0.0.1:4242"}},
		{FD: 11, Target: "udp [::1]:53", Type: "socket", Flags: "O_RDONLY", Mode: "0000", Inode: 6, Socket: &OpenSocket{"ipv6", "dgram", "udp", "", "[::1]:53", ""}},
		{FD: 12, Target: "unix @x", Type: "socket", Flags: "O_RDONLY", Mode: "0000", Inode: 6, Socket: &OpenSocket{"unix", "stream", "", "listening", "@x", ""}},
		{FD: 13, Target: "netlink:[6]", Type: "socket", Flags: "O_RDONLY", Mode: "0000", Inode: 6, Socket: &OpenSocket{"netlink", "raw", "", "", "", ""}},
		{FD: 14, Target: "77:[6]", Type: "socket", Flags: "O_RDONLY", Mode: "0000", Inode: 6, Socket: &OpenSocket{"77", "99", "", "", "", ""}},
	}
	equal(t, sampleFiles(), want)
}
