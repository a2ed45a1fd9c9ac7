package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// PathWho answers who reached an address or a name, below the root of the API.
const PathWho = "/who"

// A WhoQuestion asks which programs had connections with an address, a network or
// a name.
type WhoQuestion struct {
	// To is what was reached: see [ParseTarget].
	To string
	// Filter is a further condition, on events of kind connection.
	Filter string
	// Since and Until bound the time; zero is no bound.
	Since, Until time.Time
	// Limit, if it is above 0, is how many rows are told, those of most connections;
	// never more than some thousands are.
	Limit int
	// Nodes asks a hub for those nodes of the cluster only.
	Nodes []string
	// Progress, if it is not nil, is told now and then how far the answer is, before
	// there is one. One goroutine at a time calls it.
	Progress func(WhoProgress)
}

// A Target is what somebody may have reached: an address or network, or a name.
type Target struct {
	Net  netip.Prefix // of one address, or of many; invalid for a name
	Name string       // lower case, without the last dot
	// Below says that names below Name are meant: *.example.com.
	Below bool
	Port  uint16 // 0 for any
}

// ParseTarget reads an address, a network (203.0.113.0/24) or a name, which may
// begin with *. for all names below it; behind a colon a port, and IPv6 addresses
// with a port in brackets.
func ParseTarget(text string) (t Target, err error) {
	wrong := fmt.Errorf("%q is no address, network or name, like 203.0.113.7, 10.0.0.0/8, [2001:db8::1]:443, example.com:443 or *.example.com", text)
	host := text
	if p, err := netip.ParsePrefix(text); err == nil {
		t.Net = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked()
		if p.Addr().Is4In6() {
			return t, wrong
		}
		return t, nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		t.Net = netip.PrefixFrom(a, a.BitLen())
		return t, nil
	}
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		port, err := strconv.ParseUint(text[i+1:], 10, 16)
		if err != nil || port == 0 {
			return t, wrong
		}
		t.Port, host = uint16(port), text[:i]
		if in, ok := strings.CutPrefix(host, "["); ok {
			if host, ok = strings.CutSuffix(in, "]"); !ok {
				return t, wrong
			}
		} else if strings.Contains(host, ":") {
			return t, wrong // where does the address end?
		}
		if p, err := netip.ParsePrefix(host); err == nil {
			t.Net = p.Masked()
			return t, nil
		}
		if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
			a = a.Unmap()
			t.Net = netip.PrefixFrom(a, a.BitLen())
			return t, nil
		}
	}
	t.Name = strings.TrimSuffix(strings.ToLower(host), ".")
	if below, ok := strings.CutPrefix(t.Name, "*."); ok {
		t.Name, t.Below = below, true
	}
	if !isName(t.Name) {
		return t, wrong
	}
	return t, nil
}

