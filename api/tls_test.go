package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/internal/testkit"
)

// credentials are those of somebody with a name, who believes an authority.
func credentials(t *testing.T, a *testkit.Authority, log *slog.Logger, names ...string) (*Credentials, string) {
	t.Helper()
	dir := a.Directory(t, names...)
	c, err := OpenCredentials(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

// guarded is an agent's door for the hub, with its log.
func guarded(t *testing.T, creds *Credentials) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(newFake(), Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, time.Minute, slog.New(slog.DiscardHandler), Door{creds.Listen(l, "http/1.1", HubName), server})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// askBy asks for the agent's health by connections that dial makes.
func askBy(t *testing.T, addr string, dial func(ctx context.Context) (net.Conn, error)) error {
	t.Helper()
	base := &url.URL{Scheme: "http", Host: addr, Path: "/v1"}
	if dial == nil {
		return NewHTTPClient(base, &http.Transport{DisableKeepAlives: true}).Health(t.Context())
	}
	base.Scheme = "https"
	return NewHTTPClient(base, &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}).Health(t.Context())
}

func TestOnlyTheHubGetsIn(t *testing.T) {
	ours, foreign := testkit.NewAuthority(t, "ours"), testkit.NewAuthority(t, "foreign")
	type dial func(ctx context.Context, addr string) (net.Conn, error)
	client := func(cfg *tls.Config) dial {
		cfg.ServerName, cfg.RootCAs = AgentName, x509.NewCertPool()
		cfg.RootCAs.AddCert(ours.Cert)
		return func(ctx context.Context, addr string) (net.Conn, error) {
			return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
		}
	}
	with := func(a *testkit.Authority, change func(*x509.Certificate), names ...string) dial {
		cert, key := a.Issue(t, change, names...)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		// The server says which authorities it believes; an intruder does not care.
		return client(&tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }})
	}
	for _, test := range []struct {
		name string
		dial dial   // nil is plain HTTP
		why  string // in the log
	}{
		{"without TLS", nil, "first record does not look like a TLS handshake"},
		{"without a certificate", client(&tls.Config{}), "client didn't provide a certificate"},
		{"of a foreign authority", with(foreign, nil, HubName), `certificate="\"CN=leaf [hub.warren] by CN=foreign\"" othersSince=0 err="tls: failed to verify certificate: x509: certificate signed by unknown authority`},
		{"expired", with(ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, HubName), "certificate has expired or is not yet valid"},
		{"not valid yet", with(ours, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, HubName), "certificate has expired or is not yet valid"},
		{"of an agent", with(ours, nil, AgentName), "the certificate is not for hub.warren"},
		{"of a relay", with(ours, nil, HubbleName), "the certificate is not for hub.warren"},
		{"of a wildcard", with(ours, nil, "*.warren"), "the certificate is not for hub.warren"},
		{"for servers only", with(ours, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, HubName), "incompatible key usage"},
		{"with an older TLS", client(&tls.Config{MaxVersion: tls.VersionTLS12}), "client offered only unsupported versions"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// An agent for each: a client knows that it is refused before the
			// agent has counted and logged it.
			var log testkit.Log
			agent, _ := credentials(t, ours, slog.New(slog.NewTextHandler(&log, nil)), AgentName)
			addr := guarded(t, agent)
			var by func(context.Context) (net.Conn, error)
			if test.dial != nil {
				by = func(ctx context.Context) (net.Conn, error) { return test.dial(ctx, addr) }
			}
			if err := askBy(t, addr, by); err == nil {
				t.Error("let in")
			}
			testkit.Wait(t, "a line in the log", func() bool { return log.String() != "" })
			if !strings.Contains(log.String(), test.why) {
				t.Errorf("logged is %s, want %s", &log, test.why)
			}
			if n := agent.State().Refused; n != 1 {
				t.Errorf("%d refused, want 1", n)
			}
		})
	}
	agent, _ := credentials(t, ours, slog.New(slog.DiscardHandler), AgentName)
	addr := guarded(t, agent)
	hub, _ := credentials(t, ours, slog.New(slog.DiscardHandler), HubName, "warren-hub.warren.svc")
	if err := askBy(t, addr, func(ctx context.Context) (net.Conn, error) { return hub.Dial(ctx, addr, AgentName, "http/1.1") }); err != nil {
		t.Errorf("the hub: %v", err)
	}
	// And the hub speaks only to an agent.
	if _, err := hub.Dial(t.Context(), addr, HubName); err == nil || !strings.Contains(err.Error(), "certificate is valid for agent.warren, not hub.warren") {
		t.Errorf("the hub takes an agent for somebody else: %v", err)
	}
	stranger, _ := credentials(t, foreign, slog.New(slog.DiscardHandler), HubName)
	if _, err := stranger.Dial(t.Context(), addr, AgentName); err == nil {
		t.Error("somebody of another authority believes an agent")
	}
}

