package api

import (
	"encoding/json"
	"net/http"
	"time"

	"warren/event"
	"warren/filter"
)

// Status is what an agent reports of itself. Its JSON is part of the API.
type Status struct {
	Version  string    `json:"version"`
	Instance string    `json:"instance"`
	PID      int       `json:"pid"`
	Hostname string    `json:"hostname"`
	BootID   string    `json:"boot_id"`
	Kernel   string    `json:"kernel"`
	Lockdown string    `json:"lockdown"` // none, integrity or confidentiality; unknown
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`
	StateDir string    `json:"state_dir"`
	Listen   []string  `json:"listen"`
	// Node is the name of the cluster's node that the machine is, CgroupRoot the
	// subtree of cgroups that the agent is limited to; absent where there is none.
	Node       string `json:"node,omitempty"`
	CgroupRoot string `json:"cgroup_root,omitempty"`
	// Kubernetes is absent where the machine is no node, Certificate where the
	// agent has none to show, Hubble where nobody can ask for flows.
	Kubernetes  *Kubernetes  `json:"kubernetes,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Hubble      *HubbleState `json:"hubble,omitempty"`
	// Flows and Network are absent where the agent leaves packets alone.
	Flows   *FlowsState `json:"flows,omitempty"`
	Network *Network    `json:"network,omitempty"`
	// Rules is absent where there are none.
	Rules *Rules `json:"rules,omitempty"`
	// Alerts is absent where they go nowhere.
	Alerts *Alerts `json:"alerts,omitempty"`
	// Changes is absent where the configuration is in use as it is.
	Changes *Changes `json:"changes,omitempty"`
	// Reactions is absent where none are enabled and none were wanted.
	Reactions *Reactions `json:"reactions,omitempty"`
	// Audit is absent where no API server tells anything.
	Audit *AuditState `json:"kubernetes_audit,omitempty"`
	// History is absent where nothing is kept.
	History *HistoryStatus `json:"history,omitempty"`

	Capabilities []Cap    `json:"capabilities"`
	Sensors      []Sensor `json:"sensors"`
	// Kinds counts events by kind.
	Kinds []Kind `json:"kinds"`
	// Records counts what the kernel's programs wrote, by record.
	Records       []Record       `json:"records"`
	Losses        []Loss         `json:"losses"`
	Rings         []Ring         `json:"rings"`
	Reader        Reader         `json:"reader"`
	Waiting       Waiting        `json:"waiting"`
	Tables        []Table        `json:"tables"`
	Memory        Memory         `json:"memory"`
	Subscriptions []Subscription `json:"subscriptions"`
	// Ended sums up the subscriptions that are over.
	Ended Consumed `json:"ended_subscriptions"`
}

// Changes is what has changed in the configuration, and is not in use.
type Changes struct {
	File string `json:"file"`
	// Refused says why nothing of it is.
	Refused   string    `json:"refused,omitempty"`
	RefusedAt time.Time `json:"refused_at,omitzero"`
	// Restart are the keys that take effect with the next start.
	Restart []string `json:"restart,omitempty"`
}

// Rules is what makes alerts.
type Rules struct {
	Loaded time.Time   `json:"loaded"` // when the rules at work were read
	Rules  []RuleState `json:"rules"`
	// Alerts counts matches that were told, Lost events that were lost before a
	// rule could look at them.
	Alerts uint64 `json:"alerts"`
	Lost   uint64 `json:"lost"`
	// Unlike counts alerts that were told each, because there were too many
	// different ones to find those that are alike.
	Unlike uint64 `json:"unlike"`
	// Refused says why files that have changed are not used.
	Refused   string     `json:"refused,omitempty"`
	RefusedAt *time.Time `json:"refused_at,omitempty"`
}

// RuleState is what became of a rule since it was loaded.
type RuleState struct {
	Name     string `json:"name"`
	Priority string `json:"priority"`
	Enabled  bool   `json:"enabled"`
	Matches  uint64 `json:"matches"`
	// Measured are the events of which it is known how long they took to judge by
	// this rule alone, Mean is how long; 0 while there are none.
	Measured uint64        `json:"measured"`
	Mean     time.Duration `json:"mean_ns"`
}

