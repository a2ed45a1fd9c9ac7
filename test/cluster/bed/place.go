package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A place is namespaces that processes of the cluster run in: the control
// plane's, a node's or that of the client outside. They live as long as the
// place's holder, a process that only waits.
type place struct {
	name  string
	group string // control group of what was started here, below the unified hierarchy
	flags uintptr
}

const (
	controlPlace = "control"
	outsidePlace = "outside"
)

// place gives the place of a name. Whether it exists is another question.
func (c *Cluster) place(name string) place {
	p := place{name: name, group: c.CgroupRoot(name), flags: unix.CLONE_NEWNET}
	if name != controlPlace && name != outsidePlace {
		p.flags |= unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		// What a node runs itself is beside /k8s/node1/kubepods.
		p.group += "/system"
	}
	return p
}

// holder is the process id of a place's holder, or an error if there is none.
func (c *Cluster) holder(p place) (int, error) {
	pids := c.tools.cgroups.processes(p.group + "/holder")
	if len(pids) == 0 {
		return 0, fmt.Errorf("%s does not run", p.name)
	}
	return pids[0], nil
}

// ChildName is the argument 0 of this program as the holder of a place.
const ChildName = "warren-cluster-holder"

// Child is to be called first by every main of a program that starts clusters.
// It does not return in a process that was started to be a holder.
func Child() {
	if os.Args[0] != ChildName {
		return
	}
	fmt.Fprintln(os.Stderr, hold(os.Args[1], os.Args[2:]))
	os.Exit(1)
}

// hold prepares a place from inside and waits for ever as the program pause. It
// returns if that fails. Its arguments are the path of pause, and for a node
// its name and directory.
func hold(pause string, node []string) error {
	if len(node) == 2 {
		if err := furnish(node[0], node[1]); err != nil {
			return err
		}
	}
	// The parent reads until it is closed, which the exec does.
	unix.CloseOnExec(3)
	if _, err := os.NewFile(3, "ready").WriteString("ready"); err != nil {
		return err
	}
	return unix.Exec(pause, []string{"pause"}, []string{})
}

// open makes a place and its holder. The arguments are for furnish.
func (c *Cluster) open(ctx context.Context, p place, node ...string) error {
	if err := c.tools.cgroups.make(p.group+"/holder", false); err != nil {
		return err
	}
	group, err := os.Open(c.tools.cgroups.unified + p.group + "/holder")
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }()
	ready, told, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	if err := os.MkdirAll(c.path(p.name), 0o755); err != nil {
		return err
	}
	log := c.path(p.name, "holder.log")
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{ChildName, c.tools.Path("pause")}, node...)
	cmd.Stderr = out
	cmd.ExtraFiles = []*os.File{told}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: p.flags, Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	err = cmd.Start()
	_ = told.Close()
	if err != nil {
		return fmt.Errorf("start the holder of %s: %w", p.name, err)
	}
	go func() { _ = cmd.Wait() }()
	answer := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(ready)
		answer <- string(text)
	}()
	step := "prepare the namespaces of " + p.name
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", step, ctx.Err())
	case <-time.After(Patience):
		return &LogError{Step: step, Log: log, Err: fmt.Errorf("no answer in %v", Patience)}
	case text := <-answer:
		if text != "ready" {
			return &LogError{Step: step, Log: log}
		}
	}
	return nil
}

// enter is the command line that runs a program in a place.
func (c *Cluster) enter(p place, argv ...string) ([]string, error) {
	pid, err := c.holder(p)
	if err != nil {
		return nil, err
	}
	args := []string{"nsenter", "-t", strconv.Itoa(pid), "-n"}
	if p.flags&unix.CLONE_NEWNS != 0 {
		args = append(args, "-m", "-u", "-i")
	}
	return append(append(args, "--"), argv...), nil
}

// In gives a command that runs in a place: "control", "outside" or a node. The
// programs of the cluster are in its PATH, and it finds the administrator's
// kubeconfig. Where it writes to is the caller's.
func (c *Cluster) In(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	args, err := c.enter(c.place(name), argv...)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(c.environment(), "PATH="+c.path("bin")+":"+c.tools.Path("")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd, nil
}

// environment is that of this process, without what would lead kubectl and
// helm to another cluster or to another's settings.
func (c *Cluster) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if name == "PATH" || name == "KUBECONFIG" || strings.HasPrefix(name, "HELM_") || strings.HasPrefix(strings.ToLower(name), "http_proxy") || strings.HasPrefix(strings.ToLower(name), "https_proxy") {
			continue
		}
		env = append(env, v)
	}
	return append(env, "KUBECONFIG="+c.Kubeconfig(), "HELM_CACHE_HOME="+c.path("helm"), "HELM_CONFIG_HOME="+c.path("helm"), "HELM_DATA_HOME="+c.path("helm"))
}

