package datapath

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
	"warren/netpol"
)

// ownerTask is what the owner of a datapath is told, that runs as a process of
// its own; ownerFile is its network namespace.
const (
	ownerTask = "WARREN_BENCH_OWNER"
	ownerFile = 3
)

// An ownership is what the owner of a datapath does: open it, put a state in
// force, and read what it tells.
type ownership struct {
	Config       Config
	World        *netpol.World
	Endpoints    []Endpoint
	Places       map[netip.Addr]Place
	Node4, Node6 netip.Addr
}

// TestProcessOwner is the process that BenchmarkOwner starts, kills, and starts
// again.
func TestProcessOwner(t *testing.T) {
	task := os.Getenv(ownerTask)
	if task == "" {
		t.Skip("a process of BenchmarkOwner")
	}
	if err := own(t, task); err != nil {
		t.Fatal(err)
	}
}

func own(t *testing.T, task string) (err error) {
	text, err := os.ReadFile(task)
	if err != nil {
		return err
	}
	var o ownership
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Setns(ownerFile, unix.CLONE_NEWNET); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	d, err := Open(o.Config, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	program, err := netpol.NewCompiler().Compile(o.World, nil)
	if err != nil {
		return err
	}
	state := &State{Policy: program, Endpoints: o.Endpoints, Places: o.Places, Node4: o.Node4, Node6: o.Node6}
	if _, err := d.Apply(t.Context(), state); err != nil {
		return err
	}
	if err := d.Tell(true); err != nil {
		return err
	}
	fmt.Println("in force")
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-tick.C:
		}
		if err := d.DrainFlows(func(*FlowEvent) {}); err != nil {
			return err
		}
	}
}

// startOwner starts an owner and returns when what it was told is in force.
func (r *rig) startOwner(task string) (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestProcessOwner$")
	fd, err := unix.FcntlInt(uintptr(r.nodes[0].ns.FD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "netns")
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), ownerTask+"="+task)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// Threads come and go, and a child would with the one that started it.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	said := ""
	for lines.Scan() {
		if lines.Text() == "in force" {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd, nil
		}
		said += lines.Text() + "\n"
	}
	return nil, fmt.Errorf("the owner ended: %w: %s", cmd.Wait(), said)
}

// BenchmarkOwner kills the process that owns a datapath again and again, and as
// often ends it as an upgrade does, while two pods make 10,000 connections a
// second: none fails. Meanwhile one sends to the other what policy denies: none
// of it arrives.
func BenchmarkOwner(b *testing.B) {
	ms, rounds := roadWeight(b)
	program := talkProgram(b)
	r := newBareRig(b)
	r.cfg = Config{BPFFS: newBPFFS(b), Instance: "owner", Mode: Routed}
	r.nodes[0].cfg = r.cfg
	for _, p := range r.pods {
		r.in(p.ns, widePorts)
	}
	// What each owner finds differs from what it is told, so that it changes
	// policy, too: there is one policy more, for other pods.
	var tasks []string
	for _, n := range []int{1000, 1002} {
		world, state := r.manyState(n)
		text, err := json.Marshal(ownership{Config: r.cfg, World: world, Endpoints: state.Endpoints,
			Places: state.Places, Node4: state.Node4, Node6: state.Node6})
		if err != nil {
			b.Fatal(err)
		}
		task := b.TempDir() + "/task"
		if err := os.WriteFile(task, text, 0o600); err != nil {
			b.Fatal(err)
		}
		tasks = append(tasks, task)
	}
	var owners int
	next := func() *exec.Cmd {
		owner, err := r.startOwner(tasks[owners%len(tasks)])
		if err != nil {
			b.Fatal(err)
		}
		owners++
		return owner
	}
	denied := r.knock(b)
	owner := next()
	denied.from.Store(denied.sent.Load() + 1) // one may be on its way

	var t talked
	var kills, upgrades int
	for b.Loop() {
		done := make(chan error, 1)
		go func() {
			var err error
			t, err = r.talk(program, "crr", 4*ms*rounds, 10_500)
			done <- err
		}()
		tick := time.NewTicker(time.Duration(ms) * time.Millisecond / 2)
		for going := true; going; {
			select {
			case err := <-done:
				if err != nil {
					b.Fatal(err)
				}
				going = false
				continue
			case <-tick.C:
			}
			how := unix.SIGKILL
			if owners%2 == 0 {
				how = unix.SIGTERM
			}
			if err := owner.Process.Signal(how); err != nil {
				b.Fatal(err)
			}
			err := owner.Wait()
			if how == unix.SIGTERM {
				upgrades++
				if err != nil {
					b.Errorf("an owner that was to end: %v", err)
				}
			} else {
				kills++
			}
			owner = next()
		}
		tick.Stop()
	}
	sent, passed := denied.end()
	if err := owner.Process.Kill(); err != nil {
		b.Error(err)
	}
	_ = owner.Wait() // it was killed
	// What owners have left in the kernel.
	r.in(r.nodes[0].ns, func() error { return Remove(r.cfg) })
	b.ReportMetric(t.rate(), "connections/s")
	b.ReportMetric(float64(t.count), "connections")
	b.ReportMetric(float64(t.failed), "failed")
	b.ReportMetric(float64(t.resent), "resent")
	b.ReportMetric(float64(t.slowest.Microseconds())/1000, "ms-slowest")
	b.ReportMetric(float64(kills), "kills")
	b.ReportMetric(float64(upgrades), "upgrades")
	b.ReportMetric(float64(sent), "denied")
	b.ReportMetric(float64(passed), "denied-passed")
	b.ReportMetric(0, "ns/op")
}

