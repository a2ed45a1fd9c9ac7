package api

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are made by hand.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// TestBodyThatNeverComes holds that nobody keeps a connection by a body that is
// announced and not sent, whoever answers.
func TestBodyThatNeverComes(t *testing.T) {
	for what, request := range map[string]string{
		"a length":  "GET /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"pieces":    "GET /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"a refusal": "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"elsewhere": "GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			log := slog.New(slog.DiscardHandler)
			l := &pipes{make(chan net.Conn), make(chan struct{})}
			mux := NewMux([]Route{{Pattern: "/v1/x", Handle: func(w http.ResponseWriter, _ *http.Request, _ Query) error {
				return WriteJSON(w, "answered")
			}}}, log)
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error)
			go func() { served <- Serve(ctx, time.Hour, log, Door{l, mux}) }()
			ours, theirs := net.Pipe()
			l.conns <- theirs
			began := time.Now()
			if _, err := io.WriteString(ours, request); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(bufio.NewReader(ours))
			if took := time.Since(began); err != nil || took > headerTime {
				t.Errorf("%s: the connection ended after %v: %v", what, took, err)
			}
			if strings.Contains(string(answer), "answered") || !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
				t.Errorf("%s: answered %s", what, answer)
			}
			ours.Close()
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
