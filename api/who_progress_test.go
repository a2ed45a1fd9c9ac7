package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// askWho asks the route of who in a bubble of time.
func askWho(t *testing.T, accept string, answer func(ctx context.Context, q WhoQuestion) (Who, error)) *httptest.ResponseRecorder {
	t.Helper()
	r := WhoRoute(time.Minute, answer)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/who?to=203.0.113.7", nil)
	req.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	if err := r.Handle(w, req, Query{"to": "203.0.113.7"}); err != nil {
		w.Body.WriteString(err.Error())
	}
	return w
}

// TestWhoProgress: who asks for lines hears how far the answer is, or at least that
// somebody is at it.
func TestWhoProgress(t *testing.T) {
	at := time.Unix(1e9, 0).UTC()
	slow := func(err error) func(context.Context, WhoQuestion) (Who, error) {
		return func(_ context.Context, q WhoQuestion) (Who, error) {
			<-time.After(whoTick + whoTick/2)
			if q.Progress != nil {
				q.Progress(WhoProgress{Since: at, Until: at.Add(time.Hour), At: at.Add(time.Minute), Events: 512})
			}
			<-time.After(whoTick)
			return Who{To: "203.0.113.7", Since: at, Until: at, Addresses: []WhoAddress{}, Rows: []WhoRow{}}, err
		}
	}
	const told = `{"to":"203.0.113.7","since":"2001-09-09T01:46:40Z","until":"2001-09-09T01:46:40Z","addresses":[],"rows":[]}` + "\n"
	const progress = "\n" + `{"progress":{"since":"2001-09-09T01:46:40Z","until":"2001-09-09T02:46:40Z","at":"2001-09-09T01:47:40Z","events":512}}` + "\n"
	for name, test := range map[string]struct {
		accept, want string
		err          error
	}{
		"lines":      {accept: "application/x-ndjson", want: progress + told},
		"broken off": {accept: "application/x-ndjson", err: errors.New("the disk is gone"), want: progress + `{"error":"the disk is gone"}` + "\n"},
		"object":     {accept: "application/json", want: told},
		"no answer":  {accept: "application/json", err: errors.New("the disk is gone"), want: "the disk is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := askWho(t, test.accept, slow(test.err))
				if w.Body.String() != test.want {
					t.Errorf("got\n%s\nwant\n%s", w.Body, test.want)
				}
			})
		})
	}
	t.Run("batches too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := askWho(t, "application/x-ndjson, "+RowsType, slow(nil))
			if got := w.Header().Get("Content-Type"); got != linesType || w.Body.String() != progress+told {
				t.Errorf("%s:\n%s", got, w.Body)
			}
		})
	})
	t.Run("panic", func(t *testing.T) {
		defer func() {
			if p := fmt.Sprint(recover()); !strings.Contains(p, "no such row") || !strings.Contains(p, "who_progress_test.go") {
				t.Errorf("the server does not hear of it: %s", p)
			}
		}()
		askWho(t, "application/x-ndjson", func(context.Context, WhoQuestion) (Who, error) { panic("no such row") })
	})
	t.Run("at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := askWho(t, "application/x-ndjson", func(context.Context, WhoQuestion) (Who, error) { return Who{}, errors.New("no") })
			if w.Body.String() != "no" {
				t.Errorf("%s", w.Body)
			}
		})
	})
}

// TestWhoClient reads what agents answer to who asks for lines, older ones too.
func TestWhoClient(t *testing.T) {
	const answer = `{"to":"203.0.113.7","since":"2001-09-09T01:46:40Z","until":"2001-09-09T01:46:40Z","addresses":[],"rows":[]}`
	for body, want := range map[string]string{
		answer: "203.0.113.7 0",
		"\n" + `{"progress":{"events":7}}` + "\n\n" + `{"progress":{"events":512}}` + "\n" + answer + "\n": "203.0.113.7 512",
		`{"progress":{"events":7}}` + "\n" + `{"error":"the disk is gone"}` + "\n":                         "the disk is gone",
		`{"progress":{"events":7}}` + "\n":  "has hung up",
		`{"progress":{"events":-7}}` + "\n": "read who it was",
	} {
		c := NewHTTPClient(&url.URL{Scheme: "http", Host: "agent"}, roundTrip(func(req *http.Request) (*http.Response, error) {
			if got := req.Header.Get("Accept"); got != "application/x-ndjson" {
				t.Errorf("it asks for %s", got)
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
		}))
		found := "0"
		w, err := c.Who(t.Context(), WhoQuestion{To: "203.0.113.7", Progress: func(p WhoProgress) {
			if found = "7"; p.Events == 512 {
				found = "512"
			}
		}})
		got := w.To + " " + found
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s is read as %s, want %s", body, got, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (r roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// TestMergeWhoProgress: of several nodes, what is furthest behind counts.
func TestMergeWhoProgress(t *testing.T) {
	at := time.Unix(1e9, 0)
	var last WhoProgress
	of := MergeWhoProgress(func(p WhoProgress) { last = p })
	a, b := of("a"), of("b")
	a(WhoProgress{Since: at, Until: at.Add(3), At: at.Add(2), Events: 5})
	b(WhoProgress{Since: at.Add(-1), Until: at.Add(4), At: at.Add(1), Events: 7})
	a(WhoProgress{Since: at, Until: at.Add(3), At: at.Add(3), Events: 6})
	if want := (WhoProgress{Since: at.Add(-1), Until: at.Add(4), At: at.Add(1), Events: 13}); last != want {
		t.Errorf("%+v, want %+v", last, want)
	}
}
