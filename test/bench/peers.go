package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	figPeersCPU      = "storm: agent CPU / (execsnoop + exitsnoop) CPU"
	figPeersSlowdown = "storm: processes a second, with the agent / with execsnoop and exitsnoop"
)

// A peer is one of the programs that Warren is measured against.
type peer struct {
	cmd   *exec.Cmd
	lines atomic.Int64
}

// startPeer starts a tool of libbpf-tools. It wants tracefs, which it gets in a
// mount namespace of its own.
func startPeer(ctx context.Context, name string) (*peer, error) {
	p := &peer{cmd: exec.CommandContext(ctx, "sh", "-c",
		`[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; exec "$0"`, name)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		for lines := bufio.NewReaderSize(out, 1<<20); ; {
			_, err := lines.ReadSlice('\n')
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				_, _ = io.Copy(io.Discard, out)
				return
			}
			p.lines.Add(1)
		}
	}()
	return p, nil
}

func (p *peer) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// seesProcesses waits until a peer reports processes that we start.
func (b *bench) seesProcesses(ctx context.Context, p *peer) error {
	first := p.lines.Load()
	for deadline := time.Now().Add(10 * time.Second); ; {
		_ = exec.CommandContext(ctx, b.load, "child", "0").Run()
		// The header is a line, too.
		if p.lines.Load() > first+2 {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s reports nothing", p.cmd.Args[len(p.cmd.Args)-1])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// peersStorm is a storm with execsnoop and exitsnoop printing it.
func (b *bench) peersStorm(ctx context.Context) (r stormResult, err error) {
	var peers []*peer
	for _, name := range []string{"execsnoop", "exitsnoop"} {
		p, err := startPeer(ctx, name)
		if err != nil {
			return r, err
		}
		defer p.stop()
		if err := b.seesProcesses(ctx, p); err != nil {
			return r, err
		}
		peers = append(peers, p)
	}
	sum := func() (total time.Duration, err error) {
		for _, p := range peers {
			used, err := cpu(p.cmd.Process.Pid)
			if err != nil {
				return 0, err
			}
			total += used
		}
		return total, nil
	}
	before, err := sum()
	if err != nil {
		return r, err
	}
	lines := [2]int64{peers[0].lines.Load(), peers[1].lines.Load()}
	run, err := b.startStorm(ctx, b.round, unlimited)
	if err != nil {
		return r, err
	}
	if r.started, r.took, err = run.wait(); err != nil {
		return r, err
	}
	time.Sleep(200 * time.Millisecond) // their rings are read with a delay
	after, err := sum()
	if err != nil {
		return r, err
	}
	r.cpu = after - before
	for i, p := range peers {
		r.missing += r.started - int(p.lines.Load()-lines[i])
	}
	r.missing = max(r.missing, 0)
	return r, nil
}

// peers compares what the agent computes for a process, verified and streamed
// as JSON, with what the peers compute to print a line of text for it.
func (b *bench) peers(ctx context.Context) error {
	var ratios, slowdowns []float64
	var ours, theirs []float64
	missing := 0
	for i := range b.rounds {
		var agentSide, peerSide stormResult
		sides := []func() error{
			func() error {
				a, err := b.start(ctx, "")
				if err != nil {
					return err
				}
				defer a.stop()
				agentSide, err = b.runStorm(ctx, a, b.round, unlimited)
				if err == nil && (agentSide.missing != 0 || agentSide.wrong != 0) {
					err = fmt.Errorf("the agent's side is not complete: %d missing, %d wrong", agentSide.missing, agentSide.wrong)
				}
				return err
			},
			func() (err error) {
				peerSide, err = b.peersStorm(ctx)
				return err
			},
		}
		// Each goes first as often as the other.
		for j := range sides {
			if err := sides[(i+j)%2](); err != nil {
				return err
			}
		}
		ratios = append(ratios, agentSide.perProcess()/peerSide.perProcess())
		slowdowns = append(slowdowns, agentSide.rate()/peerSide.rate())
		ours, theirs = append(ours, agentSide.perProcess()), append(theirs, peerSide.perProcess())
		missing += peerSide.missing
	}
	ratio := spreadOf(ratios)
	b.add(figPeersCPU, ratio.median <= 1*b.slack, "at most 1", "%v in %d rounds; %.3g against %.3g µs for each process",
		ratio, len(ratios), spreadOf(ours).median, spreadOf(theirs).median)
	b.add(figPeersSlowdown, true, "for comparison", "%v; they lost %d events", spreadOf(slowdowns), missing)
	return nil
}
