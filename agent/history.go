package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
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
const defaultHistory = "evt.kind in (exec, exit, connection, dns, credentials, namespace, alert, reaction, lost)"

// historyQueue is how many events wait for the history: as much as comes while
// its goroutine is not scheduled for a while.
const historyQueue = 1 << 15

// A history takes what is kept from the pipeline to the store, and answers for it.
type history struct {
	prog   *filter.Program
	kinds  event.KindSet
	cfg    HistoryConfig
	node   string
	by     string // version of Warren
	living func() iter.Seq[*event.Process]
	spine  *pipeline.Pipeline
	log    *slog.Logger
	kept   atomic.Pointer[keeping] // nil while the directory cannot be used

	mu     sync.Mutex
	wrong  error         // why it cannot
	taken  uint64        // of what the subscription has told
	caught chan struct{} // closed when taken has grown, and somebody waits; or nil
	ended  bool
}

// A keeping is where events are kept, and where they come from.
type keeping struct {
	store *store.Store
	away  *archive.Archive // nil where nothing is copied
	sub   *pipeline.Subscription
	begun chan struct{} // closed when it is known since when nothing was kept
}

// How soon a directory that cannot be used is tried again: after the first, and twice
// that each time, up to the second.
const (
	historyRetry    = time.Second
	maxHistoryRetry = time.Minute
)

// openHistory opens the store; nil where nothing is to be kept. That the store
// cannot be used is told, and leaves the agent to what happens: run tries again.
func openHistory(cfg Config, spine *pipeline.Pipeline, living func() iter.Seq[*event.Process], log *slog.Logger) (*history, error) {
	if cfg.History.Off {
		return nil, nil
	}
	h := &history{cfg: cfg.History, node: cfg.Node, by: cfg.Version, living: living, spine: spine, log: log}
	var err error
	if h.prog, err = filter.Compile(cfg.History.Filter); err != nil {
		return nil, fmt.Errorf("history: filter: %w", err)
	}
	h.kinds = h.prog.Asked() &^ event.StateKinds
	if err := h.open(); err != nil {
		h.failed(err)
	}
	return h, nil
}

// open opens the store and what copies its files, and asks the pipeline for what is
// kept.
func (h *history) open() (err error) {
	k := &keeping{begun: make(chan struct{})}
	sc := store.Config{
		Dir: h.cfg.Dir, Node: h.node, Version: h.by, MaxBytes: h.cfg.Size, MaxAge: h.cfg.Age,
		SegmentBytes: h.cfg.SegmentSize, SegmentAge: h.cfg.SegmentAge, Living: h.living,
	}
	if h.cfg.Archive.On() {
		// The store asks for none of these before it runs.
		sc.Held, sc.HeldBytes = func(name string) bool { return k.away.Held(name) }, h.cfg.Archive.Spare
		sc.Sealed = func() { k.away.Wake() }
	}
	if k.store, err = store.Open(sc, h.log); err != nil {
		return err
	}
	if h.cfg.Archive.On() {
		k.away, err = h.openArchive(k.store)
	}
	if err == nil {
		o := pipeline.Options{Name: "history", Filter: h.prog.String(), Kinds: h.kinds, Interest: h.prog.Interest().Among(h.kinds), Match: h.prog.Match, Queue: historyQueue}
		k.sub, err = h.spine.Subscribe(o)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("history: %w", err), k.store.Close())
	}
	h.kept.Store(k)
	return nil
}

// failed says why nothing is kept, once for each reason.
func (h *history) failed(err error) {
	h.mu.Lock()
	known := h.wrong != nil && h.wrong.Error() == err.Error()
	h.wrong = err
	h.mu.Unlock()
	if !known {
		h.log.Warn("nothing is kept for later", "err", err)
	}
}

