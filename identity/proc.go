package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
)

// filler looks up in /proc what no event told, because its record was lost: a
// process, or the path of its cgroup. It is a remedy, not a source: by the time
// it looks the process may be gone, and then stays unknown.
type filler struct {
	dir string
	// able is false where /proc shows another pid namespace than the kernel's
	// first: its numbers are not those of events.
	able bool
	// nested is true where the agent has a cgroup namespace of its own, as in a
	// pod: /proc then tells cgroups as they are seen from there.
	nested bool
	// firstClock is true where /proc tells starts by the clock of events, which those
	// in another time namespace have not.
	firstClock bool
	// queue holds processes to be looked up; capacity 256. More unknown
	// processes at a time mean a storm of losses, which this cannot mend.
	queue chan event.Key

	mu     sync.Mutex
	asked  map[event.Key]lookup
	hidden map[event.Key]bool // parents that are looked up for their children's sake

	missing map[event.Key]bool // sweep's own: not there when last looked for
	cycle   []event.Key        // sweep's own: still to be looked for
}

type lookup struct {
	until uint64 // ktime until which events wait for it; 0 when it is over
	again uint64 // ktime from which it may be asked for again
}

const (
	fillWait  = 100e6 // nanoseconds
	fillAgain = 10e9
	maxAsked  = 4096
	// fillPause bounds the rate: a look takes some 50 µs.
	fillPause = 2 * time.Millisecond
)

func (f *filler) init(cfg Config) {
	f.dir = cfg.Proc
	f.able = firstNamespace(cfg.Proc, "pid") == initPidNS
	f.firstClock = namespaceOf(filepath.Join(cfg.Proc, "self/ns/time")) == initTimeNS
	ns := namespaceOf(filepath.Join(cfg.Proc, "self/ns/cgroup"))
	f.nested = ns != 0 && ns != initCgroupNS
	f.queue = make(chan event.Key, 256)
	f.asked, f.hidden = map[event.Key]lookup{}, map[event.Key]bool{}
	f.missing = map[event.Key]bool{}
}

