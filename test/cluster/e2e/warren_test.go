package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"warren/test/cluster/bed"
)

// installed is Warren in the shared cluster, installed by the first test that
// asks it.
var installed struct {
	once sync.Once
	err  error
}

// warren gives the cluster with Warren in it.
func warren(t *testing.T) *testCluster {
	t.Helper()
	c := cluster(t)
	installed.once.Do(func() { installed.err = c.Warren(c.context()) })
	if installed.err != nil {
		t.Fatal(installed.err)
	}
	c.nodesAnswer(len(c.RunningNodes()))
	return c
}

// nodesAnswer waits until as many nodes answer the hub, of as many.
func (c *testCluster) nodesAnswer(want int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d nodes to answer", want), func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "warren", "status", "-o", "json")
		if err != nil {
			return err
		}
		var status struct {
			Hub struct {
				Total    int `json:"nodes_total"`
				Answered int `json:"nodes_answered"`
			}
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if status.Hub.Total != want || status.Hub.Answered != want {
			return fmt.Errorf("%d of %d nodes answer", status.Hub.Answered, status.Hub.Total)
		}
		return nil
	})
}

// An event is a line of JSON of `kubectl warren events`.
type event map[string]any

func (e event) text(field string) string {
	if s, ok := e[field].(string); ok {
		return s
	}
	return ""
}

// A stream is an answer that goes on.
type stream struct {
	t      testing.TB
	cmd    *exec.Cmd
	errors bytes.Buffer

	mu     sync.Mutex
	events []event
	ended  chan struct{}
}

// follow starts a program in a place that prints events as lines of JSON. It is
// ended with the test.
func (c *testCluster) follow(where string, argv ...string) *stream {
	c.t.Helper()
	cmd, err := c.In(context.Background(), where, argv...)
	c.must(err)
	out, err := cmd.StdoutPipe()
	c.must(err)
	s := &stream{t: c.t, cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = &s.errors
	c.must(cmd.Start())
	go func() {
		defer close(s.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				c.t.Errorf("a line that is not JSON: %s", lines.Bytes())
				continue
			}
			s.mu.Lock()
			s.events = append(s.events, e)
			s.mu.Unlock()
		}
		_ = cmd.Wait()
	}()
	c.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		<-s.ended
		if c.t.Failed() {
			c.t.Logf("%s: %s", strings.Join(argv, " "), s.errors.String())
		}
	})
	return s
}

// events follows events of the whole cluster, and waits until the nodes are
// watched: the stream tells who answers first.
func (c *testCluster) events(args ...string) *stream {
	c.t.Helper()
	s := c.follow("control", append([]string{"kubectl", "warren", "events", "-o", "json"}, args...)...)
	c.eventually("the stream to begin", func(context.Context) error {
		select {
		case <-s.ended:
			return fmt.Errorf("it has ended: %s", s.errors.String())
		default:
		}
		for _, e := range s.all() {
			if e.text("evt.kind") == "nodes" && e["nodes.total"] == e["nodes.answered"] {
				return nil
			}
		}
		return fmt.Errorf("no line says that all nodes answer: %v", s.all())
	})
	return s
}

// all are the events that have come.
func (s *stream) all() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// lost are the lines that say that something is missing.
func (s *stream) lost() []event {
	return slices.DeleteFunc(s.all(), func(e event) bool { return e.text("evt.kind") != "lost" })
}

// TestClusterShortPods holds that of 500 pods, each of which lives for a moment,
// every one is seen, once, and known by name, container, labels and node.
func TestClusterShortPods(t *testing.T) {
	const pods = 500
	c := warren(t)
	s := c.events("-n", c.namespace, "evt.type = execve and proc.name = true")
	c.apply(fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: short, namespace: %s}
spec:
  completions: %d
  parallelism: 40
  template:
    metadata: {labels: {app: short}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      containers: [{name: moment, image: localhost/busybox:1, imagePullPolicy: Never, command: [/bin/true]}]
`, c.namespace, pods))
	ctx, cancel := context.WithTimeout(context.Background(), 4*bed.Patience)
	defer cancel()
	if _, err := c.Kubectl(ctx, "-n", c.namespace, "wait", "--for=condition=Complete", "job/short", "--timeout="+(3*bed.Patience).String()); err != nil {
		t.Fatal(err)
	}
	type fact struct{ name, node string }
	want := make(map[string]fact)
	const format = `jsonpath={range .items[*]}{.metadata.uid} {.metadata.name} {.spec.nodeName}{"\n"}{end}`
	for line := range strings.Lines(c.kubectl("get", "pods", "-l", "app=short", "-o", format)) {
		f := strings.Fields(line)
		want[f[0]] = fact{f[1], f[2]}
	}
	if len(want) != pods {
		t.Fatalf("%d pods are known to the API server, want %d", len(want), pods)
	}
	// What was held back until it was known comes a little later.
	_ = bed.Poll(ctx, 10*time.Second, func() error {
		if n := len(s.all()); n < pods+1 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	seen, pending := make(map[string]int), 0
	for _, e := range s.all() {
		if e.text("evt.kind") != "exec" {
			continue
		}
		uid := e.text("k8s.pod.uid")
		seen[uid]++
		w, known := want[uid]
		got := fact{e.text("k8s.pod.name"), e.text("k8s.node.name")}
		if !known || got != w || e.text("k8s.ns.name") != c.namespace || e.text("k8s.pod.labels[app]") != "short" {
			t.Errorf("pod %s: told as %+v with label app=%q in %s, is %+v", uid, got, e.text("k8s.pod.labels[app]"), e.text("k8s.ns.name"), w)
		}
		// Which of a pod's containers it is, the runtime tells; of one that does
		// not answer in time, the event says so.
		switch name := e.text("k8s.container.name"); {
		case name == "" && e["container.pending"] == true:
			pending++
		case name != "moment":
			t.Errorf("%s: told as of container %q", w.name, name)
		}
	}
	if pending > pods/20 {
		t.Errorf("of %d pods it was not known which container, more than one in twenty", pending)
	}
	t.Logf("of %d pods the runtime did not tell in time which container", pending)
	missing := 0
	for uid, f := range want {
		switch {
		case seen[uid] == 0:
			missing++
			t.Logf("not seen: %s on %s", f.name, f.node)
		case seen[uid] > 1:
			t.Errorf("%s was told %d times", f.name, seen[uid])
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d pods were not told; lost: %v", missing, pods, s.lost())
	}
}

// ticker starts a pod on a node that counts, ten times a second: each count is a
// process of its own, `echo NUMBER`.
func (c *testCluster) ticker(name, node string) {
	c.t.Helper()
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: ticker}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 0
  containers:
  - name: ticker
    image: localhost/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, "i=0; while :; do i=$((i+1)); /bin/echo $i >/dev/null; usleep 100000; done"]
`, c.namespace, name, node))
	c.ready("pod/" + name)
}

// counts gives the numbers that a ticker's processes were seen with, in order.
func (s *stream) counts(pod string) []int {
	var all []int
	for _, e := range s.all() {
		args, _ := e["proc.args"].(string)
		if n, err := strconv.Atoi(strings.TrimSpace(args)); err == nil && e.text("k8s.pod.name") == pod {
			all = append(all, n)
		}
	}
	return all
}

// gaps counts where numbers do not follow each other.
func gaps(numbers []int) (n int) {
	for i := 1; i < len(numbers); i++ {
		if numbers[i] != numbers[i-1]+1 {
			n++
		}
	}
	return n
}

const ticks = "evt.type = execve and proc.name = echo"

// TestClusterScope holds that an agent tells what is on its node, and neither
// what is on another nor what is the machine's.
func TestClusterScope(t *testing.T) {
	c := warren(t)
	nodes := c.RunningNodes()
	streams := make(map[string]*stream)
	for _, node := range nodes {
		// Straight from the agent: nobody filters what it tells.
		streams[node] = c.follow(node, "warren", "events", "--socket", "/run/warren/warren.sock", "-o", "json", ticks)
	}
	c.ticker("scope-"+nodes[0], nodes[0])
	c.ticker("scope-"+nodes[1], nodes[1])
	for _, node := range nodes[:2] {
		c.eventually("counts of "+node, func(ctx context.Context) error {
			// A process of the machine's, in no node's groups.
			if out, err := exec.CommandContext(ctx, "/bin/busybox", "echo", "nobody's").CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if n := len(streams[node].counts("scope-" + node)); n < 20 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	for node, s := range streams {
		for _, e := range s.all() {
			if pod := e.text("k8s.pod.name"); pod != "scope-"+node || e.text("k8s.node.name") != node {
				t.Errorf("the agent of %s tells of %q on %q: %v", node, pod, e.text("k8s.node.name"), e["proc.cmdline"])
			}
		}
	}
}

// TestClusterRollingRestart holds that a stream of the cluster survives agents
// that are replaced, says when one is away, and misses nothing else.
func TestClusterRollingRestart(t *testing.T) {
	c := warren(t)
	node := c.RunningNodes()[0]
	c.ticker("restart", node)
	s := c.events("-n", c.namespace, ticks)
	_, err := c.Kubectl(c.context(), "-n", "warren", "rollout", "restart", "daemonset/warren-agent")
	c.must(err)
	c.must(c.Rollout(c.context(), "warren", "daemonset/warren-agent"))
	back := len(s.counts("restart"))
	c.eventually("counts after the restart", func(context.Context) error {
		if n := len(s.counts("restart")); n < back+30 {
			return fmt.Errorf("%d more", n-back)
		}
		return nil
	})
	// One gap, while the node's agent was away, and it was told.
	numbers := s.counts("restart")
	if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		t.Errorf("counts are told twice or out of order: %v", numbers)
	}
	if n := gaps(numbers); n > 1 {
		t.Errorf("%d gaps in %v", n, numbers)
	}
	var told bool
	for _, e := range s.all() {
		if missing, _ := e["nodes.missing"].([]any); len(missing) > 0 {
			told = told || strings.HasPrefix(fmt.Sprint(missing[0]), node)
		}
	}
	if !told {
		t.Errorf("nobody said that %s was away", node)
	}
}

// TestClusterHubRestart holds that the cluster can be asked all the time while
// its hubs are replaced one after the other.
func TestClusterHubRestart(t *testing.T) {
	c := warren(t)
	_, err := c.Kubectl(c.context(), "-n", "warren", "rollout", "restart", "deployment/warren-hub")
	c.must(err)
	done := make(chan error, 1)
	go func() { done <- c.Rollout(c.context(), "warren", "deployment/warren-hub") }()
	asked := 0
	for ended := false; !ended; asked++ {
		select {
		case err := <-done:
			c.must(err)
			ended = true
		default:
		}
		if out, err := c.Kubectl(c.context(), "warren", "process", "list", "-A", "-o", "json", "proc.name = warren"); err != nil {
			t.Errorf("question %d: %v", asked, err)
		} else if strings.Count(out, "\n") < len(c.RunningNodes()) {
			t.Errorf("question %d has too few answers: %s", asked, out)
		}
	}
	if asked < 3 {
		t.Errorf("%d questions while the hubs were replaced: nothing was tested", asked)
	}
}

// TestClusterWithoutAPIServer holds that for a minute without an API server an
// agent goes on as before, and learns what is new afterwards.
func TestClusterWithoutAPIServer(t *testing.T) {
	c := warren(t)
	node := c.RunningNodes()[0]
	c.ticker("before", node)
	s := c.follow(node, "warren", "events", "--socket", "/run/warren/warren.sock", "-o", "json", ticks+" and k8s.ns.name = "+c.namespace)
	c.eventually("counts", func(context.Context) error {
		if n := len(s.counts("before")); n < 5 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	c.must(c.Stop(c.context(), "control", "kube-apiserver"))
	t.Cleanup(func() { c.must(c.Start(c.context(), "control", "kube-apiserver")) })
	away := len(s.counts("before"))
	minute := time.NewTimer(time.Minute)
	defer minute.Stop()
	select {
	case <-minute.C:
	case <-s.ended:
		t.Fatalf("the stream has ended: %s", s.errors.String())
	}
	numbers := s.counts("before")
	// Ten a second at most; a machine that is busy starts fewer.
	if len(numbers) < away+100 {
		t.Errorf("%d counts in a minute without an API server", len(numbers)-away)
	}
	c.must(c.Start(c.context(), "control", "kube-apiserver"))
	c.ticker("after", node)
	c.eventually("counts of a pod that came later", func(context.Context) error {
		if n := len(s.counts("after")); n < 5 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := gaps(s.counts("before")); n > 0 {
		t.Errorf("%d gaps in %v; lost: %v", n, s.counts("before"), s.lost())
	}
	for _, e := range s.all() {
		if e.text("k8s.pod.labels[app]") != "ticker" {
			t.Errorf("a pod without its labels: %v", e)
			break
		}
	}
	c.nodesAnswer(len(c.RunningNodes()))
}

// TestClusterAddressReuse holds that an address is the pod's that had it at the
// time: three have it one after the other, and each is told as itself.
func TestClusterAddressReuse(t *testing.T) {
	c := warren(t)
	servers := c.serve()
	i := slices.IndexFunc(servers, func(p pod) bool { return p.Node == c.RunningNodes()[0] })
	server, node := servers[i], c.RunningNodes()[1]
	s := c.events("-n", c.namespace, "-c", "evt.type,fd.name,k8s.pod.name,k8s.remote.pod.name", "evt.type in (accept, accept4, close) and proc.name = shop")
	// askers are the pods that the server is said to have been asked by.
	var address string
	askers := func(kinds ...string) (names []string) {
		for _, e := range s.all() {
			if slices.Contains(kinds, e.text("evt.type")) && e.text("k8s.pod.name") == server.Name && strings.HasPrefix(e.text("fd.name"), address+":") {
				names = append(names, e.text("k8s.remote.pod.name"))
			}
		}
		return names
	}
	var so []string
	for _, name := range []string{"first", "second", "third"} {
		// The next address is the lowest free again.
		_, err := run(c, node, "sh", "-c", "rm -f /var/lib/cni/networks/cluster/last_reserved_ip.*")
		c.must(err)
		// It connects before anybody can know its address, and says nothing
		// until the server has enough of it.
		c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: asker, name: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 0
  containers: [{name: asker, image: localhost/busybox:1, imagePullPolicy: Never, command: [sh, -c, "sleep 1000 | nc %[4]s 8080; exec sleep 1000"]}]
`, c.namespace, name, node, server.IPs[0]))
		c.ready("pod/" + name)
		asker := c.pods("name=" + name)[0]
		if address == "" {
			address = asker.IPs[0]
		} else if asker.IPs[0] != address {
			t.Fatalf("%s has %s, not %s again: nothing is tested", name, asker.IPs[0], address)
		}
		so = append(so, name)
		c.eventually("the end of what "+name+" asked", func(context.Context) error {
			if got := askers("close"); len(got) < len(so) {
				return fmt.Errorf("%s was %v", address, got)
			}
			return nil
		})
		c.kubectl("delete", "pod", name, "--grace-period=0", "--wait=true")
	}
	if got := askers("close"); !slices.Equal(got, so) {
		t.Errorf("%s was %v, told as %v", address, so, got)
	}
	// Of the beginnings some may be told too early to know who it is; none may
	// be told as another.
	for i, name := range askers("accept", "accept4") {
		if name != "" && name != so[i] {
			t.Errorf("connection %d from %s is told as %s, was %s", i, address, name, so[i])
		}
	}
}

// TestClusterAgentComesAndGoes holds that who asks the cluster hears of a node
// that was added, and of one that died.
func TestClusterAgentComesAndGoes(t *testing.T) {
	c := warren(t)
	s := c.events("-n", c.namespace, ticks)
	c.must(c.AddNode(c.context(), 3))
	t.Cleanup(func() {
		if slices.Contains(c.RunningNodes(), "node3") {
			c.must(c.RemoveNode(c.context(), 3))
		}
	})
	c.nodesAnswer(3)
	c.ticker("late", "node3")
	c.eventually("counts of the new node in a stream that was there before it", func(context.Context) error {
		if n := len(s.counts("late")); n < 10 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	c.must(c.RemoveNode(c.context(), 3))
	c.nodesAnswer(2)
	select {
	case <-s.ended:
		t.Errorf("the stream ended with the node: %s", s.errors.String())
	default:
	}
}

// run runs a program on a node.
func run(c *testCluster, node string, argv ...string) (string, error) {
	cmd, err := c.In(c.context(), node, argv...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s on %s: %w: %s", strings.Join(argv, " "), node, err, out)
	}
	return string(out), nil
}
