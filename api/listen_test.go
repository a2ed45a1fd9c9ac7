package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, want a socket with 0660", fi.Mode())
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	_, err = ListenUnix(path)
	if want := fmt.Sprintf("listen on %s: process %d listens there already", path, os.Getpid()); err == nil || err.Error() != want {
		t.Errorf("a living socket: %v, want %s", err, want)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}

	// An agent died and left its socket.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	next, err := ListenUnix(path)
	if err != nil {
		t.Fatalf("a dead socket is not replaced: %v", err)
	}
	// Another took the place: Close leaves it alone.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	next.Close()
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the other's socket is gone: %v", err)
	}
}

func TestListenUnixRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                                "something that is no socket has this name",
		link:                                "something that is no socket has this name",
		filepath.Join(dir, "no", "s"):       "no such file or directory",
		"/" + strings.Repeat("long/", 30):   "the path has 151 bytes, sockets can have 107",
		filepath.Join(file, "below-a-file"): "not a directory",
	} {
		if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "x" {
		t.Error("the file was touched")
	}
}

func TestListenLoopback(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.9.9.9:0"} {
		l, err := ListenLoopback(t.Context(), addr, "--http")
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		l.Close()
	}
	for addr, want := range map[string]string{
		"0.0.0.0:0":     "not an address of loopback",
		":0":            "not an address of loopback",
		"[::]:0":        "not an address of loopback",
		"192.0.2.1:80":  "not an address of loopback",
		"example.org:1": "not an address of loopback",
		"127.0.0.1":     "want HOST:PORT",
	} {
		if _, err := ListenLoopback(t.Context(), addr, "--http"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", addr, err, want)
		}
	}
	l, err := ListenTCP(t.Context(), "0.0.0.0:0", "--hub-listen")
	if err != nil {
		t.Fatalf("public: %v", err)
	}
	defer l.Close()
	if _, err := ListenTCP(t.Context(), l.Addr().String(), "--hub-listen"); err == nil || !strings.Contains(err.Error(), "give another with --hub-listen, or --hub-listen off") {
		t.Errorf("in use: %v", err)
	}
}

func TestLocal(t *testing.T) {
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	loopback := local(ok, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7117})
	public := local(ok, &net.TCPAddr{IP: net.IPv4zero, Port: 7117})
	for _, tt := range []struct {
		name   string
		h      http.Handler
		host   string
		header string
		want   int
	}{
		{"address", loopback, "127.0.0.1:7117", "", 200},
		{"name", loopback, "localhost:7117", "", 200},
		{"no port", loopback, "localhost", "", 200},
		{"IPv6", loopback, "[::1]:7117", "", 200},
		{"IPv6 without port", loopback, "[::1]", "", 200},
		{"rebound name", loopback, "evil.example:7117", "", 403},
		{"looks like it", loopback, "localhost.evil.example", "", 403},
		{"other address", loopback, "192.0.2.1:7117", "", 403},
		{"none", loopback, "", "", 403},
		{"same origin", loopback, "localhost:7117", "Sec-Fetch-Site: same-origin", 200},
		{"typed by a person", loopback, "localhost:7117", "Sec-Fetch-Site: none", 200},
		{"script of another site", loopback, "localhost:7117", "Sec-Fetch-Site: cross-site", 403},
		{"script of another port", loopback, "localhost:7117", "Sec-Fetch-Site: same-site", 403},
		{"public by address", public, "192.0.2.1:7117", "", 200},
		{"public by name", public, "evil.example:7117", "", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := httptest.NewRequest("GET", "/", nil)
			req.Host = tt.host
			if k, v, ok := strings.Cut(tt.header, ": "); ok {
				req.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			tt.h.ServeHTTP(w, req)
			if w.Code != tt.want {
				t.Errorf("%d, want %d: %s", w.Code, tt.want, w.Body)
			}
		})
	}
	req := httptest.NewRequest("GET", "/", nil)
	req.Host = "localhost"
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	w := httptest.NewRecorder()
	loopback.ServeHTTP(w, req)
	if w.Code != 200 {
		t.Errorf("following a link: %d", w.Code)
	}
}

func TestClientWithoutAgent(t *testing.T) {
	dir := t.TempDir()
	file, dead := filepath.Join(dir, "file"), filepath.Join(dir, "dead")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no agent listens on PATH: start one with `warren agent`",
		dead:                       "no agent listens on PATH any more: start one with `warren agent`",
		file:                       "PATH is not the socket of an agent",
	} {
		want = strings.Replace(want, "PATH", path, 1)
		_, err := NewClient(path).Status(t.Context())
		if e := (*NoAgentError)(nil); !errors.As(err, &e) || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
		for _, err := range NewClient(path).Events(t.Context(), Question{}) {
			if err == nil || err.Error() != want {
				t.Errorf("events: got %v\nwant %s", err, want)
			}
		}
	}
	denied := &NoAgentError{"/s", &os.SyscallError{Syscall: "connect", Err: syscall.EACCES}}
	if want := "no permission to ask the agent on /s: only root and the socket's group may; try sudo"; denied.Error() != want {
		t.Errorf("got %s\nwant %s", denied, want)
	}
	late := NewClient("/s").broken(t.Context(), os.ErrDeadlineExceeded)
	if want := "the agent on /s did not begin its answer within 30s: it has much to do, or much to read; ask again, or for less, as a shorter time"; late.Error() != want {
		t.Errorf("got %s\nwant %s", late, want)
	}
}

func TestClientOfSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/status":
			http.Error(w, "<html>", http.StatusBadGateway)
		default:
			_, _ = w.Write([]byte("{}\n{\"half"))
			panic(http.ErrAbortHandler)
		}
	}
	s := &http.Server{Handler: http.HandlerFunc(answer)}
	defer s.Close()
	go func() { _ = s.Serve(l) }()
	c := NewClient(path)
	_, err = c.Status(t.Context())
	if want := "what listens on " + path + " is no agent: it answered 502 Bad Gateway to /v1/status"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	var last error
	for _, err := range c.Events(t.Context(), Question{}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "has hung up") {
		t.Errorf("a torn stream: %v", last)
	}
}
