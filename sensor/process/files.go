package process

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// A File is something that a process has open, as the kernel's own objects say.
type File struct {
	FD     uint32
	Thread uint32 // whose table of descriptors it is in
	Flags  uint32 // O_* of open(2); without O_CLOEXEC, which is the descriptor's
	Mode   uint32 // type and permissions, as stat(2) has them
	Inode  uint64
	Dev    uint64 // as the kernel encodes it: major << 20 | minor
	Magic  uint64 // of its file system, as statfs(2) has it
	Pos    int64

	// Path is as seen from the process's root directory, or, of what is in no
	// directory, the name that the kernel gave it. "" where there is none, and
	// then NoPath says why unless it is a socket.
	Path   string
	NoPath event.PathError
	// Nameless says that the file is in no directory, Outside that Path is not
	// below the process's root but that of its mount namespace.
	Nameless, Outside bool
	Deleted           bool // it has no name any more

	// Socket is nil unless it is one.
	Socket *FileSocket
}

// A FileSocket is a socket that a process has open.
type FileSocket struct {
	Family, Type, Protocol uint16 // of socket(2)
	State                  uint8  // the kernel's number: of TCP, and of Unix sockets
	Local, Remote          netip.AddrPort
	// Path is the name of a Unix socket, one that begins with NUL is abstract;
	// PeerPath that of the other end, where it has none itself.
	Path, PeerPath string
}

// Files reads what processes have open, when somebody asks. Its methods may be
// called by any goroutine.
type Files struct {
	road *bpf.Road

	mu     sync.Mutex // one reading at a time
	object *bpf.Object
}

// NewFiles returns a reader of open files. It puts nothing into the kernel
// before the first question.
func NewFiles(road *bpf.Road) *Files { return &Files{road: road} }

// Read returns the files that a process has open, in the order of their numbers
// and at most so many; total is how many there are. None are of a process that
// has ended, or is outside the road's scope.
func (f *Files) Read(p event.Key, most int) (list []File, total int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.object == nil {
		spec, err := loadFiles()
		if err != nil {
			return nil, 0, fmt.Errorf("read object files: %w", err)
		}
		if f.object, err = f.road.Open("files", spec); err != nil {
			return nil, 0, err
		}
	}
	for name, v := range map[string]any{"wanted_pid": p.PID, "wanted_start": p.Start, "paths_max": uint32(max(0, most)), "files_told": uint32(0)} {
		if err := f.object.Variable(name).Set(v); err != nil {
			return nil, 0, fmt.Errorf("set %s: %w", name, err)
		}
	}
	rd, err := f.object.Output("process_files")
	if err != nil {
		return nil, 0, err
	}
	defer rd.Close()
	err = eachFile(rd, func(rec []byte) error {
		if total++; total > most {
			return nil
		}
		file, err := decodeFile(rec)
		if err != nil {
			return err
		}
		list = append(list, file)
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read open files: %w", err)
	}
	return list, total, nil
}

const fileRecordLen = int(unsafe.Sizeof(filesFileRecord{}))

// eachFile hands each record of an iterator's output to f. It is valid during
// the call only.
func eachFile(from io.Reader, f func(rec []byte) error) error {
	in := bufio.NewReaderSize(from, 64<<10)
	buf := make([]byte, fileRecordLen+unix.PathMax)
	for {
		if _, err := io.ReadFull(in, buf[:4]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := int(binary.NativeEndian.Uint32(buf))
		if n < fileRecordLen || n > len(buf) {
			return fmt.Errorf("a record of %d bytes", n)
		}
		if _, err := io.ReadFull(in, buf[4:n]); err != nil {
			return err
		}
		if err := f(buf[:n]); err != nil {
			return err
		}
	}
}

func decodeFile(rec []byte) (File, error) {
	r, err := bpf.View[filesFileRecord](rec)
	if err != nil {
		return File{}, err
	}
	name := rec[fileRecordLen:]
	if int(r.NameLen) != len(name) {
		return File{}, fmt.Errorf("a name of %d bytes, where there are %d", r.NameLen, len(name))
	}
	f := File{
		FD: r.Fd, Thread: r.Tid, Flags: r.Flags &^ unix.O_CLOEXEC, Mode: uint32(r.Mode), Inode: r.Ino, Dev: uint64(r.Dev), Magic: r.Magic, Pos: int64(r.Pos),
		Deleted: r.Deleted != 0,
	}
	if r.Family != 0 {
		f.Socket = decodeSocket(r, string(name))
		f.Deleted = false
		return f, nil
	}
	f.Path = string(name)
	switch filesPathEnd(r.End) {
	case filesPathEndPATH_FOUND:
	case filesPathEndPATH_OUTSIDE:
		f.Outside = true
	case filesPathEndPATH_NAMELESS:
		f.Nameless = true
	case filesPathEndPATH_DETACHED:
		f.NoPath = event.PathDetached
	case filesPathEndPATH_ESCAPED:
		f.NoPath = event.PathEscaped
	case filesPathEndPATH_TOO_LONG:
		f.NoPath = event.PathTooLong
	default:
		f.NoPath = event.PathUnproven // the process ends at this moment: it has no root directory
	}
	return f, nil
}

func decodeSocket(r *filesFileRecord, name string) *FileSocket {
	s := &FileSocket{Family: r.Family, Type: r.Type, Protocol: r.Protocol, State: r.State}
	switch r.Family {
	case unix.AF_UNIX:
		if r.Rport != 0 {
			s.PeerPath = unixName(name)
		} else {
			s.Path = unixName(name)
		}
	case unix.AF_INET:
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(r.Laddr[:4])), r.Lport)
		s.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(r.Raddr[:4])), r.Rport)
	case unix.AF_INET6:
		s.Local = netip.AddrPortFrom(netip.AddrFrom16(r.Laddr).Unmap(), r.Lport)
		s.Remote = netip.AddrPortFrom(netip.AddrFrom16(r.Raddr).Unmap(), r.Rport)
	}
	return s
}

// unixName returns a Unix socket's name without what ends a path; an abstract
// one begins with NUL and has no end.
func unixName(name string) string {
	if name == "" || name[0] == 0 {
		return name
	}
	for i := range len(name) {
		if name[i] == 0 {
			return name[:i]
		}
	}
	return name
}

// Close frees what the kernel holds.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.object == nil {
		return nil
	}
	err := f.object.Close()
	f.object = nil
	return err
}
