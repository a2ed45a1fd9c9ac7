package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"warren/internal/testkit"
)

// TestE2EFirstExecInCgroups starts processes in cgroups that nobody has seen
// before, named as container runtimes do: each first exec knows its container.
func TestE2EFirstExecInCgroups(t *testing.T) {
	const count = 100
	a := start(t, options{})
	for _, hierarchy := range []string{"v2", "v1"} {
		t.Run(hierarchy, func(t *testing.T) {
			word := unique(t)
			f := a.follow("evt.kind = exec and proc.cmdline contains " + word)
			want := make(map[string]string) // pid -> container
			for i := range count {
				id := fmt.Sprintf("%064x", 0xabc0000000000000+uint64(os.Getpid())<<16+uint64(instances.Add(1)))
				var c *testkit.Cgroup
				if hierarchy == "v2" {
					c = testkit.NewCgroup(t, fmt.Sprint(i))
				} else {
					c = testkit.NewCgroupV1(t, "pids", fmt.Sprint(i))
				}
				scope := &testkit.Cgroup{Path: c.Path + "/docker-" + id + ".scope", Dir: filepath.Join(c.Dir, "docker-"+id+".scope")}
				if err := os.Mkdir(scope.Dir, 0o755); err != nil {
					t.Fatal(err)
				}
				cmd := testkit.Command(t, "become", "/bin/true", word)
				stdin, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				scope.Start(t, cmd)
				want[fmt.Sprint(cmd.Process.Pid)] = id[:12]
				if _, err := stdin.Write([]byte("\n")); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			seen := make(map[string]string)
			testkit.Wait(t, "an exec in each cgroup", func() bool {
				for _, o := range f.all() {
					if o.str("proc.exepath") == readlink(t, "/bin/true") {
						seen[o.str("proc.pid")] = o.str("container.id")
					}
				}
				return len(seen) >= count
			})
			right := 0
			for pid, id := range want {
				if seen[pid] == id {
					right++
				} else {
					t.Logf("process %s is in container %s, the event says %q", pid, id, seen[pid])
				}
			}
			if right != count {
				t.Errorf("%d of %d first execs know their container", right, count)
			}
		})
	}
}

// podman runs containers without a registry, a network or systemd.
type podman struct {
	t      *testing.T
	dir    string
	rootfs string
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	for _, tool := range []string{"podman", "runc", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatal("make e2e installs it:", err)
		}
	}
	dir, err := os.MkdirTemp("", "warren-podman-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.RemoveAll(dir)
		// What runc leaves of the groups above its containers'; it stays if
		// others use it.
		for _, pattern := range []string{"/sys/fs/cgroup/*/libpod_parent/conmon", "/sys/fs/cgroup/*/libpod_parent", "/sys/fs/cgroup/libpod_parent"} {
			groups, _ := filepath.Glob(pattern)
			for _, group := range groups {
				_ = syscall.Rmdir(group)
			}
		}
	})
	p := &podman{t: t, dir: dir, rootfs: filepath.Join(dir, "rootfs")}
	for _, sub := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(p.rootfs, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.rootfs, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "sleep", "true"} {
		if err := os.Symlink("busybox", filepath.Join(p.rootfs, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *podman) command(args ...string) *exec.Cmd {
	global := []string{"--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"),
		// Not overlay, which leaves a mount behind.
		"--storage-driver", "vfs",
		"--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "file", "--log-level", "error"}
	return exec.Command("podman", append(global, args...)...)
}

// run starts a container that goes on until it is removed, and gives its id.
func (p *podman) run(name string, args ...string) string {
	p.t.Helper()
	cmd := p.command(append([]string{"run", "--detach", "--network", "none", "--name", name, "--label", "app=" + name,
		// The limits of this machine's root cannot be raised.
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--rootfs", p.rootfs}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("podman run: %v: %s", err, stderr.String())
	}
	p.t.Cleanup(func() {
		if out, err := p.command("rm", "--force", "--time", "0", name).CombinedOutput(); err != nil {
			p.t.Errorf("podman rm: %v: %s", err, out)
		}
	})
	return strings.TrimSpace(stdout.String())
}

// TestE2EPodman runs containers and wants their first exec to name them, with
// what podman itself says of them.
func TestE2EPodman(t *testing.T) {
	p := newPodman(t)
	socket := filepath.Join(p.dir, "podman.sock")
	service := p.command("system", "service", "--time", "0", "unix://"+socket)
	service.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-service.Process.Pid, syscall.SIGKILL); _ = service.Wait() }()
	testkit.Wait(t, "podman's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	a := start(t, options{config: podmanConfig(socket)})
	word := unique(t)
	f := a.follow("evt.kind = exec and proc.cmdline contains " + word)
	ids := make(map[string]string)
	for i := range 5 {
		name := fmt.Sprintf("warren-e2e-%d-%d", os.Getpid(), i)
		ids[name] = p.run(name, "/bin/sh", "-c", "exec /bin/sleep 600", word)
	}
	for name, id := range ids {
		first := f.wait("the first exec of container "+name, func(o object) bool {
			return o.str("container.full_id") == id && o.str("proc.exe") == "/bin/sh"
		})
		want(t, first, map[string]string{
			"container.id": id[:12], "container.type": "podman", "container.name": name, "container.label[app]": name,
		})
	}
	// By its name, the container's processes are found.
	for name := range ids {
		if list := a.objects("process", "list", "container.name = "+name); len(list) != 1 {
			t.Errorf("container %s has %d processes: %v", name, len(list), list)
		}
	}
}

// podmanConfig tells an agent where podman's service listens.
func podmanConfig(socket string) string {
	return "containers:\n  podman: " + socket + "\n"
}

// TestE2EManyContainers starts containers as fast as podman can: none of their
// processes is taken for one of the host.
func TestE2EManyContainers(t *testing.T) {
	p := newPodman(t)
	a := start(t, options{})
	word := unique(t)
	f := a.follow("evt.kind = exec and proc.cmdline contains " + word + " and proc.exepath = /bin/busybox")
	const count, atOnce = 20, 4
	var mu sync.Mutex
	ids := make(map[string]bool)
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range count {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			name := fmt.Sprintf("warren-many-%d-%d", os.Getpid(), i)
			id, err := p.command("create", "--network", "none", "--name", name,
				"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--rootfs", p.rootfs, "/bin/true", word).Output()
			if err != nil {
				t.Errorf("podman create: %v", err)
				return
			}
			defer func() { _ = p.command("rm", "--force", name).Run() }()
			if out, err := p.command("start", "--attach", name).CombinedOutput(); err != nil {
				t.Errorf("podman start: %v: %s", err, out)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[strings.TrimSpace(string(id))] = true
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	testkit.Wait(t, "an exec in each container", func() bool { return len(f.all()) >= count })
	for _, o := range f.all() {
		if !ids[o.str("container.full_id")] {
			t.Errorf("the first exec of a container knows it not: %v", o)
		}
		delete(ids, o.str("container.full_id"))
	}
	for id := range ids {
		t.Errorf("no exec came of container %s", id)
	}
}
