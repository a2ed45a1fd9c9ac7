package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The names that certificates of an installation have, beside others.
const (
	AgentName  = "agent.warren"
	HubName    = "hub.warren"
	HubbleName = "hubble.warren" // Hubble's relay and user interface
)

// The files of [Credentials], named as Kubernetes names those of a secret.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
	rootFile = "ca.crt"
)

// Credentials are who we are to others, and whom we believe: a certificate with
// its key and the authorities of others' certificates, read from the files
// tls.crt, tls.key and ca.crt of a directory. They are read again when they
// change, at the next connection: a rotation needs no restart. Files that cannot
// be used leave in force what was; the log says so. Connections that exist are
// not touched.
//
// While authorities change, ca.crt holds the old one and the new one. Any
// goroutine may use Credentials.
type Credentials struct {
	dir     string
	log     *slog.Logger
	refused atomic.Uint64

	mu   sync.Mutex
	keys *keys
	seen [3]os.FileInfo // the files that were read last, whether they could be used or not
	err  error          // why the last ones could not

	// Of what is refused a line a second is logged: who comes often must not
	// fill the disk.
	logged  time.Time
	skipped int
}

// keys are credentials at one time; they never change.
type keys struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

// same reports whether two looks at a file saw one version of it; nil is a file
// that was away.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// OpenCredentials reads the files of a directory, all of which must be there
// and go together.
func OpenCredentials(dir string, log *slog.Logger) (*Credentials, error) {
	c := &Credentials{dir: dir, log: log}
	c.seen = c.stat()
	keys, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	c.keys = keys
	c.warnOfAge()
	return c, nil
}

// CredentialsState is what there is to know of credentials.
type CredentialsState struct {
	// Expires is when our certificate does.
	Expires time.Time
	// Err says why the files, which have changed, are not used; nil where they
	// are.
	Err error
	// Refused counts those who came without a certificate that we believe.
	Refused uint64
}

// State returns how things are.
func (c *Credentials) State() CredentialsState {
	k := c.current()
	c.mu.Lock()
	defer c.mu.Unlock()
	return CredentialsState{Expires: k.cert.Leaf.NotAfter, Err: c.err, Refused: c.refused.Load()}
}

// GetCertificate returns our certificate as it is now: a member of
// [tls.Config].
func (c *Credentials) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.current().cert, nil
}

// current returns what is to be used now.
func (c *Credentials) current() *keys {
	c.mu.Lock()
	defer c.mu.Unlock()
	files := c.stat()
	if slices.EqualFunc(files[:], c.seen[:], same) {
		return c.keys
	}
	c.seen = files
	keys, err := c.read()
	if c.err = err; err != nil {
		c.log.Warn("certificates have changed and cannot be used: the former ones stay in force", "dir", c.dir, "err", err)
		return c.keys
	}
	c.keys = keys
	c.log.Info("certificates have changed", "dir", c.dir, "expires", keys.cert.Leaf.NotAfter)
	c.warnOfAge()
	return c.keys
}

func (c *Credentials) warnOfAge() {
	leaf := c.keys.cert.Leaf
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		c.log.Warn("our certificate is not valid now: nobody will believe it", "dir", c.dir, "from", leaf.NotBefore, "until", leaf.NotAfter)
	}
}

// stat returns which versions of the files there are. It comes before they are
// read: a change in between is seen the next time.
func (c *Credentials) stat() (files [3]os.FileInfo) {
	for i, name := range []string{certFile, keyFile, rootFile} {
		if fi, err := os.Stat(filepath.Join(c.dir, name)); err == nil {
			files[i] = fi
		}
	}
	return files
}

// maxPEM bounds a file of certificates: what is larger is something else.
const maxPEM = 1 << 20

func (c *Credentials) read() (*keys, error) {
	var files [3][]byte
	for i, name := range []string{certFile, keyFile, rootFile} {
		path := filepath.Join(c.dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if len(b) > maxPEM {
			return nil, fmt.Errorf("%s: %d bytes are too much for certificates", path, len(b))
		}
		files[i] = b
	}
	cert, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", filepath.Join(c.dir, certFile), keyFile, err)
	}
	k := &keys{cert: cert, roots: x509.NewCertPool()}
	if !k.roots.AppendCertsFromPEM(files[2]) {
		return nil, fmt.Errorf("%s: no certificate in PEM", filepath.Join(c.dir, rootFile))
	}
	return k, nil
}

// Verify returns nil for a client's certificate, the first of a chain, that is
// of our authorities as they are now, valid, and for one of the names.
func (c *Credentials) Verify(chain []*x509.Certificate, names ...string) error {
	if err := VerifyClient(chain, c.current().roots, time.Now()); err != nil {
		return err
	}
	return named(chain[0], names...)
}

