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
	// What is to be written.
	rows []*event.Process
	refs refs
}

// A snapshot is what is known of one: its number, and the process's exec id.
type snapshot struct {
	number int64
	id     string
}

// maxSnapshots bounds how many are remembered, and so kept in memory.
const maxSnapshots = 4096

// begin forgets all numbers: a new segment has none.
func (t *snapshots) begin() {
	t.young, t.old = make(map[*event.Process]snapshot), nil
}

// number returns the number of a snapshot and the process's exec id, 0 and "" for
// nil; now is the time of what refers to it.
func (t *snapshots) number(p *event.Process, now int64) (int64, string) {
	if p == nil {
		return 0, ""
	}
	if n, ok := t.young[p]; ok {
		return n.number, n.id
	}
	n, ok := t.old[p]
	if !ok {
		n = t.add(p, now)
	}
	if len(t.young) >= maxSnapshots {
		t.old, t.young = t.young, make(map[*event.Process]snapshot, maxSnapshots)
	}
	t.young[p] = n
	return n.number, n.id
}

// add numbers a snapshot that is to be written, behind its ancestors.
func (t *snapshots) add(p *event.Process, now int64) snapshot {
	parent, parentID := t.number(p.Parent, now) // as deep as ancestries are
	if parent == 0 {
		parentID = t.host.ExecID(p.ParentKey)
	}
	t.last = max(t.last+1, now)
	n := snapshot{t.last, t.host.ExecID(p.Key)}
	t.rows = append(t.rows, p)
	t.refs.snapshot = append(t.refs.snapshot, n.number)
	t.refs.execID = append(t.refs.execID, n.id)
	t.refs.parent = append(t.refs.parent, parent)
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
	r.snapshot, r.execID, r.parent, r.parentID, r.time = r.snapshot[:0], r.execID[:0], r.parent[:0], r.parentID[:0], r.time[:0]
}

// part returns the references of rows i to j.
func (r *refs) part(i, j int) *refs {
	p := &refs{snapshot: r.snapshot[i:j], execID: r.execID[i:j]}
	if len(r.parent) > 0 {
		p.parent, p.parentID, p.time = r.parent[i:j], r.parentID[i:j], r.time[i:j]
	}
	return p
}
