package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
)

// PathHistory answers what is kept of the past, below the root of the API;
// PathHistoryPrune takes a part of it away, on the Unix socket only.
const (
	PathHistory      = "/history"
	PathHistoryPrune = "/history/prune"
	// PathHistoryExport answers the same as a file.
	PathHistoryExport = "/history/export"
)

// History is what is kept of the past. Any goroutine may use it.
type History interface {
	// Events yields events that were kept, whole, in the order of time. The first
	// error ends them.
	Events(ctx context.Context, q PastQuestion) iter.Seq2[*event.Event, error]
	// Processes yields those that were alive at a moment, as they were then.
	Processes(ctx context.Context, at time.Time) iter.Seq2[*event.Process, error]
	// Sync returns when everything that was published before it was called is what
	// Events tells of, as far as it is kept; and a number: no row is of events with
	// numbers up to it and of others.
	Sync(ctx context.Context) (cut uint64, err error)
	// Export writes events as one Parquet file and returns how many there are.
	Export(ctx context.Context, w io.Writer, q PastQuestion) (int64, error)
	// Status says what is kept.
	Status() HistoryStatus
	// Prune takes away what is older than a moment, in whole files.
	Prune(ctx context.Context, before time.Time) (Pruned, error)
}

// A PastQuestion is what a [History] is asked for.
type PastQuestion struct {
	Filter *filter.Program
	Kinds  event.KindSet // among which the filter is asked; 0 for all
	// Since is included, Until is not; zero is no bound.
	Since, Until time.Time
	// After and UpTo bound the numbers of events of this agent's present run, which
	// are above After and not above UpTo; 0 is no bound. Events of earlier runs are
	// told too, unless After is given.
	After, UpTo uint64
	// Limit is how many events are told, the last ones where Newest is true; 0 for
	// all. Notices of what is missing are not counted, where anything else is asked for.
	Limit  int
	Newest bool
}

// HistoryStatus is what is kept of the past. Its JSON is part of the API.
type HistoryStatus struct {
	Dir string `json:"dir"`
	// Filter is what is kept, Kinds of which kinds that can be.
	Filter string   `json:"filter"`
	Kinds  []string `json:"kinds"`
	// Error says what the history cannot do at present and why, the worst of it: keep
	// anything, or see that the disk has it, or seal, or remove what is too old. What
	// was kept can be asked for all the same, where the directory can be read.
	Error string `json:"error,omitempty"`

	// Bytes are on disk. What is above MaxBytes, or older than MaxAge, goes.
	Bytes    int64         `json:"bytes"`
	MaxBytes int64         `json:"max_bytes"`
	MaxAge   time.Duration `json:"max_age_ns"`
	// Oldest and Newest are times of events; absent where nothing is kept.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	// Events were kept since the agent started, in Rows: those that are counted with
	// others like them have one row together.
	Events uint64 `json:"events"`
	Rows   uint64 `json:"rows"`
	// RawBytes is what the rows of sealed segments take uncompressed; SealedBytes
	// what these segments have on disk.
	RawBytes    int64 `json:"raw_bytes"`
	SealedBytes int64 `json:"sealed_bytes"`
	// Segments are by kind; what is not sealed yet is of kind active.
	Segments []HistorySegments `json:"segments"`
	// Lost counts events that were to be kept and were not, since the agent
	// started; Torn those bytes that the end of a former one cost, Broken segments
	// that cannot be read, or not all of them: as far as is known, for most say so when
	// they are asked.
	Lost   uint64 `json:"lost"`
	Torn   int64  `json:"torn_bytes"`
	Broken int    `json:"broken_segments"`
	// Archive is absent where the history is copied nowhere.
	Archive *HistoryArchive `json:"archive,omitempty"`
	// Gaps are the times in which nothing was kept since Oldest, in their order: the
	// last thousand, and MoreGaps counts those before. Only [PathHistory] has them,
	// where they could be read.
	Gaps     []HistoryGap `json:"gaps,omitempty"`
	MoreGaps int          `json:"more_gaps,omitempty"`
}

