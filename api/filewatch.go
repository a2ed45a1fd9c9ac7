package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
)

// PathFiles answers what happens to a file, below the root of the API. Its one part
// lets a cluster's API server see that it may be a watch.
const PathFiles = "/files"

// FileParams are the parameters that it takes.
var FileParams = []string{"path", "recursive", "fields", "limit", "node", "watch"}

// A FileQuestion asks what happens to a file.
type FileQuestion struct {
	// Path is absolute, as the host has it. There need be no such file yet.
	Path string
	// Recursive asks, of a directory, for all below it and not only for what lies
	// in it directly.
	Recursive bool
	Fields    []string // as of a Question
	Limit     int      // above 0: end after so many events
	Node      string   // the node that a hub asks
	Begun     func()   // as of a Question
}

// A FileID is what a path leads to.
type FileID struct {
	Path string // with no symbolic links
	Dev  uint64 // as the field fd.dev has it
	Ino  uint64
	Dir  bool
}

// maxWatched is the length of the longest path that can be watched, bytes: the
// kernel has none that is longer.
const maxWatched = 4096

// maxInodes is how many files are followed that a path has led to.
const maxInodes = 16

// maxJoined is how many names are followed that the file was given later.
const maxJoined = 8

// turnTime is the least time between two streams of a watch: a loop of renames
// would have the agent's sensors be told something else all the time.
const turnTime = time.Second

// fileKinds are the kinds of events that can be about a file.
const fileKinds = 1<<event.KindOpen | 1<<event.KindFile | 1<<event.KindFileClose | 1<<event.KindMount | 1<<event.KindExec

// A fileWatch knows by which names and numbers a file is followed. The names
// are those of the host; a process of a container can have a file of its own by
// the same name, and is told of only where it is the same file.
type fileWatch struct {
	names          []string // those that were asked for first, joined behind them
	asked          int      // how many of names were asked for
	dir, recursive bool
	inodes         []inode // the newest last
	locate         func(path string) (FileID, error)
}

type inode struct{ dev, ino uint64 }

// errUpwards says that a path which goes upwards leads nowhere.
var errUpwards = errors.New("what lies above a link is known only where there is one: no such directory")

// watchFile begins to follow a path. What is there at present is found out by
// locate, which may be nil.
func watchFile(name string, recursive bool, locate func(string) (FileID, error)) (*fileWatch, error) {
	w := &fileWatch{recursive: recursive, locate: locate}
	id, err := w.look(name)
	if plain, ok := w.plain(name); ok {
		w.names = []string{plain}
	} else if err != nil || id.Path == "" {
		return nil, errUpwards
	}
	if err == nil {
		w.dir = id.Dir
		if id.Path != "" && !slices.Contains(w.names, id.Path) {
			w.names = append(w.names, id.Path)
		}
		w.add(inode{id.Dev, id.Ino})
	}
	w.asked = len(w.names)
	return w, nil
}

// plain is a path without what says nothing. Where it goes upwards the kernel
// must be asked: above a symbolic link is what lies above that to which it leads.
func (w *fileWatch) plain(name string) (string, bool) {
	if !slices.Contains(strings.Split(name, "/"), "..") {
		return path.Clean(name), true
	}
	dir, base := path.Split(strings.TrimRight(name, "/"))
	if base == "." || base == ".." {
		return "", false
	}
	id, err := w.look(dir)
	if err != nil || id.Path == "" {
		return "", false
	}
	return below(id.Path) + base, true
}

// join follows a name that the file has been given. It reports whether that is new.
func (w *fileWatch) join(name string) bool {
	if name == "" || slices.Contains(w.names, name) {
		return false
	}
	if len(w.names) == w.asked+maxJoined {
		w.names = slices.Delete(w.names, w.asked, w.asked+1)
	}
	w.names = append(w.names, name)
	return true
}

// leave forgets a name that the file had been given and has no more.
func (w *fileWatch) leave(name string) bool {
	at := slices.Index(w.names, name)
	if at < w.asked {
		return false
	}
	w.names = slices.Delete(w.names, at, at+1)
	return true
}

func (w *fileWatch) look(name string) (FileID, error) {
	if w.locate == nil {
		return FileID{}, errors.New("files cannot be looked at")
	}
	return w.locate(name)
}

// add follows one more file. It reports whether that is new.
func (w *fileWatch) add(i inode) bool {
	if i.ino == 0 || slices.Contains(w.inodes, i) {
		return false
	}
	if len(w.inodes) == maxInodes {
		w.inodes = slices.Delete(w.inodes, 0, 1)
	}
	w.inodes = append(w.inodes, i)
	return true
}

