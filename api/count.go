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

// PathCounts answers how many events there are of each sort, below the root of
// the API. Its one part lets a cluster's API server see that it may be a watch.
const PathCounts = "/counts"

// A CountQuestion asks how many events there are, by the values of fields.
type CountQuestion struct {
	Filter string
	By     []string // names of fields
	Limit  int      // above 0: end after so many events
	Nodes  []string // asks a hub for those nodes of the cluster only
	Begun  func()   // as of a Question
}

// Counts is how many events there were since a question began. Its JSON is part
// of the API. Total is the sum of the rows and Other.
type Counts struct {
	Since time.Time  `json:"since"`
	By    []string   `json:"by"`
	Rows  []CountRow `json:"rows"` // the most first
	// Other are events for which there was no room among the rows: a question has
	// up to 4096, and 2 MiB of values. Unshown are those of rows that were left out here.
	Other   uint64 `json:"other"`
	Unshown uint64 `json:"unshown"`
	Total   uint64 `json:"total"`
	// Lost are events that were lost before they were counted.
	Lost uint64 `json:"lost"`
	Last bool   `json:"last"` // nothing comes after it
	// What a hub says of its nodes: how many were asked, and as in [Map] those that
	// do not answer at present. Gaps are what else makes the counts too low, in
	// words; an agent has none.
	Nodes   int      `json:"nodes_total,omitempty"`
	Missing []string `json:"nodes_missing,omitempty"`
	Gaps    []string `json:"gaps,omitempty"`
}

// CountRow counts the events of one combination of values.
type CountRow struct {
	Values []*string `json:"values"` // in the order of By; null: the event has none
	Count  uint64    `json:"count"`
}

const (
	maxGroups     = 4096    // combinations of values that are counted
	maxGroupBytes = 2 << 20 // of all their values: a line of JSON, in which they may be six times as long, is one that clients read
	maxRows       = 500     // of these: told
	maxBy         = 8
	countTick     = 2 * time.Second
)

// A counter counts events by the values of fields.
type counter struct {
	fields []*event.Field
	groups
}

// groups are sums by combinations of values, of which there are not too many.
type groups struct {
	rows   map[string]*CountRow // by key
	bytes  int                  // of the keys
	counts Counts
	key    []byte // values, one behind the other; before each of them 1, or 0 and nothing
	ends   []int  // of the values in key
}

func newGroups(by []string) groups {
	return groups{rows: map[string]*CountRow{}, counts: Counts{Since: time.Now(), By: by}}
}

// begin forgets the key, which is made anew.
func (g *groups) begin() { g.key, g.ends = g.key[:0], g.ends[:0] }

// put counts n events of the combination that key has.
func (g *groups) put(n uint64) {
	g.counts.Total += n
	for _, end := range g.ends { // values can have any byte in them: of equal keys, each is as long
		g.key = binary.NativeEndian.AppendUint32(g.key, uint32(end))
	}
	if row := g.rows[string(g.key)]; row != nil {
		row.Count += n
		return
	}
	if len(g.rows) >= maxGroups || g.bytes+len(g.key) > maxGroupBytes {
		g.counts.Other += n
		return
	}
	g.bytes += len(g.key)
	row := &CountRow{Values: make([]*string, 0, len(g.ends)), Count: n}
	all, start := string(g.key), 0
	for _, end := range g.ends {
		if all[start] == 0 {
			row.Values = append(row.Values, nil)
		} else {
			text := all[start+1 : end]
			row.Values = append(row.Values, &text)
		}
		start = end
	}
	g.rows[all] = row
}

// next tells what was counted since it was last called, in all its rows.
func (g *groups) next() *Counts {
	out := g.tell(maxGroups)
	g.rows, g.bytes = map[string]*CountRow{}, 0
	g.counts.Other, g.counts.Total, g.counts.Lost = 0, 0, 0
	return out
}

