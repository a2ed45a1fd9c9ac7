package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/audit"
	"warren/internal/testkit"
	"warren/pipeline"
)

// TestAuditWays changes where and by whom audit events are told, while an API server
// tells them.
func TestAuditWays(t *testing.T) {
	log, dir := slog.New(slog.DiscardHandler), t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := Config{State: dir, Audit: AuditConfig{Listen: "127.0.0.1:0"}}
	cfg.Audit.Webhook.TokenFile = file("one", "one")
	spine := pipeline.New(pipeline.Config{}, nil, nil, nil, log)
	engine, err := openRules(cfg.Rules, nil, spine, log)
	if err != nil {
		t.Fatal(err)
	}
	a, err := openAudit(t.Context(), cfg, spine, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	for _, run := range []func(context.Context) error{engine.Run, func(ctx context.Context) error { return a.run(ctx, engine) }} {
		go func() { ended <- run(ctx) }()
	}
	defer func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	use := func(c AuditConfig) *auditWays {
		t.Helper()
		w, err := a.prepare(ctx, &c)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.use(ctx, w); err != nil {
			t.Fatal(err)
		}
		if a.now() != w {
			t.Error("the change is yet to come")
		}
		return w
	}
	// A connection that was idle may end while a request is being sent.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tell := func(addr, token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/k8s-audit", strings.NewReader(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		answer, err := client.Do(req)
		if err != nil {
			return 0
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	want := func(what, addr, token string, code int) {
		t.Helper()
		if got := tell(addr, token); got != code {
			t.Errorf("%s: answered %d, want %d", what, got, code)
		}
	}
	first := a.now().address()
	want("the first", first, "one", http.StatusOK)

	// At the same address, with another token: who asks meanwhile waits.
	c := cfg.Audit
	c.Webhook.TokenFile = file("two", "two")
	if got := use(c).address(); got != first {
		t.Errorf("listens at %s, and before at %s", got, first)
	}
	want("the former token", first, "one", http.StatusUnauthorized)
	want("the other token", first, "two", http.StatusOK)

	// At another one.
	c.Listen = "localhost:0"
	second := use(c).address()
	want("the other address", second, "two", http.StatusOK)
	want("the former address", first, "two", 0)

	// What cannot be is said, and changes nothing.
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, port, err := net.SplitHostPort(second)
	if err != nil {
		t.Fatal(err)
	}
	for addr, why := range map[string]string{
		other.Addr().String(): "the address is in use: give another with " + auditListenKey,
		second:                "this agent has the port itself, at " + second,
		":" + port:            "this agent has the port itself, at " + second,
		"0.0.0.0:" + port:     "this agent has the port itself, at " + second,
	} {
		if _, err := a.now().listen(ctx, &AuditConfig{Listen: addr, Webhook: audit.WebhookConfig{Cert: "any"}}); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %s", addr, err, why)
		}
	}
	want("as before", second, "two", http.StatusOK)

	// Nowhere, and from a log.
	use(AuditConfig{})
	want("nowhere", second, "two", 0)
	if st := a.status(); st != nil {
		t.Errorf("nowhere: %+v", st)
	}
	log1 := file("audit.log", "")
	use(AuditConfig{Log: log1})
	testkit.Wait(t, "the log", func() bool { st := a.status(); return st != nil && st.LogFile == log1 })
}

// TestAuditWaysWait takes a request that is being read when it comes by other ways.
func TestAuditWaysWait(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	cfg := Config{State: t.TempDir(), Audit: AuditConfig{Listen: "127.0.0.1:0"}}
	spine := pipeline.New(pipeline.Config{}, nil, nil, nil, log)
	a, err := openAudit(t.Context(), cfg, spine, log)
	if err != nil {
		t.Fatal(err)
	}
	next, ended := make(chan *auditWays), make(chan error, 1)
	first := a.now()
	go func() {
		w, err := first.run(t.Context(), next)
		w.close()
		ended <- err
	}()
	read, answered := make(chan struct{}), make(chan int, 1)
	body, rest := io.Pipe()
	go func() {
		defer close(answered)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(read) }})
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+first.address()+"/k8s-audit", body)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Expect", "100-continue")
		answer, err := (&http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}).Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		answer.Body.Close()
		answered <- answer.StatusCode
	}()
	<-read
	next <- &auditWays{}
	testkit.Wait(t, "the end of listening", func() bool {
		f, err := first.l.(*net.TCPListener).File()
		if err == nil {
			f.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(rest, `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}`); err != nil {
		t.Error(err)
	}
	rest.Close()
	if code, n := <-answered, a.in.Stats().Refused; code != http.StatusOK || n != 0 {
		t.Errorf("answered %d, %d refused", code, n)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestAuditHas: which addresses nobody can listen at beside an own one.
func TestAuditHas(t *testing.T) {
	for _, test := range []struct {
		own, asked string
		want       bool
	}{
		{"127.0.0.1:9443", "127.0.0.1:9443", true},
		{"127.0.0.1:9443", "127.0.0.2:9443", false},
		{"127.0.0.1:9443", "127.0.0.1:9444", false},
		{"127.0.0.1:9443", ":9443", true},
		{"127.0.0.1:9443", "0.0.0.0:9443", true},
		{"0.0.0.0:9443", "127.0.0.1:9443", true},
		{"[::1]:9443", "0.0.0.0:9443", false},
		{"[::1]:9443", "[::]:9443", true},
		{"[::1]:9443", ":9443", true},
		{"[::]:9443", "0.0.0.0:9443", true},
	} {
		own := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.own))
		if got := (&auditWays{l: boundTo{addr: own}}).has(test.asked); got != test.want {
			t.Errorf("%s takes %s: %t", test.own, test.asked, got)
		}
	}
}

// boundTo is a listener that only has an address.
type boundTo struct {
	net.Listener
	addr net.Addr
}

// Addr implements net.Listener.
func (b boundTo) Addr() net.Addr { return b.addr }

// TestAuditOwnPort takes over all but what can only be with the next start: another
// address of the port that the agent has itself.
func TestAuditOwnPort(t *testing.T) {
	log, dir := &testkit.Log{}, t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := "kubernetes-audit: {webhook: {listen: '127.0.0.1:0'}}\n"
	write(first)
	cfg, err := Load(Options{Config: file, State: dir})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	spine := pipeline.New(pipeline.Config{}, nil, nil, nil, logger)
	reacts, err := openReactions(cfg, nil, spine, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer reacts.close()
	a, err := openAudit(t.Context(), cfg, spine, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	channels, err := openAlerts(cfg, spine, io.Discard, logger)
	if err != nil {
		t.Fatal(err)
	}
	c := newChanges(cfg, users{nil, channels, reacts, a}, logger)

	_, port, err := net.SplitHostPort(a.now().address())
	if err != nil {
		t.Fatal(err)
	}
	write("kubernetes-audit: {webhook: {listen: 'localhost:" + port + "'}}\nreactions: {enabled: true}\n")
	for range 2 {
		c.look(t.Context())
	}
	if st := c.state(); st == nil || st.Refused != "" || !slices.Equal(st.Restart, []string{"kubernetes-audit.webhook.listen"}) {
		t.Errorf("state %+v", st)
	}
	if !reacts.Status().Enabled || a.now().cfg.Listen != cfg.Audit.Listen {
		t.Errorf("reactions %+v, listens at %s", reacts.Status(), a.now().cfg.Listen)
	}
	if n := strings.Count(log.String(), "this agent has the port itself"); n != 1 {
		t.Errorf("said %d times", n)
	}
	write(first)
	c.look(t.Context())
	if st := c.state(); st != nil {
		t.Errorf("back as it was: %+v", st)
	}
}
