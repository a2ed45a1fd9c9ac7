package api

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Metric is one family of what is measured. Its values are taken from a T,
// which is read once for each scrape, so that all of them speak of one moment.
type Metric[T any] struct {
	// Name and Help are as Prometheus wants them: base units, totals end in _total.
	Name, Help string
	Type       prometheus.ValueType // Counter or Gauge
	Labels     []string
	// Collect puts each value, with one value for each of Labels.
	Collect func(from *T, put func(v float64, labels ...string))
}

// The types of metrics.
const (
	Counter = prometheus.CounterValue
	Gauge   = prometheus.GaugeValue
)

// NewMetrics returns the handler of /metrics: families, whose values read
// returns, and those of the Go runtime and the process. read may be called by
// several goroutines at a time.
func NewMetrics[T any](families []Metric[T], read func() T) http.Handler {
	c := &collector[T]{families: families, read: read}
	for _, m := range families {
		c.descs = append(c.descs, prometheus.NewDesc(m.Name, m.Help, m.Labels, nil))
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

// collector hands one T to Prometheus at each scrape.
type collector[T any] struct {
	families []Metric[T]
	descs    []*prometheus.Desc // of families, in its order
	read     func() T
}

var _ prometheus.Collector = (*collector[Status])(nil)

// Describe implements [prometheus.Collector].
func (c *collector[T]) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector[T]) Collect(to chan<- prometheus.Metric) {
	from := c.read()
	for i, m := range c.families {
		m.Collect(&from, func(v float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(c.descs[i], m.Type, v, labels...)
		})
	}
}

func (s *Server) serveMetrics(w http.ResponseWriter, req *http.Request, _ Query) error {
	s.metrics.ServeHTTP(w, req)
	return nil
}

// metrics are all families of an agent: what they say, the status says too.
var metrics = []Metric[Status]{
	{"warren_build_info", "Always 1; the version is a label.", Gauge, []string{"version"}, func(st *Status, put func(float64, ...string)) {
		put(1, st.Version)
	}},
	{"warren_start_time_seconds", "When the agent started, in seconds since 1970.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Started.UnixNano()) / 1e9)
	}},
	{"warren_ready", "1 when the tables are complete.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(truth(st.Ready))
	}},
	{"warren_sensor_running", "1 for a sensor that is attached.", Gauge, []string{"sensor"}, func(st *Status, put func(float64, ...string)) {
		for _, s := range st.Sensors {
			put(truth(s.Running), s.Name)
		}
	}},
	{"warren_hook_attached", "1 for a hook of a sensor that is attached; the rung is the kind of program that does it.", Gauge, []string{"hook", "rung"}, func(st *Status, put func(float64, ...string)) {
		for _, s := range st.Sensors {
			for _, h := range s.Hooks {
				put(truth(h.Rung != ""), h.Name, h.Rung)
			}
		}
	}},
	{"warren_hook_runs_total", "Runs of a hook's programs since it was attached.", Counter, []string{"hook"}, hookCosts(func(c *HookCost) float64 { return float64(c.Runs) })},
	{"warren_hook_sampled_runs_total", "Runs of a hook's programs that were measured: one in 1,024.", Counter, []string{"hook"}, hookCosts(func(c *HookCost) float64 { return float64(c.Sampled) })},
	{"warren_hook_sampled_seconds_total", "What the measured runs of a hook's programs took.", Counter, []string{"hook"}, hookCosts(func(c *HookCost) float64 { return c.Time.Seconds() })},
	{"warren_events_total", "Events by kind, before any filter.", Counter, []string{"kind"}, func(st *Status, put func(float64, ...string)) {
		for _, k := range st.Kinds {
			put(float64(k.Total), k.Kind)
		}
	}},
	{"warren_records_submitted_total", "Records that programs in the kernel wrote into a ring.", Counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Submitted })},
	{"warren_records_lost_total", "Records for which a ring had no room.", Counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Lost })},
	{"warren_records_decoded_total", "Records that were read and understood.", Counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Decoded })},
	{"warren_records_malformed_total", "Records that were read and could not be understood.", Counter, []string{"record", "lane"}, records(func(r Record) uint64 { return r.Malformed })},
	{"warren_hook_skipped_runs_total", "Runs of a hook's programs that the kernel left out, because one was running already on that CPU. Hooks of which none was are absent.", Counter, []string{"hook"}, func(st *Status, put func(float64, ...string)) {
		for _, l := range st.Losses {
			if l.Lane == "kernel" {
				put(float64(l.Count), l.Kind)
			}
		}
	}},
	{"warren_ring_size_bytes", "Room in a ring between kernel and agent.", Gauge, []string{"lane"}, rings(func(r Ring) int { return r.Size })},
	{"warren_ring_waiting_bytes", "What waits in a ring to be read.", Gauge, []string{"lane"}, rings(func(r Ring) int { return r.Waiting })},
	{"warren_ring_highest_bytes", "The most that ever waited in a ring.", Gauge, []string{"lane"}, rings(func(r Ring) int { return r.Highest })},
	{"warren_ring_polls_total", "Times that the reader looked at the rings.", Counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Reader.Polls))
	}},
	{"warren_ring_wakeups_total", "Times that a fast-filling ring woke the reader.", Counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Reader.Wakeups))
	}},
	{"warren_container_waiting_events", "Events that wait for the description of their container, or for their process to be looked up.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Waiting.Now))
	}},
	{"warren_container_waits_total", "Events that waited for the description of their container, or for their process.", Counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Waiting.Total))
	}},
	{"warren_container_wait_timeouts_total", "Events that waited in vain and went on incomplete.", Counter, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Waiting.TimedOut))
	}},
	{"warren_table_entries", "Entries of a table of who is who.", Gauge, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			put(float64(t.Entries), t.Name)
		}
	}},
	{"warren_table_size_bytes", "Memory of a table, of those that count it.", Gauge, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			if t.Budget > 0 {
				put(float64(t.Bytes), t.Name)
			}
		}
	}},
	{"warren_table_budget_bytes", "Memory that a table may have.", Gauge, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			if t.Budget > 0 {
				put(float64(t.Budget), t.Name)
			}
		}
	}},
	{"warren_table_evictions_total", "Entries that a table forgot for lack of room.", Counter, []string{"table"}, func(st *Status, put func(float64, ...string)) {
		for _, t := range st.Tables {
			put(float64(t.Evicted), t.Name)
		}
	}},
	{"warren_heap_bytes", "Objects in use on the heap.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Memory.Heap))
	}},
	{"warren_resident_anonymous_bytes", "The agent's own memory, as the kernel counts it (RssAnon).", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(st.Memory.RSSAnon))
	}},
	{"warren_subscriptions", "Consumers of events at present.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		put(float64(len(st.Subscriptions)))
	}},
	{"warren_subscription_matched_events_total", "Events that consumers wanted, of all consumers ever.", Counter, nil, consumers(func(c Consumed) uint64 { return c.Matched })},
	{"warren_subscription_delivered_events_total", "Events that consumers got.", Counter, nil, consumers(func(c Consumed) uint64 { return c.Delivered })},
	{"warren_subscription_lost_events_total", "Events for which a consumer's queue had no room.", Counter, nil, consumers(func(c Consumed) uint64 { return c.Lost })},
	{"warren_alert_channel_sent_total", "Alerts that a channel's receiver took.", Counter, []string{"channel"}, channels(func(c *AlertChannel) float64 { return float64(c.Sent) })},
	{"warren_alert_channel_retries_total", "Attempts of a channel that failed and are made again.", Counter, []string{"channel"}, channels(func(c *AlertChannel) float64 { return float64(c.Retried) })},
	{"warren_alert_channel_dead_total", "Alerts that a channel's receiver refused for good.", Counter, []string{"channel"}, channels(func(c *AlertChannel) float64 { return float64(c.Dead) })},
	{"warren_alert_channel_lost_total", "Alerts that a channel had no room for: those that waited longest, and those that could not be written down.", Counter, []string{"channel"}, channels(func(c *AlertChannel) float64 { return float64(c.GivenUp + c.Lost) })},
	{"warren_alert_channel_waiting", "Alerts that wait to be sent by a channel.", Gauge, []string{"channel"}, channels(func(c *AlertChannel) float64 { return float64(c.Waiting) })},
	{"warren_alert_channel_waiting_bytes", "What they take.", Gauge, []string{"channel"}, channels(func(c *AlertChannel) float64 { return float64(c.Bytes) })},
	{"warren_alert_channel_failing", "1 while a channel's receiver takes nothing.", Gauge, []string{"channel"}, channels(func(c *AlertChannel) float64 { return truth(!c.FailingSince.IsZero()) })},
	{"warren_reactions_total", "What rules wanted done when they alerted, by what became of it.", Counter, []string{"action", "outcome"}, func(st *Status, put func(float64, ...string)) {
		if st.Reactions == nil {
			return
		}
		for _, c := range st.Reactions.Actions {
			put(float64(c.Done), c.Action, "done")
			put(float64(c.DryRun), c.Action, "dry_run")
			put(float64(c.Failed), c.Action, "failed")
			put(float64(c.Refused), c.Action, "refused")
			put(float64(c.Limited), c.Action, "limited")
		}
	}},
	{"warren_reactions_waiting", "Alerts that are to be reacted to yet.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		if st.Reactions != nil {
			put(float64(st.Reactions.Waiting))
		}
	}},
	{"warren_kubernetes_connected", "1 while the cluster's API server answers.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return truth(k.Connected) })},
	{"warren_kubernetes_synced", "1 when all that the agent wants to know of the cluster has been read once.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return truth(k.Synced) })},
	{"warren_kubernetes_objects", "Objects of the cluster that the agent knows.", Gauge, []string{"resource"}, func(st *Status, put func(float64, ...string)) {
		if k := st.Kubernetes; k != nil {
			put(float64(k.Pods), "pods")
			put(float64(k.Services), "services")
			put(float64(k.EndpointSlices), "endpointslices")
			put(float64(k.Nodes), "nodes")
			put(float64(k.Namespaces), "namespaces")
		}
	}},
	{"warren_kubernetes_ended_pods", "Pods that have ended and are remembered.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.EndedPods) })},
	{"warren_kubernetes_addresses", "Addresses of which it is known what they stand for, or stood.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.Addresses) })},
	{"warren_kubernetes_own_pods", "Pods of containers on this machine.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.OwnPods) })},
	{"warren_kubernetes_untold_pods", "Pods of containers on this machine that neither the cluster nor a runtime has named.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.Untold) })},
	{"warren_kubernetes_waiting_peers", "Connections whose far end the cluster does not know yet.", Gauge, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.PeersWaiting) })},
	{"warren_kubernetes_dropped_peers_total", "Connections for which there was no room to wait for the cluster to know their far end.", Counter, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.PeersDropped) })},
	{"warren_kubernetes_forgotten_total", "Ended pods and freed addresses for which there was no room.", Counter, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.Forgotten) })},
	{"warren_kubernetes_trimmed_total", "Texts of the cluster that were too long, or no text.", Counter, nil, kubernetes(func(k *Kubernetes) float64 { return float64(k.Trimmed) })},
	{"warren_kubernetes_requests_total", "Requests to the API server.", Counter, []string{"resource"}, resources(func(r *Resource) uint64 { return r.Requests })},
	{"warren_kubernetes_request_failures_total", "Requests to the API server that failed.", Counter, []string{"resource"}, resources(func(r *Resource) uint64 { return r.Failures })},
	{"warren_kubernetes_listed_objects_total", "Objects that were read in lists.", Counter, []string{"resource"}, resources(func(r *Resource) uint64 { return r.Objects })},
	{"warren_kubernetes_watch_events_total", "Changes that the API server told.", Counter, []string{"resource"}, resources(func(r *Resource) uint64 { return r.Events })},
	{"warren_kubernetes_watch_restarts_total", "Lists and watches that were begun again.", Counter, []string{"resource"}, resources(func(r *Resource) uint64 { return r.Restarts })},
	{"warren_kubernetes_received_bytes_total", "What the API server has answered.", Counter, []string{"resource"}, resources(func(r *Resource) uint64 { return r.Bytes })},
	{"warren_certificate_expiry_timestamp_seconds", "When the certificate that the agent shows expires, in seconds since 1970.", Gauge, nil, func(st *Status, put func(float64, ...string)) {
		if c := st.Certificate; c != nil {
			put(float64(c.Expires.Unix()))
		}
	}},
	{"warren_clients_refused_total", "Clients that came without a certificate that is believed.", Counter, nil, func(st *Status, put func(float64, ...string)) {
		if c := st.Certificate; c != nil {
			put(float64(c.Refused))
		}
	}},
	{"warren_packets_total", "Packets that pods of this node sent (egress) or were sent (ingress), by what became of them.", Counter, []string{"direction", "verdict", "reason"}, packets(func(p NetworkPackets) uint64 { return p.Packets })},
	{"warren_packet_bytes_total", "Bytes of packets that pods of this node sent (egress) or were sent (ingress), by what became of them.", Counter, []string{"direction", "verdict", "reason"}, packets(func(p NetworkPackets) uint64 { return p.Bytes })},
	{"warren_flow_events_total", "Events of flows that the datapath told.", Counter, []string{"kind"}, flowsTold(func(e FlowEventCount) uint64 { return e.Told })},
	{"warren_flow_events_lost_total", "Events of flows for which the datapath's ring had no room.", Counter, []string{"kind"}, flowsTold(func(e FlowEventCount) uint64 { return e.Lost })},
	{"warren_flows_remembered", "Events of flows that are remembered.", Gauge, nil, flows(func(f *FlowsState) uint64 { return uint64(f.Flows) })},
	{"warren_flows_evicted_total", "Flows that gave way to others in the kernel: their end is not told.", Counter, nil, network(func(n *Network) uint64 { return n.Evicted })},
	{"warren_flows_begun_total", "Flows of pods of this node.", Counter, nil, flows(func(f *FlowsState) uint64 { return f.Begun })},
	{"warren_flows_ended_total", "Flows that ended, and were not evicted.", Counter, nil, flows(func(f *FlowsState) uint64 { return f.Ended })},
	{"warren_packets_without_flow_total", "Packets that passed without a flow, for want of room.", Counter, nil, network(func(n *Network) uint64 { return n.Unflowed })},
	{"warren_drops_untold_total", "Packets that were dropped and not told, for there were too many.", Counter, nil, flows(func(f *FlowsState) uint64 { return f.Quiet })},
	{"warren_history_usable", "1 while everything that is to be kept of the past goes to the disk.", Gauge, nil, kept(func(h *HistoryStatus) float64 { return truth(h.Error == "") })},
	{"warren_history_size_bytes", "What the history takes on the disk.", Gauge, nil, kept(func(h *HistoryStatus) float64 { return float64(h.Bytes) })},
	{"warren_history_limit_bytes", "What the history may take.", Gauge, nil, kept(func(h *HistoryStatus) float64 { return float64(h.MaxBytes) })},
	{"warren_history_events_total", "Events that were kept.", Counter, nil, kept(func(h *HistoryStatus) float64 { return float64(h.Events) })},
	{"warren_history_rows_total", "Rows that stand for the events that were kept.", Counter, nil, kept(func(h *HistoryStatus) float64 { return float64(h.Rows) })},
	{"warren_history_lost_events_total", "Events that were to be kept and were not.", Counter, nil, kept(func(h *HistoryStatus) float64 { return float64(h.Lost) })},
	{"warren_history_unreadable_segments", "Segments that cannot be read whole.", Gauge, nil, kept(func(h *HistoryStatus) float64 { return float64(h.Broken) })},
	{"warren_archive_working", "1 while segments can be copied.", Gauge, nil, archived(func(a *HistoryArchive) float64 { return truth(a.Error == "") })},
	{"warren_archive_copied_segments_total", "Segments that were copied.", Counter, nil, archived(func(a *HistoryArchive) float64 { return float64(a.Copied) })},
	{"warren_archive_copied_bytes_total", "Bytes of segments that were copied.", Counter, nil, archived(func(a *HistoryArchive) float64 { return float64(a.CopiedBytes) })},
	{"warren_archive_waiting_segments", "Segments that are to be copied yet.", Gauge, nil, archived(func(a *HistoryArchive) float64 { return float64(a.Waiting) })},
	{"warren_archive_waiting_bytes", "Bytes of segments that are to be copied yet.", Gauge, nil, archived(func(a *HistoryArchive) float64 { return float64(a.WaitingBytes) })},
	{"warren_archive_given_up_segments_total", "Segments that were removed for want of room, though they were not copied.", Counter, nil, archived(func(a *HistoryArchive) float64 { return float64(a.GivenUp) })},
	{"warren_hubble_flows", "Flows that are remembered for clients of Hubble.", Gauge, nil, hubble(func(h *HubbleState) float64 { return float64(h.Flows) })},
	{"warren_hubble_size_bytes", "Memory of the flows that are remembered.", Gauge, nil, hubble(func(h *HubbleState) float64 { return float64(h.Bytes) })},
	{"warren_hubble_flows_total", "Flows since the start.", Counter, nil, hubble(func(h *HubbleState) float64 { return float64(h.Seen) })},
	{"warren_hubble_streams", "Requests for flows under way.", Gauge, nil, hubble(func(h *HubbleState) float64 { return float64(h.Streams) })},
	{"warren_hubble_stalled_total", "Requests for flows that ended because the client took nothing.", Counter, nil, hubble(func(h *HubbleState) float64 { return float64(h.Stalled) })},
}

