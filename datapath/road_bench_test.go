package datapath

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/netpol"
)

// What the benchmarks of roads are told: how many milliseconds each side of a
// round lasts, and how many rounds there are.
const (
	roadMilliseconds = "WARREN_BENCH_MS"
	roadRounds       = "WARREN_BENCH_ROUNDS"
)

// fullRounds are as many as a figure wants; with fewer only the paths are tried.
const fullRounds = 7

// roadPort is where the server of the benchmarks listens.
const roadPort = 5201

// roadWeight reads how long is measured.
func roadWeight(b *testing.B) (ms, rounds int) {
	b.Helper()
	ms, _ = strconv.Atoi(os.Getenv(roadMilliseconds))
	rounds, _ = strconv.Atoi(os.Getenv(roadRounds))
	if ms <= 0 || rounds <= 0 {
		b.Skipf("%s and %s say no length: go run ./test/bench -network", roadMilliseconds, roadRounds)
	}
	return ms, rounds
}

// A road is one way in which two pods of a node are connected.
type road struct {
	*rig
	name  string
	rates map[string][]float64 // by what was measured
}

// roads are those that are compared. The first is what the others are held
// against: a node that only forwards.
func newRoads(b *testing.B) (all []*road) {
	b.Helper()
	add := func(name string, r *rig) *road {
		o := &road{rig: r, name: name, rates: make(map[string][]float64)}
		all = append(all, o)
		return o
	}
	add("plain", newBareRig(b))
	for _, n := range []int{0, 1000, 5000} {
		cfg := Config{BPFFS: newBPFFS(b), Instance: fmt.Sprint("road-", n), Mode: Routed}
		r := newRig(b, cfg, 1, 2)
		r.applyMany(n)
		if err := r.nodes[0].dp.Tell(true); err != nil {
			b.Fatal(err)
		}
		add(fmt.Sprint("warren-", n), r)
	}
	const rules = 5000
	for _, f := range []struct {
		name  string
		rules string
		by    []string
	}{
		{"nft", nftRules(rules, false), []string{"nft", "-f", "-"}},
		{"nft-map", nftRules(rules, true), []string{"nft", "-f", "-"}},
		{"iptables", iptablesRules(rules), []string{"iptables-legacy-restore"}},
	} {
		r := newBareRig(b)
		r.in(r.nodes[0].ns, func() error {
			cmd := exec.Command(f.by[0], f.by[1:]...)
			cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(b.TempDir(), "lock"))
			cmd.Stdin = strings.NewReader(f.rules)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", f.by[0], err, out)
			}
			return nil
		})
		add(f.name, r)
	}
	for _, o := range all {
		o.in(o.pods[0].ns, widePorts)
		o.in(o.pods[1].ns, widePorts)
	}
	return all
}

// widePorts has a port be used again as late as can be.
func widePorts() error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0)
}

// newBareRig is a node with two pods and no datapath: it forwards.
func newBareRig(t testing.TB) *rig {
	t.Helper()
	needBPF(t)
	r := &rig{t: t, cfg: Config{Mode: Routed}}
	r.addNode(0)
	r.addPod(r.nodes[0])
	r.addPod(r.nodes[0])
	r.in(r.nodes[0].ns, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	return r
}

// roadPeer is the address of a pod that a rule is about, and the rule's port.
// The rule in the middle is the one for the pods that are measured.
func roadPeer(i, n int, real netip.Addr) (netip.Addr, int) {
	if i == n/2 {
		return real, roadPort
	}
	return netip.AddrFrom4([4]byte{10, 250, byte(i >> 8), byte(i)}), 6000 + i%1000
}

// manyPolicies are n policies, half of which say whom the first pod may connect
// to, and half whom the second may be connected by; and the pods that they are
// about, which are on another node.
func manyPolicies(n int) (policies []*cluster.Policy, crowd []*cluster.Pod) {
	for i := range n {
		half, direction := i/2, i%2
		addr, port := roadPeer(half, n/2, netip.Addr{})
		who, where := cluster.Selector{Equal: map[string]string{"crowd": fmt.Sprint(half)}}, cluster.Selector{}
		if !addr.IsValid() {
			who = pods([]string{"app1", "app0"}[direction])
		} else if direction == 0 {
			crowd = append(crowd, &cluster.Pod{UID: fmt.Sprint("crowd-", half), Name: fmt.Sprint("crowd-", half), Namespace: "crowd", Node: "elsewhere",
				Labels: who.Equal, Addrs: []netip.Addr{addr}, Phase: "Running", Started: time.Unix(1, 0), Created: time.Unix(1, 0)})
		}
		uid := fmt.Sprint("many-", i)
		p := &cluster.Policy{UID: uid, Name: uid, Namespace: []string{"shop", "lab"}[direction], Tier: cluster.NetworkTier}
		rule := cluster.PolicyRule{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &who, Namespaces: &where}},
			Ports: []cluster.PolicyPort{{Protocol: "tcp", First: uint16(port), Last: uint16(port)}}}
		if direction == 0 {
			p.IsolatesEgress, p.Egress = true, []cluster.PolicyRule{rule}
		} else {
			p.IsolatesIngress, p.Ingress = true, []cluster.PolicyRule{rule}
		}
		policies = append(policies, p)
	}
	return policies, crowd
}

