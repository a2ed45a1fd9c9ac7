package store

import "warren/event"

// snapshots numbers the snapshots of processes that events refer to. Each is
// written once to a segment, before the first event that refers to it, and again
// to the next one that needs it, by another number: so what a segment refers to
// is in it, and a number stands for one row in the whole history.
type snapshots struct {
	host *event.Host
	last int64 // number given last: nanoseconds since 1970, made to grow
	// Those used lately, and those used before: what is in neither is written again.
	young, old map[*event.Process]snapshot
	// Those of one process have the same exec id.
	names map[event.Key]*execName
	// What is to be written.
	rows []*event.Process
	refs refs
}

// A snapshot is what is known of one: its number, and what its process is called.
type snapshot struct {
	number int64
	name   *execName
}

// An execName is the exec id of a process, and its place in the dictionary of the
// batch that had it last.
type execName struct {
	id    string
	batch uint64
	code  uint32
}

// maxSnapshots bounds how many are remembered, and so kept in memory.
const maxSnapshots = 4096

// begin forgets all numbers: a new segment has none.
func (t *snapshots) begin() {
	t.young, t.old, t.names = make(map[*event.Process]snapshot), nil, make(map[event.Key]*execName)
}

// number returns the number of a snapshot and what its process is called, 0 and nil
// for nil; now is the time of what refers to it.
func (t *snapshots) number(p *event.Process, now int64) snapshot {
	if p == nil {
		return snapshot{}
	}
	if n, ok := t.young[p]; ok {
		return n
	}
	n, ok := t.old[p]
	if !ok {
		n = t.add(p, now)
	}
	if len(t.young) >= maxSnapshots {
		t.old, t.young = t.young, make(map[*event.Process]snapshot, maxSnapshots)
		clear(t.names)
		for p, n := range t.old {
			t.names[p.Key] = n.name
		}
		t.names[p.Key] = n.name
	}
	t.young[p] = n
	return n
}

// add numbers a snapshot that is to be written, behind its ancestors.
func (t *snapshots) add(p *event.Process, now int64) snapshot {
	parent := t.number(p.Parent, now) // as deep as ancestries are
	parentID := ""
	if parent.name != nil {
		parentID = parent.name.id
	} else {
		parentID = t.host.ExecID(p.ParentKey)
	}
	t.last = max(t.last+1, now)
	name := t.names[p.Key]
	if name == nil {
		name = &execName{id: t.host.ExecID(p.Key)}
		t.names[p.Key] = name
	}
	n := snapshot{t.last, name}
	t.rows = append(t.rows, p)
	t.refs.snapshot = append(t.refs.snapshot, n.number)
	t.refs.execID = append(t.refs.execID, name.id)
	t.refs.parent = append(t.refs.parent, parent.number)
	t.refs.parentID = append(t.refs.parentID, parentID)
	t.refs.time = append(t.refs.time, now)
	return n
}

// written forgets what was to be written.
func (t *snapshots) written() {
	clear(t.rows)
	t.rows = t.rows[:0]
	t.refs.reset()
}

func (r *refs) reset() {
	clear(r.execID)
	clear(r.parentID)
	clear(r.ids)
	r.codes, r.ids = r.codes[:0], r.ids[:0]
	r.snapshot, r.execID, r.parent, r.parentID, r.time = r.snapshot[:0], r.execID[:0], r.parent[:0], r.parentID[:0], r.time[:0]
}

// part returns the references of rows i to j.
func (r *refs) part(i, j int) *refs {
	if len(r.codes) > 0 {
		return &refs{snapshot: r.snapshot[i:j], codes: r.codes[i:j], ids: r.ids}
	}
	return &refs{snapshot: r.snapshot[i:j], execID: r.execID[i:j], parent: r.parent[i:j], parentID: r.parentID[i:j], time: r.time[i:j]}
}
