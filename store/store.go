// Package store is the history of one machine: every event that it is given is
// kept on disk, and can be asked for later.
//
// Events come in by [Store.Append], which never waits. They become columns, and
// are written to a log, the active segment, at least four times a second; once a
// second, and at once after what is critical, the disk is told to keep it. So
// nothing that is older than a second is lost when the program is killed. A log
// that is large or old enough is sealed: docs/history.md has the layout.
//
// A disk that fails is told of once, and takes nothing away that was safe: what
// does not fit meanwhile is counted, and told by an event when there is room again.
//
// Append belongs to one goroutine and Run to another; everything else can be
// called by any number of them.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"warren/event"
)

// A Config says where the history is, and how much of it. The zero value of each
// member stands for what its comment says.
type Config struct {
	Dir     string // must be given
	Node    string // name of the machine in names of files; the host's
	Version string // of Warren
	// MaxBytes and MaxAge say what is kept: 1 GiB, and 7 days.
	MaxBytes int64
	MaxAge   time.Duration
	// SegmentBytes and SegmentAge say when a log is sealed: 64 MiB, an hour.
	SegmentBytes int64
	SegmentAge   time.Duration
	// Living returns the snapshots of the processes that live now: asked at the
	// begin of each segment. nil: what events say must do.
	Living func() iter.Seq[*event.Process]
	// Sealed is called after logs were sealed, and must not wait.
	Sealed func()
	// Held reports whether somebody still needs a segment, by name; retention leaves
	// those until they take HeldBytes more than MaxBytes. It must not wait.
	Held      func(name string) bool
	HeldBytes int64
	// Now is the wall clock.
	Now func() time.Time

	files    files
	sealStep sealStep
	// listed is called when a query knows which files it opens; tests do something then.
	listed func()
	// uptime goes on whatever the wall clock is set to.
	uptime func() time.Duration
	// maxPending is how many bytes wait for a disk that does not take them.
	maxPending int64
}

const (
	writeEvery = 250 * time.Millisecond
	syncEvery  = time.Second
	// criticalEvery is how soon after a critical event's sync the next one may be.
	criticalEvery = 50 * time.Millisecond
	// maxBatch is how many events are encoded at once when they come fast, at most
	// maxRows, and maxBuffered how many wait at most. The more there are in a batch, the
	// fewer of its texts and addresses come for the first time.
	maxBatch    = 16 << 10
	maxBuffered = 48 << 10
	// maxProcesses is how many processes are encoded at once: they are long.
	maxProcesses = 4 << 10
	// maxFrames bounds what is known of a segment in memory.
	maxFrames = 20000
	// stepBack is by how much the clock must fall to be called set back: events of
	// several rings and CPUs are not quite in order.
	stepBack = 5 * time.Second
)

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("history: no directory is given")
	}
	if c.Node == "" {
		c.Node = event.Hostname()
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 1 << 30
	}
	if c.MaxAge <= 0 {
		c.MaxAge = 7 * 24 * time.Hour
	}
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = min(64<<20, c.MaxBytes/4)
	}
	if c.SegmentAge <= 0 {
		c.SegmentAge = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.uptime == nil {
		c.uptime = uptime
	}
	if c.files == nil {
		c.files = disk{}
	}
	if c.maxPending <= 0 {
		c.maxPending = 8 << 20
	}
	return c, nil
}

// A Store is the history.
type Store struct {
	cfg  Config
	log  *slog.Logger
	lock io.Closer
	host *event.Host
	mark mark

	in intake
	// To see clocks that are set back, Append's: by how much evt.time of the latest event
	// was more than evt.ktime, 0 for unknown.
	lastAhead int64
	// wake rouses Run before its time; urgent asks for a sync besides.
	wake   chan struct{}
	synced chan struct{} // asks the goroutine that syncs

	// encoding makes frames of events, one goroutine at a time.
	encoding sync.Mutex
	spare    []*event.Event // memory of todo
	todo     []*event.Event
	build    builder
	encode   encoder
	body     []byte
	room     []byte // for what is packed
	snaps    snapshots
	refs     refs
	batches  uint64 // that were made
	collapse collapser
	byKind   [1 << 8][]*event.Event // by event.Kind
	order    []event.Kind
	// writing writes frames, one goroutine at a time.
	writing sync.Mutex

	mu       sync.Mutex
	segments []*segment // logs, oldest first; the last one is active
	sealed   sealedSet
	nextSeq  uint64
	state    state

	// opening lets queries open all files that there are at one moment: none is removed
	// meanwhile.
	opening sync.RWMutex

	// sealing seals and removes, one goroutine at a time; rotated asks for it.
	sealing sync.Mutex
	aged    ageClock
	rotated chan struct{}
}