// manyState is what the node of a rig should do with n policies.
func (r *rig) manyState(n int) (*netpol.World, *State) {
	policies, crowd := manyPolicies(n)
	r.policies = policies
	world := r.world()
	world.Pods = append(slices.Clone(world.Pods), crowd...)
	state := r.state(r.nodes[0], nil)
	for _, p := range crowd {
		state.Places[p.Addrs[0]] = Place{Kind: PodPlace, Node: netip.MustParseAddr("172.30.0.99")}
	}
	return world, state
}

// applyMany puts n policies in force.
func (r *rig) applyMany(n int) {
	r.t.Helper()
	world, state := r.manyState(n)
	var err error
	if state.Policy, err = r.compiler.Compile(world, nil); err != nil {
		r.t.Fatal(err)
	}
	report, err := r.nodes[0].dp.Apply(r.t.Context(), state)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range report.Endpoints {
		if e.Err != nil || e.Hook == "" {
			r.t.Fatalf("%s, hook %q, %v", e.Name, e.Hook, e.Err)
		}
	}
}

// The addresses of a rig's first two pods.
const (
	roadClient = "10.240.0.10"
	roadServer = "10.240.0.11"
)

// nftRules say by n rules what manyPolicies say: in two chains, or in two maps.
// Only what begins a connection goes through them.
func nftRules(n int, verdictMap bool) string {
	var chains [2]strings.Builder
	for i := range n {
		direction, match := i%2, []string{"daddr", "saddr"}[i%2]
		addr, port := roadPeer(i/2, n/2, netip.MustParseAddr([]string{roadServer, roadClient}[direction]))
		if verdictMap {
			fmt.Fprintf(&chains[direction], "%v . %d : return,\n", addr, port)
		} else {
			fmt.Fprintf(&chains[direction], "ip %s %v tcp dport %d return\n", match, addr, port)
		}
	}
	var text strings.Builder
	fmt.Fprintln(&text, "table ip bench {")
	for i, chain := range []string{"out", "in"} {
		match := []string{"daddr", "saddr"}[i]
		if verdictMap {
			fmt.Fprintf(&text, "map %s_peers {\ntype ipv4_addr . inet_service : verdict\nelements = { %s }\n}\n", chain, chains[i].String())
			fmt.Fprintf(&text, "chain %s {\nip %s . tcp dport vmap @%s_peers\ndrop\n}\n", chain, match, chain)
		} else {
			fmt.Fprintf(&text, "chain %s {\n%sdrop\n}\n", chain, chains[i].String())
		}
	}
	fmt.Fprintf(&text, "chain forward {\ntype filter hook forward priority 0; policy accept\nct state established,related accept\n"+
		"ip saddr %s jump out\nip daddr %s jump in\n}\n}\n", roadClient, roadServer)
	return text.String()
}

// iptablesRules say the same.
func iptablesRules(n int) string {
	var rules [2]strings.Builder
	for i := range n {
		direction, match := i%2, []string{"-d", "-s"}[i%2]
		addr, port := roadPeer(i/2, n/2, netip.MustParseAddr([]string{roadServer, roadClient}[direction]))
		fmt.Fprintf(&rules[direction], "-A %s %s %v -p tcp --dport %d -j RETURN\n", []string{"out", "in"}[direction], match, addr, port)
	}
	return fmt.Sprintf("*filter\n:FORWARD ACCEPT [0:0]\n:in - [0:0]\n:out - [0:0]\n"+
		"-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -s %s -j out\n-A FORWARD -d %s -j in\n%s-A out -j DROP\n%s-A in -j DROP\nCOMMIT\n",
		roadClient, roadServer, rules[0].String(), rules[1].String())
}

// talkProgram compiles talk.c.
func talkProgram(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "talk")
	out, err := exec.Command("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, "../test/bench/load/talk.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile talk.c: %v: %s", err, out)
	}
	return program
}

// talked is what talk says.
type talked struct {
	count, failed, resent uint64
	slowest, took         time.Duration
	fifo                  bool
}

// rate is of one second.
func (t talked) rate() float64 { return float64(t.count) / t.took.Seconds() }

