package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/types/known/structpb"

	"warren/internal/testkit"
)

// shop is a network of its own with a name server that knows one address, and
// a server at it.
type shop struct {
	net      *testkit.Netns
	dns      net.PacketConn
	listener net.Listener
	port     string
}

func openShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{net: testkit.NewNetns(t)}
	err := s.net.Do(func() (err error) {
		if s.dns, err = net.ListenPacket("udp4", "127.0.0.1:53"); err != nil {
			return err
		}
		s.listener, err = net.Listen("tcp4", "127.83.0.9:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = s.dns.Close(), s.listener.Close() })
	s.port = strconv.Itoa(s.listener.Addr().(*net.TCPAddr).Port)
	go func() {
		buf := make([]byte, 1500)
		for {
			size, who, err := s.dns.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := answer(buf[:size], netip.MustParseAddr("127.83.0.9")); err == nil {
				_, _ = s.dns.WriteTo(reply, who)
			}
		}
	}()
	go func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = c.Write([]byte("welcome"))
			_ = c.Close()
		}
	}()
	return s
}

// visit runs a client: it asks for the name, connects and talks. It returns its
// process id.
func (s *shop) visit(t *testing.T, name string, exit int) string {
	t.Helper()
	client := testkit.Command(t, "talk", name, s.port)
	_ = s.net.Do(client.Run)
	if got := client.ProcessState.ExitCode(); got != exit {
		t.Fatalf("the client ended with %d, not %d", got, exit)
	}
	return strconv.Itoa(client.Process.Pid)
}

// flows are the answers of hubble observe -o json.
func flows(t *testing.T, socket string, args ...string) []*observerpb.GetFlowsResponse {
	t.Helper()
	out, errs, err := hubble(t, socket, append([]string{"observe", "-o", "json"}, args...)...)
	if err != nil {
		t.Fatalf("hubble observe %s: %v\n%s", strings.Join(args, " "), err, errs)
	}
	var list []*observerpb.GetFlowsResponse
	for line := range strings.Lines(out) {
		list = append(list, parseFlow(t, []byte(line)))
	}
	return list
}

func parseFlow(t *testing.T, line []byte) *observerpb.GetFlowsResponse {
	t.Helper()
	resp := &observerpb.GetFlowsResponse{}
	if err := resp.UnmarshalJSON(line); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return resp
}

// processOf returns the id of the process from whose end a flow is told.
func processOf(r *observerpb.GetFlowsResponse) string {
	extras := &structpb.Struct{}
	if err := r.GetFlow().GetExtensions().UnmarshalTo(extras); err != nil {
		return ""
	}
	return strconv.Itoa(int(extras.GetFields()["proc.pid"].GetNumberValue()))
}

