package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	figOpenOthers  = "open and close of a file that nobody asked for, 100 conditions on paths: beyond an empty pair of tracepoints"
	figOpenAll     = "open and close, every open recorded and delivered with its path: beyond an empty pair of tracepoints"
	figOpenSnoop   = "the same / with opensnoop"
	figOpenPlain   = "open and close, nothing attached"
	figOpenMissing = "opens that were not delivered meanwhile: by the agent"

	figUnhooked = "a system call that nothing hooks: with the agent asked for eight others / with one empty tracepoint"
	figHooked   = "a system call that is hooked and nobody wants: with the agent / with one empty tracepoint at it"

	figFloodCritical = "flood of opens and of processes: process events lost or wrong"
	figFloodUnread   = "the same: that their client did not read in time, and is told so"
	figFloodCanaries = "flood of opens beside a watched directory: opens in it that were delivered"
	figFloodExact    = "flood of opens, all wanted: generated - delivered - counted as lost"
	figFloodSmall    = "the same with a ring of 64 KiB"
	figFloodLost     = "the same: lost, so that the above means something"
	figFloodRate     = "flood: opens and processes a second"

	figBuild    = "parallel build, 100 rules asked for: time / without Warren"
	figBuildCPU = "the same: CPU of the build and of the agent / without Warren"
)

// filesParts are those of -files.
var filesParts = []part{
	{"opens", (*bench).opens, []string{figOpenPlain, figOpenOthers, figOpenAll, figOpenSnoop, figOpenMissing}},
	{"syscalls", (*bench).syscalls, []string{figUnhooked, figHooked}},
	{"flood", (*bench).flood, []string{figFloodCritical, figFloodUnread, figFloodCanaries, figFloodExact, figFloodSmall, figFloodLost, figFloodRate}},
	{"build", (*bench).build, []string{figBuild, figBuildCPU}},
}

// light says whether there is little weight: then exactness is judged, and speed
// is only told.
func (b *bench) light() bool { return b.slack > fullWeight.slack }

// fast says whether a comparison of speed is as promised, where it is judged.
func (b *bench) fast(ok bool) bool { return ok || b.light() }

// fileRounds is how many rounds there are: one where nothing is judged by them.
func (b *bench) fileRounds() int {
	if b.light() {
		return 1
	}
	return b.rounds
}

// openTypes are the calls that open files.
const openTypes = "evt.type in (open, openat, openat2, creat)"

// Opens come in batches with pauses, so that whoever reads of them keeps up:
// what is lost costs less. The cost is that of the fastest batch.
const (
	opensInBatch = 200
	openPause    = 3 * time.Millisecond
	// A system file: what a hundred conditions are about begins as its path does.
	openedFile = "/usr/lib/os-release"
)

// openBatches is how many batches a side of a round has.
func (b *bench) openBatches() int {
	if b.light() {
		return 60
	}
	return 200
}

// hundredPaths are conditions on paths of all sorts, which openedFile meets none
// of; one is that a file is opened which is only there to see that they are in
// force.
func hundredPaths(seen string) string {
	conditions := []string{"fd.name = " + seen}
	for i := 1; i < 100; i++ {
		var c string
		switch i % 4 {
		case 0:
			c = fmt.Sprintf("fd.name pmatch (/usr/data/%d/private)", i)
		case 1:
			c = fmt.Sprintf("fd.name = /usr/lib/secret/key%d", i)
		case 2:
			c = fmt.Sprintf("fd.name startswith /usr/lib/app%d", i)
		case 3:
			c = fmt.Sprintf("fd.name endswith /.ssh/id_%d", i)
		}
		conditions = append(conditions, c)
	}
	return openTypes + " and (" + strings.Join(conditions, " or ") + ")"
}

// openClose is what opening and closing a file costs now, in nanoseconds.
func (b *bench) openClose(ctx context.Context, path string) (float64, error) {
	out, err := exec.CommandContext(ctx, b.load, "opens", strconv.Itoa(b.openBatches()), strconv.Itoa(opensInBatch),
		strconv.Itoa(int(openPause.Microseconds())), path).Output()
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	return nanoseconds(out)
}

