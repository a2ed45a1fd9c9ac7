package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"warren/api"
)

// A hubStatus is what a hub reports: on itself, and what its agents do.
type hubStatus struct {
	Hub struct {
		Version  string    `json:"version"`
		Started  time.Time `json:"started"`
		Total    int       `json:"nodes_total"`
		Answered int       `json:"nodes_answered"`
		Missing  []string  `json:"nodes_missing"`
	} `json:"hub"`
	Nodes []hubNode `json:"nodes"`
}

// A hubNode is one node of a cluster.
type hubNode struct {
	Node    string `json:"node"`
	Pod     string `json:"pod"`
	Version string `json:"version"`
	Ready   bool   `json:"ready"`
	// ClockOffset is by how many nanoseconds the node's clock is ahead of the
	// hub's.
	ClockOffset int64  `json:"clock_offset_ns"`
	Error       string `json:"error"`
	// Status is the agent's own report, for those who may see it.
	Status *api.Status `json:"status"`
}

// writeHubStatus writes a hub's report.
func (a *answerer) writeHubStatus(report []byte, output string) error {
	var st hubStatus
	if err := json.Unmarshal(report, &st); err != nil {
		return fmt.Errorf("read the hub's status: %w", err)
	}
	a.missingNodes(st.Hub.Total, st.Hub.Missing)
	if output == "json" {
		return writeObject(a.env, report)
	}
	s := a.env.screen(output == "table")
	v := hubView{page: page{screen: s}, st: &st, now: a.env.Now()}
	v.write()
	if output == "wide" {
		for i := range st.Nodes {
			if n := &st.Nodes[i]; n.Status != nil {
				v.heading("Node " + v.safe(n.Node))
				agent := statusView{page: page{screen: s}, st: n.Status, wide: true, now: a.env.Now()}
				agent.write()
				v.b.WriteString(agent.b.String())
			}
		}
	}
	return v.print(a.env)
}

// A hubView writes a hub's report.
type hubView struct {
	page
	st  *hubStatus
	now time.Time
}

func (v *hubView) write() {
	h := &v.st.Hub
	v.heading("hub " + v.safe(h.Version))
	if !h.Started.IsZero() {
		v.line("state", "up "+span(v.now.Sub(h.Started)))
	}
	nodes := fmt.Sprintf("%d of %d answered", h.Answered, h.Total)
	if h.Answered < h.Total {
		nodes = v.paint(red, nodes)
	}
	v.line("nodes", nodes)
	if len(v.st.Nodes) == 0 {
		return
	}
	v.heading("Nodes")
	rows := make([][]cell, len(v.st.Nodes))
	for i := range v.st.Nodes {
		rows[i] = v.node(&v.st.Nodes[i], h.Version)
	}
	v.rows([]column{
		{head: "NODE", max: 32}, {head: "STATE"}, {head: "VERSION", max: 24}, {head: "UP", right: true, spare: 2}, {head: "EVENTS", right: true, spare: 3}, {head: "LOST", right: true},
		{head: "MEMORY", right: true, spare: 1}, {head: "CLOCK", right: true, spare: 4}, {head: "POD", max: 40, spare: 5}, {head: "ERROR"},
	}, rows)
	v.network()
	v.kept()
}

func (v *hubView) node(n *hubNode, version string) []cell {
	state := cell{text: "ready", color: green}
	switch {
	case n.Error != "":
		state = cell{text: "missing", color: red}
	case !n.Ready:
		state = cell{text: "starting", color: yellow}
	}
	other := cell{text: v.safe(n.Version)}
	if n.Version != version {
		other.color = yellow // hub and agents come together
	}
	row := []cell{{text: v.safe(n.Node)}, state, other, {}, {}, {}, {}, {}, {text: v.safe(n.Pod)}, {text: v.safe(n.Error), color: red}}
	if n.Error == "" {
		row[7].text = span(time.Duration(n.ClockOffset))
	}
	if st := n.Status; st != nil {
		perSecond, lost := 0.0, uint64(0)
		for _, k := range st.Kinds {
			perSecond += k.Rate
		}
		for _, l := range st.Losses {
			lost += l.Count
		}
		row[3].text, row[4].text, row[5], row[6].text = span(v.now.Sub(st.Started)), rate(perSecond), bad(lost), byteCount(st.Memory.RSSAnon)
	}
	return row
}
