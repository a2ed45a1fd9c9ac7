package api

import (
	"net/http"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
)

// The lists and streams of rows, below the root of the API (/v1): paths of
// [Client.Rows] and [ParseQuestion].
const (
	PathEvents      = "/events"
	PathProcesses   = "/processes"
	PathConnections = "/connections"
	PathFlows       = "/flows"
)

// A listing is a path that answers rows.
type listing struct {
	path, row string
	kinds     event.KindSet // of its rows
	follow    bool          // whether it follows unless told otherwise
	params    []string      // beside those of every listing
}

// listings are all of them. watch says to servers between client and agent that
// the answer does not end; to us follow does.
var listings = []listing{
	{PathEvents, "event", event.AllKinds &^ event.StateKinds, true, []string{"follow", "limit", "since", "until", "watch"}},
	{PathProcesses, "process", event.Kinds(event.KindProcess), false, []string{"at", "exited"}},
	{PathConnections, "connection", event.Kinds(event.KindConnection), false, []string{"follow", "since", "until", "watch"}},
	{PathFlows, "flow", event.Kinds(event.KindFlow), false, []string{"follow", "limit", "watch"}},
}

func lookupListing(path string) listing {
	for _, l := range listings {
		if l.path == path {
			return l
		}
	}
	return listing{path: path, row: "row"} // of which nothing can match
}

// Params returns the parameters that a list or stream takes: [PathEvents] and
// the others.
func Params(path string) []string {
	return append([]string{"filter", "fields", "node"}, lookupListing(path).params...)
}

// An Asked is what a list or a stream was asked for, checked: what became of a
// client's [Question].
type Asked struct {
	Filter *filter.Program
	Fields *event.Selection // nil for all
	Follow bool
	Limit  int      // 0 for none
	Exited bool     // of processes: also those that have ended
	Nodes  []string // of which nodes; nil for all
	// Since and Until bound the past that is asked for, At is the moment of which a
	// list is; zero is none.
	Since, Until, At time.Time

	question Question
}

// past reports whether the past is asked for.
func (a *Asked) past() bool { return !a.Since.IsZero() || !a.Until.IsZero() || !a.At.IsZero() }

// Question returns what was asked in the form in which it is asked of others.
func (a Asked) Question() Question { return a.question }

// ParseQuestion checks what a list or stream, [PathEvents] or another, is asked
// for. A filter that none of its rows can match is an error. Errors are those
// for the client.
func ParseQuestion(path string, q Query) (a Asked, err error) {
	l := lookupListing(path)
	if a.Filter, err = q.Filter(); err != nil {
		return a, err
	}
	if a.Filter.Interest().Kinds()&l.kinds == 0 {
		return a, cannotMatch(q, a.Filter, l.row)
	}
	if a.Fields, err = q.Fields(); err != nil {
		return a, err
	}
	if err = a.times(q, time.Now()); err != nil {
		return a, err
	}
	if a.Follow, err = q.Bool("follow", l.follow && !a.past()); err != nil {
		return a, err
	}
	if a.Follow && !a.Until.IsZero() {
		return a, BadRequest("until ends an answer, and with follow it has no end")
	}
	if _, err = q.Bool("watch", false); err != nil {
		return a, err
	}
	if a.Exited, err = q.Bool("exited", false); err != nil {
		return a, err
	}
	if a.Limit, err = q.Count("limit"); err != nil {
		return a, err
	}
	if a.Nodes, err = q.List("node"); err != nil {
		return a, err
	}
	a.question = Question{Filter: q["filter"], Limit: a.Limit, Exited: a.Exited, Nodes: a.Nodes, Since: a.Since, Until: a.Until, At: a.At}
	if list, ok := q["fields"]; ok {
		a.question.Fields = strings.Split(list, ",")
	}
	return a, nil
}

// times reads the bounds of what is asked for, at the time now.
func (a *Asked) times(q Query, now time.Time) (err error) {
	if a.Since, a.Until, err = q.Span(now); err != nil {
		return err
	}
	if a.At, err = q.Moment("at", now); err != nil {
		return err
	}
	return nil
}

// cannotMatch says that a list would be empty whatever happens: the filter
// speaks of something else.
func cannotMatch(q Query, prog *filter.Program, row string) error {
	expr, pos, end := q["filter"], 0, len(q["filter"])
	kinds := prog.Interest().Kinds()
	wants := "events of kind " + kinds.String()
	switch {
	case kinds == 0:
		wants = "what cannot be at the same time"
	case row == "event":
		wants = "kind " + kinds.String() + ", of which there are rows in lists and no events"
	}
	return &Error{Status: http.StatusBadRequest, Message: "no " + row + " can match: the filter wants " + wants, Expr: &expr, Pos: &pos, End: &end}
}
