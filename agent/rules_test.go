package agent

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"warren/pipeline"
)

// TestNoRuleFiles: a folder without rule files is said to be one.
func TestNoRuleFiles(t *testing.T) {
	dir := t.TempDir()
	said := func(paths ...string) string {
		t.Helper()
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		if _, err := openRules(RulesConfig{Paths: paths}, nil, pipeline.New(pipeline.Config{}, nil, nil, nil, log), log); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if err := os.WriteFile(filepath.Join(dir, "rules.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := said(dir); !strings.Contains(got, "nothing alerts") || !strings.Contains(got, dir) {
		t.Errorf("a folder without rule files: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := said(dir) + said(); got != "" {
		t.Errorf("one with a rule file, and none asked for: %q", got)
	}
}
