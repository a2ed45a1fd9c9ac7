package attack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A container is one of a lab's.
type container string

const (
	plain      container = "plain"      // as containers usually are
	privileged container = "privileged" // may do what the machine may
)

// podman runs containers without a registry, a network or systemd. Their root is
// an overlay, so that what is put there can be told from what their image had.
type podman struct {
	dir     string
	socket  string
	service *exec.Cmd
	running []string
}

// openPodman starts the containers, and a service that describes them.
func openPodman(ctx context.Context, dir, act string) (p *podman, err error) {
	p = &podman{dir: dir, socket: filepath.Join(dir, "socket")}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			p = nil
		}
	}()
	image, err := p.image(act)
	if err != nil {
		return p, fmt.Errorf("make an image: %w", err)
	}
	p.service = p.command(context.Background(), "system", "service", "--time", "0", "unix://"+p.socket)
	p.service.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.service.Start(); err != nil {
		p.service = nil
		return p, fmt.Errorf("start podman's service: %w", err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(p.socket); err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return p, errors.New("podman's service does not listen")
		}
	}
	for _, c := range []container{plain, privileged} {
		// The limits of the machine's root cannot be raised everywhere.
		args := []string{"run", "--detach", "--network", "none", "--name", p.name(c), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}
		if c == privileged {
			args = append(args, "--privileged")
		}
		p.running = append(p.running, p.name(c))
		if err := run(p.command(ctx, append(args, "--rootfs", image+":O", "/bin/sleep", "86400")...)); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *podman) name(c container) string {
	return filepath.Base(filepath.Dir(p.dir)) + "-" + string(c)
}

// image makes the folder that containers have for a root.
func (p *podman) image(act string) (string, error) {
	root := filepath.Join(p.dir, "image")
	for _, dir := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	for _, file := range []struct{ from, name string }{{busybox, "busybox"}, {act, "act"}, {act, "debugfs"}} {
		text, err := os.ReadFile(file.from)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(root, "bin", file.name), text, 0o755); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"sh", "sleep", "nc"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return "", err
		}
	}
	return root, nil
}

func (p *podman) command(ctx context.Context, args ...string) *exec.Cmd {
	global := []string{"--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "file", "--log-level", "error"}
	cmd := exec.CommandContext(ctx, "podman", append(global, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (p *podman) exec(ctx context.Context, c container, options, args []string) error {
	all := append([]string{"exec"}, options...)
	return run(p.command(ctx, append(append(all, p.name(c)), args...)...))
}

// close removes the containers.
func (p *podman) close() error {
	var errs []error
	if len(p.running) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		errs = append(errs, run(p.command(ctx, append([]string{"rm", "--force", "--ignore", "--time", "0"}, p.running...)...)))
	}
	if p.service != nil {
		_ = syscall.Kill(-p.service.Process.Pid, syscall.SIGKILL)
		_ = p.service.Wait()
	}
	return errors.Join(errs...)
}

// tidy removes what runc leaves of the groups above its containers'; it stays if
// others use it.
func tidy() {
	for _, pattern := range []string{"/sys/fs/cgroup/*/libpod_parent/conmon", "/sys/fs/cgroup/*/libpod_parent", "/sys/fs/cgroup/libpod_parent"} {
		groups, _ := filepath.Glob(pattern)
		for _, group := range groups {
			_ = syscall.Rmdir(group)
		}
	}
}
