package kube

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"warren/internal/testkit"
)

// What BenchmarkChurn is told: the program, and for how many seconds pods come
// and go.
const (
	churnProgram = "WARREN_BENCH_PROGRAM"
	churnSeconds = "WARREN_BENCH_SECONDS"
)

// The cluster of BenchmarkChurn.
const (
	churnPods  = 20_000
	churnRate  = 50 // pods a second that end, and as many that begin
	churnNodes = 1000
	churnNode  = "node-7" // the agent's
)

// BenchmarkChurn runs an agent and a hub, the built program, in a cluster of
// 1,000 nodes and 20,000 pods, 50 of which end and begin each second. The API
// server is the one of these tests: what it says is true, and it says it as fast
// as it is wanted, which a cluster that is simulated on the same machine cannot.
//
// The agent sees a control group in which nothing runs: what it costs is the
// cluster.
func BenchmarkChurn(b *testing.B) {
	program := os.Getenv(churnProgram)
	if program == "" {
		b.Skipf("%s names no program: go run ./test/bench -cluster -only feed", churnProgram)
	}
	seconds, err := strconv.Atoi(os.Getenv(churnSeconds))
	if err != nil || seconds <= 0 {
		seconds = 10
	}
	s := newServer(b, nil)
	bigPods(s, churnPods)
	c := &churn{b: b, server: s, dir: b.TempDir()}
	c.index()
	agentAt, hubAt, hubDoor := free(b), free(b), free(b)
	host, port, _ := net.SplitHostPort(hubDoor)
	n, _ := strconv.Atoi(port)
	s.put(agentPath, agentSlice("warren-agent-x", discoveryv1.AddressTypeIPv4, int32(n), agentEndpoint(churnNode, "warren-agent-x", host, true)))
	ca := testkit.NewAuthority(b, "warren")
	config := kubeconfig(b, s, "{token: abc}")

	began := time.Now()
	agent := c.start(program, "agent", "--instance", fmt.Sprint("churn-", os.Getpid()), "--socket", filepath.Join(c.dir, "socket"), "--state", filepath.Join(c.dir, "state"),
		"--http", "off", "--cgroup-root", testkit.NewCgroup(b, "empty").Path, "--node", churnNode, "--kubeconfig", config,
		"--tls-dir", ca.Directory(b, "agent.warren"), "--hub-listen", hubDoor, "--hubble-socket", "off", "--metrics-listen", agentAt)
	agentHeap := mostHeap(agent)
	known := func(m map[string]float64) bool {
		return m["warren_kubernetes_synced"] == 1 && m[`warren_kubernetes_objects{resource="pods"}`] == churnPods
	}
	c.await("the agent to know all pods", agentAt, known)
	b.ReportMetric(time.Since(began).Seconds(), "start-s")
	settings := filepath.Join(c.dir, "hub.yaml")
	if err := os.WriteFile(settings, []byte("nodes: \"\"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	hub := c.start(program, "hub", "--kubeconfig", config, "--config", settings, "--tls-dir", ca.Directory(b, "hub.warren"),
		"--listen", "127.0.0.1:0", "--hubble-listen", "off", "--metrics-listen", hubAt)
	hubHeap := mostHeap(hub)
	c.await("the hub to know all nodes, and to hear the agent", hubAt, func(m map[string]float64) bool {
		up := 0.0
		for name, v := range m {
			if strings.HasPrefix(name, "warren_hub_agent_up") {
				up += v
			}
		}
		return m["warren_hub_nodes"] == churnNodes && up == 1
	})

	before := c.metrics(agentAt)
	agentCPU, hubCPU := c.cpu(agent), c.cpu(hub)
	start := time.Now()
	lags := c.run(time.Duration(seconds)*time.Second, func(told int) bool {
		return c.changes(c.metrics(agentAt))-c.changes(before) >= float64(told)
	})
	took := time.Since(start).Seconds()
	agentCPU, hubCPU = c.cpu(agent)-agentCPU, c.cpu(hub)-hubCPU
	after := c.metrics(agentAt)
	changes := c.changes(after) - c.changes(before)
	b.ReportMetric(agentHeap()/(1<<20), "MiB")
	b.ReportMetric(hubHeap()/(1<<20), "hub-MiB")
	b.ReportMetric(agentCPU/took, "cores")
	b.ReportMetric(hubCPU/took, "hub-cores")
	b.ReportMetric(agentCPU*1e6/changes, "us/change")
	b.ReportMetric(changes/took, "changes/s")
	b.ReportMetric((sumOf(after, "warren_kubernetes_received_bytes_total")-sumOf(before, "warren_kubernetes_received_bytes_total"))/1024/took, "KiB/s")
	b.ReportMetric(float64(c.replaced)/took, "pods/s")
	slices.Sort(lags)
	b.ReportMetric(lags[len(lags)/2].Seconds()*1000, "ms-known")
	b.ReportMetric(lags[len(lags)-1].Seconds()*1000, "ms-known-most")
	wrong := after[`warren_kubernetes_objects{resource="pods"}`] - churnPods
	b.ReportMetric(wrong, "pods-wrong")
	b.ReportMetric(after["warren_kubernetes_addresses"]-before["warren_kubernetes_addresses"], "addresses-more")

	// Nodes that come, one by one, are the hub's business.
	var slowest time.Duration
	for i := range 5 {
		came := time.Now()
		s.put(nodePath, apiNode(fmt.Sprint("late-", i), fmt.Sprint("172.17.0.", i), fmt.Sprintf("10.250.%d.0/24", i)))
		c.await("the hub to know a new node", hubAt, func(m map[string]float64) bool { return m["warren_hub_nodes"] == float64(churnNodes+i+1) })
		slowest = max(slowest, time.Since(came))
	}
	b.ReportMetric(slowest.Seconds()*1000, "ms-node")
	b.ReportMetric(0, "ns/op")
}

// A churn is pods that end and begin, as deployments replace theirs.
type churn struct {
	b      *testing.B
	server *server
	dir    string

	pods     [][]*corev1.Pod // by app, as they are now
	slices   []*discoveryv1.EndpointSlice
	next     int // pod
	replaced int
	put      int // changes that were told, nodes' own aside
}

// index finds what bigPods made.
func (c *churn) index() {
	c.pods, c.slices = make([][]*corev1.Pod, 1000), make([]*discoveryv1.EndpointSlice, 1000)
	for _, o := range c.server.objects[podPath] {
		p := o.(*corev1.Pod)
		app := appOf(p.Labels["app.kubernetes.io/name"])
		c.pods[app] = append(c.pods[app], p)
	}
	for _, o := range c.server.objects[slicePath] {
		s := o.(*discoveryv1.EndpointSlice)
		c.slices[appOf(s.Labels[discoveryv1.LabelServiceName])] = s
	}
}

func appOf(name string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(name, "app-"))
	return n
}

// replace ends a pod and begins another one, which gets its address: what a
// deletion, a deployment, a scheduler, a kubelet and the controller of endpoints
// tell of it.
func (c *churn) replace() {
	app, i := c.next/20%1000, c.next%20
	old := c.pods[app][i]
	c.next++
	c.replaced++
	now := metav1.Now()

	ending := *old
	ending.DeletionTimestamp = &now
	c.server.put(podPath, &ending)
	c.server.remove(podPath, &ending)

	base, _, _ := strings.Cut(old.Name, "+")
	begun := *old
	begun.Name, begun.UID = fmt.Sprintf("%s+%x", base, c.next), types.UID(fmt.Sprintf("9b2f3c1e-0001-4000-8000-%012x", c.next))
	begun.CreationTimestamp, begun.DeletionTimestamp = now, nil
	pending := begun
	pending.Spec.NodeName, pending.Status = "", corev1.PodStatus{Phase: corev1.PodPending}
	c.server.put(podPath, &pending)
	placed := begun
	placed.Status = corev1.PodStatus{Phase: corev1.PodPending}
	c.server.put(podPath, &placed)
	starting := begun
	starting.Status = *old.Status.DeepCopy()
	starting.Status.Phase, starting.Status.ContainerStatuses = corev1.PodPending, nil
	c.server.put(podPath, &starting)
	running := begun
	running.Status.StartTime = &now
	c.server.put(podPath, &running)
	c.pods[app][i] = &running

	s := c.slices[app].DeepCopy()
	for j := range s.Endpoints {
		if s.Endpoints[j].TargetRef.UID == old.UID {
			s.Endpoints[j].TargetRef.UID, s.Endpoints[j].TargetRef.Name = running.UID, running.Name
		}
	}
	c.server.put(slicePath, s)
	c.slices[app] = s
	c.put += 7
}

