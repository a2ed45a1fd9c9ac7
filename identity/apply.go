package identity

import (
	"slices"

	"warren/event"
)

// attribute sets the process of an event that happened in it. Records of
// processes are read before those of connections, so that the table may be
// ahead of the event: the snapshot is the one that was true at its time.
// It returns that snapshot, nil where the process is unknown or was told.
func (i *Identity) attribute(e *event.Event) *snap {
	if e.Process != nil || e.Actor.IsZero() {
		return nil
	}
	s := i.find(e)
	if s == nil {
		i.procs.unknown++
		i.filler.ask(e.Actor, i.procs.now)
	}
	return s
}

// find is attribute for a process that may be unknown.
func (i *Identity) find(e *event.Event) *snap {
	en := i.procs.get(e.Actor)
	if en == nil {
		return nil
	}
	if p := en.snap.p; p.Parent == nil && !p.ParentKey.IsZero() {
		i.relinkOne(en)
	}
	s := en.at(e.Ktime)
	e.Process = s.p
	return s
}

// applyFork adds a process that is a copy of its parent.
func (i *Identity) applyFork(e *event.Event) {
	t := &i.procs
	p := e.Process
	if p == nil {
		i.attribute(e) // no sensor does so; the event is told as it is
		return
	}
	parent := t.get(p.ParentKey)
	// CLONE_PARENT makes a sibling: the image is the caller's all the same.
	source := parent
	if e.Actor != p.Key && e.Actor != p.ParentKey {
		if en := t.get(e.Actor); en != nil {
			source = en
		}
	}
	var img *image
	if source != nil {
		inherit(p, source.snap.p)
		img = source.snap.img
	} else {
		i.tidy(p)
		img = t.newImage(p)
		i.filler.ask(p.Key, t.now)
	}
	i.place(p, source)
	i.setUsers(p, source)
	i.put(e, p, parent, img)
}

// inherit copies what a fork copies, but for what every record of the kernel's
// tells: credentials, namespaces, login. The parent may have changed that unseen,
// as a login does by writing to /proc/self/loginuid.
func inherit(p, from *event.Process) {
	if p.Name == "" || p.Name == from.Name {
		p.Name = from.Name // the same bytes, kept once
	}
	p.Exe, p.ExePath, p.Cmdline, p.ArgsLine = from.Exe, from.ExePath, from.Cmdline, from.ArgsLine
	p.Args, p.ArgsCut = from.Args, from.ArgsCut
	if p.Cwd == "" {
		p.Cwd = from.Cwd
	}
	p.Filename, p.Interp = from.Filename, from.Interp
	p.ExeUnresolved, p.ExeMemfd, p.ExeDeleted = from.ExeUnresolved, from.ExeMemfd, from.ExeDeleted
	p.ExeUpper, p.ExeLower, p.ExeWritable = from.ExeUpper, from.ExeLower, from.ExeWritable
	p.ExeInode, p.ExeDev, p.ExeMode, p.ExeUID = from.ExeInode, from.ExeDev, from.ExeMode, from.ExeUID
	p.ExeCtime, p.ExeMtime = from.ExeCtime, from.ExeMtime
	p.ExecTime = from.ExecTime
	p.Kthread = p.Kthread || from.Kthread
	inheritSession(p, from)
}

// inheritSession fills what the kernel did not say of sessions and terminals.
func inheritSession(p, from *event.Process) {
	if p.SID == 0 {
		p.SID, p.PGID, p.TTY = from.SID, from.PGID, from.TTY
		if p.PidNS == from.PidNS {
			p.VSID, p.VPGID = from.VSID, from.VPGID
		}
	}
}