// filter is a condition that holds for everything that may be about the file.
func (w *fileWatch) filter() string {
	var files, execs, failed, near []string
	for _, name := range w.names {
		// What changes beside the file: a name that it is given is its own before
		// the kernel is told of it.
		for _, field := range []string{"fs.path.name", "fs.path.source", "fs.path.target"} {
			if dir := path.Dir(name); dir != "/" && !w.dir {
				near = append(near, field+" startswith "+quotePath(below(dir)))
			}
		}
		failed = append(failed, "fd.nameraw endswith "+quotePath(path.Base(name)))
		if w.dir {
			failed = append(failed, "fd.nameraw startswith "+quotePath(below(name)))
		}
		for _, field := range []string{"fd.name", "fs.path.name", "fs.path.source", "fs.path.target"} {
			files = append(files, field+" = "+quotePath(name))
			if w.dir {
				files = append(files, field+" startswith "+quotePath(below(name)))
			}
		}
		execs = append(execs, "proc.exepath = "+quotePath(name))
		if w.dir {
			execs = append(execs, "proc.exepath startswith "+quotePath(below(name)))
		}
	}
	for _, i := range w.inodes {
		files = append(files, fmt.Sprintf("(fd.ino = %d and fd.dev = %d)", i.ino, i.dev))
		execs = append(execs, fmt.Sprintf("(proc.exe_ino = %d and proc.exe_dev = %d)", i.ino, i.dev))
	}
	// Where the kernel proves no names of calls that change files, there are those
	// that were asked for; so there are of opens that fail. Such calls are few.
	slices.Sort(near)
	beside := ""
	if near = slices.Compact(near); near != nil {
		beside = "(evt.kind = file and (" + strings.Join(near, " or ") + ")) or "
	}
	return beside + "(evt.kind = open and evt.rawres < 0 and (" + strings.Join(failed, " or ") + ")) or (evt.kind = file and fd.name_unresolved = true) or (evt.kind in (open, file, file_close, mount) and (" + strings.Join(files, " or ") + ")) or (evt.kind = exec and (" + strings.Join(execs, " or ") + "))"
}

// below is what the names begin with of all that lies in a directory.
func below(dir string) string { return strings.TrimSuffix(dir, "/") + "/" }

