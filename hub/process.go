package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"warren/api"
)

// processTime is how long agents have to find a process.
const processTime = 5 * time.Second

// A found is what a node knows of a process.
type found struct {
	node string
	json []byte
}

// serveProcess answers with everything known of one process. An exec id is one
// process of the cluster; a pid can be on several nodes, and has to be asked for
// with its node then.
func (h *hub) serveProcess(w http.ResponseWriter, req *http.Request, q api.Query) error {
	nodes, err := q.List("node")
	if err != nil {
		return err
	}
	v, done, err := h.enter(req.Context(), req.URL.Path)
	if err != nil {
		return err
	}
	defer done()
	id := req.PathValue("id")
	var mu sync.Mutex
	var all []found
	t := h.agents.each(req.Context(), nodes, processTime, func(ctx context.Context, node string, g *agent) error {
		b, err := g.client.Process(ctx, id)
		var e *api.Error
		if errors.As(err, &e) && e.Status == http.StatusNotFound {
			return nil // that is an answer
		}
		if err == nil {
			mu.Lock()
			all = append(all, found{node, b})
			mu.Unlock()
		}
		return err
	})
	if e := t.refusal(); e != nil {
		return e
	}
	var seen []found
	for _, f := range all {
		b, ok, err := v.process(f.json)
		switch {
		case err != nil:
			return err
		case ok:
			seen = append(seen, found{f.node, b})
		}
	}
	switch n := t.nodesEvent(); {
	case len(seen) == 1:
		return writeBytes(w, append(seen[0].json, '\n'))
	case len(seen) > 1:
		var names []string
		for _, f := range seen {
			names = append(names, f.node)
		}
		slices.Sort(names)
		e := api.BadRequest("several nodes have a process %s: %s", printable(id), strings.Join(names, ", "))
		e.Hint = "say which with node=" + names[0]
		return e
	case len(n.Missing) > 0:
		return api.NotFound("no process %s is known: %s", printable(id), n.Sentence())
	}
	return api.NotFound("no process %s is known", printable(id))
}

// printable quotes what a client sent, for a message.
func printable(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// process returns what is told of a process in the view, and whether it is in
// the view at all. Relatives that are not are left out.
func (v *view) process(b []byte) ([]byte, bool, error) {
	if v.all {
		return b, true, nil
	}
	var p map[string]json.RawMessage
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, false, err
	}
	if !v.sees(namespaceOf(p)) {
		return nil, false, nil
	}
	for _, list := range []string{"ancestors", "children", "connections"} {
		var rows []json.RawMessage
		if p[list] == nil {
			continue
		}
		if err := json.Unmarshal(p[list], &rows); err != nil {
			return nil, false, err
		}
		rows = slices.DeleteFunc(rows, func(r json.RawMessage) bool {
			var one map[string]json.RawMessage
			return json.Unmarshal(r, &one) != nil || !v.sees(namespaceOf(one))
		})
		p[list] = slices.Concat([]byte("["), joined(rows), []byte("]"))
	}
	// Who had the pid before may have been anybody.
	p["others"] = json.RawMessage("[]")
	out, err := json.Marshal(p)
	return out, true, err
}

func joined(rows []json.RawMessage) (b []byte) {
	for i, r := range rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, r...)
	}
	return b
}

// namespaceOf returns the namespace of a row, "" where it has none.
func namespaceOf(row map[string]json.RawMessage) (ns string) {
	if json.Unmarshal(row["k8s.ns.name"], &ns) != nil {
		return ""
	}
	return ns
}
