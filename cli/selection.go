package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"warren/api"
	"warren/event"
	"warren/filter"
)

// A selection is what the flags -n, -A, -l and --node say: which part of a
// cluster a command is about.
type selection struct {
	namespace string
	all       bool
	labels    string
	nodes     []string
}

// podFlags are the flags of commands that are about processes.
func podFlags(g *globals, s *selection) []*option {
	flags := append(namespaceFlags(g, s),
		&option{long: "selector", short: "l", meta: "LABELS", text: &s.labels, doc: "only pods with these labels: app=shop, tier!=db, 'tier in (front, back)', app, '!app', several by comma"})
	return append(flags, nodeFlags(g, s)...)
}

func namespaceFlags(g *globals, s *selection) []*option {
	if g.kubectl {
		return []*option{
			{long: "namespace", short: "n", meta: "NAME", text: &s.namespace, doc: "only pods of this namespace (default that of the context)"},
			{long: "all-namespaces", short: "A", yes: &s.all, doc: "pods of all namespaces, and what is in no pod"},
		}
	}
	return []*option{
		{long: "namespace", short: "n", meta: "NAME", text: &s.namespace, doc: "only pods of this namespace, on a node of a cluster"},
		{long: "all-namespaces", short: "A", yes: &s.all, doc: "pods of all namespaces, and what is in no pod (the default), with the columns of pods"},
	}
}

// nodeFlags choose nodes of a cluster; an agent is one.
func nodeFlags(g *globals, s *selection) []*option {
	if !g.kubectl {
		return nil
	}
	return []*option{{long: "node", meta: "NAMES", set: s.addNodes, doc: "only these nodes, by comma or by several flags"}}
}

func (s *selection) addNodes(v string) error {
	for name := range strings.SplitSeq(v, ",") {
		if badSubdomain(name) {
			return fmt.Errorf("takes names of nodes, not %q", name)
		}
		s.nodes = append(s.nodes, name)
	}
	return nil
}

// An answerer is who answers a command: this machine's agent, or a cluster's
// hub.
type answerer struct {
	Agent
	env     *Env
	cluster bool
	// What is asked about.
	namespace string // "" for all
	nodes     []string
	selects   []string // conditions
	pods      bool     // somebody asked for pods: tables have their columns
	// missing is true once the hub has told that nodes did not answer.
	missing bool
	told    string // who is missing, as it was told
	news    string // what the last such row has to tell, "" if nothing
}

// answerer finds who answers, and checks what is asked about.
func (g *globals) answerer(env *Env, s *selection) (*answerer, error) {
	a := &answerer{env: env, cluster: g.kubectl, nodes: s.nodes, pods: g.kubectl || s.all || s.namespace != "" || s.labels != ""}
	if badNamespace(s.namespace) && s.namespace != "" {
		return nil, usagef("--namespace takes the name of a namespace, not %q", s.namespace)
	}
	labels, err := parseSelector(s.labels)
	if err != nil {
		return nil, err
	}
	a.namespace = s.namespace
	if !g.kubectl {
		a.Agent = env.dial(g.socket)
	} else {
		o := g.cluster
		o.Namespace = s.namespace
		var context string
		if a.Agent, context, err = env.Cluster(o); err != nil {
			return nil, err
		}
		if a.namespace == "" {
			a.namespace = context
		}
	}
	if s.all {
		a.namespace = ""
	}
	if a.namespace != "" {
		a.selects = append(a.selects, "k8s.ns.name = "+quoteText(a.namespace))
	} else if len(labels) > 0 {
		// A label that is denied is one that some pod does not have.
		a.selects = append(a.selects, "k8s.pod.name exists")
	}
	for i := range labels {
		a.selects = append(a.selects, labels[i].condition())
	}
	return a, nil
}

// question adds what is asked about to a question. The filter is checked first,
// so that what is wrong with it is shown as it was typed.
func (a *answerer) question(q api.Question) (api.Question, error) {
	if a.cluster || len(a.selects) > 0 {
		if _, err := filter.Compile(q.Filter); err != nil {
			return q, err
		}
	}
	q.Filter = a.filter(q.Filter)
	q.Nodes = a.nodes
	return q, nil
}

// filter joins a filter with what is asked about.
func (a *answerer) filter(typed string) string {
	if len(a.selects) == 0 {
		return typed
	}
	conditions := strings.Join(a.selects, " and ")
	if strings.TrimSpace(typed) == "" {
		return conditions
	}
	return "(" + typed + ") and " + conditions
}

// typed makes an error about a joined filter one about what was typed, where it
// is that.
func (a *answerer) typed(err error, typed string) error {
	var e *filter.Error
	if err == nil || !errors.As(err, &e) || len(a.selects) == 0 || e.Expr != a.filter(typed) || strings.TrimSpace(typed) == "" {
		return err
	}
	pos, end := e.Pos-1, e.End-1 // behind the parenthesis
	if pos < 0 || end > len(typed) {
		pos, end = 0, len(typed) // all of it
	}
	return &filter.Error{Expr: typed, Pos: pos, End: end, Msg: e.Msg, Hint: e.Hint}
}

// What becomes of rows that say which nodes answered.
type rollCall uint8

const (
	keepRoll rollCall = iota // the reader tells
	dropRoll                 // they are told on standard error, and are no rows
	tellRoll                 // they are told, and stay rows
)

// lines watches an answer for rows that say which nodes answered.
func (a *answerer) lines(lines api.Lines, what rollCall, typed string) api.Lines {
	return func(yield func([]byte, error) bool) {
		var r record
		for line, err := range lines {
			err = a.typed(err, typed)
			if err == nil && a.cluster && r.parse(line) == nil && r.kind() == event.KindNodes {
				a.news = a.roll(&r)
				if what != keepRoll && a.news != "" {
					fmt.Fprintln(a.env.Stderr, a.env.program()+": "+a.news)
				}
				if what == dropRoll {
					continue
				}
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// roll remembers which nodes answered, and returns what there is to say about
// it, "" if nothing.
func (a *answerer) roll(r *record) string {
	all := r.num("nodes.answered") >= r.num("nodes.total")
	a.missing = !all
	say := screen{utf8: a.env.utf8()}
	text := say.detail(r).text
	if all && a.told == "" || text == a.told {
		return "" // as it should be, or known
	}
	a.told = text
	if all {
		a.told = ""
	}
	return text
}

// missingNodes tells which nodes did not answer a question whose answer is one
// object.
func (a *answerer) missingNodes(total int, missing []string) {
	if len(missing) == 0 {
		return
	}
	a.missing = true
	say := screen{utf8: a.env.utf8()}
	n := event.Nodes{Total: total, Answered: total - len(missing), Missing: missing}
	fmt.Fprintln(a.env.Stderr, a.env.program()+": "+say.safe(n.Sentence()))
}

// whole is what a command returns that has written a finite answer: nil, unless
// nodes are missing from it.
func (a *answerer) whole(err error) error {
	if err == nil && a.missing {
		return errIncomplete
	}
	return err
}

// errIncomplete ends a command whose answer is written but lacks nodes, which
// was told.
var errIncomplete = errors.New("nodes are missing from the answer")

// oneProcess checks the name of a process: on a cluster, pids are a node's.
func (a *answerer) oneProcess(id string) error {
	if a.cluster && isPID(id) && len(slices.Compact(slices.Sorted(slices.Values(a.nodes)))) != 1 {
		return usagef("process %s of which node? --node says; an exec id is one process of the whole cluster", id)
	}
	return nil
}
