package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/api"
	"warren/event"
)

// recentFlows is how many flows are shown unless somebody says otherwise.
const recentFlows = 20

// flowsCommand shows flows of packets with their verdicts.
func flowsCommand(g *globals) *command {
	var output, columns string
	var follow bool
	var last int
	var about selection
	var want flowSelection
	return &command{
		name:    "flows",
		args:    "[FILTER]",
		summary: "Show who talks to whom, and what became of the packets",
		about: "The last flows of packets from and to pods, each with its verdict and the rule behind it, where Warren connects pods. What was dropped is remembered longer than what was not. " +
			"FILTER is a condition on the fields of the kind flow. With --follow, flows are shown as they happen.\n\n" +
			"A flow is told when it begins, when its verdict or its state changes, now and then while it lasts, and when it ends; and from each end that is a pod of a node that answers. DIR says whose: " +
			"egress of the pod that began, judged by its policies, ingress of the pod that was asked, by its own. PROCESS is the process at that end. " +
			"POLICY is the rule that gave the verdict; what no rule matches is forwarded unless some policy isolates the pod, and then dropped: the nearest rule is named, with what it differs in.",
		examples: []example{
			{"warren flows", "The last flows"},
			{"warren flows --verdict dropped", "What was dropped, and why"},
			{"warren flows -f -n shop --port 5432", "Who talks to databases of a namespace, live"},
			{"warren flows --last 100 'flow.policy = shop/allow-frontend' -o wide", "What a policy has decided"},
			{"warren flows --direction egress --protocol udp -o json 'fd.rport != 53'", "Datagrams that pods send, for a script"},
		},
		cluster: []example{
			{"kubectl warren flows -n shop --verdict dropped", "What was dropped of the pods of a namespace, on all nodes"},
			{"kubectl warren flows -A -f --verdict dropped,audit", "What is dropped anywhere, or would be, live"},
			{"kubectl warren flows -n shop --pod frontend --last 50", "With whom a pod talks"},
		},
		flags: append([]*option{
			{long: "follow", short: "f", yes: &follow, doc: "show flows as they happen instead"},
			{long: "last", meta: "N", number: &last, doc: "the last N flows (default 20)"},
			{long: "verdict", meta: "VERDICTS", set: want.oneOf("flow.verdict", event.Verdicts()), doc: "only these: " + strings.Join(event.Verdicts(), ", ") + "; several by comma"},
			{long: "direction", meta: "WAY", set: want.oneOf("flow.direction", []string{"ingress", "egress"}), doc: "only flows that a pod was asked for (ingress), or that one began (egress)"},
			{long: "protocol", meta: "NAMES", set: want.protocols, doc: "only these protocols: tcp, udp, icmp, icmp6, sctp or a number; several by comma"},
			{long: "port", meta: "PORTS", set: want.ports, doc: "only with these ports at either end; several by comma"},
			{long: "pod", meta: "NAME", set: want.pods, doc: "only with this pod at either end: NAME or NAMESPACE/NAME, or what its name begins with"},
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "columns", short: "c", meta: "FIELDS", text: &columns, doc: "show these fields instead, separated by commas; also of JSON"},
		}, podFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			chosen, err := parseColumns(columns)
			if err != nil {
				return err
			}
			if follow && last > 0 {
				return usagef("--last is about what was, --follow about what is to come: leave out one of them")
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			who.selects = append(who.selects, want.conditions...)
			s := env.screen(output == "table")
			var st streamTable = &flowTable{screen: s, node: who.cluster, wide: output == "wide", follow: follow, now: env.Now}
			if chosen != nil {
				st = newFieldTable(env, chosen, output == "table")
			}
			typed := filterOf(args)
			q, err := who.question(api.Question{Filter: typed, Fields: append(st.fields(), "evt.time")})
			if err != nil {
				return err
			}
			out := newStream(env, st, who)
			switch {
			case output == "json":
				q.Fields = namesOf(chosen)
			case follow:
				out.ask(&q)
			}
			ctx, cancel := g.finite(ctx, follow)
			defer cancel()
			var lines api.Lines
			if follow {
				lines = who.FollowFlows(ctx, q)
			} else {
				q.Limit = cmp.Or(last, recentFlows)
				lines = who.Flows(ctx, q)
			}
			switch {
			case output == "json":
				err = writeJSON(env, who.lines(lines, tellRoll, typed))
			case follow:
				err = out.write(who.lines(lines, keepRoll, typed))
			default:
				err = writeFlows(env, who.lines(lines, dropRoll, typed), st)
			}
			if err == nil && follow {
				return who.left()
			}
			return who.whole(err)
		},
	}
}

// writeFlows writes those that were, and what is missing among them.
func writeFlows(env *Env, lines api.Lines, st streamTable) error {
	flows, err := readRecords(lines)
	if err != nil {
		return err
	}
	flows = slices.DeleteFunc(flows, func(r *record) bool {
		text := st.aside(r)
		if text != "" {
			fmt.Fprintln(env.Stderr, env.program()+": "+text)
		}
		return text != ""
	})
	out := &lazyWriter{out: env.Stdout}
	if err := writeRows(st.open(out), flows, st.row); err != nil {
		return err
	}
	return out.Flush()
}

