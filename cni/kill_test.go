package cni

import (
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"warren/api"
	"warren/internal/testkit"
)

func testCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), name, args...)
}

// jsonStrings are all strings in lists of an object.
func jsonStrings(b []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		var m map[string]any
		if json.Unmarshal(b, &m) != nil {
			return
		}
		for _, v := range m {
			list, _ := v.([]any)
			for _, e := range list {
				if s, ok := e.(string); ok && !yield(s) {
					return
				}
			}
		}
	}
}

// killed runs the plugin and kills it after a while, if it has not ended.
func (n *node) killed(cmd *exec.Cmd, after time.Duration) error {
	if err := n.ns.Do(cmd.Start); err != nil {
		return err
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait()
}

// Whenever the plugin is killed: no address is a second container's, what was
// begun can be done again, and DEL or GC leave nothing.
func TestRootKilled(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 10
	}
	n := newNode(t, "10.9.0.0/26", "fd00:9::/122")
	n.extra = map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}}}}
	// How long it takes when it is let.
	c := n.container("first")
	began := time.Now()
	n.add(c, nil)
	whole := time.Since(began)
	n.must("DEL", c, nil)
	random := rand.New(rand.NewPCG(1, 2))
	cuts := map[string]int{}
	for round := range rounds {
		living := map[netip.Addr]string{}
		var all []*container
		for i := range 3 {
			c := n.container(fmt.Sprintf("r%dc%d", round, i))
			all = append(all, c)
			if random.IntN(4) == 0 {
				// It is killed while it takes back what it has made, too.
				n.agent.refuseWith(api.Unavailable("not now"))
			}
			err := n.killed(n.command("ADD", c, n.config(nil)), time.Duration(random.Float64()*1.2*float64(whole)))
			cuts[fmt.Sprint("ADD: ", err)]++
			n.agent.refuseWith(nil)
			if err == nil || random.IntN(2) == 0 {
				// Whoever lives, by the first call or by a second one.
				for _, a := range addrs(n.add(c, nil)) {
					if other, ok := living[a]; ok {
						t.Fatalf("%s has %s, which %s has", c.id, a, other)
					}
					living[a] = c.id
				}
				r := n.add(c, nil)
				n.must("CHECK", c, map[string]any{"prevResult": asMap(t, r, n.version)})
			}
		}
		if round%2 == 0 {
			for _, c := range all {
				err := n.killed(n.command("DEL", c, n.config(nil)), time.Duration(random.Float64()*whole.Seconds()*float64(time.Second)))
				cuts[fmt.Sprint("DEL: ", err)]++
				n.must("DEL", c, nil)
			}
		} else {
			config := n.config(map[string]any{"cni.dev/valid-attachments": []any{}})
			cuts[fmt.Sprint("GC: ", n.killed(n.command("GC", nil, config), time.Duration(random.Float64()*float64(whole))))]++
			n.must("GC", nil, map[string]any{"cni.dev/valid-attachments": []any{}})
			n.forgetDeleted()
		}
		n.nothingLeft()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("an ADD takes %v; %v", whole, cuts)
}

// forgetDeleted does what an agent does by itself: it forgets endpoints without
// an interface. GC tells of those only that it finds a record of.
func (n *node) forgetDeleted() {
	n.agent.mu.Lock()
	defer n.agent.mu.Unlock()
	clear(n.agent.has)
}

// Many at once get addresses of their own, and the range is what they use up.
func TestRootManyAtOnce(t *testing.T) {
	n := newNode(t, "10.9.0.0/27", "fd00:9::/64")
	const most = 30 // two of 32 are no pod's
	var mu sync.Mutex
	has := map[netip.Addr]bool{}
	refused := 0
	containers := make([]*container, most+4)
	for i := range containers {
		containers[i] = n.container(fmt.Sprintf("c%d", i))
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, 8)
	for _, c := range containers {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			cmd := n.command("ADD", c, n.config(nil))
			var out []byte
			err := n.ns.Do(func() (err error) { out, err = cmd.Output(); return err })
			var result struct {
				IPs []struct{ Address netip.Prefix }
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused++
				return
			}
			if err := json.Unmarshal(out, &result); err != nil {
				t.Error(err)
			}
			for _, ip := range result.IPs {
				if a := ip.Address.Addr(); has[a] {
					t.Errorf("%s twice", a)
				} else {
					has[a] = true
				}
			}
		})
	}
	wg.Wait()
	if len(has) != 2*most || refused != 4 {
		t.Errorf("%d addresses given, %d containers refused", len(has), refused)
	}
	testkit.Wait(t, "all to be gone", func() bool {
		n.must("GC", nil, map[string]any{"cni.dev/valid-attachments": []any{}})
		return len(n.left().Links) == 0
	})
	n.nothingLeft()
}
