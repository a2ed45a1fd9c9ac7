package wholefile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func TestWrite(t *testing.T) {
	for name, write := range map[string]func(path, content string) error{
		"Write":       func(path, content string) error { return Write(path, []byte(content), 0o640) },
		"WriteSynced": func(path, content string) error { return WriteSynced(path, []byte(content), 0o640) },
		"CopySynced":  func(path, content string) error { return CopySynced(path, strings.NewReader(content), 0o640) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		for _, content := range []string{"first", "", "second"} {
			if err := write(path, content); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			b, err := os.ReadFile(path)
			info, statErr := os.Stat(path)
			if err = errors.Join(err, statErr); err != nil || string(b) != content || info.Mode() != 0o640 {
				t.Errorf("%s: the file has %q, mode %v, %v", name, b, info.Mode(), err)
			}
		}
		if got := names(t, dir); got != "f" {
			t.Errorf("%s leaves %s", name, got)
		}
	}
}

// TestBroken leaves what was there, and nothing beside it.
func TestBroken(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := CopySynced(path, iotest.ErrReader(broken), 0o600); !errors.Is(err, broken) {
		t.Errorf("it ended with %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
		t.Errorf("the file has %q, %v", b, err)
	}
	full := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(full, nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if got := names(t, dir); got != "f folder" {
		t.Errorf("left are %s", got)
	}
	if err := Write(filepath.Join(dir, "none", "f"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where there is no folder: %v", err)
	}
}