// newCounter counts by at most so many fields.
func newCounter(names []string, most int) (*counter, error) {
	c := &counter{groups: newGroups(names)}
	if len(names) == 0 || len(names) > most {
		return nil, BadRequest("parameter by has to name one to %d fields, separated by commas", most)
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
	c.begin()
	for _, f := range c.fields {
		start := len(c.key)
		c.key = append(c.key, 1)
		var ok bool
		if c.key, ok = appendValue(c.key, f, e); !ok {
			c.key = append(c.key[:start], 0)
		}
		c.ends = append(c.ends, len(c.key))
	}
	c.put(e.Times())
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

// tell returns the counts so far, in most rows at most.
func (g *groups) tell(most int) *Counts {
	out := g.counts
	out.Rows = make([]CountRow, 0, len(g.rows))
	for _, row := range g.rows {
		out.Rows = append(out.Rows, *row)
	}
	slices.SortFunc(out.Rows, func(a, b CountRow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), slices.CompareFunc(a.Values, b.Values, compareValues))
	})
	for len(out.Rows) > most {
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

// An AskedCount is a [CountQuestion] that is checked.
type AskedCount struct {
	CountQuestion
	filter  *filter.Program
	counter *counter
}

// ParseCountQuestion checks what was asked for. Errors are those for the client.
func ParseCountQuestion(q Query) (a AskedCount, err error) {
	by := []string{}
	if list := q["by"]; list != "" {
		by = strings.Split(list, ",")
	}
	most := maxBy
	if _, parts := q["parts"]; parts {
		most++ // a hub adds the namespace
	}
	if a.counter, err = newCounter(by, most); err != nil {
		return a, err
	}
	rest := Query{}
	for name, v := range q {
		if name != "by" && name != "parts" {
			rest[name] = v
		}
	}
	of, err := ParseQuestion(PathEvents, rest)
	a.filter = of.Filter
	a.CountQuestion = CountQuestion{Filter: q["filter"], By: by, Limit: of.Limit, Nodes: of.Nodes}
	return a, err
}

func (s *Server) serveCount(w http.ResponseWriter, req *http.Request, q Query) error {
	a, err := ParseCountQuestion(q)
	if err != nil {
		return err
	}
	if err := s.isHere(a.Nodes); err != nil {
		return err
	}
	parts, err := q.Bool("parts", false)
	if err != nil {
		return err
	}
	if parts && a.Limit > 0 {
		return BadRequest("limit is of all that is counted: with parts there is none")
	}
	among := a.filter.Asked()
	for _, name := range a.By {
		// A field asks for its kinds as a condition on it does.
		if f, known := event.Lookup(name); known && f.Kinds() != event.AllKinds {
			among |= a.filter.Kinds() & f.Kinds()
		}
	}
	wanted := a.filter
	if a.Limit == 0 { // or it would not end with the event that it is to end with
		wanted = wanted.Counted(a.By, among)
	}
	stream, err := s.subscribe(req, "events by "+strings.Join(a.By, ","), wanted, among)
	if err != nil {
		return err
	}
	defer stream.close()
	out := NewWriter(w, req, s.cfg.Stall, nil)
	if err := out.Flush(); err != nil {
		return err
	}
	if !parts {
		return s.count(req.Context(), out, stream, a.counter, uint64(a.Limit), func() *Counts { return a.counter.tell(maxRows) })
	}
	// Who puts parts together is to know at once that this one has begun.
	if err := out.Counts(a.counter.next()); err != nil {
		return err
	}
	return s.count(req.Context(), out, stream, a.counter, 0, a.counter.next)
}

// Counts writes counts, and sends them.
func (w *Writer) Counts(c *Counts) error {
	line, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	if err := w.Row(Row{JSON: line}); err != nil {
		return err
	}
	return w.Flush()
}

// count counts until the stream ends, limit events were counted or the client
// has gone, and tells every two seconds.
func (s *Server) count(ctx context.Context, out *Writer, from *stream, c *counter, limit uint64, so func() *Counts) error {
	tell := func(last bool) error {
		counts := so()
		counts.Last = last
		return out.Counts(counts)
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
	return c.lines(ctx, PathCounts, q.values(), q.Begun)
}

func (q CountQuestion) values() url.Values {
	v := nodeValues(q.Nodes)
	v.Set("by", strings.Join(q.By, ","))
	v.Set("watch", "true")
	if q.Filter != "" {
		v.Set("filter", q.Filter)
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}
