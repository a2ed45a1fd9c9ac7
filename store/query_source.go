package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"warren/event"
)

// everything returns the logs, which the query holds, and the sealed files of one
// moment, oldest first: what is being sealed is in one of them.
func (s *Store) everything(q *query) (logs []*segment, files []*sealed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if g.hold() {
			logs = append(logs, g)
			q.held = append(q.held, g.release)
		}
	}
	return logs, s.sealed.all()
}

// sources lists what may have what is asked for.
func (s *Store) sources(q *query) error {
	s.opening.RLock()
	defer s.opening.RUnlock()
	logs, files := s.everything(q)
	if s.cfg.listed != nil {
		s.cfg.listed()
	}
	for _, g := range logs {
		s.addLog(q, g)
	}
	tables := map[uint64]*sealedProcesses{}
	for _, f := range files {
		if f.Kind == event.KindProcess {
			tables[f.Seq] = &sealedProcesses{s: s, file: f}
		}
	}
	for _, f := range files {
		if err := s.addSealed(q, f, tables[f.Seq]); err != nil {
			return err
		}
	}
	return nil
}

// processesOf makes the sets of a segment's processes once, for all that ask.
type processesOf struct {
	once sync.Once
	sets *processSets
	err  error
}

func (p *processesOf) get(ctx context.Context, leaves *processLeaves, host *event.Host, table func() (processTable, error)) (*processSets, error) {
	if len(leaves.all) == 0 {
		return nil, nil
	}
	p.once.Do(func() {
		t, err := table()
		if err == nil && t != nil {
			p.sets, err = newProcessSets(ctx, leaves, host, t)
		}
		// What is damaged says nothing of processes: events are looked at one by one.
		if err != nil && !isDamage(err) {
			p.err = err
		}
	})
	return p.sets, p.err
}

// addLog adds the frames of a log.
func (s *Store) addLog(q *query, g *segment) {
	if q.After > 0 && !g.own {
		return
	}
	frames := g.list(func(f *frame) bool {
		return f.typ == frameBatch && q.plans[f.kind] != nil && f.maxTime >= q.from && f.minTime <= q.to &&
			(!g.own || (q.UpTo == 0 || f.minSeq <= q.UpTo) && f.maxSeq > q.After)
	})
	if len(frames) == 0 {
		return
	}
	made := newLineage(g)
	var making sync.Mutex // guards it
	procs := &processesOf{}
	for i := range frames {
		f := &frames[i]
		p := q.plans[f.kind]
		q.sources = append(q.sources, &source{plan: p, min: f.minTime, max: f.maxTime, own: g.own, open: func(ctx context.Context) (*opened, error) {
			sets, err := procs.get(ctx, &q.leaves, g.host, func() (processTable, error) { return logTable{g, newLineage(g)}, nil })
			if err != nil {
				return nil, err
			}
			var whole *Batch
			var want func(*event.Column) bool
			if p.root != nil && f.rows > fewRows {
				want = func(c *event.Column) bool { return p.needed[c.Index] }
			}
			b, err := g.read(f, want)
			if err != nil && isDamage(err) {
				s.damagedFrame(g, f, err)
				return &opened{}, nil
			}
			if err != nil {
				return nil, err
			}
			if want == nil {
				whole = b
			}
			inside := f.minTime >= q.from && f.maxTime <= q.to
			o, err := q.candidates(ctx, p, newBatchTables(b, sets), b.Rows, max(b.Rows, 1), inside, g.own)
			if err != nil {
				return nil, err
			}
			o.load = func(rows []int32) ([]*event.Event, error) {
				if whole == nil {
					if whole, err = g.read(f, nil); err != nil {
						if !isDamage(err) {
							return nil, err
						}
						s.damagedFrame(g, f, err)
						return nil, nil
					}
				}
				events := make([]*event.Event, len(rows))
				making.Lock()
				defer making.Unlock()
				for i, row := range rows {
					process, err := made.process(ctx, whole.Snapshot(int(row)))
					if err != nil {
						if !isDamage(err) {
							return nil, fmt.Errorf("process of an event: %w", err)
						}
						s.damagedFrame(g, f, err) // the event is worth telling without
					}
					events[i] = whole.Event(int(row), process)
				}
				return events, nil
			}
			return o, nil
		}})
	}
}

// isDamage reports whether an error says that what was written is not there any more:
// another try will not find it either.
func isDamage(err error) bool {
	return errors.Is(err, errFrame) || errors.Is(err, errCorrupt) || errors.Is(err, unix.EIO)
}

// fewRows is up to how many rows a batch is read whole at once.
const fewRows = 256

// sealedProcesses is the table of processes of a sealed segment, opened when it is
// needed.
type sealedProcesses struct {
	s    *Store
	file *sealed
	processesOf

	finding sync.Once
	held    *os.File

	once sync.Once
	f    *sealedFile
	err  error

	making sync.Mutex // guards made
	made   *sealedLineage
}

// hold keeps the file there for the query: retention may remove it before it is needed.
// It is not read yet: with many files, of which few have what is asked for, their
// footers would be most of the work.
func (p *sealedProcesses) hold(q *query) error {
	if p == nil {
		return nil
	}
	p.finding.Do(func() {
		if p.held, p.err = p.file.open(p.s.cfg.Dir); p.err == nil {
			q.held = append(q.held, func() { _ = p.held.Close() }) // read only, and closed already where it is damaged
		}
	})
	if passing(p.err) {
		return p.s.cannotRead(p.file, p.err)
	}
	return nil
}

