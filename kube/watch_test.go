package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"warren/cluster"
	"warren/internal/testkit"
)

// watching starts a Watch that ends with the test.
func watching(t *testing.T, c *Client, o Options) (*cluster.State, *testkit.Log) {
	t.Helper()
	st := cluster.NewState(cluster.Config{})
	log := &testkit.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, st, o, slog.New(slog.NewTextHandler(log, nil)))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return st, log
}

// shop fills a server with a small cluster.
func shop(s *server) (web, db *corev1.Pod) {
	s.put(namespacePath, apiMeta("", "shop", map[string]string{"team": "blue"}))
	s.put(nodePath, apiNode("node-1", "172.30.0.11", "10.244.0.0/24"))
	s.put(setPath, apiMeta("shop", "web-5d4f", map[string]string{"pod-template-hash": "5d4f"}, "apps/v1", "Deployment", "web"))
	s.put(setPath, apiMeta("shop", "api-77", nil, "argoproj.io/v1alpha1", "Rollout", "api"))
	s.put(jobPath, apiMeta("shop", "nightly-1", nil, "batch/v1", "CronJob", "nightly"))
	s.put(jobPath, apiMeta("shop", "once", nil))
	web = ownedBy(apiPod("shop", "web-5d4f-x", "node-1", "10.244.0.7", "fd00::7"), "apps/v1", "ReplicaSet", "web-5d4f")
	web.Labels["pod-template-hash"] = "5d4f"
	db = ownedBy(apiPod("shop", "db-0", "node-2", "10.244.1.7"), "apps/v1", "StatefulSet", "db")
	s.put(podPath, web)
	s.put(podPath, db)
	s.put(podPath, ownedBy(apiPod("shop", "nightly-1-q", "node-1", "10.244.0.8"), "batch/v1", "Job", "nightly-1"))
	s.put(podPath, ownedBy(apiPod("shop", "api-77-z", "node-2", "10.244.1.8"), "apps/v1", "ReplicaSet", "api-77"))
	s.put(servicePath, apiService("shop", "web", "10.96.0.10"))
	s.put(slicePath, apiSlice("shop", "web-1", "web", web))
	return web, db
}

// named is the pod of a name in the namespace shop, or one without a name.
func named(st *cluster.State, name string) *cluster.Pod {
	if p := st.PodByName("shop", name); p != nil {
		return p
	}
	return &cluster.Pod{}
}

func peer(st *cluster.State, addr string) string {
	p, ok := st.Peer(netip.MustParseAddr(addr), 80, "tcp", time.Now())
	switch {
	case !ok:
		return "unknown"
	case p.Pod != nil:
		return "pod " + p.Pod.Name
	case p.Service != nil:
		return "service " + p.Service.Name
	case p.Node != nil:
		return "node " + p.Node.Name
	}
	return string(p.Kind)
}

