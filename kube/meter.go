package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Stats are the requests of a Client since its start, by resource.
type Stats struct {
	// Server is its URL, without credentials.
	Server string
	// Connected is true while the server answers; Since is when it began to, or
	// to be away.
	Connected bool
	Since     time.Time
	Resources map[string]ResourceStats
}

// ResourceStats is what one resource costs.
type ResourceStats struct {
	Requests, Failures uint64
	Objects            uint64 // of lists
	Events             uint64 // of watches; the first objects of a streamed list too
	Restarts           uint64 // how often all of it was read again
	Bytes              uint64 // of answers' bodies, unpacked
	// AwaySince is since when it cannot be read; zero while it can.
	AwaySince time.Time
	LastError string // why; the last reason there was, while it can
}

// meter counts what a Client asks. Any goroutine may use it.
type meter struct {
	server string
	now    func() time.Time

	mu        sync.Mutex
	connected bool
	asked     bool // at least once
	since     time.Time
	listener  func(connected bool, err error) // or nil
	resources map[string]*counter
}

// counter is what a resource costs.
type counter struct {
	requests, failures, objects, events, lists, bytes atomic.Uint64

	mu        sync.Mutex
	awaySince time.Time
	lastError string
}

func newMeter(server string, now func() time.Time) *meter {
	return &meter{server: server, now: now, since: now(), resources: make(map[string]*counter)}
}

// of returns the counter of a resource.
func (m *meter) of(resource string) *counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.resources[resource]
	if c == nil {
		c = &counter{}
		m.resources[resource] = c
	}
	return c
}

// answers says whether the server does, or with which error it does not. Of a
// request that began before the last change nothing is learned.
func (m *meter) answers(began time.Time, err error) {
	m.mu.Lock()
	connected := err == nil
	news := m.connected != connected || !m.asked
	if m.asked && news && began.Before(m.since) {
		m.mu.Unlock()
		return
	}
	if m.connected != connected {
		m.connected, m.since = connected, m.now()
	}
	m.asked = true
	listener := m.listener
	m.mu.Unlock()
	if news && listener != nil {
		listener(connected, err)
	}
}

// listen lets somebody know when the server comes and goes; nil nobody.
func (m *meter) listen(f func(connected bool, err error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listener = f
}

func (m *meter) isConnected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.connected
}

// failed and works say whether a resource can be read.
func (c *counter) failed(err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastError = err.Error()
	if c.awaySince.IsZero() {
		c.awaySince = now
	}
}

func (c *counter) works() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaySince = time.Time{}
}

// Stats says what the client has asked.
func (c *Client) Stats() Stats {
	m := c.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{Server: m.server, Connected: m.connected, Since: m.since, Resources: make(map[string]ResourceStats, len(m.resources))}
	for name, c := range m.resources {
		s.Resources[name] = c.stats()
	}
	return s
}

func (c *counter) stats() ResourceStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := ResourceStats{
		Requests: c.requests.Load(), Failures: c.failures.Load(), Objects: c.objects.Load(), Events: c.events.Load(),
		Bytes: c.bytes.Load(), AwaySince: c.awaySince, LastError: c.lastError,
	}
	if n := c.lists.Load(); n > 1 {
		s.Restarts = n - 1
	}
	return s
}

// meteredTransport counts the requests of a client, and the bytes of their answers.
type meteredTransport struct {
	next  http.RoundTripper
	meter *meter
}

// RoundTrip implements http.RoundTripper.
func (t *meteredTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resource, _ := r.Context().Value(resourceKey{}).(string)
	c := t.meter.of(resource)
	c.requests.Add(1)
	began := t.meter.now()
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		// Who gave up has learned nothing of the server; who waited for too long has.
		if cause := context.Cause(r.Context()); cause == nil || errors.Is(cause, context.DeadlineExceeded) {
			c.failures.Add(1)
			c.failed(err, t.meter.now())
			t.meter.answers(began, err)
		}
		return nil, err
	}
	switch {
	case resp.StatusCode >= 502 && resp.StatusCode <= 504:
		// What stands in front of a server says that it is away.
		c.failures.Add(1)
		t.meter.answers(began, fmt.Errorf("it answers %s", resp.Status))
	case resp.StatusCode >= 400:
		c.failures.Add(1)
		t.meter.answers(began, nil)
	default:
		c.works()
		t.meter.answers(began, nil)
	}
	resp.Body = &meteredBody{resp.Body, c}
	return resp, nil
}

// WrappedRoundTripper lets client-go find what it can close idle connections of.
func (t *meteredTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

type meteredBody struct {
	io.ReadCloser
	counter *counter
}

// Read implements io.Reader.
func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.counter.bytes.Add(uint64(n))
	return n, err
}
