package alert

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"warren/rule"
)

// maxFile bounds one rule file, in bytes.
const maxFile = 64 << 20

// Files reads rule files, in their order; of a directory they are its .yaml and
// .yml, by name, but for hidden ones. Relative paths begin at dir, "" for the
// working directory.
func Files(paths []string, dir string) (list []rule.File, err error) {
	at := func(path string) string {
		if dir == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	for _, path := range paths {
		info, err := os.Stat(at(path))
		if err != nil {
			return nil, err
		}
		files := []string{path}
		if info.IsDir() {
			if files, err = within(at(path)); err != nil {
				return nil, err
			}
			for i, name := range files {
				files[i] = filepath.Join(path, name)
			}
		}
		for _, f := range files {
			text, err := read(at(f))
			if err != nil {
				return nil, err
			}
			list = append(list, rule.File{Name: f, Text: text})
		}
	}
	return list, nil
}

// SameFiles reports whether files are the same, in the same order.
func SameFiles(a, b []rule.File) bool {
	return slices.EqualFunc(a, b, func(a, b rule.File) bool { return a.Name == b.Name && string(a.Text) == string(b.Text) })
}

// within returns the names of a directory's rule files.
func within(dir string) (names []string, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		name := e.Name()
		if ext := filepath.Ext(name); (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(name, ".") && !e.IsDir() {
			names = append(names, name)
		}
	}
	return names, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s has more than %d MiB", path, maxFile>>20)
	}
	return text, nil
}
