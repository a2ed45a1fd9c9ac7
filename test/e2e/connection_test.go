package e2e

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"warren/internal/testkit"
)

// TestE2EConnections follows a program that looks a name up and connects, in a
// network of its own.
func TestE2EConnections(t *testing.T) {
	a := start(t, options{})
	n := testkit.NewNetns(t)
	address := netip.MustParseAddr("127.83.0.9")
	listener, port := servers(t, n, address)
	name := "www.example.test"
	f := a.follow("fd.rport = " + port + " or dns.name = " + name)
	helper := testkit.Command(t, "talk", name, port)
	if err := n.Do(helper.Run); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(helper.Process.Pid)
	connect := f.wait("the connect", func(o object) bool { return o.str("evt.type") == "connect" })
	want(t, connect, map[string]string{
		"proc.pid": pid, "proc.exepath": readlink(t, "/proc/self/exe"), "fd.rip": "127.83.0.9", "fd.rport": port,
		"fd.l4proto": "tcp", "fd.rip.name": name, "evt.res": "SUCCESS",
	})
	// The server's process sends what this one receives.
	reply := f.wait("the answer", func(o object) bool { return o.str("dns.response") == "true" && o.str("proc.pid") == pid })
	want(t, reply, map[string]string{"dns.name": name, "dns.rcode": "NOERROR", "dns.type": "A"})
	closed := f.wait("the close", func(o object) bool { return o.str("evt.type") == "close" && o.str("proc.pid") == pid })
	want(t, closed, map[string]string{"conn.bytes_sent": "5", "conn.bytes_received": "7", "fd.rip.name": name})

	// The list remembers it, by name.
	var listed object
	for _, o := range a.objects("connection", "list", "fd.rip.name = "+name+" and fd.rport = "+port) {
		listed = o
	}
	want(t, listed, map[string]string{"proc.pid": pid, "conn.bytes_sent": "5", "conn.bytes_received": "7"})
	if table := a.ok("connection", "list", "fd.rip.name = "+name); !strings.Contains(table, name) {
		t.Errorf("the table lacks the name:\n%s", table)
	}

	// One that is refused, with the reason.
	_ = listener.Close()
	helper = testkit.Command(t, "talk", name, port)
	if err := n.Do(helper.Run); helper.ProcessState.ExitCode() != 3 {
		t.Fatalf("a connection to a closed port: %v", err)
	}
	pid = strconv.Itoa(helper.Process.Pid)
	f.wait("the refused connect", func(o object) bool {
		return o.str("proc.pid") == pid && o.str("evt.res") == "ECONNREFUSED"
	})

	// The question went by UDP.
	flows := a.objects("connection", "list", "fd.l4proto = udp and fd.rport = 53 and proc.pid = "+pid)
	if len(flows) != 1 {
		t.Errorf("UDP flows to the name server: %v", flows)
	}
}