// run replaces pods for some time, and five nodes a second tell that they live.
// Once a second it waits until the agent knows what was told until then: the times
// are how long that took. known is asked by another goroutine.
func (c *churn) run(length time.Duration, known func(told int) bool) (lags []time.Duration) {
	type look struct {
		told int
		at   time.Time
	}
	looks := make(chan look, int(length/time.Second)+2) // one a second, and the last
	done := make(chan error, 1)
	go func() {
		for l := range looks {
			for !known(l.told) {
				if time.Since(l.at) > time.Minute {
					done <- errors.New("the agent does not know after a minute what it was told")
					return
				}
				pace(2 * time.Millisecond)
			}
			lags = append(lags, time.Since(l.at))
		}
		done <- nil
	}()
	began := time.Now()
	for n, beats := 0, 0; ; n++ {
		at := time.Duration(n) * time.Second / churnRate
		if at >= length {
			break
		}
		pace(time.Until(began.Add(at)))
		c.replace()
		if n%(churnRate/5) == 0 {
			i := beats % churnNodes
			beats++
			node := apiNode(fmt.Sprint("node-", i), fmt.Sprintf("172.16.%d.%d", i>>8, i&255), fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
			node.Annotations = map[string]string{"beat": strconv.Itoa(beats)}
			c.server.put(nodePath, node)
		}
		if n%churnRate == churnRate-1 {
			looks <- look{c.put, time.Now()}
		}
	}
	looks <- look{c.put, time.Now()}
	close(looks)
	if err := <-done; err != nil {
		c.b.Fatal(err)
	}
	return lags
}

// pace waits: what comes and goes does so at its times.
func pace(d time.Duration) { <-time.After(d) }

// changes is what an agent was told of pods and of endpoints.
func (c *churn) changes(m map[string]float64) float64 {
	return m[`warren_kubernetes_watch_events_total{resource="pods"}`] + m[`warren_kubernetes_watch_events_total{resource="endpointslices"}`]
}

func sumOf(m map[string]float64, name string) (sum float64) {
	for key, v := range m {
		if strings.HasPrefix(key, name+"{") {
			sum += v
		}
	}
	return sum
}

// start runs the program until the benchmark ends, and returns its pid.
func (c *churn) start(program string, args ...string) int {
	c.b.Helper()
	log, err := os.Create(filepath.Join(c.dir, args[0]+".log"))
	if err != nil {
		c.b.Fatal(err)
	}
	cmd := exec.Command(program, args...) //nolint:noctx // it is told to end, and waited for
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		c.b.Fatal(err)
	}
	c.b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // ended by us
		if c.b.Failed() {
			text, _ := os.ReadFile(log.Name())
			c.b.Logf("%s printed:\n%s", args[0], text)
		}
		_ = log.Close()
	})
	return cmd.Process.Pid
}

// await waits until metrics are as wanted.
func (c *churn) await(what, addr string, reached func(map[string]float64) bool) {
	c.b.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for m := scrape(addr); m == nil || !reached(m); m = scrape(addr) {
		if time.Now().After(deadline) {
			c.b.Fatalf("waited two minutes for %s", what)
		}
		pace(5 * time.Millisecond)
	}
}

func (c *churn) metrics(addr string) map[string]float64 {
	m := scrape(addr)
	if m == nil {
		c.b.Errorf("%s has no metrics", addr)
	}
	return m
}

// scrape reads metrics, nil where there are none.
func scrape(addr string) map[string]float64 {
	resp, err := http.Get("http://" + addr + "/metrics") //nolint:noctx // it answers at once, or is not there
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && name != "#" {
			m[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return m
}

// cpu is the time that a process has computed, in seconds.
func (c *churn) cpu(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		c.b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100 // USER_HZ
}

// mostHeap looks at the anonymous memory of a process every 50 ms, until it is
// asked for the most that it saw, in bytes.
func mostHeap(pid int) func() float64 {
	stop, most := make(chan struct{}), make(chan float64)
	go func() {
		var peak float64
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if _, rest, ok := strings.Cut(string(status), "RssAnon:"); ok {
				kib, _ := strconv.Atoi(strings.Fields(rest)[0])
				peak = max(peak, float64(kib)*1024)
			}
			select {
			case <-look.C:
			case <-stop:
				most <- peak
				return
			}
		}
	}()
	return func() float64 {
		close(stop)
		return <-most
	}
}

// free is an address of loopback where nobody listens.
func free(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
