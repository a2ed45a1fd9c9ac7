package hub

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"warren/api"
	"warren/event"
)

// A tally keeps who of the nodes that were asked one question has answered it.
// Any goroutine may use it.
type tally struct {
	mu      sync.Mutex
	nodes   map[string]reply
	pending int
	settled chan struct{} // closed when for the first time all have answered, or will not
	open    bool          // more nodes may be added before settled counts
	changed chan struct{} // holds one element when something has changed
}

type reply struct {
	given bool  // it answered
	err   error // it did not; nil while it may still
	last  outcome
}

// outcome is the last that was known for certain.
type outcome uint8

const (
	none outcome = iota
	good
	bad
)

func newTally() *tally {
	return &tally{nodes: map[string]reply{}, open: true, settled: make(chan struct{}), changed: make(chan struct{}, 1)}
}

// ask says that a node was asked.
func (t *tally) ask(node string) { t.set(node, reply{}) }

// answered says that a node answers.
func (t *tally) answered(node string) { t.set(node, reply{given: true, last: good}) }

// failed says why a node does not answer, or not any more.
func (t *tally) failed(node string, err error) { t.set(node, reply{err: err, last: bad}) }

// set takes in how things are with a node. It is news when a node begins or
// ceases to answer; that it is asked again, or fails for another reason than
// before, is not.
func (t *tally) set(node string, r reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, known := t.nodes[node]
	if known && old.waits() {
		t.pending--
	}
	if r.waits() {
		t.pending++
		r.last = old.last
	}
	t.nodes[node] = r
	t.told(r.last != old.last)
}

// waits reports whether an answer may still come.
func (r reply) waits() bool { return !r.given && r.err == nil }

// gone says that there is no such node any more.
func (t *tally) gone(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, known := t.nodes[node]; known {
		if old.waits() {
			t.pending--
		}
		delete(t.nodes, node)
		t.told(true)
	}
}

// asked says that all nodes that there are were asked.
func (t *tally) asked() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = false
	t.told(false)
}

func (t *tally) told(news bool) {
	if t.pending == 0 && !t.open {
		select {
		case <-t.settled:
		default:
			close(t.settled)
		}
	}
	if news {
		select {
		case t.changed <- struct{}{}:
		default: // it is known that there is something new
		}
	}
}

// wait returns when all have answered or will not, after at most d.
func (t *tally) wait(done <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-t.settled:
	case <-timer.C:
	case <-done:
	}
}

// mostMissing is how many nodes that do not answer are named.
const mostMissing = 50

// nodesEvent returns who answered.
func (t *tally) nodesEvent() *event.Nodes {
	n := &event.Nodes{Type: event.KindNodes.String()}
	missing := 0
	for node, r := range t.sorted() {
		n.Total++
		if r.given {
			n.Answered++
			continue
		}
		if missing++; missing <= mostMissing {
			n.Missing = append(n.Missing, node+": "+reason(r.err))
		}
	}
	if missing > mostMissing {
		n.Missing = append(n.Missing, fmt.Sprintf("and %d more", missing-mostMissing))
	}
	return n
}

// sorted yields the nodes by name, as they are now.
func (t *tally) sorted() iter.Seq2[string, reply] {
	t.mu.Lock()
	nodes := maps.Clone(t.nodes)
	t.mu.Unlock()
	return func(yield func(string, reply) bool) {
		for _, node := range slices.Sorted(maps.Keys(nodes)) {
			if !yield(node, nodes[node]) {
				return
			}
		}
	}
}

// row returns who answered, as a row of a stream.
func (t *tally) row(now time.Time) api.Row {
	e := &event.Event{Time: now, Data: t.nodesEvent()}
	return api.Row{Time: now.UnixNano(), Kind: event.KindNodes.String(), JSON: event.AppendJSON(nil, e)}
}

// refusal returns what the nodes say is wrong with the question, if all that
// answer say that something is; nil where one does not.
func (t *tally) refusal() *api.Error {
	var first *api.Error
	for _, r := range t.sorted() {
		var e *api.Error
		switch {
		case r.given:
			return nil
		case errors.As(r.err, &e) && e.Status == http.StatusBadRequest:
			first = cmp.Or(first, e)
		}
	}
	return first
}

// any reports whether a node answers.
func (t *tally) any() bool {
	for _, r := range t.sorted() {
		if r.given {
			return true
		}
	}
	return false
}
