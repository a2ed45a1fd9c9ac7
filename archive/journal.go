package archive

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// journalName is a file in the history's directory.
const journalName = "archived"

// A journal remembers what was copied, over crashes: a line for each name, behind
// its checksum, below a line with the target. A line that is torn or damaged is as
// none: then a segment is copied again.
type journal struct {
	path, head string
	f          *os.File // nil when it could not be written
	names      map[string]bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal reads a journal, or begins one where there is none, or one of
// another target. With an error there is a journal all the same, which is written
// when there is something to add.
func openJournal(path, target string) (*journal, error) {
	j := &journal{path: path, head: "warren archive 1 " + strconv.Quote(target) + "\n", names: map[string]bool{}}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return j, err
	}
	rest, ok := bytes.CutPrefix(text, []byte(j.head))
	if !ok {
		return j, j.write()
	}
	for line := range bytes.Lines(rest) {
		if name, ok := parseEntry(line); ok {
			j.names[name] = true
		}
	}
	if len(rest) > 0 && rest[len(rest)-1] != '\n' {
		return j, j.write()
	}
	j.f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	return j, err
}

func entry(name string) string {
	quoted := strconv.Quote(name)
	return fmt.Sprintf("%08x %s\n", crc32.Checksum([]byte(quoted), castagnoli), quoted)
}

func parseEntry(line []byte) (name string, ok bool) {
	sum, quoted, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	if !ok {
		return "", false
	}
	want, err := strconv.ParseUint(sum, 16, 32)
	if err != nil || uint32(want) != crc32.Checksum([]byte(quoted), castagnoli) {
		return "", false
	}
	name, err = strconv.Unquote(quoted)
	return name, err == nil
}

func (j *journal) has(name string) bool { return j.names[name] }

// add remembers a name, durably when it returns nil. It is known in any case.
func (j *journal) add(name string) error {
	j.names[name] = true
	if j.f == nil {
		return j.write()
	}
	_, err := j.f.WriteString(entry(name))
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		// What is behind a half-written line could not be read.
		j.close()
		return fmt.Errorf("remember what was archived: %w", err)
	}
	return nil
}

// keep forgets names that are of no segment any more, now and then.
func (j *journal) keep(segments map[string]bool) error {
	const few = 256
	if len(j.names) < 2*len(segments)+few {
		return nil
	}
	for name := range j.names {
		if !segments[name] {
			delete(j.names, name)
		}
	}
	return j.write()
}

// write replaces the file by what is known.
func (j *journal) write() (err error) {
	j.close()
	defer func() {
		if err != nil {
			err = fmt.Errorf("remember what was archived: %w", err)
		}
	}()
	var b strings.Builder
	b.WriteString(j.head)
	for name := range j.names {
		b.WriteString(entry(name))
	}
	if err := replaceFile(j.path, strings.NewReader(b.String())); err != nil {
		return err
	}
	j.f, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	return err
}

func (j *journal) close() {
	if j.f != nil {
		_ = j.f.Close()
		j.f = nil
	}
}

// partName is what a file is called while it is written. Engines that read
// folders of Parquet leave out names that begin with a dot.
func partName(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
}
