package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/internal/testkit"
	"warren/netpol"
)

// A checker holds every verdict that the kernel tells of against what the
// policies of the generation mean in which it was given.
type checker struct {
	r       *rig
	mu      sync.Mutex
	means   map[uint32]meaning // by generation
	checked int
	denied  int
	wrong   int
	unknown int // verdicts of generations that are long over
	torn    int // of two moments
}

// A meaning is what was in force at a time.
type meaning struct {
	world *netpol.World
	rules map[netpol.RuleID]netpol.Ref
}

// remembered is how many generations a verdict may be old when it is told.
const remembered = 1000

// add says what a generation is. Before it is in force nobody asks.
func (c *checker) add(generation uint32, w *netpol.World, p *netpol.Program) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rules := maps.Clone(p.Rules)
	maps.DeleteFunc(rules, func(_ netpol.RuleID, ref netpol.Ref) bool { // those of former policies are there, too
		return !slices.ContainsFunc(w.Policies, func(p *cluster.Policy) bool { return p.UID == ref.UID })
	})
	c.means[generation] = meaning{w, rules}
	delete(c.means, generation-remembered)
}

// check holds one flow against its generation's program.
func (c *checker) check(f *Flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Protocol != unix.IPPROTO_UDP && f.Protocol != unix.IPPROTO_TCP {
		return
	}
	if _, ok := c.means[f.Generation]; !ok {
		c.unknown++
		return
	}
	wrong := c.hold(f)
	if wrong == nil {
		return
	}
	// It may be of two moments: copied while another processor judged the flow
	// again. Then the flow itself is right.
	if now, ok := c.again(f); ok && c.hold(now) == nil && now.Generation-f.Generation <= 1 {
		c.torn++
		return
	}
	c.wrong++
	c.r.t.Error(wrong)
}

// again reads a flow once more.
func (c *checker) again(f *Flow) (now *Flow, ok bool) {
	for _, n := range c.r.nodes {
		err := n.dp.EachFlow(context.Background(), 0, func(g *Flow) bool {
			if g.Client == f.Client && g.Server == f.Server && g.Protocol == f.Protocol && g.ClientPort == f.ClientPort && g.ServerPort == f.ServerPort {
				same := *g
				now, ok = &same, true
			}
			return !ok
		})
		if err != nil {
			c.r.t.Error(err)
		}
	}
	return now, ok
}

// hold says what of a flow is not as its generation means it.
func (c *checker) hold(f *Flow) error {
	m, ok := c.means[f.Generation]
	if !ok {
		return fmt.Errorf("generation %d is not known", f.Generation)
	}
	egress, ingress := netpol.Evaluate(netpol.Packet{Src: f.Client, Dst: f.Server, Protocol: f.Protocol, Port: f.ServerPort}, m.world)
	for d, want := range [2]netpol.Judgement{egress, ingress} {
		verdict := map[FlowVerdict]netpol.Verdict{Allowed: netpol.Allow, Denied: netpol.Deny}[f.Verdict[d]]
		if f.Verdict[d] == NotJudged {
			continue // the first that denies is enough
		}
		c.checked++
		if verdict == netpol.Deny {
			c.denied++
		}
		if verdict != want.Verdict || m.rules[f.Rule[d]] != want.Rule {
			return fmt.Errorf("generation %d: %v -> %v:%d, %v is %v by rule %d (%v), want %v by %v", f.Generation, f.Client, f.Server, f.ServerPort,
				netpol.Direction(d), f.Verdict[d], f.Rule[d], m.rules[f.Rule[d]], want.Verdict, want.Rule)
		}
	}
	return nil
}

// rigRandomPolicies are policies that have little in common with the last ones.
func rigRandomPolicies(rnd *rand.Rand) (all []*cluster.Policy) {
	selector := func() cluster.Selector {
		if rnd.IntN(3) == 0 {
			return cluster.Selector{}
		}
		return pods(fmt.Sprintf("app%d", rnd.IntN(4)))
	}
	for i := range 1 + rnd.IntN(4) {
		uid := fmt.Sprintf("p%d-%d", i, rnd.IntN(1000))
		p := &cluster.Policy{UID: uid, Name: uid, Namespace: []string{"shop", "lab"}[rnd.IntN(2)], Tier: cluster.NetworkTier,
			Subject: cluster.PolicySubject{Pods: selector()}, IsolatesIngress: rnd.IntN(3) > 0, IsolatesEgress: rnd.IntN(4) == 0}
		for range rnd.IntN(3) {
			who, where := selector(), cluster.Selector{}
			rule := cluster.PolicyRule{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &who, Namespaces: &where}}}
			if rnd.IntN(3) == 0 {
				rule.Peers = []cluster.PolicyPeer{{Networks: []netip.Prefix{netip.MustParsePrefix("10.240.0.0/28"), netip.MustParsePrefix("fd00:240::/32")}}}
			}
			if rnd.IntN(2) == 0 {
				rule.Ports = []cluster.PolicyPort{{Protocol: "udp", First: 1, Last: 443}}
			}
			if p.IsolatesIngress {
				p.Ingress = append(p.Ingress, rule)
			}
			if p.IsolatesEgress {
				p.Egress = append(p.Egress, rule)
			}
		}
		all = append(all, p)
	}
	return all
}

