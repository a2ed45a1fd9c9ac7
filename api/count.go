package api

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
)

// PathEventsCount answers how many events there are of each sort, below the root
// of the API.
const PathEventsCount = "/events/count"

// A CountQuestion asks how many events there are, by the values of fields.
type CountQuestion struct {
	Filter string
	By     []string // names of fields
	Limit  int      // above 0: end after so many events
	Begun  func()   // as of a Question
}

// Counts is how many events there were since a question began. Its JSON is part
// of the API. Total is the sum of the rows and Other.
type Counts struct {
	Since time.Time  `json:"since"`
	By    []string   `json:"by"`
	Rows  []CountRow `json:"rows"` // the most first
	// Other are events for which there was no room among the rows: a question has
	// up to 4096, and 4 MiB of values. Unshown are those of rows that were left out here.
	Other   uint64 `json:"other"`
	Unshown uint64 `json:"unshown"`
	Total   uint64 `json:"total"`
	// Lost are events that were lost before they were counted.
	Lost uint64 `json:"lost"`
	Last bool   `json:"last"` // nothing comes after it
}

// CountRow counts the events of one combination of values.
type CountRow struct {
	Values []*string `json:"values"` // in the order of By; null: the event has none
	Count  uint64    `json:"count"`
}

const (
	maxGroups     = 4096    // combinations of values that are counted
	maxGroupBytes = 4 << 20 // of all their values
	maxRows       = 500     // of these: told
	maxBy         = 8
	countTick     = 2 * time.Second
)

// A counter counts events by the values of fields.
type counter struct {
	fields []*event.Field
	groups map[string]*CountRow
	bytes  int // of the values in groups
	counts Counts
	key    []byte // values of an event, one behind the other; before each of them 1, or 0 and nothing
	ends   []int  // of the values in key
}

func newCounter(names []string) (*counter, error) {
	c := &counter{groups: map[string]*CountRow{}, counts: Counts{Since: time.Now(), By: names}}
	if len(names) == 0 || len(names) > maxBy {
		return nil, BadRequest("parameter by has to name one to %d fields, separated by commas", maxBy)
	}
	for _, name := range names {
		f, ok := event.Lookup(name)
		if !ok {
			e := BadRequest("no field %s", printable(name))
			e.Hint = filter.SuggestField(name)
			return nil, e
		}
		if f.Many != event.One || f.Arg != event.NoArg {
			return nil, BadRequest("field %s has several values: events cannot be counted by it", name)
		}
		c.fields = append(c.fields, f)
	}
	return c, nil
}

// add counts an event.
func (c *counter) add(e *event.Event) {
	if l, ok := e.Data.(*event.Lost); ok {
		c.counts.Lost += l.Count
		return
	}
	times := e.Times()
	c.counts.Total += times
	c.key, c.ends = c.key[:0], c.ends[:0]
	for _, f := range c.fields {
		start := len(c.key)
		c.key = append(c.key, 1)
		var ok bool
		if c.key, ok = appendValue(c.key, f, e); !ok {
			c.key = append(c.key[:start], 0)
		}
		c.ends = append(c.ends, len(c.key))
	}
	for _, end := range c.ends { // values can have any byte in them: of equal keys, each is as long
		c.key = binary.NativeEndian.AppendUint32(c.key, uint32(end))
	}
	if g := c.groups[string(c.key)]; g != nil {
		g.Count += times
		return
	}
	if len(c.groups) >= maxGroups || c.bytes+len(c.key) > maxGroupBytes {
		c.counts.Other += times
		return
	}
	c.bytes += len(c.key)
	row := &CountRow{Count: times}
	all, start := string(c.key), 0
	for _, end := range c.ends {
		if all[start] == 0 {
			row.Values = append(row.Values, nil)
		} else {
			text := all[start+1 : end]
			row.Values = append(row.Values, &text)
		}
		start = end
	}
	c.groups[all] = row
}