// open reads what hold has found; nil without an error for what cannot be read. Any
// goroutine may call it.
func (p *sealedProcesses) open() (*sealedFile, error) {
	if p == nil {
		return nil, nil
	}
	p.once.Do(func() {
		err := p.err
		if err == nil {
			p.f, err = p.s.readFile(p.file, p.held)
		}
		p.err = p.s.cannotRead(p.file, err)
	})
	return p.f, p.err
}

// openSealed opens a file for as long as the query runs. It returns nil for one that
// went away, or cannot be read, which has been said then.
func (s *Store) openSealed(q *query, f *sealed) (*sealedFile, error) {
	file, err := s.openFile(f)
	if err != nil {
		return nil, s.cannotRead(f, err)
	}
	q.held = append(q.held, func() { _ = file.close() }) // read only
	return file, nil
}

// cannotRead says that a file cannot be read. It returns an error only where the next
// query may read it.
func (s *Store) cannotRead(f *sealed, err error) error {
	switch {
	case err == nil, isNotExist(err):
		return nil
	case passing(err):
		return fmt.Errorf("read %s: %w", f.Name, err)
	}
	s.unreadable(f, err)
	return nil
}

// addSealed adds the row groups of a sealed file.
func (s *Store) addSealed(q *query, f *sealed, table *sealedProcesses) error {
	p := q.plans[f.Kind]
	first, last := f.First.UnixNano(), f.Last.UnixNano()
	if p == nil || last < q.from || first > q.to || q.After > 0 && !f.own || f.own && q.UpTo != 0 && f.minSeq > q.UpTo {
		return nil
	}
	file, err := s.openSealed(q, f)
	if file == nil || err != nil {
		return err
	}
	if file.kind != f.Kind {
		s.unreadable(f, corrupt("it has events of kind %v", file.kind))
		return nil
	}
	if err := table.hold(q); err != nil {
		return err
	}
	timeCol := file.cols[file.layout.Column("evt.time").Index]
	for g := range file.groups {
		lo, hi := first, last
		// Losses can reach beyond the time that they are of.
		if info := &file.groups[g].chunks[timeCol]; f.Kind != event.KindLost && info.bounded && len(info.least) == 8 && len(info.most) == 8 {
			lo, hi = int64(le64(info.least)), int64(le64(info.most))
		}
		if hi < q.from || lo > q.to {
			continue
		}
		q.sources = append(q.sources, &source{plan: p, min: lo, max: hi, own: f.own, open: func(ctx context.Context) (*opened, error) {
			o, err := s.openGroup(ctx, q, p, file, g, table, lo >= q.from && hi <= q.to, f.own)
			if err != nil && isDamage(err) {
				s.damagedPart(f, err)
				return &opened{}, nil
			}
			if o != nil && o.load != nil {
				load := o.load
				o.load = func(rows []int32) ([]*event.Event, error) {
					events, err := load(rows)
					if err != nil && isDamage(err) {
						s.damagedPart(f, err)
						return nil, nil
					}
					return events, err
				}
			}
			return o, err
		}})
	}
	return nil
}

func (s *Store) openGroup(ctx context.Context, q *query, p *plan, file *sealedFile, g int, table *sealedProcesses, inside, own bool) (*opened, error) {
	var sets *processSets
	if table != nil {
		var err error
		sets, err = table.get(ctx, &q.leaves, file.host, func() (processTable, error) {
			f, err := table.open()
			if f == nil || err != nil {
				return nil, err
			}
			return sealedTable{newSealedLineage(f)}, nil
		})
		if err != nil {
			return nil, err
		}
	}
	r := newGroupReader(file, g, sets, &q.rooms)
	if ok, err := r.possible(p.root, true); !ok || err != nil {
		return &opened{}, err
	}
	o, err := q.candidates(ctx, p, r, r.rows(), pageRows, inside, own)
	if err != nil {
		return nil, err
	}
	r.settle(o.rows)
	if len(o.rows) == 0 {
		return o, nil
	}
	o.load = sortedLoad(func(rows []int32) ([]*event.Event, error) {
		b, err := r.batch(rows, nil)
		if err != nil {
			return nil, err
		}
		f, err := table.open()
		if err != nil {
			return nil, err
		}
		if f != nil {
			table.making.Lock()
			defer table.making.Unlock()
			if table.made == nil {
				table.made = newSealedLineage(f)
			}
		}
		if f != nil {
			numbers := make([]int64, len(rows))
			for i := range rows {
				numbers[i] = b.Snapshot(i)
			}
			if err := table.made.load(ctx, numbers); err != nil {
				return nil, err
			}
		}
		events := make([]*event.Event, len(rows))
		for i := range rows {
			var process *event.Process
			if f != nil {
				if process, err = table.made.process(ctx, b.Snapshot(i)); err != nil {
					if !isDamage(err) {
						return nil, err
					}
					s.damagedPart(table.file, err)
				}
			}
			events[i] = b.Event(i, process)
		}
		return events, nil
	})
	return o, nil
}