// Policies change while packets go. Whatever the kernel says of a flow is what
// the policies of that moment mean, and by their rule.
func TestBPFChangeUnderTraffic(t *testing.T) {
	changeUnderTraffic(t, testkit.Rounds(150, 20))
}

// changeUnderTraffic gives the verdicts that were held against policy, and how
// many packets there were.
func changeUnderTraffic(t testing.TB, changes int) (*checker, uint64) {
	t.Helper()
	r := newRig(t, smallConfig(newBPFFS(t)), 1, 4)
	n := r.nodes[0]
	c := &checker{r: r, means: make(map[uint32]meaning)}
	rnd := rand.New(rand.NewPCG(1, 2))
	if err := n.dp.Tell(true); err != nil {
		t.Fatal(err)
	}
	change := func() {
		r.policies = rigRandomPolicies(rnd)
		world := r.world()
		program, err := r.compiler.Compile(world, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.add(r.generation(n)+1, world, program)
		report, err := n.dp.Apply(t.Context(), r.state(n, program))
		if err != nil {
			t.Fatal(err)
		}
		c.add(report.Generation, world, program)
	}
	change()

	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	var sent atomic.Uint64
	for i, from := range r.pods {
		traffic.Go(func() { r.shower(ctx, from, &sent, uint64(i)) })
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			if err := n.dp.DrainFlows(func(e *FlowEvent) { c.check(&e.Flow) }); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	})
	for range changes {
		before := sent.Load()
		change()
		// Some packets of every generation.
		testkit.Wait(t, "traffic", func() bool { return sent.Load() > before+20 || t.Failed() })
		if err := n.dp.EachFlow(ctx, 0, func(f *Flow) bool { c.check(f); return true }); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	traffic.Wait()
	reader.Wait()
	counters, err := n.dp.Counters()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes, %d packets, %d verdicts held against policy, %d of them to deny, %d told while they changed; lost events %v",
		changes, sent.Load(), c.checked, c.denied, c.torn, counters.Lost)
	if c.torn > 1+c.checked/10_000 {
		t.Errorf("%d of %d verdicts were told while they changed", c.torn, c.checked)
	}
	if c.checked < changes || c.denied == 0 || c.denied == c.checked {
		t.Errorf("%d verdicts were checked, %d of them denied", c.checked, c.denied)
	}
	return c, sent.Load()
}

// shower sends packets from a pod to all others: of flows that go on, and of new
// ones.
func (r *rig) shower(ctx context.Context, from *rigPod, sent *atomic.Uint64, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	var lasting []*net.UDPConn
	defer func() {
		for _, u := range lasting {
			u.Close()
		}
	}()
	// As fast as it goes would leave slow machines no time for anything else.
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		<-pace.C
		to := r.pods[rnd.IntN(len(r.pods))]
		if to == from {
			continue
		}
		if len(lasting) < 20 || rnd.IntN(4) == 0 {
			addr := netip.AddrPortFrom(to.Addrs[rnd.IntN(2)], rigPorts[rnd.IntN(len(rigPorts))])
			err := from.ns.Do(func() error {
				u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
				if err == nil {
					lasting = append(lasting, u)
				}
				return err
			})
			if err != nil {
				r.t.Error(err)
				return
			}
		}
		if len(lasting) > 40 {
			lasting[0].Close()
			lasting = lasting[1:]
		}
		u := lasting[rnd.IntN(len(lasting))]
		for range 5 {
			if _, err := u.Write([]byte("!")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				r.t.Error(err)
				return
			}
			sent.Add(1)
		}
	}
}

// A namespace is audited and isolated in one change, and neither in the next: what
// would be half of either denies, and so nothing is ever denied.
func TestBPFAuditUnderTraffic(t *testing.T) {
	r := newRig(t, smallConfig(newBPFFS(t)), 1, 3)
	n, from, to := r.nodes[0], r.pods[1], r.pods[0]
	change := func(audited bool) {
		r.audit = audited
		r.apply(rigPolicies()[map[bool]string{true: "isolate", false: "none"}[audited]]...)
	}
	change(false)
	ctx, stop := context.WithCancel(t.Context())
	var sent atomic.Uint64
	var traffic sync.WaitGroup
	traffic.Go(func() {
		var u net.PacketConn
		r.in(from.ns, func() (err error) {
			u, err = net.ListenPacket("udp4", ":0")
			return err
		})
		defer u.Close()
		// Each packet is of a flow of its own.
		for port := uint16(1); ctx.Err() == nil; port = max(port+1, 1) {
			if _, err := u.WriteTo([]byte("!"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addrs[0], port))); err != nil {
				t.Error(err)
				return
			}
			sent.Add(1)
		}
	})
	for i := range 200 {
		before := sent.Load()
		change(i%2 == 0)
		testkit.Wait(t, "traffic", func() bool { return sent.Load() > before+20 || t.Failed() })
	}
	stop()
	traffic.Wait()
	counters, err := n.dp.Counters()
	if err != nil {
		t.Fatal(err)
	}
	verdicts := make(map[FlowVerdict]uint64)
	for kind, count := range counters.Packets {
		verdicts[kind.Verdict] += count.Packets
	}
	if verdicts[Denied] != 0 || verdicts[Audited] == 0 || verdicts[Allowed] == 0 {
		t.Errorf("%d packets, by verdict %v", sent.Load(), verdicts)
	}
}

