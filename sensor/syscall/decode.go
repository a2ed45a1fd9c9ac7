package syscall

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// errRecord means that a record is of no call there is, or that what it says is
// in it is longer than it.
var errRecord = errors.New("record of no call, or shorter than its parts")

func (s *Sensor) decode(rec []byte) error {
	e, err := decodeCall(rec)
	if err != nil {
		return err
	}
	s.send(e)
	if counts, example := s.counts.Load(), exampleOf(rec); example != 0 && counts != nil {
		counts.Example(example, e)
	}
	return nil
}

func (s *Sensor) send(e *event.Event) {
	if emit := s.emit.Load(); emit != nil {
		(*emit)(e)
	}
}

// exampleOf returns the number of a record that is right, of which there are more
// events that were counted; 0: there are none.
func exampleOf(rec []byte) uint64 {
	r, err := bpf.View[syscallSyscallRecord](rec)
	if err != nil {
		return 0
	}
	return r.Example
}

// decodeCall makes an event of a record.
func decodeCall(rec []byte) (*event.Event, error) {
	r, err := bpf.View[syscallSyscallRecord](rec)
	if err != nil {
		return nil, err
	}
	if r.Call == 0 || int(r.Call) > len(event.Calls) {
		return nil, errRecord
	}
	c := &event.Calls[r.Call-1]
	both := &struct {
		event event.Event
		data  event.Syscall
	}{}
	e, d := &both.event, &both.data
	e.Time, e.Ktime, e.CPU, e.Data = bpf.Wall(r.Hdr.Ktime), r.Hdr.Ktime, r.Hdr.Cpu+1, d
	e.Actor = event.Key{PID: r.Key.Pid, Start: r.Key.Start}
	d.Type, d.Call, d.RawRes, d.Regs, d.FD = c.Name, c, r.Ret, r.Args, -1
	d.IOUring = r.Uring&uint8(syscallUringMarksCALL_URING) != 0
	if r.Ret < 0 && r.Ret >= -maxErrno {
		d.Res = event.Errno(-r.Ret)
	}
	rest := rec[unsafe.Sizeof(*r):]
	for i := range d.Memory {
		n := int(r.Lens[i])
		if n > len(rest) {
			return nil, errRecord
		}
		if r.There>>i&1 != 0 {
			d.Memory[i] = event.CallMemory{Bytes: string(rest[:n]), There: true}
		}
		rest = rest[n:]
	}
	d.Unreadable, d.Truncated = argsIn(d, r.Bad), argsIn(d, r.Cut)
	switch {
	case r.Uring&uint8(syscallUringMarksCALL_DIRECT) != 0: // it is no descriptor
	case c.FD == event.AtResult && r.Ret >= 0:
		d.FD = int32(r.Ret)
	case c.FD >= 0:
		d.FD = int32(r.Args[c.FD])
	}
	if int(r.Object.PathLen) > len(rest) {
		return nil, errRecord
	}
	if c.FDObject {
		fillObject(d, &r.Object, string(rest[:r.Object.PathLen]))
	}
	return e, nil
}

// maxErrno is the largest error number: what is below its negative is a result.
const maxErrno = 4095

// argsIn returns the names of the arguments that lie in some pieces of memory.
func argsIn(d *event.Syscall, pieces uint8) []string {
	if pieces == 0 {
		return nil
	}
	var names []string
	for i := range d.Call.Args {
		a := &d.Call.Args[i]
		if a.Read > 0 && pieces>>(a.Read-1)&1 != 0 && a.If.Holds(&d.Regs, d.RawRes) && !slices.Contains(names, a.Name) {
			names = append(names, a.Name)
		}
	}
	return names
}

// Magic numbers of file systems that have no files of others.
const (
	anonInodeMagic = 0x09041934
	pidfsMagic     = 0x50494446
)

// fillObject tells what a descriptor refers to.
func fillObject(d *event.Syscall, o *syscallFdObject, path string) {
	d.FDName = path
	switch {
	case o.Family != 0:
		d.FDName = ""
		fillSocket(d, o)
	case o.Magic == pidfsMagic:
		d.FDType = "pidfd"
	case o.Magic == anonInodeMagic || strings.HasPrefix(path, "[") || strings.HasPrefix(path, "anon_inode:"):
		d.FDType = anonType(path)
	case strings.HasPrefix(path, "memfd:"):
		d.FDType = "memfd"
	case o.Mode&unix.S_IFMT == unix.S_IFIFO:
		d.FDType = "pipe"
	case o.Mode&unix.S_IFMT == unix.S_IFDIR:
		d.FDType = "directory"
	case o.Mode != 0:
		d.FDType = "file"
	}
}

// anonType is the type of a descriptor without a file, by the name that the
// kernel gives it.
func anonType(name string) string {
	name = strings.Trim(strings.TrimPrefix(name, "anon_inode:"), "[]")
	switch name {
	case "eventfd":
		return "event"
	case "eventpoll", "inotify", "signalfd", "timerfd", "io_uring", "userfaultfd", "pidfd":
		return name
	}
	if strings.HasPrefix(name, "bpf") {
		return "bpf"
	}
	return "other"
}

func fillSocket(d *event.Syscall, o *syscallFdObject) {
	addr := func(b *[16]uint8) netip.Addr {
		if o.Family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16(*b).Unmap()
	}
	switch o.Family {
	case unix.AF_INET, unix.AF_INET6:
		s := &event.Socket{Local: addr(&o.Local), LocalPort: o.LocalPort, L4: event.Proto(o.Protocol)}
		if o.Protocol > 255 { // MPTCP looks like TCP to everybody
			s.L4 = event.TCP
		}
		if r := addr(&o.Remote); !r.IsUnspecified() || o.RemotePort != 0 {
			s.Remote, s.RemotePort = r, o.RemotePort
		} else {
			s.Server = d.Type == "bind" && d.RawRes == 0 // of others nobody knows what they are for
		}
		d.Sock, d.FDType = s, "ipv4"
		if o.Family == unix.AF_INET6 {
			d.FDType = "ipv6"
		}
	case unix.AF_UNIX:
		d.FDType = "unix"
	case unix.AF_NETLINK:
		d.FDType = "netlink"
	default:
		d.FDType = "other"
	}
}
