package e2e

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"

	"warren/api"
	"warren/internal/testkit"
)

// TestE2EHubbleRelay puts Hubble's own relay, as it is published, before two
// servers of flows: it learns of them from the first, and reaches both by TLS.
func TestE2EHubbleRelay(t *testing.T) {
	program, err := exec.LookPath("hubble-relay")
	if err != nil {
		t.Fatal("make e2e builds Hubble's relay first: ", err)
	}
	log := slog.New(slog.DiscardHandler)
	ca := testkit.NewAuthority(t, "installation")
	own, err := api.OpenCredentials(ca.Directory(t, api.AgentName), log)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	local, socket := listen(t)
	var peers []api.HubblePeer
	doors := map[string]net.Listener{}
	for _, node := range []string{"node-1", "node-2"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, api.HubblePeer{Name: node, Address: l.Addr().String(), TLSName: api.AgentName})
		doors[node] = own.Listen(l, "h2", api.HubbleName)
	}
	all := func() []api.HubblePeer { return peers }
	serveConnects(t, api.HubbleConfig{Node: "node-1", TLSName: api.AgentName, Peers: all}, start, local, doors["node-1"])
	serveConnects(t, api.HubbleConfig{Node: "node-2", TLSName: api.AgentName, Peers: all}, start.Add(500*time.Millisecond), doors["node-2"])

	keys := ca.Directory(t, api.HubbleName)
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
	relay := exec.CommandContext(ctx, program, "serve", "--peer-service", "unix://"+socket, "--listen-address", free[0], "--health-listen-address", free[1],
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
	ask := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "hubble", append([]string{"--server", free[0]}, args...)...)
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH="}
		out, err := cmd.Output()
		return string(out), err
	}
	testkit.Wait(t, "both nodes", func() bool {
		out, err := ask("list", "nodes", "-o", "wide")
		return err == nil && strings.Count(out, "Connected") == 2 && strings.Count(out, "Enabled") == 2
	})
	// The relay looks at itself every few seconds.
	out := testkit.WaitFor(t, "a relay that is well", func() (string, bool) {
		out, err := ask("status", "-o", "json")
		return out, err == nil
	})
	status := &observerpb.ServerStatusResponse{}
	if err := status.UnmarshalJSON([]byte(out)); err != nil {
		t.Fatal(err)
	}
	if status.GetSeenFlows() != 100 || status.GetMaxFlows() != 2*4095 || status.GetNumConnectedNodes().GetValue() != 2 {
		t.Errorf("%v", status)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--last", "2"}, "node-1:48 node-2:48 node-1:49 node-2:49"}, // of each node
		{[]string{"--first", "1"}, "node-1:0 node-2:0"},
		{[]string{"--all", "--to-ip", "192.0.2.7"}, "node-1:7 node-2:7"},
		{[]string{"--last", "1", "--node-name", "node-2"}, "node-2:49"},
	} {
		out, err := ask(append([]string{"observe", "-o", "json"}, test.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out) {
			// The relay tells of nodes, too.
			if r := parseFlow(t, []byte(line)); r.GetFlow() != nil {
				got = append(got, r.GetNodeName()+":"+strings.TrimPrefix(r.GetFlow().GetIP().GetDestination(), "192.0.2."))
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%v: %v, want %s", test.args, got, test.want)
		}
	}
}
