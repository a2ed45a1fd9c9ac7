package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// outside is an address that belongs to nobody (RFC 5737).
var outside = netip.MustParseAddr("192.0.2.1")

// ownNetwork leaves the machine's network for an empty one.
func ownNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	// The loopback device with one address more, as its alias.
	for _, set := range []struct {
		device  string
		request uint
		make    func(*unix.Ifreq) error
	}{
		{"lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
		{"lo:1", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(outside.AsSlice()) }},
	} {
		request, err := unix.NewIfreq(set.device)
		if err != nil {
			return err
		}
		if err := set.make(request); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(set.request), uintptr(unsafe.Pointer(request))); errno != 0 {
			return fmt.Errorf("bring up %s: %w", set.device, errno)
		}
	}
	return nil
}

// socket makes one: "packet" or "stream".
func socket(args []string) error {
	domain, typ := unix.AF_INET, unix.SOCK_STREAM
	if at(args, 0) == "packet" {
		domain, typ = unix.AF_PACKET, unix.SOCK_RAW
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// talk connects to a port where it listens itself, and hands the connection on.
func talk(address string, use func(*net.TCPConn) error) error {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if use == nil {
		return nil
	}
	return use(c.(*net.TCPConn))
}

// connect connects to an address with a port.
func connect(args []string) error {
	return talk(at(args, 0), nil)
}

// lure runs a program that connects to us: its arguments are the address and port
// where we listen, and what else there is. We close at once.
func lure(args []string) error {
	if len(args) < 2 {
		return errors.New("which program?")
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(args[0], "0"))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	go func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
		}
	}()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	return start(args[1], append([]string{args[0], port}, args[2:]...), nil)
}

// redirect makes a connection its standard input, as shells that are called from
// afar have it; with "aside", a descriptor that nobody knows.
func redirect(args []string) error {
	return talk("127.0.0.1:0", func(c *net.TCPConn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		to := 0
		if at(args, 0) == "aside" {
			to = 100
		}
		var failed error
		err = raw.Control(func(fd uintptr) { failed = unix.Dup3(int(fd), to, 0) })
		return errors.Join(err, failed)
	})
}

// resolve asks the name server that it is itself for a name, whose address is in
// its second argument, and connects to that.
func resolve(args []string) error {
	name := at(args, 0)
	address, err := netip.ParseAddr(at(args, 1))
	if err != nil {
		return err
	}
	server, err := net.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			reply, err := answer(buf[:n], address)
			if err != nil {
				fmt.Fprintln(os.Stderr, "act:", err)
				return
			}
			_, _ = server.WriteTo(reply, from)
		}
	}()
	if err := ask(name); err != nil {
		return err
	}
	return talk(netip.AddrPortFrom(address, 6443).String(), nil)
}

// ask asks the name server for a name. Go's own resolver would read the machine's
// configuration.
func ask(name string) error {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", "127.0.0.1:53")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(packed); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1500)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// answer is the answer to a question for an address.
func answer(query []byte, address netip.Addr) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response = true
	for _, q := range m.Questions {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 300},
			Body:   &dnsmessage.AResource{A: address.As4()},
		})
	}
	return m.Pack()
}