// VerifyClient returns nil for a client's certificate, the first of a chain, that
// is of one of the authorities, valid at a time, and for clients.
func VerifyClient(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("no certificate was shown")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// named returns an error unless a certificate has one of the names. A wildcard
// is none.
func named(cert *x509.Certificate, names ...string) error {
	if slices.ContainsFunc(names, func(name string) bool { return slices.Contains(cert.DNSNames, name) }) {
		return nil
	}
	return fmt.Errorf("the certificate is not for %s", strings.Join(names, " or "))
}

// Dial connects to the one who has a certificate of our authorities for name,
// and shows ours. That ours is refused shows at the first read.
func (c *Credentials) Dial(ctx context.Context, addr, name string, protocols ...string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	k := c.current()
	t := tls.Client(conn, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{k.cert},
		RootCAs:      k.roots,
		ServerName:   name,
		NextProtos:   protocols,
	})
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

const (
	// handshakeTime is how long a client may take to say who it is.
	handshakeTime = 10 * time.Second
	// handshakes are how many may be doing so: of more, the first is given up, so
	// that those who say nothing keep nobody out who says who they are at once.
	handshakes = 128
)

// errCrowded is why somebody is refused who took long while many others came.
var errCrowded = errors.New("it did not say who it is, and many others came")

// Listen returns a listener whose Accept returns only connections, by TLS 1.3,
// of those who speak the protocol and have a certificate of our authorities for
// one of the names. Others are refused, counted, and logged.
func (c *Credentials) Listen(l net.Listener, protocol string, names ...string) net.Listener {
	g := &guard{Listener: l, creds: c, accepted: make(chan accepted)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.config = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		k := c.current()
		return &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{k.cert},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    k.roots,
			NextProtos:   []string{protocol},
			// A ticket would outlive the authority that its owner was believed by.
			SessionTicketsDisabled: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if err := named(s.PeerCertificates[0], names...); err != nil {
					return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
				}
				return nil
			},
		}, nil
	}}
	return g
}

// guard is a listener that knows who comes in.
type guard struct {
	net.Listener
	creds    *Credentials
	config   *tls.Config
	start    sync.Once
	accepted chan accepted // unbuffered: a connection belongs to us until it is taken
	ctx      context.Context
	cancel   context.CancelFunc
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements [net.Listener].
func (g *guard) Accept() (net.Conn, error) {
	g.start.Do(func() { go g.run() })
	select {
	case a := <-g.accepted:
		return a.conn, a.err
	case <-g.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. Those who have not come in yet do not.
func (g *guard) Close() error {
	g.cancel()
	return g.Listener.Close()
}

// run accepts until Close. An error of the listener is its caller's: run goes on
// when the caller has taken it.
func (g *guard) run() {
	coming := make(chan context.CancelFunc, handshakes) // the last ones; only this goroutine uses it
	for {
		conn, err := g.Listener.Accept()
		if g.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			g.hand(accepted{err: err})
			continue
		}
		if len(coming) == cap(coming) {
			giveUp := <-coming
			giveUp() // nothing, if it is in already
		}
		ctx, cancel := context.WithTimeout(g.ctx, handshakeTime)
		coming <- cancel
		go func() {
			defer cancel()
			t := tls.Server(conn, g.config)
			if err := t.HandshakeContext(ctx); err != nil {
				conn.Close()
				if errors.Is(err, context.Canceled) && g.ctx.Err() == nil {
					err = errCrowded
				}
				g.creds.refuse(conn.RemoteAddr(), err)
				return
			}
			if !g.hand(accepted{conn: t}) {
				t.Close()
			}
		}()
	}
}

// hand gives what was accepted to the caller of Accept, and reports whether it
// was taken.
func (g *guard) hand(a accepted) bool {
	select {
	case g.accepted <- a:
		return true
	case <-g.ctx.Done():
		return false
	}
}

// refuse counts one who was not let in, and logs who and why, but at most once
// a second.
func (c *Credentials) refuse(addr net.Addr, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return // we are closing; or somebody only looked whether we listen
	}
	c.refused.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.logged) < time.Second {
		c.skipped++
		return
	}
	c.log.Warn("a client was refused", "addr", addr.String(), "certificate", certificateOf(err), "othersSince", c.skipped, "err", err)
	c.logged, c.skipped = now, 0
}

// certificateOf says whose certificate was refused, "" where none was shown.
func certificateOf(err error) string {
	var v *tls.CertificateVerificationError
	if !errors.As(err, &v) || len(v.UnverifiedCertificates) == 0 {
		return ""
	}
	leaf := v.UnverifiedCertificates[0]
	return printable(fmt.Sprintf("%s %v by %s", leaf.Subject, leaf.DNSNames, leaf.Issuer))
}
