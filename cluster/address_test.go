package cluster_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/cluster"
)

// life is what truly happened to a pod, and what an API says of it.
type life struct {
	uid              string
	created, started time.Duration // as the API tells them
	from, until      time.Duration // when it had the address
	told, toldEnd    time.Duration // when the API told the address and the end
	completes        bool          // it ends by itself; deleted otherwise
}

func (l *life) pod(ended bool, a netip.Addr) *cluster.Pod {
	p := running(l.uid, l.uid, after(l.created))
	p.Started = after(l.started)
	p.Addrs = []netip.Addr{a}
	if ended {
		p.Phase, p.Ended = "Succeeded", after(l.until.Truncate(time.Second)+time.Second)
	}
	return p
}

// lives makes up the pods that have one address one after the other. All that
// an API promises is kept: times are whole seconds, rounded down; the address
// is told after the pod got it and the end after it has ended; who waits for
// an address is given it when the one before has given it back.
func lives(r *rand.Rand, n int, address int) (all []*life) {
	seconds := func(most int) time.Duration { return time.Duration(r.IntN(most*1000)) * time.Millisecond }
	now := seconds(60)
	for i := range n {
		l := &life{uid: fmt.Sprintf("%d-%d", address, i), completes: r.IntN(2) == 0}
		wait := seconds(3)
		l.started = (now + wait/2).Truncate(time.Second)
		l.from = max(now+wait, l.started)
		l.created = max(0, l.started-seconds(600)).Truncate(time.Second)
		l.until = l.from + 3*time.Second + seconds(300)
		l.told = l.from + seconds(3)
		l.toldEnd = l.until + seconds(20)
		all = append(all, l)
		now = l.until + 2*time.Second
		if r.IntN(3) == 0 {
			now += seconds(3600)
		}
	}
	return all
}

