package hub

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"testing"
	"time"

	"warren/api"
	"warren/internal/testkit"
)

// An authority makes certificates of the tests' clients and servers.
type authority struct{ *testkit.Authority }

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	return &authority{testkit.NewAuthority(t, name)}
}

// A leaf is a certificate of somebody.
type leaf struct {
	common  string   // name
	names   []string // DNS
	expired bool
	usage   []x509.ExtKeyUsage // nil: both ends
}

// pair returns a certificate as a client shows it.
func (a *authority) pair(t testing.TB, l leaf) *tls.Certificate {
	t.Helper()
	cert, key := a.Issue(t, func(c *x509.Certificate) {
		c.Subject.CommonName = l.common
		if l.usage != nil {
			c.ExtKeyUsage = l.usage
		}
		if l.expired {
			c.NotAfter = time.Now().Add(-time.Minute)
		}
	}, l.names...)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func (a *authority) credentials(t testing.TB, l leaf, log *slog.Logger) *api.Credentials {
	t.Helper()
	c, err := api.OpenCredentials(a.Directory(t, l.names...), log)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// relaysName is that by which Hubble's relay wants to know who tells it of peers.
const relaysName = "hubble-peer.default.hubble-grpc.cilium.io"

var (
	agentLeaf = leaf{common: "agent", names: []string{api.AgentName}}
	hubLeaf   = leaf{common: "hub", names: []string{api.HubName, "warren-hub.warren.svc", relaysName}}
	relayLeaf = leaf{common: "relay", names: []string{api.HubbleName}}
)