// state is what Status tells. Store.mu guards it.
type state struct {
	began      time.Time
	events     uint64
	rows       uint64
	lost       uint64
	torn       Torn
	clockSteps uint64
	failing    map[string]*Failure // what the disk does not do now
	failures   uint64
	foreign    int // files that are not the history's
	unreadable int // sealed files that cannot be read

	givenUp      int // segments that somebody still needed
	givenUpBytes int64
	pruned       int
}

// Open takes a directory for the history, which it makes if need be, and recovers
// what is in it. The error names the directory and the reason; it is a
// *LockedError where another process has it.
func Open(cfg Config, log *slog.Logger) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "active"), 0o700); err != nil {
		return nil, fmt.Errorf("history %s: %w", cfg.Dir, err)
	}
	held, err := lock(cfg.Dir)
	if err != nil {
		if _, ok := errors.AsType[*LockedError](err); ok {
			return nil, err
		}
		return nil, fmt.Errorf("history %s: %w", cfg.Dir, err)
	}
	s := &Store{
		cfg: cfg, log: log, lock: held, host: event.ThisHost(),
		wake: make(chan struct{}, 1), synced: make(chan struct{}, 1), rotated: make(chan struct{}, 1),
	}
	s.in.most = maxBuffered
	s.state.began = cfg.Now()
	s.mark.path = filepath.Join(cfg.Dir, markName)
	if err := s.mark.read(); err != nil {
		log.Warn("history: since when nothing was kept is not known", "err", err)
	}
	s.snaps.host = s.host
	s.snaps.begin()
	err = s.recover()
	if err == nil {
		err = s.recoverSealed()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("history %s: %w", cfg.Dir, err), held.Close())
	}
	// A disk that is full now may have room later: the store works without.
	if err := s.beginSegment(); err != nil {
		s.failed(dutyBegin, err)
	}
	return s, nil
}

// recover reads the logs that an earlier run left.
func (s *Store) recover() error {
	paths, err := leftovers(s.cfg.Dir)
	if err != nil {
		return err
	}
	for _, path := range paths {
		g, found, err := recoverSegment(path, s.cfg.files)
		if err != nil {
			// What cannot be read is left as it is, for somebody to look at.
			s.log.Warn("history: a segment could not be recovered", "path", path, "err", err)
			s.state.torn.Unreadable++
			continue
		}
		t := &s.state.torn
		t.Bytes += found.tornBytes
		if found.tornBytes > 0 {
			t.Frames++
		}
		t.DamagedBytes += found.badBytes
		t.DamagedFrames += found.badFrames
		if found.badFrames > 0 {
			t.DamagedLogs++
			g.damaged = true
		}
		if found.tornBytes > 0 || found.badFrames > 0 {
			s.log.Warn("history: a segment was damaged", "path", path, "tornBytes", found.tornBytes, "damagedFrames", found.badFrames, "damagedBytes", found.badBytes)
		}
		for i := range found.frames {
			if f := &found.frames[i]; f.kind == event.KindProcess {
				s.snaps.last = max(s.snaps.last, int64(f.maxSeq))
			}
		}
		s.nextSeq = max(s.nextSeq, g.seq+1)
		s.segments = append(s.segments, g)
	}
	return nil
}

// Close writes what waits and gives the directory back. Run must have ended.
func (s *Store) Close() error {
	now := s.cfg.Now()
	_, all := s.flush(false)
	err := s.writeOut()
	if active := s.active(); active != nil && err == nil {
		err = active.sync()
	}
	if all && err == nil {
		s.ended(now)
	}
	err = errors.Join(err, s.mark.close())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		err = errors.Join(err, g.close())
	}
	s.segments = nil
	return errors.Join(err, s.lock.Close())
}

// Run writes, syncs, seals and forgets, until ctx ends; then everything that came
// is on the disk. A disk that fails does not end it.
func (s *Store) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { s.syncLoop(ctx) })
	loops.Go(func() { s.sealLoop(ctx) })
	defer loops.Wait()
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.step(false)
			if g := s.active(); g != nil {
				s.sync(g)
			}
			return nil
		case <-tick.C:
		case <-s.wake:
		}
		if s.step(false) {
			select {
			case s.synced <- struct{}{}:
			default:
			}
		}
	}
}

// step encodes and writes what came, and begins a new segment when the active one
// is due, or wanted. It reports whether some of what came is critical.
func (s *Store) step(newSegment bool) (critical bool) {
	began := s.cfg.Now()
	critical, all := s.flush(true)
	if err := s.writeOut(); err != nil {
		s.failed(dutyWrite, err)
		return false
	}
	if all {
		s.recorded(began)
	}
	s.rotate(newSegment)
	return critical
}

// syncLoop tells the disk to keep what is written, each second and when asked. It
// is a goroutine of its own: a slow disk delays no write.
func (s *Store) syncLoop(ctx context.Context) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.synced:
			if wait := criticalEvery - time.Since(last); wait > 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
		}
		last = time.Now()
		if g := s.active(); g != nil {
			s.sync(g)
		}
	}
}