// applyExec puts a new image into a process.
func (i *Identity) applyExec(e *event.Event) {
	t := &i.procs
	p := e.Process
	if p == nil {
		i.attribute(e)
		return
	}
	en := t.get(p.Key)
	parent := t.get(p.ParentKey)
	if en != nil {
		old := en.snap.p
		if old.Parent != nil || p.ParentKey.IsZero() {
			p.ParentKey = old.ParentKey
		}
		if !old.StartTime.IsZero() {
			p.StartTime = old.StartTime
		}
		inheritSession(p, old)
	}
	i.tidy(p)
	i.place(p, en)
	i.setUsers(p, en)
	en = i.put(e, p, parent, t.newImage(p))
	i.users.execed(p, en.cont, t.now)
}

// applyTask adds a process that is older than the agent.
func (i *Identity) applyTask(e *event.Event) {
	t := &i.procs
	p := e.Process
	if p == nil {
		return
	}
	en := t.get(p.Key)
	if en != nil && en.snap.p.Exited != nil {
		e.Process = en.snap.p // a zombie: what its exit told is more
		return
	}
	parent := t.get(p.ParentKey)
	img := (*image)(nil)
	known := false
	if en != nil {
		// Known from its own events. The record adds nothing but what has changed
		// unseen; an image that is still the same is better known from its exec.
		old := en.snap.p
		if old.Parent != nil {
			p.ParentKey = old.ParentKey
		}
		if !old.StartTime.IsZero() {
			p.StartTime = old.StartTime
		}
		if known = t.sameImage(old, p); known {
			name := p.Name
			inherit(p, old)
			p.Name = name
			img = en.snap.img
		}
		inheritSession(p, old)
		if known && en.list == &t.living && sameTask(old, p) {
			e.Process = old // a snapshot that says no more would be memory for nothing
			return
		}
	}
	i.tidy(p)
	if img == nil {
		img = t.newImage(p)
	}
	i.place(p, en)
	i.setUsers(p, en)
	t.incomplete = true
	en = i.put(e, p, parent, img)
	i.users.execed(p, en.cont, t.now)
}

// sameImage reports whether the image of a process that is known is still the one
// that a record of it tells of. Kernel threads have no arguments; those that could
// not be read say nothing of what they are.
func (t *processes) sameImage(old, p *event.Process) bool {
	if old.ExePath != p.ExePath || old.ExeInode != p.ExeInode {
		return false
	}
	if len(p.Args) == 0 {
		return p.ArgsCut || len(old.Args) == 0 || !t.doubted(old)
	}
	return len(old.Args) > 0 && (!t.doubted(old) || slices.Equal(old.Args, p.Args))
}

// doubted reports whether the image of a process may be its parent's, though it has
// one of its own: it was forked when records were being lost, and no exec is known.
func (t *processes) doubted(p *event.Process) bool {
	return t.doubt != 0 && p.Key.Start >= t.doubt && p.ExecTime.Before(p.StartTime)
}

// sameTask reports whether a record of a process that exists, completed by the image
// that is known, tells nothing that has changed.
func sameTask(old, p *event.Process) bool {
	return old.Name == p.Name && old.Kthread == p.Kthread && old.Cwd == p.Cwd && old.Creds == p.Creds && old.Namespaces == p.Namespaces &&
		old.Cgroup.CgroupKey == p.Cgroup.CgroupKey && old.LoginUID == p.LoginUID && old.SessionID == p.SessionID &&
		old.SID == p.SID && old.PGID == p.PGID && old.TTY == p.TTY && old.VSID == p.VSID && old.VPGID == p.VPGID &&
		old.ParentKey == p.ParentKey && (old.Parent != nil || p.ParentKey.IsZero())
}