// store returns the store, or why there is none.
func (h *history) store() (*store.Store, error) {
	if k := h.kept.Load(); k != nil {
		return k.store, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return nil, h.wrong
}

// openArchive opens what copies the store's files.
func (h *history) openArchive(s *store.Store) (*archive.Archive, error) {
	return archive.Open(archive.Config{
		Dir: h.cfg.Dir, Target: h.cfg.Archive.Target, Credentials: h.cfg.Archive.Credentials,
		Segments: func() []archive.Segment {
			sealed := s.Segments()
			list := make([]archive.Segment, len(sealed))
			for i, s := range sealed {
				list[i] = archive.Segment{Name: s.Name, Size: s.Size, Last: s.Last}
			}
			return list
		},
	}, h.log)
}

// retry opens the store, however long that takes; nil when ctx ends before.
func (h *history) retry(ctx context.Context) *keeping {
	for wait, began := historyRetry, time.Now(); ; wait = min(2*wait, maxHistoryRetry) {
		if k := h.kept.Load(); k != nil {
			return k
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err := h.open(); err != nil {
			h.failed(err)
			continue
		}
		h.log.Info("what happens is kept from now on", "dir", h.cfg.Dir, "nothingFor", time.Since(began).Round(time.Second))
	}
}

// run keeps events until the pipeline ends, which ctx makes it do, and then sees
// to it that all are on the disk.
func (h *history) run(ctx context.Context) error {
	k := h.retry(ctx)
	if k == nil {
		return nil
	}
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() {
		k.store.Ending() // sensors stop now
		time.AfterFunc(endGrace, cancel)
	})
	writing, copying := make(chan error, 1), make(chan error, 1)
	storing, stop := context.WithCancel(context.WithoutCancel(ctx))
	copied, leave := context.WithCancel(ctx)
	go func() { writing <- k.store.Run(storing) }()
	go func() {
		defer close(k.begun)
		select {
		case <-h.spine.Ready():
			k.store.Recording()
		case <-storing.Done():
		}
	}()
	go func() {
		var err error
		if k.away != nil {
			err = k.away.Run(copied)
		}
		copying <- err
	}()
	err := h.keep(over, k)
	stop()
	leave()
	<-k.begun
	return errors.Join(err, <-writing, <-copying, k.store.Close())
}

// settled writes down which processes there are, once they have been read.
func (h *history) settled() {
	if h == nil {
		return
	}
	if k := h.kept.Load(); k != nil {
		k.store.RememberLiving()
	}
}

func (h *history) keep(ctx context.Context, k *keeping) error {
	defer h.end()
	for {
		e, err := k.sub.Next(ctx)
		switch {
		case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		k.store.Append(e)
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
func (h *history) catch(ctx context.Context, k *keeping) error {
	mark := k.sub.Mark()
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
	s, err := h.store()
	if err != nil {
		return 0, err
	}
	k := h.kept.Load()
	select {
	case <-k.begun:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := h.catch(ctx, k); err != nil {
		return 0, err
	}
	return s.Sync(ctx, 0)
}

// Events implements [api.History]. What was lost is told whatever the filter is.
func (h *history) Events(ctx context.Context, q api.PastQuestion) iter.Seq2[*event.Event, error] {
	s, sq, err := h.query(q)
	if err == nil {
		return s.Query(ctx, sq)
	}
	return func(yield func(*event.Event, error) bool) { yield(nil, err) }
}

// query is a question in the words of the store.
func (h *history) query(q api.PastQuestion) (*store.Store, store.Query, error) {
	sq := store.Query{Filter: q.Filter, Since: q.Since, Until: q.Until, Kinds: q.Kinds, UpTo: q.UpTo, After: q.After, Limit: q.Limit, Newest: q.Newest}
	s, err := h.store()
	alone := event.Kinds(event.KindLost) // who asks for nothing else says which
	if err == nil && q.Filter != nil && q.Kinds != alone && q.Kinds.Has(event.KindLost) && q.Filter.String() != "" {
		sq.Filter, err = filter.Compile("(" + q.Filter.String() + ") or evt.kind = lost")
	}
	return s, sq, err
}

// Hold implements [api.History].
func (h *history) Hold() func() {
	s, err := h.store()
	if err != nil {
		return func() {}
	}
	return s.Hold()
}

// Processes implements [api.History].
func (h *history) Processes(ctx context.Context, at time.Time) iter.Seq2[*event.Process, error] {
	s, err := h.store()
	if err != nil {
		return func(yield func(*event.Process, error) bool) { yield(nil, err) }
	}
	return func(yield func(*event.Process, error) bool) {
		for p, err := range s.Processes(ctx, at) {
			if none := (*store.NoTableError)(nil); errors.As(err, &none) {
				unknown := api.NotFound("which processes lived at %s is not known", at.Format(time.RFC3339Nano))
				unknown.Hint = none.Error()
				err = unknown
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

// Export implements [api.History].
func (h *history) Export(ctx context.Context, w io.Writer, q api.PastQuestion) (int64, error) {
	s, sq, err := h.query(q)
	if err != nil {
		return 0, err
	}
	return s.Export(ctx, w, sq)
}

// Prune implements [api.History].
func (h *history) Prune(ctx context.Context, before time.Time) (api.Pruned, error) {
	s, err := h.store()
	if err != nil {
		return api.Pruned{}, err
	}
	p, err := s.Prune(ctx, before)
	return api.Pruned{Segments: p.Segments, Bytes: p.Bytes, Before: before, Oldest: s.Status().First}, err
}

// Status implements [api.History].
func (h *history) Status() api.HistoryStatus {
	st := api.HistoryStatus{
		Dir: h.cfg.Dir, Filter: h.prog.String(), Kinds: api.KindNames(h.kinds), MaxBytes: h.cfg.Size, MaxAge: h.cfg.Age, Segments: []api.HistorySegments{},
	}
	open, err := h.store()
	if err != nil {
		st.Error = err.Error()
		return st
	}
	s := open.Status()
	st.Bytes, st.Oldest, st.Newest, st.Events, st.Rows, st.Lost = s.Size, s.First, s.Last, s.Events, s.Rows, s.Lost
	st.Torn, st.Broken = s.Torn.Bytes+s.Torn.DamagedBytes, int(s.Torn.Unreadable+s.Torn.DamagedLogs)+s.Unreadable
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
	if away := h.kept.Load().away; away != nil {
		a := away.Status()
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
