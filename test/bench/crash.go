package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"warren/event"
	"warren/test/traffic"
)

// crashRate is how many events a second come while processes are killed: fewer
// than the history takes, so that many rounds of them can be looked at.
const crashRate = 20_000

// crashAddr is the far address of the nth connection: no two are alike, and
// each is found again by it.
func crashAddr(n int64) netip.Addr {
	a := [16]byte{0: 0xfd, 1: 0x77}
	binary.BigEndian.PutUint64(a[8:], uint64(n))
	return netip.AddrFrom16(a)
}

func crashNumber(a netip.Addr) (int64, bool) {
	b := a.As16()
	return int64(binary.BigEndian.Uint64(b[8:])), b[0] == 0xfd && b[1] == 0x77
}

// keepUntilKilled gives events to a history until it is killed: connections
// numbered from first on, among processes that come and go. It tells which
// numbers it has given, and when.
func keepUntilKilled(dir string, first, rate int64) error {
	k, err := openHistory(dir, true)
	if err != nil {
		return err
	}
	source := traffic.New(traffic.Config{Seed: uint64(first), Start: time.Now(), Every: time.Second / time.Duration(rate), Processes: 300, Churn: 50})
	k.living(source.Processes())
	out := bufio.NewWriter(os.Stdout)
	tell := func(n int64) error {
		if _, err := fmt.Fprintln(out, n, time.Now().UnixNano()); err != nil {
			return err
		}
		return out.Flush()
	}
	start := time.Now()
	for n, made := first, int64(0); ; {
		// None from n on was taken in before now.
		if err := tell(n); err != nil {
			return err
		}
		for due := int64(time.Since(start).Seconds() * float64(rate)); made < due; made++ {
			e := source.Next()
			e.Time = time.Now()
			if c, ok := e.Data.(*event.Connection); ok {
				c.Remote, c.RemoteName, c.RemotePeer, c.Server = crashAddr(n), "", nil, false
				c.RemotePort, c.BytesSent = uint16(n), uint64(n)
				n++
			}
			if err := k.keep(e); err != nil {
				return err
			}
		}
		// All below n were taken in before now.
		if err := tell(n); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// given says that all numbers below n were taken in at a time.
type given struct {
	n  int64
	at time.Time
}

// crashHistory kills a process again and again while it keeps events, at moments
// that nobody chose, and looks at what is there afterwards.
func (b *bench) crashHistory(ctx context.Context) error {
	_, _, _, _, _, rounds := b.historyWeight()
	dir, err := b.folder("crash")
	if err != nil {
		return err
	}
	var next, lost, doubled, wrong, total int64
	var oldest time.Duration
	found := map[int64]bool{}
	for range rounds {
		told, killed, err := b.crashOnce(ctx, dir, next)
		if err != nil {
			return err
		}
		last := told[len(told)-1].n
		safe, safeAt := next, killed.Add(-time.Second)
		for _, g := range told {
			if g.at.Before(safeAt) {
				safe = g.n
			}
		}
		clear(found)
		twice, bad, err := lookAt(ctx, dir, told[0].at.Add(-time.Second), next, found)
		if err != nil {
			return err
		}
		doubled, wrong, total = doubled+twice, wrong+bad, total+int64(len(found))
		for n := next; n < last; n++ {
			if found[n] {
				continue
			}
			if n < safe {
				lost++
			}
			// It was given after the last telling that does not have it.
			age := killed.Sub(told[0].at)
			for _, g := range told {
				if g.n <= n {
					age = killed.Sub(g.at)
				}
			}
			oldest = max(oldest, age)
		}
		for n := range found {
			last = max(last, n+1) // given, and not told of any more
		}
		next = last
	}
	// What was there once is there still, after all that was sealed and recovered.
	clear(found)
	twice, bad, err := lookAt(ctx, dir, time.Time{}, 0, found)
	if err != nil {
		return err
	}
	if int64(len(found)) != total {
		wrong += max(total-int64(len(found)), int64(len(found))-total)
	}
	k, err := openHistory(dir, true)
	if err != nil {
		return err
	}
	unreadable, sealed := k.unreadable()
	if err := k.close(); err != nil {
		return err
	}
	doubled, wrong = doubled+twice, wrong+bad
	b.add(figCrashLost, lost == 0, "0", "%d of %d in %d rounds", lost, total, rounds)
	b.add(figCrashOldest, true, "for comparison", "%v at most", oldest.Round(time.Millisecond))
	b.add(figCrashDoubled, doubled == 0 && wrong == 0 && unreadable == 0, "0", "%d twice, %d wrong; %d unreadable segments besides %d sealed ones", doubled, wrong, unreadable, sealed)
	return nil
}

// crashOnce runs a process that keeps events, numbered from first on, and kills
// it after a while. It gives what the process told, and when it was killed.
func (b *bench) crashOnce(ctx context.Context, dir string, first int64) (told []given, killed time.Time, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, killed, err
	}
	cmd := exec.CommandContext(ctx, self, childCrash, dir, strconv.FormatInt(first, 10), strconv.Itoa(crashRate))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, killed, err
	}
	if err := cmd.Start(); err != nil {
		return nil, killed, err
	}
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	shot := make(chan time.Time, 1)
	for lines.Scan() {
		var n, at int64
		if _, err := fmt.Sscan(lines.Text(), &n, &at); err != nil {
			break // the last line may be half of one
		}
		told = append(told, given{n, time.Unix(0, at)})
		if timer == nil {
			timer = time.AfterFunc(200*time.Millisecond+rand.N(1600*time.Millisecond), func() {
				shot <- time.Now()
				_ = cmd.Process.Kill()
			})
		}
	}
	if timer == nil {
		return nil, killed, fmt.Errorf("%s ended by itself: %w", filepath.Base(self), cmd.Wait())
	}
	_ = cmd.Wait() // it was killed
	select {
	case killed = <-shot:
	default:
		timer.Stop()
		return nil, killed, fmt.Errorf("%s ended by itself", filepath.Base(self))
	}
	return told, killed, nil
}

// lookAt reads what a history has since a time, of the numbers from first on. It
// gives how many are there twice and how many are not what was given.
func lookAt(ctx context.Context, dir string, since time.Time, first int64, found map[int64]bool) (twice, wrong int64, err error) {
	k, err := openHistory(dir, true)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if e := k.close(); err == nil {
			err = e
		}
	}()
	err = k.each(ctx, since, func(e *event.Event) {
		c, ok := e.Data.(*event.Connection)
		if !ok {
			return
		}
		n, ok := crashNumber(c.Remote)
		switch {
		case !ok:
			wrong++
		case n < first:
		case found[n]:
			twice++
		case e.Times() != 1 || c.BytesSent != uint64(n) || c.RemotePort != uint16(n) || e.Process == nil || e.Process.Key != e.Actor || e.Process.Name == "":
			wrong++
		default:
			found[n] = true
		}
	})
	return twice, wrong, err
}
