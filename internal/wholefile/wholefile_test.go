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

// TestSweep removes what a killed write of the file has left, and nothing else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, name := range []string{"f", TempPrefix + "f-123", TempPrefix + "f-4", TempPrefix + "f-x", TempPrefix + "f-", TempPrefix + "f-g-5", TempPrefix + "g-6", "f-7"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := Sweep(path); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := names(t, dir), ".tmp-f- .tmp-f-g-5 .tmp-f-x .tmp-g-6 f f-7"; got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
	if err := Sweep(filepath.Join(dir, "none", "f")); err != nil {
		t.Errorf("where there is no folder: %v", err)
	}
	if err := Sweep(filepath.Join(path, "f")); err == nil {
		t.Error("a folder that cannot be read is no error")
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
