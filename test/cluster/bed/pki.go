package bed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// authority signs certificates. Its files are NAME.crt and NAME.key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

const validity = 365 * 24 * time.Hour

// newAuthority makes one.
func newAuthority(dir, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certificate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key}, writePair(dir, name, der, key)
}

// loadAuthority reads what newAuthority wrote.
func loadAuthority(dir, name string) (*authority, error) {
	certificate, err := readPEM(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	private, err := readPEM(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s.key: a key of another kind", name)
	}
	return &authority{cert, ec}, nil
}

// issue writes a certificate for servers and clients. The names are of DNS or
// addresses.
func (a *authority) issue(dir, file string, subject pkix.Name, names ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := certificate(subject)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePair(dir, file, der, key)
}

func certificate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity)}, nil
}

func writePair(dir, name string, der []byte, key crypto.PrivateKey) error {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der),
		writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", private))
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func readPEM(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: not PEM", path)
	}
	return block.Bytes, nil
}

// makePKI makes every certificate of the control plane, and the kubeconfigs.
func (c *Cluster) makePKI() error {
	dir := c.path("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(dir, "ca")
	if err != nil {
		return err
	}
	// Headers that name a user are believed of another authority's
	// certificates alone: one of the cluster's own could claim to be anybody.
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	if err := front.issue(dir, "front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}); err != nil {
		return err
	}
	own, service := c.controlAddresses(), c.Services.host(apiService)
	err = ca.issue(dir, "kube-apiserver", pkix.Name{CommonName: "kube-apiserver"},
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		"127.0.0.1", "::1", own.V4.String(), own.V6.String(), service.V4.String(), service.V6.String())
	if err != nil {
		return err
	}
	for _, user := range []struct{ file, name, group string }{
		{"admin", "admin", "system:masters"},
		{"kube-controller-manager", "system:kube-controller-manager", ""},
		{"kube-scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	} {
		if err := c.user(ca, user.file, user.name, user.group); err != nil {
			return err
		}
	}
	return serviceAccountKeys(dir)
}

// serviceAccountKeys makes the pair that signs tokens of pods.
func serviceAccountKeys(dir string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, "sa.key"), "PRIVATE KEY", private),
		writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", public))
}

// user makes a person's or a component's certificate and kubeconfig.
func (c *Cluster) user(ca *authority, file, name, group string, names ...string) error {
	subject := pkix.Name{CommonName: name}
	if group != "" {
		subject.Organization = []string{group}
	}
	dir := c.path("pki")
	if err := ca.issue(dir, file, subject, names...); err != nil {
		return err
	}
	var encoded [3]string
	for i, part := range []string{"ca.crt", file + ".crt", file + ".key"} {
		text, err := os.ReadFile(filepath.Join(dir, part))
		if err != nil {
			return err
		}
		encoded[i] = base64.StdEncoding.EncodeToString(text)
	}
	config := strings.NewReplacer("{server}", c.server(), "{cluster}", c.Name, "{user}", name, "{ca}", encoded[0], "{cert}", encoded[1], "{key}", encoded[2]).Replace(`apiVersion: v1
kind: Config
current-context: {cluster}
contexts: [{name: "{cluster}", context: {cluster: "{cluster}", user: "{user}"}}]
clusters: [{name: "{cluster}", cluster: {server: "{server}", certificate-authority-data: "{ca}"}}]
users: [{name: "{user}", user: {client-certificate-data: "{cert}", client-key-data: "{key}"}}]
`)
	return os.WriteFile(filepath.Join(dir, file+".kubeconfig"), []byte(config), 0o600)
}

// server is the API server's address.
func (c *Cluster) server() string { return "https://" + c.apiAddress() }

func (c *Cluster) apiAddress() string { return c.controlAddresses().V4.String() + ":6443" }

// User makes a kubeconfig for a person of a name and, unless empty, a group, and
// gives its path. What they may do is RBAC's.
func (c *Cluster) User(name, group string) (string, error) {
	ca, err := loadAuthority(c.path("pki"), "ca")
	if err != nil {
		return "", err
	}
	file := "user-" + name
	return c.path("pki", file+".kubeconfig"), c.user(ca, file, name, group)
}
