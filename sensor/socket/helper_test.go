package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// outcome is what a helper says of an error: its name.
func outcome(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// helperDial NETWORK ADDRESS SEND RECEIVE connects, sends and receives so many
// bytes, says its port or the error, and holds the connection until it is told
// to finish.
func helperDial(args []string) int {
	c, err := net.Dial(args[0], args[1])
	if err != nil {
		pause(outcome(err))
		return 0
	}
	if n := atoi(args[2]); n > 0 {
		if _, err := c.Write(make([]byte, n)); err != nil {
			return 2
		}
	}
	if _, err := io.ReadFull(c, make([]byte, atoi(args[3]))); err != nil {
		return 3
	}
	pause(strconv.Itoa(int(localPort(c))))
	if err := c.Close(); err != nil {
		return 4
	}
	return 0
}

func localPort(c interface{ LocalAddr() net.Addr }) uint16 {
	return c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()
}

// helperBurst NETWORK ADDRESS COUNT makes connections one after the other, each
// as short as can be.
func helperBurst(args []string) int {
	for range atoi(args[2]) {
		c, err := net.Dial(args[0], args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := c.Close(); err != nil {
			return 2
		}
	}
	return 0
}

// helperAccept COUNT accepts from descriptor 3 and closes.
func helperAccept(args []string) int {
	ln, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return 1
	}
	fmt.Println("ready")
	for range atoi(args[0]) {
		c, err := ln.Accept()
		if err != nil {
			return 2
		}
		if err := c.Close(); err != nil {
			return 3
		}
	}
	pause("accepted")
	return 0
}

// helperTake accepts once from descriptor 3 and holds the connection until it is
// told to finish.
func helperTake([]string) int {
	ln, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return 1
	}
	c, err := ln.Accept()
	if err != nil {
		return 2
	}
	pause("accepted")
	if err := c.Close(); err != nil {
		return 3
	}
	return 0
}

// helperSend ADDRESS sends one datagram of 10 bytes from descriptor 3, which is
// a UDP socket without a peer.
func helperSend(args []string) int {
	c, err := net.FilePacketConn(os.NewFile(3, "socket"))
	if err != nil {
		return 1
	}
	if _, err := c.WriteTo(make([]byte, 10), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(args[0]))); err != nil {
		return 2
	}
	pause("sent")
	return 0
}

// helperHold keeps what it inherited until it is told to finish.
func helperHold([]string) int {
	pause("holding")
	return 0
}

// helperAsk ADDRESS asks a DNS server for owner.test by UDP.
func helperAsk(args []string) int {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return 1
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 5})
	if err := b.StartQuestions(); err != nil {
		return 2
	}
	if err := b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName("owner.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}); err != nil {
		return 3
	}
	msg, err := b.Finish()
	if err != nil {
		return 4
	}
	if _, err := c.Write(msg); err != nil {
		return 5
	}
	if _, err := c.Read(make([]byte, 512)); err != nil {
		return 6
	}
	pause("answered")
	return 0
}

// helperServe NETWORK ADDRESS RECEIVE listens, says its port, accepts once,
// receives so many bytes, and holds the connection until it is told to finish.
func helperServe(args []string) int {
	ln, err := net.Listen(args[0], args[1])
	if err != nil {
		return 1
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	fmt.Println(port)
	c, err := ln.Accept()
	if err != nil {
		return 2
	}
	if _, err := io.ReadFull(c, make([]byte, atoi(args[2]))); err != nil {
		return 3
	}
	pause("received")
	if err := errors.Join(c.Close(), ln.Close()); err != nil {
		return 4
	}
	return 0
}

// helperAnswer ADDRESS answers one question to a DNS server.
func helperAnswer(args []string) int {
	c, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return 1
	}
	fmt.Println("listens")
	b := make([]byte, 512)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		return 2
	}
	b[2] |= 0x80 // it is a response
	if _, err := c.WriteTo(b[:n], from); err != nil {
		return 3
	}
	pause("answered")
	return 0
}
