package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"time"

	"warren/api"
	"warren/archive"
	"warren/event"
	"warren/filter"
	"warren/pipeline"
	"warren/store"
)

// HistoryConfig is what is kept of the past, and where.
type HistoryConfig struct {
	Off bool
	// Dir is the directory; "" stands for history below that of the state.
	Dir string
	// Size and Age bound what is kept; 0 for the defaults of [store.Config].
	Size int64
	Age  time.Duration
	// SegmentSize and SegmentAge say when what was written becomes a file for others;
	// 0 for the defaults of [store.Config].
	SegmentSize int64
	SegmentAge  time.Duration
	// Filter picks what is kept; "" stands for defaultHistory.
	Filter string
	// Archive is where these files are copied to.
	Archive ArchiveConfig
}

// ArchiveConfig is where the history is copied to.
type ArchiveConfig struct {
	// Target is the zero value for nowhere.
	Target archive.Target
	// Credentials is a file with the keys of a bucket: see [archive.Config].
	Credentials string
	// Spare is how much the history may take beyond its size while it waits to be
	// copied.
	Spare int64
}

// On says whether the history is copied at all.
func (c *ArchiveConfig) On() bool { return c.Target != archive.Target{} }

// defaultHistory is what is kept unless somebody says otherwise: what has happened
// to processes and whom they talked to, and what of that was lost.
const defaultHistory = "evt.kind in (exec, exit, connection, dns, credentials, namespace, alert, lost)"

const (
	// historyQueue is how many events wait for the history: as much as comes while
	// its goroutine is not scheduled for a while.
	historyQueue = 1 << 15
	// historyGrace is how long what is on the way when the agent ends may take.
	historyGrace = 5 * time.Second
)

// A history takes what is kept from the pipeline to the store, and answers for it.
type history struct {
	prog  *filter.Program
	kinds event.KindSet
	cfg   HistoryConfig
	store *store.Store     // nil where the directory cannot be used,
	wrong error            // and then why
	away  *archive.Archive // nil where nothing is copied
	log   *slog.Logger
	sub   *pipeline.Subscription

	mu     sync.Mutex
	taken  uint64        // of what the subscription has told
	caught chan struct{} // closed when taken has grown, and somebody waits; or nil
	ended  bool
}

// openHistory opens the store; nil where nothing is to be kept. That the store
// cannot be used is told, and leaves the agent to what happens.
func openHistory(cfg Config, spine *pipeline.Pipeline, living func() iter.Seq[*event.Process], log *slog.Logger) (*history, error) {
	if cfg.History.Off {
		return nil, nil
	}
	h := &history{cfg: cfg.History, log: log}
	var err error
	if h.prog, err = filter.Compile(cfg.History.Filter); err != nil {
		return nil, fmt.Errorf("history: filter: %w", err)
	}
	h.kinds = h.prog.Asked() &^ event.StateKinds
	sc := store.Config{
		Dir: cfg.History.Dir, Node: cfg.Node, Version: cfg.Version, MaxBytes: cfg.History.Size, MaxAge: cfg.History.Age,
		SegmentBytes: cfg.History.SegmentSize, SegmentAge: cfg.History.SegmentAge, Living: living,
	}
	if cfg.History.Archive.On() {
		// The store asks for none of these before it runs.
		sc.Held, sc.HeldBytes = func(name string) bool { return h.away.Held(name) }, cfg.History.Archive.Spare
		sc.Sealed = func() { h.away.Wake() }
	}
	if h.store, h.wrong = store.Open(sc, log); h.store == nil {
		log.Warn("nothing is kept for later", "err", h.wrong)
		return h, nil
	}
	if cfg.History.Archive.On() {
		if h.away, err = h.openArchive(); err != nil {
			return nil, errors.Join(fmt.Errorf("history: %w", err), h.store.Close())
		}
	}
	return h, h.subscribe(spine)
}

// openArchive opens what copies the store's files.
func (h *history) openArchive() (*archive.Archive, error) {
	return archive.Open(archive.Config{
		Dir: h.cfg.Dir, Target: h.cfg.Archive.Target, Credentials: h.cfg.Archive.Credentials,
		Segments: func() []archive.Segment {
			sealed := h.store.Segments()
			list := make([]archive.Segment, len(sealed))
			for i, s := range sealed {
				list[i] = archive.Segment{Name: s.Name, Size: s.Size, Last: s.Last}
			}
			return list
		},
	}, h.log)
}

// archives reports whether the history is copied.
func (h *history) archives() bool { return h.keeps() && h.away != nil }

// keeps reports whether there is a store to keep something in.
func (h *history) keeps() bool { return h != nil && h.store != nil }

// subscribe asks the pipeline for what is kept.
func (h *history) subscribe(spine *pipeline.Pipeline) (err error) {
	o := pipeline.Options{Name: "history", Filter: h.prog.String(), Kinds: h.kinds, Interest: h.prog.Interest().Among(h.kinds), Match: h.prog.Match, Queue: historyQueue}
	h.sub, err = spine.Subscribe(o)
	return err
}

// run keeps events until the pipeline ends, which ctx makes it do, and then sees
// to it that all are on the disk.
func (h *history) run(ctx context.Context) error {
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(historyGrace, cancel) })
	writing := make(chan error, 1)
	storing, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() { writing <- h.store.Run(storing) }()
	err := h.keep(over)
	stop()
	return errors.Join(err, <-writing, h.store.Close())
}

// settled writes down which processes there are, once they have been read.
func (h *history) settled() {
	if h.keeps() {
		h.store.RememberLiving()
	}
}

