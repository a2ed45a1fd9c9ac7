// Package kube is the way to the API server of a Kubernetes cluster: it watches
// what package cluster has words for, and asks who somebody is and what they
// may see. Any goroutine may call any method of a [Client] at any time.
//
// It is the only user of client-go, and of that takes what has to be right with
// every cluster there is: credentials, transport, and the reflector, which
// lists and watches. What is watched goes into a cluster.State object by object;
// there is no cache of API objects beside it.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

var (
	// ErrNoCluster is Connect's where there is neither a service account nor a
	// kubeconfig file.
	ErrNoCluster = errors.New("no Kubernetes cluster: not in a pod with a service account, and no kubeconfig file given")
	// ErrUnauthenticated is ReviewToken's for a token that the cluster refuses.
	ErrUnauthenticated = errors.New("not authenticated")
)

// A Client talks to one API server.
type Client struct {
	rest   *rest.RESTClient
	params runtime.ParameterCodec
	meter  *meter
	// reviews bounds how many a second are asked, which depends on how many people
	// ask: watches do not wait behind them.
	reviews flowcontrol.RateLimiter
	// retry is how long a resource that cannot be watched is left alone.
	retry wait.Backoff
}

// Requests of one process a second, and at once. Reviews are apart: somebody who
// may look into few of a thousand namespaces takes as many of them.
const (
	requestsPerSecond = 50
	requestsAtOnce    = 100
	reviewsPerSecond  = 400
	reviewsAtOnce     = 1000
)

// Connect finds the cluster: that of the kubeconfig file in its context, or
// with "" that whose service account this process runs as. Nothing is asked
// yet: a server that is away is no error.
func Connect(kubeconfig, context string) (*Client, error) {
	quiet()
	config, err := configOf(kubeconfig, context)
	if err != nil {
		return nil, err
	}
	return connect(config)
}

func configOf(kubeconfig, context string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, ErrNoCluster
		}
		if err != nil {
			return nil, fmt.Errorf("read the pod's service account: %w", err)
		}
		return config, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	return config, nil
}

// Namespace is that of the pod that this process runs in, "" outside of pods.
func Namespace() string {
	b, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func connect(config *rest.Config) (*Client, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, fmt.Errorf("make the scheme of API objects: %w", err)
	}
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("understand the API server's address: %w", err)
	}
	server.User = nil
	m := newMeter(server.String(), time.Now)
	config = rest.CopyConfig(config)
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.ContentType = runtime.ContentTypeProtobuf
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.GroupVersion = &schema.GroupVersion{}
	config.QPS, config.Burst = requestsPerSecond, requestsAtOnce
	config.Timeout = 0 // it would end watches
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.UserAgent = userAgent
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &meteredTransport{next, m} })
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("prepare the way to the API server: %w", err)
	}
	r, err := rest.RESTClientForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("prepare the API server's client: %w", err)
	}
	return &Client{
		rest: r, params: runtime.NewParameterCodec(scheme), meter: m,
		reviews: flowcontrol.NewTokenBucketRateLimiter(reviewsPerSecond, reviewsAtOnce),
		retry:   wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 7, Cap: 20 * time.Second},
	}, nil
}

const userAgent = "warren"

// coreVersion is that of pods, and of the parameters of lists and watches.
var coreVersion = schema.GroupVersion{Version: "v1"}

// policyVersion is that of policies of the cluster.
var policyVersion = schema.GroupVersion(policyv1alpha2.GroupVersion)

// newScheme knows the objects that are asked for and no others: all that there
// are would cost megabytes of every process that has this package.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	s.AddKnownTypes(coreVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Service{}, &corev1.ServiceList{},
		&corev1.Node{}, &corev1.NodeList{}, &corev1.ConfigMap{}, &corev1.ConfigMapList{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	s.AddKnownTypes(policyVersion, &policyv1alpha2.ClusterNetworkPolicy{}, &policyv1alpha2.ClusterNetworkPolicyList{})
	s.AddKnownTypes(authenticationv1.SchemeGroupVersion, &authenticationv1.TokenReview{})
	s.AddKnownTypes(authorizationv1.SchemeGroupVersion, &authorizationv1.SubjectAccessReview{})
	for _, gv := range []schema.GroupVersion{coreVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, policyVersion} {
		metav1.AddToGroupVersion(s, gv)
	}
	return s, metav1.AddMetaToScheme(s)
}

// silence is for client-go's log that knows no caller: what it writes to
// standard error would be in the middle of a person's table. What goes wrong is
// in errors and in Stats.
var silence sync.Once

func quiet() {
	silence.Do(func() { klog.SetLogger(logr.Discard()) })
}

// asking names what is asked for, for the Stats.
func asking(ctx context.Context, resource string) context.Context {
	return context.WithValue(ctx, resourceKey{}, resource)
}

type resourceKey struct{}
