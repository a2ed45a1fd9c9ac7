package channel

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const someAlert = `{"hostname":"h","output":"12:00:00.000000000: Warning a shell <b>","output_fields":{"evt.time":1,"proc.name":"sh","k8s.ns.name":null},"priority":"Warning","rule":"Shell","source":"syscall","tags":["b","a"],"time":"2026-01-02T03:04:05.000000006Z","uuid":"u-1"}`

// openHTTP opens a webhook.
func openHTTP(t *testing.T, cfg Config) sender {
	t.Helper()
	s, err := openWebhook(&cfg, &Env{Version: "v1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// TestWebhook sends what Falco's HTTP output sends.
func TestWebhook(t *testing.T) {
	var got *http.Request
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		in := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(in)
			if err != nil {
				t.Error(err)
				return
			}
			in = z
		}
		body, _ = io.ReadAll(in)
	}))
	defer srv.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("Bearer secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, compress := range []bool{false, true} {
		s := openHTTP(t, Config{URL: srv.URL + "/x?y=z", Compress: compress, Headers: map[string]string{"X-A": "b"}, HeaderFiles: map[string]string{"Authorization": token}})
		if n, err := s.send(t.Context(), [][]byte{[]byte(someAlert)}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if string(body) != someAlert {
			t.Errorf("sent %s", body)
		}
		h := got.Header
		if got.Method != "POST" || got.RequestURI != "/x?y=z" || h.Get("Content-Type") != "application/json" || h.Get("User-Agent") != "warren/v1" || h.Get("X-A") != "b" || h.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s %s %v", got.Method, got.RequestURI, h)
		}
	}
}

// TestWebhookAnswers says what each answer means.
func TestWebhookAnswers(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var answer http.HandlerFunc
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer srv.Close()
	status := func(code int, said string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, said)
		}
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   string // of the error
		refuse bool
		after  time.Duration
	}{
		{"taken", status(204, ""), "", false, 0},
		{"fails", status(500, "oh\x1b[31m\n no"), "answers 500 Internal Server Error: oh[31m  no", false, 7 * time.Second},
		{"busy", status(429, ""), "answers 429 Too Many Requests", false, 7 * time.Second},
		{"no such path", status(404, ""), "answers 404", false, 7 * time.Second},
		{"refused", status(400, "invalid_payload"), "answers 400 Bad Request: invalid_payload", true, 0},
		{"too large", status(413, ""), "answers 413", true, 0},
		{"sent on", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/secret", http.StatusTemporaryRedirect)
		}, "it sends us on to " + other.URL + ", which is not followed", false, 0},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil { // until we have gone
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "", false, 0},
		{"endless head", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		}, "server response headers exceeded", false, 0},
		{"closes", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer = test.answer
			s := openHTTP(t, Config{URL: srv.URL + "/hook/SECRET"})
			n, err := s.send(t.Context(), [][]byte{[]byte(someAlert)})
			if test.want == "" {
				if n != 1 || err != nil {
					t.Fatal(n, err)
				}
				return
			}
			if n != 0 || err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "secret") {
				t.Fatalf("%d, %v", n, err)
			}
			var no *refusedError
			var later *laterError
			if errors.As(err, &no) != test.refuse || errors.As(err, &later) != (test.after > 0) || later != nil && later.after != test.after {
				t.Errorf("%T: %v", err, err)
			}
		})
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// TestWebhookHangs gives up a receiver that does not answer.
func TestWebhookHangs(t *testing.T) {
	end := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { <-end }))
	defer srv.Close()
	defer close(end)
	s := openHTTP(t, Config{URL: srv.URL + "/SECRET"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if n, err := s.send(ctx, [][]byte{[]byte(someAlert)}); n != 0 || !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "SECRET") {
		t.Error(n, err)
	}
}
