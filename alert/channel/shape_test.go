package channel

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bodyOf is what a channel posts of an alert.
func bodyOf(t *testing.T, open func(*Config, *Env) (sender, error), cfg Config, alert string) (string, error) {
	t.Helper()
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { body, _ = io.ReadAll(r.Body) }))
	defer srv.Close()
	cfg.URL = srv.URL
	s, err := open(&cfg, &Env{Hostname: "h", Version: "v1"})
	if err != nil {
		return "", err
	}
	defer s.close()
	_, err = s.send(t.Context(), [][]byte{[]byte(alert)})
	return string(body), err
}

func TestShapes(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("R0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		open func(*Config, *Env) (sender, error)
		cfg  Config
		want []string
	}{
		{"slack", openSlack, Config{}, []string{`"text":"a shell \u0026lt;b\u0026gt;"`, `"title":"Warning: Shell"`, `{"short":true,"title":"proc.name","value":"sh"}`, `"footer":"h u-1"`, `"ts":1767323045`, `"color":"#e0a000"`}},
		{"teams", openTeams, Config{}, []string{`"text":"a shell \u003cb\u003e"`, `"type":"AdaptiveCard"`, `{"title":"proc.name","value":"sh"}`, `"color":"warning"`}},
		{"pagerduty", openPagerDuty, Config{KeyFile: key}, []string{`"routing_key":"R0"`, `"dedup_key":"u-1"`, `"severity":"warning"`, `"summary":"Shell: a shell \u003cb\u003e"`, `"source":"h"`, `"timestamp":"2026-01-02T03:04:05.000000006Z"`, `"proc.name":"sh"`}},
		{"template", openWebhook, Config{Template: `{"t":{{json .Text}},"p":{{json (index .Fields "proc.name")}},"none":{{json .Fields.x}},"tags":"{{join .Tags "+"}}","at":"{{.Time.Format "15:04"}}"}`},
			[]string{`{"t":"a shell \u003cb\u003e","p":"sh","none":null,"tags":"b+a","at":"03:04"}`}},
		{"otlp", openOTLP, Config{}, []string{`"resourceLogs"`, `{"key":"host.name","value":{"stringValue":"h"}}`, `"severityNumber":13`, `"severityText":"Warning"`, `"timeUnixNano":"1767323045000000006"`,
			`"body":{"stringValue":"a shell \u003cb\u003e"}`, `{"key":"proc.name","value":{"stringValue":"sh"}}`, `{"key":"alert.tags","value":{"arrayValue":{"values":[{"stringValue":"b"},{"stringValue":"a"}]}}}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			body, err := bodyOf(t, test.open, test.cfg, someAlert)
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid([]byte(body)) {
				t.Fatalf("no JSON: %s", body)
			}
			for _, want := range test.want {
				if !strings.Contains(body, want) {
					t.Errorf("no %s in %s", want, body)
				}
			}
			var no *refusedError
			if _, err := bodyOf(t, test.open, test.cfg, "{"); !errors.As(err, &no) {
				t.Errorf("of no alert: %v", err)
			}
		})
	}
	var no *refusedError
	if _, err := bodyOf(t, openPagerDuty, Config{KeyFile: key + "x"}, someAlert); err == nil || errors.As(err, &no) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := bodyOf(t, openWebhook, Config{Template: `{{define "x"}}` + strings.Repeat("x", 1000) + `{{template "x"}}{{end}}{{template "x"}}`}, someAlert); !errors.As(err, &no) {
		t.Errorf("an endless template: %v", err)
	}
}

// TestOTLPRejected finds the log that a receiver does not want.
func TestOTLPRejected(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); strings.Contains(string(b), "bad") {
			_, _ = io.WriteString(w, `{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"spicy"}}`)
			return
		}
		_, _ = io.WriteString(w, `{"partialSuccess":{}}`)
	}))
	defer srv.Close()
	s, err := openOTLP(&Config{URL: srv.URL}, &Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	good, bad := []byte(someAlert), []byte(strings.Replace(someAlert, "u-1", "bad", 1))
	var no *refusedError
	if n, err := s.send(t.Context(), [][]byte{good, good}); n != 2 || err != nil {
		t.Error(n, err)
	}
	if n, err := s.send(t.Context(), [][]byte{good, bad, good}); n != 1 || !errors.As(err, &no) || !strings.Contains(err.Error(), "spicy") {
		t.Error(n, err)
	}
}

// TestSyslog reads what a daemon gets, by each way.
func TestSyslog(t *testing.T) {
	const structured = `h warren [0-9]+ alert [warren@32473 rule="Shell" priority="Warning" uuid="u-1"] 12:00:00.000000000: Warning a shell <b>`
	path := filepath.Join(t.TempDir(), "log")
	unix, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	open := func(cfg Config) sender {
		t.Helper()
		cfg.Type = "syslog"
		cfg = cfg.withDefaults()
		s, err := openSyslog(&cfg, &Env{Hostname: "h"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.close)
		return s
	}
	send := func(s sender) {
		t.Helper()
		if n, err := s.send(t.Context(), [][]byte{[]byte(someAlert)}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	datagram := func(c net.PacketConn) string {
		t.Helper()
		b := make([]byte, 64<<10)
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	is := func(what, got, prefix, suffix string) {
		t.Helper()
		if !strings.HasPrefix(got, prefix) || !strings.HasSuffix(got, suffix) {
			t.Errorf("%s: %q", what, got)
		}
	}
	send(open(Config{Address: "unix:" + path}))
	_, data, _ := strings.Cut(structured, "] ")
	is("unix", datagram(unix), "<12>1 2026-01-02T03:04:05.000000Z h warren ", `alert [warren@32473 rule="Shell" priority="Warning" uuid="u-1"] `+data)
	send(open(Config{Address: "udp://" + udp.LocalAddr().String(), Protocol: asFalco, Facility: "local1", Tag: "falco"}))
	is("udp", datagram(udp), "<140>", "]: "+data)

	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	s := open(Config{Address: "tcp://" + tcp.Addr().String(), Format: formatJSON})
	send(s)
	c := <-accepted
	r := bufio.NewReader(c)
	count, err := r.ReadString(' ')
	if err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, len(someAlert)+len("<12>1 2026-01-02T03:04:05.000000Z h warren "))
	if _, err := io.ReadFull(r, rest); err != nil {
		t.Fatal(err)
	}
	is("tcp", string(rest), "<12>1 2026-01-02T03:04:05.000000Z h warren ", "")
	if n := len(count); n < 3 || n > 5 {
		t.Errorf("counted %q", count)
	}
	_ = c.Close()
	notices(t, s)
}

// notices holds that a sender whose daemon has gone sends it nothing more.
func notices(t *testing.T, s sender) {
	t.Helper()
	conn := s.(*syslog).conn
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	// What the daemon has said lies before the end, and stays where it is.
	eventually(t, "the connection is open", func() bool {
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var events int16
		if err := raw.Control(func(fd uintptr) {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			if _, err := unix.Poll(poll, 0); err == nil {
				events = poll[0].Revents
			}
		}); err != nil {
			t.Fatal(err)
		}
		return events&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	if n, err := s.send(t.Context(), [][]byte{[]byte(someAlert)}); n != 0 || err == nil || !strings.Contains(err.Error(), "the daemon has closed the connection") {
		t.Errorf("%T: %d, %v", s.(*syslog).conn, n, err)
	}
}

// eventually waits for a state.
func eventually(t *testing.T, not string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal(not)
		}
	}
}

// TestSyslogGone notices daemons that have gone, though they said something before.
func TestSyslogGone(t *testing.T) {
	certificates := makeCertificates(t)
	pair, err := tls.LoadX509KeyPair(certificates.serverCert, certificates.serverKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"tls", "tcp", "unix"} {
		network, address := "tcp", "127.0.0.1:0"
		if scheme == "unix" {
			network, address = "unix", filepath.Join(t.TempDir(), "log")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cfg := Config{Type: "syslog", Address: scheme + "://" + l.Addr().String()}
		switch scheme {
		case "tls":
			cfg.TLS.CA = certificates.ca
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
		case "unix":
			cfg.Address = "unix:" + address
		}
		end := make(chan struct{})
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if scheme == "tcp" {
				_, _ = io.WriteString(c, "welcome")
			}
			defer c.Close()
			plain := c
			if c, ok := c.(*tls.Conn); ok {
				_ = c.Handshake()
				plain = c.NetConn()
			}
			<-end
			// A close would be a reset: nothing was read.
			_ = plain.(interface{ CloseWrite() error }).CloseWrite()
			<-t.Context().Done()
		}()
		cfg = cfg.withDefaults()
		s, err := openSyslog(&cfg, &Env{Hostname: "h"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		for range 2 {
			if n, err := s.send(t.Context(), [][]byte{[]byte(someAlert)}); n != 1 || err != nil {
				t.Errorf("%s: %d, %v", scheme, n, err)
			}
		}
		close(end)
		notices(t, s)
	}
}

// TestProgram hands alerts to one that lives on, and to one for each.
func TestProgram(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, alive := range []bool{true, false} {
		_ = os.Remove(out)
		s, err := openProgram(&Config{Program: "echo new >>'" + out + "'; cat >>'" + out + "'", KeepAlive: alive, Format: formatJSON}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n, err := s.send(t.Context(), [][]byte{[]byte("a"), []byte("b")}); n != 2 || err != nil {
				t.Fatal(n, err)
			}
		}
		want := "new\na\nnew\nb\nnew\na\nnew\nb\n"
		if alive {
			want = "new\na\nb\na\nb\n"
			// Who is slow to read is ended by close.
			eventually(t, "the program does not read", func() bool {
				b, err := os.ReadFile(out)
				return err == nil && len(b) >= len(want)
			})
		}
		s.close()
		b, err := os.ReadFile(out)
		if err != nil || string(b) != want {
			t.Errorf("keep-alive %t: %q, %v", alive, b, err)
		}
	}
	s, err := openProgram(&Config{Program: "cat >/dev/null; echo no >&2; exit 3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.send(t.Context(), [][]byte{[]byte("a")}); n != 0 || err == nil || err.Error() != "exit status 3: no" {
		t.Error(n, err)
	}
	// What a program leaves behind does not make it fail.
	for _, alive := range []bool{false, true} {
		s, err := openProgram(&Config{Program: "read -r line; sleep 5 & exit 0", KeepAlive: alive}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.send(t.Context(), [][]byte{[]byte("a")}); n != 1 || err != nil {
			t.Errorf("keep-alive %t: %d, %v", alive, n, err)
		}
		if alive {
			if err := <-s.(*program).over; err != nil {
				t.Errorf("it ends: %v", err)
			}
		}
	}
}
