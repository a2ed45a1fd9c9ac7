package flow

import (
	"net/netip"
	"testing"

	"warren/event"
)

// BenchmarkTell measures what making the events of a record costs: two, where
// both pods are on this node.
func BenchmarkTell(b *testing.B) {
	for _, test := range []struct {
		name string
		make func(*Record)
	}{
		{"one end", func(r *Record) { r.Ends[1].Ifindex, r.Ends[1].Verdict = 0, Unjudged }},
		{"both ends", func(*Record) {}},
		{"no rule", func(r *Record) { r.Kind, r.Ends[1].Verdict, r.Ends[1].Rule = Dropped, Denied, 0 }},
	} {
		b.Run(test.name, func(b *testing.B) {
			t := newTeller(Config{Policies: &fakePolicies{generation: 1}}.withDefaults())
			t.ifname = func(uint32) string { return "wrn" }
			r := local()
			test.make(&r)
			server := r.Server.Addr()
			var kept *event.Event
			n := uint16(0)
			b.ReportAllocs()
			for b.Loop() {
				n++
				r.Ktime += 10000
				r.Server = netip.AddrPortFrom(server, n%100)
				t.tell(&r, func(e *event.Event) { kept = e })
			}
			_ = kept
		})
	}
}
