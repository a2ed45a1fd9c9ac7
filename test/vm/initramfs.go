package main

import (
	"bufio"
	"context"
	_ "embed" // init.sh
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript []byte

// An archive is an initramfs being written: the cpio format that Linux unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed,
// for decompressing costs an emulated CPU more than reading.
type archive struct {
	w     *bufio.Writer
	inode int
	dirs  map[string]bool
	files map[string]bool // libraries
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{".": true, "/": true}, files: make(map[string]bool)}
}

// The modes of what an archive can hold, as in stat(2).
const (
	modeFile = 0o100644
	modeExec = 0o100755
	modeDir  = 0o040755
)

// add writes an entry and the folders above it.
func (a *archive) add(name string, mode int, data []byte) error {
	if dir := path.Dir(name); !a.dirs[dir] {
		if err := a.add(dir, modeDir, nil); err != nil {
			return err
		}
	}
	if mode == modeDir {
		a.dirs[name] = true
	}
	a.inode++
	return a.entry(name, mode, data)
}

func (a *archive) addFile(name string, mode int, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return a.add(name, mode, data)
}

// addProgram adds a program of this machine to usr/sbin, and the libraries that it
// is linked with where they are here.
func (a *archive) addProgram(ctx context.Context, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := a.addFile("usr/sbin/"+name, modeExec, file); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", file).Output()
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", file, err)
	}
	for _, library := range libraries(string(out)) {
		if a.files[library] {
			continue
		}
		a.files[library] = true
		if err := a.addFile(strings.TrimPrefix(library, "/"), modeExec, library); err != nil {
			return err
		}
	}
	return nil
}

// libraries reads what ldd prints: a name and where it was found, or a path alone
// for the loader. What has no path is the kernel's.
func libraries(ldd string) (all []string) {
	for line := range strings.Lines(ldd) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				all = append(all, word)
			}
		}
	}
	return all
}

// addTree adds the files below a folder of this machine, which need not exist.
func (a *archive) addTree(name, dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && file == dir:
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular():
			rel, err := filepath.Rel(dir, file)
			if err != nil {
				return err
			}
			return a.addFile(path.Join(name, filepath.ToSlash(rel)), modeFile, file)
		}
		return nil
	})
}

func (a *archive) entry(name string, mode int, data []byte) error {
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize, check
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.padded([]byte(header + name + "\x00"))
	a.padded(data)
	_, err := a.w.Write(nil) // the error of any write before
	return err
}

// padded writes data and fills up to four bytes; entries begin aligned, so its
// own length says how much.
func (a *archive) padded(data []byte) {
	_, _ = a.w.Write(data)
	for n := len(data); n%4 != 0; n++ {
		_ = a.w.WriteByte(0)
	}
}

func (a *archive) close() error {
	if err := a.entry("TRAILER!!!", 0, nil); err != nil {
		return err
	}
	return a.w.Flush()
}