// Command gives a command that runs in the control plane's network: kubectl,
// helm, hubble, or any other program.
func (c *Cluster) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	return c.In(ctx, controlPlace, argv...)
}

// run runs a program in a place and gives what it printed, which is also part of
// the error.
func (c *Cluster) run(ctx context.Context, where, stdin string, argv ...string) (string, error) {
	cmd, err := c.In(ctx, where, argv...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		// A program that was killed because nobody waits any more has not failed.
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return string(out), fmt.Errorf("in %s: %s: %w\n%s", where, strings.Join(argv, " "), err, tail(string(out), 20))
	}
	return string(out), nil
}

// A LogError is a step that failed, with the end of the log of who failed.
type LogError struct {
	Step string
	Log  string // path
	Err  error  // may be nil
}

func (e *LogError) Error() string {
	var b strings.Builder
	b.WriteString(e.Step)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	text, err := os.ReadFile(e.Log)
	switch end := tail(string(text), 15); {
	case err != nil:
		fmt.Fprintf(&b, " (its log cannot be read: %v)", err)
	case end == "":
		fmt.Fprintf(&b, " (its log %s is empty)", e.Log)
	default:
		fmt.Fprintf(&b, "\nThe end of %s:\n%s", e.Log, end)
	}
	return b.String()
}

func (e *LogError) Unwrap() error { return e.Err }

// tail gives the last lines of a text, indented.
func tail(text string, lines int) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	all := strings.Split(text, "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}

// A daemon is a long-running program of a place.
type daemon struct {
	place place
	name  string // its own, and that of its program
	argv  []string
}

// Log is the path of what a daemon of a place prints.
func (c *Cluster) Log(where, name string) string { return c.path(where, name+".log") }

// start starts a daemon and waits until it is ready, or has ended, or time is up.
func (c *Cluster) start(ctx context.Context, d daemon, ready func(context.Context) error) error {
	group := d.place.group + "/" + d.name
	if err := c.tools.cgroups.make(group, false); err != nil {
		return err
	}
	dir, err := os.Open(c.tools.cgroups.unified + group)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	log, err := os.OpenFile(c.Log(d.place.name, d.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd, err := c.In(context.WithoutCancel(ctx), d.place.name, d.argv...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	step := fmt.Sprintf("start %s of %s", d.name, d.place.name)
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	var why error // it was not ready when it was asked last, and could answer
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if why == nil || ctx.Err() == nil {
			why = err
		}
		select {
		case state := <-ended:
			if state == nil {
				state = errors.New("exit status 0")
			}
			return &LogError{Step: step, Log: log.Name(), Err: fmt.Errorf("it ended: %w", state)}
		case <-ctx.Done():
			return &LogError{Step: step, Log: log.Name(), Err: fmt.Errorf("not ready: %w", why)}
		case <-time.After(wait):
		}
	}
}

// pid is the process id of a daemon, or 0 where it does not run. Of the
// processes that it started it is told apart by its name.
func (c *Cluster) pid(d daemon) int {
	for _, pid := range c.tools.cgroups.processes(d.place.group + "/" + d.name) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		if program, _, _ := strings.Cut(string(line), "\x00"); filepath.Base(program) == d.name {
			return pid
		}
	}
	return 0
}

// stop ends a daemon and leaves what it started alone: containers outlive the
// containerd that runs them.
func (c *Cluster) stop(ctx context.Context, d daemon) error {
	pid := c.pid(d)
	if pid == 0 {
		return nil
	}
	// By SIGKILL: an API server whose etcd is slow takes a minute to end.
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop %s of %s: %w", d.name, d.place.name, err)
	}
	return Poll(ctx, Patience, func() error {
		if c.pid(d) == pid {
			return fmt.Errorf("%s of %s still runs after SIGKILL", d.name, d.place.name)
		}
		return nil
	})
}