// ask has a process looked up. It never blocks.
func (f *filler) ask(k event.Key, now uint64) {
	if !f.able {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queueUp(k, now)
}

// queueUp queues a process unless it was looked for just now, or there is no
// room, and reports whether it did. The caller holds f.mu.
func (f *filler) queueUp(k event.Key, now uint64) bool {
	if l, ok := f.asked[k]; ok && (l.until != 0 || now < l.again) {
		return false
	}
	if len(f.asked) >= maxAsked {
		clear(f.asked)
	}
	select {
	case f.queue <- k:
		f.asked[k] = lookup{until: now + fillWait, again: now + fillAgain}
		return true
	default:
		return false
	}
}

// waiting reports whether a process is being looked up.
func (f *filler) waiting(k event.Key, now uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now < f.asked[k].until
}

// askHidden has parents looked up whose children are known.
func (f *filler) askHidden(ks []event.Key, now uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range ks {
		if f.queueUp(k, now) {
			f.hidden[k] = true
		}
	}
}

// done ends a look, and reports whether it was the last for children's sake.
func (f *filler) done(k event.Key) (last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.asked[k]
	l.until = 0
	f.asked[k] = l
	if !f.hidden[k] {
		return false
	}
	delete(f.hidden, k)
	return len(f.hidden) == 0
}

// fill looks up what is asked for until ctx ends.
func (i *Identity) fill(ctx context.Context) {
	f := &i.filler
	tick := time.NewTicker(fillPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case k := <-f.queue:
			p, paths, err := i.readProc(k)
			if err == nil {
				i.found(p, paths)
			} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				i.log.Debug("process not looked up", "pid", k.PID, "err", err)
			}
			if f.done(k) {
				i.mu.Lock()
				i.relink()
				i.mu.Unlock()
			}
			i.signal()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// found takes a process from /proc into the table, where it still is of use.
func (i *Identity) found(p *event.Process, paths []cgroupLine) {
	i.mu.Lock()
	defer i.mu.Unlock()
	t := &i.procs
	for head := t.byPID[p.ParentKey.PID]; head != nil; head = head.older {
		if ticks(head.key.Start) == p.ParentKey.Start {
			p.ParentKey = head.key
			break
		}
	}
	if p.ParentKey.Start != 0 && t.get(p.ParentKey) == nil {
		p.ParentKey = event.Key{} // known by ticks alone, it could not be told from others
	}
	en := t.get(p.Key)
	if en == nil {
		p.Cgroup.Path = likeliest(paths)
		i.applyTask(&event.Event{Ktime: 0, Actor: p.Key, Process: p, Data: &event.ProcessState{}})
		return
	}
	if k := en.snap.p.Cgroup.CgroupKey; k != (event.CgroupKey{}) {
		if cg := i.cgroupOf(k); cg.Path == "" {
			if path := pathIn(paths, k.Hierarchy); path != "" {
				i.setPath(cg, path)
			}
		}
	}
	if q := en.snap.p; q.ExePath == "" && len(q.Args) == 0 && q.Exited == nil && (p.ExePath != "" || len(p.Args) > 0) {
		// A child of an unknown parent: its image is what it runs by now.
		c := *q
		name := p.Name
		inherit(&c, p)
		c.Name = name
		i.tidy(&c)
		old := en.snap
		s := t.newSnap(&c, old.parent, t.newImage(&c), old.since)
		s.origin = old.p
		en.snap = s
		t.release(old)
	}
}

// ticks converts a start to the unit that /proc shows.
func ticks(start uint64) uint64 { return start / (1e9 / 100) }

// readProc reads a process that must be k. ParentKey.Start is in ticks.
func (i *Identity) readProc(k event.Key) (*event.Process, []cgroupLine, error) {
	dir := filepath.Join(i.cfg.Proc, strconv.FormatUint(uint64(k.PID), 10))
	read := func(name string) ([]byte, error) { return readUpTo(filepath.Join(dir, name), 64<<10) }

	data, err := read("stat")
	if err != nil {
		return nil, nil, err
	}
	st, err := parseStat(data)
	if err != nil {
		return nil, nil, err
	}
	if st.start != ticks(k.Start) {
		return nil, nil, fmt.Errorf("process %d is another: %w", k.PID, os.ErrNotExist)
	}
	p := &event.Process{Key: k, PID: k.PID, TID: k.PID, Name: st.comm, SID: st.session, PGID: st.pgrp, TTY: st.tty, LoginUID: event.NoLogin}
	p.StartTime = i.cfg.Now().Add(-time.Duration(i.cfg.Ktime() - k.Start))
	if st.ppid != 0 {
		if data, err := readUpTo(filepath.Join(i.cfg.Proc, strconv.FormatUint(uint64(st.ppid), 10), "stat"), 4096); err == nil {
			if parent, err := parseStat(data); err == nil {
				p.ParentKey = event.Key{PID: st.ppid, Start: parent.start}
			}
		}
	}
	if data, err := read("status"); err == nil {
		parseStatus(data, p)
	}
	if data, err := read("cmdline"); err == nil {
		const most = 32 << 10
		p.ArgsCut = len(data) > most
		data = data[:min(len(data), most)]
		if s := strings.TrimSuffix(string(data), "\x00"); s != "" {
			p.SetArgs(strings.Split(s, "\x00"))
		}
	}
	p.Kthread = st.flags&0x00200000 != 0 // PF_KTHREAD
	p.ExePath, _ = os.Readlink(filepath.Join(dir, "exe"))
	if path, ok := strings.CutSuffix(p.ExePath, " (deleted)"); ok {
		p.ExePath, p.ExeDeleted = path, true
		p.ExeMemfd = strings.HasPrefix(path, "/memfd:")
	}
	p.ExeUnresolved = p.ExePath == "" && !p.Kthread
	p.Cwd, _ = os.Readlink(filepath.Join(dir, "cwd"))
	for name, ns := range map[string]*uint32{
		"mnt": &p.MntNS, "pid": &p.PidNS, "net": &p.NetNS, "user": &p.UserNS,
		"uts": &p.UtsNS, "ipc": &p.IpcNS, "cgroup": &p.CgroupNS, "time": &p.TimeNS,
	} {
		*ns = namespaceOf(filepath.Join(dir, "ns", name))
	}
	if data, err := read("loginuid"); err == nil {
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 32); err == nil {
			p.LoginUID = event.LoginUID(n)
		}
	}
	var lines []cgroupLine
	if data, err := read("cgroup"); err == nil {
		lines = i.wholePaths(parseProcCgroup(data))
	}
	if !inScope(lines, i.cfg.CgroupRoot) {
		return nil, nil, fmt.Errorf("process %d is outside %s: %w", k.PID, i.cfg.CgroupRoot, os.ErrNotExist)
	}
	// All of it is this process's only if it is still there.
	if data, err = read("stat"); err != nil {
		return nil, nil, err
	}
	if again, err := parseStat(data); err != nil || again.start != st.start {
		return nil, nil, fmt.Errorf("process %d went: %w", k.PID, os.ErrNotExist)
	}
	return p, lines, nil
}

func readUpTo(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	got := 0
	for got < n {
		m, err := f.Read(b[got:])
		got += m
		if err != nil || m == 0 {
			break // the end, or the process went: what came is whole lines
		}
	}
	return b[:got], nil
}

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	comm                     string
	ppid, pgrp, session, tty uint32
	flags, start             uint64
}