func (s *Store) sync(g *segment) {
	if !g.hold() {
		return
	}
	defer g.release()
	if err := g.sync(); err != nil {
		s.failed(dutySync, err)
		return
	}
	s.works(dutySync)
}

// active returns the segment that is written to, nil where there is none.
func (s *Store) active() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.segments); n > 0 && s.segments[n-1].own {
		return s.segments[n-1]
	}
	return nil
}

// due reports whether a segment is to be the active one no longer.
func (s *Store) due(g *segment, wanted bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size >= s.cfg.SegmentBytes || len(g.frames) >= maxFrames ||
		g.total.rows > 0 && (wanted || s.cfg.Now().Sub(g.began) >= s.cfg.SegmentAge)
}

// nextSegment begins a segment behind the active one, all of which is written
// before. Any goroutine may call it.
func (s *Store) nextSegment() error {
	s.encoding.Lock() // so that nothing comes in between
	defer s.encoding.Unlock()
	if err := s.writeOut(); err != nil {
		return err
	}
	return s.beginSegment()
}

// beginSegment makes the next segment the active one. What it begins with is all
// that lives. The caller holds s.encoding, or nobody else knows s.
func (s *Store) beginSegment() error {
	var g *segment
	for err := fs.ErrExist; errors.Is(err, fs.ErrExist); { // what cannot be read is left alone
		s.mu.Lock()
		seq := s.nextSeq
		s.nextSeq++
		s.mu.Unlock()
		if g, err = newSegment(&s.cfg, s.cfg.files, seq, s.host); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	s.mu.Lock()
	s.segments = append(s.segments, g)
	s.mu.Unlock()
	s.works(dutyBegin)
	s.snaps.begin()
	if s.cfg.Living != nil {
		s.appendTable(g)
	}
	return nil
}

// rotate begins a new segment when the active one is large or old enough, or it
// is wanted. Only Run's goroutine calls it.
func (s *Store) rotate(wanted bool) {
	g := s.active()
	if g != nil && !s.due(g, wanted) {
		return
	}
	if err := s.nextSegment(); err != nil {
		s.failed(dutyBegin, err)
		return
	}
	if g != nil {
		s.sync(g)
	}
	select {
	case s.rotated <- struct{}{}:
	default:
	}
}

// writeOut writes what is encoded.
func (s *Store) writeOut() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	g := s.active()
	if g == nil {
		return nil
	}
	before := g.pending()
	if before == 0 {
		return nil
	}
	if err := g.write(); err != nil {
		return err
	}
	s.works(dutyWrite)
	return nil
}

// duties is what a disk can fail to do, and what that means: the worst first.
var duties = []struct{ what, means string }{
	{dutyWrite, "events are not written until the disk takes them again"},
	{dutyBegin, "no log can be begun"},
	{dutySync, "it is not known that the disk keeps what is written"},
	{dutySeal, "logs stay as they are"},
	{dutyRemove, "what is too old or too much stays"},
	{dutyMark, "the next agent will tell that nothing was kept for longer than that was so"},
}

const (
	dutyWrite  = "write"
	dutyBegin  = "begin a segment"
	dutySync   = "sync"
	dutySeal   = "seal"
	dutyRemove = "remove"
	dutyMark   = "mark the time"
)

// failed says once that the disk does not do something.
func (s *Store) failed(what string, err error) {
	s.mu.Lock()
	s.state.failures++
	first := s.state.failing[what] == nil
	if first {
		if s.state.failing == nil {
			s.state.failing = map[string]*Failure{}
		}
		s.state.failing[what] = &Failure{Since: s.cfg.Now(), What: failureText(what, err)}
	}
	s.mu.Unlock()
	if !first {
		return
	}
	for _, d := range duties {
		if d.what == what {
			s.log.Warn("history: the disk fails", "dir", s.cfg.Dir, "what", what, "so", d.means, "err", err)
		}
	}
}

// failureText says what failed and why. Errors of files begin with the same word.
func failureText(what string, err error) string {
	if text := err.Error(); strings.HasPrefix(text, what+" ") {
		return text
	}
	return what + ": " + err.Error()
}

// works says that it does so again.
func (s *Store) works(what string) {
	s.mu.Lock()
	f := s.state.failing[what]
	delete(s.state.failing, what)
	lost := s.state.lost
	s.mu.Unlock()
	if f != nil {
		s.log.Info("history: the disk works again", "dir", s.cfg.Dir, "what", what, "since", f.Since, "lost", lost)
	}
}

// failure is the worst of what the disk does not do; nil while it does all. The caller
// holds s.mu.
func (s *Store) failure() *Failure {
	for _, d := range duties {
		if f := s.state.failing[d.what]; f != nil {
			copied := *f
			return &copied
		}
	}
	return nil
}
