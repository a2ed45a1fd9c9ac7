package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"warren/event"
)

func loadDocument(t *testing.T) *openapi3.T {
	t.Helper()
	b, err := newServer(newFake(), Config{Node: "n"}).document()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("openapi.json is not valid: %v", err)
	}
	return doc
}

// Every route is in the document, with its parameters, and nothing else is.
func TestDocumentAndRoutes(t *testing.T) {
	doc := loadDocument(t)
	served := map[string][]string{}
	for _, r := range newServer(newFake(), Config{}).routes() {
		served[r.Pattern] = r.Params
		item := doc.Paths.Value(r.Pattern)
		if item == nil {
			t.Errorf("%s is served and not described", r.Pattern)
			continue
		}
		var described []string
		for _, p := range item.Get.Parameters {
			if p.Value.In == "query" {
				described = append(described, p.Value.Name)
			}
		}
		slices.Sort(described)
		if !slices.Equal(described, slices.Sorted(slices.Values(r.Params))) {
			t.Errorf("%s takes %v, described are %v", r.Pattern, r.Params, described)
		}
	}
	for path, item := range doc.Paths.Map() {
		if _, ok := served[path]; !ok {
			t.Errorf("%s is described and not served", path)
		}
		for method := range item.Operations() {
			if method != http.MethodGet {
				t.Errorf("%s %s is described and not served", method, path)
			}
		}
	}
}

