package cni

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"warren/api"
)

func TestBounds(t *testing.T) {
	for p, want := range map[string][2]string{
		"10.0.0.0/24":   {"10.0.0.1", "10.0.0.254"},
		"10.0.0.0/30":   {"10.0.0.1", "10.0.0.2"},
		"10.0.0.0/31":   {"10.0.0.0", "10.0.0.1"},
		"10.0.0.7/32":   {"10.0.0.7", "10.0.0.7"},
		"10.16.0.0/12":  {"10.16.0.1", "10.31.255.254"},
		"fd00::/64":     {"fd00::1", "fd00::ffff:ffff:ffff:ffff"},
		"fd00::10/125":  {"fd00::11", "fd00::17"},
		"fd00::10/127":  {"fd00::10", "fd00::11"},
		"fd00::10/128":  {"fd00::10", "fd00::10"},
		"fd00:8000::/1": {"8000::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		first, last := bounds(netip.MustParsePrefix(p).Masked())
		if p == "fd00:8000::/1" {
			if last.String() != want[1] {
				t.Errorf("%s: %s", p, last)
			}
			continue
		}
		if first.String() != want[0] || last.String() != want[1] {
			t.Errorf("%s: %s to %s, want %v", p, first, last, want)
		}
	}
}

// What pick gives is free, and it gives something as long as there is something.
func TestPick(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 3000 {
		networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("10.0.1.0/30")}[:1+random.IntN(2)]
		var all []netip.Addr
		for _, p := range networks {
			first, last := bounds(p)
			for a := first; a.Compare(last) <= 0; a = a.Next() {
				all = append(all, a)
			}
		}
		o := occupied{map[netip.Addr]bool{}, map[netip.Addr]time.Time{}}
		var fresh, lately []netip.Addr
		share := random.Float64()
		for _, a := range all {
			switch x := random.Float64(); {
			case x < share:
				o.used[a] = true
			case x < (1+share)/2:
				o.released[a] = time.Unix(random.Int64N(1000), 0)
				lately = append(lately, a)
			default:
				fresh = append(fresh, a)
			}
		}
		o.used[netip.MustParseAddr("192.0.2.1")] = true // what is elsewhere does not count
		last := map[netip.Prefix]netip.Addr{networks[0]: all[random.IntN(len(all))]}
		got, in := pick(networks, o, last)
		switch {
		case len(fresh) > 0 && !slices.Contains(fresh, got):
			t.Fatalf("round %d: %s, of %v", round, got, fresh)
		case len(fresh) == 0 && len(lately) > 0:
			oldest := slices.MinFunc(lately, func(a, b netip.Addr) int { return o.released[a].Compare(o.released[b]) })
			if !o.released[got].Equal(o.released[oldest]) {
				t.Fatalf("round %d: %s, released at %v, not %s", round, got, o.released[got], oldest)
			}
		case len(fresh)+len(lately) == 0 && got.IsValid():
			t.Fatalf("round %d: %s, though there is none", round, got)
		}
		if got.IsValid() && !in.Contains(got) {
			t.Fatalf("round %d: %s is not of %s", round, got, in)
		}
	}
}

func testNode(cidrs ...string) Node {
	n := Node{MTU: 1500}
	for _, c := range cidrs {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(c))
	}
	return n
}

func want(id string) record {
	a := api.Attachment{ContainerID: id, Interface: "eth0"}
	return record{Attachment: a, Host: hostName("warren", a)}
}

func TestReserve(t *testing.T) {
	s, err := openState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := testNode("10.0.0.0/24", "fd00::/64")
	reserve := func(id string, n Node) []netip.Addr {
		t.Helper()
		r, _, err := s.reserve(want(id), n, map[netip.Addr]bool{netip.MustParseAddr("10.0.0.2"): true})
		if err != nil {
			t.Fatal(err)
		}
		return r.Addrs
	}
	is := func(got []netip.Addr, want ...string) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	n.Reserved = []netip.Addr{netip.MustParseAddr("fd00::1")}
	is(reserve("a", n), "10.0.0.1", "fd00::2")
	is(reserve("a", n), "10.0.0.1", "fd00::2")
	is(reserve("b", n), "10.0.0.3", "fd00::3")
	release := func(id string) {
		t.Helper()
		if err := s.release(want(id).Attachment); err != nil {
			t.Fatal(err)
		}
	}
	release("a")
	release("a")
	is(reserve("c", n), "10.0.0.4", "fd00::4")
	// The node gets other networks.
	n = testNode("10.7.0.0/24")
	is(reserve("c", n), "10.7.0.1")
	is(reserve("b", n), "10.7.0.2")
	n = testNode("10.7.0.0/24", "fd07::/64")
	is(reserve("b", n), "10.7.0.3", "fd07::1")
	// After a start of the machine all containers are others.
	r, err := s.load(want("b").Attachment)
	if err != nil || r == nil {
		t.Fatal(r, err)
	}
	r.Boot = "another"
	if err := s.store(r); err != nil {
		t.Fatal(err)
	}
	reserve("d", n)
	if r, err := s.load(want("b").Attachment); r != nil || err != nil {
		t.Errorf("a record of another boot is kept: %+v, %v", r, err)
	}
	// Files that nobody knows harm nothing, half a file is removed some time.
	old := filepath.Join(s.dir, attachmentsDir, tempPrefix+"1")
	for _, path := range []string{old, filepath.Join(s.dir, attachmentsDir, "README"), filepath.Join(s.dir, releasedDir, "x.json"), filepath.Join(s.dir, lastFile)} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reserve("e", n)
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	if err := s.sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Error("half a file is left")
	}
}

// All that begin at once have addresses of their own, and the last finds none.
func TestReserveAtOnce(t *testing.T) {
	s, err := openState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := testNode("10.0.0.0/27")
	var mu sync.Mutex
	has, full := map[netip.Addr]string{}, 0
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			id := fmt.Sprint("c", i)
			l, err := s.lockAttachment(want(id).Attachment)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			r, _, err := s.reserve(want(id), n, nil)
			mu.Lock()
			defer mu.Unlock()
			if e := (*exhaustedError)(nil); errors.As(err, &e) {
				full++
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			if other := has[r.Addrs[0]]; other != "" {
				t.Errorf("%s is %s's and %s's", r.Addrs[0], id, other)
			}
			has[r.Addrs[0]] = id
		})
	}
	wg.Wait()
	if len(has) != 30 || full != 10 {
		t.Errorf("%d have one, %d found none", len(has), full)
	}
	if err := s.free(n, network); err == nil {
		t.Error("one is free")
	}
}

func TestAway(t *testing.T) {
	s, err := openState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.away()
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.away()
	if err != nil || again.Sub(first).Abs() > time.Minute {
		t.Errorf("%v, then %v: %v", first, again, err)
	}
	for range 2 {
		if err := s.back(); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkReserve(b *testing.B) {
	for _, pods := range []int{10, 250} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			s, err := openState(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			n := testNode("10.0.0.0/16", "fd00::/64")
			for i := range pods {
				if _, _, err := s.reserve(want(fmt.Sprint(i)), n, nil); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if _, _, err := s.reserve(want("new"), n, nil); err != nil {
					b.Fatal(err)
				}
				if err := os.Remove(s.path(want("new").Attachment)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