// TestWatch has a cluster told in each way in which servers tell it, and then changed.
func TestWatch(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*server)
	}{
		{"streamed", nil},
		{"listed", func(s *server) { s.streams = false }},
		{"streamed as JSON", func(s *server) { s.jsonOnly = true }},
		{"listed as JSON", func(s *server) { s.streams, s.jsonOnly = false, true }},
		{"HTTP/1.1", func(s *server) { s.EnableHTTP2 = false }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, test.prepare)
			web, db := shop(s)
			c := s.client()
			st, _ := watching(t, c, Options{Node: "node-1"})
			testkit.Wait(t, "the cluster", st.Synced)

			got := named(st, "web-5d4f-x")
			want := &cluster.Pod{
				UID: "uid-shop-web-5d4f-x", Name: "web-5d4f-x", Namespace: "shop", Node: "node-1",
				Labels: map[string]string{"app": "web-5d4f-x", "pod-template-hash": "5d4f"}, NamespaceLabels: map[string]string{"team": "blue"},
				Addrs:      []netip.Addr{netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00::7")},
				Controller: cluster.Workload{Kind: "ReplicaSet", Name: "web-5d4f"}, Workload: cluster.Workload{Kind: "Deployment", Name: "web"},
				ReplicaSet: "web-5d4f", ServiceAccount: "default", Phase: "Running",
				Created: web.CreationTimestamp.UTC(), Started: web.Status.StartTime.UTC(),
				Containers: []cluster.Container{
					{Name: "main", ID: fmt.Sprintf("%064x", 10), Image: "registry.example/shop/web-5d4f-x:1", Kind: cluster.Main},
					{Name: "proxy", ID: fmt.Sprintf("%064x", 1), Image: "registry.example/mesh/proxy:1.20", Kind: cluster.Main},
				},
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("a pod: %s", diff)
			}
			if p := named(st, "db-0"); p.Workload != (cluster.Workload{Kind: "StatefulSet", Name: "db"}) || p.Containers != nil {
				t.Errorf("a pod of another node: %+v", p)
			}
			if w := named(st, "nightly-1-q").Workload; w != (cluster.Workload{Kind: "CronJob", Name: "nightly"}) {
				t.Errorf("a cron job's pod is of %v", w)
			}
			if w := named(st, "api-77-z").Workload; w != (cluster.Workload{Kind: "Rollout", Name: "api"}) {
				t.Errorf("a rollout's pod is of %v", w)
			}
			for addr, want := range map[string]string{"10.244.0.7": "pod web-5d4f-x", "10.96.0.10": "service web", "172.30.0.11": "node node-1", "198.51.100.1": "world"} {
				if got := peer(st, addr); got != want {
					t.Errorf("%s is %s, want %s", addr, got, want)
				}
			}
			if services := st.ServicesOf(got); len(services) != 1 || services[0].Name != "web" {
				t.Errorf("services: %v", services)
			}

			// Changes: a pod goes, another gets its address, a service moves.
			s.remove(podPath, web)
			s.put(podPath, apiPod("shop", "next", "node-1", "10.244.0.7"))
			s.put(servicePath, apiService("shop", "web", "10.96.0.11"))
			s.put(namespacePath, apiMeta("", "shop", map[string]string{"team": "red"}))
			s.remove(slicePath, apiSlice("shop", "web-1", "web"))
			s.remove(jobPath, apiMeta("shop", "nightly-1", nil, "batch/v1", "CronJob", "nightly"))
			s.put(nodePath, apiNode("node-1", "172.30.0.12", "10.244.0.0/24"))
			testkit.Wait(t, "the changes", func() bool {
				return peer(st, "10.244.0.7") == "pod next" && peer(st, "10.96.0.11") == "service web" && peer(st, "172.30.0.12") == "node node-1" &&
					named(st, "db-0").NamespaceLabels["team"] == "red" && st.Stats().EndpointSlices == 0
			})
			if p := st.Pod(string(web.UID)); p == nil || p.Ended.IsZero() {
				t.Errorf("the pod that went: %+v", p)
			}
			s.remove(podPath, db)
			s.remove(namespacePath, apiMeta("", "shop", nil))
			s.remove(servicePath, apiService("shop", "web", "10.96.0.11"))
			s.remove(nodePath, apiNode("node-1", "172.30.0.12", "10.244.0.0/24"))
			testkit.Wait(t, "the end", func() bool {
				now := st.Stats()
				return now.Namespaces == 0 && now.Services == 0 && now.Nodes == 0 && now.Pods == 3
			})
			stats := c.Stats()
			pods := stats.Resources["pods"]
			if !stats.Connected || stats.Server != s.URL+"/" && stats.Server != s.URL || pods.Requests == 0 || pods.Bytes == 0 || pods.Restarts != 0 || pods.Events < 3 {
				t.Errorf("stats: %+v, pods %+v", stats, pods)
			}
		})
	}
}

// TestWatchAsksForLittle holds what the load of an agent is.
func TestWatchAsksForLittle(t *testing.T) {
	s := newServer(t, func(s *server) { s.streams = false })
	shop(s)
	for i := range 1200 {
		s.put(podPath, apiPod("shop", fmt.Sprint("many-", i), "node-1"))
	}
	st, _ := watching(t, s.client(), Options{Node: "node-1", OwnPodsOnly: true})
	testkit.Wait(t, "the cluster", st.Synced)
	if named(st, "db-0").Name != "" || named(st, "web-5d4f-x").Name == "" || st.Stats().Pods != 1202 {
		t.Errorf("not only the pods of the own node: %+v", st.Stats())
	}
	pages := s.asked(func(r *http.Request) bool { return r.URL.Path == podPath && !isWatch(r) })
	if len(pages) != 3 {
		t.Errorf("%d pages", len(pages))
	}
	for _, r := range pages {
		if q := r.URL.Query(); q.Get("limit") != "500" || q.Get("resourceVersion") == "0" || q.Get("fieldSelector") != "spec.nodeName=node-1" {
			t.Errorf("asked for %s", r.URL)
		}
	}
	for _, path := range []string{namespacePath, setPath, jobPath} {
		for _, r := range s.asked(func(r *http.Request) bool { return r.URL.Path == path }) {
			if accept := r.Header.Get("Accept"); !strings.HasPrefix(accept, "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata") {
				t.Errorf("%s is accepted as %s", path, accept)
			}
		}
	}
	for _, r := range s.asked(func(r *http.Request) bool { return r.URL.Path == setPath }) {
		if r.URL.Query().Get("labelSelector") != "!pod-template-hash" {
			t.Errorf("asked for the replica sets of deployments: %s", r.URL)
		}
	}
}

