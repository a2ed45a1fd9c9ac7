package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"warren/internal/testkit"
	"warren/test/cluster/bed"
)

// families counts addresses of each.
func families(addresses []string) (four, six int) {
	for _, a := range addresses {
		ip, err := netip.ParseAddr(a)
		switch {
		case err != nil:
		case ip.Is4():
			four++
		default:
			six++
		}
	}
	return four, six
}

func TestClusterNodes(t *testing.T) {
	c := cluster(t)
	const format = `jsonpath={range .items[*]}{.metadata.name};{.status.conditions[?(@.type=="Ready")].status};{.status.addresses[?(@.type=="InternalIP")].address};{.spec.podCIDRs[*]}{"\n"}{end}`
	lines := strings.Split(strings.TrimSpace(c.kubectl("get", "nodes", "-o", format)), "\n")
	if len(lines) != 2 {
		t.Fatalf("nodes: %q, want 2", lines)
	}
	for _, line := range lines {
		f := strings.Split(line, ";")
		if f[1] != "True" {
			t.Errorf("%s: Ready is %s", f[0], f[1])
		}
		if four, six := families(strings.Fields(f[2])); four != 1 || six != 1 {
			t.Errorf("%s: addresses %s, want one of each family", f[0], f[2])
		}
		if n := len(strings.Fields(f[3])); n != 2 {
			t.Errorf("%s: ranges for pods %s, want one of each family", f[0], f[3])
		}
	}
}

func TestClusterNetwork(t *testing.T) { cluster(t).allWays() }

// allWays holds that pods reach pods, services and names, and those outside
// services.
func (c *testCluster) allWays() {
	t := c.t.(*testing.T)
	pods := c.serve()
	for _, p := range pods {
		if four, six := families(p.IPs); four != 1 || six != 1 {
			t.Fatalf("%s has addresses %v, want one of each family", p.Name, p.IPs)
		}
	}
	t.Run("pod to pod", func(t *testing.T) {
		for _, from := range pods {
			for _, to := range pods {
				for _, ip := range to.IPs {
					out, err := c.ask(c.context(), from.Name, "http://"+net.JoinHostPort(ip, "8080"))
					if err != nil || !strings.HasPrefix(out, to.Name+" ") {
						t.Errorf("from %s on %s to %s (%s): %q, %v", from.Name, from.Node, to.Name, ip, out, err)
					}
					// Nothing on the way changes who asks.
					if asker := from.IPs[slices.IndexFunc(from.IPs, func(own string) bool { return strings.Contains(own, ":") == strings.Contains(ip, ":") })]; !strings.Contains(out, asker) {
						t.Errorf("from %s: %s says %q", asker, to.Name, out)
					}
				}
			}
		}
	})
	virtual := strings.Fields(c.kubectl("get", "service", "serve", "-o", "jsonpath={.spec.clusterIPs[*]}"))
	if four, six := families(virtual); four != 1 || six != 1 {
		t.Fatalf("the service has addresses %v, want one of each family", virtual)
	}
	t.Run("service", func(t *testing.T) {
		for _, from := range pods {
			for _, ip := range virtual {
				// kube-proxy learns a moment after the pods are ready.
				c.eventually("the service "+ip, func(ctx context.Context) error {
					_, err := c.ask(ctx, from.Name, "http://"+net.JoinHostPort(ip, "80"))
					return err
				})
			}
		}
	})
	t.Run("names", func(t *testing.T) {
		slices.Sort(virtual)
		for _, name := range []string{"serve", "serve." + c.namespace, "serve." + c.namespace + ".svc.cluster.local"} {
			out := c.kubectl("exec", pods[0].Name, "--", "shop", "lookup", name)
			if got := strings.Fields(out); !slices.Equal(got, virtual) {
				t.Errorf("%s is %v, want %v", name, got, virtual)
			}
		}
	})
	t.Run("from outside", func(t *testing.T) {
		c.must(c.Outside(c.context()))
		port := c.kubectl("get", "service", "serve", "-o", "jsonpath={.spec.ports[0].nodePort}")
		for _, ip := range strings.Fields(c.kubectl("get", "nodes", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`)) {
			c.eventually("the node's port at "+ip, func(ctx context.Context) error {
				conn, err := c.Dial(ctx, "outside", "tcp", net.JoinHostPort(ip, port))
				if err != nil {
					return err
				}
				return conn.Close()
			})
		}
	})
}

func TestClusterExecAndLogs(t *testing.T) {
	c := cluster(t)
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: talker, namespace: %s, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: talker, image: localhost/busybox:1, imagePullPolicy: Never, command: [sh, -c, "echo here I am; exec sleep 1000"]}]
`, c.namespace))
	c.ready("pod/talker")
	if got := c.kubectl("logs", "talker"); got != "here I am\n" {
		t.Errorf("logs: %q", got)
	}
	if got := c.kubectl("exec", "talker", "--", "sh", "-c", "hostname; id -u"); got != "talker\n0\n" {
		t.Errorf("exec: %q", got)
	}
	// The container is in the group that says which pod it is of.
	var found []string
	uid, node := c.pods("app=talker")[0].UID, c.pods("app=talker")[0].Node
	root := filepath.Join("/sys/fs/cgroup/unified", c.CgroupRoot(node))
	if _, err := os.Stat(root); err != nil {
		root = filepath.Join("/sys/fs/cgroup", c.CgroupRoot(node))
	}
	c.must(filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(name, uid) {
			found = append(found, name)
		}
		return nil
	}))
	if len(found) < 3 { // the pod, its sandbox and its container
		t.Errorf("control groups of pod %s below %s: %v", uid, root, found)
	}
}

func TestClusterNodeComesAndGoes(t *testing.T) {
	c := cluster(t)
	before := c.RunningNodes()
	c.must(c.AddNode(c.context(), 3))
	pods := c.serve()
	for _, from := range pods {
		for _, to := range pods {
			for _, ip := range to.IPs {
				if _, err := c.ask(c.context(), from.Name, "http://"+net.JoinHostPort(ip, "8080")); err != nil {
					t.Errorf("with node3, from %s to %s: %v", from.Node, to.Node, err)
				}
			}
		}
	}
	c.must(c.RemoveNode(c.context(), 3))
	if after := c.RunningNodes(); !slices.Equal(before, after) {
		t.Errorf("nodes before %v, after %v", before, after)
	}
	if out, err := c.Kubectl(c.context(), "get", "node", "node3"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("node3 is still known: %q, %v", out, err)
	}
	if err := c.RemoveNode(c.context(), 3); err == nil {
		t.Error("a node that is gone could be removed again")
	}
}

func TestClusterAPIServerAway(t *testing.T) {
	c := cluster(t)
	pods := c.serve()
	c.must(c.Stop(c.context(), "control", "kube-apiserver"))
	t.Cleanup(func() { c.must(c.Start(c.context(), "control", "kube-apiserver")) })
	if _, err := c.Kubectl(c.context(), "get", "nodes", "--request-timeout=2s"); err == nil {
		t.Error("the API server answers after it was stopped")
	}
	// Pods do not need it.
	for _, p := range pods {
		conn, err := c.Dial(c.context(), "control", "tcp", net.JoinHostPort(p.IPs[0], "8080"))
		if err != nil {
			t.Errorf("%s without an API server: %v", p.Name, err)
			continue
		}
		_ = conn.Close()
	}
	c.must(c.Start(c.context(), "control", "kube-apiserver"))
	c.eventually("the API server", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "get", "nodes")
		return err
	})
}