func (h *history) keep(ctx context.Context) error {
	defer h.end()
	for {
		e, err := h.sub.Next(ctx)
		switch {
		case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		h.store.Append(e)
		h.mu.Lock()
		h.taken++
		if h.caught != nil {
			close(h.caught)
			h.caught = nil
		}
		h.mu.Unlock()
	}
}

func (h *history) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	if h.caught != nil {
		close(h.caught)
		h.caught = nil
	}
}

// catch waits until the store has had everything that was published so far.
func (h *history) catch(ctx context.Context) error {
	mark := h.sub.Mark()
	for {
		h.mu.Lock()
		if h.taken >= mark || h.ended {
			h.mu.Unlock()
			return nil
		}
		if h.caught == nil {
			h.caught = make(chan struct{})
		}
		caught := h.caught
		h.mu.Unlock()
		select {
		case <-caught:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// past answers questions about the past; nil where nothing is kept.
func (h *history) past() api.History {
	if h == nil {
		return nil
	}
	return h
}

var _ api.History = (*history)(nil)

// Sync implements [api.History].
func (h *history) Sync(ctx context.Context) (uint64, error) {
	if h.store == nil {
		return 0, h.wrong
	}
	if err := h.catch(ctx); err != nil {
		return 0, err
	}
	return h.store.Sync(ctx, 0)
}

// Events implements [api.History]. What was lost is told whatever the filter is.
func (h *history) Events(ctx context.Context, q api.PastQuestion) iter.Seq2[*event.Event, error] {
	sq, err := h.query(q)
	if err == nil {
		return h.store.Query(ctx, sq)
	}
	return func(yield func(*event.Event, error) bool) { yield(nil, err) }
}

// query is a question in the words of the store.
func (h *history) query(q api.PastQuestion) (store.Query, error) {
	sq := store.Query{Filter: q.Filter, Since: q.Since, Until: q.Until, Kinds: q.Kinds, UpTo: q.UpTo, After: q.After, Limit: q.Limit, Newest: q.Newest}
	if h.store == nil {
		return sq, h.wrong
	}
	if q.Filter != nil && q.Kinds.Has(event.KindLost) && q.Filter.String() != "" {
		var err error
		sq.Filter, err = filter.Compile("(" + q.Filter.String() + ") or evt.kind = lost")
		return sq, err
	}
	return sq, nil
}

// Hold implements [api.History].
func (h *history) Hold() func() {
	if h.store == nil {
		return func() {}
	}
	return h.store.Hold()
}

// Processes implements [api.History].
func (h *history) Processes(ctx context.Context, at time.Time) iter.Seq2[*event.Process, error] {
	if h.store == nil {
		return func(yield func(*event.Process, error) bool) { yield(nil, h.wrong) }
	}
	return h.store.Processes(ctx, at)
}

// Export implements [api.History].
func (h *history) Export(ctx context.Context, w io.Writer, q api.PastQuestion) (int64, error) {
	if h.store == nil {
		return 0, h.wrong
	}
	sq, err := h.query(q)
	if err != nil {
		return 0, err
	}
	return h.store.Export(ctx, w, sq)
}

// Prune implements [api.History].
func (h *history) Prune(ctx context.Context, before time.Time) (api.Pruned, error) {
	if h.store == nil {
		return api.Pruned{}, h.wrong
	}
	p, err := h.store.Prune(ctx, before)
	return api.Pruned{Segments: p.Segments, Bytes: p.Bytes, Before: before, Oldest: h.store.Status().First}, err
}

// Status implements [api.History].
func (h *history) Status() api.HistoryStatus {
	st := api.HistoryStatus{
		Dir: h.cfg.Dir, Filter: h.prog.String(), Kinds: api.KindNames(h.kinds), MaxBytes: h.cfg.Size, MaxAge: h.cfg.Age, Segments: []api.HistorySegments{},
	}
	if h.store == nil {
		st.Error = h.wrong.Error()
		return st
	}
	s := h.store.Status()
	st.Bytes, st.Oldest, st.Newest, st.Events, st.Rows, st.Lost = s.Size, s.First, s.Last, s.Events, s.Rows, s.Lost
	st.Torn, st.Broken = s.Torn.Bytes+s.Torn.DamagedBytes, int(s.Torn.Unreadable)+s.Unreadable
	if s.Logs > 0 {
		st.Segments = append(st.Segments, api.HistorySegments{Kind: "active", Segments: s.Logs, Bytes: s.LogBytes})
	}
	for _, k := range s.Kinds {
		st.Segments = append(st.Segments, api.HistorySegments{Kind: k.Kind.String(), Segments: k.Segments, Rows: uint64(k.Rows), Bytes: k.Bytes, Oldest: k.First, Newest: k.Last})
		st.RawBytes += k.Plain
		st.SealedBytes += k.Bytes
	}
	if s.Failure != nil {
		st.Error = s.Failure.What
	}
	if h.archives() {
		a := h.away.Status()
		st.Archive = &api.HistoryArchive{
			URL: a.Target, Segments: a.Archived, Bytes: a.ArchivedBytes, Copied: a.Copied, CopiedBytes: a.CopiedBytes, LastCopy: a.LastCopy,
			Waiting: a.Waiting, WaitingBytes: a.WaitingBytes, WaitingSince: a.WaitingSince, Error: a.Error, FailingSince: a.FailingSince,
			GivenUp: s.GivenUp, GivenUpBytes: s.GivenUpBytes,
		}
	}
	return st
}

// state is what status tells of the history; nil where nothing is kept.
func (h *history) state() *api.HistoryStatus {
	if h == nil {
		return nil
	}
	st := h.Status()
	return &st
}
