package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/net/dns/dnsmessage"
)

// helpers are what the test binary can be instead of tests.
var helpers = map[string]func(args []string) int{
	"become": become,
	"talk":   talk,
	"hold":   hold,
}

// become waits for a line and execs: whoever put the process somewhere did it
// before the exec.
func become(args []string) int {
	if _, err := bufio.NewReader(os.Stdin).ReadByte(); err != nil {
		return 1
	}
	if err := syscall.Exec(args[0], args, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// talk asks the name server at 127.0.0.1:53 for a name, connects to its first
// address at a port, sends "hello" and reads to the end.
func talk(args []string) int {
	name, port := args[0], args[1]
	address, err := lookup(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := net.Dial("tcp", net.JoinHostPort(address.String(), port))
	if err != nil {
		fmt.Println(err)
		return 3
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := io.ReadAll(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = c.Close()
	return 0
}

// lookup is a resolver of one question: Go's own reads the machine's
// configuration, which is not this test's.
func lookup(name string) (netip.Addr, error) {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	packed, err := m.Pack()
	if err != nil {
		return netip.Addr{}, err
	}
	c, err := net.Dial("udp", "127.0.0.1:53")
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(packed); err != nil {
		return netip.Addr{}, err
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := m.Unpack(buf[:n]); err != nil {
		return netip.Addr{}, err
	}
	for _, a := range m.Answers {
		if a, ok := a.Body.(*dnsmessage.AResource); ok {
			return netip.AddrFrom4(a.A), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s", name)
}

// answer is a name server's answer to every question: one address.
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

// hold listens on loopback, connects to itself, prints the port and stays until
// its input ends.
func hold([]string) int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 1
	}
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return 1
	}
	s, err := l.Accept()
	if err != nil {
		return 1
	}
	fmt.Println(strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	_, _ = io.ReadAll(os.Stdin)
	_, _ = c.Close(), s.Close()
	return 0
}