// An agent ends while connections are used and made, another one takes over,
// changes policy and goes: nobody notices.
func TestBPFAgentComesAndGoes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  Mode
		rung  string
		nodes int
	}{{"one node", Routed, "", 1}, {"clsact", Routed, rungClsact, 1}, {"two nodes", VXLAN, "", 2}} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := smallConfig(newBPFFS(t))
			cfg.Mode, cfg.Rung = tt.mode, tt.rung
			r := newRig(t, cfg, tt.nodes, 4/tt.nodes)
			r.apply(rigPolicies()["ports"]...)
			ctx, stop := context.WithCancel(t.Context())
			var traffic sync.WaitGroup
			var made, said atomic.Uint64
			denied := cell{r.pods[0], r.pods[2], unix.IPPROTO_UDP, netip.AddrPortFrom(r.pods[2].Addrs[0], 80)}
			for _, family := range []int{0, 1} {
				from, to := r.pods[1], r.pods[2] // app1 may ask app2 of shop
				addr := netip.AddrPortFrom(to.Addrs[family], 443)
				traffic.Go(func() { r.connectAgain(ctx, from, addr, &made) })
				traffic.Go(func() { r.talkOn(ctx, from, addr, &said) })
			}
			goOn := func(what string) {
				t.Helper()
				m, s := made.Load(), said.Load()
				testkit.Wait(t, "traffic "+what, func() bool {
					return t.Failed() || made.Load() > m+20 && said.Load() > s+50
				})
				if t.Failed() {
					t.Fatal(what)
				}
			}
			goOn("before")
			for _, n := range r.nodes {
				if err := n.dp.Close(); err != nil {
					t.Fatal(err)
				}
			}
			goOn("without an agent")
			for _, n := range r.nodes {
				n.dp = r.openDatapath(n)
			}
			r.compiler = netpol.NewCompiler() // its numbers begin anew
			goOn("with another agent")
			r.apply(rigPolicies()["ports"]...)
			goOn("that knows what to do")
			for range 2 {
				for _, n := range r.nodes {
					if err := n.dp.Close(); err != nil {
						t.Fatal(err)
					}
					n.dp = r.openDatapath(n)
				}
			}
			r.apply(rigPolicies()["ports"]...)
			goOn("after upgrades")
			stop()
			traffic.Wait()
			egress, ingress := netpol.Evaluate(denied.packet(), r.world())
			r.checkCell(denied, false, egress, ingress)
			t.Logf("%d connections made, %d answers on the others", made.Load(), said.Load())
		})
	}
}

// connectAgain makes one connection after the other. None fails, and no packet of
// them is sent twice.
func (r *rig) connectAgain(ctx context.Context, from *rigPod, to netip.AddrPort, made *atomic.Uint64) {
	for ctx.Err() == nil {
		again, err := r.connectOnce(ctx, from, to)
		if (err != nil || again > 0) && ctx.Err() == nil {
			r.t.Errorf("connection %d to %v: %d packets were sent again, %v", made.Load(), to, again, err)
			return
		}
		made.Add(1)
	}
}

func (r *rig) connectOnce(ctx context.Context, from *rigPod, to netip.AddrPort) (again uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, testkit.Patience)
	defer cancel()
	c, err := from.dial(ctx, to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := readLine(c); err != nil {
		return 0, err
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err = errors.Join(err, e); err != nil {
		return 0, err
	}
	return info.Total_retrans, nil
}

// talkOn uses one connection.
func (r *rig) talkOn(ctx context.Context, from *rigPod, to netip.AddrPort, said *atomic.Uint64) {
	c, err := from.dial(ctx, to)
	if err != nil {
		if ctx.Err() == nil {
			r.t.Errorf("connection to %v: %v", to, err)
		}
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := readLine(c); err != nil {
		r.t.Error(err)
		return
	}
	for buf := []byte{0}; ctx.Err() == nil; said.Add(1) {
		_, err := c.Write(buf)
		if err == nil {
			_, err = io.ReadFull(c, buf)
		}
		if err != nil {
			if ctx.Err() == nil {
				r.t.Errorf("connection to %v after %d answers: %v", to, said.Load(), err)
			}
			return
		}
	}
}
