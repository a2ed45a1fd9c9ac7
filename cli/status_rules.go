package cli

import (
	"slices"
	"strconv"

	"warren/api"
)

// rules shows what makes alerts, and which rules have matched.
func (v *statusView) rules() {
	st := v.st.Rules
	if st == nil {
		return
	}
	v.heading("Rules")
	v.line("at work", strconv.Itoa(atWork(st.Rules))+" of "+amount(len(st.Rules), "rule")+", read "+span(v.now.Sub(st.Loaded))+" ago")
	if st.Refused != "" {
		v.line("changed files", v.paint(red, "not used: ")+v.safe(st.Refused))
	}
	v.line("alerts", strconv.FormatUint(st.Alerts, 10))
	if st.Unlike > 0 {
		v.line("told each", v.paint(yellow, strconv.FormatUint(st.Unlike, 10)+" alerts: too many are different to be counted together"))
	}
	if st.Lost > 0 {
		v.line("lost", v.paint(red, strconv.FormatUint(st.Lost, 10)+" events that rules may have matched"))
	}
	matched := slices.DeleteFunc(slices.Clone(st.Rules), func(r api.RuleState) bool { return r.Matches == 0 && !v.wide })
	slices.SortStableFunc(matched, func(a, b api.RuleState) int { return int(min(b.Matches, 1<<62)) - int(min(a.Matches, 1<<62)) })
	rows := make([][]cell, len(matched))
	for i, r := range matched {
		each := ""
		if r.Measured > 0 {
			each = nanos(r.Mean)
		}
		rows[i] = []cell{count(r.Matches), {text: each}, {text: v.safe(r.Priority)}, {text: v.safe(r.Name)}}
	}
	if len(rows) > 0 {
		v.rows([]column{{head: "MATCHES", right: true}, {head: "EACH", right: true}, {head: "PRIORITY"}, {head: "RULE"}}, rows)
	}
}

// atWork counts the rules that are not off.
func atWork(rules []api.RuleState) (n int) {
	for _, r := range rules {
		if r.Enabled {
			n++
		}
	}
	return n
}