// TestE2EHubble asks a running agent by Hubble's own command line about a
// program that looks a name up and connects.
func TestE2EHubble(t *testing.T) {
	a := newAgent(t, options{})
	socket := filepath.Join(a.dir, "hubble.sock")
	a.cmd.Args = append(a.cmd.Args, "--hubble-socket", socket)
	a.launch()
	a.waitReady()
	testkit.Wait(t, "health", func() bool {
		out, _, err := hubble(t, socket, "status")
		return err == nil && strings.Contains(out, "Ok")
	})
	shop := openShop(t)
	name := "www.example.test"

	// Each part of a visit, by the filters that a person would use. A machine
	// on which much happens may have forgotten an earlier visit: there are more.
	visits := map[string]bool{}
	ours := func(r *observerpb.GetFlowsResponse) bool { return visits[processOf(r)] }
	for _, test := range []struct {
		args []string
		want string // as hubble observe prints it, without time and ports
	}{
		{[]string{"--to-fqdn", "*.example.test", "--tcp-flags", "SYN", "--traffic-direction", "egress"},
			"127.0.0.1 (host) -> www.example.test (host) from-host FORWARDED (TCP Flags: SYN; connected in"},
		{[]string{"--protocol", "dns", "--not-reply", "--traffic-direction", "egress"},
			"127.0.0.1 (host) -> 127.0.0.1 (host) dns-request socket FORWARDED (DNS Query www.example.test. A)"},
		{[]string{"-t", "l7", "--reply", "--traffic-direction", "egress"},
			`127.0.0.1 (host) <- 127.0.0.1 (host) dns-response socket FORWARDED (DNS Answer "127.83.0.9" (Query www.example.test. A); in`},
		{[]string{"--to-ip", "127.83.0.0/16", "--to-port", shop.port, "--tcp-flags", "FIN", "--verdict", "FORWARDED", "--identity", "host"},
			"127.0.0.1 (host) -> www.example.test (host) from-host FORWARDED (TCP Flags: FIN, ACK; closed after"},
	} {
		found := testkit.WaitFor(t, strings.Join(test.args, " "), func() (*observerpb.GetFlowsResponse, bool) {
			visits[shop.visit(t, name, 0)] = true
			for _, r := range flows(t, socket, append(test.args, "--all")...) {
				if ours(r) {
					return r, true
				}
			}
			return nil, false
		})
		f := found.GetFlow()
		if f.GetNodeName() == "" || found.GetNodeName() != f.GetNodeName() || time.Since(f.GetTime().AsTime()).Abs() > time.Minute {
			t.Errorf("%v", found)
		}
		out, errs, err := hubble(t, socket, "observe", "--uuid", f.GetUuid(), "--all", "--color", "never", "--use-default-field-masks=false")
		if err != nil {
			t.Fatalf("%v\n%s", err, errs)
		}
		if got := withoutPorts(out); !strings.Contains(got, test.want) {
			t.Errorf("%v\ngot  %s\nwant %s", test.args, got, test.want)
		}
	}

	// One that is refused is a segment out, and one back.
	_ = shop.listener.Close()
	testkit.Wait(t, "a refusal", func() bool {
		pid := shop.visit(t, name, 3)
		var got []string
		for _, r := range flows(t, socket, "--port", shop.port, "--all") {
			if f := r.GetFlow().GetL4().GetTCP().GetFlags(); processOf(r) == pid {
				got = append(got, r.GetFlow().GetVerdict().String()+strings.ReplaceAll(f.String(), " ", ""))
			}
		}
		return strings.Join(got, " ") == "FORWARDEDSYN:true FORWARDEDRST:trueACK:true"
	})

	// Status and nodes are of this agent.
	out, errs, err := hubble(t, socket, "status", "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	status := &observerpb.ServerStatusResponse{}
	if err := status.UnmarshalJSON([]byte(out)); err != nil {
		t.Fatal(err)
	}
	if status.GetSeenFlows() < 8 || status.GetMaxFlows() != 4095 || status.GetNumFlows() == 0 || status.GetUptimeNs() == 0 ||
		status.GetNumConnectedNodes().GetValue() != 1 || status.GetFlowsRate() <= 0 || status.GetVersion() == "" {
		t.Errorf("%v", status)
	}
	out, errs, err = hubble(t, socket, "list", "nodes", "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	var nodes []struct{ Name, State string }
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(nodes) != 1 || nodes[0].Name == "" || nodes[0].State != "NODE_CONNECTED" {
		t.Errorf("%s", out)
	}
	if out, errs, err = hubble(t, socket, "list", "namespaces"); err != nil || !strings.HasPrefix(out, "NAMESPACE") {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	if _, errs, err = hubble(t, socket, "observe", "agent-events"); err == nil || !strings.Contains(errs, "this is Warren") {
		t.Errorf("%v\n%s", err, errs)
	}
}

// withoutPorts leaves out what differs from run to run: the time and ports.
func withoutPorts(line string) string {
	_, line, _ = strings.Cut(line, ".")
	_, line, _ = strings.Cut(line, ": ")
	words := strings.Fields(line)
	for i, w := range words {
		if host, port, err := net.SplitHostPort(w); err == nil && strings.Trim(port, "0123456789") == "" && port != "" {
			words[i] = host
		}
	}
	return strings.Join(words, " ")
}

// TestE2EHubbleFollow reads a stream while things happen, until the agent ends.
func TestE2EHubbleFollow(t *testing.T) {
	a := newAgent(t, options{})
	socket := filepath.Join(a.dir, "hubble.sock")
	a.cmd.Args = append(a.cmd.Args, "--hubble-socket", socket)
	a.launch()
	a.waitReady()
	shop := openShop(t)
	// Agents see the whole machine, and what other runs of this test do there.
	name := "followed-" + strconv.Itoa(os.Getpid()) + ".test"
	program, err := exec.LookPath("hubble")
	if err != nil {
		t.Fatal("make e2e builds Hubble's command line first: ", err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--server", "unix://"+socket, "observe", "--follow", "-o", "json",
		"--to-fqdn", name, "--tcp-flags", "SYN", "--traffic-direction", "egress")
	cmd.Env = []string{"HOME=" + t.TempDir()}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan []byte, 100) // more than are waited for
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			lines <- bytes.Clone(s.Bytes())
		}
	}()
	// It tells nobody that it has begun: visits go on until one is seen.
	var seen *observerpb.GetFlowsResponse
	visits := map[string]bool{}
	testkit.Wait(t, "a flow", func() bool {
		visits[shop.visit(t, name, 0)] = true
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("hubble ended: %s", errs.String())
			}
			seen = parseFlow(t, line)
			return true
		default:
			return false
		}
	})
	if !visits[processOf(seen)] || seen.GetFlow().GetDestinationNames()[0] != name {
		t.Errorf("%v", seen)
	}
	if err := a.end(15); err != nil {
		t.Error(err)
	}
	for range lines { // to the end of what it printed
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(errs.String(), "the agent is ending") && !strings.Contains(errs.String(), "Unavailable") {
		t.Errorf("the stream ended like one that is complete: %v %s", err, errs.String())
	}
}
