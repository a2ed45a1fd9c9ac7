package identity

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
)

// Tests named TestContainers run real containers, made and described by real
// runtimes: podman, and containerd with ctr, both with runc, without a network,
// a registry or a systemd. CRI-O and docker are tested by recorded paths and
// answers only.
//
// What it takes where the runtimes' defaults ask for more rights than there are:
//
//   - podman raises limits beyond what root may without CAP_SYS_RESOURCE (runc
//     says "error setting rlimit type 7"): --ulimit nofile and nproc say less.
//     --ulimit host does not help.
//   - without systemd: --cgroup-manager cgroupfs, --events-backend file.
//   - nothing of the machine's own containers is touched: --root, --runroot and
//     --tmpdir, and --storage-driver vfs, which needs no overlay.
//   - --network none: the CNI plugins need not be installed.
//   - containerd: root, state and address of its own in a config file, its CRI
//     plugin off, and ctr --snapshotter native.
//
// On a hybrid hierarchy, runc puts a container below the same path in every v1
// hierarchy and in the v2 one: /libpod_parent/libpod-ID and /default/NAME.

// rootTar is the root of a container: a static busybox and users of its own.
func rootTar(t *testing.T) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static /bin/busybox (Debian: busybox-static) to make an image of")
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(name string, mode int64, data []byte) {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}))
		_, err := w.Write(data)
		must(t, err)
	}
	for _, dir := range []string{"bin/", "etc/", "proc/", "dev/", "sys/", "tmp/"} {
		must(t, w.WriteHeader(&tar.Header{Name: dir, Mode: 0o755, Typeflag: tar.TypeDir}))
	}
	file("bin/busybox", 0o755, busybox)
	file("etc/passwd", 0o644, []byte("boss:x:0:0::/:/bin/busybox\napp:x:1234:1234::/:/bin/busybox\n"))
	file("etc/group", 0o644, []byte("wheel:x:0:\napps:x:1234:\n"))
	must(t, w.Close())
	return b.Bytes()
}

// tool runs a program of a runtime.
type tool struct {
	t    *testing.T
	args []string
}

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to run containers")
	}
}

func (r tool) try(stdin []byte, args ...string) (string, error) {
	cmd := exec.Command(r.args[0], append(r.args[1:len(r.args):len(r.args)], args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

func (r tool) run(stdin []byte, args ...string) string {
	r.t.Helper()
	out, err := r.try(stdin, args...)
	must(r.t, err)
	return out
}

// daemon runs a server until the test ends, and waits for its socket.
func daemon(t *testing.T, socket string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", args[0], log.Bytes())
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(30 * time.Second); !isSocket(socket); {
		select {
		case <-tick.C:
		case <-done:
			t.Fatalf("%s ended:\n%s", args[0], log.Bytes())
		case <-limit:
			t.Fatalf("%s does not listen", args[0])
		}
	}
}

// scratch returns a directory that is removed after the test. What runtimes leave
// running behind a container's back (podman's conmon starts a last podman) may
// still write into it: then it is removed again. The path is short, since that
// of a unix socket has at most 107 bytes.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "warren")
	must(t, err)
	t.Cleanup(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		limit := time.After(20 * time.Second)
		for gone := 0; gone < 3; {
			err := os.RemoveAll(dir)
			if _, statErr := os.Lstat(dir); err == nil && os.IsNotExist(statErr) {
				gone++
			} else {
				gone = 0
			}
			select {
			case <-tick.C:
			case <-limit:
				t.Errorf("remove %s: %v", dir, err)
				return
			}
		}
	})
	return dir
}

// removeCgroups removes what runtimes leave behind: the directories above their
// containers'. What others use is not empty, and stays.
func removeCgroups(t *testing.T, name string) {
	t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			for _, sub := range []string{"/conmon", ""} {
				dirs, _ := filepath.Glob(pattern + name + sub)
				for _, dir := range dirs {
					_ = unix.Rmdir(dir) // a directory's files are the kernel's
				}
			}
		}
	})
}

