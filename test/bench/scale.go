package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"warren/test/cluster/bed"
)

const (
	figScaleHeap    = "agent: heap with 20,000 pods"
	figScaleStart   = "agent: start to 20,000 pods known"
	figScaleCPU     = "agent: CPU, 50 pods a second coming and going"
	figScaleWatch   = "agent: what the API server sends it, 50 pods a second coming and going"
	figScaleKnown   = "agent: pods that it knows and the API server does not, or the other way round"
	figScaleHubHeap = "hub: heap in a cluster of 1,000 nodes"
	figScaleHubCPU  = "hub: CPU, 50 pods a second coming and going"
	figScaleChurn   = "pods a second that went and came again, so that the above means something"
)

// A level is what was measured with a number of pods.
type level struct {
	pods, known      int
	start            time.Duration      // of the agent, until all pods were known
	listed           float64            // bytes that the API server sent until then
	rest, peak       int64              // heap: some time after the start; at most, until the end
	hub              int64              // heap at most
	seconds, rate    float64            // of coming and going, pods a second
	cpu, hubCPU      float64            // cores meanwhile
	events, received map[string]float64 // a second, by resource
}

func sum(values map[string]float64) (all float64) {
	for _, v := range values {
		all += v
	}
	return all
}

// scale measures one agent and one hub, installed by the chart, in a cluster of
// simulated nodes and pods.
func (b *bench) scale(ctx context.Context) error {
	var ceiling float64
	if b.ceiling {
		var err error
		if ceiling, err = b.withoutWarren(ctx); err != nil {
			return err
		}
	}
	c, err := b.newCluster(bed.Config{Name: "bench-scale", Nodes: 1})
	if err != nil {
		return err
	}
	defer b.takeDown(c)
	if err := c.Up(ctx, false); err != nil {
		return err
	}
	// Agents belong on all nodes, and the hub looks for them there: one is real.
	const onNode1 = `{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["node1"]}]}]}}}`
	if err := c.Warren(ctx, "--set", "hub.replicas=1", "--set-json", "agent.affinity="+onNode1); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p, err := b.populate(ctx, c)
	if err != nil {
		return err
	}
	var levels []level
	for _, part := range []int{4, 2, 1} {
		length := b.comeAndGo
		if part > 1 {
			length = max(length/6, 10*time.Second)
		}
		if err := p.grow(ctx, b.pods/part); err != nil {
			return err
		}
		p.say("%d pods run", b.pods/part)
		l, err := p.level(ctx, b.pods/part, min(b.idle, 15*time.Second), length)
		if err != nil {
			return err
		}
		levels = append(levels, l)
	}
	b.tellScale(levels, ceiling)
	return nil
}

// populate simulates nodes in a cluster until ctx ends.
func (b *bench) populate(ctx context.Context, c *bed.Cluster) (*population, error) {
	// What has been set up goes on without it; it would put each service's change
	// into the kernel of this machine.
	if err := c.Stop(ctx, "node1", "kube-proxy"); err != nil {
		return nil, err
	}
	k, err := connect(c)
	if err != nil {
		return nil, err
	}
	p := &population{kubernetes: k, say: func(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }}
	if err := p.simulate(ctx, b.dir); err != nil {
		return nil, err
	}
	return p, p.addNodes(ctx, b.nodes)
}

// withoutWarren is how many pods a second come and go in such a cluster where
// nobody but its own parts looks.
func (b *bench) withoutWarren(ctx context.Context) (float64, error) {
	c, err := b.newCluster(bed.Config{Name: "bench-scale", Nodes: 1})
	if err != nil {
		return 0, err
	}
	defer b.takeDown(c)
	if err := c.Up(ctx, false); err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p, err := b.populate(ctx, c)
	if err != nil {
		return 0, err
	}
	if err := p.grow(ctx, b.pods); err != nil {
		return 0, err
	}
	_, rate, err := p.comesAndGoes(ctx, b.pods, b.comeAndGo)
	if err == nil {
		p.say("without Warren %.1f pods a second come and go", rate)
	}
	return rate, err
}