// TestWatchOnly watches what is named, and refuses what is not there.
func TestWatchOnly(t *testing.T) {
	s := newServer(t, nil)
	shop(s)
	st, _ := watching(t, s.client(), Options{Only: []string{"namespaces", "nodes"}})
	testkit.Wait(t, "the cluster", st.Synced)
	if got, want := st.Stats(), (cluster.Stats{Nodes: 1, Namespaces: 1, Addresses: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if asked := s.asked(func(r *http.Request) bool { return r.URL.Path != namespacePath && r.URL.Path != nodePath }); len(asked) > 0 {
		t.Errorf("asked for %s", asked[0].URL)
	}
	err := s.client().Watch(t.Context(), st, Options{Only: []string{"secrets"}}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "secrets") {
		t.Errorf("secrets: %v", err)
	}
}

// TestServerAway has the server go while it is watched: what is known stays,
// and what happened meanwhile is told when it is back.
func TestServerAway(t *testing.T) {
	for _, test := range []struct {
		name string
		away func(w http.ResponseWriter, r *http.Request) bool
	}{
		{"connections break", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }},
		{"a proxy says so", func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, nil)
			web, _ := shop(s)
			c := s.client()
			st, log := watching(t, c, Options{})
			testkit.Wait(t, "the cluster", st.Synced)
			// A watch that is cut before it told anything is not trusted to go on.
			s.put(podPath, apiPod("shop", "first", "node-1", "10.244.0.20"))
			testkit.Wait(t, "the watch to tell", func() bool { return peer(st, "10.244.0.20") == "pod first" })
			before := st.Stats()

			s.respond(test.away)
			s.cut()
			testkit.Wait(t, "the outage to show", func() bool { return !c.Stats().Connected })
			since := c.Stats().Since
			tries := c.Stats().Resources["pods"].Requests
			testkit.Wait(t, "more tries", func() bool { return c.Stats().Resources["pods"].Requests > tries+3 })
			if diff := cmp.Diff(before, st.Stats()); diff != "" {
				t.Errorf("what is known changed: %s", diff)
			}
			if got := peer(st, "10.244.0.7"); got != "pod web-5d4f-x" {
				t.Errorf("a known address is %s", got)
			}
			if stats := c.Stats(); stats.Since != since || stats.Resources["pods"].AwaySince.IsZero() || stats.Resources["pods"].LastError == "" {
				t.Errorf("stats while away: %+v", stats)
			}
			s.remove(podPath, web)
			s.put(podPath, apiPod("shop", "meanwhile", "node-1", "10.244.0.7"))
			s.respond(nil)
			testkit.Wait(t, "what happened meanwhile", func() bool { return peer(st, "10.244.0.7") == "pod meanwhile" && c.Stats().Connected })
			testkit.Wait(t, "the pods to be well", func() bool { return c.Stats().Resources["pods"].AwaySince.IsZero() })
			if n := c.Stats().Resources["pods"].Restarts; n != 0 {
				t.Errorf("all pods were read %d times again, where the watch could go on", n)
			}
			if n := strings.Count(log.String(), "cannot be asked"); n != 1 {
				t.Errorf("%d times said to be away: %s", n, log.String())
			}
			if n := strings.Count(log.String(), "API server answers"); n != 2 { // at first, and again
				t.Errorf("%d times said to answer: %s", n, log.String())
			}
		})
	}
}

