package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const figConnections = "connections of 1 ms from short-lived processes: attributed"

// shortConnections makes connections that live 1 ms, each from a process that
// does nothing else, and wants each with its executable and ancestry.
func (b *bench) shortConnections(ctx context.Context) error {
	a, err := b.start(ctx, "")
	if err != nil {
		return err
	}
	defer a.stop()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	// The other side's word for which connections there were: their ports.
	var mu sync.Mutex
	accepted := make(map[int64]bool)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			accepted[int64(c.RemoteAddr().(*net.TCPAddr).Port)] = true
			mu.Unlock()
			go func() {
				_, _ = c.Read(make([]byte, 1)) // its end
				_ = c.Close()
			}()
		}
	}()
	port := listener.Addr().(*net.TCPAddr).Port

	// The load's parent is this program, by the name that the kernel keeps of it.
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return err
	}
	ancestry := fmt.Appendf(nil, `"proc.aname":["load","%s"`, bytes.TrimSpace(self))
	attributed := make(map[int64]bool)
	var parent int64
	var example string
	s, err := a.follow(ctx, fmt.Sprintf("evt.type = connect and fd.rport = %d", port), "fd.lport,proc.exepath,proc.ppid,proc.aname,proc.cmdline", func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		local, _ := number(line, "fd.lport")
		ppid, _ := number(line, "proc.ppid")
		right := string(text(line, "proc.exepath")) == b.load && ppid == parent &&
			bytes.HasSuffix(text(line, "proc.cmdline"), []byte(" connect "+strconv.Itoa(port))) &&
			bytes.Contains(line, ancestry)
		if right && local != 0 {
			attributed[local] = true
		} else if example == "" {
			example = string(line)
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	mu.Lock()
	cmd := exec.CommandContext(ctx, b.load, "connections", strconv.Itoa(b.weight.connections), strconv.Itoa(port))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	if err == nil {
		parent = int64(cmd.Process.Pid)
	}
	mu.Unlock()
	if err != nil {
		return fmt.Errorf("start connections: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("connections: %w", err)
	}
	known := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for p := range accepted {
			if attributed[p] {
				n++
			}
		}
		return n, len(accepted)
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if n, all := known(); n == b.weight.connections && all == n {
			break
		}
	}
	n, all := known()
	b.add(figConnections, n == all && all == b.weight.connections, "all", "%d of %d", n, b.weight.connections)
	mu.Lock()
	defer mu.Unlock()
	if example != "" {
		fmt.Fprintf(b.log, "connections: the first without its owner: %s", example)
	}
	return nil
}
