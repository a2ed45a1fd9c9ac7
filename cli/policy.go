package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"warren/api"
	"warren/cluster"
	"warren/netpol"
)

// A policyView is what network policies are about, as somebody answered.
type policyView struct {
	*answerer
	report api.PolicyReport
	world  *netpol.World
	pods   map[string]*cluster.Pod
}

// policies asks what policies are about, and who talked: of the namespace that
// the command is about.
func (g *globals) policies(ctx context.Context, env *Env, about *selection) (*policyView, error) {
	return g.ask(ctx, env, about, func(who *answerer) api.PolicyQuestion {
		q := api.PolicyQuestion{Nodes: who.nodes}
		if who.namespace != "" {
			q.Namespaces = []string{who.namespace}
		}
		return q
	})
}

// policyWorld asks what policies are about, of all namespaces: rules and addresses
// are about pods of others, too.
func (g *globals) policyWorld(ctx context.Context, env *Env, about *selection) (*policyView, error) {
	return g.ask(ctx, env, about, func(*answerer) api.PolicyQuestion { return api.PolicyQuestion{Part: api.PolicyWorld} })
}

func (g *globals) ask(ctx context.Context, env *Env, about *selection, what func(*answerer) api.PolicyQuestion) (*policyView, error) {
	who, err := g.answerer(env, about)
	if err != nil {
		return nil, err
	}
	ctx, cancel := g.finite(ctx, false)
	defer cancel()
	r, err := who.Policy(ctx, what(who))
	if err != nil {
		return nil, err
	}
	if !who.cluster {
		r = api.MergePolicyReports([]api.PolicyReport{r})
	}
	v := &policyView{answerer: who, report: r}
	v.world, v.pods = r.World()
	who.missingNodes(r.Total, r.Missing)
	return v, nil
}

// say tells on standard error what a reader must know of an answer.
func (v *policyView) say(format string, args ...any) {
	s := screen{utf8: v.env.utf8()}
	fmt.Fprintln(v.env.Stderr, v.env.program()+": "+s.safe(fmt.Sprintf(format, args...)))
}

// caveats tells what is not known.
func (v *policyView) caveats() {
	if v.report.Lost > 0 {
		v.say("%d events were lost on the way: some of what was allowed may not be here", v.report.Lost)
	}
	if v.report.Forgotten > 0 {
		v.say("there was no room for %d pairs of ends, silent for longest", v.report.Forgotten)
	}
	if len(v.report.Partial) > 0 {
		v.say("you may not see all pods of %s, nor policies: rules about them may match others too, and what is denied there is not known", strings.Join(v.report.Partial, ", "))
	}
}

// A named is what somebody typed as one end: "front", "shop/front",
// "10.0.0.1", each with ":8080" where a port is wanted.
type named struct {
	namespace string // "" is that of the command
	name      string
	addr      netip.Addr // of what is no name
	port      uint16
}

// parseNamed reads one end of a packet.
func parseNamed(flag, text string, port bool) (n named, err error) {
	name := text
	if port {
		i := strings.LastIndexByte(text, ':')
		if i < 0 {
			return n, usagef("%s takes a pod, a workload or an address, and a port, like db:5432, not %q", flag, text)
		}
		number, err := strconv.ParseUint(text[i+1:], 10, 16)
		if err != nil || number == 0 {
			return n, usagef("%s takes a port from 1 to 65535 behind the colon, not %q", flag, text[i+1:])
		}
		n.port, name = uint16(number), text[:i]
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		name, ok = strings.CutSuffix(inner, "]")
		if !ok {
			return n, usagef("%s has [ without ] in %q", flag, text)
		}
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		n.addr = addr.Unmap().WithZone("")
		return n, nil
	}
	if ns, pod, ok := strings.Cut(name, "/"); ok {
		if badNamespace(ns) {
			return n, usagef("%s: %q is not the name of a namespace", flag, ns)
		}
		n.namespace, name = ns, pod
	}
	if name == "" || badSubdomain(name) {
		return n, usagef("%s takes a pod, a workload or an address, not %q", flag, text)
	}
	n.name = name
	return n, nil
}

// find returns the address that stands for an end: that of the pod of this name,
// or of one pod of the workload of this name. Ends have addresses of one family,
// which is IPv4 where both have it.
func (v *policyView) find(n named) (*cluster.Pod, error) {
	ns := cmp.Or(n.namespace, v.namespace)
	var found *cluster.Pod
	better := func(p *cluster.Pod) bool {
		return found == nil || found.Name != n.name && (p.Name == n.name || p.Name < found.Name)
	}
	for _, p := range v.world.Pods {
		if (ns == "" || p.Namespace == ns) && (p.Name == n.name || p.Workload.Name == n.name) && len(p.Addrs) > 0 && better(p) {
			found = p
		}
	}
	switch {
	case found != nil:
		return found, nil
	case ns == "":
		return nil, fmt.Errorf("no pod and no workload is called %s, with an address", n.name)
	}
	return nil, fmt.Errorf("namespace %s has no pod and no workload called %s, with an address", ns, n.name)
}

// packet returns the first packet from one end to the other.
func (v *policyView) packet(from, to named, protocol uint8) (netpol.Packet, error) {
	addrs := func(n named) ([]netip.Addr, error) {
		if n.addr.IsValid() {
			return []netip.Addr{n.addr}, nil
		}
		p, err := v.find(n)
		if err != nil {
			return nil, err
		}
		return p.Addrs, nil
	}
	src, err := addrs(from)
	if err != nil {
		return netpol.Packet{}, err
	}
	dst, err := addrs(to)
	if err != nil {
		return netpol.Packet{}, err
	}
	for _, is4 := range []bool{true, false} {
		family := func(a netip.Addr) bool { return a.Is4() == is4 }
		s, d := slices.IndexFunc(src, family), slices.IndexFunc(dst, family)
		if s >= 0 && d >= 0 {
			return netpol.Packet{Src: src[s], Dst: dst[d], Protocol: protocol, Port: to.port}, nil
		}
	}
	return netpol.Packet{}, fmt.Errorf("%s and %s have no addresses of the same family", addrText(src), addrText(dst))
}

func addrText(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// policyProtocols are the protocols that policies tell apart.
var policyProtocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}

// portText names a port of a protocol: "tcp/5432", "icmp".
func portText(protocol uint8, port uint16) string {
	for name, number := range policyProtocols {
		if number == protocol {
			return fmt.Sprintf("%s/%d", name, port)
		}
	}
	switch protocol {
	case 1:
		return "icmp"
	case 58:
		return "icmp6"
	}
	return fmt.Sprintf("protocol %d", protocol)
}

// writeValue writes an answer as JSON.
func writeValue[T any](env *Env, v T) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	return writeObject(env, b.Bytes())
}
