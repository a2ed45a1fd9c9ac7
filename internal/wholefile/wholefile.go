// Package wholefile writes files that are there as a whole or not at all: under
// another name in the same folder, until they are complete. Who reads finds what
// was there before, or what is there now. Any goroutine may use it; of two who
// write the same file at once, the last one's is there.
package wholefile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// TempPrefix begins names of files that are not complete: who is killed leaves
// them, and [Sweep] removes them. Behind it come the name that they were to have, a
// dash and digits.
const TempPrefix = ".tmp-"

// Write gives a file content and mode. After a loss of power the file can be what
// it was before, or empty: for what does not outlive the machine's running either.
func Write(path string, content []byte, mode fs.FileMode) error {
	return write(path, bytes.NewReader(content), mode, false)
}

// WriteSynced is Write for what outlives a loss of power: the content is on the disk
// before it has the name, so that the file is then what it was before, or whole.
func WriteSynced(path string, content []byte, mode fs.FileMode) error {
	return write(path, bytes.NewReader(content), mode, true)
}

// CopySynced is WriteSynced of what is read.
func CopySynced(path string, from io.Reader, mode fs.FileMode) error {
	return write(path, from, mode, true)
}

// Sweep removes what those who were killed while they wrote a file have left. Nobody
// may write it meanwhile.
func Sweep(path string) error {
	dir, start := filepath.Dir(path), TempPrefix+filepath.Base(path)+"-"
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), start)
		if _, err := strconv.ParseUint(digits, 10, 64); ok && err == nil {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func write(path string, from io.Reader, mode fs.FileMode, synced bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it may have its name already
		}
	}()
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && synced {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
