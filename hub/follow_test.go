package hub

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/internal/testkit"
)

// saying returns a row in short: "node-1 shop ls", or what a notice says.
func saying(t testing.TB, line []byte) string {
	t.Helper()
	var row struct {
		Kind     string   `json:"evt.kind"`
		Node     string   `json:"k8s.node.name"`
		NS       string   `json:"k8s.ns.name"`
		Name     string   `json:"proc.name"`
		Total    int      `json:"nodes.total"`
		Answered int      `json:"nodes.answered"`
		Missing  []string `json:"nodes.missing"`
		Lost     uint64   `json:"lost.count"`
		Lane     string   `json:"lost.lane"`
	}
	if err := json.Unmarshal(line, &row); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	switch row.Kind {
	case "nodes":
		return strings.Join(append([]string{fmt.Sprintf("%d of %d", row.Answered, row.Total)}, row.Missing...), "; ")
	case "lost":
		if row.Lane == "connection" {
			return row.Node + " was not heard"
		}
		return fmt.Sprintf("lost %d", row.Lost)
	}
	return row.Node + " " + row.NS + " " + row.Name
}

// A following is a stream that is being read.
type following struct {
	t     testing.TB
	lines chan string // closed at the end
	stop  context.CancelFunc
	err   error // of the end; to be read when lines is closed
}

func (f *fixture) follow(who shows, path string) *following {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	resp := f.open(ctx, who, path) //nolint:bodyclose // the goroutine below does
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		f.t.Fatalf("GET %s: %d %s", path, resp.StatusCode, b)
	}
	s := &following{t: f.t, lines: make(chan string, 1024), stop: stop}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(s.lines)
		defer resp.Body.Close()
		in := bufio.NewScanner(resp.Body)
		for in.Scan() {
			if len(in.Bytes()) > 0 {
				s.lines <- saying(f.t, in.Bytes())
			}
		}
		s.err = in.Err()
	}()
	f.t.Cleanup(func() {
		stop()
		<-ended
	})
	return s
}

// until reads lines until one is as wanted. Those before it begin in one of some
// ways.
func (s *following) until(want string, before ...string) {
	s.t.Helper()
	deadline := time.After(testkit.Patience)
	for {
		select {
		case got, ok := <-s.lines:
			switch {
			case !ok:
				s.t.Fatalf("the stream ended (%v), want %q", s.err, want)
			case got == want:
				return
			case !slices.ContainsFunc(before, func(p string) bool { return strings.HasPrefix(got, p) }):
				s.t.Fatalf("the stream says %q, want %q", got, want)
			}
		case <-deadline:
			s.t.Fatalf("the stream does not say %q", want)
		}
	}
}

// want reads the next lines.
func (s *following) want(lines ...string) {
	s.t.Helper()
	for _, want := range lines {
		select {
		case got, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("the stream ended (%v), want %q", s.err, want)
			}
			if got != want {
				s.t.Fatalf("the stream says %q, want %q", got, want)
			}
		case <-time.After(testkit.Patience):
			s.t.Fatalf("the stream says nothing, want %q", want)
		}
	}
}

// wantEnd reads the end of a stream. What comes before is left out.
func (s *following) wantEnd(clean bool) {
	s.t.Helper()
	deadline := time.After(testkit.Patience)
	for {
		select {
		case _, ok := <-s.lines:
			if !ok {
				if (s.err == nil) != clean {
					s.t.Errorf("the stream ended with %v; clean should be %t", s.err, clean)
				}
				return
			}
		case <-deadline:
			s.t.Fatal("the stream does not end")
		}
	}
}
