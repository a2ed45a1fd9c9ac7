package kube

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/internal/testkit"
)

// kubeconfig writes a file with one context; user is the YAML of its user.
func kubeconfig(t testing.TB, s *server, user string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: lab, user: me, namespace: shop}}
- {name: there, context: {cluster: away, user: me}}
clusters:
- {name: lab, cluster: {server: %q, certificate-authority-data: %s}}
- {name: away, cluster: {server: "https://127.0.0.1:1"}}
users:
- {name: me, user: %s}
- {name: other, user: {token: others}}
`, s.URL, base64.StdEncoding.EncodeToString(s.pem()), user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAccess comes to a server with every kind of credentials.
func TestAccess(t *testing.T) {
	certPEM, keyPEM, pool := clientCertificate(t, "bob")
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(dir, "plugin")
	script := "#!/bin/sh\n" + `echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"from-plugin"}}'` + "\n"
	if err := os.WriteFile(plugin, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	seen := make(chan *http.Request, 1)
	s := newServer(t, func(s *server) {
		s.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	})
	s.respond(func(_ http.ResponseWriter, r *http.Request) bool { seen <- r; return true })
	encode := base64.StdEncoding.EncodeToString
	for _, test := range []struct {
		name, user string
		overrides  Overrides
		header     map[string]string
		cert       string
		namespace  string
	}{
		{"a token", "{token: abc}", Overrides{}, map[string]string{"Authorization": "Bearer abc"}, "", "shop"},
		{"a file with a token", "{tokenFile: " + tokenFile + "}", Overrides{}, map[string]string{"Authorization": "Bearer from-file"}, "", "shop"},
		{"a program", "{exec: {apiVersion: client.authentication.k8s.io/v1, command: " + plugin + ", interactiveMode: Never}}", Overrides{},
			map[string]string{"Authorization": "Bearer from-plugin"}, "", "shop"},
		{"a certificate", "{client-certificate-data: " + encode(certPEM) + ", client-key-data: " + encode(keyPEM) + "}", Overrides{}, nil, "bob", "shop"},
		{"a password", "{username: me, password: secret}", Overrides{}, map[string]string{"Authorization": "Basic " + encode([]byte("me:secret"))}, "", "shop"},
		{"another user", "{token: abc}", Overrides{User: "other", Namespace: "bank"}, map[string]string{"Authorization": "Bearer others"}, "", "bank"},
		{"a token on the command line", "{token: abc}", Overrides{Token: "mine"}, map[string]string{"Authorization": "Bearer mine"}, "", "shop"},
		{"as another", "{token: abc}", Overrides{As: "carol", AsUID: "7", AsGroups: []string{"dev"}},
			map[string]string{"Impersonate-User": "carol", "Impersonate-Uid": "7", "Impersonate-Group": "dev"}, "", "shop"},
		{"another context, corrected", "{token: abc}", Overrides{Context: "there", Server: s.URL, InsecureSkipTLSVerify: true},
			map[string]string{"Authorization": "Bearer abc"}, "", "default"},
		{"another cluster", "{token: abc}", Overrides{Context: "there", Cluster: "lab"}, map[string]string{"Authorization": "Bearer abc"}, "", "default"},
	} {
		t.Run(test.name, func(t *testing.T) {
			base, rt, namespace, err := Access(kubeconfig(t, s, test.user), test.overrides)
			if err != nil {
				t.Fatal(err)
			}
			if namespace != test.namespace || strings.TrimSuffix(base.String(), "/") != s.URL {
				t.Errorf("namespace %s of %s", namespace, base)
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base.JoinPath("apis").String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := rt.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			got := <-seen
			for key, want := range test.header {
				if got.Header.Get(key) != want {
					t.Errorf("%s is %q, want %q", key, got.Header.Get(key), want)
				}
			}
			if cert := got.TLS.PeerCertificates; test.cert != "" && (len(cert) != 1 || cert[0].Subject.CommonName != test.cert) {
				t.Errorf("certificates %v", cert)
			}
			if got.Header.Get("User-Agent") != "warren" {
				t.Errorf("user agent %q", got.Header.Get("User-Agent"))
			}
		})
	}
}

// clientCertificate makes one with the authority that signed it.
func clientCertificate(t *testing.T, name string) (cert, key []byte, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(own)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), pool
}

// TestAccessRefuses has every mistake of a person.
func TestAccessRefuses(t *testing.T) {
	s := newServer(t, nil)
	good := kubeconfig(t, s, "{token: abc}")
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("\x00{{{"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, test := range []struct {
		name, file string
		overrides  Overrides
		want       string
		noCluster  bool
	}{
		{"no file anywhere", "", Overrides{}, "set KUBECONFIG", true},
		{"a file that is not there", "/nowhere/config", Overrides{}, "there is no kubeconfig file /nowhere/config", false},
		{"a file that is none", broken, Overrides{}, "read the kubeconfig", false},
		{"a context that it has not", good, Overrides{Context: "nowhere"}, `"nowhere" does not exist`, false},
		{"a user that it has not", good, Overrides{User: "nobody"}, "nobody", false},
		{"a cluster that it has not", good, Overrides{Cluster: "none"}, "none", false},
		{"an authority that is not there", good, Overrides{CAFile: "/nowhere/ca.crt"}, "/nowhere/ca.crt", false},
		{"an address that is none", good, Overrides{Server: "http://[::1"}, "address", false},
	} {
		_, _, _, err := Access(test.file, test.overrides)
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNoCluster) != test.noCluster {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := Connect("", ""); !errors.Is(err, ErrNoCluster) {
		t.Errorf("Connect without a cluster: %v", err)
	}
	if _, err := Connect("/nowhere/config", ""); err == nil || errors.Is(err, ErrNoCluster) || !strings.Contains(err.Error(), "/nowhere/config") {
		t.Errorf("Connect with a file that is not there: %v", err)
	}
	if _, err := Connect(good, "nowhere"); err == nil {
		t.Error("Connect with a context that is not there")
	}
}

// TestConnect watches by a kubeconfig file.
func TestConnect(t *testing.T) {
	s := newServer(t, nil)
	shop(s)
	c, err := Connect(kubeconfig(t, s, "{token: abc}"), "here")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Stats(); got.Connected || got.Since.IsZero() || strings.TrimSuffix(got.Server, "/") != s.URL {
		t.Errorf("before anything is asked: %+v", got)
	}
	st, _ := watching(t, c, Options{})
	testkit.Wait(t, "the cluster", st.Synced)
	for _, r := range s.asked(func(*http.Request) bool { return true }) {
		if r.Header.Get("Authorization") != "Bearer abc" {
			t.Errorf("%s came without the token", r.URL)
		}
	}
}

// TestAccessStreams holds that nothing ends a stream but its context.
func TestAccessStreams(t *testing.T) {
	s := newServer(t, nil)
	next := make(chan string)
	s.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.(http.Flusher).Flush()
		for {
			select {
			case line := <-next:
				_, _ = fmt.Fprintln(w, line)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return true
			}
		}
	})
	base, rt, _, err := Access(kubeconfig(t, s, "{token: abc}"), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if client, ok := rt.(interface{ Timeout() time.Duration }); ok && client.Timeout() != 0 {
		t.Error("the transport has a timeout")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	next <- "one"
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "one" {
		t.Fatalf("read %q", lines.Text())
	}
	next <- "two"
	if !lines.Scan() || lines.Text() != "two" {
		t.Fatalf("read %q", lines.Text())
	}
	cancel()
	if lines.Scan() || !errors.Is(lines.Err(), context.Canceled) {
		t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
	}
}