// A knocker sends what no policy allows, a numbered datagram each millisecond.
type knocker struct {
	sent, got  atomic.Uint64
	from       atomic.Uint64 // the last number that may arrive
	passed     atomic.Uint64 // what arrived with a greater one
	stop, done chan struct{}
	server     *net.UDPConn
}

// knock begins, and waits until something has arrived: there is no policy yet.
func (r *rig) knock(b *testing.B) *knocker {
	b.Helper()
	k := &knocker{stop: make(chan struct{}), done: make(chan struct{})}
	k.from.Store(math.MaxUint64)
	addr := netip.AddrPortFrom(netip.MustParseAddr(roadServer), 9)
	r.in(r.pods[1].ns, func() (err error) {
		k.server, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
		return err
	})
	var client *net.UDPConn
	r.in(r.pods[0].ns, func() (err error) {
		client, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(addr))
		return err
	})
	go func() {
		buf := make([]byte, 16)
		for {
			n, _, err := k.server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			k.got.Add(1)
			if n == 8 && binary.BigEndian.Uint64(buf) > k.from.Load() {
				k.passed.Add(1)
			}
		}
	}()
	first := make(chan struct{})
	go func() {
		defer close(k.done)
		defer client.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-k.stop:
				return
			case <-tick.C:
			}
			if _, err := client.Write(binary.BigEndian.AppendUint64(nil, k.sent.Load()+1)); err == nil {
				k.sent.Add(1)
			}
			if first != nil && k.got.Load() > 0 {
				close(first)
				first = nil
			}
		}
	}()
	<-first
	return k
}

// end gives what was sent, and what of it arrived though it should not.
func (k *knocker) end() (sent, passed uint64) {
	close(k.stop)
	<-k.done
	_ = k.server.Close()
	return k.sent.Load(), k.passed.Load()
}

