package alert

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestFiles reads files in the order of paths and, of directories, of names.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"first.txt", "d/b.yml", "d/a.yaml", "d/c.json", "d/.hidden.yaml", "d/sub.yaml/x.yaml"} {
		write(t, filepath.Join(dir, name), "# "+name)
	}
	list, err := Files([]string{"first.txt", filepath.Join(dir, "d")}, dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		got = append(got, f.Name+string(f.Text))
	}
	if want := []string{"first.txt# first.txt", filepath.Join(dir, "d/a.yaml") + "# d/a.yaml", filepath.Join(dir, "d/b.yml") + "# d/b.yml"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if _, err := Files([]string{"none.yaml"}, dir); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestConfigMap reads rules from a volume of a config map, in which the kubelet
// changes all files at once by a link to their directory.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	put := func(version string, files map[string]string) {
		for name, text := range files {
			write(t, filepath.Join(dir, version, name), text)
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	for i, files := range []map[string]string{{"a.yaml": "# 1"}, {"a.yaml": "# 2", "b.yaml": "# 3"}} {
		put(fmt.Sprintf("..2026_11_21_%d", i), files)
		list, err := Files([]string{dir}, "")
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string]string)
		for name, text := range files {
			want[filepath.Join(dir, name)] = text
		}
		got := make(map[string]string)
		for _, f := range list {
			got[f.Name] = string(f.Text)
		}
		if !maps.Equal(got, want) {
			t.Errorf("version %d: files %v, want %v", i, got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
