package bed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// http gives a client with the administrator's certificate that connects from
// within the cluster's network.
func (c *Cluster) http() (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		return c.client, nil
	}
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	// Connections are not kept: one to an API server that was killed would have
	// to be found dead first.
	transport.DisableKeepAlives = true
	c.client = &http.Client{Transport: transport}
	return c.client, nil
}

// transport is the administrator's way to the API server.
func (c *Cluster) transport() (*http.Transport, error) {
	pair, err := tls.LoadX509KeyPair(c.path("pki", "admin.crt"), c.path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("ca.crt has no certificate")
	}
	return &http.Transport{
		DialContext:     c.dialer(controlPlace),
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
	}, nil
}

// Client gives an administrator's client for many requests, and the URL that
// their paths follow. It keeps its connections, of which there are at most as
// many as given; an API server that ends takes requests with it.
func (c *Cluster) Client(connections int) (*http.Client, string, error) {
	transport, err := c.transport()
	if err != nil {
		return nil, "", err
	}
	transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = connections, connections
	return &http.Client{Transport: transport}, c.server(), nil
}

// answers asks a daemon whether it is well, from within its place.
func (c *Cluster) answers(ctx context.Context, where, url string) error {
	// Controllers and scheduler have certificates of their own making; what is
	// asked for is no secret.
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: c.dialer(where), DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1000))
	if answer.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("%s: %s: %s", url, answer.Status, text), err)
	}
	return nil
}

// API asks the API server as the administrator: a path as in
// /api/v1/nodes/node1, a body that is sent as JSON unless nil, and where the
// answer goes unless nil. An answer that is no success is a *StatusError.
func (c *Cluster) API(ctx context.Context, method, path string, body, into any) error {
	client, err := c.http()
	if err != nil {
		return err
	}
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.server()+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err = io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return &StatusError{Code: answer.StatusCode, Text: string(text)}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// A StatusError is an answer of the API server that is no success.
type StatusError struct {
	Code int
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("API server: %d: %s", e.Code, e.Text) }

// node is what matters here of a Node.
type node struct {
	Spec struct {
		PodCIDRs []netip.Prefix `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type, Status, Message string
		} `json:"conditions"`
	} `json:"status"`
}

// ready says why a node is not Ready, or nothing.
func (n node) ready() string {
	for _, condition := range n.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return ""
			}
			return condition.Message
		}
	}
	return "it has told nothing of itself yet"
}

// awaitNode asks for a node until it is as wanted: want says what it waits for,
// or nothing.
func (c *Cluster) awaitNode(ctx context.Context, name string, want func(node) string) (node, error) {
	var n node
	err := Poll(ctx, Patience, func() error {
		n = node{}
		if err := c.API(ctx, http.MethodGet, "/api/v1/nodes/"+name, nil, &n); err != nil {
			return err
		}
		if missing := want(n); missing != "" {
			return errors.New(missing)
		}
		return nil
	})
	return n, err
}