// opens compares what opening a file costs with nothing attached, with an empty
// program at both ends of the call, with the agent, and with opensnoop.
func (b *bench) opens(ctx context.Context) error {
	empty, err := newEmptyTracepoint(b.dir, "sys_enter_openat", "sys_exit_openat")
	if err != nil {
		return err
	}
	defer func() { _ = empty.Close() }()
	plain := func() (float64, error) { return b.openClose(ctx, openedFile) }
	dir, err := b.folder("opens")
	if err != nil {
		return err
	}
	seen := filepath.Join(dir, "seen")
	if err := os.WriteFile(seen, nil, 0o600); err != nil {
		return err
	}
	var missing, lost, snoopMissing int
	sides := []struct {
		name    string
		measure func() (float64, error)
	}{
		{"plain", plain},
		{"pair", func() (float64, error) { return empty.during(plain) }},
		{"others", func() (float64, error) {
			return b.withFilter(ctx, hundredPaths(seen), func() error { return touch(seen) }, plain)
		}},
		{"all", func() (float64, error) {
			ns, n, told, err := b.opensDelivered(ctx)
			missing, lost = missing+n, lost+told
			return ns, err
		}},
		{"opensnoop", func() (float64, error) {
			ns, n, err := b.opensSnooped(ctx)
			snoopMissing += n
			return ns, err
		}},
	}
	values := map[string][]float64{}
	rounds := b.fileRounds()
	for round := range rounds {
		for i := range sides {
			side := sides[(i+round)%len(sides)]
			value, err := side.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
			values[side.name] = append(values[side.name], value)
		}
	}
	beyond := func(name string) spread {
		var v []float64
		for i, ns := range values[name] {
			v = append(v, ns-values["pair"][i])
		}
		return spreadOf(v)
	}
	pair := spreadOf(values["pair"])
	b.add(figOpenPlain, true, "for comparison", "%v ns in %d rounds; with an empty pair of tracepoints %v", spreadOf(values["plain"]), rounds, pair)
	others := beyond("others")
	b.add(figOpenOthers, b.fast(others.median <= 120), "at most 120 ns", "%v ns in %d rounds: %.0f against %.0f", others, rounds, spreadOf(values["others"]).median, pair.median)
	all := beyond("all")
	b.add(figOpenAll, b.fast(all.median <= 250), "at most 250 ns", "%v ns in %d rounds: %.0f against %.0f", all, rounds, spreadOf(values["all"]).median, pair.median)
	var ratios []float64
	for i, ns := range values["all"] {
		ratios = append(ratios, ns/values["opensnoop"][i])
	}
	ratio := spreadOf(ratios)
	total := rounds * b.openBatches() * opensInBatch
	b.add(figOpenSnoop, b.fast(ratio.median < 1), "below 1", "%v in %d rounds: %.0f against %.0f ns; it printed no line for %d of %d",
		ratio, rounds, spreadOf(values["all"]).median, spreadOf(values["opensnoop"]).median, snoopMissing, total)
	b.add(figOpenMissing, missing == lost && b.fast(missing == 0), "0", "%d of %d, %d of them counted as lost", missing, total, lost)
	return nil
}

// withFilter measures while an agent runs and somebody asks it for what a filter
// lets through: when an event has come that cause makes happen.
func (b *bench) withFilter(ctx context.Context, filter string, cause func() error, measure func() (float64, error)) (value float64, err error) {
	a, err := b.start(ctx, "")
	if err != nil {
		return 0, err
	}
	defer a.stop()
	var events atomic.Int64
	s, err := a.follow(ctx, filter, "evt.kind", func([]byte) { events.Add(1) })
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := awaitMore(ctx, &events, 0, cause); err != nil {
		return 0, err
	}
	return measure()
}