// talk has the first pod of a rig talk to the second, on the last processor;
// where it is the only one, the kernel says where.
func (r *rig) talk(program, what string, ms, rate int) (talked, error) {
	cpu := runtime.NumCPU() - 1
	if cpu == 0 {
		cpu = -1
	}
	cmd := exec.CommandContext(r.t.Context(), program, what, strconv.Itoa(cpu), strconv.Itoa(ms), strconv.Itoa(rate), "3", "4", roadServer, strconv.Itoa(roadPort))
	for _, p := range r.pods[:2] {
		fd, err := unix.FcntlInt(uintptr(p.ns.FD()), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return talked{}, err
		}
		f := os.NewFile(uintptr(fd), "netns")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return talked{}, fmt.Errorf("talk %s: %w: %s", what, err, stderr.String())
	}
	var t talked
	var slowest, took int64
	var fifo int
	if _, err := fmt.Sscan(string(out), &t.count, &t.failed, &t.resent, &slowest, &took, &fifo); err != nil {
		return talked{}, fmt.Errorf("talk %s said %q: %w", what, out, err)
	}
	t.slowest, t.took, t.fifo = time.Duration(slowest)*time.Microsecond, time.Duration(took), fifo == 1
	return t, nil
}

// A flowReader reads what a datapath tells, on a processor that is not used
// otherwise, until it is stopped.
type flowReader struct {
	stop chan struct{}
	done chan error
	cpu  time.Duration // of its thread
	all  uint64
}

// read begins to read; see is called for each event.
func (r *rig) read(dp *Datapath, see func(*FlowEvent)) *flowReader {
	f := &flowReader{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		runtime.LockOSThread() // never unlocked: its processors are its own
		f.done <- f.run(dp, see)
	}()
	return f
}

func (f *flowReader) run(dp *Datapath, see func(*FlowEvent)) error {
	if last := runtime.NumCPU() - 1; last > 0 {
		var set unix.CPUSet
		for cpu := range last {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return err
		}
	}
	before, err := threadTime()
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for stopped := false; ; {
		if err := dp.DrainFlows(func(e *FlowEvent) {
			f.all++
			if see != nil {
				see(e)
			}
		}); err != nil {
			return err
		}
		if stopped {
			after, err := threadTime()
			f.cpu = after - before
			return err
		}
		select {
		case <-f.stop:
			stopped = true
		case <-tick.C:
		}
	}
}

// end reads what is left.
func (f *flowReader) end() error {
	close(f.stop)
	return <-f.done
}

// threadTime is the processor time of this thread.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

// BenchmarkRoads is how fast two pods of a node talk to each other: TCP request
// and response, and connect, request and response, both ends on one processor.
// Roads take turns, and are compared within a round.
func BenchmarkRoads(b *testing.B) {
	ms, rounds := roadWeight(b)
	program := talkProgram(b)
	roads := newRoads(b)
	lost := func() (n uint64) {
		for _, o := range roads {
			if dp := o.nodes[0].dp; dp != nil {
				c, err := dp.Counters()
				if err != nil {
					b.Fatal(err)
				}
				for _, k := range c.Lost {
					n += k
				}
			}
		}
		return n
	}
	var failed, read uint64
	fifo := true
	measure := func(o *road, what string) {
		var reader *flowReader
		if dp := o.nodes[0].dp; dp != nil {
			reader = o.read(dp, nil)
		}
		t, err := o.talk(program, what, ms, 0)
		if err != nil {
			b.Fatalf("%s: %v", o.name, err)
		}
		if reader != nil {
			if err := reader.end(); err != nil {
				b.Fatalf("%s: %v", o.name, err)
			}
			read += reader.all
		}
		o.rates[what] = append(o.rates[what], t.rate())
		failed += t.failed
		fifo = fifo && t.fifo
	}
	for b.Loop() {
		for round := range rounds {
			for _, what := range []string{"rr", "crr"} {
				for i := range roads {
					measure(roads[(i+round)%len(roads)], what)
				}
			}
		}
	}
	for _, what := range []string{"rr", "crr"} {
		for _, o := range roads {
			reportSpread(b, what+"/"+o.name, ratios(o.rates[what], roads[0].rates[what]))
			reportSpread(b, what+"/"+o.name+"/s", o.rates[what])
		}
		reportSpread(b, what+"/flat", ratios(roads[3].rates[what], roads[1].rates[what]))
	}
	b.ReportMetric(float64(failed), "failed")
	b.ReportMetric(float64(read), "events")
	b.ReportMetric(float64(lost()), "events-lost")
	b.ReportMetric(map[bool]float64{true: 1}[fifo], "fifo")
	b.ReportMetric(0, "ns/op")
}

// ratios are of each round.
func ratios(a, to []float64) (all []float64) {
	for i := range a {
		all = append(all, a[i]/to[i])
	}
	return all
}

// reportSpread reports the median of values, and the least and the most.
func reportSpread(b *testing.B, name string, values []float64) {
	v := slices.SortedFunc(slices.Values(values), cmp.Compare[float64])
	b.ReportMetric((v[(len(v)-1)/2]+v[len(v)/2])/2, name)
	b.ReportMetric(v[0], name+"-low")
	b.ReportMetric(v[len(v)-1], name+"-high")
}
