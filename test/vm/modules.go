package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A module is a kernel module, decompressed.
type module struct {
	name string
	data []byte
}

// findModules gives the named modules and what they depend on, in the order of
// loading. One that is built into the kernel is left out.
func findModules(ctx context.Context, k kernel, names ...string) ([]module, error) {
	files := make(map[string]string) // by module name
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, rest, ok := strings.Cut(d.Name(), ".ko"); ok && (rest == "" || rest == ".xz") {
			files[moduleName(name)] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.release, err)
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.release, err)
	}
	inKernel := make(map[string]bool)
	for line := range strings.Lines(string(builtin)) {
		inKernel[moduleName(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	return loadOrder(names, func(name string) ([]byte, error) {
		path, ok := files[name]
		switch {
		case ok && strings.HasSuffix(path, ".xz"):
			data, err := exec.CommandContext(ctx, "xz", "-dc", path).Output()
			if err != nil {
				return nil, fmt.Errorf("decompress %s: %w", path, err)
			}
			return data, nil
		case ok:
			return os.ReadFile(path)
		case inKernel[name]:
			return nil, nil
		}
		return nil, fmt.Errorf("kernel %s has no module %s", k.release, name)
	})
}

// loadOrder reads the modules and those they depend on, these first. read gives
// nil for what is built in.
func loadOrder(names []string, read func(name string) ([]byte, error)) ([]module, error) {
	var order []module
	var add func(name string, path []string) error
	add = func(name string, path []string) error {
		name = moduleName(name)
		if slices.ContainsFunc(order, func(m module) bool { return m.name == name }) {
			return nil
		}
		if slices.Contains(path, name) {
			return fmt.Errorf("modules depend on each other: %s", strings.Join(append(path, name), " "))
		}
		data, err := read(name)
		if err != nil || data == nil {
			return err
		}
		for _, dependency := range dependencies(data) {
			if err := add(dependency, append(path, name)); err != nil {
				return err
			}
		}
		order = append(order, module{name: name, data: data})
		return nil
	}
	for _, name := range names {
		if err := add(name, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// dependencies reads the "depends=a,b" of a module's .modinfo: strings that end
// with zero bytes, the first of a section after none.
func dependencies(data []byte) []string {
	key := []byte("\x00depends=")
	i := bytes.Index(data, key)
	if i < 0 {
		if !bytes.HasPrefix(data, key[1:]) {
			return nil
		}
		i = -1
	}
	value, _, _ := bytes.Cut(data[i+len(key):], []byte{0})
	return strings.FieldsFunc(string(value), func(r rune) bool { return r == ',' })
}

// moduleName makes the two spellings of a name one: nf-tables and nf_tables.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }
