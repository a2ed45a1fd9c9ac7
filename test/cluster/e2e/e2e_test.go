// Package e2e has the tests that need a real Kubernetes: those of the test bed
// itself, and of Warren in it. `make cluster-test` runs them.
//
// The first that needs the cluster brings it up, all share it, and it is taken
// down after the last. Where WARREN_CLUSTER names a cluster, that is used, and
// left running.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"warren/internal/testkit"
	"warren/test/cluster/bed"
)

func TestMain(m *testing.M) {
	bed.Child()
	code := m.Run()
	if err := shared.end(); err != nil {
		fmt.Fprintln(os.Stderr, "take the cluster down:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// shared is the cluster of all tests of this process.
var shared common

type common struct {
	once sync.Once
	c    *bed.Cluster
	err  error
}

const ownName = "e2e"

func (s *common) up() {
	s.once.Do(func() {
		name := os.Getenv("WARREN_CLUSTER")
		if name == "" {
			name = ownName
		}
		tools, err := bed.FindTools()
		if err != nil {
			s.err = err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*bed.Patience)
		defer cancel()
		say := func(line string) { fmt.Fprintln(os.Stderr, line) }
		// One that runs is used as it is: with iptables, or whatever it was given.
		if s.c, s.err = bed.Open(name, tools, say); errors.Is(s.err, bed.ErrDown) {
			s.c, s.err = bed.New(bed.Config{Name: name}, tools, say)
		}
		if s.err == nil {
			s.err = s.c.Up(ctx, false)
		}
	})
}

func (s *common) end() error {
	if s.c == nil || s.c.Name != ownName {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), bed.Patience)
	defer cancel()
	return s.c.Down(ctx)
}

// A testCluster is the cluster as one test sees it.
type testCluster struct {
	*bed.Cluster
	t         testing.TB
	namespace string // the test's own
}

// cluster gives the cluster, brought up, and a namespace that is deleted after
// the test.
func cluster(t testing.TB) *testCluster {
	t.Helper()
	testkit.NeedRoot(t)
	shared.up()
	if shared.err != nil {
		t.Fatalf("bring the cluster up: %v", shared.err)
	}
	return withNamespace(t, shared.c)
}

// withNamespace gives a cluster with a namespace of the test's own.
func withNamespace(t testing.TB, up *bed.Cluster) *testCluster {
	t.Helper()
	c := &testCluster{Cluster: up, t: t, namespace: ownNamespace(t)}
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", c.namespace))
	// Its service account comes a moment later, and pods need it.
	c.eventually("a service account", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "-n", c.namespace, "get", "serviceaccount", "default")
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.try("get", "pods", "-A", "-o", "wide"))
			t.Log(c.try("-n", c.namespace, "get", "events", "--sort-by=.lastTimestamp"))
		}
		c.try("delete", "namespace", c.namespace, "--wait=false")
	})
	return c
}

// ownNamespace names a test's namespace. Each run has another: the one before may
// still be on its way out.
func ownNamespace(t testing.TB) string {
	name, _, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(t.Name(), "TestCluster")), "/")
	return name + "-" + strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
}

// context is that of one step of a test.
func (c *testCluster) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*bed.Patience)
	c.t.Cleanup(cancel)
	return ctx
}

// kubectl gives what kubectl prints about the test's namespace; an error ends
// the test.
func (c *testCluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.Kubectl(c.context(), append([]string{"-n", c.namespace}, args...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// try gives what kubectl prints, or its error, for logs.
func (c *testCluster) try(args ...string) string {
	out, err := c.Kubectl(c.context(), args...)
	if err != nil {
		return err.Error()
	}
	return out
}

// apply applies manifests.
func (c *testCluster) apply(manifests string) {
	c.t.Helper()
	if err := c.Apply(c.context(), manifests); err != nil {
		c.t.Fatal(err)
	}
}

// ready waits until pods of the test's namespace are Ready: "pod/NAME", or "pod"
// and a selector.
func (c *testCluster) ready(pods ...string) {
	c.t.Helper()
	c.kubectl(append([]string{"wait", "--for=condition=Ready", "--timeout=" + bed.Patience.String()}, pods...)...)
}

// eventually asks until there is no error.
func (c *testCluster) eventually(what string, ask func(context.Context) error) {
	c.t.Helper()
	ctx := c.context()
	if err := bed.Poll(ctx, bed.Patience, func() error { return ask(ctx) }); err != nil {
		c.t.Fatalf("waited for %s: %v", what, err)
	}
}

// must ends the test if there is an error.
func (c *testCluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// A pod is what tests want to know of one.
type pod struct {
	Name, Node, UID string
	IPs             []string
}

// pods gives the running pods of the test's namespace that have labels.
func (c *testCluster) pods(selector string) []pod {
	c.t.Helper()
	const format = `jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.metadata.uid} {.status.podIPs[*].ip}{"\n"}{end}`
	var all []pod
	for line := range strings.Lines(c.kubectl("get", "pods", "-l", selector, "--field-selector=status.phase=Running", "-o", format)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			c.t.Fatalf("a pod without a node: %q", line)
		}
		all = append(all, pod{Name: f[0], Node: f[1], UID: f[2], IPs: f[3:]})
	}
	return all
}

// serve starts a server on every node behind a service "serve" of both families,
// and gives its pods.
func (c *testCluster) serve() []pod {
	c.t.Helper()
	c.apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: serve, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: serve}}
  template:
    metadata: {labels: {app: serve}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: serve, image: %[2]s, imagePullPolicy: Never, args: [serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: serve, namespace: %[1]s}
spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {app: serve}, ports: [{port: 80, targetPort: 8080}]}
`, c.namespace, bed.ShopImage))
	// Nothing of a daemon set that no controller has seen yet is rolled out too.
	var pods []pod
	c.eventually("a server on each node", func(context.Context) error {
		if pods = c.pods("app=serve"); len(pods) != len(c.RunningNodes()) {
			return fmt.Errorf("%d servers on %d nodes", len(pods), len(c.RunningNodes()))
		}
		return nil
	})
	c.must(c.Rollout(c.context(), c.namespace, "daemonset/serve"))
	return c.pods("app=serve")
}

// ask asks from within a pod for what a URL answers.
func (c *testCluster) ask(ctx context.Context, pod, url string) (string, error) {
	return c.Kubectl(ctx, "-n", c.namespace, "exec", pod, "--", "shop", "get", url)
}
