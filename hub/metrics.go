package hub

import (
	"net/http"
	"time"

	"warren/api"
	"warren/kube"
)

// figures are what metrics tell, of one moment.
type figures struct {
	version  string
	started  float64
	ready    bool
	roster   *roster
	rows     uint64
	lost     uint64
	late     uint64
	delay    time.Duration
	withheld uint64
	answers  int
	waiting  int64
	tokens   uint64
	rights   uint64
	refused  map[refusal]uint64
	creds    api.CredentialsState
	cluster  kube.Stats
}

func (h *hub) figures() figures {
	f := figures{
		version: h.cfg.Version, started: float64(h.started.UnixNano()) / 1e9, ready: h.ready() == nil,
		roster: h.agents.now(), rows: h.merged.rows.Load(), lost: h.merged.lost.Load(), late: h.merged.late.Load(),
		delay: time.Duration(h.merged.delay.Load()), withheld: h.withheld.Load(), answers: h.places.now(), waiting: h.pool.held.Load(),
		tokens: h.door.tokens.reviews.Load(), rights: h.rights.reviews.Load(),
		refused: map[refusal]uint64{}, creds: h.creds.State(), cluster: h.cluster.Stats(),
	}
	for i, r := range refusals {
		f.refused[r] = h.door.refused[i].Load()
	}
	return f
}

// families are all metrics of a hub. Names follow Prometheus: base units, totals
// end in _total.
var families = []api.Metric[figures]{
	{Name: "warren_build_info", Help: "Always 1; the version is a label.", Type: api.Gauge, Labels: []string{"version"}, Collect: func(f *figures, put func(float64, ...string)) {
		put(1, f.version)
	}},
	{Name: "warren_hub_start_time_seconds", Help: "When the hub started, in seconds since 1970.", Type: api.Gauge, Collect: one(func(f *figures) float64 { return f.started })},
	{Name: "warren_hub_ready", Help: "1 when the hub knows the cluster's namespaces, nodes and agents.", Type: api.Gauge, Collect: one(func(f *figures) float64 { return truth(f.ready) })},
	{Name: "warren_hub_nodes", Help: "Nodes on which there is to be an agent.", Type: api.Gauge, Collect: one(func(f *figures) float64 { return float64(len(f.roster.members)) })},
	{Name: "warren_hub_agent_up", Help: "1 for an agent that answers.", Type: api.Gauge, Labels: []string{"node"}, Collect: byNode(func(g *agent) (float64, bool) { return truth(g.line().up), true })},
	{Name: "warren_hub_agent_clock_offset_seconds", Help: "How far the clock of a node is ahead of the hub's.", Type: api.Gauge, Labels: []string{"node"}, Collect: byNode(func(g *agent) (float64, bool) {
		d, ok := g.clock.offset()
		return d.Seconds(), ok
	})},
	{Name: "warren_hub_agent_lost_events_total", Help: "Events that an agent said it lost, since this hub heard of it.", Type: api.Counter, Labels: []string{"node"}, Collect: byNode(func(g *agent) (float64, bool) { return float64(g.line().lost), true })},
	{Name: "warren_hub_agents_ignored", Help: "Agents that claim a node that another one stands for.", Type: api.Gauge, Collect: one(func(f *figures) (n float64) {
		for _, m := range f.roster.members {
			n += float64(len(m.spare))
		}
		return n
	})},
	{Name: "warren_hub_rows_merged_total", Help: "Rows of agents that were passed on.", Type: api.Counter, Collect: one(func(f *figures) float64 { return float64(f.rows) })},
	{Name: "warren_hub_rows_lost_total", Help: "Rows for which a client's queue had no room.", Type: api.Counter, Collect: one(func(f *figures) float64 { return float64(f.lost) })},
	{Name: "warren_hub_rows_late_total", Help: "Rows that came too late to be passed on in order.", Type: api.Counter, Collect: one(func(f *figures) float64 { return float64(f.late) })},
	{Name: "warren_hub_rows_withheld_total", Help: "Rows that were left out because their reader may not see them.", Type: api.Counter, Collect: one(func(f *figures) float64 { return float64(f.withheld) })},
	{Name: "warren_hub_merge_delay_seconds_total", Help: "Time for which rows waited for earlier ones, in sum; by warren_hub_rows_merged_total it is the mean.", Type: api.Counter, Collect: one(func(f *figures) float64 { return f.delay.Seconds() })},
	{Name: "warren_hub_answers", Help: "Lists and streams that are being written.", Type: api.Gauge, Collect: one(func(f *figures) float64 { return float64(f.answers) })},
	{Name: "warren_hub_waiting_bytes", Help: "What waits for clients to read it.", Type: api.Gauge, Collect: one(func(f *figures) float64 { return float64(f.waiting) })},
	{Name: "warren_hub_token_reviews_total", Help: "Questions to the cluster whose a token is.", Type: api.Counter, Collect: one(func(f *figures) float64 { return float64(f.tokens) })},
	{Name: "warren_hub_access_reviews_total", Help: "Questions to the cluster whether a user may get pods.", Type: api.Counter, Collect: one(func(f *figures) float64 { return float64(f.rights) })},
	{Name: "warren_hub_refused_total", Help: "Requests that were refused, by what was wrong.", Type: api.Counter, Labels: []string{"reason"}, Collect: func(f *figures, put func(float64, ...string)) {
		for _, r := range refusals {
			put(float64(f.refused[r]), string(r))
		}
	}},
	{Name: "warren_hub_certificate_expiry_timestamp_seconds", Help: "When the hub's certificate ends, in seconds since 1970.", Type: api.Gauge, Collect: one(func(f *figures) float64 { return float64(f.creds.Expires.Unix()) })},
	{Name: "warren_hub_cluster_requests_total", Help: "Requests to the cluster's API server.", Type: api.Counter, Labels: []string{"resource"}, Collect: byResource(func(s kube.ResourceStats) float64 { return float64(s.Requests) })},
	{Name: "warren_hub_cluster_failures_total", Help: "Requests to the cluster's API server that failed.", Type: api.Counter, Labels: []string{"resource"}, Collect: byResource(func(s kube.ResourceStats) float64 { return float64(s.Failures) })},
	{Name: "warren_hub_cluster_watch_events_total", Help: "Changes that the cluster's API server told.", Type: api.Counter, Labels: []string{"resource"}, Collect: byResource(func(s kube.ResourceStats) float64 { return float64(s.Events) })},
}

func one(value func(*figures) float64) func(*figures, func(float64, ...string)) {
	return func(f *figures, put func(float64, ...string)) { put(value(f)) }
}

func byNode(value func(*agent) (float64, bool)) func(*figures, func(float64, ...string)) {
	return func(f *figures, put func(float64, ...string)) {
		for _, m := range f.roster.members {
			if m.agent == nil {
				continue
			}
			if v, ok := value(m.agent); ok {
				put(v, m.node)
			}
		}
	}
}

func byResource(value func(kube.ResourceStats) float64) func(*figures, func(float64, ...string)) {
	return func(f *figures, put func(float64, ...string)) {
		for name, s := range f.cluster.Resources {
			put(value(s), name)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metricsRoute is the route of the metrics.
func (h *hub) metricsRoute() api.Route {
	handler := api.NewMetrics(families, h.figures)
	return api.Route{Pattern: "/metrics", Handle: func(w http.ResponseWriter, req *http.Request, _ api.Query) error {
		handler.ServeHTTP(w, req)
		return nil
	}}
}