// quotePath writes a path as a value of a filter: any bytes but NUL.
func quotePath(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// namesOfFile are the paths that an event is about, and the file. now is the one
// that the file has after it.
func (w *fileWatch) namesOfFile(e *event.Event) (names []string, now string, file inode) {
	switch d := e.Data.(type) {
	case *event.Open:
		if d.RawRes < 0 && d.Name == "" {
			return []string{w.askedFor(e, d.NameRaw, d.Dir)}, "", inode{}
		}
		return []string{d.Name}, d.Name, inode{d.Dev, d.Inode}
	case *event.FileClose:
		return []string{d.Name}, d.Name, inode{d.Dev, d.Inode}
	case *event.File:
		now = d.Name
		switch {
		case d.Type == "symlink" || d.Type == "symlinkat":
			return []string{d.Target}, "", inode{} // its source is a text
		case strings.HasPrefix(d.Type, "rename") || strings.HasPrefix(d.Type, "link"):
			now = d.Target
		case strings.HasPrefix(d.Type, "unlink") || d.Type == "rmdir":
			now = ""
		}
		if d.NoName {
			return []string{w.askedFor(e, d.NameRaw, d.Dir), w.askedFor(e, d.SourceRaw, d.Dir), w.askedFor(e, d.TargetRaw, d.NewDir)}, "", inode{d.Dev, d.Inode}
		}
		return []string{d.Name, d.FDName, d.Source, d.Target}, now, inode{d.Dev, d.Inode}
	case *event.Mount:
		return []string{d.Target}, "", inode{}
	case *event.Exec:
		if p := e.Process; p != nil {
			return []string{p.ExePath}, p.ExePath, inode{p.ExeDev, p.ExeInode}
		}
	}
	return nil, "", inode{}
}

// askedFor is the path that a process named. Where a relative one begins is looked
// up where the process still is. Where it is gone it is the working directory that
// it had when it began; of a path relative to a descriptor nothing is known then
// but its last name: it is taken for a name that is watched rather than missed.
func (w *fileWatch) askedFor(e *event.Event, raw string, dir int32) string {
	if raw == "" || path.IsAbs(raw) {
		return cleaned(raw)
	}
	if !w.dir && !slices.ContainsFunc(w.names, func(name string) bool { return path.Base(name) == path.Base(raw) }) {
		return "" // most are of others
	}
	return w.resolve(e, raw, dir)
}

// resolve is askedFor for a path that matters.
func (w *fileWatch) resolve(e *event.Event, raw string, dir int32) string {
	if raw == "" || path.IsAbs(raw) {
		return cleaned(raw)
	}
	from := "cwd"
	if dir != event.AtCwd {
		from = "fd/" + strconv.Itoa(int(dir))
	}
	if pid := e.Actor.PID; pid != 0 {
		if id, err := w.look("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/" + from); err == nil && id.Path != "" {
			return path.Join(id.Path, raw)
		}
	}
	if dir == event.AtCwd {
		if e.Process == nil || e.Process.Cwd == "" {
			return ""
		}
		return path.Join(e.Process.Cwd, raw)
	}
	for _, name := range w.names {
		if name != "/" && path.Base(name) == path.Base(raw) {
			return name
		}
	}
	return ""
}

func cleaned(name string) string {
	if name == "" {
		return ""
	}
	return path.Clean(name)
}

// named reports whether a path is one that is watched; exact that it is not only
// one below it.
func (w *fileWatch) named(name string) (yes, exact bool) {
	if name == "" {
		return false, false
	}
	for _, n := range w.names {
		if name == n {
			return true, true
		}
		if rest, ok := strings.CutPrefix(name, below(n)); ok && w.dir && (w.recursive || !strings.Contains(rest, "/")) {
			return true, false
		}
	}
	return false, false
}

// ofHost reports whether the paths of an event are those of the host.
func ofHost(e *event.Event) bool { return e.Process == nil || e.Process.Container == nil }

// take reports whether an event that the filter holds for is about the file, and
// whether the filter is another from now on: the path leads to another file.
func (w *fileWatch) take(e *event.Event) (about, changed bool) {
	names, now, file := w.namesOfFile(e)
	byName, exact := false, false
	if ofHost(e) {
		for _, n := range names {
			yes, same := w.named(n)
			byName, exact = byName || yes, exact || same
		}
	}
	changed = w.moved(e, names)
	if at := slices.Index(w.inodes, file); at >= 0 && file.ino != 0 {
		// Numbers are used again: what has just been created under another name is
		// another file.
		if d, ok := e.Data.(*event.Open); ok && d.Create && !exact {
			w.inodes = slices.Delete(w.inodes, at, at+1)
			return byName, true
		}
		return true, changed
	}
	if _, leads := w.named(now); !leads || !ofHost(e) || !succeeded(e) {
		return byName, changed
	}
	if file.ino == 0 {
		if id, err := w.look(now); err == nil {
			file = inode{id.Dev, id.Ino}
		}
	}
	return byName, w.add(file) || changed
}

// moved follows a file to its new name, and a second name that it is given, by
// what names an event is about. It reports whether there are other names from now
// on. Files below a directory that is watched are followed by their numbers.
func (w *fileWatch) moved(e *event.Event, names []string) bool {
	d, ok := e.Data.(*event.File)
	if !ok || !ofHost(e) || !succeeded(e) {
		return false
	}
	source, target := d.Source, d.Target
	if d.NoName && len(names) == 3 {
		source, target = names[1], ""
		if slices.Contains(w.names, source) {
			target = w.resolve(e, d.TargetRaw, d.NewDir)
		}
	}
	switch {
	case strings.HasPrefix(d.Type, "rename"):
		if !slices.Contains(w.names, source) {
			return false
		}
		left := w.leave(source)
		return w.join(target) || left
	case strings.HasPrefix(d.Type, "link"):
		return slices.Contains(w.names, source) && w.join(target)
	case strings.HasPrefix(d.Type, "unlink") || d.Type == "rmdir":
		return len(names) > 0 && w.leave(names[0])
	}
	return false
}

func succeeded(e *event.Event) bool {
	switch d := e.Data.(type) {
	case *event.Open:
		return d.RawRes >= 0
	case *event.File:
		return d.RawRes >= 0
	case *event.FileClose, *event.Exec:
		return true
	}
	return false
}

// ParseFileQuestion checks what was asked for, and returns the fields that are
// told, nil for all. Errors are those for the client.
func ParseFileQuestion(q Query) (a FileQuestion, fields *event.Selection, err error) {
	a.Path = q["path"]
	if !path.IsAbs(a.Path) || strings.ContainsRune(a.Path, 0) {
		return a, nil, BadRequest("parameter path has to be an absolute path, not %s", printable(a.Path))
	}
	if len(a.Path) > maxWatched {
		return a, nil, BadRequest("parameter path has %d bytes, and no path more than %d", len(a.Path), maxWatched)
	}
	nodes, err := q.List("node")
	if err != nil {
		return a, nil, err
	}
	if len(nodes) > 1 {
		return a, nil, BadRequest("parameter node names %d nodes: a file is one node's", len(nodes))
	}
	a.Node = strings.Join(nodes, "")
	if a.Recursive, err = q.Bool("recursive", false); err != nil {
		return a, nil, err
	}
	if _, err = q.Bool("watch", false); err != nil {
		return a, nil, err
	}
	if a.Limit, err = q.Count("limit"); err != nil {
		return a, nil, err
	}
	if list, ok := q["fields"]; ok {
		a.Fields = strings.Split(list, ",")
	}
	fields, err = q.Fields()
	return a, fields, err
}

func (s *Server) serveFileWatch(w http.ResponseWriter, req *http.Request, q Query) error {
	a, fields, err := ParseFileQuestion(q)
	if err != nil {
		return err
	}
	if err := s.here(q); err != nil {
		return err
	}
	watch, err := watchFile(a.Path, a.Recursive, s.cfg.Locate)
	if err != nil {
		return BadRequest("parameter path: %s: %v", printable(a.Path), err)
	}
	stream, err := s.watchStream(req, watch)
	if err != nil {
		return err
	}
	return s.followFile(req, NewWriter(w, req, s.cfg.Stall, fields), stream, watch, a.Limit)
}

func (s *Server) watchStream(req *http.Request, w *fileWatch) (*stream, error) {
	prog, err := filter.Compile(w.filter())
	if err != nil {
		return nil, fmt.Errorf("watch a file: %w", err)
	}
	return s.subscribe(req, "file watch "+printable(w.names[0]), prog, fileKinds)
}

// followFile writes what is about a file until the stream ends, after limit
// events, or when the client has gone. Where the path comes to lead to another
// file, it goes on with another stream, and tells nothing twice. It closes the
// stream.
func (s *Server) followFile(req *http.Request, out *Writer, from *stream, watch *fileWatch, limit int) (err error) {
	var fresh *stream
	defer func() {
		from.close()
		if fresh != nil {
			fresh.close()
		}
	}()
	if err := s.begin(req.Context(), out, from); err != nil {
		return err
	}
	var last uint64
	var due, turned time.Time // when another stream is to begin, zero: never; when one last did
	turn := func() {
		next, err := s.watchStream(req, watch)
		due, turned = time.Time{}, time.Now()
		if err != nil {
			s.log.Warn("a file is followed by its former numbers", "err", err)
			return
		}
		if fresh != nil {
			fresh.close()
		}
		fresh = next
	}
	for n := 0; limit == 0 || n < limit; {
		if !due.IsZero() && !time.Now().Before(due) {
			turn()
		}
		// All that the old stream still has was published before the new one began
		// or is in both.
		if fresh != nil && !from.Buffered() {
			from.close()
			from, fresh = fresh, nil
		}
		e, err := s.nextUntil(req.Context(), out, from, due)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && req.Context().Err() == nil:
			continue
		case errors.Is(err, io.EOF):
			return out.Flush()
		case err != nil:
			return err
		case e.Seq <= last:
			continue
		}
		last = e.Seq
		about, changed := watch.take(e)
		if changed && due.IsZero() {
			due = turned.Add(turnTime)
		}
		notice := event.NoticeKinds.Has(e.Data.Kind())
		if !about && !notice {
			continue
		}
		if err := out.Event(e); err != nil {
			return err
		}
		if !notice {
			n++
		}
	}
	return out.Flush()
}

