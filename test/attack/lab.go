package attack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Lab is a scratch folder, two containers and a server that has been running
// for a while. Its methods may be called by several goroutines.
type Lab struct {
	dir    string
	server *server
	podman *podman
	words  atomic.Int64
}

// Open makes a lab. It builds a program, which needs the go command, and starts
// containers, which needs podman and runc. The lab is to be closed.
func Open(ctx context.Context) (l *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("attacks need root")
	}
	// Short, for sockets' names, and no link: as the kernel tells it.
	dir, err := os.MkdirTemp("/tmp", "warren-attack-")
	if err != nil {
		return nil, err
	}
	l = &Lab{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
			l = nil
		}
	}()
	// Somebody else has to be able to run what is in it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return l, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, "act"), "warren/test/attack/act")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return l, fmt.Errorf("build act: %w: %s", err, out)
	}
	if l.server, err = l.serve(); err != nil {
		return l, fmt.Errorf("start a server: %w", err)
	}
	if l.podman, err = openPodman(ctx, filepath.Join(dir, "podman"), filepath.Join(dir, "act")); err != nil {
		return l, err
	}
	return l, nil
}

// Close ends and removes everything.
func (l *Lab) Close() error {
	var errs []error
	if l.podman != nil {
		errs = append(errs, l.podman.close())
	}
	if l.server != nil {
		errs = append(errs, l.server.close())
	}
	// podman has programs that clean up behind containers, in the background.
	if !Await(patience, func() bool { return !mentioned(l.dir) }) {
		errs = append(errs, fmt.Errorf("somebody is still at work in %s", l.dir))
	}
	tidy()
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// mentioned is whether a process has a folder in its arguments.
func mentioned(dir string) bool {
	lists, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	return slices.ContainsFunc(lists, func(list string) bool {
		args, err := os.ReadFile(list) // which may have ended
		return err == nil && bytes.Contains(args, []byte(dir))
	})
}

// Config is what an agent's configuration has to say to know the containers.
func (l *Lab) Config() string {
	return "containers:\n  podman: " + l.podman.socket + "\n"
}

// Word returns one that no other attack of this lab has. It fits into the name of
// a process.
func (l *Lab) Word() string {
	return fmt.Sprintf("w%d-%d", os.Getpid(), l.words.Add(1))
}

// Evidence returns what the output of an alert about an attack has to hold.
func (l *Lab) Evidence(a Attack, word string) []string {
	list := make([]string, len(a.Evidence))
	for i, e := range a.Evidence {
		list[i] = l.fill(e, word)
	}
	return list
}

// Shows is whether the output of an alert holds the evidence of an attack.
func (l *Lab) Shows(a Attack, word, output string) bool {
	return !slices.ContainsFunc(l.Evidence(a, word), func(e string) bool { return !strings.Contains(output, e) })
}

// Settle makes attacks until each has been heard of once: the hooks for them, and
// what is known of containers, come a moment after an agent answers. heard says
// whether an alert of the rule has come that shows the attack.
func (l *Lab) Settle(ctx context.Context, attacks []Attack, heard func(a Attack, word string) bool) error {
	left := slices.Clone(attacks)
	for deadline := time.Now().Add(2 * patience); len(left) > 0; {
		words := make([]string, len(left))
		for i, a := range left {
			words[i] = l.Word()
			if err := a.Do(ctx, l, words[i]); err != nil {
				return fmt.Errorf("%s: %w", a.Rule, err)
			}
		}
		Await(3*time.Second, func() bool {
			var silent []Attack
			var of []string
			for i, a := range left {
				if !heard(a, words[i]) {
					silent, of = append(silent, a), append(of, words[i])
				}
			}
			left, words = silent, of
			return len(left) == 0
		})
		if len(left) > 0 && time.Now().After(deadline) {
			return fmt.Errorf("no alert came of rule %s with %q", left[0].Rule, l.Evidence(left[0], words[0]))
		}
	}
	return nil
}

// fill puts in what attacks say by %w and %d.
func (l *Lab) fill(text, word string) string {
	return strings.NewReplacer("%w", word, "%d", l.dir).Replace(text)
}

func (l *Lab) fillAll(args []string, word string) []string {
	list := make([]string, len(args))
	for i, a := range args {
		list[i] = l.fill(a, word)
	}
	return list
}

// program is the path of act under a name.
func (l *Lab) program(name string) (string, error) {
	path := filepath.Join(l.dir, name)
	err := os.Link(filepath.Join(l.dir, "act"), path)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	return path, err
}

// patience is how long anything may take, on a machine with other work.
const patience = time.Minute

// run runs a program of the machine to its end.
func (l *Lab) run(ctx context.Context, word, path string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return run(command(ctx, l.fill(path, word), l.fillAll(args, word)...))
}

// exec runs a program in a container to its end.
func (l *Lab) exec(ctx context.Context, word string, c container, options []string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return l.podman.exec(ctx, c, options, l.fillAll(args, word))
}

// command is one that ends with us, and has nothing of our environment that could
// be taken for something else.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func run(cmd *exec.Cmd) error {
	// Of those who still hold the output's other end when it has ended.
	cmd.WaitDelay = patience
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// file makes one, which holds its own name.
func (l *Lab) file(name string) error {
	return os.WriteFile(filepath.Join(l.dir, name), []byte(name+"\n"), 0o600)
}

func (l *Lab) remove(name string) { _ = os.Remove(filepath.Join(l.dir, name)) }

// A server is a program that is known to serve, and has been for a while.
type server struct {
	mu    sync.Mutex
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	began time.Time
}

// settled is how long a server is new, to Falco's rules.
const settled = 5 * time.Second

func (l *Lab) serve() (*server, error) {
	path, err := l.program("httpd")
	if err != nil {
		return nil, err
	}
	s := &server{cmd: command(context.Background(), path, "read-on", "/etc/shadow")}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := s.out.ReadString('\n'); err != nil {
		return s, err
	}
	s.began = time.Now()
	return s, nil
}

// read has the server read its file, once it is no longer new.
func (s *server) read(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-time.After(time.Until(s.began.Add(settled + settled/10))):
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		return err
	}
	_, err := s.out.ReadString('\n')
	return err
}

func (s *server) close() error {
	if s.in == nil || s.cmd.Process == nil {
		return nil
	}
	_ = s.in.Close()
	return s.cmd.Wait()
}

// Await waits until a state is reached, and says whether it was in time.
func Await(within time.Duration, reached func() bool) bool {
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if reached() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
