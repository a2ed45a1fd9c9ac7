package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"warren/internal/wholefile"
)

// sysctls are settings of the machine that were changed, and what they were.
type sysctls struct {
	root string // /proc/sys
	dir  string // where they are remembered; "" is nowhere
	was  map[string]setting
}

// A record is what is remembered, of one boot: the next begins with settings of
// its own.
type record struct {
	Boot     string             `json:"boot"`
	Settings map[string]setting `json:"settings"`
}

// A setting is one that was changed.
type setting struct {
	Was string `json:"was"`
	Now string `json:"now"`
}

// sysctlRecord is the file in which they are remembered.
const sysctlRecord = "sysctl.json"

func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // none, and all boots are one
	return strings.TrimSpace(string(text))
}

// get gives a setting as it is, nothing if there is no such setting. It is read
// below /proc/sys even where another folder is written to.
func (s *sysctls) get(name string) string {
	text, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// want sets a setting, unless it is so, and remembers what it was first.
func (s *sysctls) want(name, value string) error {
	is := s.get(name)
	switch is {
	case value:
		return nil
	case "":
		return fmt.Errorf("this kernel, or this network, has no setting %s", strings.ReplaceAll(name, "/", "."))
	}
	if err := s.load(); err != nil {
		return err
	}
	if _, known := s.was[name]; !known {
		s.was[name] = setting{Was: is, Now: value}
		if err := s.save(); err != nil {
			delete(s.was, name)
			return err
		}
	}
	return s.write(name, value)
}

// write sets a setting, and remembers nothing.
func (s *sysctls) write(name, value string) error {
	if err := os.WriteFile(filepath.Join(s.root, name), []byte(value), 0); err != nil {
		return fmt.Errorf("%s is %s and cannot be set to %s here: set it on the node, or let the agent write to it: %w", strings.ReplaceAll(name, "/", "."), s.get(name), value, err)
	}
	return nil
}

// load reads what an earlier agent remembered.
func (s *sysctls) load() error {
	if s.was != nil {
		return nil
	}
	var r record
	if s.dir != "" {
		path := filepath.Join(s.dir, sysctlRecord)
		_ = wholefile.Sweep(path) // who may not remove may not write either, and save tells
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			// A file that was broken off says nothing: what is, is taken for what was.
			_ = json.Unmarshal(text, &r)
		}
	}
	was := r.Settings
	if was == nil || r.Boot != bootID() {
		was = make(map[string]setting)
	}
	// The names become paths: nobody but us writes the file, and it stays so.
	for name := range was {
		if !filepath.IsLocal(name) || !strings.HasPrefix(name, "net/") {
			delete(was, name)
		}
	}
	s.was = was
	return nil
}

// save writes the file whole.
func (s *sysctls) save() error {
	if s.dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(record{bootID(), s.was}, "", "  ")
	if err != nil {
		return err
	}
	if err := wholefile.Write(filepath.Join(s.dir, sysctlRecord), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("remember the machine's settings: %w", err)
	}
	return nil
}

// restore puts back what was changed, but for what somebody else has set since.
func (s *sysctls) restore() error {
	if err := s.load(); err != nil {
		return err
	}
	var errs []error
	for name, v := range s.was {
		if s.get(name) != v.Now {
			continue
		}
		if err := os.WriteFile(filepath.Join(s.root, name), []byte(v.Was), 0); err != nil {
			errs = append(errs, fmt.Errorf("put %s back to %s: %w", strings.ReplaceAll(name, "/", "."), v.Was, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	s.was = nil
	if s.dir == "" {
		return nil
	}
	for _, name := range []string{sysctlRecord, "." + sysctlRecord} {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