// Every answer is as the document says, and every answer that the document
// promises can be had.
func TestDocumentAndAnswers(t *testing.T) {
	doc := loadDocument(t)
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	whole := newFake()
	starting := newFake()
	starting.ready = make(chan struct{})
	full := newFake()
	full.refuse = errors.New("the pipeline has ended")
	self := whole.procs[2] // this test's own process, for what /proc adds
	self.Key, self.PID = thisProcess(t), thisProcess(t).PID

	var cfg Config
	had := map[string]bool{} // path and status that were answered
	ask := func(f *fake, target string, status int, host string) {
		t.Helper()
		req := httptest.NewRequest(http.MethodGet, "http://"+host+target, nil)
		w := httptest.NewRecorder()
		h := local(newServer(f, cfg), addr{})
		h.ServeHTTP(w, req)
		if w.Code != status {
			t.Errorf("%s: %d, want %d: %s", target, w.Code, status, w.Body)
			return
		}
		route, params, err := router.FindRoute(req)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			return
		}
		had[fmt.Sprint(route.Path, " ", status)] = true
		in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route}
		if status == 200 {
			if err := openapi3filter.ValidateRequest(req.Context(), in); err != nil {
				t.Errorf("%s is a question that the document forbids: %v", target, err)
			}
		}
		ct := w.Header().Get("Content-Type")
		if ct == "application/x-ndjson" {
			schema := route.Operation.Responses.Status(status).Value.Content[ct].Schema.Value
			always := []string{"evt.kind", "evt.type", "evt.time"}
			if route.Path == "/v1/fields" || route.Path == "/v1/counts" || req.URL.Query().Has("fields") {
				always = nil
			}
			validateLines(t, target, schema, w.Body, always...)
			return
		}
		err = openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: in, Status: w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())),
			Options: &openapi3filter.Options{IncludeResponseStatus: true},
		})
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	const here, elsewhere = "localhost", "evil.example"
	pods := newTalkers()
	talk := pods.collector(true)
	talk.Add(flowEvent("flow_drop", flowTime, pods.front, pods.redis, 40000, 6379, false, event.Dropped))
	cfg.Policy, cfg.PolicyStatus = talk.Answer, statusOfPolicies
	past := newFakeHistory(whole.recent...)
	past.procs = whole.procs
	cfg.History = past
	for _, r := range newServer(newFake(), Config{}).routes() {
		path := strings.Replace(r.Pattern, "{id}", "1", 1)
		ask(whole, path+"?bogus=1", 400, here)
		ask(whole, path, 403, elsewhere)
		if r.Pattern != "/v1/events" && r.Pattern != "/v1/files" && r.Pattern != "/v1/counts" && r.Pattern != "/v1/who" { // which follow, or want more
			ask(whole, path, 200, here)
		}
	}
	ask(whole, "/v1/events?since=2001-01-01&until=2001-10-01&limit=3", 200, here)
	ask(whole, "/v1/connections?since=2001-01-01", 200, here)
	ask(whole, "/v1/processes?at=2001-10-01", 200, here)
	ask(whole, "/v1/who?to=fd00::1", 200, here)
	ask(whole, "/v1/who?to=example.org:443&since=2001-01-01&until=2001-10-01&limit=3&filter=proc.name%20exists", 200, here)
	cfg.History = nil
	ask(whole, "/v1/history", 503, here)
	ask(whole, "/v1/history/export", 503, here)
	ask(whole, "/v1/events?follow=false", 200, here)
	ask(whole, "/v1/events?follow=false&limit=2&filter=proc.name%3Dcurl", 200, here)
	ask(whole, "/v1/events?filter=a.b%3D1", 400, here)
	for _, list := range []string{"/v1/events?follow=false&fields=", "/v1/processes?fields=", "/v1/connections?fields="} {
		ask(whole, list+"proc.name,proc.aname,evt.num", 200, here)
		ask(whole, list+"a.b", 400, here)
	}
	ask(full, "/v1/events", 503, here)
	ask(full, "/v1/files?path=/x", 503, here)
	watched := newFake()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watched.stream(t, 0)
		x := opened("/x", 0) // no file: the watch does not turn to another
		x.Time, x.Seq = time.Unix(1e9, 0), 1
		watched.send(x)
		watched.end()
	}()
	ask(watched, "/v1/files?path=/x&recursive=true&limit=2", 200, here)
	<-ended
	ask(full, "/v1/counts?by=proc.name", 503, here)
	counted := newFake()
	over := make(chan struct{})
	go func() {
		defer close(over)
		counted.stream(t, 0)
		counted.send(opened("/x", 0))
		counted.end()
	}()
	ask(counted, "/v1/counts?by=evt.type,fd.name&limit=2", 200, here)
	<-over
	ask(whole, "/v1/processes?exited=true", 200, here)
	ask(whole, "/v1/processes/"+fmt.Sprint(self.PID), 200, here)
	ask(whole, "/v1/processes/200", 200, here)
	ask(whole, "/v1/processes/x", 400, here)
	ask(whole, "/v1/processes/77", 404, here)
	ask(full, "/v1/connections?follow=true", 503, here)
	ask(whole, "/v1/flows?limit=1&filter=flow.verdict%3Ddropped", 200, here)
	ask(full, "/v1/flows?follow=true", 503, here)
	ask(whole, "/v1/fields?kind=exec", 200, here)
	ask(starting, "/readyz", 503, here)
	blind := newFake()
	blind.err = errors.New("the pipeline has failed")
	ask(blind, "/healthz", 503, here)
	ask(whole, "/v1/processes?node=a", 400, here)
	ask(whole, "/v1/processes/1?node=a", 400, here)
	ask(whole, "/v1/status?node=a", 400, here)
	ask(whole, "/v1/connections?watch=yes", 400, here)
	cfg.Map = func(context.Context, MapQuestion) (Map, error) { return Map{}, Unavailable("there is none") }
	ask(whole, "/v1/map", 503, here)
	cfg.Policy, cfg.PolicyStatus = nil, nil
	ask(whole, "/v1/policy", 503, here)
	ask(whole, "/v1/policy/status", 503, here)
	impatient := func(f *fake, target string) {
		t.Helper()
		// The server waits for what is not ready as long as the client does.
		req := httptest.NewRequest(http.MethodGet, "http://localhost"+target, nil)
		ctx, cancel := cancelled(req.Context())
		defer cancel()
		w := httptest.NewRecorder()
		newServer(f, Config{}).ServeHTTP(w, req.WithContext(ctx))
		if w.Code != 503 {
			t.Errorf("%s: %d, want 503", target, w.Code)
		}
		route, _, err := router.FindRoute(req)
		if err != nil {
			t.Fatal(err)
		}
		had[fmt.Sprint(route.Path, " ", w.Code)] = true
	}
	impatient(starting, "/v1/processes")
	impatient(starting, "/v1/processes/1")
	impatient(starting, "/v1/connections")
	impatient(starting, "/v1/who?to=::1")

	for path, item := range doc.Paths.Map() {
		if item.Get == nil {
			continue
		}
		for status := range item.Get.Responses.Map() {
			if !had[path+" "+status] {
				t.Errorf("%s: nothing here answers %s, which the document promises", path, status)
			}
		}
	}
}

