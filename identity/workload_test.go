package identity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"warren/cluster"
	"warren/event"
	"warren/filter"
)

// kernelSide is what the kernel knows of containers: what it was last told.
type kernelSide map[event.CgroupKey]*event.Event

func (k kernelSide) Know(g event.CgroupKey, c *event.Container) {
	k[g] = &event.Event{Process: &event.Process{Container: c}, Data: &event.Open{}}
}
func (k kernelSide) Doubt(g event.CgroupKey) { delete(k, g) }

// lets reports whether the kernel lets through what happens in a cgroup, for a
// condition on containers.
func (k kernelSide) lets(g event.CgroupKey, p *filter.Program) bool {
	e, known := k[g]
	return !known || p.Match(e)
}

// workloadFilters are conditions on containers and pods, as people write them.
var workloadFilters = []string{
	"container.id != host", "container.id = host", "container.id = aaaaaaaaaaaa", "container.name = web-1", "container.name startswith web", "container.image.repository = shop/web",
	"container.image.tag in (1, 2)", "container.label[tier] = front", "not container.label[tier] exists", "container.privileged = true", "container.pending = true",
	"k8s.ns.name = shop", "k8s.pod.name exists", "k8s.pod.labels[app] = cart", "not k8s.pod.labels[app] = cart", "k8s.ns.labels[team] = red", "k8s.pod.labels contains app",
	"k8s.ns.name in (shop, other) and k8s.pod.labels[app] != cart", "container.id != host and not k8s.pod.name exists", "k8s.container.name = main or container.name = web-2", "k8s.svc.name = front",
	"k8s.deployment.name = cart",
}

// TestWorkloadsNeverTooLittle: containers come and go, are described late, partly,
// again or never, pods get other labels, processes move. Whatever a condition on
// containers accepts when an event is told, the kernel has let through when it
// happened.
func TestWorkloadsNeverTooLittle(t *testing.T) {
	var programs []*filter.Program
	for _, text := range workloadFilters {
		p, err := filter.Compile(text)
		must(t, err)
		if terms := p.Interest().Terms; len(terms) != 1 || terms[0].Workload == nil {
			t.Errorf("%s is no condition on containers: %+v", text, terms)
		}
		programs = append(programs, p)
	}
	accepted, left := 0, 0
	for seed := range uint64(40) {
		a, l := liveInContainers(t, rand.New(rand.NewPCG(seed, 3)), programs)
		accepted += a
		left += l
	}
	t.Logf("%d events were accepted, %d left out in the kernel", accepted, left)
	if accepted < 1000 || left < 1000 {
		t.Errorf("%d events were accepted, %d left out in the kernel: nothing was tried", accepted, left)
	}
}

// told is an event with what the kernel lets through of it.
type told struct {
	e    *event.Event
	lets []bool
}

func liveInContainers(t *testing.T, rnd *rand.Rand, programs []*filter.Program) (accepted, left int) {
	kernel := kernelSide{}
	fake := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster, c.Workloads = fake, kernel })
	m.conts.maxCgroups, m.conts.maxContainers = 12, 6
	pick := func(n int) int { return rnd.IntN(n) }
	uids := []string{"0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"}
	ids := []string{strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64), strings.Repeat("d", 64)}
	paths := func() string {
		id := ids[pick(len(ids))]
		switch pick(4) {
		case 0:
			return fmt.Sprintf("/system.slice/unit-%d.service", pick(5))
		case 1:
			return "/docker/" + id
		case 2:
			return "/machine.slice/libpod-" + id + ".scope"
		}
		return "/kubepods/burstable/pod" + uids[pick(len(uids))] + "/" + id
	}
	where := map[event.Key]event.CgroupKey{} // in the kernel's truth
	var procs []event.Key
	var cgroups []event.CgroupKey
	var open []told // that have not been told to the end
	judge := func(x told) {
		m.Resolve(x.e, true)
		for i, p := range programs {
			if match := p.Match(x.e); match && !x.lets[i] {
				t.Fatalf("%s accepts %s, which the kernel has left out", p, event.AppendJSON(nil, x.e))
			} else if match {
				accepted++
			}
			if !x.lets[i] {
				left++
			}
		}
	}
	next := uint32(100)
	for range 300 {
		switch pick(12) {
		case 0, 1: // a cgroup, which can be told later
			k := event.CgroupKey{ID: uint64(10 + len(cgroups))}
			cgroups = append(cgroups, k)
			if pick(4) > 0 {
				m.cgroup(k.ID, paths())
			}
		case 2, 3: // a process in one
			if len(cgroups) == 0 {
				continue
			}
			k := m.task(next, event.Key{}, "sh")
			next++
			g := cgroups[pick(len(cgroups))]
			m.exec(k, func(p *event.Process) { p.Cgroup = event.Cgroup{CgroupKey: g, CgroupID: g.ID} }, "/bin/x")
			where[k] = g
			procs = append(procs, k)
		case 4: // which moves
			if len(procs) == 0 {
				continue
			}
			k, g := procs[pick(len(procs))], cgroups[pick(len(cgroups))]
			where[k] = g
			m.apply(k, &event.Process{Key: k, PID: k.PID, Name: "x", ExePath: "/bin/x", Cgroup: event.Cgroup{CgroupKey: g, CgroupID: g.ID}}, &event.ProcessState{Type: "process"})
		case 5: // and ends
			if len(procs) > 4 {
				m.exit(procs[0], 0)
				procs = procs[1:]
			}
		case 6: // the runtime tells
			m.mu.Lock()
			var c *container
			for _, c = range m.conts.byID {
				break
			}
			m.mu.Unlock()
			if c == nil {
				continue
			}
			d := &Description{Runtime: "docker", Name: fmt.Sprintf("web-%d", pick(3)), Image: fmt.Sprintf("shop/web:%d", pick(3)), Labels: map[string]string{"tier": []string{"front", "back"}[pick(2)]}, Privileged: pick(2) == 0}
			switch pick(5) {
			case 0:
				d = nil
			case 1:
				m.describedPartly(c.place, d)
				continue
			case 2:
				m.mu.Lock()
				m.wait(c) // it is asked for again
				m.mu.Unlock()
				continue
			}
			m.describedAs(c.place, d)
		case 7, 8: // the cluster does
			uid := uids[pick(len(uids))]
			p := &cluster.Pod{UID: uid, Name: "cart-" + uid[len(uid)-1:], Namespace: []string{"shop", "other"}[pick(2)], Labels: map[string]string{"app": []string{"cart", "db"}[pick(2)]},
				NamespaceLabels: map[string]string{"team": []string{"red", "blue"}[pick(2)]}, Workload: cluster.Workload{Kind: "Deployment", Name: "cart"}}
			fake.set(uid, p, []string{"front", "back"}[pick(2)])
			m.askForPods()
		default: // something happens in one, of which much is told later
			if len(procs) == 0 {
				continue
			}
			k := procs[pick(len(procs))]
			x := told{lets: make([]bool, len(programs))}
			for i, p := range programs {
				x.lets[i] = kernel.lets(where[k], p)
			}
			x.e = m.apply(k, nil, &event.Open{Type: "openat"})
			if m.Pending(x.e) && pick(2) == 0 {
				open = append(open, x)
				continue
			}
			judge(x)
		}
	}
	for _, x := range open {
		judge(x)
	}
	return accepted, left
}