// nextUntil is next that ends with context.DeadlineExceeded at a time; zero: never.
func (s *Server) nextUntil(ctx context.Context, out *Writer, from *stream, due time.Time) (*event.Event, error) {
	if due.IsZero() || from.Buffered() {
		return s.next(ctx, out, from)
	}
	until, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	e, err := s.next(until, out, from)
	if err != nil && until.Err() != nil && ctx.Err() == nil {
		return nil, context.DeadlineExceeded
	}
	return e, err
}

// WatchFile yields what happens to a file: who opens, executes, writes, renames
// or removes it, by any of its names. Losses come in between.
func (c *Client) WatchFile(ctx context.Context, q FileQuestion) Lines {
	return c.lines(ctx, PathFiles, q.values(), q.Begun)
}

// FileRows yields what WatchFile does, in batches: see [Client.Rows].
func (c *Client) FileRows(ctx context.Context, q FileQuestion) Batches {
	return c.batches(ctx, PathFiles, q.values())
}

func (q FileQuestion) values() url.Values {
	var nodes []string
	if q.Node != "" {
		nodes = []string{q.Node}
	}
	v := Question{Fields: q.Fields, Limit: q.Limit, Nodes: nodes}.values(PathEvents, true)
	v.Set("path", q.Path)
	if q.Recursive {
		v.Set("recursive", "true")
	}
	return v
}
