package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"warren/cluster"
)

// bigPods are pods as real ones are: about 5 kB each in protobuf.
func bigPods(s *server, pods int) {
	for i := range 1000 {
		s.put(nodePath, apiNode(fmt.Sprint("node-", i), fmt.Sprintf("172.16.%d.%d", i>>8, i&255), fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)))
		s.put(servicePath, apiService(fmt.Sprint("team-", i%100), fmt.Sprint("app-", i), fmt.Sprintf("10.96.%d.%d", i>>8, i&255)))
	}
	members := make([][]*corev1.Pod, 1000)
	for i := range pods {
		app, node := i%1000, i/20%1000
		hash := fmt.Sprintf("%08x", app*7919)
		namespace := fmt.Sprint("team-", app%100)
		p := ownedBy(apiPod(namespace, fmt.Sprintf("app-%d-%s-%05x", app, hash, i), fmt.Sprint("node-", node),
			fmt.Sprintf("10.%d.%d.%d", node>>8, node&255, 2+i%20), fmt.Sprintf("fd00:10:%x::%x", node, 2+i%20)), "apps/v1", "ReplicaSet", fmt.Sprintf("app-%d-%s", app, hash))
		p.UID = types.UID(fmt.Sprintf("9b2f3c1e-0000-4000-8000-%012x", i))
		p.Labels = map[string]string{
			"app.kubernetes.io/name": fmt.Sprint("app-", app), "app.kubernetes.io/instance": fmt.Sprint("app-", app, "-prod"),
			"app.kubernetes.io/version": "v1.2.3", "team": fmt.Sprint(app % 100), "pod-template-hash": hash,
		}
		s.put(podPath, p)
		members[app] = append(members[app], p)
	}
	for app, pods := range members {
		s.put(slicePath, apiSlice(fmt.Sprint("team-", app%100), fmt.Sprint("app-", app, "-x"), fmt.Sprint("app-", app), pods...))
	}
	for i := range 100 {
		s.put(namespacePath, apiMeta("", fmt.Sprint("team-", i), map[string]string{"team": strconv.Itoa(i)}))
	}
}

// theHeap names the kubeconfig that TestHeap's child watches by.
const theHeap = "WARREN_TEST_KUBECONFIG"

// TestHeap watches a cluster of 20,000 pods in a process of its own, and holds
// what that may cost it: an agent has 150 MiB in all, and 22 without a cluster.
func TestHeap(t *testing.T) {
	if file := os.Getenv(theHeap); file != "" {
		watchAndReport(t, file)
		return
	}
	notRaced(t)
	for _, streams := range []bool{true, false} {
		t.Run(fmt.Sprint("streams ", streams), func(t *testing.T) {
			s := newServer(t, func(s *server) { s.streams = streams })
			bigPods(s, 20_000)
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHeap$", "-test.v")
			child.Env = append(os.Environ(), theHeap+"="+kubeconfig(t, s, "{token: abc}"))
			out, err := child.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			figures := make(map[string]int)
			for line := range strings.Lines(string(out)) {
				if _, text, ok := strings.Cut(line, "figure "); ok {
					fields := strings.Fields(text)
					figures[fields[0]], _ = strconv.Atoi(fields[1])
				}
			}
			t.Logf("MiB: %d live, %d private memory at the end, %d at most; %d ms; %d MiB read", figures["live"], figures["rss"], figures["peak"], figures["ms"], figures["read"])
			if figures["live"] == 0 || figures["live"] > 40 || figures["peak"] > 120 {
				t.Errorf("more than 40 MiB live, or 120 at most")
			}
			if n := len(s.asked(func(r *http.Request) bool { return r.URL.Path == podPath && !isWatch(r) })); streams && n != 0 || !streams && n != 40 {
				t.Errorf("asked for %d pages", n)
			}
		})
	}
}

func watchAndReport(t *testing.T, file string) {
	c, err := Connect(file, "")
	if err != nil {
		t.Fatal(err)
	}
	st := cluster.NewState(cluster.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := time.Now()
	peak := 0
	go func() { ended <- c.Watch(ctx, st, Options{Node: "node-7"}, slog.New(slog.DiscardHandler)) }()
	// However long it takes: what is held is memory.
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !st.Synced() {
		select {
		case err := <-ended:
			t.Fatal("the watch ended: ", err)
		case <-look.C:
			peak = max(peak, private(t))
		}
	}
	took := time.Since(began)
	if n := st.Stats().Pods; n != 20_000 {
		t.Errorf("%d pods", n)
	}
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	read := uint64(0)
	for _, r := range c.Stats().Resources {
		read += r.Bytes
	}
	for name, value := range map[string]int{
		"live": int(m.HeapAlloc >> 20), "rss": private(t), "peak": peak, "ms": int(took.Milliseconds()), "read": int(read >> 20),
	} {
		t.Logf("figure %s %d", name, value)
	}
	cancel()
	<-ended
	runtime.KeepAlive(st)
}

// private is the process's own memory in MiB.
func private(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb >> 10
}

// notRaced skips a test of memory under the race detector, whose own is more
// than what is measured.
func notRaced(t *testing.T) {
	t.Helper()
	info, _ := debug.ReadBuildInfo()
	if info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("memory is measured without the race detector")
	}
}
