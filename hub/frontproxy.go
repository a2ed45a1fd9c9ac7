package hub

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/kube"
)

// A frontProxy is how requests are known that the cluster's API server passes
// on: by a certificate of an authority that signs for nothing else. Who asks is
// in their headers.
type frontProxy struct {
	roots  *x509.CertPool
	names  []string // of the certificate; none allows any
	header kube.RequestHeader
}

// newFrontProxy takes in the cluster's configuration. Without an authority
// nobody is the front proxy.
func newFrontProxy(h kube.RequestHeader) (*frontProxy, error) {
	p := &frontProxy{roots: x509.NewCertPool(), names: h.AllowedNames, header: h}
	if !p.roots.AppendCertsFromPEM(h.CA) {
		return nil, errors.New("the cluster names no authority for its front proxy")
	}
	if len(h.UsernameHeaders) == 0 {
		return nil, errors.New("the cluster names no header for users")
	}
	return p, nil
}

// verify checks that a client's certificates are the front proxy's.
func (p *frontProxy) verify(chain []*x509.Certificate, now time.Time) error {
	if err := api.VerifyClient(chain, p.roots, now); err != nil {
		return err
	}
	if name := chain[0].Subject.CommonName; len(p.names) > 0 && !slices.Contains(p.names, name) {
		return fmt.Errorf("its name %q is not one of the front proxy's", name)
	}
	return nil
}

// errNoUser is the front proxy's that does not say who asks.
var errNoUser = errors.New("the front proxy does not say who asks")

// user reads who asks from the headers that the front proxy set.
func (p *frontProxy) user(h http.Header) (cluster.User, error) {
	u := cluster.User{Name: firstOf(h, p.header.UsernameHeaders), UID: firstOf(h, p.header.UIDHeaders)}
	if u.Name == "" {
		return u, errNoUser
	}
	for _, name := range p.header.GroupHeaders {
		for _, group := range h.Values(name) {
			if group != "" {
				u.Groups = append(u.Groups, group)
			}
		}
	}
	for name, values := range h {
		for _, prefix := range p.header.ExtraPrefixes {
			if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
				continue
			}
			// Header names know no case, and only some characters: keys are in
			// lower case, the others escaped as in URLs.
			key := strings.ToLower(name[len(prefix):])
			if plain, err := url.PathUnescape(key); err == nil {
				key = plain
			}
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			u.Extra[key] = append(u.Extra[key], values...)
			break
		}
	}
	return u, nil
}

// firstOf returns the value of the first of some headers that has one.
func firstOf(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}