// sees applies the events of a container's process as the kernel would tell
// them: its cgroup, and its first exec.
func (m *machine) sees(pid int) *event.Event {
	m.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(m.t, err)
	path := likeliest(parseProcCgroup(data))
	m.t.Logf("process %d is in %s", pid, path)
	key := event.CgroupKey{ID: uint64(pid)}
	m.Apply(&event.Event{Data: &event.CgroupState{Cgroup: event.Cgroup{CgroupKey: key, CgroupID: key.ID, Path: path}}})
	k := event.Key{PID: uint32(pid), Start: 1}
	p := &event.Process{Key: k, PID: k.PID, Name: "busybox", ExePath: "/bin/busybox"}
	p.Cgroup.CgroupKey = key
	p.MntNS, p.UserNS = namespaceOf(fmt.Sprintf("/proc/%d/ns/mnt", pid)), m.users.hostNS.UserNS
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		parseStatus(status, p)
	}
	e := &event.Event{Ktime: m.cfg.Ktime(), Actor: k, Process: p, Data: &event.Exec{Type: "execve"}}
	m.Apply(e)
	// The runtime is asked when the cgroup is told, and can be that quick.
	if c := e.Process.Container; c == nil || !c.Pending && c.Name == "" {
		m.t.Fatalf("the first exec is neither held nor described: %+v", c)
	}
	return e
}

// resolved waits as the pipeline does.
func (m *machine) resolved(e *event.Event) *event.Process {
	m.t.Helper()
	m.await("the description", func() bool { return !m.Pending(e) })
	m.Resolve(e, true)
	if e.Process.Container.Pending {
		m.t.Fatalf("not described in time: %+v", e.Process.Container)
	}
	return e.Process
}

func TestContainersPodman(t *testing.T) {
	needTools(t, "podman", "runc", "conmon")
	root := rootTar(t)
	dir := scratch(t)
	removeCgroups(t, "libpod_parent")
	podman := tool{t, []string{
		"podman", "--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
	}}
	podman.run(root, "import", "-", "localhost/team/busy:v1")
	socket := dir + "/podman.sock"
	daemon(t, socket, append(podman.args, "system", "service", "--time", "0", "unix://"+socket)...)

	m := realMachine(t)
	m.describer.sockets.Podman = []string{socket}
	m.run()
	start := func(name string, args ...string) (*event.Event, string) {
		args = append([]string{"run", "--detach", "--name", name, "--network", "none", "--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256"}, args...)
		id := podman.run(nil, append(args, "localhost/team/busy:v1", "/bin/busybox", "sleep", "1000")...)
		t.Cleanup(func() { podman.run(nil, "rm", "--force", "--time", "0", name) })
		pid, err := strconv.Atoi(podman.run(nil, "inspect", "--format", "{{.State.Pid}}", name))
		must(t, err)
		return m.sees(pid), id
	}

	before := time.Now()
	e, id := start("warren-web", "--label", "app=shop", "--user", "1234")
	p := m.resolved(e)
	c := p.Container
	if c.FullID != id || c.ID != id[:12] || c.Type != "podman" || c.Name != "warren-web" || c.Labels["app"] != "shop" || c.Privileged {
		t.Errorf("container: %+v", c)
	}
	if c.Image != "localhost/team/busy:v1" || c.ImageRepo != "localhost/team/busy" || c.ImageTag != "v1" || !isDigest(c.ImageDigest) || !isDigest(c.ImageID) {
		t.Errorf("image: %+v", c)
	}
	if p.UserName != "app" || p.GroupName != "apps" {
		t.Errorf("users: %q %q", p.UserName, p.GroupName)
	}
	m.await("the start", func() bool { return !m.Process(p.Key).Container.StartTime.IsZero() })
	if at := m.Process(p.Key).Container.StartTime; at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
		t.Errorf("started %v, not after %v", at, before)
	}

	e, _ = start("warren-strong", "--privileged")
	if c := m.resolved(e).Container; !c.Privileged || c.Name != "warren-strong" {
		t.Errorf("privileged: %+v", c)
	}
	if p := e.Process; p.UserName != "boss" || p.GroupName != "wheel" {
		t.Errorf("users: %q %q", p.UserName, p.GroupName)
	}
	m.check()
}