// A flowSelection is what the flags of flows say, as conditions.
type flowSelection struct{ conditions []string }

// add adds a condition that one of several holds.
func (f *flowSelection) add(any []string) {
	c := strings.Join(any, " or ")
	if len(any) > 1 {
		c = "(" + c + ")"
	}
	f.conditions = append(f.conditions, c)
}

// oneOf returns what sets a flag whose values are words.
func (f *flowSelection) oneOf(field string, words []string) func(string) error {
	return func(v string) error {
		var any []string
		for word := range strings.SplitSeq(v, ",") {
			word = strings.ToLower(strings.TrimSpace(word))
			if !slices.Contains(words, word) {
				return usagef("takes %s, not %q", strings.Join(words, ", "), word)
			}
			any = append(any, field+" = "+word)
		}
		f.add(any)
		return nil
	}
}

// protocols sets --protocol.
func (f *flowSelection) protocols(v string) error {
	var any []string
	for name := range strings.SplitSeq(v, ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		switch name {
		case "tcp", "udp", "icmp", "icmp6", "sctp":
		case "icmpv6":
			name = "icmp6"
		default:
			n, err := strconv.ParseUint(name, 10, 8)
			if err != nil || n == 0 {
				return usagef("takes tcp, udp, icmp, icmp6, sctp or a number up to 255, not %q", name)
			}
			name = event.Proto(n).String()
		}
		any = append(any, "fd.l4proto = "+name)
	}
	f.add(any)
	return nil
}

// ports sets --port.
func (f *flowSelection) ports(v string) error {
	var any []string
	for port := range strings.SplitSeq(v, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(port), 10, 16)
		if err != nil || n == 0 {
			return usagef("takes ports from 1 to 65535, not %q", port)
		}
		any = append(any, "fd.port = "+strconv.FormatUint(n, 10))
	}
	f.add(any)
	return nil
}

// pods sets --pod.
func (f *flowSelection) pods(v string) error {
	var any []string
	for pod := range strings.SplitSeq(v, ",") {
		ns, name, both := strings.Cut(strings.TrimSpace(pod), "/")
		if !both {
			ns, name = "", ns
		}
		if badSubdomain(name) || both && badNamespace(ns) {
			return usagef("takes NAME or NAMESPACE/NAME of a pod, not %q", pod)
		}
		for _, end := range []string{"k8s.", "k8s.remote."} {
			c := end + "pod.name startswith " + quoteText(name)
			if both {
				c = "(" + c + " and " + end + "ns.name = " + quoteText(ns) + ")"
			}
			any = append(any, c)
		}
	}
	f.add(any)
	return nil
}

// A flowTable has the columns of flows.
type flowTable struct {
	screen screen
	node   bool
	wide   bool
	follow bool
	now    func() time.Time
}

func (ft *flowTable) open(out io.Writer) *table {
	cols := []column{{head: "TIME", min: 12}}
	if ft.wide {
		cols[0].min = 27
	}
	if ft.node {
		cols = append(cols, column{head: "NODE", min: 8, max: 24})
	}
	cols = append(cols, column{head: "SOURCE", min: 20, max: 44}, column{head: "DESTINATION", min: 20, max: 44}, column{head: "PROTO", min: 4, max: 5},
		column{head: "DIR", min: 7, spare: 2}, column{head: "VERDICT", min: 9}, column{head: "PROCESS", min: 12, max: 15, spare: 1})
	if ft.wide {
		cols = append(cols, column{head: "TYPE", min: 11}, column{head: "PID", min: 7, right: true}, column{head: "SENT", min: 8, right: true}, column{head: "RECV", min: 8, right: true},
			column{head: "DROPPED", min: 7, right: true}, column{head: "FLAGS", min: 12, max: 32}, column{head: "IDENTITY", min: 8, right: true}, column{head: "REMOTE-ID", min: 9, right: true},
			column{head: "INTERFACE", min: 9, max: 15}, column{head: "SERVICE", min: 8, max: 32})
	}
	return newTable(out, ft.screen, append(cols, column{head: "POLICY"}))
}

// flowFields are what the words of a flow are made of.
var flowFields = slices.Concat(endFields, []string{
	"fd.l4proto", "fd.is_server", "k8s.ns.name", "k8s.pod.name", "flow.verdict", "flow.direction", "flow.drop_reason",
	"flow.policy", "flow.rule", "flow.policy_tier", "flow.nearest", "flow.icmp_type", "flow.icmp_code",
})