// comesAndGoes has pods come and go for some time, and waits until all are there
// again: how long that took, and how many a second it was.
func (p *population) comesAndGoes(ctx context.Context, pods int, length time.Duration) (seconds, rate float64, err error) {
	began := time.Now()
	gone, err := p.churn(ctx, length)
	if err != nil {
		return 0, 0, err
	}
	if err := p.settle(ctx, pods, 10*time.Minute); err != nil {
		return 0, 0, err
	}
	seconds = time.Since(began).Seconds()
	return seconds, float64(gone) / seconds, nil
}

// level starts the agent again and measures it and the hub: at rest, and while
// pods come and go.
func (p *population) level(ctx context.Context, pods int, rest, length time.Duration) (l level, err error) {
	l.pods = pods
	node, err := p.Kubectl(ctx, "get", "node", "node1", "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		return l, err
	}
	agentAt := strings.Fields(node)[0] + ":9118"
	there, err := p.count(ctx)
	if err != nil {
		return l, err
	}
	agent, err := p.restartAgent(ctx)
	if err != nil {
		return l, err
	}
	agentHeap := watchHeap(ctx, agent)
	defer func() { l.peak = agentHeap() }()
	var m metrics
	err = bed.Poll(ctx, 2*time.Minute, func() error {
		var err error
		if m, err = p.scrape(ctx, agentAt); err != nil {
			return err
		}
		if known := int(m[`warren_kubernetes_objects{resource="pods"}`]); m["warren_kubernetes_synced"] != 1 || known < there {
			return fmt.Errorf("the agent knows %d of %d pods", known, there)
		}
		return nil
	})
	if err != nil {
		return l, err
	}
	if l.start, err = age(agent); err != nil {
		return l, err
	}
	l.listed = m.sum("warren_kubernetes_received_bytes_total")
	select {
	case <-ctx.Done():
		return l, ctx.Err()
	case <-time.After(rest):
	}
	hub, err := p.process("/warren", "hub")
	if err != nil {
		return l, err
	}
	hubHeap := watchHeap(ctx, hub)
	defer func() { l.hub = hubHeap() }()
	if l.rest, err = heap(agent); err != nil {
		return l, err
	}

	read := func() (agentCPU, hubCPU time.Duration, m metrics, err error) {
		agentCPU, err1 := cpu(agent)
		hubCPU, err2 := cpu(hub)
		m, err3 := p.scrape(ctx, agentAt)
		return agentCPU, hubCPU, m, errors.Join(err1, err2, err3)
	}
	agentBefore, hubBefore, before, err := read()
	if err != nil {
		return l, err
	}
	if l.seconds, l.rate, err = p.comesAndGoes(ctx, pods, length); err != nil {
		return l, err
	}
	agentAfter, hubAfter, after, err := read()
	if err != nil {
		return l, err
	}
	l.cpu, l.hubCPU = (agentAfter-agentBefore).Seconds()/l.seconds, (hubAfter-hubBefore).Seconds()/l.seconds
	perSecond := func(name string) map[string]float64 {
		values, old := after.byResource(name), before.byResource(name)
		for resource := range values {
			values[resource] = (values[resource] - old[resource]) / l.seconds
		}
		return values
	}
	l.events, l.received = perSecond("warren_kubernetes_watch_events_total"), perSecond("warren_kubernetes_received_bytes_total")

	// The last change is on its way.
	err = bed.Poll(ctx, 10*time.Second, func() error {
		there, err1 := p.count(ctx)
		m, err2 := p.scrape(ctx, agentAt)
		l.known = int(m[`warren_kubernetes_objects{resource="pods"}`]) - there
		if l.known != 0 {
			err1 = errors.Join(err1, fmt.Errorf("the agent knows %+d pods more than there are", l.known))
		}
		return errors.Join(err1, err2)
	})
	if err != nil {
		p.say("%v", err)
	}
	return l, ctx.Err()
}

