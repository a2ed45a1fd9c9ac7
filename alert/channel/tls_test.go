package channel

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"
)

// certificates are files of an authority, and of some that it has signed: one is no
// longer valid.
type certificates struct{ ca, serverCert, serverKey, clientCert, clientKey, oldCert, oldKey string }

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
	sign := func(name string, until time.Time) (cert, key string) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: until, DNSNames: []string{"receiver.example", oldName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
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
	c.serverCert, c.serverKey = sign("server", time.Now().Add(time.Hour))
	c.clientCert, c.clientKey = sign("client", time.Now().Add(time.Hour))
	c.oldCert, c.oldKey = sign("old", time.Now().Add(-time.Hour))
	return c
}

// oldName is the name by which a receiver shows the certificate that is too old.
const oldName = "old.example"

// receiver is how a receiver has these certificates, and wants those of who comes.
func (c certificates) receiver(t *testing.T, wants tls.ClientAuthType) *tls.Config {
	t.Helper()
	load := func(cert, key string) *tls.Certificate {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	now, old := load(c.serverCert, c.serverKey), load(c.oldCert, c.oldKey)
	authority, err := os.ReadFile(c.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &tls.Config{Certificates: []tls.Certificate{*now}, ClientAuth: wants, ClientCAs: pool, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == oldName {
			return old, nil
		}
		return now, nil
	}}
}

// someError is that of a receiver that hangs up on us. What it says before that is not
// read where it has gone while we write.
const someError = "some error"

// testTLS holds that receivers that are not whom they should be get nothing, and that
// the error says why. open opens a sender to one that has c's certificates, and wants
// one of who comes, or not.
func testTLS(t *testing.T, c certificates, open func(t *testing.T, wants tls.ClientAuthType) func(TLS) (sender, error)) {
	t.Helper()
	anybody, known := open(t, tls.VerifyClientCertIfGiven), open(t, tls.RequireAndVerifyClientCert)
	for _, test := range []struct {
		name string
		to   func(TLS) (sender, error)
		tls  TLS
		want string // of the error
	}{
		{"unknown authority", anybody, TLS{ServerName: "receiver.example"}, "certificate signed by unknown authority"},
		{"known", anybody, TLS{CA: c.ca}, ""},
		{"another name", anybody, TLS{CA: c.ca, ServerName: "receiver.example"}, ""},
		{"a wrong name", anybody, TLS{CA: c.ca, ServerName: "other.example"}, "not other.example"},
		{"too old", anybody, TLS{CA: c.ca, ServerName: oldName}, "certificate has expired"},
		{"insecure", anybody, TLS{Insecure: true}, ""},
		{"no file", anybody, TLS{CA: c.ca + ".none"}, "no such file"},
		{"no certificate", anybody, TLS{CA: c.clientKey}, "has no certificate in PEM"},
		{"ours", known, TLS{CA: c.ca, Cert: c.clientCert, Key: c.clientKey}, ""},
		{"without ours", known, TLS{CA: c.ca}, someError},
		{"ours is too old", known, TLS{CA: c.ca, Cert: c.oldCert, Key: c.oldKey}, someError},
		{"ours without its key", known, TLS{CA: c.ca, Cert: c.clientCert, Key: c.oldKey}, "private key does not match public key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := test.to(test.tls)
			if err == nil {
				defer s.close()
				_, err = s.send(t.Context(), [][]byte{[]byte(someAlert)})
			}
			if test.want == "" && err != nil || test.want != "" && err == nil || test.want != someError && err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestWebhookTLS(t *testing.T) {
	c := makeCertificates(t)
	testTLS(t, c, func(t *testing.T, wants tls.ClientAuthType) func(TLS) (sender, error) {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		srv.TLS = c.receiver(t, wants)
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return func(by TLS) (sender, error) {
			return openWebhook(&Config{URL: srv.URL, TLS: by, Timeout: time.Minute}, &Env{})
		}
	})
}

func TestNATSTLS(t *testing.T) {
	c := makeCertificates(t)
	testTLS(t, c, func(t *testing.T, wants tls.ClientAuthType) func(TLS) (sender, error) {
		srv := startNATS(t, &server.Options{TLSConfig: c.receiver(t, wants), TLSTimeout: 60})
		keepNATS(t, srv, &tls.Config{InsecureSkipVerify: true, Certificates: clientOf(t, c)})
		return func(by TLS) (sender, error) {
			return openNATS(&Config{Servers: srv.ClientURL(), Subject: "alerts.here", TLS: by, Timeout: time.Minute}, &Env{Hostname: "h"})
		}
	})
}

// clientOf is the certificate of who may come.
func clientOf(t *testing.T, c certificates) []tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.clientCert, c.clientKey)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

func TestKafkaTLS(t *testing.T) {
	c := makeCertificates(t)
	testTLS(t, c, func(t *testing.T, wants tls.ClientAuthType) func(TLS) (sender, error) {
		_, cfg := startKafka(t, kfake.TLS(c.receiver(t, wants)))
		return func(by TLS) (sender, error) {
			cfg.TLS = by
			return openKafka(&cfg, nil)
		}
	})
}

// TestKafkaSASL says who we are in each way, and sends nothing to a broker that does
// not believe it.
func TestKafkaSASL(t *testing.T) {
	dir := t.TempDir()
	secret := func(text string) string {
		path := filepath.Join(dir, text)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right, wrong := secret("right"), secret("wrong")
	for method, name := range map[string]string{"PLAIN": "plain", "SCRAM-SHA-256": "scram-sha-256", "SCRAM-SHA-512": "scram-sha-512"} {
		t.Run(name, func(t *testing.T) {
			_, kafka := startKafka(t, kfake.EnableSASL(), kfake.Superuser(method, "warren", "right"))
			send := func(user, password string) error {
				t.Helper()
				cfg := kafka
				cfg.User, cfg.PasswordFile = user, password
				if name != "plain" { // which is what holds else
					cfg.SASL = name
				}
				s, err := openKafka(&cfg, nil)
				if err != nil {
					return err
				}
				defer s.close()
				_, err = s.send(t.Context(), [][]byte{[]byte(someAlert)})
				return err
			}
			if err := send("warren", right); err != nil {
				t.Error(err)
			}
			for _, who := range []struct{ user, password, want string }{
				{"warren", wrong, ""}, // this broker only hangs up
				{"nobody", right, ""},
				{"warren", right + ".none", "no such file"},
			} {
				if err := send(who.user, who.password); err == nil || !strings.Contains(err.Error(), who.want) {
					t.Errorf("%v, want %s", err, who.want)
				}
			}
		})
	}
}

func TestSyslogTLS(t *testing.T) {
	c := makeCertificates(t)
	testTLS(t, c, func(t *testing.T, wants tls.ClientAuthType) func(TLS) (sender, error) {
		l, err := tls.Listen("tcp", "127.0.0.1:0", c.receiver(t, wants))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		got := make(chan string, 100)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					for r := bufio.NewReader(conn); ; {
						line, err := r.ReadString('\n')
						if err != nil {
							return
						}
						got <- line
					}
				}()
			}
		}()
		return func(by TLS) (sender, error) {
			cfg := Config{Type: "syslog", Address: "tls://" + l.Addr().String(), Protocol: asFalco, Format: "text", TLS: by, Timeout: time.Minute}
			s, err := openSyslog(&cfg, &Env{Hostname: "h"})
			if err != nil {
				return nil, err
			}
			return &arriving{s, t, got}, nil
		}
	})
}

// arriving waits until what was sent has arrived.
type arriving struct {
	sender
	t   *testing.T
	got <-chan string
}

func (a *arriving) send(ctx context.Context, alerts [][]byte) (int, error) {
	n, err := a.sender.send(ctx, alerts)
	if err == nil && n == len(alerts) {
		select {
		case line := <-a.got:
			if !strings.HasSuffix(line, "a shell <b>\n") {
				a.t.Errorf("a line %q", line)
			}
		case <-time.After(time.Minute):
			a.t.Error("nothing arrives")
		}
	}
	return n, err
}
