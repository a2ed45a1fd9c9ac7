package kube

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"warren/internal/testkit"
)

const agentPath = "/apis/discovery.k8s.io/v1/namespaces/warren/endpointslices"

// latest keeps what was told last, and how often.
type latest[T any] struct {
	mu    sync.Mutex
	value T
	times int
}

func (l *latest[T]) set(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.value = v
	l.times++
}

func (l *latest[T]) get() (T, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value, l.times
}

// until runs f until the test ends.
func until(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != context.Canceled { //nolint:errorlint // nothing else may be wrapped around it
			t.Errorf("ended with %v", err)
		}
	})
}

func agentSlice(name string, family discoveryv1.AddressType, hub int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	hubName, hubbleName, hubble := "hub", "hubble", int32(4244)
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "warren", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "warren-agent"}},
		AddressType: family, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: &hubName, Port: &hub}, {Name: &hubbleName, Port: &hubble}, {}},
	}
}

func agentEndpoint(node, pod, addr string, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: pod}}
}

func TestWatchAgents(t *testing.T) {
	s := newServer(t, nil)
	s.put(agentPath, agentSlice("v4", discoveryv1.AddressTypeIPv4, 7118,
		agentEndpoint("node-2", "agent-b", "172.30.0.12", false), agentEndpoint("node-1", "agent-a", "172.30.0.11", true),
		discoveryv1.Endpoint{Addresses: []string{"172.30.0.13"}}, discoveryv1.Endpoint{}))
	s.put(agentPath, agentSlice("v6", discoveryv1.AddressTypeIPv6, 7118, agentEndpoint("node-1", "agent-a", "fd00::11", true)))
	other := agentSlice("other", discoveryv1.AddressTypeIPv4, 1, agentEndpoint("node-9", "x", "172.30.0.19", true))
	other.Labels[discoveryv1.LabelServiceName] = "other"
	s.put(agentPath, other)
	var told latest[[]Agent]
	c := s.client()
	until(t, func(ctx context.Context) error { return c.WatchAgents(ctx, "warren", "warren-agent", told.set) })

	a := Agent{Node: "node-1", Pod: "agent-a", Addr: netip.MustParseAddr("172.30.0.11"), HubPort: 7118, HubblePort: 4244, Ready: true}
	b := Agent{Node: "node-2", Pod: "agent-b", Addr: netip.MustParseAddr("172.30.0.12"), HubPort: 7118, HubblePort: 4244}
	is := func(want ...Agent) func() bool {
		return func() bool {
			got, times := told.get()
			return times > 0 && slices.Equal(got, want)
		}
	}
	testkit.Wait(t, "both agents", is(a, b))
	b.Ready = true
	s.put(agentPath, agentSlice("v4", discoveryv1.AddressTypeIPv4, 7118,
		agentEndpoint("node-2", "agent-b", "172.30.0.12", true), agentEndpoint("node-1", "agent-a", "172.30.0.11", true)))
	testkit.Wait(t, "the second to be ready", is(a, b))
	_, times := told.get()

	// While the server is away nothing is told; what it says is the same after.
	s.respond(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	s.cut()
	testkit.Wait(t, "the outage to show", func() bool { return !c.Stats().Connected })
	s.respond(nil)
	testkit.Wait(t, "the server to be back", func() bool { return c.Stats().Connected })
	a.Addr = netip.MustParseAddr("fd00::11")
	s.remove(agentPath, agentSlice("v4", discoveryv1.AddressTypeIPv4, 7118))
	testkit.Wait(t, "one family to go", is(a))
	if _, now := told.get(); now != times+1 {
		t.Errorf("told %d times more, want once", now-times)
	}
	s.remove(agentPath, agentSlice("v6", discoveryv1.AddressTypeIPv6, 7118))
	testkit.Wait(t, "nobody to be left", is())
}

func headerMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: requestHeaderNamespace, Name: requestHeaderName}, Data: data}
}

func TestWatchRequestHeader(t *testing.T) {
	const path = "/api/v1/namespaces/kube-system/configmaps"
	s := newServer(t, nil)
	secret := headerMap(map[string]string{"requestheader-client-ca-file": "another's"})
	secret.Name = "another"
	s.put(path, secret)
	data := map[string]string{
		"client-ca-file":                     "not this one",
		"requestheader-client-ca-file":       "-----BEGIN CERTIFICATE-----",
		"requestheader-allowed-names":        `["front-proxy-client"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	s.put(path, headerMap(data))
	want := RequestHeader{
		CA: []byte("-----BEGIN CERTIFICATE-----"), AllowedNames: []string{"front-proxy-client"}, UsernameHeaders: []string{"X-Remote-User"},
		UIDHeaders: []string{"X-Remote-Uid"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
	}
	var told latest[RequestHeader]
	c := s.client()
	until(t, func(ctx context.Context) error { return c.WatchRequestHeader(ctx, told.set) })
	is := func(want RequestHeader) func() bool {
		return func() bool { got, times := told.get(); return times > 0 && cmp.Equal(got, want) }
	}
	testkit.Wait(t, "the configuration", is(want))

	bad := map[string]string{"requestheader-client-ca-file": "CA", "requestheader-allowed-names": "front-proxy-client"}
	s.put(path, headerMap(bad))
	testkit.Wait(t, "the mistake to be told", func() bool { return c.Stats().Resources["requestheader"].LastError != "" })
	if got, times := told.get(); times != 1 || !cmp.Equal(got, want) {
		t.Errorf("what cannot be read counts: %+v", got)
	}
	data["requestheader-allowed-names"] = `[]`
	s.put(path, headerMap(data))
	want.AllowedNames = []string{}
	testkit.Wait(t, "the next configuration", is(want))
	s.remove(path, headerMap(data))
	testkit.Wait(t, "nobody to be believed", is(RequestHeader{}))
}

func FuzzRequestHeader(f *testing.F) {
	f.Add(`["a"]`, "CA")
	f.Add(`{"a":1}`, "")
	f.Add(`null`, "x")
	f.Fuzz(func(t *testing.T, list, ca string) {
		h, err := parseRequestHeader(map[string]string{"requestheader-client-ca-file": ca, "requestheader-username-headers": list})
		if err != nil && !cmp.Equal(h, RequestHeader{}) {
			t.Errorf("with an error, %+v", h)
		}
		if err == nil && string(h.CA) != ca {
			t.Errorf("CA %q is %q", ca, h.CA)
		}
	})
}