// TestAddressesProperty holds the tables against the truth: whatever the API
// tells in whatever order it may, an address stands for the pod that had it.
func TestAddressesProperty(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := cluster.NewState(cluster.Config{Remember: 1000 * time.Hour})
		s.SetSynced("pods")
		type news struct {
			at   time.Duration
			tell func(at time.Time)
		}
		var stream []news
		byAddr := make(map[netip.Addr][]*life)
		// Before its list the watch has told nothing; while it is away neither.
		listed := time.Duration(r.IntN(1200)) * time.Second
		for i := range 3 {
			a := netip.AddrFrom4([4]byte{10, 244, 0, byte(i + 2)})
			byAddr[a] = lives(r, 8, i)
			for _, l := range byAddr[a] {
				stream = append(stream,
					news{l.created, func(at time.Time) {
						p := l.pod(false, a)
						p.Started, p.Addrs, p.Phase = time.Time{}, nil, "Pending"
						s.SetPod(p, at)
					}},
					news{l.told, func(at time.Time) { s.SetPod(l.pod(false, a), at) }},
					news{l.toldEnd, func(at time.Time) {
						if l.completes {
							s.SetPod(l.pod(true, a), at)
						} else {
							s.DeletePod(l.uid, at)
						}
					}})
			}
		}
		slices.SortStableFunc(stream, func(a, b news) int { return int(a.at - b.at) })
		var list []func()
		for _, n := range stream {
			if n.at >= listed {
				break
			}
			list = append(list, nil)
		}
		// The list: each pod as it is then, in no order; those deleted are not in it.
		for a, all := range byAddr {
			for _, l := range all {
				switch {
				case l.created >= listed || l.toldEnd < listed && !l.completes:
				case l.toldEnd < listed:
					list = append(list, func() { s.SetPod(l.pod(true, a), after(listed)) })
				case l.told < listed:
					list = append(list, func() { s.SetPod(l.pod(false, a), after(listed)) })
				default:
					list = append(list, func() {
						p := l.pod(false, a)
						p.Started, p.Addrs, p.Phase = time.Time{}, nil, "Pending"
						s.SetPod(p, after(listed))
					})
				}
			}
		}
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for _, tell := range list {
			if tell != nil {
				tell()
			}
		}
		for _, n := range stream {
			if n.at >= listed {
				n.tell(after(n.at))
			}
		}

		for a, all := range byAddr {
			for i, l := range all {
				if l.toldEnd < listed && !l.completes {
					continue // never told
				}
				// In its time, but for the second that the API rounds.
				for _, at := range []time.Duration{l.from + time.Second, (l.from + l.until) / 2, l.until - time.Millisecond} {
					if got := who(s.Peer(a, 80, "tcp", after(at))); got != "pod "+l.uid {
						t.Errorf("seed %d, listed at %v: %s at %v is %s, want pod %s %+v", seed, listed, a, at, got, l.uid, l)
					}
				}
				// Long after its end, and before it was made, it is not this one.
				if i+1 == len(all) || all[i+1].from-l.toldEnd > time.Minute {
					if got := who(s.Peer(a, 80, "tcp", after(l.toldEnd+10*time.Second))); got == "pod "+l.uid {
						t.Errorf("seed %d: %s is %s after it has ended", seed, a, got)
					}
				}
				if got := who(s.Peer(a, 80, "tcp", after(l.created-time.Millisecond))); got == "pod "+l.uid {
					t.Errorf("seed %d: %s is %s before it was made", seed, a, got)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}

// FuzzState tells anything in any order: it must not panic, what it says must
// be bounded, and in the end everything can be forgotten.
func FuzzState(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Add([]byte("a few bytes are a few calls, each takes some of them"))
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), 4096)]
		s := cluster.NewState(cluster.Config{Remember: time.Minute, MaxEnded: 16})
		next := func() int {
			if len(script) == 0 {
				return 0
			}
			b := script[0]
			script = script[1:]
			return int(b)
		}
		ip := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 0, byte(next() % 8)}) }
		uid := func() string { return fmt.Sprint("uid-", next()%8) }
		kinds := []string{"", "ReplicaSet", "Job", "DaemonSet"}
		now := noon
		for len(script) > 0 {
			now = now.Add(time.Duration(next()) * time.Second / 4)
			switch next() % 14 {
			case 0, 1, 2:
				p := running(uid(), fmt.Sprint("name-", next()%4), now.Add(time.Duration(next()-200)*time.Second))
				p.Namespace = fmt.Sprint("ns-", next()%3)
				for range next() % 3 {
					p.Addrs = append(p.Addrs, ip())
				}
				p.HostNetwork = next()%5 == 0
				p.StaticUID = []string{"", "", "static-1", "uid-2"}[next()%4]
				p.Controller = cluster.Workload{Kind: kinds[next()%4], Name: fmt.Sprint("w-", next()%3)}
				if next()%3 == 0 {
					p.Phase = "Failed"
				}
				if next()%3 == 0 {
					p.Ended = now.Add(time.Duration(next()-128) * time.Second)
				}
				s.SetPod(p, now)
			case 3:
				s.DeletePod(uid(), now)
			case 4, 5:
				s.SetService(&cluster.Service{UID: uid(), Namespace: "ns-0", Name: fmt.Sprint("v-", next()%3), Addrs: []netip.Addr{ip(), ip()},
					Ports: []cluster.Port{{Protocol: "tcp", Port: uint16(next() % 4), NodePort: uint16(next() % 4)}}}, now)
			case 6:
				s.DeleteService(uid(), now)
			case 7:
				s.SetEndpoints("ns-0", fmt.Sprint("s-", next()%3), fmt.Sprint("v-", next()%3), []cluster.Endpoint{{PodUID: uid()}, {Addr: ip()}}, now)
			case 8:
				s.DeleteEndpoints("ns-0", fmt.Sprint("s-", next()%3), now)
			case 9:
				s.SetNode(&cluster.Node{UID: uid(), Addrs: []netip.Addr{ip()}, PodCIDRs: []netip.Prefix{netip.PrefixFrom(ip(), 30)}}, now)
			case 10:
				s.DeleteNode(uid(), now)
			case 11:
				s.SetNamespace(fmt.Sprint("ns-", next()%3), map[string]string{"k": fmt.Sprint(next())}, now)
			case 12:
				s.DeleteNamespace(fmt.Sprint("ns-", next()%3), now)
			case 13:
				of := cluster.Workload{Kind: kinds[next()%4], Name: fmt.Sprint("w-", next()%3)}
				s.SetOwner(fmt.Sprint("ns-", next()%3), of, cluster.Workload{Kind: kinds[next()%4], Name: "owner"}, now)
			}
			peer, ok := s.Peer(ip(), uint16(next()%4), "tcp", now.Add(-time.Duration(next())*time.Second))
			if ok && peer.Kind == "" || !ok && peer != (cluster.Peer{}) {
				t.Fatalf("peer %+v, known %v", peer, ok)
			}
			s.Pods(func(p *cluster.Pod) bool {
				s.ServicesOf(p)
				if s.Pod(p.UID) != p {
					t.Fatalf("pod %s is not found", p.UID)
				}
				return true
			})
		}
		for i := range 8 {
			s.DeletePod(fmt.Sprint("uid-", i), now)
			s.DeleteService(fmt.Sprint("uid-", i), now)
			s.DeleteNode(fmt.Sprint("uid-", i), now)
			s.DeleteNamespace(fmt.Sprint("ns-", i), now)
			s.DeleteEndpoints("ns-0", fmt.Sprint("s-", i), now)
		}
		s.SetNamespace("tick", nil, now.Add(time.Hour))
		got := s.Stats()
		if got.Pods+got.EndedPods+got.Services+got.Nodes+got.EndpointSlices+got.Addresses != 0 || got.Namespaces != 1 {
			t.Fatalf("not all was forgotten: %+v", got)
		}
	})
}
