package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

// fakeEndpoints are a datapath that is a map.
type fakeEndpoints struct {
	mu   sync.Mutex
	has  map[Attachment]Endpoint
	err  error
	hang bool
}

func (f *fakeEndpoints) AddEndpoint(ctx context.Context, e Endpoint) error {
	if f.hang {
		<-ctx.Done()
		return fmt.Errorf("wait for the policy of %s: %w", e.PodName, ctx.Err())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.has[e.Attachment] = e
	}
	return f.err
}

func (f *fakeEndpoints) DeleteEndpoint(_ context.Context, a Attachment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		delete(f.has, a)
	}
	return f.err
}

func (f *fakeEndpoints) CheckEndpoint(_ context.Context, a Attachment) (Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.has[a]
	if !ok && f.err == nil {
		return e, NotFound("no endpoint %s", a)
	}
	return e, f.err
}

func (f *fakeEndpoints) ListEndpoints(context.Context) (list []Endpoint, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.has {
		list = append(list, e)
	}
	return list, f.err
}

func anEndpoint(id string) Endpoint {
	return Endpoint{
		Attachment: Attachment{id, "eth0"}, Netns: "/run/netns/x", PodUID: "u", PodNamespace: "shop", PodName: "db", HostInterface: "wrn012345678901", HostIndex: 7,
		Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, MAC: MAC{2, 1}, HostMAC: MAC{2, 2},
	}
}

var sameAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestEndpoints(t *testing.T) {
	f := &fakeEndpoints{has: map[Attachment]Endpoint{}}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(newFake(), Config{Endpoints: f})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, tcp) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := NewClient(socket)
	want := anEndpoint("one")
	for range 2 {
		if err := c.AddEndpoint(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.CheckEndpoint(t.Context(), want.Attachment); err != nil || cmp.Diff(want, got, sameAddrs) != "" {
		t.Errorf("%v %v", got, err)
	}
	odd := anEndpoint("a.b_c-%2e?&=")
	if err := c.AddEndpoint(t.Context(), odd); err != nil {
		t.Fatal(err)
	}
	if got, err := c.ListEndpoints(t.Context()); err != nil || cmp.Diff([]Endpoint{odd, want}, got, sameAddrs) != "" {
		t.Errorf("%v %v", got, err)
	}
	for range 2 {
		for _, e := range []Endpoint{want, odd} {
			if err := c.DeleteEndpoint(t.Context(), e.Attachment); err != nil {
				t.Error(err)
			}
		}
	}
	if got, err := c.ListEndpoints(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	is := func(err error, status int, words string) {
		t.Helper()
		var e *Error
		if !errors.As(err, &e) || e.Status != status || !strings.Contains(e.Error(), words) {
			t.Errorf("%v, want %d %q", err, status, words)
		}
	}
	_, err = c.CheckEndpoint(t.Context(), want.Attachment)
	is(err, 404, "one/eth0")
	f.err = Unavailable("not yet")
	is(c.AddEndpoint(t.Context(), want), 503, "not yet")
	_, err = c.ListEndpoints(t.Context())
	is(err, 503, "not yet")
	f.err = errors.New("broken")
	is(c.DeleteEndpoint(t.Context(), want.Attachment), 500, "broken")
	is(c.AddEndpoint(t.Context(), Endpoint{}), 400, "container")
	// The network is no way in, and nothing else takes a body.
	for _, url := range []string{"http://" + tcp.Addr().String() + "/v1/endpoints", "http://" + tcp.Addr().String() + "/v1/endpoints/a/eth0"} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	_, err = c.send(t.Context(), http.MethodPost, "/status", []byte("{}"))
	is(err, 405, "POST")
	_, err = c.send(t.Context(), http.MethodPost, PathEndpoints, bytes.Repeat([]byte(" "), maxEndpoint+1))
	is(err, 405, "POST")
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// Others than root may look at endpoints and not change them.
func TestRootEndpointsAreRoots(t *testing.T) {
	testkit.NeedRoot(t)
	f := &fakeEndpoints{has: map[Attachment]Endpoint{}}
	h := &endpoints{f, newServer(newFake(), Config{Endpoints: f})}
	for uid, code := range map[int]int{0: 200, 1000: 403} {
		a, b := socketPair(t, uid)
		defer a.Close()
		defer b.Close()
		for _, method := range []string{http.MethodPost, http.MethodDelete} {
			target, body := "/v1/endpoints", mustJSON(t, anEndpoint("a"))
			if method == http.MethodDelete {
				target, body = "/v1/endpoints/a/eth0", ""
			}
			req := httptest.NewRequest(method, target, strings.NewReader(body))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req.WithContext(withConn(req.Context(), a)))
			if w.Code != code {
				t.Errorf("uid %d %s: %d %s", uid, method, w.Code, w.Body)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/endpoints", nil).WithContext(withConn(t.Context(), a)))
		if w.Code != 200 {
			t.Errorf("uid %d: %d %s", uid, w.Code, w.Body)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The document has what endpoints answer, and nothing else of them.
func TestEndpointsAndDocument(t *testing.T) {
	f := &fakeEndpoints{has: map[Attachment]Endpoint{}}
	s := newServer(newFake(), Config{Endpoints: f})
	h := &endpoints{f, s}
	b, err := s.document()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	had := map[string]bool{}
	ask := func(method, target, body string, code int) {
		t.Helper()
		request := func() *http.Request {
			req := httptest.NewRequest(method, "http://localhost"+target, strings.NewReader(body))
			if body != "" {
				req.Header.Set("Content-Type", "application/json")
			}
			return req
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request())
		if w.Code != code {
			t.Errorf("%s %s: %d, want %d: %s", method, target, w.Code, code, w.Body)
		}
		req := request()
		route, params, err := router.FindRoute(req)
		if err != nil {
			if code != 405 && code != 404 {
				t.Errorf("%s %s: %v", method, target, err)
			}
			return
		}
		had[fmt.Sprint(method, route.Path, code)] = true
		in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route}
		if code == 200 {
			if err := openapi3filter.ValidateRequest(req.Context(), in); err != nil {
				t.Errorf("%s %s is forbidden by the document: %v", method, target, err)
			}
		}
		err = openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: in, Status: w.Code, Header: w.Header(), Body: io.NopCloser(w.Body), Options: &openapi3filter.Options{IncludeResponseStatus: true},
		})
		if err != nil {
			t.Errorf("%s %s: %v", method, target, err)
		}
	}
	const all, one = "/v1/endpoints", "/v1/endpoints/a/eth0"
	whole := mustJSON(t, anEndpoint("a"))
	ask("POST", all, whole, 200)
	ask("GET", all, "", 200)
	ask("GET", one, "", 200)
	ask("DELETE", one, "", 200)
	ask("GET", one, "", 404)
	ask("GET", "/v1/endpoints/a", "", 404)
	ask("GET", "/v1/endpoints/a/b/c", "", 404)
	ask("GET", "/v1/endpoints/%2e%2e/eth0", "", 400)
	ask("DELETE", "/v1/endpoints/a/0123456789abcdef", "", 400)
	ask("GET", all+"?x=1", "", 400)
	ask("POST", all, whole+whole, 400)
	ask("PUT", all, "", 405)
	ask("POST", one, whole, 405)
	ask("DELETE", all, "", 405)
	f.err = Unavailable("there is no network")
	for _, c := range [][3]string{{"POST", all, whole}, {"GET", all}, {"GET", one}, {"DELETE", one}} {
		ask(c[0], c[1], c[2], 503)
	}
	had["POST"+all+"403"], had["DELETE/v1/endpoints/{container}/{interface}403"] = true, true // TestRootEndpointsAreRoots
	for path, item := range doc.Paths.Map() {
		if !strings.HasPrefix(path, all) {
			continue
		}
		for method, op := range item.Operations() {
			for code := range op.Responses.Map() {
				if !had[method+path+code] {
					t.Errorf("%s %s: nothing answers %s, which the document promises", method, path, code)
				}
			}
		}
	}
	if len(loadDocument(t).Paths.Map()["/v1/status"].Operations()) != 1 || loadDocument(t).Paths.Value(all) != nil {
		t.Error("an agent without a network describes one")
	}
	// Who is not done in time is asked again.
	f.hang = true
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", all, strings.NewReader(whole)).WithContext(ctx))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "not done") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func FuzzEndpoint(f *testing.F) {
	b, err := json.Marshal(anEndpoint("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, "/a/eth0")
	f.Add([]byte(`{"containerID":"a","interface":"b","addrs":["::ffff:1.2.3.4"],"mac":"02:00:00:00:00:01"}`), "/%2e%2e/x")
	f.Fuzz(func(t *testing.T, b []byte, path string) {
		if e, err := parseEndpoint(b); err == nil {
			again, err := parseEndpoint([]byte(mustJSON(t, e)))
			if err != nil || cmp.Diff(e, again, sameAddrs) != "" {
				t.Errorf("%+v became %+v: %v", e, again, err)
			}
		}
		if len(path) == 0 || path[0] != '/' {
			return
		}
		if a, err := attachmentOf(path[1:]); err == nil {
			back, err := attachmentOf(strings.TrimPrefix(a.path(), PathEndpoints+"/"))
			if err != nil || *back != *a {
				t.Errorf("%+v became %+v: %v", a, back, err)
			}
		}
	})
}

// socketPair is a connection whose other end another user has.
func socketPair(t *testing.T, uid int) (ours, theirs net.Conn) {
	t.Helper()
	path := fmt.Sprintf("@warren-test-%d", os.Getpid())
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			// Of this thread alone; the process stays root.
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				err = errno
			}
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		if err == nil {
			f := os.NewFile(uintptr(fd), "socket")
			theirs, err = net.FileConn(f)
			err = errors.Join(err, f.Close())
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}