// TestClusterDown holds what down leaves, after an up that was whole and after
// one that was broken off, against what was there before.
func TestClusterDown(t *testing.T) {
	testkit.NeedRoot(t)
	tools, err := bed.FindTools()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, breakOff string }{
		{"whole", ""},
		{"broken off at the API server", "API server answers"},
		{"broken off at a node", "node1 is Ready"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*bed.Patience)
			defer cancel()
			upCtx, breakOff := context.WithCancel(ctx)
			defer breakOff()
			// The same addresses as the other cluster's: they must not meet.
			c, err := bed.New(bed.Config{Name: "e2e-down", Nodes: 1}, tools, func(line string) {
				if test.breakOff != "" && strings.Contains(line, test.breakOff) {
					breakOff()
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Down(ctx); err != nil {
				t.Fatalf("down of what never was: %v", err)
			}
			before := machineNow(t, c.Name)
			err = c.Up(upCtx, true)
			switch {
			case test.breakOff == "" && err != nil:
				t.Fatal(err)
			case test.breakOff != "" && !errors.Is(err, context.Canceled):
				t.Errorf("up that was broken off: %v", err)
			}
			if test.breakOff == "" {
				if err := c.Up(ctx, true); err != nil {
					t.Errorf("up of what is up: %v", err)
				}
			}
			ours := processesOf(t, c.Name)
			if len(ours) < 3 {
				t.Errorf("processes of the cluster: %v", ours)
			}
			networks := networksOf(t, ours)
			if len(networks) < 2 {
				t.Errorf("networks of the cluster: %v", networks)
			}
			if err := c.Down(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Dir(filepath.Dir(c.Kubeconfig()))); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the cluster's files are still there: %v", err)
			}
			err = bed.Poll(ctx, bed.Patience, func() error {
				for pid, start := range ours {
					if startOf(pid) == start {
						return fmt.Errorf("process %d lives on", pid)
					}
				}
				for name := range networksOf(t, everybody(t)) {
					if networks[name] {
						return fmt.Errorf("somebody is still in the network %s", name)
					}
				}
				// Others may mount something of their own meanwhile, for a
				// moment.
				for what, entries := range machineNow(t, c.Name) {
					for entry := range entries {
						if !before[what][entry] {
							return fmt.Errorf("%s that was not there before: %s", what, entry)
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if err := c.Down(ctx); err != nil {
				t.Errorf("down of what is down: %v", err)
			}
		})
	}
}

// machineNow lists what a cluster could leave behind. Of groups and folders that
// clusters have it is those of the given one: others may come up meanwhile.
func machineNow(t *testing.T, cluster string) map[string]map[string]bool {
	t.Helper()
	now := map[string]map[string]bool{"mount": {}, "network device": {}, "control group": {}, "folder": {}}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		now["mount"][line] = true
	}
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		now["network device"][d.Name] = true
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + cluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range append(groups, "/sys/fs/cgroup/"+cluster) {
		if _, err := os.Stat(g); err == nil {
			now["control group"][g] = true
		}
	}
	for _, dir := range []string{"/run", "/run/netns", "/var/lib", "/var/log", "/etc/cni", "/opt"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			now["folder"][filepath.Join(dir, e.Name())] = true
		}
	}
	return now
}

// networksOf gives the network namespaces of processes that are not this one's.
func networksOf(t *testing.T, processes map[int]string) map[string]bool {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for pid := range processes {
		if name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && name != own {
			found[name] = true
		}
	}
	return found
}

// everybody gives all processes.
func everybody(t *testing.T) map[int]string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]string)
	for _, name := range all {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil {
			found[pid] = ""
		}
	}
	return found
}

// processesOf gives the processes in a cluster's control groups, and when each
// was started.
func processesOf(t *testing.T, cluster string) map[int]string {
	t.Helper()
	found := make(map[int]string)
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(text), "0::/"+cluster+"/") {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(name, "/")[2]); err == nil {
			found[pid] = startOf(pid)
		}
	}
	return found
}

// startOf is when a process was started, or nothing where there is none: the
// number may be another's by now. The dead that nobody has buried are gone.
func startOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" {
		return ""
	}
	return f[19]
}
