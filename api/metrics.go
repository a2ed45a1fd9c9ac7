package api

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A metric is one family of what the agent measures: its value is taken from
// the status, so that both say the same.
type metric struct {
	name, help string
	typ        prometheus.ValueType
	labels     []string
	collect    func(st *Status, put func(v float64, labels ...string))
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// metrics are all families. Names follow Prometheus: base units, totals end in
// _total.
var metrics = []metric{
	{"warren_build_info", "Always 1; the version is a label.", gauge, []string{"version"}, func(st *Status, put func(float64, ...string)) {
		put(1, st.Version)
	}},
	{"warren_start_time_seconds", "When the agent started, in seconds since 1970.", gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Started.UnixNano()) / 1e9)
	}},
	{"warren_ready", "1 when the tables are complete.", gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(truth(st.Ready))
	}},
	{"warren_sensor_running", "1 for a sensor that is attached.", gauge, []string{"sensor"}, func(st *Status, put func(float64, ...string)) {
		for _, s := range st.Sensors {
			put(truth(s.Running), s.Name)
		}
	}},
	{"warren_hook_attached", "1 for a hook of a sensor that is attached; the rung is the kind of program that does it.", gauge, []string{"hook", "rung"}, func(st *Status, put func(float64, ...string)) {
		for _, s := range st.Sensors {
			for _, h := range s.Hooks {
				put(truth(h.Rung != ""), h.Name, h.Rung)
			}
		}
	}},
	{"warren_events_total", "Events by kind, before any filter.", counter, []string{"kind"}, func(st *Status, put func(float64, ...string)) {
		for _, k := range st.Kinds {
			put(float64(k.Total), k.Kind)
		}
	}},
	{"warren_records_submitted_total", "Records that programs in the kernel wrote into a ring.", counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Submitted })},
	{"warren_records_lost_total", "Records for which a ring had no room.", counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Lost })},
	{"warren_records_decoded_total", "Records that were read and understood.", counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Decoded })},
	{"warren_records_malformed_total", "Records that were read and could not be understood.", counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Malformed })},
	{"warren_ring_size_bytes", "Room in a ring between kernel and agent.", gauge, []string{"lane"}, rings(func(r Ring) int { return r.Size })},
	{"warren_ring_waiting_bytes", "What waits in a ring to be read.", gauge, []string{"lane"}, rings(func(r Ring) int { return r.Waiting })},
	{"warren_ring_highest_bytes", "The most that ever waited in a ring.", gauge, []string{"lane"}, rings(func(r Ring) int { return r.Highest })},
	{"warren_ring_polls_total", "Times that the reader looked at the rings.", counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Reader.Polls))
	}},
	{"warren_ring_wakeups_total", "Times that a fast-filling ring woke the reader.", counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Reader.Wakeups))
	}},
	{"warren_container_waiting_events", "Events that wait for the description of their container, or for their process to be looked up.", gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Waiting.Now))
	}},
	{"warren_container_waits_total", "Events that waited for the description of their container, or for their process.", counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Waiting.Total))
	}},
	{"warren_container_wait_timeouts_total", "Events that waited in vain and went on incomplete.", counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Waiting.TimedOut))
	}},
	{"warren_table_entries", "Entries of a table of who is who.", gauge, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			put(float64(t.Entries), t.Name)
		}
	}},
	{"warren_table_size_bytes", "Memory of a table, of those that count it.", gauge, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			if t.Budget > 0 {
				put(float64(t.Bytes), t.Name)
			}
		}
	}},
	{"warren_table_budget_bytes", "Memory that a table may have.", gauge, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			if t.Budget > 0 {
				put(float64(t.Budget), t.Name)
			}
		}
	}},
	{"warren_table_evictions_total", "Entries that a table forgot for lack of room.", counter, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			put(float64(t.Evicted), t.Name)
		}
	}},
	{"warren_heap_bytes", "Objects in use on the heap.", gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Memory.Heap))
	}},
	{"warren_resident_anonymous_bytes", "The agent's own memory, as the kernel counts it (RssAnon).", gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Memory.RSSAnon))
	}},
	{"warren_subscriptions", "Consumers of events at present.", gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(len(st.Subscriptions)))
	}},
	{"warren_subscription_matched_events_total", "Events that consumers wanted, of all consumers ever.", counter, nil, consumers(func(c Consumed) uint64 { return c.Matched })},
	{"warren_subscription_delivered_events_total", "Events that consumers got.", counter, nil, consumers(func(c Consumed) uint64 { return c.Delivered })},
	{"warren_subscription_lost_events_total", "Events for which a consumer's queue had no room.", counter, nil, consumers(func(c Consumed) uint64 { return c.Lost })},
}

func records(value func(Record) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		for _, r := range st.Records {
			put(float64(value(r)), r.Record, r.Lane)
		}
	}
}

func rings(value func(Ring) int) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		for _, r := range st.Rings {
			put(float64(value(r)), r.Lane)
		}
	}
}

func consumers(value func(Consumed) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		sum := value(st.Ended)
		for _, s := range st.Subscriptions {
			sum += value(s.Consumed)
		}
		put(float64(sum))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collector hands one status to Prometheus at each scrape.
type collector struct {
	self  Self
	descs []*prometheus.Desc // of metrics, in its order
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(self Self) *collector {
	c := &collector{self: self}
	for _, m := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, m.labels, nil))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	st := c.self.Status()
	for i, m := range metrics {
		m.collect(&st, func(v float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(c.descs[i], m.typ, v, labels...)
		})
	}
}

// newMetrics returns the handler of /metrics: ours, and the Go runtime's.
func newMetrics(self Self) http.Handler {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newCollector(self), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

func (s *Server) serveMetrics(w http.ResponseWriter, req *http.Request, _ query) error {
	s.metrics.ServeHTTP(w, req)
	return nil
}
