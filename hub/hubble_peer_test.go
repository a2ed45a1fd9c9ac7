package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"warren/cluster"
	"warren/internal/testkit"
)

// TestPeers holds that relays are told of all nodes as they come and go, and
// nobody else is.
func TestPeers(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two, mute := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca), newAgent("node-3").listen(t, ca)
	_ = one.observe(t, ca)
	f := newFixture(t, ca, Config{}, one, mute)
	notify := func(cert *tls.Certificate, authorization ...string) peerpb.Peer_NotifyClient {
		_, conn := f.hubbleClient(cert)
		s, err := peerpb.NewPeerClient(conn).Notify(withAuthorization(t.Context(), authorization...), &peerpb.NotifyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := notify(ca.pair(t, relayLeaf))
	want := func(lines ...string) {
		t.Helper()
		for _, want := range lines {
			c, err := s.Recv()
			if err != nil {
				t.Fatalf("the stream ended with %v, want %s", err, want)
			}
			if got := strings.Join([]string{c.GetType().String(), c.GetName(), c.GetAddress(), c.GetTls().GetServerName()}, " "); got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		}
	}
	at := func(a *fakeAgent) string {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(a.hubble))) + " agent.warren"
	}
	want("PEER_ADDED node-1 "+at(one), "PEER_ADDED node-3  agent.warren")
	_ = two.observe(t, ca)
	f.cluster.add(two)
	want("PEER_ADDED node-2 " + at(two))
	f.cluster.remove(one)
	want("PEER_DELETED node-1 " + at(one))
	// A node on which no agent runs is missing, and told to be.
	f.cluster.change(func(c *fakeCluster) {
		c.state.SetNode(&cluster.Node{UID: "uid-4", Name: "node-4", Labels: map[string]string{"kubernetes.io/os": "linux"}}, time.Now())
	})
	want("PEER_ADDED node-4  agent.warren")

	for _, test := range []struct {
		name  string
		cert  *tls.Certificate
		token []string
		code  codes.Code
	}{
		{"nobody", nil, nil, codes.Unauthenticated},
		{"an agent", ca.pair(t, agentLeaf), nil, codes.Unauthenticated},
		{"a relay of others", newAuthority(t, "foreign").pair(t, relayLeaf), nil, codes.Unauthenticated},
		{"a relay that was", ca.pair(t, leaf{names: relayLeaf.names, expired: true}), nil, codes.Unauthenticated},
		{"who sees everything", nil, []string{"Bearer admin-token"}, codes.PermissionDenied},
	} {
		if c, err := notify(test.cert, test.token...).Recv(); status.Code(err) != test.code {
			t.Errorf("%s is told %v, %v; want %v", test.name, c, err, test.code)
		}
	}
	if !strings.Contains(f.logs.String(), "why=rights who=admin") {
		t.Error("the log does not tell who wanted to know where agents are")
	}

	f.stop()
	if c, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a hub that stops says %v, %v", c, err)
	}
}

// TestE2EHubbleRelay puts Hubble's own relay, as it is published, before the
// hub: it learns of all agents from there, and asks them itself.
func TestE2EHubbleRelay(t *testing.T) {
	program, err := exec.LookPath("hubble-relay")
	if err != nil {
		t.Skip("make e2e builds Hubble's relay first: ", err)
	}
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	begin := time.Now().Add(-time.Minute)
	one.observe(t, ca).put(flow("node-1", begin, "shop", "bank"))
	two.observe(t, ca).put(flow("node-2", begin.Add(time.Second), "bank", "shop"))
	f := newFixture(t, ca, Config{}, one)

	keys := ca.Directory(t, relayLeaf.names...)
	// Free ports: the relay says only what it was told.
	var free [2]string
	for i := range free {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		free[i] = l.Addr().String()
		_ = l.Close()
	}
	ctx, stop := context.WithCancel(t.Context())
	relay := exec.CommandContext(ctx, program, "serve", "--peer-service", f.hubble, "--listen-address", free[0], "--health-listen-address", free[1],
		"--gops=false", "--disable-server-tls", "--tls-hubble-client-cert-file", filepath.Join(keys, "tls.crt"),
		"--tls-hubble-client-key-file", filepath.Join(keys, "tls.key"), "--tls-hubble-server-ca-files", filepath.Join(keys, "ca.crt"))
	var said bytes.Buffer
	relay.Stdout, relay.Stderr = &said, &said
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = relay.Wait() // ended by us
		if t.Failed() {
			t.Logf("the relay said:\n%s", said.String())
		}
	})
	ask := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "hubble", append([]string{"--server", free[0]}, args...)...)
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH="}
		out, _ := cmd.Output() // it is not up yet
		return string(out)
	}
	nodes := func() string {
		var list []string
		for line := range strings.Lines(ask("list", "nodes")) {
			if w := strings.Fields(line); len(w) > 1 && w[0] != "NAME" {
				list = append(list, w[0]+" "+w[1])
			}
		}
		return strings.Join(list, ", ")
	}
	wait := func(want string) {
		t.Helper()
		testkit.Wait(t, "the relay to know "+want, func() bool { return nodes() == want })
	}
	wait("node-1 Connected")
	f.cluster.add(two)
	wait("node-1 Connected, node-2 Connected")
	flows := func() (list []string) {
		for line := range strings.Lines(ask("observe", "--last", "10", "-o", "json")) {
			var r struct {
				Flow struct {
					NodeName string `json:"node_name"`
					Source   struct{ Namespace string }
				}
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if r.Flow.NodeName != "" {
				list = append(list, r.Flow.NodeName+" "+r.Flow.Source.Namespace)
			}
		}
		return list
	}
	if got, want := flows(), []string{"node-1 shop", "node-2 bank"}; !slices.Equal(got, want) {
		t.Errorf("flows %q, want %q", got, want)
	}
	f.cluster.remove(one)
	wait("node-2 Connected")
	f.cluster.change(func(c *fakeCluster) {
		c.state.SetNode(&cluster.Node{UID: "uid-3", Name: "node-3", Labels: map[string]string{"kubernetes.io/os": "linux"}}, time.Now())
	})
	wait("node-2 Connected, node-3 Unavailable")
}
