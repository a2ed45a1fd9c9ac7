package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	figStormLost  = "storm: process events lost"
	figStormWrong = "storm: wrong parent, arguments or exit code"
	figStormRate  = "storm: processes a second"
)

// stormFields are what execsnoop and exitsnoop print of a process, and more:
// when, what, who, of whom, run by whom, from which file, in which container,
// with which arguments and how it ended.
const stormFields = "evt.time,evt.kind,proc.name,proc.pid,proc.ppid,proc.aname,user.name,proc.exepath,container.id,proc.cmdline,exit.code,exit.signal,exit.duration,lost.kind,lost.lane,lost.count"

// A stormCheck compares the events of a storm with what the storm did: process
// N was started by the storm, has the argument N and ends with N % 251.
type stormCheck struct {
	mu           sync.Mutex
	parent       int64
	forks        int
	lost, unread int    // as the stream says: of processes, on the way to us; of these, since we did not read in time
	critical     int    // the same, on the critical lane, of whatever kind
	execs, exits []bool // by N
	nExecs       int
	nExits       int
	wrong        int
	example      string // of what is wrong
}

// event takes one line of the stream.
func (s *stormCheck) event(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := text(line, "evt.kind")
	if string(kind) == "lost" {
		s.lose(line)
		return
	}
	command := text(line, "proc.cmdline")
	if string(kind) == "fork" {
		// The child is a copy of the storm so far.
		if ppid, _ := number(line, "proc.ppid"); ppid != s.parent {
			s.bad(line)
			return
		}
		s.forks++
		return
	}
	_, arg, ok := bytes.Cut(command, []byte(" child "))
	if !ok {
		return // the storm itself
	}
	n, err := strconv.Atoi(string(arg))
	ppid, _ := number(line, "proc.ppid")
	if err != nil || ppid != s.parent {
		s.bad(line)
		return
	}
	switch string(kind) {
	case "exec":
		s.execs = s.see(line, s.execs, n, &s.nExecs)
	case "exit":
		if code, ok := number(line, "exit.code"); !ok || code != int64(n%251) {
			s.bad(line)
			return
		}
		s.exits = s.see(line, s.exits, n, &s.nExits)
	default:
		s.bad(line)
	}
}

// lose takes a line that tells of a loss: all clients are told of all that the rings
// lose, opens too.
func (s *stormCheck) lose(line []byte) {
	count, _ := number(line, "lost.count")
	n := int(count)
	switch string(text(line, "lost.lane")) {
	case "critical":
		s.critical += n
		s.lost += n
	case "queue":
		s.unread += n
		s.lost += n
	case "decode":
		if bytes.Contains(text(line, "lost.kind"), []byte("process.")) {
			s.lost += n
		}
	}
}

// see notes that the event of process n came, and that it came once.
func (s *stormCheck) see(line []byte, seen []bool, n int, count *int) []bool {
	for len(seen) <= n {
		seen = append(seen, make([]bool, 1<<16)...)
	}
	if seen[n] {
		s.bad(line)
		return seen
	}
	seen[n] = true
	*count++
	return seen
}

func (s *stormCheck) bad(line []byte) {
	s.wrong++
	if s.example == "" {
		s.example = string(line)
	}
}

// A stormResult is what a storm was and what was heard of it.
type stormResult struct {
	started int // processes
	took    time.Duration
	cpu     time.Duration // of the agent
	missing int           // forks, execs and exits of which no event came
	// As the stream said: those lost on the way; of these, by the client's queue and
	// on the critical lane.
	lost, unread, critical int
	wrong                  int
	example                string
}

func (r stormResult) rate() float64 { return float64(r.started) / r.took.Seconds() }

// perProcess is the agent's computing for each process, in microseconds.
func (r stormResult) perProcess() float64 {
	return float64(r.cpu) / float64(time.Microsecond) / float64(r.started)
}

// runStorm lets processes storm for a time, or count of them, and reads every
// event that an agent has of them.
func (b *bench) runStorm(ctx context.Context, a *agent, length time.Duration, count int) (r stormResult, err error) {
	check := &stormCheck{}
	s, err := a.follow(ctx, "evt.kind in (exec, fork, exit) and proc.exepath = "+b.load, stormFields, check.event)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	before, err := cpu(a.pid())
	if err != nil {
		return r, err
	}
	// No event is looked at before we know who the parent is.
	check.mu.Lock()
	run, err := b.startStorm(ctx, length, count)
	if err == nil {
		check.parent = int64(run.cmd.Process.Pid)
	}
	check.mu.Unlock()
	if err != nil {
		return r, err
	}
	if r.started, r.took, err = run.wait(); err != nil {
		return r, err
	}
	// The last events are on their way; when nothing comes any more, that was all.
	last, idle := -1, 0
	for idle < 20 {
		check.mu.Lock()
		sum := check.forks + check.nExecs + check.nExits + check.wrong + check.lost
		check.mu.Unlock()
		if sum >= 3*r.started {
			break
		}
		if idle++; sum != last {
			last, idle = sum, 0
		}
		time.Sleep(100 * time.Millisecond)
	}
	after, err := cpu(a.pid())
	if err != nil {
		return r, err
	}
	check.mu.Lock()
	defer check.mu.Unlock()
	r.cpu = after - before
	r.missing = 3*r.started - check.forks - check.nExecs - check.nExits
	r.lost, r.unread, r.critical = check.lost, check.unread, check.critical
	r.wrong, r.example = check.wrong, check.example
	return r, nil
}

// A runningStorm is the load program starting processes.
type runningStorm struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	begin time.Time
}

func (b *bench) startStorm(ctx context.Context, length time.Duration, count int) (*runningStorm, error) {
	seconds := int(length.Round(time.Second) / time.Second)
	s := &runningStorm{cmd: exec.CommandContext(ctx, b.load, "storm", strconv.Itoa(seconds), strconv.Itoa(count))}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout = &s.out
	s.begin = time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the storm: %w", err)
	}
	return s, nil
}

// wait gives how many processes the storm started, and how long that took.
func (s *runningStorm) wait() (int, time.Duration, error) {
	if err := s.cmd.Wait(); err != nil {
		return 0, 0, fmt.Errorf("storm: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(s.out.String()))
	if err != nil || n == 0 {
		return 0, 0, fmt.Errorf("the storm started %q processes", s.out.String())
	}
	return n, time.Since(s.begin), nil
}

// unlimited is more processes than any storm starts in its time.
const unlimited = 1 << 40

// storm is the promise that nothing is lost, and everything right.
func (b *bench) storm(ctx context.Context) error {
	a, err := b.start(ctx, "")
	if err != nil {
		return err
	}
	defer a.stop()
	r, err := b.runStorm(ctx, a, b.weight.storm, unlimited)
	if err != nil {
		return err
	}
	b.add(figStormRate, r.rate() > 1000, "thousands", "%.0f for %v", r.rate(), r.took.Round(time.Second))
	b.add(figStormLost, r.missing == 0 && r.lost == 0, "0", "%d of %d (the stream says %d)", r.missing, 3*r.started, r.lost)
	b.add(figStormWrong, r.wrong == 0, "0", "%d of %d", r.wrong, 3*r.started)
	if r.example != "" {
		fmt.Fprintf(b.log, "storm: the first wrong event: %s", r.example)
	}
	return nil
}