// awaitMore waits until more than some are counted, and fails after 10 s.
func awaitMore(ctx context.Context, count *atomic.Int64, than int64, cause func() error) error {
	for deadline := time.Now().Add(10 * time.Second); count.Load() <= than; {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.New("nothing is reported")
		}
		if err := cause(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// quiet waits until a count is as high as wanted, or has not grown for a while,
// and gives it.
func quiet(count func() int64, wanted int64, while time.Duration) int64 {
	last, since := count(), time.Now()
	for last < wanted && time.Since(since) < while {
		time.Sleep(5 * time.Millisecond)
		if now := count(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

// opensDelivered measures while a client of the agent reads of every open on the
// machine, and gives how many of the load's opens it did not read of, and of how
// many opens it read that they were lost.
func (b *bench) opensDelivered(ctx context.Context) (ns float64, missing, lost int, err error) {
	a, err := b.start(ctx, "")
	if err != nil {
		return 0, 0, 0, err
	}
	defer a.stop()
	check := &floodCheck{path: openedFile}
	s, err := a.follow(ctx, openTypes, floodFields, check.event)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	before := int64(0)
	if err := awaitMore(ctx, &check.delivered, 0, func() error { before++; return touch(openedFile) }); err != nil {
		return 0, 0, 0, err
	}
	before = quiet(check.delivered.Load, before, 200*time.Millisecond)
	if ns, err = b.openClose(ctx, openedFile); err != nil {
		return 0, 0, 0, err
	}
	wanted := int64(b.openBatches() * opensInBatch)
	// Losses are told of once a second.
	quiet(func() int64 { return check.delivered.Load() + check.lost.Load() }, before+wanted, 3*time.Second)
	return ns, int(wanted - (check.delivered.Load() - before)), int(check.lost.Load()), nil
}

// touch opens a file.
func touch(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// opensSnooped measures while opensnoop prints every open on the machine, and
// gives how many of the load's opens it printed no line for.
func (b *bench) opensSnooped(ctx context.Context) (float64, int, error) {
	p, err := startPeer(ctx, "opensnoop")
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	// It prints in pieces of 4 KiB.
	several := func() error {
		for range 50 {
			if err := touch(openedFile); err != nil {
				return err
			}
		}
		return nil
	}
	if err := awaitMore(ctx, &p.lines, 1, several); err != nil {
		return 0, 0, err
	}
	before := quiet(p.lines.Load, 1<<62, 200*time.Millisecond)
	ns, err := b.openClose(ctx, openedFile)
	if err != nil {
		return 0, 0, err
	}
	wanted := int64(b.openBatches() * opensInBatch)
	n := quiet(p.lines.Load, before+wanted, 200*time.Millisecond) - before
	// The last piece is not full yet.
	if missing := int(wanted - n); missing > 100 {
		return ns, missing, nil
	}
	return ns, 0, nil
}

// syscalls compares system calls with the agent asked for some, and with one empty
// tracepoint: one that nobody asked for, and one that somebody asked for of
// processes that there are none of.
func (b *bench) syscalls(ctx context.Context) error {
	other, err := newEmptyTracepoint(b.dir, "sys_enter_openat")
	if err != nil {
		return err
	}
	defer func() { _ = other.Close() }()
	itself, err := newEmptyTracepoint(b.dir, "sys_exit_personality")
	if err != nil {
		return err
	}
	defer func() { _ = itself.Close() }()
	eight := fmt.Sprintf("evt.type in (bpf, kill, ptrace, dup, prctl, personality, memfd_create, socket) and user.uid = %d", nobodysUID)
	runs := max(callRuns/3, 1)
	calls := func() (float64, error) { return b.bestCall(ctx, "calls", runs) }
	personas := func() (float64, error) { return b.bestCall(ctx, "personas", runs) }
	sides := []func() (float64, error){
		func() (float64, error) { return other.during(calls) },
		func() (float64, error) { return b.withFilter(ctx, eight, personaOfNobody, calls) },
		func() (float64, error) { return itself.during(personas) },
		func() (float64, error) { return b.withFilter(ctx, eight, personaOfNobody, personas) },
	}
	values := make([][]float64, len(sides))
	rounds := b.fileRounds()
	for round := range rounds {
		once, err := inTurns(round, sides)
		if err != nil {
			return err
		}
		for side, value := range once {
			values[side] = append(values[side], value)
		}
	}
	ratio := func(a, b []float64) spread {
		var r []float64
		for i := range a {
			r = append(r, a[i]/b[i])
		}
		return spreadOf(r)
	}
	unhooked := ratio(values[1], values[0])
	b.add(figUnhooked, b.fast(unhooked.median <= callNoise), "at most 1 (±3 % is noise)", "%v in %d rounds: %.1f against %.1f ns",
		unhooked, rounds, spreadOf(values[1]).median, spreadOf(values[0]).median)
	b.add(figHooked, true, "for comparison", "%v in %d rounds: %.1f against %.1f ns",
		ratio(values[3], values[2]), rounds, spreadOf(values[3]).median, spreadOf(values[2]).median)
	return nil
}

// nobodysUID is a user who has no processes.
const nobodysUID = 4242

// personaOfNobody asks the kernel for the personality of a thread that is that
// user's for as long as it takes.
func personaOfNobody() error {
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine: it cannot become root again.
		runtime.LockOSThread()
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobodysUID, nobodysUID, nobodysUID)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
		}
		if errno != 0 {
			done <- errno
			return
		}
		done <- nil
	}()
	return <-done
}

// folder makes a folder of this run and gives its true path.
func (b *bench) folder(name ...string) (string, error) {
	dir := filepath.Join(slices.Concat([]string{b.dir}, name)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}
