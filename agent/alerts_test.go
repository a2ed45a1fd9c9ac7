package agent

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAlertsStart notices a configuration that has changed since it was read for
// the start.
func TestAlertsStart(t *testing.T) {
	dir := t.TempDir()
	o := Options{Config: filepath.Join(dir, "config.yaml"), State: filepath.Join(dir, "state")}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(o.Config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("{}\n")
	cfg, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := openAlerts(cfg, nil, io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	write("alerts:\n  channels:\n    - name: one\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for a.status() == nil {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the change is not noticed")
		}
	}
	if why := a.status().Refused; !strings.Contains(why, "channel one has no type") {
		t.Errorf("refused: %q", why)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
