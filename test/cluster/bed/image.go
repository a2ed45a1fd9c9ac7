package bed

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// An image is what a container starts from. Layers are tar files.
type image struct {
	name       string // localhost/pause:1
	layers     []layer
	entrypoint []string
	user       string
}

// A layer is a tar archive.
type layer struct{ text []byte }

func (l layer) digest() string { return fmt.Sprintf("%x", sha256.Sum256(l.text)) }

// A tree collects the files of a layer. The first error is kept for layer().
type tree struct {
	out  bytes.Buffer
	tar  *tar.Writer
	made map[string]bool
	err  error
}

func newTree() *tree {
	t := &tree{made: make(map[string]bool)}
	t.tar = tar.NewWriter(&t.out)
	return t
}

// add adds an entry and the folders that it is in. Times and owners are the same
// for all, so that the same files make the same image.
func (t *tree) add(h tar.Header, content []byte) {
	if t.err != nil || t.made[h.Name] {
		return
	}
	t.made[h.Name] = true
	if parent := path.Dir(strings.TrimSuffix(h.Name, "/")); parent != "." && parent != "/" {
		t.dir(parent, 0o755)
	}
	h.Size, h.Format = int64(len(content)), tar.FormatPAX
	if t.err = t.tar.WriteHeader(&h); t.err == nil {
		_, t.err = t.tar.Write(content)
	}
}

func (t *tree) dir(name string, mode int64) {
	t.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (t *tree) link(name, to string) {
	t.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (t *tree) text(name, content string) {
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content))
}

// file copies one of the machine's.
func (t *tree) file(name, from string, mode int64) {
	if t.err != nil {
		return
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.err = err
		return
	}
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

// users adds the account files, with one who is not root.
func (t *tree) users() {
	t.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n")
	t.text("etc/group", "root:x:0:\nnonroot:x:65532:\n")
	t.dir("tmp", 0o1777)
}

func (t *tree) layer() (layer, error) {
	if t.err == nil {
		t.err = t.tar.Close()
	}
	return layer{t.out.Bytes()}, t.err
}

// writeImages writes images into one archive in the format of `docker save`,
// which containerd imports. Layers that they share are there once.
func writeImages(w io.Writer, images []image) error {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	archive := tar.NewWriter(w)
	var manifest []entry
	written := make(map[string]bool)
	put := func(name string, content []byte) error {
		if written[name] {
			return nil
		}
		written[name] = true
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	for _, i := range images {
		var ids, names []string
		for _, l := range i.layers {
			digest := l.digest()
			ids, names = append(ids, "sha256:"+digest), append(names, digest+"/layer.tar")
			if err := put(digest+"/layer.tar", l.text); err != nil {
				return err
			}
		}
		config, err := json.Marshal(map[string]any{
			"architecture": architecture(), "os": "linux",
			"config": map[string]any{
				"Entrypoint": i.entrypoint, "User": i.user, "WorkingDir": "/",
				"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			},
			"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
		})
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%x.json", sha256.Sum256(config))
		if err := put(name, config); err != nil {
			return err
		}
		manifest = append(manifest, entry{name, []string{i.name}, names})
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return errors.Join(put("manifest.json", text), archive.Close())
}

// writeImageFile writes an archive that appears whole.
func writeImageFile(name string, images ...image) error {
	var out bytes.Buffer
	if err := writeImages(&out, images); err != nil {
		return err
	}
	return writeFile(name, out.Bytes())
}

// libraries finds what a program is linked with in folders, and what that is
// linked with: name to path. The loader is among them.
func libraries(program string, folders []string) (map[string]string, error) {
	found := make(map[string]string)
	queue := []string{program}
	for len(queue) > 0 {
		file, err := elf.Open(queue[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", queue[0], err)
		}
		needed, err := file.ImportedLibraries()
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", queue[0], err)
		}
		queue = queue[1:]
		for _, name := range needed {
			if found[name] != "" {
				continue
			}
			i := slices.IndexFunc(folders, func(dir string) bool {
				_, err := os.Stat(filepath.Join(dir, name))
				return err == nil
			})
			if i < 0 {
				return nil, fmt.Errorf("%s needs %s, which is in none of %s: %w", program, name, strings.Join(folders, ", "), fs.ErrNotExist)
			}
			found[name] = filepath.Join(folders[i], name)
			queue = append(queue, found[name])
		}
	}
	return found, nil
}