func (ft *flowTable) fields() []string {
	names := slices.Concat([]string{"evt.time", "evt.kind", "evt.type", "proc.name"}, flowFields, []string{"lost.count", "lost.kind", "lost.lane", "lost.consumer"})
	if ft.node {
		names = append(names, "k8s.node.name")
	}
	if ft.wide {
		names = append(names, "proc.pid", "flow.bytes_sent", "flow.bytes_received", "flow.packets_dropped", "flow.tcp_flags_sent", "flow.tcp_flags_received",
			"flow.identity", "flow.remote_identity", "flow.interface", "flow.service")
	}
	return names
}

// aside tells losses, which are no flows.
func (ft *flowTable) aside(r *record) string {
	if r.kind() != event.KindLost {
		return ""
	}
	return ft.screen.lostDetail(r)
}

func (ft *flowTable) row(r *record) []cell {
	s := ft.screen
	at := r.time("evt.time").In(ft.now().Location())
	row := []cell{{text: at.Format("15:04:05.000"), color: dim}}
	if ft.wide {
		row[0].text = at.Format("2006-01-02T15:04:05.000000Z07:00")
	}
	if ft.node {
		row = append(row, cell{text: s.safe(r.str("k8s.node.name"))})
	}
	from, to := s.flowEnds(r)
	row = append(row, cell{text: from}, cell{text: to}, cell{text: s.safe(r.str("fd.l4proto"))}, cell{text: s.safe(r.str("flow.direction"))},
		cell{text: s.safe(r.str("flow.verdict")), color: verdictColor(r)}, cell{text: s.safe(r.str("proc.name"))})
	if ft.wide {
		dropped := ""
		if r.has("flow.packets_dropped") {
			dropped = s.safe(r.str("flow.packets_dropped"))
		}
		row = append(row, cell{text: s.safe(r.str("evt.type"))}, cell{text: s.safe(r.str("proc.pid"))},
			cell{text: byteCount(uint64(r.num("flow.bytes_sent")))}, cell{text: byteCount(uint64(r.num("flow.bytes_received")))}, cell{text: dropped},
			cell{text: s.flowFlags(r)}, cell{text: s.safe(r.str("flow.identity"))}, cell{text: s.safe(r.str("flow.remote_identity"))},
			cell{text: s.safe(r.str("flow.interface"))}, cell{text: s.safe(r.str("flow.service"))})
	}
	return append(row, cell{text: s.flowPolicy(r)})
}

func verdictColor(r *record) string {
	switch r.str("flow.verdict") {
	case "dropped":
		return red
	case "audit":
		return yellow
	}
	return green
}

// flowEnds returns both ends, client first: pods and others by name.
func (s screen) flowEnds(r *record) (from, to string) {
	near := ""
	if pod := r.str("k8s.pod.name"); pod != "" {
		near = s.safe(r.str("k8s.ns.name") + "/" + pod)
	}
	from, to = s.flowEnd(r, "l", near), s.flowEnd(r, "r", s.safe(cmp.Or(peerName(r), r.str("fd.rip.name"))))
	if r.yes("fd.is_server") {
		from, to = to, from
	}
	if r.has("flow.icmp_type") {
		to += " type " + s.safe(r.str("flow.icmp_type")) + " code " + s.safe(r.str("flow.icmp_code"))
	}
	return from, to
}

func (s screen) flowEnd(r *record, side, name string) string {
	if name == "" {
		return s.end(r, side)
	}
	if port := r.str("fd." + side + "port"); port != "" {
		name += ":" + s.safe(port)
	}
	return name
}

// flowFlags returns the flags of TCP that either end has sent, the near one's
// first.
func (s screen) flowFlags(r *record) string {
	sent, received := r.str("flow.tcp_flags_sent"), r.str("flow.tcp_flags_received")
	if sent == "" && received == "" {
		return ""
	}
	return s.safe(cmp.Or(sent, "-") + " / " + cmp.Or(received, "-"))
}

// flowPolicy says why a verdict is what it is.
func (s screen) flowPolicy(r *record) string {
	switch reason := r.str("flow.drop_reason"); {
	case r.has("flow.policy"):
		text := s.safe(r.str("flow.policy")) + " rule " + s.safe(r.str("flow.rule"))
		if tier := r.str("flow.policy_tier"); tier != "" && tier != "Network" {
			text += " (" + s.safe(strings.ToLower(tier)) + " tier)"
		}
		return text
	case reason == "policy_default":
		return event.NoRule(s.safe(r.str("flow.nearest")))
	case reason == "policy_denied":
		return "denied by policy"
	default:
		return s.safe(strings.ReplaceAll(reason, "_", " "))
	}
}

// flowDetail says it in one line, for streams of all kinds.
func (s screen) flowDetail(r *record) cell {
	from, to := s.flowEnds(r)
	c := cell{text: from + " -> " + to + " " + s.safe(r.str("fd.l4proto")) + " " + s.safe(r.str("flow.direction")) + " " + s.safe(r.str("flow.verdict"))}
	if why := s.flowPolicy(r); why != "" {
		c.text += ": " + why
	}
	if r.str("flow.verdict") != "forwarded" {
		c.color = verdictColor(r)
	}
	return c
}
