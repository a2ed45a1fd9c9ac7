package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"warren/test/cluster/bed"
)

// agentProcesses gives the agents that run, by node.
func (c *testCluster) agentProcesses() map[string]int {
	c.t.Helper()
	all := make(map[string]int)
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	c.must(err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		argv := strings.Split(string(text), "\x00")
		if err != nil || len(argv) < 2 || argv[0] != "/warren" || argv[1] != "agent" {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		c.must(err)
		// Other clusters of this machine have agents, too.
		groups, err := os.ReadFile(filepath.Join(filepath.Dir(name), "cgroup"))
		for _, node := range c.RunningNodes() {
			if err == nil && strings.Contains(string(groups), c.CgroupRoot(node)+"/") {
				all[node] = pid
			}
		}
	}
	return all
}

// TestClusterAgentRights holds what an agent's pod asks for, and what its
// process has: named capabilities and nothing that gives it more.
func TestClusterAgentRights(t *testing.T) {
	c := warren(t)
	allowed := []string{"BPF", "PERFMON", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"}
	const format = `jsonpath={range .items[*]}{.spec.containers[*].securityContext.privileged};{.spec.containers[*].securityContext.allowPrivilegeEscalation};` +
		`{.spec.containers[*].securityContext.readOnlyRootFilesystem};{.spec.containers[*].securityContext.capabilities.drop[*]};{.spec.containers[*].securityContext.capabilities.add[*]};` +
		`{.spec.securityContext.seccompProfile.type};{.spec.initContainers}{"\n"}{end}`
	lines := strings.Split(strings.TrimSpace(c.kubectl("-n", "warren", "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", format)), "\n")
	if len(lines) != len(c.RunningNodes()) {
		t.Fatalf("agents: %q", lines)
	}
	for _, line := range lines {
		if want := "false;false;true;ALL;" + strings.Join(allowed, " ") + ";RuntimeDefault;"; line != want {
			t.Errorf("an agent's pod has\n%s, want\n%s", line, want)
		}
	}
	var bits uint64
	for _, bit := range []int{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH} {
		bits |= 1 << bit
	}
	processes := c.agentProcesses()
	if len(processes) != len(c.RunningNodes()) {
		t.Fatalf("processes of agents: %v", processes)
	}
	for node, pid := range processes {
		status := statusOf(t, pid)
		for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
			if has, err := strconv.ParseUint(status[set], 16, 64); err != nil || has&^bits != 0 || set == "CapBnd" && has != bits {
				t.Errorf("%s: %s is %s, want at most %016x", node, set, status[set], bits)
			}
		}
		for name, want := range map[string]string{"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "Seccomp": "2", "NoNewPrivs": "1"} {
			if status[name] != want {
				t.Errorf("%s: %s is %s, want %s", node, name, status[name], want)
			}
		}
		for _, m := range mountsOf(t, pid) {
			writable := slices.Contains(strings.Split(m.options, ","), "rw")
			// What others mount below the runtimes' folder comes and goes with them: a
			// kubelet cannot make that read-only.
			runtimes := strings.HasPrefix(m.at, "/run/containerd/") || strings.HasPrefix(m.at, "/run/netns/")
			switch {
			case !writable, runtimes, strings.HasPrefix(m.at, "/dev"), strings.HasPrefix(m.at, "/proc"):
			case slices.Contains([]string{"/run/warren", "/var/lib/warren", "/sys/fs/bpf", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}, m.at):
			default:
				t.Errorf("%s: the agent may write to %s (%s)", node, m.at, m.kind)
			}
		}
	}
	// The hub needs nothing of a node.
	const hub = `jsonpath={range .items[*]}{.spec.hostNetwork}{.spec.hostPID}{.spec.containers[*].securityContext.capabilities.add};{.spec.containers[*].securityContext.capabilities.drop[*]};` +
		`{.spec.containers[*].securityContext.readOnlyRootFilesystem};{.spec.securityContext.runAsNonRoot};{.spec.securityContext.seccompProfile.type};{.spec.volumes[*].hostPath}{"\n"}{end}`
	for line := range strings.Lines(c.kubectl("-n", "warren", "get", "pods", "-l", "app.kubernetes.io/component=hub", "-o", hub)) {
		if want := ";ALL;true;true;RuntimeDefault;\n"; line != want {
			t.Errorf("a hub's pod has %q, want %q", line, want)
		}
	}
	// Nor may it change anything in the cluster.
	for _, account := range []string{"warren-agent", "warren-hub"} {
		for _, verb := range []string{"create", "delete", "patch", "update"} {
			if a := c.as("", "kubectl", "auth", "can-i", verb, "pods", "-A", "--as", "system:serviceaccount:warren:"+account); strings.TrimSpace(a.out) != "no" {
				t.Errorf("%s may %s pods: %s%s", account, verb, a.out, a.errors)
			}
		}
		if a := c.as("", "kubectl", "auth", "can-i", "get", "secrets", "-A", "--as", "system:serviceaccount:warren:"+account); strings.TrimSpace(a.out) != "no" {
			t.Errorf("%s may get secrets: %s%s", account, a.out, a.errors)
		}
	}
}

// statusOf reads /proc/PID/status.
func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		all[name] = strings.TrimSpace(value)
	}
	return all
}

type mount struct{ at, kind, options string }

// mountsOf reads /proc/PID/mounts.
func mountsOf(t *testing.T, pid int) []mount {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []mount
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 {
			all = append(all, mount{f[1], f[2], f[3]})
		}
	}
	return all
}

