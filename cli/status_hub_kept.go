package cli

import (
	"fmt"
	"strconv"
	"strings"

	"warren/api"
)

// kept says of each node how far its history reaches back, which rules are at
// work there, and what is wrong with either or with where alerts go.
func (v *hubView) kept() {
	var rows [][]cell
	for i := range v.st.Nodes {
		if n := &v.st.Nodes[i]; n.Status != nil && (n.Status.History != nil || n.Status.Rules != nil || n.Status.Alerts != nil) {
			rows = append(rows, v.nodeKept(n.Node, n.Status))
		}
	}
	if len(rows) == 0 {
		return
	}
	v.heading("History and rules")
	v.rows([]column{
		{head: "NODE", max: 32}, {head: "REACHES BACK", right: true}, {head: "TAKES", right: true}, {head: "RULES", right: true}, {head: "ALERTS", right: true}, {head: "PROBLEM"},
	}, rows)
}

func (v *hubView) nodeKept(node string, st *api.Status) []cell {
	row := []cell{{text: v.safe(node)}, {}, {}, {}, {}, {}}
	if h := st.History; h != nil {
		if !h.Oldest.IsZero() {
			row[1].text = span(v.now.Sub(h.Oldest))
		}
		row[2].text = byteCount(uint64(h.Bytes))
	}
	if r := st.Rules; r != nil {
		row[3].text, row[4] = strconv.Itoa(atWork(r.Rules)), count(r.Alerts)
	}
	if problems := keptProblems(st); len(problems) > 0 {
		row[5] = cell{text: v.safe(problems[0]), color: red}
		if more := len(problems) - 1; more > 0 {
			row[5].text += fmt.Sprintf(" (and %d more)", more)
		}
	}
	return row
}

// keptProblems are those of an agent's history, rules, channels and configuration.
func keptProblems(st *api.Status) (list []string) {
	add := func(what, why string) {
		if why != "" {
			list = append(list, what+": "+why)
		}
	}
	if h := st.History; h != nil {
		add("history", h.Error)
		if h.Archive != nil {
			add("archive", h.Archive.Error)
		}
	}
	if r := st.Rules; r != nil {
		add("changed rules are not used", r.Refused)
	}
	if c := st.Changes; c != nil {
		add("changed configuration is not used", c.Refused)
		add("keys that take effect with the next start", strings.Join(c.Restart, ", "))
	}
	if a := st.Alerts; a != nil {
		for _, c := range a.Channels {
			add("channel "+c.Name, c.DiskError)
			if !c.FailingSince.IsZero() {
				add("channel "+c.Name, c.Error)
			}
		}
	}
	return list
}