// Kubernetes is what the agent knows of its cluster.
type Kubernetes struct {
	// Off says why the API server is not asked; absent, it is.
	Off string `json:"off,omitempty"`
	// Server is the API server's address.
	Server string `json:"server,omitempty"`
	// Connected says whether it answers, Since since when it does or does not.
	// What is known stays known while it does not.
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	// Synced says that all there is has been read once.
	Synced bool `json:"synced"`

	Pods           int `json:"pods"`
	EndedPods      int `json:"ended_pods"` // that are remembered
	Services       int `json:"services"`
	EndpointSlices int `json:"endpoint_slices"`
	Nodes          int `json:"nodes"`
	Namespaces     int `json:"namespaces"`
	// Addresses are those of which something is known, now or of the past.
	Addresses int `json:"addresses"`
	// OwnPods are those of containers on this machine; Untold of them neither the
	// cluster nor a runtime has named yet.
	OwnPods int `json:"own_pods"`
	Untold  int `json:"untold_pods"`
	// PeersWaiting are connections whose far end the cluster does not know yet;
	// PeersDropped counts those for which there was no room to wait.
	PeersWaiting int    `json:"peers_waiting"`
	PeersDropped uint64 `json:"peers_dropped"`
	// Forgotten counts ended pods and freed addresses for which there was no room.
	Forgotten uint64 `json:"forgotten"`
	// Trimmed counts texts that were too long, or no text.
	Trimmed   uint64     `json:"trimmed"`
	Resources []Resource `json:"resources"`
}

// Resource is what watching one kind of object of the cluster costs.
type Resource struct {
	Name     string `json:"name"`
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
	Objects  uint64 `json:"objects"`  // read in lists
	Events   uint64 `json:"events"`   // of watches
	Restarts uint64 `json:"restarts"` // lists and watches after the first
	Bytes    uint64 `json:"bytes"`    // of answers
	Error    string `json:"error,omitempty"`
}

// Certificate is the one that the agent shows, and who was refused for theirs.
type Certificate struct {
	Expires time.Time `json:"expires"`
	// Error says why the files, which have changed, are not used.
	Error string `json:"error,omitempty"`
	// Refused counts clients without a certificate that is believed.
	Refused uint64 `json:"refused"`
}

// HubbleState is what is remembered for Hubble's clients.
type HubbleState struct {
	Flows    int       `json:"flows"`
	MaxFlows int       `json:"max_flows"`
	Bytes    int       `json:"bytes"`
	MaxBytes int       `json:"max_bytes"`
	Seen     uint64    `json:"seen"`            // flows since the start
	Oldest   time.Time `json:"oldest,omitzero"` // of those remembered
	Streams  int       `json:"streams"`         // requests under way
	Stalled  uint64    `json:"stalled"`         // requests that ended because the client took nothing
}

// FlowsState is what is known of packets, where the agent connects pods.
type FlowsState struct {
	Flows    int              `json:"flows"` // events of flows that are remembered
	MaxFlows int              `json:"max_flows"`
	Bytes    int              `json:"bytes"`           // that they take, about
	Seen     uint64           `json:"seen"`            // since the start
	Oldest   time.Time        `json:"oldest,omitzero"` // of those remembered
	Events   []FlowEventCount `json:"events"`
	// Begun are the flows that there were, Ended those that ended in time: what was
	// evicted, or goes on, has not.
	Begun uint64 `json:"begun"`
	Ended uint64 `json:"ended"`
	// Quiet are drops that were not told, for there were too many.
	Quiet uint64 `json:"quiet"`
}

// FlowEventCount counts what the datapath told of flows, and what it had no room
// for.
type FlowEventCount struct {
	Kind string `json:"kind"` // new, update, close, drop
	Told uint64 `json:"told"`
	Lost uint64 `json:"lost"`
}

// Cap is a capability that the agent has a use for.
type Cap struct {
	Name     string `json:"name"`
	For      string `json:"for"` // what needs it
	Required bool   `json:"required"`
	Held     bool   `json:"held"`
	Returned bool   `json:"returned,omitempty"` // it was held while the agent started
}

