package agent

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	c.Listen = second
	if _, err := a.prepare(ctx, &c); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address that is in use: %v", err)
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
