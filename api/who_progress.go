package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"time"
)

// A WhoProgress says how far somebody has come who looks for the answer to a
// [WhoQuestion].
type WhoProgress struct {
	// Since and Until are the span that is looked at, At the moment up to which it
	// was; of several nodes, on that which is furthest behind of those that have found
	// something.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	At    time.Time `json:"at"`
	// Events of connections with the target that were found.
	Events uint64 `json:"events"`
}

// mergeWhoProgress puts together how far several nodes have come.
func mergeWhoProgress(all map[string]WhoProgress) (p WhoProgress) {
	for _, one := range all {
		if p.At.IsZero() || one.At.Before(p.At) {
			p.At = one.At
		}
		if p.Since.IsZero() || one.Since.Before(p.Since) {
			p.Since = one.Since
		}
		if one.Until.After(p.Until) {
			p.Until = one.Until
		}
		p.Events += one.Events
	}
	return p
}

// MergeWhoProgress returns what makes a function for the progress of each of several
// nodes, any goroutine's, of one for that of all.
func MergeWhoProgress(tell func(WhoProgress)) func(node string) func(WhoProgress) {
	var mu sync.Mutex
	all := map[string]WhoProgress{}
	return func(node string) func(WhoProgress) {
		return func(p WhoProgress) {
			mu.Lock()
			defer mu.Unlock()
			all[node] = p
			tell(mergeWhoProgress(all))
		}
	}
}

// whoTick is how often a client that wants to hear it is told how far the answer is.
const whoTick = 500 * time.Millisecond

// linesType is the media type of lines of JSON.
const linesType = "application/x-ndjson"

// A whoLine is a line of the answer to who asks for lines: progress, the reason for
// which there is no answer, or the answer, which is the last.
type whoLine struct {
	Progress *WhoProgress `json:"progress,omitempty"`
	Error    string       `json:"error,omitempty"`
	*Who
}

// writeWho answers in lines, the first of which comes after a while: what is answered,
// or fails, at once is as it is without.
func writeWho(w http.ResponseWriter, req *http.Request, stall time.Duration, asked WhoQuestion, answer func(ctx context.Context, q WhoQuestion) (Who, error)) error {
	var mu sync.Mutex // guards progress
	var progress *WhoProgress
	asked.Progress = func(p WhoProgress) {
		mu.Lock()
		defer mu.Unlock()
		progress = &p
	}
	var who Who
	var err error
	ctx, cancel := context.WithCancel(req.Context())
	done := make(chan struct{})
	var panicked any
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
		}()
		who, err = answer(ctx, asked)
	}()
	defer func() {
		cancel()
		if <-done; panicked != nil {
			panic(panicked) // to the server, which ends this request alone
		}
	}()
	tick := time.NewTicker(whoTick)
	defer tick.Stop()
	out := newLines(w, stall, nil)
	write := func(l whoLine) error {
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if err := out.Row(Row{JSON: b}); err != nil {
			return err
		}
		return out.Flush()
	}
	begun := false
	for {
		select {
		case <-done:
			if panicked != nil {
				return nil
			}
			if err != nil && begun {
				return write(whoLine{Error: err.Error()})
			}
			if err != nil {
				return err
			}
			return write(whoLine{Who: &who})
		case <-tick.C:
			mu.Lock()
			p := progress
			progress = nil
			mu.Unlock()
			send := out.Beat
			if p != nil {
				send = func() error { return write(whoLine{Progress: p}) }
			}
			if err := send(); err != nil {
				return err
			}
			begun = true
		}
	}
}

// readWho asks for lines, and tells the progress.
func (c *Client) readWho(ctx context.Context, v url.Values, tell func(WhoProgress)) (Who, error) {
	for b, err := range c.linesUpTo(ctx, PathWho, v, nil, maxObject) {
		if err != nil {
			return Who{}, err
		}
		var l whoLine
		if err := json.Unmarshal(b, &l); err != nil {
			return Who{}, fmt.Errorf("read who it was: %w", err)
		}
		switch {
		case l.Error != "":
			return Who{}, errors.New(l.Error)
		case l.Who != nil:
			return *l.Who, nil
		case l.Progress != nil:
			tell(*l.Progress)
		}
	}
	return Who{}, c.broken(ctx, io.ErrUnexpectedEOF)
}