// TestServerAwayAtStart begins without a server.
func TestServerAwayAtStart(t *testing.T) {
	s := newServer(t, nil)
	s.respond(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	shop(s)
	c := s.client()
	st, log := watching(t, c, Options{})
	testkit.Wait(t, "tries", func() bool { return c.Stats().Resources["pods"].Requests > 3 })
	if st.Synced() || c.Stats().Connected || c.Stats().Since.IsZero() || peer(st, "198.51.100.1") != "unknown" {
		t.Errorf("without a server: synced %v, %+v", st.Synced(), c.Stats())
	}
	s.respond(nil)
	testkit.Wait(t, "the cluster", st.Synced)
	if n := strings.Count(log.String(), "cannot be asked"); n != 1 {
		t.Errorf("%d times said to be away", n)
	}
}

// TestHistoryGone has the server forget what was: all is read again, and what
// went meanwhile is gone.
func TestHistoryGone(t *testing.T) {
	for _, streams := range []bool{true, false} {
		t.Run(fmt.Sprint("streams ", streams), func(t *testing.T) {
			s := newServer(t, func(s *server) { s.streams = streams })
			web, db := shop(s)
			c := s.client()
			st, log := watching(t, c, Options{})
			testkit.Wait(t, "the cluster", st.Synced)
			down := true
			s.respond(func(_ http.ResponseWriter, r *http.Request) bool {
				if down {
					panic(http.ErrAbortHandler)
				}
				return false
			})
			s.cut()
			s.remove(podPath, web)
			s.remove(slicePath, apiSlice("shop", "web-1", "web"))
			s.remove(namespacePath, apiMeta("", "shop", nil))
			s.remove(servicePath, apiService("shop", "web", "10.96.0.10"))
			s.put(podPath, apiPod("shop", "next", "node-1", "10.244.0.7"))
			s.compact()
			s.respond(nil)
			testkit.Wait(t, "all to be read again", func() bool {
				now := st.Stats()
				return peer(st, "10.244.0.7") == "pod next" && now.Services == 0 && now.Namespaces == 0 && now.EndpointSlices == 0
			})
			if p := st.Pod(string(web.UID)); p == nil || p.Ended.IsZero() {
				t.Errorf("the pod that went: %+v", p)
			}
			if p := st.Pod(string(db.UID)); p == nil || !p.Ended.IsZero() {
				t.Errorf("the pod that stayed: %+v", p)
			}
			if n := c.Stats().Resources["pods"].Restarts; n == 0 {
				t.Error("no restart was counted")
			}
			if n := strings.Count(log.String(), "cannot be watched"); n != 0 {
				t.Errorf("that a watch expires is nothing to warn of: %s", log.String())
			}
		})
	}
}

// TestGarbage has the server say what nobody can read, now and then.
func TestGarbage(t *testing.T) {
	garbage := map[string]func(w http.ResponseWriter){
		"no protobuf": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
			_, _ = w.Write(bytes.Repeat([]byte{0, 0, 0, 4, 0xff, 0xfe, 0xfd, 0xfc}, 100))
		},
		"a huge frame": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
			_, _ = w.Write([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
		},
		"no JSON": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("{]"))
		},
		"a page for people": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>please log in"))
		},
		"an object of another kind": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"type":"ADDED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"x","uid":"x","resourceVersion":"1"}}}`))
		},
		"an event of no kind": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"type":"WHAT","object":{"kind":"Pod","apiVersion":"v1"}}`))
		},
		"an empty list": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{}`))
		},
	}
	for name, write := range garbage {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			shop(s)
			c := s.client()
			st, _ := watching(t, c, Options{})
			testkit.Wait(t, "the cluster", st.Synced)
			before := st.Stats()
			s.respond(func(w http.ResponseWriter, _ *http.Request) bool { write(w); return true })
			s.cut()
			tries := c.Stats().Resources["pods"].Requests
			testkit.Wait(t, "more tries", func() bool { return c.Stats().Resources["pods"].Requests > tries+3 })
			if diff := cmp.Diff(before, st.Stats()); diff != "" {
				t.Errorf("garbage changed what is known: %s", diff)
			}
			s.put(podPath, apiPod("shop", "next", "node-1", "10.244.0.9"))
			s.respond(nil)
			testkit.Wait(t, "the next pod", func() bool { return peer(st, "10.244.0.9") == "pod next" })
		})
	}
}

// TestForbidden watches with too few rights: what may be read is, and who may
// read addresses knows what they stand for.
func TestForbidden(t *testing.T) {
	s := newServer(t, nil)
	shop(s)
	forbidden := func(paths ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !slices.Contains(paths, r.URL.Path) {
				return false
			}
			s.status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "jobs is forbidden: system:serviceaccount:warren:agent cannot list")
			return true
		}
	}
	s.respond(forbidden(jobPath, slicePath, podPath))
	c := s.client()
	st, log := watching(t, c, Options{})
	testkit.Wait(t, "tries", func() bool { return c.Stats().Resources["pods"].Failures > 5 })
	if st.Synced() {
		t.Error("synced without pods")
	}
	s.respond(forbidden(jobPath, slicePath))
	testkit.Wait(t, "the pods", st.Synced)
	if got := peer(st, "10.244.0.7"); got != "pod web-5d4f-x" {
		t.Errorf("a pod's address is %s", got)
	}
	if n := strings.Count(log.String(), "cannot be watched"); n != 3 {
		t.Errorf("%d resources said to be refused, want 3: %s", n, log.String())
	}
	if got := c.Stats().Resources["jobs"]; !strings.Contains(got.LastError, "forbidden") || got.AwaySince.IsZero() {
		t.Errorf("stats of what is refused: %+v", got)
	}
	s.respond(nil)
	testkit.Wait(t, "the jobs", func() bool { return named(st, "nightly-1-q").Workload.Kind == "CronJob" })
	if n := strings.Count(log.String(), "watched again"); n < 1 {
		t.Errorf("said %d times that it is watched again", n)
	}
}