func parseStat(data []byte) (procStat, error) {
	var s procStat
	// The name may hold anything, parentheses and blanks too.
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return s, errors.New("malformed stat: no name")
	}
	s.comm = string(data[open+1 : end])
	f := bytes.Fields(data[end+1:])
	if len(f) < 20 {
		return s, errors.New("malformed stat: too short")
	}
	for n, v := range map[int]*uint32{1: &s.ppid, 2: &s.pgrp, 3: &s.session, 4: &s.tty} {
		u, err := strconv.ParseInt(string(f[n]), 10, 64)
		if err != nil {
			return s, fmt.Errorf("malformed stat: %w", err)
		}
		*v = uint32(max(u, 0))
	}
	for n, v := range map[int]*uint64{6: &s.flags, 19: &s.start} {
		u, err := strconv.ParseUint(string(f[n]), 10, 64)
		if err != nil {
			return s, fmt.Errorf("malformed stat: %w", err)
		}
		*v = u
	}
	return s, nil
}

// parseStatus reads credentials and numbers in the own pid namespace. Lines
// that make no sense are left out.
func parseStatus(data []byte, p *event.Process) {
	for line := range bytes.Lines(data) {
		key, rest, ok := bytes.Cut(line, []byte(":"))
		f := bytes.Fields(rest)
		if !ok || len(f) == 0 {
			continue
		}
		ids := func(v ...*uint32) {
			for n := range min(len(f), len(v)) {
				if u, err := strconv.ParseUint(string(f[n]), 10, 32); err == nil {
					*v[n] = uint32(u)
				}
			}
		}
		last := func(v *uint32) {
			if u, err := strconv.ParseUint(string(f[len(f)-1]), 10, 32); err == nil {
				*v = uint32(u)
			}
		}
		caps := func(v *event.CapSet) {
			if u, err := strconv.ParseUint(string(f[0]), 16, 64); err == nil {
				*v = event.CapSet(u)
			}
		}
		switch string(key) {
		case "Uid":
			ids(&p.RUID, &p.UID, &p.SUID, &p.FUID)
		case "Gid":
			ids(&p.RGID, &p.GID, &p.SGID, &p.FGID)
		case "NSpid":
			last(&p.VPID)
		case "NSpgid":
			last(&p.VPGID)
		case "NSsid":
			last(&p.VSID)
		case "CapInh":
			caps(&p.CapInheritable)
		case "CapPrm":
			caps(&p.CapPermitted)
		case "CapEff":
			caps(&p.CapEffective)
		case "CapBnd":
			caps(&p.CapBounding)
		case "CapAmb":
			caps(&p.CapAmbient)
		}
	}
}

// A cgroupLine is a line of /proc/PID/cgroup.
type cgroupLine struct {
	hierarchy   uint32
	controllers string
	path        string
}

func parseProcCgroup(data []byte) []cgroupLine {
	var list []cgroupLine
	for line := range bytes.Lines(data) {
		f := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(":"), 3)
		if len(f) != 3 {
			continue
		}
		n, err := strconv.ParseUint(string(f[0]), 10, 32)
		if err != nil {
			continue
		}
		path := strings.TrimSuffix(string(f[2]), " (deleted)") // the cgroup is gone, the process is not
		list = append(list, cgroupLine{uint32(n), string(f[1]), path})
	}
	return list
}

