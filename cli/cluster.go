package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"warren/api"
)

// kubectl's plugin is this program by another name: kubectl runs kubectl-warren
// for "kubectl warren", and asks kubectl_complete-warren what could be typed
// next.
const (
	// PluginName is the program's name as a plugin.
	PluginName = "kubectl-warren"
	// PluginCompletion is its name when kubectl completes a line.
	PluginCompletion = "kubectl_complete-warren"
)

// Called says by which name the program was called, argv[0], and returns the
// command line that it stands for.
func (env *Env) Called(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	switch filepath.Base(argv[0]) {
	case PluginName:
		env.Kubectl = true
	case PluginCompletion:
		env.Kubectl = true
		return append([]string{completeWord}, argv[1:]...)
	}
	return argv[1:]
}

// clusterFlags are the flags of kubectl that say which cluster, and who asks.
func clusterFlags(g *globals) []*option {
	c := &g.cluster
	return []*option{
		{long: "kubeconfig", meta: "FILE", text: &c.Kubeconfig, doc: "file with clusters and credentials (default: the variable KUBECONFIG, else ~/.kube/config)"},
		{long: "context", meta: "NAME", text: &c.Context, doc: "context of the kubeconfig to use"},
		{long: "cluster", meta: "NAME", text: &c.Cluster, doc: "cluster of the kubeconfig to ask"},
		{long: "user", meta: "NAME", text: &c.User, doc: "user of the kubeconfig to ask as"},
		{long: "server", short: "s", meta: "URL", text: &c.Server, doc: "address of the API server"},
		{long: "token", meta: "TOKEN", text: &c.Token, doc: "bearer token to ask with"},
		{long: "as", meta: "USER", text: &c.As, doc: "user to act as"},
		{long: "as-uid", meta: "UID", text: &c.AsUID, doc: "uid to act as"},
		{long: "as-group", meta: "GROUP", set: func(v string) error { c.AsGroups = append(c.AsGroups, v); return nil }, doc: "group to act as; may be given several times"},
		{long: "certificate-authority", meta: "FILE", text: &c.CAFile, doc: "certificates that the API server's is checked with"},
		{long: "tls-server-name", meta: "NAME", text: &c.TLSServerName, doc: "name that the API server's certificate is checked for"},
		{long: "insecure-skip-tls-verify", yes: &c.InsecureSkipTLSVerify, doc: "do not check the API server's certificate"},
		{long: "request-timeout", meta: "TIME", set: setTimeout(&g.timeout), doc: "how long an answer may take that is no stream, like 5s; 0 for as long as it takes (default 0)"},
	}
}

// setTimeout understands a time as kubectl does: a number alone is seconds.
func setTimeout(d *time.Duration) func(string) error {
	return func(v string) error {
		if n, err := strconv.ParseUint(v, 10, 31); err == nil {
			*d = time.Duration(n) * time.Second
			return nil
		}
		t, err := time.ParseDuration(v)
		if err != nil || t < 0 {
			return fmt.Errorf("takes a time like 5s, not %q", v)
		}
		*d = t
		return nil
	}
}

// finite returns a context for an answer that ends by itself, unless it is
// followed.
func (g *globals) finite(ctx context.Context, follow bool) (context.Context, context.CancelFunc) {
	if g.timeout <= 0 || follow {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, g.timeout)
}

// hint says what to do about an error on the way to a hub: what the API server
// says of it is about its own affairs.
func (g *globals) hint(err error) error {
	if g.timeout > 0 && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer came within %s: --request-timeout allows no more", span(g.timeout))
	}
	if op := (*net.OpError)(nil); g.kubectl && errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("the cluster does not answer (%w): is it up, and the context the right one?", err)
	}
	var s *api.ServerError
	if !errors.As(err, &s) {
		return err
	}
	switch s.Code {
	case http.StatusNotFound:
		return errors.New("this cluster has no hub of Warren: install it with helm install warren deploy/helm/warren --namespace warren --create-namespace")
	case http.StatusUnauthorized:
		return fmt.Errorf("the cluster does not accept your credentials (%s): log in to it again; `kubectl auth whoami` has to work", s.Error())
	case http.StatusForbidden:
		return fmt.Errorf("%s: the cluster role warren-asker gives the right to ask Warren's hub", s.Error())
	case http.StatusServiceUnavailable:
		return fmt.Errorf("the hub does not answer (%s): `kubectl get pods --namespace warren` shows why", s.Error())
	}
	return fmt.Errorf("the API server answered %d: %s", s.Code, s.Error())
}
