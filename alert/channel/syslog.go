package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// facilities are syslog's, by their numbers.
var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

const (
	rfc5424 = "rfc5424"
	// asFalco is what syslog(3) writes, which Falco calls.
	asFalco = "falco"
	// maxDatagram bounds a message that travels in one, in bytes.
	maxDatagram = 8 << 10
)

// A syslog writes to a syslog daemon.
type syslog struct {
	cfg      *Config
	hostname string
	network  string // unix, udp, tcp or tls
	conn     net.Conn
	framed   bool // a stream
}

// parseSyslog reads where a daemon listens: unix:/dev/log, udp://HOST:PORT,
// tcp://HOST:PORT, tls://HOST:PORT.
func parseSyslog(v string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(v, "unix:"); ok && strings.HasPrefix(path, "/") {
		return "unix", path, nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.User != nil || u.Scheme != "udp" && u.Scheme != "tcp" && u.Scheme != "tls" {
		return "", "", fmt.Errorf("%q is none of unix:/PATH, udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT", v)
	}
	return u.Scheme, u.Host, nil
}

func openSyslog(cfg *Config, env *Env) (sender, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Timeout)
	defer cancel()
	s := &syslog{cfg: cfg, hostname: env.Hostname}
	var address string
	var err error
	if s.network, address, err = parseSyslog(cfg.Address); err != nil {
		return nil, err
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	switch s.network {
	case "unix":
		if s.conn, err = d.DialContext(ctx, "unixgram", address); err != nil {
			s.framed = true
			s.conn, err = d.DialContext(ctx, "unix", address)
		}
	case "tls":
		var tc *tls.Config
		if tc, err = cfg.TLS.config(); err != nil {
			return nil, err
		}
		s.framed = true
		s.conn, err = dialTLS(ctx, &d, address, tc)
	default:
		s.framed = s.network == "tcp"
		s.conn, err = d.DialContext(ctx, s.network, address)
	}
	return s, err
}

// verdictTime is how long a daemon that wants a certificate has to refuse ours. One
// that gives out tickets, as many do, has told before that it does not.
const verdictTime = 2 * time.Second

// dialTLS connects to a daemon. In TLS 1.3 one that wants a certificate judges ours,
// or that there is none, after we are through: what is written until then would be
// lost without a word.
func dialTLS(ctx context.Context, d *net.Dialer, address string, tc *tls.Config) (net.Conn, error) {
	ours, asked := tc.GetClientCertificate, false
	tc.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if asked = true; ours == nil {
			return &tls.Certificate{}, nil
		}
		return ours(info)
	}
	var conn net.Conn
	tc.ClientSessionCache = onTicket(func() {
		if conn != nil { // else it is an older TLS, whose daemons judge before
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		}
	})
	conn, err := (&tls.Dialer{NetDialer: d, Config: tc}).DialContext(ctx, "tcp", address)
	if err != nil || !asked {
		return conn, err
	}
	err = conn.SetReadDeadline(time.Now().Add(verdictTime))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		_ = conn.Close()
		return nil, fmt.Errorf("the daemon refuses us: %w", err)
	}
	return conn, nil
}

// An onTicket is called when a daemon gives out a ticket. None is kept.
type onTicket func()

func (onTicket) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (f onTicket) Put(string, *tls.ClientSessionState) { f() }

func (s *syslog) close() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

func (s *syslog) send(ctx context.Context, alerts [][]byte) (int, error) {
	if s.framed {
		// A stream whose other end has gone takes one more message into nowhere.
		if err := gone(s.conn); err != nil {
			return 0, err
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.conn.SetWriteDeadline(deadline); err != nil {
			return 0, err
		}
	}
	for i, a := range alerts {
		m, err := s.message(a)
		if err != nil {
			return i, &refusedError{err}
		}
		switch {
		case !s.framed:
			m = m[:min(len(m), maxDatagram)]
		case s.cfg.Protocol == asFalco:
			m = append(m, '\n')
		default: // RFC 6587: counted
			m = append([]byte(strconv.Itoa(len(m))+" "), m...)
		}
		if _, err := s.conn.Write(m); err != nil {
			return i, err
		}
	}
	return len(alerts), nil
}

// gone says that the other end of a stream has closed it, without waiting for that.
func gone(conn net.Conn) error {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	plain, ok := conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a connection of type %T cannot be looked at", conn)
	}
	raw, err := plain.SyscallConn()
	if err != nil {
		return err
	}
	_, isTCP := conn.(*net.TCPConn)
	var closed bool
	if cerr := raw.Control(func(fd uintptr) {
		var n int
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			err = nil
		case err == nil && n == 0:
			closed = true
		case err == nil && isTCP:
			// What nobody reads, like the tickets of TLS, hides the end behind it.
			var info *unix.TCPInfo
			if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				closed = info.State != unix.BPF_TCP_ESTABLISHED
			}
		}
	}); cerr != nil {
		return cerr
	}
	if err == nil && closed {
		err = io.EOF
	}
	if err != nil {
		return fmt.Errorf("the daemon has closed the connection: %w", err)
	}
	return nil
}

// message is an alert as a syslog daemon reads it.
func (s *syslog) message(alert []byte) ([]byte, error) {
	v, err := viewOf(alert)
	if err != nil {
		return nil, err
	}
	facility := 1
	for i, name := range facilities {
		if name == s.cfg.Facility {
			facility = i
		}
	}
	pri := facility*8 + int(v.level()) // Falco's priorities are syslog's severities
	text := appendLine(nil, alert, s.cfg.Format)
	text = text[:len(text)-1]
	if s.cfg.Protocol == asFalco {
		return append(fmt.Appendf(nil, "<%d>%s %s[%d]: ", pri, v.Time.Local().Format(time.Stamp), s.cfg.Tag, os.Getpid()), text...), nil
	}
	host := strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '-'
		}
		return r
	}, s.hostname)
	if host == "" {
		host = "-"
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace
	data := fmt.Sprintf(`[warren@32473 rule="%s" priority="%s" uuid="%s"]`, quote(v.Rule), quote(v.Priority), quote(v.UUID))
	return append(fmt.Appendf(nil, "<%d>1 %s %s %s %d alert %s ", pri, v.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), host, s.cfg.Tag, os.Getpid(), data), text...), nil
}
