package identity

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets are the paths where container runtimes may listen, by runtime. Nil
// stands for the usual ones; a path that does not exist, or not yet, is no
// error.
type Sockets struct {
	Docker, Podman, Containerd, CRIO []string
	// RootlessPodman is where a user's own podman listens; UID stands for the
	// user's number.
	RootlessPodman string
}

func (s Sockets) withDefaults() Sockets {
	def := func(list *[]string, paths ...string) {
		if *list == nil {
			*list = paths
		}
	}
	def(&s.Docker, "/run/docker.sock", "/var/run/docker.sock")
	def(&s.Podman, "/run/podman/podman.sock")
	def(&s.Containerd, "/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/run/k0s/containerd.sock")
	def(&s.CRIO, "/run/crio/crio.sock", "/var/run/crio/crio.sock")
	if s.RootlessPodman == "" {
		s.RootlessPodman = "/run/user/UID/podman/podman.sock"
	}
	return s
}

// errNoContainer says that a runtime does not know a container.
var errNoContainer = errors.New("no such container")

// A client asks a runtime that listens at a socket for a container. It returns
// errNoContainer where the runtime does not know it. While the full answer keeps
// it waiting, it may call early with a part of it, before it returns.
type client func(ctx context.Context, socket string, place Place, early func(*Description)) (*Description, error)

type candidate struct {
	socket string
	ask    client
}

// describer asks runtimes.
type describer struct {
	sockets Sockets
	limit   time.Duration
	// queue holds containers to be asked for; capacity 1024. What does not fit is
	// asked for by the sweep.
	queue chan Place
	// generation counts changes among the sockets.
	generation atomic.Uint32
	seen       map[string]unix.Stat_t // sweep's own
}

func (d *describer) init(cfg Config) {
	d.sockets, d.limit = cfg.Sockets, cfg.DescribeFor
	d.queue = make(chan Place, 1024)
	d.seen = map[string]unix.Stat_t{}
	d.look()
}

// candidates are whom to ask for a container, likeliest first.
func (d *describer) candidates(place Place) []candidate {
	var list []candidate
	add := func(ask client, paths ...string) {
		for _, p := range paths {
			list = append(list, candidate{p, ask})
		}
	}
	s := &d.sockets
	if place.byUser() && place.Runtime != "podman" {
		return nil // a user's own runtime, of which only podman's place is known
	}
	switch place.Runtime {
	case "docker":
		add(askDocker, s.Docker...)
		if place.Guess {
			add(askPodman, s.Podman...)
			add(askContainerd, s.Containerd...)
		}
	case "podman":
		if place.UserID != "" {
			add(askPodman, replaceUID(s.RootlessPodman, place.UserID))
		}
		add(askPodman, s.Podman...)
	case "containerd":
		add(askContainerd, s.Containerd...)
		if place.Guess {
			add(askDocker, s.Docker...)
			add(askCRI, s.CRIO...)
		}
	case "cri-o":
		add(askCRI, s.CRIO...)
	}
	return list
}

func replaceUID(path, uid string) string {
	dir, file := filepath.Split(path)
	if dir == "" || path == "/" {
		return path
	}
	if file == "UID" {
		file = uid
	}
	return filepath.Join(replaceUID(filepath.Clean(dir), uid), file)
}

// reachable reports whether there is a socket to ask at.
func (d *describer) reachable(place Place) bool {
	for _, c := range d.candidates(place) {
		if isSocket(c.socket) {
			return true
		}
	}
	return false
}