// appendValue appends the value of a field as people read it.
func appendValue(b []byte, f *event.Field, e *event.Event) ([]byte, bool) {
	switch f.Type {
	case event.String:
		return f.Append(b, e, 0)
	case event.IP, event.Net:
		a, ok := f.Addr(e, 0)
		if !ok {
			return b, false
		}
		return a.AppendTo(b), true
	}
	n, ok := f.Num(e, 0)
	switch {
	case !ok:
		return b, false
	case f.Type == event.Bool:
		return strconv.AppendBool(b, n != 0), true
	case f.Type == event.Uint:
		return strconv.AppendUint(b, uint64(n), 10), true
	}
	return strconv.AppendInt(b, n, 10), true
}

// tell returns the counts so far.
func (c *counter) tell() *Counts {
	out := c.counts
	out.Rows = make([]CountRow, 0, len(c.groups))
	for _, g := range c.groups {
		out.Rows = append(out.Rows, *g)
	}
	slices.SortFunc(out.Rows, func(a, b CountRow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), slices.CompareFunc(a.Values, b.Values, compareValues))
	})
	for len(out.Rows) > maxRows {
		last := len(out.Rows) - 1
		out.Unshown += out.Rows[last].Count
		out.Rows = out.Rows[:last]
	}
	return &out
}

func compareValues(a, b *string) int {
	if a == nil || b == nil {
		return cmp.Compare(boolInt(a != nil), boolInt(b != nil))
	}
	return cmp.Compare(*a, *b)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *Server) serveCount(w http.ResponseWriter, req *http.Request, q Query) error {
	by := []string{}
	if list := q["by"]; list != "" {
		by = strings.Split(list, ",")
	}
	c, err := newCounter(by)
	if err != nil {
		return err
	}
	delete(q, "by")
	a, err := s.question(PathEvents, q)
	if err != nil {
		return err
	}
	among := a.Filter.Asked()
	for _, name := range by {
		// A field asks for its kinds as a condition on it does.
		if f, known := event.Lookup(name); known && f.Kinds() != event.AllKinds {
			among |= a.Filter.Kinds() & f.Kinds()
		}
	}
	wanted := a.Filter
	if a.Limit == 0 { // or it would not end with the event that it is to end with
		wanted = wanted.Counted(by, among)
	}
	stream, err := s.subscribe(req, "events by "+strings.Join(by, ","), wanted, among)
	if err != nil {
		return err
	}
	defer stream.close()
	out := NewWriter(w, req, s.cfg.Stall, nil)
	if err := out.Flush(); err != nil {
		return err
	}
	return s.count(req.Context(), out, stream, c, uint64(a.Limit))
}

// count counts until the stream ends, limit events were counted or the client
// has gone, and tells every two seconds.
func (s *Server) count(ctx context.Context, out *Writer, from *stream, c *counter, limit uint64) error {
	tell := func(last bool) error {
		counts := c.tell()
		counts.Last = last
		line, err := json.Marshal(counts)
		if err != nil {
			return fmt.Errorf("write counts: %w", err)
		}
		if err := out.Row(Row{JSON: line}); err != nil {
			return err
		}
		return out.Flush()
	}
	due := time.Now().Add(countTick)
	for limit == 0 || c.counts.Total < limit {
		wait, cancel := context.WithDeadline(ctx, due)
		e, err := from.Next(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return &clientGone{ctx.Err()}
		case errors.Is(err, io.EOF):
			return tell(true)
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			return err
		case err == nil:
			c.add(e)
		}
		if now := time.Now(); !now.Before(due) {
			due = now.Add(countTick)
			if err := tell(false); err != nil {
				return err
			}
		}
	}
	return tell(true)
}

// CountEvents yields how many events there were so far, now and then and at the
// end: each line is a [Counts].
func (c *Client) CountEvents(ctx context.Context, q CountQuestion) Lines {
	v := url.Values{"by": {strings.Join(q.By, ",")}, "watch": {"true"}}
	if q.Filter != "" {
		v.Set("filter", q.Filter)
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return c.lines(ctx, PathEventsCount, v, q.Begun)
}