// channels puts a value of each channel of alerts.
func channels(value func(*AlertChannel) float64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Alerts == nil {
			return
		}
		for i := range st.Alerts.Channels {
			c := &st.Alerts.Channels[i]
			put(value(c), c.Name)
		}
	}
}

// kubernetes, hubble, kept, archived and resources give values only where there is a
// cluster, flows, a history, an archive, something watched.
func kubernetes(value func(*Kubernetes) float64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Kubernetes != nil {
			put(value(st.Kubernetes))
		}
	}
}

// packets, flowsTold, flows and network put what the datapath counts, nothing
// where there is none.
func packets(value func(NetworkPackets) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Network == nil {
			return
		}
		for _, p := range st.Network.Packets {
			put(float64(value(p)), p.Direction, p.Verdict, p.Reason)
		}
	}
}

func flowsTold(value func(FlowEventCount) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Flows == nil {
			return
		}
		for _, e := range st.Flows.Events {
			put(float64(value(e)), e.Kind)
		}
	}
}

func flows(value func(*FlowsState) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Flows != nil {
			put(float64(value(st.Flows)))
		}
	}
}

func network(value func(*Network) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Network != nil {
			put(float64(value(st.Network)))
		}
	}
}

func hubble(value func(*HubbleState) float64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Hubble != nil {
			put(value(st.Hubble))
		}
	}
}

func kept(value func(*HistoryStatus) float64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.History != nil {
			put(value(st.History))
		}
	}
}

func archived(value func(*HistoryArchive) float64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.History != nil && st.History.Archive != nil {
			put(value(st.History.Archive))
		}
	}
}

func resources(value func(*Resource) uint64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		if st.Kubernetes == nil {
			return
		}
		for i := range st.Kubernetes.Resources {
			r := &st.Kubernetes.Resources[i]
			put(float64(value(r)), r.Name)
		}
	}
}

func hookCosts(of func(*HookCost) float64) func(*Status, func(float64, ...string)) {
	return func(st *Status, put func(float64, ...string)) {
		for _, s := range st.Sensors {
			for _, h := range s.Hooks {
				if h.Cost != nil {
					put(of(h.Cost), h.Name)
				}
			}
		}
	}
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
