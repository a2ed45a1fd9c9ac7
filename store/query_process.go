package store

import (
	"context"
	"strings"

	"warren/event"
	"warren/filter"
)

// processSets says for one segment which snapshots of processes satisfy the leaves of
// a plan that look at nothing else. Once made, it does not change.
type processSets struct {
	known   bool // false: nothing is known of processes
	numbers []map[int64]struct{}
	execIDs []*filter.Comparison // of numbers; nil: too many to say
}

// A processTable is the processes of a segment.
type processTable interface {
	// parts calls fn with each part of the table, and the rows of it.
	parts(ctx context.Context, fn func(t tables, b *Batch) error, want func(*event.Column) bool) error
	// process returns a snapshot.
	process(ctx context.Context, number int64) (*event.Process, error)
}

// maxIDs is up to how many processes are looked for by name in dictionaries and bloom
// filters.
const maxIDs = 256

// newProcessSets asks the leaves of processes of a plan.
func newProcessSets(ctx context.Context, leaves *processLeaves, host *event.Host, table processTable) (*processSets, error) {
	s := &processSets{known: true}
	layout := event.LayoutOf(event.KindProcess)
	needed := map[string]bool{event.ColumnSnapshot: true, event.ColumnExecID: true}
	for range leaves.all {
		s.numbers = append(s.numbers, map[int64]struct{}{})
	}
	ids := make([]map[string]struct{}, len(leaves.all))
	var columns, programs []*leaf
	// Of leaves about ancestors: processes that satisfy it themselves or have an ancestor
	// that does. A parent stands before its children.
	above := make([]map[int64]struct{}, len(leaves.all))
	for _, l := range leaves.all {
		ids[l.id] = map[string]struct{}{}
		if l.column == nil {
			programs = append(programs, l)
			continue
		}
		columns = append(columns, l)
		needed[l.column.Name] = true
		if l.instead != "" {
			needed["container.full_id"] = true
		}
		if l.above {
			needed[event.ColumnParentSnapshot] = true
			above[l.id] = map[int64]struct{}{}
		}
	}
	err := table.parts(ctx, func(t tables, b *Batch) error {
		numbers, execIDs := b.Vector(event.ColumnSnapshot), b.Vector(event.ColumnExecID)
		if numbers == nil {
			return nil
		}
		add := func(l *leaf, i int) {
			s.numbers[l.id][numbers.Ints[i]] = struct{}{}
			if m := ids[l.id]; m != nil {
				if id, ok := execIDs.Str(i); ok {
					m[strings.Clone(id)] = struct{}{}
				}
				if len(m) > maxIDs {
					ids[l.id] = nil
				}
			}
		}
		for _, l := range columns {
			held, err := processColumn(t, l, layout, b.Rows)
			if err != nil {
				return err
			}
			for i := range b.Rows {
				has := held.has(i)
				if l.above {
					up := above[l.id]
					_, of := up[b.Parent(i)]
					if has || of {
						up[numbers.Ints[i]] = struct{}{}
					}
					has = of
				}
				if has {
					add(l, i)
				}
			}
		}
		for i := range b.Rows {
			if len(programs) == 0 {
				break
			}
			if i%64 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			proc, err := table.process(ctx, numbers.Ints[i])
			if err != nil {
				return err
			}
			if proc == nil {
				continue
			}
			e := &event.Event{Process: proc, Actor: proc.Key, Data: &event.ProcessState{}, Past: &event.Past{Host: host}}
			for _, l := range programs {
				if l.program.Match(e) {
					add(l, i)
				}
			}
		}
		return nil
	}, func(c *event.Column) bool { return needed[c.Name] })
	if err != nil {
		return nil, err
	}
	for _, m := range ids {
		var c *filter.Comparison
		if m != nil {
			c = &filter.Comparison{}
			for id := range m {
				c.Only = append(c.Only, id)
			}
			c.Text = func(s string) bool { _, ok := m[s]; return ok }
		}
		s.execIDs = append(s.execIDs, c)
	}
	return s, nil
}

// processColumn returns the rows of a part of a table for which a leaf holds.
func processColumn(t tables, l *leaf, layout *event.Layout, rows int) (rowSet, error) {
	e := evaluation{tables: t}
	col := layout.Column(l.column.Name).Index
	s, err := e.column(&leaf{cmp: l.cmp}, col, 0, rows)
	if err != nil || l.instead == "" || !l.cmp.Text(l.instead) {
		return s, err
	}
	// A process without a container is on the host; one in a container that has no
	// name has none.
	v, err := t.view(layout.Column("container.full_id").Index, 0, rows)
	if err != nil {
		return nil, err
	}
	outside := present(v, rows)
	outside.invert(rows)
	s.or(outside)
	return s, nil
}

func (s *processSets) none(l *leaf) bool { return len(s.numbers[l.id]) == 0 }

// ids returns the comparison that the exec ids of processes satisfy, nil where they
// are too many.
func (s *processSets) ids(l *leaf) *filter.Comparison { return s.execIDs[l.id] }

// rows returns which of n rows refer to a process that satisfies a leaf, of those in
// among, nil for all.
func (s *processSets) rows(l *leaf, n int, among rowSet, snapshot func(i int) (int64, bool)) (rowSet, bool, error) {
	if s == nil || !s.known {
		return nil, false, nil
	}
	out := newRowSet(n, false)
	numbers := s.numbers[l.id]
	if len(numbers) == 0 {
		return out, true, nil
	}
	last, in := int64(0), false
	for i := range n {
		if among != nil && !among.has(i) {
			continue
		}
		x, ok := snapshot(i)
		if !ok {
			continue
		}
		if x != last {
			last = x
			_, in = numbers[x]
		}
		if in {
			out[i/64] |= 1 << (i % 64)
		}
	}
	return out, true, nil
}

// logTable is the processes of a segment that is a log.
type logTable struct {
	g *segment
	*lineage
}

func (t logTable) parts(ctx context.Context, fn func(tables, *Batch) error, want func(*event.Column) bool) error {
	for i := range t.frames {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b, err := t.g.read(&t.frames[i], want)
		if err != nil {
			return err
		}
		if err := fn(newBatchTables(b, nil), b); err != nil {
			return err
		}
	}
	return nil
}

// sealedTable is the processes of a sealed segment.
type sealedTable struct{ *sealedLineage }

func (t sealedTable) parts(ctx context.Context, fn func(tables, *Batch) error, want func(*event.Column) bool) error {
	for g := range t.f.groups {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := newGroupReader(t.f, g, nil, nil)
		rows := make([]int32, r.rows())
		for i := range rows {
			rows[i] = int32(i)
		}
		b, err := r.batch(rows, func(c *event.Column) bool { return c.Extern && want(c) })
		if err != nil {
			return err
		}
		if err := fn(r, b); err != nil {
			return err
		}
	}
	return nil
}