// isName reports whether a text can be a name in DNS that somebody looks for. What
// has only digits and dots is an address that is none.
func isName(s string) bool {
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\/[]{}()<>,;:*?`, r) })
}

// String returns the target as ParseTarget reads it.
func (t Target) String() string {
	host := t.Name
	switch {
	case t.Below:
		host = "*." + t.Name
	case t.Net.IsValid() && t.Net.IsSingleIP():
		host = t.Net.Addr().String()
	case t.Net.IsValid():
		host = t.Net.String()
	}
	if t.Port == 0 {
		return host
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(t.Port))
}

// names reports whether the target is, or is above, a name.
func (t *Target) names(name string) bool {
	if name == "" || t.Name == "" {
		return false
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	return !t.Below && name == t.Name || t.Below && strings.HasSuffix(name, "."+t.Name)
}

// A Who says which programs had connections with a target.
type Who struct {
	// To is the target as it was understood.
	To string `json:"to"`
	// Since and Until are the span that was looked at: Since is not before what is
	// kept.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// NoHistory says why only what is going on was looked at.
	NoHistory string `json:"no_history,omitempty"`
	// Failing says what the history cannot do at present. What it has was
	// looked at; what happens may be missing there later.
	Failing string `json:"history_failing,omitempty"`
	// Addresses are those that DNS gave the name in that time; of an address, Names
	// are the names that it was reached by.
	Addresses []WhoAddress `json:"addresses"`
	Rows      []WhoRow     `json:"rows"`
	// More counts connections of rows that there was no room for.
	More uint64 `json:"more,omitempty"`
	// Lost counts events of any kind that were lost in that time: figures may be
	// too low.
	Lost uint64 `json:"lost,omitempty"`
	// Broken segments of the history, of whatever time, cannot be read, or not all of
	// them: what they had may be missing.
	Broken int `json:"broken_segments,omitempty"`
	// Gaps are the times of it in which nothing was kept: the last thousand, and
	// MoreGaps counts those before.
	Gaps     []HistoryGap `json:"gaps,omitempty"`
	MoreGaps int          `json:"more_gaps,omitempty"`
	// Total is how many agents a hub asked, and Missing those that did not
	// answer, each with the reason: "node-2: connection refused".
	Total   int      `json:"nodes_total,omitempty"`
	Missing []string `json:"nodes_missing,omitempty"`
}

// A WhoAddress is an address that had a name.
type WhoAddress struct {
	Address string `json:"address"`
	Name    string `json:"name"`
	// First and Last are when this machine was answered so.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// A WhoRow is what processes of one executable did that were started in the same
// way, in the same container, by the same user.
type WhoRow struct {
	Node      string `json:"k8s.node.name,omitempty"`
	Name      string `json:"proc.name,omitempty"`
	ExePath   string `json:"proc.exepath,omitempty"`
	User      string `json:"user.name,omitempty"`
	UID       uint32 `json:"user.uid"`
	LoginName string `json:"user.loginname,omitempty"`
	Container string `json:"container.name,omitempty"`
	// ContainerID is host outside containers, as everywhere.
	ContainerID string `json:"container.id,omitempty"`
	Image       string `json:"container.image,omitempty"`
	Namespace   string `json:"k8s.ns.name,omitempty"`
	Pod         string `json:"k8s.pod.name,omitempty"`
	Unit        string `json:"proc.unit,omitempty"`
	// Ancestry are those who started the processes, nearest first: up to the first
	// process of the container, or of the session and who began that.
	Ancestry []WhoAncestor `json:"ancestry"`
	// Direction is out, or in where the target connected to here.
	Direction string `json:"conn.direction"`

	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Connections were begun in the time, or earlier and went on; Open of them go
	// on. Failed never came to be.
	Connections uint64 `json:"connections"`
	Open        uint64 `json:"open"`
	Failed      uint64 `json:"failed"`
	Sent        uint64 `json:"bytes_sent"`
	Received    uint64 `json:"bytes_received"`
	// Processes is how many there were; ExecID and Cmdline are the last one's.
	Processes int    `json:"processes"`
	PID       uint32 `json:"proc.pid"`
	ExecID    string `json:"proc.exec_id,omitempty"`
	Cmdline   string `json:"proc.cmdline,omitempty"`
	// Ends are what was reached, with the protocol and, where it had one at that
	// time, the name: tcp 203.0.113.7:443 example.com. Not more than some are told.
	Ends     []string `json:"ends"`
	MoreEnds int      `json:"more_ends,omitempty"`

	key whoKey
}

// A WhoAncestor is one of those who started a process.
type WhoAncestor struct {
	PID     uint32 `json:"proc.pid"`
	Name    string `json:"proc.name"`
	ExePath string `json:"proc.exepath,omitempty"`
	ExecID  string `json:"proc.exec_id"`
	Cmdline string `json:"proc.cmdline,omitempty"`
}

// WhoRoute returns the route of who, which answer answers: to who asks for lines, with
// signs of life before. A client that reads nothing for stall is disconnected.
func WhoRoute(stall time.Duration, answer func(ctx context.Context, q WhoQuestion) (Who, error)) Route {
	return Route{Pattern: "/v1" + PathWho, Params: []string{"to", "filter", "since", "until", "limit", "node"}, Handle: func(w http.ResponseWriter, req *http.Request, q Query) error {
		asked, err := parseWho(q, time.Now())
		if err != nil {
			return err
		}
		if wants(req, linesType) {
			return writeWho(w, req, stall, asked, answer)
		}
		w.Header().Add("Vary", "Accept")
		who, err := answer(req.Context(), asked)
		if err != nil {
			return err
		}
		return WriteJSON(w, who)
	}}
}

func parseWho(q Query, now time.Time) (asked WhoQuestion, err error) {
	asked = WhoQuestion{To: q["to"], Filter: q["filter"]}
	if _, ok := q["to"]; !ok {
		return asked, BadRequest("parameter to is missing: who reached what?")
	}
	if _, err := ParseTarget(asked.To); err != nil {
		return asked, BadRequest("parameter to: %v", err)
	}
	prog, err := q.Filter()
	if err != nil {
		return asked, err
	}
	if !prog.Kinds().Has(event.KindConnection) {
		return asked, cannotMatch(q, prog, "connection")
	}
	if asked.Since, asked.Until, err = q.Span(now); err != nil {
		return asked, err
	}
	if asked.Limit, err = q.Count("limit"); err != nil {
		return asked, err
	}
	asked.Nodes, err = q.List("node")
	return asked, err
}

// Who returns which programs had connections with a target.
func (c *Client) Who(ctx context.Context, q WhoQuestion) (Who, error) {
	v := nodeValues(q.Nodes)
	v.Set("to", q.To)
	set(v, "filter", q.Filter)
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	if q.Progress != nil {
		return c.readWho(ctx, v, q.Progress)
	}
	b, err := c.object(ctx, PathWho, v)
	if err != nil {
		return Who{}, err
	}
	var who Who
	if err := json.Unmarshal(b, &who); err != nil {
		return Who{}, fmt.Errorf("read who it was: %w", err)
	}
	return who, nil
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

// MergeWho puts together what the agents of several nodes told, each with the
// node it is of in its rows.
func MergeWho(all []Who) Who {
	out := Who{Addresses: []WhoAddress{}, Rows: []WhoRow{}}
	for i, w := range all {
		if i == 0 {
			out.To, out.Since, out.Until = w.To, w.Since, w.Until
		}
		if w.Since.Before(out.Since) {
			out.Since = w.Since
		}
		if w.Until.After(out.Until) {
			out.Until = w.Until
		}
		out.NoHistory, out.Failing = cmp.Or(out.NoHistory, w.NoHistory), cmp.Or(out.Failing, w.Failing)
		out.More += w.More
		out.Lost += w.Lost
		out.Broken += w.Broken
		out.Gaps, out.MoreGaps = append(out.Gaps, w.Gaps...), out.MoreGaps+w.MoreGaps
		out.Rows = append(out.Rows, w.Rows...)
		for _, a := range w.Addresses {
			at := slices.IndexFunc(out.Addresses, func(b WhoAddress) bool { return b.Address == a.Address && b.Name == a.Name })
			if at < 0 {
				out.Addresses = append(out.Addresses, a)
				continue
			}
			known := &out.Addresses[at]
			if a.First.Before(known.First) {
				known.First = a.First
			}
			if a.Last.After(known.Last) {
				known.Last = a.Last
			}
		}
	}
	out.sort()
	out.Gaps, out.MoreGaps = lastGaps(out.Gaps, out.MoreGaps)
	return out
}

// sort puts what happened last first.
func (w *Who) sort() {
	slices.SortFunc(w.Rows, func(a, b WhoRow) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ExePath, b.ExePath), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ExecID, b.ExecID))
	})
	slices.SortFunc(w.Gaps, func(a, b HistoryGap) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Node, b.Node))
	})
	slices.SortFunc(w.Addresses, func(a, b WhoAddress) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Name, b.Name))
	})
}

// Last returns w with the limit rows of what happened last, or as many as any
// answer has, where limit is 0.
func (w Who) Last(limit int) Who {
	if most := cmp.Or(limit, mostWho); len(w.Rows) > most {
		for _, r := range w.Rows[most:] {
			w.More += r.Connections + r.Failed
		}
		w.Rows = slices.Clip(w.Rows[:most])
	}
	return w
}

// Restrict returns the part of w that may be seen by whom may reports the
// namespaces of; "" stands for what is in none. By which names an address was
// reached is whole nodes' business, and left out.
func (w Who) Restrict(may func(namespace string) bool) Who {
	w.Rows = slices.DeleteFunc(slices.Clone(w.Rows), func(r WhoRow) bool { return !may(r.Namespace) })
	w.Addresses, w.More = []WhoAddress{}, 0
	return w
}