// Sensor describes a sensor and its hooks.
type Sensor struct {
	Name    string   `json:"name"`
	Running bool     `json:"running"`
	Kinds   []string `json:"kinds"` // that it watches at present
	Error   string   `json:"error,omitempty"`
	// Prefilter is what is in force in the kernel: events for which one of these
	// holds are recorded, and no others, but for what it cannot tell exactly.
	Prefilter []Want `json:"prefilter"`
	// Judges are the dimensions of conditions that the sensor's programs judge, beside
	// kinds and types of events: what else was asked is left to the filters. Widened are
	// those of them that are not judged now, because too much is asked of them.
	Judges  []string `json:"judges"`
	Widened []string `json:"widened"`
	// Cgroups are those of which it is known whose they are, while somebody asks for
	// containers or pods; for CgroupsUnjudged there was no room: whatever happens there
	// is recorded.
	Cgroups         int    `json:"cgroups_judged,omitempty"`
	CgroupsUnjudged int    `json:"cgroups_unjudged,omitempty"`
	Hooks           []Hook `json:"hooks"`
}

// Want is something that consumers want.
type Want struct {
	// Events is a condition in the words of filters; path stands for each of the
	// names that an event has.
	Events string `json:"events"`
	// Whole says that it asks for all events of some kinds.
	Whole bool     `json:"whole,omitempty"`
	For   []string `json:"for"` // names of consumers; none: they have gone, and so will this
}

// Hook says how one hook of a sensor is attached, and why not better.
type Hook struct {
	Name    string    `json:"name"`
	Purpose string    `json:"purpose"`
	Rung    string    `json:"rung,omitempty"` // absent: it is not attached
	Target  string    `json:"target,omitempty"`
	Error   string    `json:"error,omitempty"`
	Refused []Refusal `json:"refused,omitempty"`
	// For are the names of the consumers that need it; none: they have gone, and so
	// will it.
	For []string `json:"for"`
	// Cost is absent while no program of the hook is measured.
	Cost *HookCost `json:"cost,omitempty"`
}

// HookCost is what the programs of a hook have cost since it was attached. They
// measure one run in 1,024 on each CPU themselves.
type HookCost struct {
	Runs    uint64        `json:"runs"`
	Sampled uint64        `json:"sampled"`    // of these: measured
	Time    time.Duration `json:"sampled_ns"` // that those measured took together
	Mean    time.Duration `json:"mean_ns"`    // that a run takes; 0 while none was measured
	Core    float64       `json:"core"`       // share of one CPU, 1 is all of it, over the last five seconds
}

// Refusal says why a better way to attach a hook is not used.
type Refusal struct {
	Rung   string `json:"rung"`
	Reason string `json:"reason"`
}

// Kind counts the events of a kind.
type Kind struct {
	Kind  string  `json:"kind"`
	Total uint64  `json:"total"`
	Rate  float64 `json:"per_second"` // over the last five seconds
}

// Record counts records of one type: submitted + lost is what the kernel's
// programs generated.
type Record struct {
	Record    string `json:"record"`
	Lane      string `json:"lane"`
	Submitted uint64 `json:"submitted"`
	Lost      uint64 `json:"lost"`
	Decoded   uint64 `json:"decoded"`
	Malformed uint64 `json:"malformed"`
}

// Loss is where events were lost, and how many. Lane is critical or bulk for a
// ring that was full, decode for records that could not be read, queue for
// consumers that did not keep up, kernel for runs of a hook's programs that the
// kernel left out, because one was running already on that CPU.
type Loss struct {
	Lane  string `json:"lane"`
	Kind  string `json:"kind"` // the record; the hook; or for queues the kinds of events
	Count uint64 `json:"count"`
}

// Ring describes one of the rings between kernel and agent.
type Ring struct {
	Lane    string `json:"lane"`
	Size    int    `json:"size_bytes"`
	Waiting int    `json:"waiting_bytes"`
	Highest int    `json:"highest_bytes"` // the most that ever waited
}

// Reader describes how the rings are read.
type Reader struct {
	Polls     uint64 `json:"polls"`
	Wakeups   uint64 `json:"wakeups"` // polls at which a fast-filling ring had woken the reader
	LastError string `json:"last_error,omitempty"`
}

// Waiting counts events that wait for the description of their container, or for
// their process to be looked up.
type Waiting struct {
	Now       int    `json:"now"`
	Total     uint64 `json:"total"`
	TimedOut  uint64 `json:"timed_out"`  // went on without it
	PushedOut uint64 `json:"pushed_out"` // because too many waited
}

