package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A program gets alerts on its standard input, a line each: one that lives on, or
// one for each alert.
type program struct {
	cfg  *Config
	cmd  *exec.Cmd // that lives on; nil while there is none
	in   io.WriteCloser
	said *Tail
	over chan error // gets how it ended
}

// A Tail keeps the end of what a program says, however much that is.
type Tail struct {
	mu sync.Mutex
	b  []byte
}

const maxTail = 512

// Write implements [io.Writer].
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, n := p[max(0, len(p)-maxTail):], len(p)
	t.b = append(t.b[max(0, len(t.b)+len(p)-maxTail):], p...)
	return n, nil
}

// Text is what was kept, for people.
func (t *Tail) Text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return readable(t.b)
}

// text is the beginning of that, to stand behind an error.
func (t *Tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return excerpt(t.b)
}

func openProgram(cfg *Config, _ *Env) (sender, error) { return &program{cfg: cfg}, nil }

// Command is a program that ends with ctx, together with all that it starts, which
// is a group of its own.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = stuckGrace / 2
	return cmd
}

// command is a shell that runs the program.
func (p *program) command(ctx context.Context) *exec.Cmd {
	cmd := Command(ctx, "/bin/sh", "-c", p.cfg.Program)
	p.said = &Tail{}
	cmd.Stderr = p.said
	return cmd
}

func (p *program) send(ctx context.Context, alerts [][]byte) (int, error) {
	for i, a := range alerts {
		line := appendLine(nil, a, p.cfg.Format)
		var err error
		if p.cfg.KeepAlive {
			err = p.write(ctx, line)
		} else {
			cmd := p.command(ctx)
			cmd.Stdin = bytes.NewReader(line)
			if err = Ended(cmd.Run()); err != nil {
				err = fmt.Errorf("%w%s", err, p.said.text())
			}
		}
		if err != nil {
			return i, err
		}
	}
	return len(alerts), nil
}

// Ended is how a [Command] ended. That something which it has left behind still has
// its output says nothing of that.
func Ended(err error) error {
	if errors.Is(err, exec.ErrWaitDelay) { // only where it was a success
		return nil
	}
	return err
}

// write hands a line to the program that lives on, which is started where it does
// not.
func (p *program) write(ctx context.Context, line []byte) error {
	if p.cmd != nil {
		select {
		case err := <-p.over:
			p.cmd = nil
			if err == nil {
				return fmt.Errorf("the program has ended%s", p.said.text())
			}
			return fmt.Errorf("the program has ended: %w%s", err, p.said.text())
		default:
		}
	} else {
		cmd := p.command(context.Background()) // it outlives what is sent now
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		p.cmd, p.in, p.over = cmd, in, make(chan error, 1)
		over := p.over
		go func() { over <- Ended(cmd.Wait()) }()
	}
	if in, ok := p.in.(interface{ SetWriteDeadline(time.Time) error }); ok {
		if deadline, ok := ctx.Deadline(); ok {
			if err := in.SetWriteDeadline(deadline); err != nil {
				return err
			}
		}
	}
	if _, err := p.in.Write(line); err != nil {
		return fmt.Errorf("%w%s", err, p.said.text())
	}
	return nil
}

// close lets a program that lives on read the end of its input, and ends it if it
// then does not end.
func (p *program) close() {
	if p.cmd == nil {
		return
	}
	_ = p.in.Close()
	select {
	case <-p.over:
	case <-time.After(stuckGrace):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.over
	}
	p.cmd = nil
}