// TestClusterUninstall holds that nothing of Warren is left, in the cluster and
// on its nodes, and that it can be installed elsewhere.
func TestClusterUninstall(t *testing.T) {
	c := warren(t)
	t.Cleanup(func() { c.must(c.Warren(c.context())) })
	nodes := c.RunningNodes()
	c.uninstall("warren", "warren")

	// Elsewhere, with other values.
	c.helm(slices.Concat([]string{"install", "eyes", chart(t), "-n", c.namespace, "--set", "hub.replicas=1,hub.podDisruptionBudget.enabled=false,hub.networkPolicy.enabled=false,metrics.annotations=false"}, c.image())...)
	c.must(c.Rollout(c.context(), c.namespace, "daemonset/warren-agent"))
	c.must(c.Rollout(c.context(), c.namespace, "deployment/warren-hub"))
	c.nodesAnswer(len(nodes))
	c.answers()
	c.uninstall("eyes", c.namespace)
}

// uninstall takes away the release of Warren that is in a namespace, and looks for
// what is left.
func (c *testCluster) uninstall(release, namespace string) {
	c.t.Helper()
	t := c.t.(*testing.T)
	held := make(map[kernelObject]bool)
	processes := c.agentProcesses()
	for _, pid := range processes {
		for o := range heldBy(t, pid) {
			held[o] = true
		}
	}
	if len(processes) != len(c.RunningNodes()) || len(held) < 20 {
		t.Fatalf("agents %v hold %d objects of BPF: nothing is tested", processes, len(held))
	}
	for o := range held {
		if alive, err := o.lives(); err != nil || !alive {
			t.Fatalf("%v of an agent that runs: %v, %v", o, alive, err)
		}
	}
	// Kubelets mount what a pod is given in a folder that is named after it.
	pods := strings.Fields(c.kubectl("-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=warren", "-o", "jsonpath={.items[*].metadata.uid}"))
	mounted := func(node string) (of []string) {
		mounts, err := run(c, node, "cat", "/proc/self/mounts")
		c.must(err)
		return slices.DeleteFunc(slices.Clone(pods), func(uid string) bool { return !strings.Contains(mounts, uid) })
	}
	for _, node := range c.RunningNodes() {
		if len(mounted(node)) == 0 {
			t.Fatalf("none of pods %v has a mount on %s: nothing is tested", pods, node)
		}
	}
	c.helm("uninstall", release, "-n", namespace, "--wait", "--timeout="+bed.Patience.String())

	c.eventually("all objects to be gone", func(ctx context.Context) error {
		kinds := strings.Fields(c.kubectl("api-resources", "--verbs=list", "-o", "name"))
		kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == "events" || k == "events.events.k8s.io" })
		// Warnings about kinds that are out of date are no objects.
		a := c.as("", "kubectl", "get", strings.Join(kinds, ","), "-A", "-l", "app.kubernetes.io/name=warren", "-o", "name")
		if a.code != 0 || a.out != "" {
			return fmt.Errorf("there are still %s%s", a.out, a.errors)
		}
		return nil
	})
	for _, kinds := range []string{"apiservices", "clusterroles", "clusterrolebindings", "rolebindings -n kube-system", "secrets,configmaps,services,endpointslices,poddisruptionbudgets,networkpolicies,leases -n " + namespace} {
		for name := range strings.Lines(c.kubectl(append([]string{"get", "-o", "name"}, strings.Fields(kinds)...)...)) {
			if strings.Contains(name, "warren") {
				t.Errorf("left: %s", name)
			}
		}
	}
	// The API server is as it was.
	if a := c.as("", "kubectl", "warren", "status"); a.code != 1 || !strings.Contains(a.errors, "this cluster has no hub of Warren") {
		t.Errorf("exit code %d: %s%s", a.code, a.out, a.errors)
	}

	if now := c.agentProcesses(); len(now) > 0 {
		t.Errorf("agents still run: %v", now)
	}
	c.eventually("programs, maps and links to be gone", func(context.Context) error {
		var errs []error
		for _, o := range sorted(held) {
			alive, err := o.lives()
			if err == nil && alive {
				err = errors.New("the kernel has it still: " + o.holders())
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %d: %w", o.kind, o.id, err))
			}
		}
		return errors.Join(errs...)
	})
	for _, node := range c.RunningNodes() {
		// What stays are two folders, each with the file that two agents would
		// have locked, and the history.
		const history = "/var/lib/warren/history"
		kept := false
		out, err := run(c, node, "find", "/run/warren", "/var/lib/warren", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug", "-printf", "%p %s\n")
		c.must(err)
		for line := range strings.Lines(out) {
			name, _, _ := strings.Cut(line, " ")
			switch {
			case name == history || strings.HasPrefix(name, history+"/"):
				kept = kept || slices.Contains([]string{".wrs", ".parquet"}, filepath.Ext(name))
			case !slices.Contains([]string{"/run/warren/warren.sock.lock", "/var/lib/warren/lock"}, name):
				t.Errorf("left on %s: %s", node, line)
			}
		}
		if !kept {
			t.Errorf("nothing of the history is left on %s: %s", node, out)
		}
		c.eventually("the pods' mounts on "+node+" to be gone", func(context.Context) error {
			if left := mounted(node); len(left) > 0 {
				return fmt.Errorf("there are those of %v", left)
			}
			return nil
		})
	}
}