// put makes p, complete but for its parent, the present snapshot of its process.
// The parent stays the one that the process was started by, as it was then.
func (i *Identity) put(e *event.Event, p *event.Process, parent *entry, img *image) *entry {
	t := &i.procs
	en := t.get(p.Key)
	var ps *snap
	switch {
	case en != nil && en.snap != nil && en.snap.parent != nil:
		ps = en.snap.parent
	case parent != nil && parent != en:
		i.shorten(parent)
		ps = parent.snap
	}
	link(p, ps)
	if ps != nil {
		ps.refs++ // forgetting a process may not take it away meanwhile
		defer t.release(ps)
	}
	if en == nil {
		// The pid was free: a living process with it has ended unseen.
		if head := t.byPID[p.PID]; head != nil && head.list == &t.living && head.key.Start < p.Key.Start {
			t.vanished++
			i.forget(head)
		}
		en = t.insert(p.Key)
	} else if en.list == &t.exited {
		t.living.move(&en.links) // its end was told too early: it runs
		if en.cont != nil {
			en.cont.living++
		}
	}
	// The new image's one reference belongs to the snapshot.
	t.replace(en, p, ps, img, e.Ktime)
	en.stripped = false
	i.join(en, p)
	e.Process = p
	return en
}

// link sets the parent of a snapshot that is not yet published.
func link(p *event.Process, ps *snap) {
	if ps == nil {
		p.Parent, p.Depth = nil, 0
		return
	}
	p.Parent, p.Depth = ps.p, ps.p.Depth+1
	p.ParentKey = ps.p.Key
}

// change returns a copy of the present snapshot to be changed, nil where the
// process is unknown.
func (i *Identity) change(k event.Key) (*entry, *event.Process) {
	en := i.procs.get(k)
	if en == nil {
		return nil, nil
	}
	q := *en.snap.p
	return en, &q
}

// commit makes a changed copy the present snapshot.
func (i *Identity) commit(en *entry, q *event.Process, ktime uint64) {
	i.procs.replace(en, q, en.snap.parent, en.snap.img, ktime)
	i.join(en, q)
}

// applyExit marks the last snapshot.
func (i *Identity) applyExit(e *event.Event, d *event.Exit) {
	t := &i.procs
	if d.Ktime == 0 {
		d.Ktime = e.Ktime
	}
	if d.Duration == 0 && e.Actor.Start != 0 && e.Ktime > e.Actor.Start {
		d.Duration = int64(e.Ktime - e.Actor.Start)
	}
	en := t.get(e.Actor)
	if en == nil {
		t.unknown++ // gone: nothing can tell any more
		return
	}
	if en.snap.p.Exited != nil {
		e.Process = en.snap.p // told twice
		return
	}
	if p := en.snap.p; p.Parent == nil && !p.ParentKey.IsZero() {
		i.relinkOne(en)
	}
	q := *en.snap.p
	q.Exited = d
	q.TID = q.PID
	i.commit(en, &q, e.Ktime)
	en.exitKtime = e.Ktime
	t.exited.move(&en.links)
	if c := en.cont; c != nil {
		c.living--
	}
	if en.cg != nil {
		en.cg.procs--
		en.cg = nil
	}
	e.Process = &q
}

// applyCredentials changes the credentials of a process and completes the event
// by what was true before, where the kernel did not tell.
func (i *Identity) applyCredentials(e *event.Event, d *event.Credentials) {
	told := e.Process
	en, q := i.change(keyOf(e))
	if en == nil {
		i.unknownChange(e)
		return
	}
	old := q.Creds
	if d.OldUID == 0 && d.OldGID == 0 && d.OldCaps == 0 && d.Gained == 0 && d.Dropped == 0 {
		d.OldUID, d.OldGID, d.OldCaps = old.UID, old.GID, old.CapEffective
	}
	if told == nil {
		e.Process = en.at(e.Ktime).p
		return
	}
	if d.Gained == 0 && d.Dropped == 0 {
		d.Gained = told.CapEffective &^ d.OldCaps
		d.Dropped = d.OldCaps &^ told.CapEffective
	}
	q.Creds = told.Creds
	if told.UserNS != 0 {
		q.UserNS = told.UserNS
	}
	i.changed(e, en, q, told)
}

