package api

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
)

// clock is the moment that a list describes.
type clock struct {
	now   time.Time
	ktime uint64
}

func readClock() clock {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return clock{time.Now(), uint64(ts.Nano())}
}

func (c clock) row(p *event.Process) *event.Event { return p.State(c.now, c.ktime) }

func (s *Server) serveProcesses(w http.ResponseWriter, req *http.Request, q Query) error {
	a, err := s.question(PathProcesses, q)
	if err != nil {
		return err
	}
	if err := s.ready(req.Context()); err != nil {
		return err
	}
	byStart := func(e *event.Event) time.Time { return e.Process.StartTime }
	if !a.At.IsZero() {
		if a.Exited {
			return BadRequest("at tells of those that ran at that moment: leave out exited")
		}
		list, err := s.processesAt(req.Context(), a)
		if err != nil {
			return err
		}
		return writeRows(NewWriter(w, req, s.cfg.Stall, a.Fields), list, byStart)
	}
	at := readClock()
	var list []*event.Event
	s.tables.Processes(func(p *event.Process) bool {
		if p.Exited == nil || a.Exited {
			if row := at.row(p); a.Filter.Match(row) {
				list = append(list, row)
			}
		}
		return true
	})
	slices.SortFunc(list, func(a, b *event.Event) int { return compareKeys(a.Actor, b.Actor) })
	return writeRows(NewWriter(w, req, s.cfg.Stall, a.Fields), list, byStart)
}

// compareKeys orders processes by the time they started.
func compareKeys(a, b event.Key) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
}

// serveProcess answers with everything known of one process: the fields of its
// row, and beside them lists of rows and what /proc adds.
func (s *Server) serveProcess(w http.ResponseWriter, req *http.Request, q Query) error {
	if err := s.here(q); err != nil {
		return err
	}
	if err := s.ready(req.Context()); err != nil {
		return err
	}
	p, others, err := s.findProcess(req.PathValue("id"))
	if err != nil {
		return err
	}
	at := readClock()
	b := event.AppendJSON(nil, at.row(p))
	b = b[:len(b)-1] // the closing brace: more follows
	list := func(name string, rows []*event.Event) {
		b = append(b, `,"`+name+`":[`...)
		for i, e := range rows {
			if i > 0 {
				b = append(b, ',')
			}
			b = event.AppendJSON(b, e)
		}
		b = append(b, ']')
	}
	var ancestors, children []*event.Event
	for a := p.Parent; a != nil; a = a.Parent {
		// The ancestor as it is now, or as it was when it was last heard of.
		if now := s.tables.Process(a.Key); now != nil {
			ancestors = append(ancestors, at.row(now))
		} else {
			ancestors = append(ancestors, at.row(a))
		}
	}
	s.tables.Processes(func(c *event.Process) bool {
		if c.ParentKey == p.Key {
			children = append(children, at.row(c))
		}
		return true
	})
	slices.SortFunc(children, func(a, b *event.Event) int { return compareKeys(a.Actor, b.Actor) })
	list("ancestors", ancestors)
	list("children", children)
	list("connections", s.connections(func(e *event.Event) bool { return e.Actor == p.Key }))
	b = append(b, `,"others":[`...)
	for i, o := range others {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, o.ExecID()) // hexadecimal digits and dashes
	}
	b = append(b, ']')
	if p.Exited == nil {
		if extra := s.proc.read(p.Key); extra != nil {
			b = append(b, `,"proc":`...)
			b = extra.appendJSON(b)
		}
	}
	return writeObject(w, append(b, "}\n"...))
}

// findProcess finds a process by pid or exec id. others had the same pid before.
func (s *Server) findProcess(id string) (p *event.Process, others []event.Key, err error) {
	if pid, err := strconv.ParseUint(id, 10, 32); err == nil {
		all := s.tables.ProcessByPID(uint32(pid))
		if len(all) == 0 {
			return nil, nil, NotFound("no process %d is known", pid)
		}
		for _, o := range all[1:] {
			others = append(others, o.Key)
		}
		return all[0], others, nil
	}
	k, err := parseExecID(id)
	if err != nil {
		return nil, nil, err
	}
	if p = s.tables.Process(k); p == nil {
		return nil, nil, NotFound("no process %s is known", id)
	}
	return p, nil, nil
}

// parseExecID is the inverse of [event.Key.ExecID].
func parseExecID(id string) (event.Key, error) {
	malformed := BadRequest("%s is neither a pid nor an exec id", printable(id))
	part := strings.Split(id, "-")
	if len(part) != 3 {
		return event.Key{}, malformed
	}
	start, err1 := strconv.ParseUint(part[1], 16, 64)
	pid, err2 := strconv.ParseUint(part[2], 10, 32)
	k := event.Key{PID: uint32(pid), Start: start}
	switch {
	case err1 != nil || err2 != nil || k.IsZero():
		return event.Key{}, malformed
	case k.ExecID() != id:
		return event.Key{}, NotFound("process %s is not of this machine's present boot", printable(id))
	}
	return k, nil
}