func TestContainersContainerd(t *testing.T) {
	needTools(t, "containerd", "ctr", "runc", "podman")
	root := rootTar(t)
	dir := scratch(t)
	removeCgroups(t, "default")
	for _, below := range []string{"", "/kubepods", "/kubepods/besteffort", "/kubepods/besteffort/pod" + cartUID} { // removed innermost first
		removeCgroups(t, "warren-test"+below)
	}
	socket := dir + "/c.sock"
	config := dir + "/config.toml"
	must(t, os.WriteFile(config, fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, dir+"/root", dir+"/state", socket, socket+".ttrpc"), 0o644))

	// podman makes the archive of the image; it runs nothing here.
	archive := dir + "/image.tar"
	podman := tool{t, []string{"podman", "--root", dir + "/p", "--runroot", dir + "/r", "--tmpdir", dir + "/t", "--storage-driver", "vfs"}}
	podman.run(root, "import", "--change", "USER=1234:1234", "-", "localhost/team/busy:v1")
	podman.run(nil, "save", "--output", archive, "localhost/team/busy:v1")
	daemon(t, socket, "containerd", "--config", config)

	m := realMachine(t)
	m.describer.sockets.Containerd = []string{socket}
	m.run()
	start := func(namespace, name string, args ...string) *event.Event {
		ctr := tool{t, []string{"ctr", "--address", socket, "--namespace", namespace}}
		ctr.run(nil, "image", "import", "--snapshotter", "native", archive)
		args = append([]string{"run", "--detach", "--snapshotter", "native"}, args...)
		ctr.run(nil, append(args, "localhost/team/busy:v1", name, "/bin/busybox", "sleep", "1000")...)
		t.Cleanup(func() {
			ctr.run(nil, "task", "rm", "--force", name)
			ctr.run(nil, "container", "rm", name)
		})
		for line := range strings.Lines(ctr.run(nil, "task", "ls")) {
			if f := strings.Fields(line); f[0] == name {
				pid, err := strconv.Atoi(f[1])
				must(t, err)
				return m.sees(pid)
			}
		}
		t.Fatalf("no task of %s", name)
		return nil
	}

	p := m.resolved(start("default", "warren-web", "--label", "app=shop"))
	c := p.Container
	if c.FullID != "warren-web" || c.ID != "warren-web" || c.Type != "containerd" || c.Name != "warren-web" || c.Labels["app"] != "shop" || c.Privileged {
		t.Errorf("container: %+v", c)
	}
	if c.Image != "localhost/team/busy:v1" || c.ImageRepo != "localhost/team/busy" || c.ImageTag != "v1" || !isDigest(c.ImageDigest) || time.Since(c.StartTime) > time.Hour {
		t.Errorf("image and start: %+v", c)
	}
	if p.UserName != "app" || p.GroupName != "apps" {
		t.Errorf("users: %q %q", p.UserName, p.GroupName)
	}

	// As Kubernetes and nerdctl make them: an id of 64 digits, in a namespace that
	// the path does not tell.
	id := id64(1)
	p = m.resolved(start("warren-test", id, "--privileged", "--cgroup", "/warren-test/cri-containerd-"+id+".scope", "--label", "io.kubernetes.container.name=web"))
	if c := p.Container; c.FullID != id || c.ID != id[:12] || c.Name != "web" || !c.Privileged {
		t.Errorf("in another namespace: %+v", c)
	}
	if p.UserName != "app" {
		t.Errorf("users: %q", p.UserName)
	}

	// A pod as a kubelet has containerd make it; no API server is asked.
	sandbox, app := id64(2), id64(3)
	inPod := func(id string, args ...string) *event.Process {
		args = append([]string{
			"--cgroup", "/warren-test/kubepods/besteffort/pod" + cartUID + "/" + id, "--annotation", "io.kubernetes.cri.sandbox-id=" + sandbox,
			"--label", labelPodUID + "=" + cartUID, "--label", labelPodName + "=cart-1", "--label", labelPodNamespace + "=shop",
		}, args...)
		return m.resolved(start("k8s.io", id, args...))
	}
	p = inPod(sandbox, "--label", "io.cri-containerd.kind=sandbox", "--label", "app=cart")
	if c := p.Container; c.PodContainer != "POD" || c.Name != "POD" || c.SandboxID != sandbox || c.Pod.Name != "cart-1" || c.Pod.Namespace != "shop" || len(c.Pod.Labels) != 1 {
		t.Errorf("the sandbox: %+v %+v", c, c.Pod)
	}
	p = inPod(app, "--label", "io.cri-containerd.kind=container", "--label", labelContainerName+"=cart")
	if c := p.Container; c.PodContainer != "cart" || c.Name != "cart" || c.SandboxID != sandbox || c.Pod.UID != cartUID || c.Pod.Name != "cart-1" || c.Pod.Labels["app"] != "cart" {
		t.Errorf("the pod's container: %+v %+v", c, c.Pod)
	}
	m.check()
}
