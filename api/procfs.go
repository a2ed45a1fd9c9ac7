package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// procfs reads what /proc adds to what is known of a living process.
type procfs struct {
	root string
	// open tells what a process has open, and how much; nil: /proc does.
	open func(k event.Key, most int) ([]OpenFile, int, error)
}

// procInfo is what /proc says of a process at this moment. A value that could
// not be read is absent.
type procInfo struct {
	State      string     `json:"state,omitempty"`
	Threads    uint64     `json:"threads,omitempty"`
	RSS        uint64     `json:"rss_bytes,omitempty"`
	RSSAnon    uint64     `json:"rss_anon_bytes,omitempty"`
	Swap       uint64     `json:"swap_bytes,omitempty"`
	Exe        string     `json:"exe,omitempty"`
	Cwd        string     `json:"cwd,omitempty"`
	Root       string     `json:"root,omitempty"`
	Cgroups    []string   `json:"cgroups,omitempty"`
	Seccomp    string     `json:"seccomp,omitempty"`
	NoNewPrivs bool       `json:"no_new_privs,omitempty"`
	OOMScore   *int       `json:"oom_score,omitempty"`
	Files      []OpenFile `json:"files,omitempty"`
	FilesOpen  int        `json:"files_open,omitempty"`
	Unreadable []string   `json:"unreadable,omitempty"`
}

// maxFiles is how many open files are listed; FilesOpen counts all.
const maxFiles = 1024

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Linux still has.
const clockTick = uint64(time.Second / 100)

// read returns nil when the process has ended, or its pid is another's by now.
func (p procfs) read(k event.Key) *procInfo {
	dir := filepath.Join(p.root, strconv.FormatUint(uint64(k.PID), 10))
	if !p.is(dir, k) {
		return nil
	}
	i := &procInfo{}
	i.status(i.file(dir, "status"))
	i.Exe, i.Cwd, i.Root = i.link(dir, "exe"), i.link(dir, "cwd"), i.link(dir, "root")
	if b := i.file(dir, "cgroup"); b != nil {
		i.Cgroups = strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(i.file(dir, "oom_score")))); err == nil {
		i.OOMScore = &n
	}
	if !i.opened(p.open, k) {
		i.files(dir)
	}
	// The pid may have passed to another while we read.
	if !p.is(dir, k) {
		return nil
	}
	return i
}

// is reports whether dir is still the process k.
func (p procfs) is(dir string, k event.Key) bool {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return false
	}
	ticks, ok := startTicks(b)
	return ok && ticks == k.Start/clockTick
}

// startTicks returns field 22 of /proc/PID/stat. The second field, the name in
// parentheses, may contain anything: what follows is counted from its last one.
func startTicks(stat []byte) (uint64, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	f := bytes.Fields(stat[i+1:])
	const at = 22 - 3 // the first behind the name is field 3
	if len(f) <= at {
		return 0, false
	}
	n, err := strconv.ParseUint(string(f[at]), 10, 64)
	return n, err == nil
}

func (i *procInfo) file(dir, name string) []byte {
	b, err := os.ReadFile(filepath.Join(dir, name))
	i.note(name, err)
	return b
}

func (i *procInfo) link(dir, name string) string {
	s, err := os.Readlink(filepath.Join(dir, name))
	i.note(name, err)
	return s
}

// note remembers what could not be read. Threads of the kernel have no
// executable: that is no lack.
func (i *procInfo) note(name string, err error) {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	i.Unreadable = append(i.Unreadable, name+": "+err.Error())
}

// status reads /proc/PID/status: lines of a key, a colon and a value. Unknown
// and malformed ones are passed over.
func (i *procInfo) status(b []byte) {
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			i.State = value
		case "Threads":
			i.Threads, _ = strconv.ParseUint(value, 10, 64)
		case "VmRSS":
			i.RSS = kib(value)
		case "RssAnon":
			i.RSSAnon = kib(value)
		case "VmSwap":
			i.Swap = kib(value)
		case "NoNewPrivs":
			i.NoNewPrivs = value == "1"
		case "Seccomp":
			i.Seccomp = map[string]string{"0": "off", "1": "strict", "2": "filter"}[value]
		}
	}
}

// kib reads "1234 kB" as bytes, anything else as 0.
func kib(s string) uint64 {
	n, ok := strings.CutSuffix(s, " kB")
	v, err := strconv.ParseUint(n, 10, 54)
	if !ok || err != nil {
		return 0
	}
	return v * 1024
}

// opened asks the kernel for the open files; false: it does not say.
func (i *procInfo) opened(open func(event.Key, int) ([]OpenFile, int, error), k event.Key) bool {
	if open == nil {
		return false
	}
	list, total, err := open(k, maxFiles)
	if err != nil {
		i.Unreadable = append(i.Unreadable, "open files: "+err.Error())
		return false
	}
	i.Files, i.FilesOpen = list, total
	return total > 0 // some machines hide processes from iterators
}

// files reads the names of open files from /proc.
func (i *procInfo) files(dir string) {
	names, err := os.ReadDir(filepath.Join(dir, "fd"))
	i.note("fd", err)
	var fds []int
	for _, d := range names {
		if n, err := strconv.Atoi(d.Name()); err == nil {
			fds = append(fds, n)
		}
	}
	slices.Sort(fds)
	i.FilesOpen = len(fds)
	for _, n := range fds[:min(len(fds), maxFiles)] {
		// It may have been closed since.
		if target, err := os.Readlink(filepath.Join(dir, "fd", strconv.Itoa(n))); err == nil {
			i.Files = append(i.Files, OpenFile{FD: uint32(n), Target: target})
		}
	}
}

// appendJSON writes names as the kernel had them; bytes that are no UTF-8 are
// replaced.
func (i *procInfo) appendJSON(b []byte) []byte {
	j, err := json.Marshal(i)
	if err != nil {
		return append(b, "null"...) // cannot happen: there is nothing in it that JSON lacks
	}
	return append(b, j...)
}
