package socket

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/test/roadtest"
)

// quietly runs f with the sensor off, and on.
func quietly(b *testing.B, f func(b *testing.B)) {
	b.Run("off", f)
	b.Run("on", func(b *testing.B) {
		road, end := roadtest.Run(b, bpf.Config{})
		s := New(road, Config{}, slog.New(slog.DiscardHandler))
		if err := s.Start(interest.All(kindConn|kindDNS), func(*event.Event) {}); err != nil {
			b.Fatal(err)
		}
		f(b)
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
		end(b)
	})
}

// BenchmarkUDPDatagram is what a datagram costs that is sent and received on
// the loopback: the packet programs run twice.
func BenchmarkUDPDatagram(b *testing.B) {
	quietly(b, func(b *testing.B) {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		udp := c.(*net.UDPConn)
		to := netip.MustParseAddrPort(c.LocalAddr().String())
		buf := make([]byte, 64)
		for b.Loop() {
			if _, err := udp.WriteToUDPAddrPort(buf, to); err != nil {
				b.Fatal(err)
			}
			if _, _, err := udp.ReadFromUDPAddrPort(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkTCPSegment is what a small segment costs that is sent and received
// on the loopback: it leaves the packet programs at once.
func BenchmarkTCPSegment(b *testing.B) {
	quietly(b, func(b *testing.B) {
		client, server := tcpPair(b)
		buf := make([]byte, 64)
		for b.Loop() {
			if _, err := client.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(server, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func tcpPair(b *testing.B) (client, server net.Conn) {
	b.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	client, err = net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// BenchmarkTCPConnection is what a whole connection costs, from connect to the
// close of both ends.
func BenchmarkTCPConnection(b *testing.B) {
	quietly(b, func(b *testing.B) {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		for b.Loop() {
			client, err := net.Dial("tcp4", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			server, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			if err := client.(*net.TCPConn).SetLinger(0); err != nil {
				b.Fatal(err)
			}
			_, _ = client.Close(), server.Close()
		}
	})
}
