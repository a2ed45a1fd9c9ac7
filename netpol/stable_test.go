package netpol_test

import (
	"maps"
	"slices"
	"testing"

	"warren/cluster"
	"warren/netpol"
)

const stableWorld = `
namespace shop
namespace pay
node n1 172.16.0.1
pod shop/db n1 app=db 10.1.0.1
pod shop/db2 n1 app=db 10.1.0.2
pod shop/web n1 app=web 10.1.0.3
pod pay/web n1 app=web 10.1.0.4
policy shop/db for app=db isolates ingress
  ingress allow with pods app=web ports tcp 5432
  ingress allow with networks 192.0.2.0/24
policy pay/web for app=web isolates ingress
  ingress allow with pods app=web
`

func ruleOf(t *testing.T, p *netpol.Program, name string, rule int) netpol.RuleID {
	t.Helper()
	for _, id := range slices.Sorted(maps.Keys(p.Rules)) {
		if ref := p.Rules[id]; ref.Policy() == name && ref.Rule == rule && inForce(p, id) {
			return id
		}
	}
	return 0
}

// inForce reports whether a set refers to a rule.
func inForce(p *netpol.Program, id netpol.RuleID) bool {
	for _, set := range p.Sets {
		for _, value := range set.Verdicts {
			if value.Rule[0] == id || value.Rule[1] == id {
				return true
			}
		}
	}
	return false
}

// TestStable follows what stays the same when something else changes.
func TestStable(t *testing.T) {
	w := parseWorld(t, stableWorld)
	c := netpol.NewCompiler()
	first := mustCompile(t, c, w, nil)
	db, web := w.Pods[0].UID, w.Pods[3].UID
	if first.SetOf[db] != first.SetOf[w.Pods[1].UID] {
		t.Error("equal pods have different sets")
	}
	if first.SetOf[w.Pods[2].UID] == 0 || len(first.Sets[first.SetOf[w.Pods[2].UID]].Verdicts) != 0 {
		t.Error("a pod that nothing selects has no set without verdicts")
	}
	change := func(i int, f func(p *cluster.Policy)) *netpol.Program {
		t.Helper()
		p := *w.Policies[i]
		p.Ingress = slices.Clone(p.Ingress)
		f(&p)
		w.Policies = slices.Clone(w.Policies)
		w.Policies[i] = &p
		return mustCompile(t, c, w, nil)
	}

	t.Run("told again", func(t *testing.T) {
		p := change(0, func(p *cluster.Policy) { p.Generation++ })
		if p.SetOf[db] != first.SetOf[db] || p.Sets[p.SetOf[db]] != first.Sets[first.SetOf[db]] {
			t.Error("the set is another though nothing changed")
		}
	})
	t.Run("one rule of two", func(t *testing.T) {
		p := change(0, func(p *cluster.Policy) {
			p.Ingress[0].Ports = []cluster.PolicyPort{{Protocol: "tcp", First: 1, Last: 1}}
		})
		if p.SetOf[db] == first.SetOf[db] {
			t.Error("the set is the same though its policy changed")
		}
		if p.SetOf[web] != first.SetOf[web] || p.Sets[p.SetOf[web]] != first.Sets[first.SetOf[web]] {
			t.Error("another set changed too")
		}
		if a, b := ruleOf(t, first, "shop/db", 1), ruleOf(t, p, "shop/db", 1); a != b || a == 0 {
			t.Errorf("the rule that is the same was %d, is %d", a, b)
		}
		old, now := ruleOf(t, first, "shop/db", 0), ruleOf(t, p, "shop/db", 0)
		if old == now || p.Rules[old] != first.Rules[old] {
			t.Errorf("the rule that changed was %d, is %d; the old one is told as %v", old, now, p.Rules[old])
		}
	})
	t.Run("identities", func(t *testing.T) {
		last := c
		before := mustCompile(t, last, w, nil)
		pod := *w.Pods[3]
		pod.Labels = map[string]string{"app": "web", "nobody": "asks"}
		w.Pods = slices.Clone(w.Pods)
		w.Pods[3] = &pod
		p := mustCompile(t, last, w, nil)
		if !maps.Equal(p.Addresses, before.Addresses) {
			t.Error("a label that no policy asks for changed an identity")
		}
		if before.Addresses[w.Pods[2].Addrs[0]] == before.Addresses[w.Pods[0].Addrs[0]] {
			t.Error("pods that a policy tells from each other have one identity")
		}
		// Gone and back: another number, since the old one was given up.
		had := p.Addresses[pod.Addrs[0]]
		pods := w.Pods
		w.Pods = pods[:3]
		if p = mustCompile(t, last, w, nil); len(p.Addresses) != 4 {
			t.Errorf("addresses: %v", p.Addresses)
		}
		w.Pods = pods
		if p = mustCompile(t, last, w, nil); p.Addresses[pod.Addrs[0]] == had {
			t.Errorf("identity %d was given again at once", had)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		a, b := mustCompile(t, c, w, nil), mustCompile(t, c, w, nil)
		if !maps.Equal(a.Addresses, b.Addresses) || !maps.Equal(a.Networks, b.Networks) || !maps.Equal(a.Rules, b.Rules) || !maps.Equal(a.Sets, b.Sets) || !maps.Equal(a.SetOf, b.SetOf) {
			t.Error("two Programs of one World differ")
		}
	})
}

// TestAddressReused gives an address from one pod to the next while both are
// there: the one that started last has it, in whatever order they are told.
func TestAddressReused(t *testing.T) {
	w := parseWorld(t, stableWorld)
	c := netpol.NewCompiler()
	p := parsePacket(t, w, "shop/web -> shop/db tcp 5432")
	next := *w.Pods[3] // of pay
	next.UID, next.Name, next.Addrs = "next", "next", w.Pods[2].Addrs
	next.Started = next.Started.Add(1)
	w.Pods = append(slices.Clip(w.Pods), &next)
	for range 2 {
		program := mustCompile(t, c, w, nil)
		if _, in := program.Judge(p); in.Verdict != netpol.Deny {
			t.Error("who had the address before is still asked for")
		}
		slices.Reverse(w.Pods)
	}
	w.Pods = slices.DeleteFunc(w.Pods, func(p *cluster.Pod) bool { return p.UID == "next" })
	if _, in := mustCompile(t, c, w, nil).Judge(p); in.Verdict != netpol.Allow {
		t.Error("who has the address again is denied")
	}
}
