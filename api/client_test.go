package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"warren/filter"
)

// A client over the network asks below its base, and says what is a stream.
func TestHTTPClient(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = append(asked, req.URL.String())
		fmt.Fprintln(w, "{}")
	}))
	defer server.Close()
	base, err := url.Parse(server.URL + "/apis/hub.warren.dev/v1")
	if err != nil {
		t.Fatal(err)
	}
	c, ctx := NewHTTPClient(base, http.DefaultTransport), t.Context()
	q := Question{Filter: "a = b", Fields: []string{"evt.time", "fd.rip"}, Limit: 3, Exited: true, Nodes: []string{"node-1", "node-2"}}
	for _, lines := range []Lines{c.Events(ctx, Question{}), c.Events(ctx, q), c.Recent(ctx, q), c.Processes(ctx, q), c.Connections(ctx, q), c.FollowConnections(ctx, q)} {
		for _, err := range lines {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.Process(ctx, "12", "node-1"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "a/b", "../status", "1?node=x", "1 ", "\u00e9", strings.Repeat("1", 65)} {
		if _, err := c.Process(ctx, id); err == nil || !strings.Contains(err.Error(), "neither a pid nor an exec id") {
			t.Errorf("process %q: %v", id, err)
		}
	}
	if _, err := c.Status(ctx); err != nil {
		t.Fatal(err)
	}
	const all = "fields=evt.time%2Cfd.rip&filter=a+%3D+b"
	equal(t, asked, []string{
		"/apis/hub.warren.dev/v1/events?watch=true",
		"/apis/hub.warren.dev/v1/events?" + all + "&limit=3&node=node-1%2Cnode-2&watch=true",
		"/apis/hub.warren.dev/v1/events?" + all + "&follow=false&limit=3&node=node-1%2Cnode-2",
		"/apis/hub.warren.dev/v1/processes?exited=true&" + all + "&node=node-1%2Cnode-2",
		"/apis/hub.warren.dev/v1/connections?" + all + "&node=node-1%2Cnode-2",
		"/apis/hub.warren.dev/v1/connections?" + all + "&follow=true&node=node-1%2Cnode-2&watch=true",
		"/apis/hub.warren.dev/v1/processes/12?node=node-1",
		"/apis/hub.warren.dev/v1/status",
	})
}

// Who answers instead of a hub is told from a hub.
func TestHTTPClientErrors(t *testing.T) {
	for _, test := range []struct {
		name        string
		status      int
		contentType string
		body        string
		want        error
		text        string
	}{
		{"the hub's own", 400, "application/json", `{"error":"no field x","hint":"did you mean y?","expr":"x = 1","pos":0,"end":1}`,
			&Error{Status: 400}, "no field x; did you mean y?"},
		{"the API server's", 403, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"events is forbidden","reason":"Forbidden","code":403}`,
			&ServerError{Code: 403, Reason: "Forbidden", Message: "events is forbidden"}, "events is forbidden"},
		{"text", 503, "text/plain; charset=utf-8", "service unavailable\n", &ServerError{Code: 503, Message: "service unavailable"}, "service unavailable"},
		{"an error without end", 400, "application/json", `{"error":"` + strings.Repeat("x", 1e6) + `"}`, &ServerError{Code: 400}, "the server answered 400 Bad Request"},
		{"text that is none", 503, "text/plain", "a\xffb" + strings.Repeat("x", 1e6), &ServerError{Code: 503, Message: "a\ufffdb" + strings.Repeat("x", 1021)}, ""},
		{"a page", 502, "text/html", "<html>", &ServerError{Code: 502}, "the server answered 502 Bad Gateway"},
		{"a redirect", 302, "", "", &ServerError{Code: 302}, "the server answered 302 Found"},
		{"somebody's JSON", 500, "application/json", `{"message":"x"}`, &ServerError{Code: 500}, "the server answered 500 Internal Server Error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.contentType)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			}))
			defer server.Close()
			base, err := url.Parse(server.URL + "/v1")
			if err != nil {
				t.Fatal(err)
			}
			_, err = NewHTTPClient(base, http.DefaultTransport).Status(t.Context())
			if test.text != "" && (err == nil || err.Error() != test.text) {
				t.Errorf("got %v, want %s", err, test.text)
			}
			var ours *Error
			var theirs *ServerError
			switch {
			case errors.As(err, &ours):
				want := (*Error)(nil)
				if f := (*filter.Error)(nil); !errors.As(test.want, &want) || ours.Status != want.Status || !errors.As(err, &f) {
					t.Errorf("got %#v", ours)
				}
			case errors.As(err, &theirs):
				equal(t, theirs, test.want)
			default:
				t.Errorf("got %T: %v", err, err)
			}
		})
	}
	base := &url.URL{Scheme: "http", Host: "127.0.0.1:1", Path: "/v1"}
	if _, err := NewHTTPClient(base, http.DefaultTransport).Status(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "ask 127.0.0.1:1: dial tcp 127.0.0.1:1: ") {
		t.Errorf("nobody answers: %v", err)
	}
}

// An agent of another version, or no agent, does not answer in batches.
func TestRowsOfSomebodyElse(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprintln(w, "{}")
	}))
	defer server.Close()
	base, err := url.Parse(server.URL + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range NewHTTPClient(base, http.DefaultTransport).Rows(t.Context(), PathEvents, true, Question{}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "is it of another version?") {
		t.Errorf("got %v", last)
	}
}