// applyNamespace moves a process to other namespaces.
func (i *Identity) applyNamespace(e *event.Event, d *event.Namespace) {
	told := e.Process
	en, q := i.change(keyOf(e))
	if en == nil {
		i.unknownChange(e)
		return
	}
	if d.Old == (event.Namespaces{}) {
		d.Old = q.Namespaces
	}
	if told == nil {
		e.Process = en.at(e.Ktime).p
		return
	}
	mergeNamespaces(&q.Namespaces, &told.Namespaces)
	if d.Changed == nil {
		d.Changed = changedNamespaces(&d.Old, &q.Namespaces)
	}
	// A new user namespace brings every capability in it.
	if told.Creds != (event.Creds{}) {
		q.Creds = told.Creds
	}
	if told.Cwd != "" {
		q.Cwd = i.procs.intern.str(told.Cwd)
	}
	i.changed(e, en, q, told)
}

// changed publishes a change. The sensor tells a change once, though each thread
// makes it for itself, one after the other; so it is the process's, whichever
// thread came first, and only the event says which that was.
func (i *Identity) changed(e *event.Event, en *entry, q, told *event.Process) {
	if told.Cgroup.CgroupKey != (event.CgroupKey{}) {
		q.Cgroup = told.Cgroup
	}
	i.place(q, en)
	i.setUsers(q, nil)
	i.commit(en, q, e.Ktime)
	e.Process = q
	if told.TID != 0 && told.TID != q.TID {
		own := *q
		own.TID = told.TID
		e.Process = &own
	}
}

// unknownChange is a change in a process that the tables do not know: what the
// event says of it alone would be taken for all that is true.
func (i *Identity) unknownChange(e *event.Event) {
	k := keyOf(e)
	e.Actor, e.Process = k, nil
	i.procs.unknown++
	if !k.IsZero() {
		i.filler.ask(k, i.procs.now)
	}
}

// keyOf returns the process that a change happened in.
func keyOf(e *event.Event) event.Key {
	if !e.Actor.IsZero() || e.Process == nil {
		return e.Actor
	}
	return e.Process.Key
}

// namespaceFields names the namespaces as events do.
var namespaceFields = [...]struct {
	name string
	of   func(*event.Namespaces) *uint32
}{
	{"mnt", func(n *event.Namespaces) *uint32 { return &n.MntNS }},
	{"pid", func(n *event.Namespaces) *uint32 { return &n.PidNS }},
	{"net", func(n *event.Namespaces) *uint32 { return &n.NetNS }},
	{"user", func(n *event.Namespaces) *uint32 { return &n.UserNS }},
	{"uts", func(n *event.Namespaces) *uint32 { return &n.UtsNS }},
	{"ipc", func(n *event.Namespaces) *uint32 { return &n.IpcNS }},
	{"cgroup", func(n *event.Namespaces) *uint32 { return &n.CgroupNS }},
	{"time", func(n *event.Namespaces) *uint32 { return &n.TimeNS }},
}

func mergeNamespaces(to, from *event.Namespaces) {
	for _, f := range namespaceFields {
		if v := *f.of(from); v != 0 {
			*f.of(to) = v
		}
	}
}

func changedNamespaces(a, b *event.Namespaces) []string {
	var list []string
	for _, f := range namespaceFields {
		if *f.of(a) != *f.of(b) {
			list = append(list, f.name)
		}
	}
	return list
}

// tidy makes the strings of a snapshot that many share one.
func (i *Identity) tidy(p *event.Process) {
	in := &i.procs.intern
	p.PID = p.Key.PID
	p.Name, p.ExePath, p.Cwd, p.Interp = in.str(p.Name), in.str(p.ExePath), in.str(p.Cwd), in.str(p.Interp)
	// Mostly the same bytes once more.
	p.Filename = in.like(p.ExePath, p.Filename)
	p.Exe = in.like(p.Filename, p.Exe)
}

// forget removes a process from every table.
func (i *Identity) forget(en *entry) {
	i.leave(en)
	i.procs.remove(en)
}