func validateLines(t *testing.T, target string, schema *openapi3.Schema, body io.Reader, always ...string) {
	t.Helper()
	dec := json.NewDecoder(body)
	n := 0
	for ; ; n++ {
		var v any
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Errorf("%s: %v", target, err)
			return
		}
		if err := schema.VisitJSON(v); err != nil {
			t.Errorf("%s: %v", target, err)
		}
		for _, key := range always {
			if v.(map[string]any)[key] == nil {
				t.Errorf("%s: a line without %s", target, key)
			}
		}
		for key := range v.(map[string]any) {
			name, _, labelled := strings.Cut(key, "[")
			f, _ := event.Lookup(name)
			if schema.Properties[key] == nil && !(labelled && f != nil && f.Arg == event.KeyArg) {
				t.Errorf("%s: key %s is not described", target, key)
			}
		}
	}
	if n == 0 {
		t.Errorf("%s: an empty answer proves nothing", target)
	}
}

// The schema of events knows every field, with the type that its values have.
func TestDocumentKnowsFields(t *testing.T) {
	schema := loadDocument(t).Components.Schemas["Event"].Value
	for _, f := range event.Fields() {
		if f.Virtual || f.Arg == event.KeyArg {
			continue
		}
		p := schema.Properties[f.Name]
		if p == nil || p.Value.Description != f.Doc {
			t.Errorf("%s is not described", f.Name)
		}
	}
	for _, bad := range []string{`[]`, `{"evt.kind":"exec","evt.type":"x","evt.time":5}`, `{"evt.kind":"exec","evt.type":"x","evt.time":"2026-01-01T00:00:00Z","proc.pid":"1"}`, `{"evt.kind":"exec","evt.type":"x","evt.time":"2026-01-01T00:00:00Z","proc.bogus":1}`} {
		var v any
		if err := json.Unmarshal([]byte(bad), &v); err != nil {
			t.Fatal(err)
		}
		if schema.VisitJSON(v) == nil {
			t.Errorf("the schema accepts %s", bad)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	newServer(newFake(), Config{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{
		`warren_events_total{kind="exec"} 7`,
		`warren_records_lost_total{lane="critical",record="process.exec"} 4`,
		`warren_hook_attached{hook="process.exec",rung="tp_btf"} 1`,
		`warren_hook_attached{hook="process.exit",rung=""} 0`,
		`warren_hook_runs_total{hook="process.exec"} 4096`,
		`warren_hook_sampled_runs_total{hook="process.exec"} 4`,
		`warren_hook_sampled_seconds_total{hook="process.exec"} 2e-06`,
		`warren_subscription_matched_events_total 15`,
		`warren_subscription_lost_events_total 2`,
		`warren_start_time_seconds 1e+09`,
		`warren_subscriptions 2`,
		`warren_history_usable 1`,
		`warren_archive_waiting_segments `,
		"\ngo_goroutines ",
		"\nprocess_open_fds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, m := range metrics {
		if !strings.HasPrefix(m.Name, "warren_") || m.Help == "" {
			t.Errorf("metric %q, help %q", m.Name, m.Help)
		}
		if !strings.Contains(text, "\n"+m.Name) {
			t.Errorf("%s has no value, though the status has everything", m.Name)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not here: what it says of the metrics is not known")
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