// A HistoryGap is a time of which a history knows nothing: no agent ran, or none that
// could write it.
type HistoryGap struct {
	Node string    `json:"k8s.node.name,omitempty"` // in the answer of a hub
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// gapOf returns the gap that an event tells of.
func gapOf(e *event.Event) (HistoryGap, bool) {
	l, ok := e.Data.(*event.Lost)
	if !ok || l.Lane != "agent" {
		return HistoryGap{}, false
	}
	return HistoryGap{From: e.Time, To: l.Until}, true
}

// mostGaps is how many gaps an answer has: an agent that cannot start is started
// again for as long as somebody likes.
const mostGaps = 1000

// lastGaps returns the last gaps of a list, and of how many there is no more than a
// number, which has more in it already.
func lastGaps(list []HistoryGap, more int) ([]HistoryGap, int) {
	if over := len(list) - mostGaps; over > 0 {
		return slices.Delete(list, 0, over), more + over
	}
	return list, more
}

// gaps returns the last gaps of the history, and how many there were before.
func (s *Server) gaps(ctx context.Context) (list []HistoryGap, more int, err error) {
	told, err := filter.Compile("lost.lane = agent")
	if err != nil {
		return nil, 0, err
	}
	err = each(s.synced(ctx, PastQuestion{Filter: told, Kinds: event.Kinds(event.KindLost)}), func(e *event.Event) error {
		if g, ok := gapOf(e); ok {
			list, more = appendGap(list, more, g)
		}
		return nil
	})
	list, more = lastGaps(list, more)
	return list, more, err
}

// appendGap appends a gap to a list that does not become much longer than an answer's.
func appendGap(list []HistoryGap, more int, g HistoryGap) ([]HistoryGap, int) {
	if len(list) >= 2*mostGaps {
		list, more = lastGaps(list, more)
	}
	return append(list, g), more
}

// HistoryArchive is what has become of the sealed segments elsewhere.
type HistoryArchive struct {
	// URL is where they are copied to.
	URL string `json:"url"`
	// Segments, and their Bytes, are kept here and there; Copied, and CopiedBytes,
	// were copied since the agent started, at last at LastCopy.
	Segments    int       `json:"segments"`
	Bytes       int64     `json:"bytes"`
	Copied      int       `json:"copied_segments"`
	CopiedBytes int64     `json:"copied_bytes"`
	LastCopy    time.Time `json:"last_copy,omitzero"`
	// Waiting are to be copied yet; the last event of the oldest of them was at
	// WaitingSince.
	Waiting      int       `json:"waiting_segments"`
	WaitingBytes int64     `json:"waiting_bytes"`
	WaitingSince time.Time `json:"waiting_since,omitzero"`
	// Error says why none can be copied at present, since FailingSince.
	Error        string    `json:"error,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	// GivenUp were removed since the agent started, for want of room, though they
	// were not copied.
	GivenUp      int   `json:"given_up_segments"`
	GivenUpBytes int64 `json:"given_up_bytes"`
}

// HistorySegments sums up the segments of one kind.
type HistorySegments struct {
	Kind     string    `json:"kind"`
	Segments int       `json:"segments"`
	Rows     uint64    `json:"rows"`
	Bytes    int64     `json:"bytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
	Newest   time.Time `json:"newest,omitzero"`
}

// Pruned is what was taken away.
type Pruned struct {
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
	// Before is the moment that was asked for, Oldest the time of the oldest event
	// that is left: segments that reach beyond the moment stay whole.
	Before time.Time `json:"before"`
	Oldest time.Time `json:"oldest,omitzero"`
}

// errNoHistory is why there is no past to ask for.
func errNoHistory() *Error {
	return Unavailable("this agent keeps no history: it was told not to (history in its configuration, or --history)")
}

// kept checks that there is a past to ask for, and that events of some kinds can
// be in it.
func (s *Server) kept(wanted event.KindSet) error {
	if s.cfg.History == nil {
		return errNoHistory()
	}
	st := s.cfg.History.Status()
	var kinds event.KindSet
	for _, name := range st.Kinds {
		if k, ok := event.LookupKind(name); ok {
			kinds |= event.Kinds(k)
		}
	}
	if wanted&kinds == 0 && len(st.Kinds) > 0 {
		e := BadRequest("the history has no events of kind %s: it keeps %s", wanted, strings.Join(st.Kinds, ", "))
		e.Hint = "what it keeps is history: filter in the agent's configuration"
		return e
	}
	return nil
}

func (s *Server) serveHistory(w http.ResponseWriter, req *http.Request, q Query) error {
	if err := s.here(q); err != nil {
		return err
	}
	if s.cfg.History == nil {
		return errNoHistory()
	}
	st := s.cfg.History.Status()
	gaps, more, err := s.gaps(req.Context())
	switch {
	case err == nil:
		st.Gaps, st.MoreGaps = gaps, more
	case req.Context().Err() != nil:
		return &clientGone{err}
	} // otherwise Error says why nothing can be read
	return WriteJSON(w, st)
}

// ParquetType is the media type of what is exported.
const ParquetType = "application/vnd.apache.parquet"

// serveExport writes what is kept as one Parquet file. What goes wrong before
// anything is written is an error for the client; afterwards the connection ends.
func (s *Server) serveExport(w http.ResponseWriter, req *http.Request, q Query) error {
	prog, err := q.Filter()
	if err != nil {
		return err
	}
	since, until, err := q.Span(time.Now())
	if err != nil {
		return err
	}
	if err := s.kept(prog.Kinds()); err != nil {
		return err
	}
	if _, err := s.cfg.History.Sync(req.Context()); err != nil {
		return Unavailable("the history cannot be read: %v", err)
	}
	out := &exportWriter{w: w, ctl: http.NewResponseController(w), stall: s.cfg.Stall}
	_, err = s.cfg.History.Export(req.Context(), out, PastQuestion{Filter: prog, Kinds: prog.Kinds(), Since: since, Until: until})
	if err != nil {
		return s.pastFailed(req.Context(), err, out.begun)
	}
	return nil
}

// exportWriter begins the answer with the first bytes, and disconnects who takes
// none.
type exportWriter struct {
	w     http.ResponseWriter
	ctl   *http.ResponseController
	stall time.Duration
	begun bool
}

func (e *exportWriter) Write(b []byte) (int, error) {
	if !e.begun {
		e.begun = true
		e.w.Header().Set("Content-Type", ParquetType)
	}
	if err := e.ctl.SetWriteDeadline(time.Now().Add(e.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, &clientGone{err}
	}
	return e.w.Write(b)
}

// A prune is what a client wants taken away.
type prune struct {
	Before time.Time `json:"before"`
}

const pruneRoute = "/v1" + PathHistoryPrune

// pruner answers orders to take history away, and leaves everything else to next.
func (s *Server) pruner(next http.Handler) *orders {
	return &orders{s: s, next: next, route: pruneRoute, only: "only root takes history away", carry: s.prune}
}

func (s *Server) prune(ctx context.Context, body []byte) (any, error) {
	if s.cfg.History == nil {
		return nil, errNoHistory()
	}
	var asked prune
	if err := json.Unmarshal(body, &asked); err != nil || asked.Before.IsZero() {
		return nil, BadRequest(`want {"before": TIME} with a time in RFC 3339`)
	}
	return s.cfg.History.Prune(ctx, asked.Before)
}

// History returns what the agent keeps of the past, one JSON object: a
// [HistoryStatus].
func (c *Client) History(ctx context.Context) ([]byte, error) {
	return c.object(ctx, PathHistory, nil)
}

// ExportHistory returns the events of a question that the agent has kept as one
// Parquet file, which who asks closes.
func (c *Client) ExportHistory(ctx context.Context, q Question) (io.ReadCloser, error) {
	v := url.Values{}
	set(v, "filter", q.Filter)
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	resp, err := c.get(ctx, PathHistoryExport, v, ParquetType)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// PruneHistory takes away what is older than a moment, in whole files. The agent
// must be on a Unix socket, and who asks root.
func (c *Client) PruneHistory(ctx context.Context, before time.Time) (Pruned, error) {
	var done Pruned
	err := c.order(ctx, PathHistoryPrune, prune{before}, &done)
	return done, err
}