// Table is one of the tables of who is who.
type Table struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Bytes   int64  `json:"bytes,omitempty"`
	Budget  int64  `json:"budget_bytes,omitempty"`
	Evicted uint64 `json:"evicted"`
}

// Memory is what the agent uses.
type Memory struct {
	RSSAnon uint64 `json:"rss_anon_bytes"` // the process's own memory, as the kernel counts
	Heap    uint64 `json:"heap_bytes"`     // of it: objects in use
	Rings   uint64 `json:"rings_bytes"`
}

// Subscription is a consumer of events at present: matched is delivered + lost
// + queued.
type Subscription struct {
	Name   string    `json:"name"`
	Filter string    `json:"filter,omitempty"`
	Kinds  []string  `json:"kinds"`
	Since  time.Time `json:"since"`
	Size   int       `json:"queue_size"`
	Queued uint64    `json:"queued"`
	// Unnamed are events that could have matched: of files of which the kernel does not
	// show which they were.
	Unnamed uint64 `json:"unnamed,omitempty"`
	Consumed
}

// Consumed counts what became of events that matched.
type Consumed struct {
	Matched   uint64 `json:"matched"`
	Delivered uint64 `json:"delivered"`
	Lost      uint64 `json:"lost"`
}

// KindNames returns the names of the kinds in a set.
func KindNames(s event.KindSet) []string {
	names := []string{}
	for _, k := range s.List() {
		names = append(names, k.String())
	}
	return names
}

func (s *Server) serveStatus(w http.ResponseWriter, _ *http.Request, q Query) error {
	if err := s.here(q); err != nil {
		return err
	}
	return WriteJSON(w, s.self.Status())
}

// serveHealth says whether the agent lives: a supervisor that hears otherwise
// starts another. One that is starting lives.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request, _ Query) error {
	if err := s.self.Err(); err != nil {
		return Unavailable("%v", err)
	}
	return WriteJSON(w, alive{"ok"})
}

// serveReady says whether answers are complete.
func (s *Server) serveReady(w http.ResponseWriter, req *http.Request, q Query) error {
	select {
	case <-s.self.Ready():
		return s.serveHealth(w, req, q)
	default:
		return errStarting()
	}
}

type alive struct {
	Status string `json:"status"`
}

// Field describes a field of events.
type Field struct {
	Name    string   `json:"name"`
	Doc     string   `json:"doc"`
	Type    string   `json:"type"`
	Kinds   []string `json:"kinds"`
	Many    string   `json:"many,omitempty"` // ancestors, either or list, where an event can have several values
	Arg     string   `json:"arg,omitempty"`  // index or key: what may stand in brackets
	Virtual bool     `json:"virtual,omitempty"`
}

var (
	manyNames = [...]string{event.One: "", event.Ancestors: "ancestors", event.Either: "either", event.List: "list"}
	argNames  = [...]string{event.NoArg: "", event.IndexArg: "index", event.KeyArg: "key"}
)

func describe(f *event.Field) Field {
	return Field{
		Name: f.Name, Doc: f.Doc, Type: f.Type.String(), Kinds: KindNames(f.Kinds()),
		Many: manyNames[f.Many], Arg: argNames[f.Arg], Virtual: f.Virtual,
	}
}

// ServeFields answers which fields events have, all or those of one kind.
func ServeFields(w http.ResponseWriter, req *http.Request, q Query) error {
	among := event.AllKinds
	if name, ok := q["kind"]; ok {
		k, ok := event.LookupKind(name)
		if !ok {
			var names []string
			for _, k := range event.AllKinds.List() {
				names = append(names, k.String())
			}
			e := BadRequest("no kind %s", printable(name))
			if near := filter.Nearest(name, names); near != "" {
				e.Hint = "did you mean " + near + "?"
			} else {
				e.Hint = "kinds are " + event.AllKinds.String()
			}
			return e
		}
		among = event.Kinds(k)
	}
	var b []byte
	for _, f := range event.Fields() {
		if f.Kinds()&among == 0 {
			continue
		}
		line, err := json.Marshal(describe(f))
		if err != nil {
			return err
		}
		b = append(append(b, line...), '\n')
	}
	w.Header().Set("Content-Type", linesType)
	if _, err := w.Write(b); err != nil {
		return &clientGone{err}
	}
	return nil
}
