// Package kube is the way to the API server of a Kubernetes cluster: it watches
// what package cluster has words for, and asks who somebody is and what they
// may see. Any goroutine may call any method of a [Client] at any time.
package kube

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"warren/cluster"
)

var (
	// ErrNoCluster is Connect's where there is neither a service account nor a
	// kubeconfig file.
	ErrNoCluster = errors.New("no Kubernetes cluster")
	// ErrUnauthenticated is ReviewToken's for a token that the cluster refuses.
	ErrUnauthenticated = errors.New("not authenticated")
)

// A Client talks to one API server.
type Client struct{}

// Connect finds the cluster: that of the kubeconfig file in its context, or
// with "" that whose service account this process runs as. Nothing is asked
// yet: a server that is away is no error.
func Connect(kubeconfig, context string) (*Client, error) { return nil, ErrNoCluster }

// Options say what is watched.
type Options struct {
	// Node is the node of this agent: the containers of its pods are kept. ""
	// keeps no pod's containers.
	Node string
	// OwnPodsOnly watches the pods of Node only: peers elsewhere have no names.
	OwnPodsOnly bool
	// Only names the resources that are watched: of "pods", "services",
	// "endpointslices", "namespaces", "nodes", "replicasets", "jobs". Empty is all.
	Only []string
}

// Watch fills the State until ctx ends, which is the only reason for it to
// return.
func (c *Client) Watch(ctx context.Context, st *cluster.State, o Options, log *slog.Logger) error {
	return nil
}

// An Agent is an agent's pod as the agents' service has it.
type Agent struct {
	Node, Pod           string
	Addr                netip.Addr
	HubPort, HubblePort uint16 // 0 where the service has no such port
	Ready               bool
}

// WatchAgents calls set with all agents of the service, first when they are
// known and then whenever they change, until ctx ends.
func (c *Client) WatchAgents(ctx context.Context, namespace, service string, set func([]Agent)) error {
	return nil
}

// ReviewToken asks whose bearer token this is; audiences are optional.
// The error is ErrUnauthenticated for tokens that the cluster refuses, with the reason.
func (c *Client) ReviewToken(ctx context.Context, token string) (cluster.User, error) {
	return cluster.User{}, nil
}

// MayGetPods says whether a user may get the pods of a namespace, "" for those
// of all.
func (c *Client) MayGetPods(ctx context.Context, u cluster.User, namespace string) (bool, error) {
	return false, nil
}

// RequestHeader says how to know requests that the API server passes on, and
// who asks them.
type RequestHeader struct {
	CA                                                       []byte   // PEM: who signs the front proxy's certificate
	AllowedNames                                             []string // common names of it; empty allows any
	UsernameHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// WatchRequestHeader calls set with the cluster's configuration of its front
// proxy, first when it is known and then whenever it changes, until ctx ends.
func (c *Client) WatchRequestHeader(ctx context.Context, set func(RequestHeader)) error { return nil }

// Stats are the requests of a Client since its start, by resource.
type Stats struct {
	// Server is the API server's address, without credentials.
	Server string
	// Connected says whether it answered last, Since since when it does or does
	// not.
	Connected bool
	Since     time.Time
	Resources map[string]ResourceStats
}

// ResourceStats is what one resource costs.
type ResourceStats struct {
	Requests, Failures uint64
	Events             uint64    // of watches
	Objects            uint64    // of lists
	Restarts           uint64    // lists and watches begun after the first
	Bytes              uint64    // of answers, as they are decoded
	AwaySince          time.Time // since when the server does not answer; zero while it does
	LastError          string
}

// Stats says what the client has asked.
func (c *Client) Stats() Stats { return Stats{} }

// Overrides are what a person's command line says over their kubeconfig.
type Overrides struct {
	Context, Cluster, User, Namespace string
	Server, Token                     string
	As, AsUID                         string
	AsGroups                          []string
	CAFile                            string
	TLSServerName                     string
	InsecureSkipTLSVerify             bool
}

// Access is the way of a person to their cluster, as kubectl has it: "" asks
// the environment's KUBECONFIG and the usual file. namespace is that of the
// context. The transport has no timeout: a stream ends with its context.
func Access(kubeconfig string, o Overrides) (base *url.URL, rt http.RoundTripper, namespace string, err error) {
	return nil, nil, "", ErrNoCluster
}
