package channel

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
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

// certificates are files of an authority, and of two that it has signed.
type certificates struct{ ca, serverCert, serverKey, clientCert, clientKey string }

func makeCertificates(t *testing.T) certificates {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	c := certificates{ca: write("ca.crt", "CERTIFICATE", der)}
	sign := func(name string) (cert, key string) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"receiver.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, k.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		kder, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".crt", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", kder)
	}
	c.serverCert, c.serverKey = sign("server")
	c.clientCert, c.clientKey = sign("client")
	return c
}

// TestWebhookTLS believes whom it is told to, and shows its certificate.
func TestWebhookTLS(t *testing.T) {
	c := makeCertificates(t)
	pair, err := tls.LoadX509KeyPair(c.serverCert, c.serverKey)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(c.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	var who atomic.Pointer[string]
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		name := ""
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		who.Store(&name)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	defer srv.Close()
	for _, test := range []struct {
		name string
		tls  TLS
		want string // of the error
		who  string
	}{
		{"unknown authority", TLS{}, "certificate signed by unknown authority", ""},
		{"known", TLS{CA: c.ca}, "", ""},
		{"another name", TLS{CA: c.ca, ServerName: "receiver.example"}, "", ""},
		{"a wrong name", TLS{CA: c.ca, ServerName: "other.example"}, "not other.example", ""},
		{"anybody", TLS{Insecure: true}, "", ""},
		{"both", TLS{CA: c.ca, Cert: c.clientCert, Key: c.clientKey}, "", "client"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openHTTP(t, Config{URL: srv.URL, TLS: test.tls})
			_, err := s.send(t.Context(), [][]byte{[]byte(someAlert)})
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			case test.want == "" && *who.Load() != test.who:
				t.Errorf("the receiver saw %q, want %q", *who.Load(), test.who)
			}
		})
	}
	if _, err := openWebhook(&Config{URL: srv.URL, TLS: TLS{CA: c.clientKey}}, &Env{}); err == nil || !strings.Contains(err.Error(), "has no certificate in PEM") {
		t.Error(err)
	}
}
