package event

import (
	"testing"

	"warren/cluster"
)

func TestFlowTexts(t *testing.T) {
	for nearest, want := range map[string]string{
		"": "no rule matched",
		"shop/db differs in port 80 (it has tcp 5432)": "no rule matched; nearest: shop/db differs in port 80 (it has tcp 5432)",
		"what isolates it allows nothing: shop/quiet":  "no rule matched; what isolates it allows nothing: shop/quiet",
	} {
		if got := NoRule(nearest); got != want {
			t.Errorf("NoRule(%q) = %q, want %q", nearest, got, want)
		}
	}
	p := NewFlowPolicy(FlowPolicy{Name: "no-world", Tier: cluster.AdminTier, Rule: 2})
	if p.Title != "no-world" || p.Number != "3" {
		t.Errorf("a policy of the cluster: %q rule %q", p.Title, p.Number)
	}
	if got := (SYN | ACK | CWR).String(); got != "SYN,ACK,CWR" {
		t.Errorf("flags %q", got)
	}
	if Verdict(9).String() != "9" || DropReason(99).String() != "99" || len(Verdicts()) != 3 || len(DropReasons()) != int(numDropReasons)-1 {
		t.Error("texts of what there is not")
	}
}
