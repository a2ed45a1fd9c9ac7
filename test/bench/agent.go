package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An agent is a running instance of the program.
type agent struct {
	cmd    *exec.Cmd
	client *http.Client
	log    string // file with what it printed
	began  time.Time
}

// launch starts an agent with a configuration, "" for none, and does not wait
// for it.
func (b *bench) launch(config string) (*agent, error) {
	b.agents++
	name := fmt.Sprintf("bench-%d-%d", os.Getpid(), b.agents)
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "socket")
	// The history has figures of its own, and opens files.
	args := []string{"agent", "--instance", name, "--socket", socket, "--state", filepath.Join(dir, "state"), "--http", "off", "--history", "off"}
	if config != "" {
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", file)
	}
	a := &agent{cmd: exec.Command(b.warren, args...), log: filepath.Join(dir, "log")}
	log, err := os.Create(a.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	a.cmd.Stdout, a.cmd.Stderr = log, log
	// A session of its own, as a service has: the kernel divides processors between
	// sessions first, and those of the load are others.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	a.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	a.began = time.Now()
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	return a, nil
}

// start launches an agent and waits until it answers.
func (b *bench) start(ctx context.Context, config string) (*agent, error) {
	a, err := b.launch(config)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err = a.get(ctx, "/readyz"); err == nil {
			return a, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			a.stop()
			log, _ := os.ReadFile(a.log)
			return nil, fmt.Errorf("the agent does not answer: %w; it printed:\n%s", err, log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stop ends the agent.
func (a *agent) stop() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = a.cmd.Process.Kill() })
	_ = a.cmd.Wait()
	timer.Stop()
}

func (a *agent) pid() int { return a.cmd.Process.Pid }

func (a *agent) get(ctx context.Context, path string) ([]byte, error) {
	body, err := a.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(body)
}

func (a *agent) open(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s: %s: %s", path, response.Status, bytes.TrimSpace(text))
	}
	return response.Body, nil
}

// A stream is a subscription to the agent's events.
type stream struct {
	body io.ReadCloser
	done chan error
}

// follow subscribes to some fields of events and calls each with every event,
// one after the other, on a goroutine of the stream. The line is valid during
// the call only.
func (a *agent) follow(ctx context.Context, filter, fields string, each func(line []byte)) (*stream, error) {
	query := url.Values{"follow": {"true"}, "filter": {filter}, "fields": {fields}}
	body, err := a.open(ctx, "/v1/events?"+query.Encode())
	if err != nil {
		return nil, err
	}
	s := &stream{body: body, done: make(chan error, 1)}
	go func() {
		lines := bufio.NewReaderSize(body, 1<<20)
		for {
			line, err := lines.ReadSlice('\n')
			if len(line) > 1 {
				each(line)
			}
			if err != nil {
				s.done <- err
				return
			}
		}
	}()
	return s, nil
}

// close ends the subscription; no call of each is under way afterwards.
func (s *stream) close() error {
	err := s.body.Close()
	if read := <-s.done; !errors.Is(read, io.EOF) && !errors.Is(read, net.ErrClosed) && !errors.Is(read, http.ErrBodyReadAfterClose) && read.Error() != "http: read on closed response body" {
		return errors.Join(err, fmt.Errorf("events: %w", read))
	}
	return err
}

// cpu is the time that a process has computed, in user and system mode.
func cpu(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may hold spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil // USER_HZ
}

// heap is the anonymous memory of a process, in bytes.
func heap(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no RssAnon", pid)
}
