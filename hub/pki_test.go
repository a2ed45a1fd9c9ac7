package hub

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"warren/api"
)

// An authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A leaf is a certificate of somebody.
type leaf struct {
	common  string   // name
	names   []string // DNS
	expired bool
	usage   []x509.ExtKeyUsage // nil: both ends
}

// issue returns a certificate and its key, in PEM.
func (a *authority) issue(t testing.TB, l leaf) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: l.common}, DNSNames: l.names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: l.usage,
	}
	if l.usage == nil {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if l.expired {
		tmpl.NotAfter = time.Now().Add(-time.Minute)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// pair returns a certificate as a client shows it.
func (a *authority) pair(t testing.TB, l leaf) *tls.Certificate {
	t.Helper()
	cert, err := tls.X509KeyPair(a.issue(t, l))
	if err != nil {
		t.Fatal(err)
	}
	return &cert
}

// dir writes a certificate, its key and the authority's into a directory.
func (a *authority) dir(t testing.TB, l leaf) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := a.issue(t, l)
	for name, b := range map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": a.pem} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (a *authority) credentials(t testing.TB, l leaf, log *slog.Logger) *api.Credentials {
	t.Helper()
	c, err := api.OpenCredentials(a.dir(t, l), log)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	agentLeaf = leaf{common: "agent", names: []string{api.AgentName}}
	hubLeaf   = leaf{common: "hub", names: []string{api.HubName, "warren-hub.warren.svc"}}
)