// Certificates change without a restart, in the order in which people do it:
// believe the new authority, change certificates, forget the old one.
func TestRotation(t *testing.T) {
	var log testkit.Log
	old, next := testkit.NewAuthority(t, "old"), testkit.NewAuthority(t, "next")
	agent, agentDir := credentials(t, old, slog.New(slog.NewTextHandler(&log, nil)), AgentName)
	hub, hubDir := credentials(t, old, slog.New(slog.DiscardHandler), HubName)
	addr := guarded(t, agent)
	ask := func() error {
		return askBy(t, addr, func(ctx context.Context) (net.Conn, error) { return hub.Dial(ctx, addr, AgentName, "http/1.1") })
	}
	step := func(what string, works bool, dir string, files map[string][]byte) {
		t.Helper()
		testkit.WriteFiles(t, dir, files)
		if err := ask(); (err == nil) != works {
			t.Errorf("%s: %v", what, err)
		}
	}
	both := append(append([]byte{}, old.PEM...), next.PEM...)
	pair := func(name string) map[string][]byte {
		cert, key := next.Issue(t, nil, name)
		return map[string][]byte{certFile: cert, keyFile: key}
	}
	step("before", true, agentDir, nil)
	step("the agent believes both", true, agentDir, map[string][]byte{rootFile: both})
	step("the hub believes both", true, hubDir, map[string][]byte{rootFile: both})
	step("the hub's certificate is new", true, hubDir, pair(HubName))
	step("the agent's certificate is new", true, agentDir, pair(AgentName))
	step("the agent forgets the old one", true, agentDir, map[string][]byte{rootFile: next.PEM})
	step("the hub forgets the old one", true, hubDir, map[string][]byte{rootFile: next.PEM})
	if state := agent.State(); state.Err != nil || state.Refused != 0 {
		t.Errorf("after it all: %+v", state)
	}
	if n := strings.Count(log.String(), `msg="certificates have changed"`); n != 3 {
		t.Errorf("%d changes were logged, want 3:\n%s", n, &log)
	}

	// What cannot be used leaves in force what was, and is told once.
	cert, _ := next.Issue(t, nil, AgentName)
	step("a certificate without its key", true, agentDir, map[string][]byte{certFile: cert})
	step("no authority", true, agentDir, map[string][]byte{rootFile: []byte("nothing\n")})
	if err := os.Remove(filepath.Join(agentDir, keyFile)); err != nil {
		t.Fatal(err)
	}
	step("no key", true, agentDir, nil)
	step("no key still", true, agentDir, nil)
	if err := agent.State().Err; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state: %v", err)
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 3 {
		t.Errorf("%d failures were logged, want 3:\n%s", n, &log)
	}
	step("whole again", true, agentDir, mergeMaps(pair(AgentName), map[string][]byte{rootFile: next.PEM}))
	if err := agent.State().Err; err != nil {
		t.Errorf("state: %v", err)
	}
	step("the agent believes another", false, agentDir, map[string][]byte{rootFile: old.PEM})
}

func mergeMaps(maps ...map[string][]byte) map[string][]byte {
	all := map[string][]byte{}
	for _, m := range maps {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func TestOpenCredentials(t *testing.T) {
	a := testkit.NewAuthority(t, "ours")
	cert, key := a.Issue(t, nil, AgentName)
	_, other := a.Issue(t, nil, AgentName)
	good := map[string][]byte{certFile: cert, keyFile: key, rootFile: a.PEM}
	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"no certificate", map[string][]byte{keyFile: key, rootFile: a.PEM}, "tls.crt: no such file"},
		{"no key", map[string][]byte{certFile: cert, rootFile: a.PEM}, "tls.key: no such file"},
		{"no authority", map[string][]byte{certFile: cert, keyFile: key}, "ca.crt: no such file"},
		{"another's key", mergeMaps(good, map[string][]byte{keyFile: other}), "private key does not match public key"},
		{"empty", mergeMaps(good, map[string][]byte{certFile: nil}), "failed to find any PEM data in certificate input"},
		{"no PEM", mergeMaps(good, map[string][]byte{rootFile: []byte("x")}), "ca.crt: no certificate in PEM"},
		{"too large", mergeMaps(good, map[string][]byte{rootFile: bytes.Repeat([]byte("x"), maxPEM+1)}), "too much for certificates"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			testkit.WriteFiles(t, dir, test.files)
			if _, err := OpenCredentials(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	var log testkit.Log
	dir := t.TempDir()
	old, oldKey := a.Issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, AgentName)
	testkit.WriteFiles(t, dir, map[string][]byte{certFile: old, keyFile: oldKey, rootFile: a.PEM})
	c, err := OpenCredentials(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || !strings.Contains(log.String(), "nobody will believe it") {
		t.Errorf("an expired certificate: %v\n%s", err, &log)
	} else if !c.State().Expires.Before(time.Now()) {
		t.Errorf("it expires at %v", c.State().Expires)
	}
}

// Those who connect and say nothing keep nobody out, however many they are.
func TestSilentClients(t *testing.T) {
	a := testkit.NewAuthority(t, "ours")
	agent, _ := credentials(t, a, slog.New(slog.DiscardHandler), AgentName)
	hub, _ := credentials(t, a, slog.New(slog.DiscardHandler), HubName)
	addr := guarded(t, agent)
	for range handshakes + 8 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	err := askBy(t, addr, func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, handshakeTime/2) // the silent ones have more
		defer cancel()
		return hub.Dial(ctx, addr, AgentName, "http/1.1")
	})
	if err != nil {
		t.Error(err)
	}
	testkit.Wait(t, "the first ones are refused", func() bool { return agent.State().Refused >= 8 })
}

// Close ends Accept, and what was about to come in.
func TestGuardCloses(t *testing.T) {
	a := testkit.NewAuthority(t, "ours")
	agent, _ := credentials(t, a, slog.New(slog.DiscardHandler), AgentName)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := agent.Listen(inner, "http/1.1", HubName)
	ended := make(chan error)
	go func() { _, err := l.Accept(); ended <- err }()
	silent, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := io.ReadAll(silent); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the one who was coming in: %v", err)
	}
}
