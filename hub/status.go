package hub

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"warren/api"
)

// Status is what a hub reports of itself and of its nodes. Its JSON is part of
// the API.
type Status struct {
	Hub   Report       `json:"hub"`
	Nodes []NodeStatus `json:"nodes"`
}

// Report is what a hub says of itself.
type Report struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	// NodesTotal is on how many nodes there is to be an agent, NodesMissing those
	// that do not answer: "node-2: connection refused".
	NodesTotal    int      `json:"nodes_total"`
	NodesAnswered int      `json:"nodes_answered"`
	NodesMissing  []string `json:"nodes_missing,omitempty"`
	// Answers is how many answers are being written, of at most MostAnswers.
	Answers     int `json:"answers"`
	MostAnswers int `json:"answers_max"`
	// RowCounts are told to who sees everything: what others are not to see, they
	// are not to count by filters of their own either.
	*RowCounts
}

// RowCounts are those of all answers of a hub.
type RowCounts struct {
	// Merged, Lost, Late and Withheld count rows: passed on, for which a client's
	// queue had no room, passed on out of order, and left out because their
	// reader may not see them.
	Merged   uint64 `json:"rows_merged"`
	Lost     uint64 `json:"rows_lost"`
	Late     uint64 `json:"rows_late"`
	Withheld uint64 `json:"rows_withheld"`
}

// NodeStatus is what a hub knows of a node, and what its agent says of itself.
type NodeStatus struct {
	Node    string `json:"node"`
	Pod     string `json:"pod,omitempty"`
	Version string `json:"version,omitempty"`
	// Ready is whether Kubernetes finds the agent ready.
	Ready bool `json:"ready"`
	// Offset is how far the node's clock is ahead of the hub's, as the time of its
	// last signs of life says; rows are ordered by times that are corrected by it.
	// Absent as long as it is not known.
	Offset *int64 `json:"clock_offset_ns,omitempty"`
	// Error says why the agent does not answer.
	Error string `json:"error,omitempty"`
	// Claims is the node that the agent says it is on, where that is another.
	Claims string `json:"claims,omitempty"`
	// Ignored are pods of agents that claim the same node and are not asked.
	Ignored []string `json:"ignored,omitempty"`
	// Status is the agent's, for who may see everything.
	Status json.RawMessage `json:"status,omitempty"`
}

// statusTime is how long agents have to say how they are.
const statusTime = 2 * time.Second

func (h *hub) serveStatus(w http.ResponseWriter, req *http.Request, q api.Query) error {
	nodes, err := q.List("node")
	if err != nil {
		return err
	}
	v, done, err := h.enter(req.Context(), req.URL.Path)
	if err != nil {
		return err
	}
	defer done()
	return api.WriteJSON(w, h.status(req.Context(), v, nodes))
}

// status asks the agents of nodes, nil for all, how they are.
func (h *hub) status(ctx context.Context, v *view, nodes []string) Status {
	var mu sync.Mutex
	said := map[string][]byte{} // by node
	t := h.agents.each(ctx, nodes, statusTime, func(ctx context.Context, node string, g *agent) error {
		b, err := g.client.Status(ctx)
		if err == nil {
			mu.Lock()
			said[node] = b
			mu.Unlock()
		}
		return err
	})
	n := t.nodesEvent()
	st := Status{Hub: Report{
		Version: h.cfg.Version, Started: h.started, Ready: h.ready() == nil,
		NodesTotal: n.Total, NodesAnswered: n.Answered, NodesMissing: n.Missing,
		Answers: h.places.now(), MostAnswers: h.places.most,
	}, Nodes: []NodeStatus{}}
	if v.all {
		st.Hub.RowCounts = &RowCounts{Merged: h.merged.rows.Load(), Lost: h.merged.lost.Load(), Late: h.merged.late.Load(), Withheld: h.withheld.Load()}
	}
	members := map[string]member{}
	for _, m := range h.agents.now().members {
		members[m.node] = m
	}
	for node, r := range t.sorted() {
		one := NodeStatus{Node: node}
		if !r.given {
			one.Error = reason(r.err)
		}
		if m := members[node]; m.agent != nil {
			line := m.agent.line()
			one.Pod, one.Version, one.Ready = m.agent.Pod, line.about.Version, line.ready
			if d, ok := m.agent.clock.offset(); ok {
				ns := int64(d)
				one.Offset = &ns
			}
			if c := line.about.Node; c != node {
				one.Claims = c
			}
			for _, g := range m.spare {
				one.Ignored = append(one.Ignored, g.Pod)
			}
		}
		if b := said[node]; v.all && json.Valid(b) {
			one.Status = b
		}
		st.Nodes = append(st.Nodes, one)
	}
	return st
}