// restartAgent deletes the agent's pod, and gives the new agent's process.
func (p *population) restartAgent(ctx context.Context) (int, error) {
	old, err := p.process("/warren", "agent")
	if err != nil {
		return 0, err
	}
	if _, err := p.Kubectl(ctx, "-n", "warren", "delete", "pod", "-l", "app.kubernetes.io/component=agent", "--wait=false"); err != nil {
		return 0, err
	}
	var now int
	return now, bed.Poll(ctx, 2*time.Minute, func() error {
		now, err = p.process("/warren", "agent")
		if err == nil && now == old {
			err = errors.New("the agent has not ended")
		}
		return err
	})
}

// watchHeap looks at the heap of a process every 50 ms, until it is asked for the
// most that it saw.
func watchHeap(ctx context.Context, pid int) func() int64 {
	ctx, stop := context.WithCancel(ctx)
	most := make(chan int64, 1)
	go func() {
		var peak int64
		for ctx.Err() == nil {
			if now, err := heap(pid); err == nil {
				peak = max(peak, now)
			} else if errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		most <- peak
	}()
	return func() int64 {
		stop()
		return <-most
	}
}

// tellScale gives the figures of the last level, and prints what grows. ceiling is
// how many pods a second came and went without Warren, 0 where that was not
// measured.
func (b *bench) tellScale(levels []level, ceiling float64) {
	growth(b.table, levels)
	l := levels[len(levels)-1]
	b.add(figScaleHeap, l.peak > 0 && l.peak <= 150*mebi, "at most 150 MiB", "%.1f MiB at most with %d; %.1f at rest", float64(l.peak)/mebi, l.pods, float64(l.rest)/mebi)
	b.add(figScaleStart, true, "for comparison", "%.1f s, %.0f MiB read", l.start.Seconds(), l.listed/mebi)
	b.add(figScaleCPU, true, "for comparison", "%.3f of a core, %.0f µs for each change", l.cpu, l.cpu*1e6/sum(l.events))
	var by []string
	for _, r := range slices.SortedFunc(maps.Keys(l.events), func(x, y string) int { return cmp.Compare(l.received[y], l.received[x]) }) {
		if l.events[r] >= 0.05 {
			by = append(by, fmt.Sprintf("%s %.1f and %.1f", r, l.events[r], l.received[r]/1024))
		}
	}
	b.add(figScaleWatch, sum(l.events) > 0, "for comparison", "%.0f changes and %.0f KiB a second: %s", sum(l.events), sum(l.received)/1024, strings.Join(by, ", "))
	b.add(figScaleKnown, l.known == 0, "0", "%+d", l.known)
	b.add(figScaleHubHeap, true, "for comparison", "%.1f MiB at most", float64(l.hub)/mebi)
	b.add(figScaleHubCPU, true, "for comparison", "%.3f of a core", l.hubCPU)
	if ceiling > 0 && ceiling < 50 {
		// This machine does not do what is wanted, with Warren or without.
		b.add(figScaleChurn, l.rate >= 0.9*ceiling/b.slack, "at least 50, or 0.9 of what it is without Warren", "%.1f for %.0f s; %.1f without Warren: %.2f of that", l.rate, l.seconds, ceiling, l.rate/ceiling)
		return
	}
	b.add(figScaleChurn, l.rate >= 50/b.slack, "at least 50", "%.1f for %.0f s", l.rate, l.seconds)
}

// growth prints what was measured with each number of pods.
func growth(w io.Writer, levels []level) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "pods\theap at rest\tat most\tstart\tread then\tpods/s\tCPU\tchanges/s\tKiB/s\thub's heap\thub's CPU\t")
	for _, l := range levels {
		fmt.Fprintf(t, "%d\t%.1f MiB\t%.1f MiB\t%.1f s\t%.1f MiB\t%.1f\t%.3f\t%.0f\t%.0f\t%.1f MiB\t%.3f\t\n", l.pods, float64(l.rest)/mebi, float64(l.peak)/mebi,
			l.start.Seconds(), l.listed/mebi, l.rate, l.cpu, sum(l.events), sum(l.received)/1024, float64(l.hub)/mebi, l.hubCPU)
	}
	_ = t.Flush()
}
