package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Overrides are what a person's command line says over their kubeconfig; what
// is empty is left as it is there.
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
// context, or "default". Whatever credentials the kubeconfig has work: programs
// that print them, files, certificates. The transport has no timeout: a stream
// ends with its context.
//
// The errors are sentences for that person; ErrNoCluster is among them.
func Access(kubeconfig string, o Overrides) (base *url.URL, rt http.RoundTripper, namespace string, err error) {
	quiet()
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	rules.WarnIfAllMissing = false
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Cluster, overrides.Context.AuthInfo, overrides.Context.Namespace = o.Cluster, o.User, o.Namespace
	overrides.ClusterInfo.Server = o.Server
	overrides.ClusterInfo.CertificateAuthority = o.CAFile
	overrides.ClusterInfo.TLSServerName = o.TLSServerName
	overrides.ClusterInfo.InsecureSkipTLSVerify = o.InsecureSkipTLSVerify
	overrides.AuthInfo.Token = o.Token
	overrides.AuthInfo.Impersonate, overrides.AuthInfo.ImpersonateUID, overrides.AuthInfo.ImpersonateGroups = o.As, o.AsUID, o.AsGroups

	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	var missing *fs.PathError
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, nil, "", fmt.Errorf("%w: set KUBECONFIG, or name a file with --kubeconfig", errNoKubeconfig)
	case errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist) && missing.Path == kubeconfig:
		return nil, nil, "", fmt.Errorf("there is no kubeconfig file %s", kubeconfig)
	case err != nil:
		return nil, nil, "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	namespace, _, err = loader.Namespace()
	if err != nil {
		return nil, nil, "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	base, _, err = rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, nil, "", fmt.Errorf("understand the address of the cluster's server: %w", err)
	}
	base.User = nil
	config.UserAgent = userAgent
	config.Timeout = 0
	rt, err = rest.TransportFor(config)
	if err != nil {
		return nil, nil, "", fmt.Errorf("prepare the credentials for %s: %w", base.Host, err)
	}
	return base, rt, namespace, nil
}

// errNoKubeconfig is an ErrNoCluster that a person understands.
var errNoKubeconfig = noKubeconfig{}

type noKubeconfig struct{}

// Error implements error.
func (noKubeconfig) Error() string { return "there is no kubeconfig file, so no cluster to ask" }

// Is implements what errors.Is asks.
func (noKubeconfig) Is(target error) bool { return target == ErrNoCluster }