func isSocket(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// ask queues a container, and reports whether there was room.
func (d *describer) ask(place Place) bool {
	select {
	case d.queue <- place:
		return true
	default:
		return false
	}
}

// look counts a generation when a socket has come, gone or been made anew.
func (d *describer) look() {
	changed := false
	s := &d.sockets
	for _, list := range [][]string{s.Docker, s.Podman, s.Containerd, s.CRIO} {
		for _, path := range list {
			var st unix.Stat_t
			_ = unix.Stat(path, &st) // absent: zero
			if was := d.seen[path]; was.Ino != st.Ino || was.Dev != st.Dev || was.Ctim != st.Ctim {
				changed = true
				d.seen[path] = st
			}
		}
	}
	if changed {
		d.generation.Add(1)
	}
}

// query asks everybody who may know, once.
func (d *describer) query(ctx context.Context, place Place, early func(*Description)) (*Description, error) {
	err := errNoContainer
	for _, c := range d.candidates(place) {
		if !isSocket(c.socket) {
			continue
		}
		desc, e := c.ask(ctx, c.socket, place, early)
		if e == nil {
			return desc, nil
		}
		if !errors.Is(e, errNoContainer) {
			err = fmt.Errorf("ask %s: %w", c.socket, e)
		}
	}
	return nil, err
}

// How runtimes are asked. A runtime may not know a container yet when its first
// process runs, may be busy, or be restarted just now.
const (
	askWorkers  = 16 // most of them wait for a runtime that starts the container
	askTimeout  = 3 * time.Second
	firstPause  = 10 * time.Millisecond
	longPause   = time.Second
	maxAsking   = 4096
	startedWait = 5 // how often a container without a start is asked for again
)

// asking is a container that is being asked for.
type asking struct {
	place    Place
	next     time.Time
	until    time.Time
	pause    time.Duration
	answered int
	desc     *Description
	err      error
}

// describe has containers described until ctx ends.
func (i *Identity) describe(ctx context.Context) {
	d := &i.describer
	results := make(chan *asking, askWorkers) // as many as can be under way
	var waiting []*asking
	busy := 0
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer func() {
		for ; busy > 0; busy-- {
			<-results // their requests end with ctx
		}
	}()
	for {
		queue := d.queue
		if len(waiting) >= maxAsking {
			queue = nil // they stay in the queue, and then with the sweep
		}
		select {
		case <-ctx.Done():
			return
		case place := <-queue:
			now := time.Now()
			waiting = append(waiting, &asking{place: place, next: now, until: now.Add(d.limit), pause: firstPause})
		case a := <-results:
			busy--
			if i.answered(a) {
				waiting = append(waiting, a)
			}
		case <-timer.C:
		}
		now := time.Now()
		soonest := time.Hour
		rest := waiting[:0]
		for _, a := range waiting {
			if wait := a.next.Sub(now); wait > 0 || busy >= askWorkers {
				soonest = min(soonest, max(wait, time.Millisecond))
				rest = append(rest, a)
				continue
			}
			busy++
			go func() {
				ctx, cancel := context.WithTimeout(ctx, askTimeout)
				defer cancel()
				a.desc, a.err = d.query(ctx, a.place, func(part *Description) { i.describedPartly(a.place, part) })
				results <- a
			}()
		}
		clear(waiting[len(rest):])
		waiting = rest
		if busy >= askWorkers {
			soonest = time.Hour // a result comes first
		}
		timer.Reset(soonest)
	}
}

// answered takes an answer, and reports whether to ask again.
func (i *Identity) answered(a *asking) bool {
	now := time.Now()
	if a.err == nil {
		i.describedAs(a.place, a.desc)
		// A container that is just being started has no time of its start yet.
		if a.answered++; a.desc.Started.IsZero() && a.answered < startedWait {
			a.next = now.Add(longPause)
			return true
		}
		return false
	}
	if a.answered > 0 {
		return false // it was there, and is gone
	}
	if now.After(a.until) {
		if !errors.Is(a.err, errNoContainer) {
			i.log.Warn("container not described", "runtime", a.place.Runtime, "container", a.place.ID, "err", a.err)
		}
		i.describedAs(a.place, nil)
		return false
	}
	a.next = now.Add(a.pause)
	a.pause = min(2*a.pause, longPause)
	return true
}

// askAgain asks for containers that nobody could describe, after a runtime has
// come up.
func (i *Identity) askAgain() {
	d := &i.describer
	d.look()
	g := d.generation.Load()
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.cfg.Ktime()
	for _, c := range i.conts.byID {
		if c.desc.Pending && !c.asked && now >= c.deadline { // the cluster has not told in time
			d := *c.desc
			d.Pending = false
			i.setDescription(c, &d)
		}
		if c.living > 0 && !c.told && !c.asked && c.generation != g && d.reachable(c.place) && d.ask(c.place) {
			c.asked, c.generation = true, g
		}
	}
}
