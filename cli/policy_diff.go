package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"warren/cluster"
	"warren/netpol"
)

// mostPolicyFile is how many bytes of policies are read.
const mostPolicyFile = 32 << 20

// policyDiffCommand says what policies in a file would change.
func policyDiffCommand(g *globals) *command {
	var output string
	var about selection
	return &command{
		name:    "policy diff",
		args:    "FILE",
		summary: "Tell what the policies of a file would change of what was seen",
		about: "The flows that are remembered are judged by the policies that there are, and by those with the file's in their place or beside them: " +
			"what would be denied that is allowed now, and allowed that is denied, each with the rule. FILE is YAML of NetworkPolicies and ClusterNetworkPolicies, - is standard input.\n\n" +
			"What nobody did while the agents looked is not there.",
		examples: []example{
			{"warren policy diff -n shop shop.yaml", "On a node of a cluster"},
		},
		cluster: []example{
			{"kubectl warren policy diff -n shop shop.yaml", "Before kubectl apply"},
			{"kubectl warren policy diff -A tier.yaml", "A policy of the whole cluster"},
		},
		flags: append(append([]*option{outputFlag(&output, "", "table", "json")}, namespaceFlags(g, &about)...), nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which file? - is standard input")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			text, err := readPolicies(env, args[0])
			if err != nil {
				return err
			}
			v, err := g.policies(ctx, env, &about)
			if err != nil {
				return err
			}
			if env.Policies == nil {
				return errors.New("this program reads no policies")
			}
			policies, err := env.Policies(text, v.namespace)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return v.whole(v.diff(policies, output))
		},
	}
}

func readPolicies(env *Env, name string) ([]byte, error) {
	in := env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	if in == nil {
		return nil, usagef("there is no standard input")
	}
	text, err := io.ReadAll(io.LimitReader(in, mostPolicyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > mostPolicyFile {
		return nil, fmt.Errorf("%s has more than %d MiB", name, mostPolicyFile>>20)
	}
	return text, nil
}

// with returns the world with some policies in the place of those of the same
// names, or beside them.
func with(w *netpol.World, policies []*cluster.Policy) *netpol.World {
	after := *w
	same := func(a, b *cluster.Policy) bool {
		return a.Namespace == b.Namespace && a.Name == b.Name && (a.Tier == cluster.NetworkTier) == (b.Tier == cluster.NetworkTier)
	}
	after.Policies = slices.DeleteFunc(slices.Clone(w.Policies), func(p *cluster.Policy) bool {
		return slices.ContainsFunc(policies, func(n *cluster.Policy) bool { return same(p, n) })
	})
	for i, p := range policies {
		named := *p
		named.UID = "file/" + strconv.Itoa(i)
		after.Policies = append(after.Policies, &named)
	}
	return &after
}

// A policyChange is what would become another of what was seen.
type policyChange struct {
	Change   string `json:"change"` // denied or allowed
	From     string `json:"from"`
	To       string `json:"to"`
	Protocol string `json:"port"`
	Flows    uint64 `json:"flows"`
	Last     string `json:"last"`
	Before   string `json:"before"`
	After    string `json:"after"`
}

// diff writes what policies would change.
func (v *policyView) diff(policies []*cluster.Policy, output string) error {
	before, after := v.world.Index(), with(v.world, policies).Index()
	there := make(map[*cluster.Pod]bool, len(v.world.Pods))
	for _, p := range v.world.Pods {
		there[p] = true
	}
	var changes []policyChange
	judged := 0
	for _, dropped := range []bool{false, true} {
		for _, o := range v.report.Observations(v.world, v.pods, dropped) {
			judged++
			was, is := becomes(before, &o, there), becomes(after, &o, there)
			if was.Verdict() == is.Verdict() {
				continue
			}
			c := policyChange{Change: "denied", From: o.From.String(), To: o.To.String(), Protocol: portText(o.Protocol, o.Port), Flows: o.Count,
				Last: day(o.Last.In(v.env.Now().Location()), v.env.Now()), Before: deciding(was), After: deciding(is)}
			if is.Verdict() != netpol.Deny {
				c.Change = "allowed"
			}
			changes = append(changes, c)
		}
	}
	slices.SortStableFunc(changes, func(a, b policyChange) int {
		return cmp.Or(-cmp.Compare(a.Change, b.Change), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Protocol, b.Protocol))
	})
	if output == "json" {
		return writeValue(v.env, changes)
	}
	out := &lazyWriter{out: v.env.Stdout}
	s := v.env.screen(true)
	t := newTable(out, s, []column{{head: "WOULD BE"}, {head: "FROM", min: 12, max: 48}, {head: "TO", min: 12, max: 48}, {head: "PORT"},
		{head: "FLOWS", right: true}, {head: "LAST", spare: 1}, {head: "NOW", min: 12, max: 48}, {head: "THEN", min: 12, max: 60}})
	rows := make([][]cell, len(changes))
	for i, c := range changes {
		color := red
		if c.Change == "allowed" {
			color = green
		}
		rows[i] = []cell{{text: c.Change, color: color}, {text: s.safe(c.From)}, {text: s.safe(c.To)}, {text: c.Protocol},
			{text: strconv.FormatUint(c.Flows, 10)}, {text: c.Last}, {text: s.safe(c.Before)}, {text: s.safe(c.After)}}
	}
	if len(rows) > 0 {
		if err := t.rows(rows); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, p := range policies {
		for _, problem := range p.Problems {
			v.say("%s: %s", p.Name, problem)
		}
	}
	v.say("of %d pairs that talked since %s, %d would change", judged, day(v.report.Since.In(v.env.Now().Location()), v.env.Now()), len(changes))
	v.caveats()
	return nil
}

// becomes explains what becomes of an observation; pods that are there no more
// have their addresses again for it.
func becomes(w *netpol.World, o *netpol.Observation, there map[*cluster.Pod]bool) netpol.Explanation {
	gone := func(p *cluster.Pod) *cluster.Pod {
		if there[p] {
			return nil
		}
		return p
	}
	p := netpol.Packet{Src: o.From.Addr, Dst: o.To.Addr, Protocol: o.Protocol, Port: o.Port}
	return netpol.ExplainBetween(p, gone(o.From.Pod), gone(o.To.Pod), w)
}

// deciding is the rule that decides, of the end that denies where one does.
func deciding(e netpol.Explanation) string {
	r := e.Egress
	if r.Verdict != netpol.Deny && e.Ingress.Verdict != netpol.Unjudged {
		r = e.Ingress
	}
	return r.String()
}