// BenchmarkRecords is what it costs to read what the kernel tells of flows, while
// two pods connect as fast as they can: first with a ring that is large enough,
// then with one that is not. Every connection is told of, or counted as lost.
func BenchmarkRecords(b *testing.B) {
	ms, rounds := roadWeight(b)
	program := talkProgram(b)
	for _, ring := range []struct {
		name  string
		bytes int
	}{{"default", 0}, {"small", 4096}} {
		b.Run(ring.name, func(b *testing.B) {
			cfg := Config{BPFFS: newBPFFS(b), Instance: "records", Mode: Routed, EventBytes: ring.bytes}
			r := newRig(b, cfg, 1, 2)
			r.applyMany(1000)
			dp := r.nodes[0].dp
			if err := dp.Tell(true); err != nil {
				b.Fatal(err)
			}
			for _, p := range r.pods {
				r.in(p.ns, widePorts)
			}
			var kinds [FlowDrop + 1]uint64
			var others uint64 // of whatever else pods send
			count := func(e *FlowEvent) {
				if e.Protocol == unix.IPPROTO_TCP && e.ServerPort == roadPort {
					kinds[e.Kind]++
				} else {
					others++
				}
			}
			var t talked
			var reader *flowReader
			for b.Loop() {
				reader = r.read(dp, count)
				var err error
				if t, err = r.talk(program, "crr", ms*rounds, 0); err != nil {
					b.Fatal(err)
				}
				if err := reader.end(); err != nil {
					b.Fatal(err)
				}
			}
			made := t.count + t.failed
			during := *reader
			if rounds >= fullRounds {
				// The kernel tells of the last ones' ends when it is sure that they ended.
				late := r.read(dp, count)
				testkit.Wait(b, "the ends of connections", func() bool {
					c, err := dp.Counters()
					return err != nil || c.Told[FlowClose]+c.Lost[FlowClose]+c.Evicted >= made
				})
				if err := late.end(); err != nil {
					b.Fatal(err)
				}
				during.all += late.all
			}
			c, err := dp.Counters()
			if err != nil {
				b.Fatal(err)
			}
			var told, lost uint64
			for _, kind := range []FlowEventKind{FlowNew, FlowUpdate, FlowClose, FlowDrop} {
				told += c.Told[kind]
				lost += c.Lost[kind]
			}
			b.ReportMetric(float64(reader.all)/t.took.Seconds(), "records/s")
			b.ReportMetric(float64(reader.cpu.Nanoseconds())/float64(reader.all), "cpu-ns/record")
			b.ReportMetric(float64(reader.cpu)/float64(t.took), "cores")
			b.ReportMetric(float64(told), "told")
			b.ReportMetric(float64(lost), "lost")
			b.ReportMetric(float64(told)-float64(during.all+c.Malformed), "unread")
			b.ReportMetric(float64(others), "others")
			b.ReportMetric(float64(made), "connections")
			b.ReportMetric(float64(made)-float64(kinds[FlowNew]+c.Lost[FlowNew]), "begun-missing")
			if rounds >= fullRounds {
				// What is counted as not noticed may be noticed after all, when its ports are
				// used again: then there is more than there was.
				ended, unnoticed := float64(kinds[FlowClose]+c.Lost[FlowClose]), float64(c.Evicted)
				b.ReportMetric(max(0, float64(made)-ended-unnoticed)+max(0, ended-float64(made)), "ended-missing")
				b.ReportMetric(max(0, float64(made)-ended), "ended-unnoticed")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// changesWanted is how many changes of policy BenchmarkChanges makes.
const changesWanted = "WARREN_BENCH_CHANGES"

// BenchmarkChanges changes policy under traffic, and holds every verdict that the
// kernel tells of against what the policies of its generation mean.
func BenchmarkChanges(b *testing.B) {
	changes, _ := strconv.Atoi(os.Getenv(changesWanted))
	if changes <= 0 {
		b.Skipf("%s says no number: go run ./test/bench -network", changesWanted)
	}
	var c *checker
	var packets uint64
	for b.Loop() {
		c, packets = changeUnderTraffic(b, changes)
	}
	b.ReportMetric(float64(changes), "changes")
	b.ReportMetric(float64(packets), "packets")
	b.ReportMetric(float64(c.checked), "verdicts")
	b.ReportMetric(float64(c.denied), "verdicts-deny")
	b.ReportMetric(float64(c.wrong), "wrong")
	b.ReportMetric(float64(c.unknown), "unknown")
	b.ReportMetric(0, "ns/op")
}