// wholePaths returns lines with paths from their hierarchy's root, where /proc
// tells them from the root of the agent's own cgroup namespace. Where that is, is
// known of the hierarchy that the kernel's records tell, once they have told the
// agent's own process; other lines are left out.
func (i *Identity) wholePaths(lines []cgroupLine) []cgroupLine {
	f := &i.filler
	if !f.nested {
		return lines
	}
	self, err := os.Readlink(filepath.Join(f.dir, "self"))
	if err != nil {
		return nil
	}
	pid, err := strconv.ParseUint(self, 10, 32)
	if err != nil {
		return nil
	}
	data, err := readUpTo(filepath.Join(f.dir, self, "cgroup"), 64<<10)
	if err != nil {
		return nil
	}
	i.mu.Lock()
	var own event.Cgroup
	if en := i.procs.byPID[uint32(pid)]; en != nil {
		own = en.snap.p.Cgroup
	}
	i.mu.Unlock()
	seen, line := lineIn(parseProcCgroup(data), own.Hierarchy), lineIn(lines, own.Hierarchy)
	if own.Path == "" || seen == nil || line == nil {
		return nil
	}
	root := strings.TrimSuffix(own.Path, strings.TrimSuffix(seen.path, "/"))
	return []cgroupLine{{line.hierarchy, line.controllers, path.Join("/", root, line.path)}}
}

// inScope reports whether a process is in a subtree of the unified hierarchy.
func inScope(lines []cgroupLine, root string) bool {
	root = strings.TrimSuffix(root, "/")
	if root == "" {
		return true
	}
	rest, ok := strings.CutPrefix(pathIn(lines, 0), root)
	return ok && (rest == "" || rest[0] == '/')
}

// lineIn returns the line of a hierarchy, nil where there is none; the unified
// one's number is 0 in /proc, and 0 or 1 in the kernel.
func lineIn(lines []cgroupLine, hierarchy uint32) *cgroupLine {
	for n := range lines {
		if lines[n].hierarchy == hierarchy {
			return &lines[n]
		}
	}
	if hierarchy == 1 {
		return lineIn(lines, 0)
	}
	return nil
}

// pathIn returns the path in a hierarchy, "" where there is none.
func pathIn(lines []cgroupLine, hierarchy uint32) string {
	if l := lineIn(lines, hierarchy); l != nil {
		return l.path
	}
	return ""
}

// likeliest returns the path that tells most: one that names a container, or
// else a unit.
func likeliest(lines []cgroupLine) string {
	best, score := "", -1
	for _, l := range lines {
		place := ParseCgroup(l.path)
		n := 0
		switch {
		case place.ID != "":
			n = 4
		case place.Unit != "":
			n = 3
		case l.hierarchy == 0:
			n = 2
		case l.controllers == "name=systemd":
			n = 1
		}
		if n > score {
			best, score = l.path, n
		}
	}
	return best
}

// sweepGone forgets living processes that are no longer there, or whose pid another
// one has by now: the record of their end was lost. It looks at some each time, and believes what it sees the
// second time: an exit can be under way.
func (i *Identity) sweepGone() {
	f := &i.filler
	if !f.able {
		return
	}
	const perSweep = 1024
	gone := func(k event.Key) bool {
		data, err := readUpTo(filepath.Join(f.dir, strconv.FormatUint(uint64(k.PID), 10), "stat"), 512)
		if err != nil || !f.firstClock {
			return errors.Is(err, unix.ENOENT)
		}
		st, err := parseStat(data)                      // nothing of one that goes at this moment
		return err == nil && st.start != ticks(k.Start) // another has its pid
	}
	for k := range f.missing {
		delete(f.missing, k)
		if !gone(k) {
			continue
		}
		i.mu.Lock()
		if en := i.procs.get(k); en != nil && en.list == &i.procs.living {
			i.forget(en)
			i.procs.vanished++
		}
		i.mu.Unlock()
	}
	if len(f.cycle) == 0 {
		i.mu.Lock()
		for en := range i.procs.living.all {
			f.cycle = append(f.cycle, en.key)
		}
		i.mu.Unlock()
	}
	n := min(perSweep, len(f.cycle))
	for _, k := range f.cycle[:n] {
		if gone(k) {
			f.missing[k] = true
		}
	}
	f.cycle = f.cycle[n:]
}
