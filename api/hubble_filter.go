package api

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A FlowFilter picks flows: those that one of the filters of the white list
// matches, or all without one, and that none of the black list does. A filter
// matches when each of its fields does; a field, when one of its values does.
// It can be used by several goroutines at a time.
type FlowFilter struct {
	white, black []flowTests
}

// flowTests are the fields of one filter.
type flowTests []flowTest

// A flowTest is one field: it reports whether a flow has one of its values.
type flowTest func(*flowpb.Flow) bool

// NewFlowFilter checks and compiles filters. The error is a status of gRPC that
// names the field: InvalidArgument for a value that makes no sense, and
// Unimplemented for a field that is not supported. No field is passed over.
func NewFlowFilter(white, black []*flowpb.FlowFilter) (*FlowFilter, error) {
	f := &FlowFilter{}
	var err error
	if f.white, err = compileFlowFilters(white); err != nil {
		return nil, err
	}
	if f.black, err = compileFlowFilters(black); err != nil {
		return nil, err
	}
	return f, nil
}

// Match reports whether the filter picks a flow.
func (f *FlowFilter) Match(flow *flowpb.Flow) bool {
	matches := func(t flowTests) bool { return t.match(flow) }
	return (len(f.white) == 0 || slices.ContainsFunc(f.white, matches)) && !slices.ContainsFunc(f.black, matches)
}

// all reports whether the filter picks every flow.
func (f *FlowFilter) all() bool {
	everything := func(t flowTests) bool { return len(t) == 0 }
	return len(f.black) == 0 && (len(f.white) == 0 || slices.ContainsFunc(f.white, everything))
}

func (t flowTests) match(flow *flowpb.Flow) bool {
	for _, test := range t {
		if !test(flow) {
			return false
		}
	}
	return true
}

// invalid says which field of a request makes no sense.
func invalid(field, format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "%s: %s", field, fmt.Sprintf(format, args...))
}

func compileFlowFilters(list []*flowpb.FlowFilter) ([]flowTests, error) {
	var all []flowTests
	for _, f := range list {
		if f == nil {
			f = &flowpb.FlowFilter{}
		}
		t, err := compileFlowFilter(f)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// compileFlowFilter makes tests of the fields that are set, the cheapest first.
func compileFlowFilter(f *flowpb.FlowFilter) (flowTests, error) {
	if unknownFields(f) {
		return nil, status.Error(codes.Unimplemented, "the filter has a field that this server does not know: it is newer than Hubble 1.20")
	}
	if len(f.GetExperimental().GetCelExpression()) > 0 {
		return nil, status.Error(codes.Unimplemented, "experimental.cel_expression: expressions of CEL are not supported; the other filters are, and several can be combined")
	}
	var tests flowTests
	for _, compile := range flowFields {
		t, err := compile(f)
		if err != nil {
			return nil, err
		}
		if t != nil {
			tests = append(tests, t)
		}
	}
	return tests, nil
}

// flowFields makes the tests of a filter, nil for a field that is not set.
var flowFields = []func(*flowpb.FlowFilter) (flowTest, error){
	plain((*flowpb.FlowFilter).GetVerdict, (*flowpb.Flow).GetVerdict),
	plain((*flowpb.FlowFilter).GetTrafficDirection, (*flowpb.Flow).GetTrafficDirection),
	plain((*flowpb.FlowFilter).GetUuid, (*flowpb.Flow).GetUuid),
	listed((*flowpb.FlowFilter).GetSourceIdentity, func(id uint32, f *flowpb.Flow) bool { return matchIdentity(id, f.GetSource()) }),
	listed((*flowpb.FlowFilter).GetDestinationIdentity, func(id uint32, f *flowpb.Flow) bool { return matchIdentity(id, f.GetDestination()) }),
	plain((*flowpb.FlowFilter).GetIpVersion, func(f *flowpb.Flow) flowpb.IPVersion { return f.GetIP().GetIpVersion() }),
	plain((*flowpb.FlowFilter).GetEncrypted, func(f *flowpb.Flow) bool { return f.GetIP().GetEncrypted() }),
	plain((*flowpb.FlowFilter).GetIpTraceId, func(f *flowpb.Flow) uint64 { return f.GetIpTraceId().GetTraceId() }),
	plain((*flowpb.FlowFilter).GetTraceId, func(f *flowpb.Flow) string { return f.GetTraceContext().GetParent().GetTraceId() }),
	listed((*flowpb.FlowFilter).GetEventType, matchEventType),
	listed((*flowpb.FlowFilter).GetDropReasonDesc, func(r flowpb.DropReason, f *flowpb.Flow) bool {
		return f.GetVerdict() == flowpb.Verdict_DROPPED && f.GetDropReasonDesc() == r
	}),
	listed((*flowpb.FlowFilter).GetReply, matchReply),
	listed((*flowpb.FlowFilter).GetTcpFlags, matchTCPFlags),
	listed((*flowpb.FlowFilter).GetInterface, matchInterface),
	listed((*flowpb.FlowFilter).GetSourceWorkload, func(w *flowpb.Workload, f *flowpb.Flow) bool { return matchWorkload(w, f.GetSource()) }),
	listed((*flowpb.FlowFilter).GetDestinationWorkload, func(w *flowpb.Workload, f *flowpb.Flow) bool { return matchWorkload(w, f.GetDestination()) }),
	parsed("protocol", (*flowpb.FlowFilter).GetProtocol, parseProtocol),
	parsed("source_port", (*flowpb.FlowFilter).GetSourcePort, portOf(sourcePort)),
	parsed("destination_port", (*flowpb.FlowFilter).GetDestinationPort, portOf(destinationPort)),
	parsed("source_ip", (*flowpb.FlowFilter).GetSourceIp, addressOf((*flowpb.IP).GetSource)),
	parsed("destination_ip", (*flowpb.FlowFilter).GetDestinationIp, addressOf((*flowpb.IP).GetDestination)),
	parsed("source_ip_xlated", (*flowpb.FlowFilter).GetSourceIpXlated, addressOf((*flowpb.IP).GetSourceXlated)),
	parsed("source_pod", (*flowpb.FlowFilter).GetSourcePod, nameOf(func(f *flowpb.Flow) (string, string) { return podName(f.GetSource()) })),
	parsed("destination_pod", (*flowpb.FlowFilter).GetDestinationPod, nameOf(func(f *flowpb.Flow) (string, string) { return podName(f.GetDestination()) })),
	parsed("source_service", (*flowpb.FlowFilter).GetSourceService, nameOf(func(f *flowpb.Flow) (string, string) { return serviceName(f.GetSourceService()) })),
	parsed("destination_service", (*flowpb.FlowFilter).GetDestinationService, nameOf(func(f *flowpb.Flow) (string, string) { return serviceName(f.GetDestinationService()) })),
	parsed("source_cluster_name", (*flowpb.FlowFilter).GetSourceClusterName, clusterOf((*flowpb.Flow).GetSource)),
	parsed("destination_cluster_name", (*flowpb.FlowFilter).GetDestinationClusterName, clusterOf((*flowpb.Flow).GetDestination)),
	parsed("source_fqdn", (*flowpb.FlowFilter).GetSourceFqdn, fqdnOf((*flowpb.Flow).GetSourceNames)),
	parsed("destination_fqdn", (*flowpb.FlowFilter).GetDestinationFqdn, fqdnOf((*flowpb.Flow).GetDestinationNames)),
	parsed("node_name", (*flowpb.FlowFilter).GetNodeName, parseNodeName),
	parsed("source_label", (*flowpb.FlowFilter).GetSourceLabel, selectorOf(func(f *flowpb.Flow) []string { return f.GetSource().GetLabels() })),
	parsed("destination_label", (*flowpb.FlowFilter).GetDestinationLabel, selectorOf(func(f *flowpb.Flow) []string { return f.GetDestination().GetLabels() })),
	parsed("node_labels", (*flowpb.FlowFilter).GetNodeLabels, selectorOf((*flowpb.Flow).GetNodeLabels)),
	parsed("dns_query", (*flowpb.FlowFilter).GetDnsQuery, patternOf(func(f *flowpb.Flow) string { return f.GetL7().GetDns().GetQuery() })),
	ofHTTP("http_status_code", (*flowpb.FlowFilter).GetHttpStatusCode, parseStatusCode),
	ofHTTP("http_method", (*flowpb.FlowFilter).GetHttpMethod, func(method string) (flowTest, error) {
		return func(f *flowpb.Flow) bool {
			got := f.GetL7().GetHttp().GetMethod()
			return got != "" && strings.EqualFold(got, method)
		}, nil
	}),
	ofHTTP("http_path", (*flowpb.FlowFilter).GetHttpPath, patternOf(httpPath)),
	ofHTTP("http_url", (*flowpb.FlowFilter).GetHttpUrl, patternOf(func(f *flowpb.Flow) string { return f.GetL7().GetHttp().GetUrl() })),
	ofHTTP("http_header", (*flowpb.FlowFilter).GetHttpHeader, func(h *flowpb.HTTPHeader) (flowTest, error) {
		return func(f *flowpb.Flow) bool {
			return slices.ContainsFunc(f.GetL7().GetHttp().GetHeaders(), func(got *flowpb.HTTPHeader) bool {
				return got.GetKey() == h.GetKey() && got.GetValue() == h.GetValue()
			})
		}, nil
	}),
}

// plain makes a field whose values are compared with one of the flow's.
func plain[T comparable](values func(*flowpb.FlowFilter) []T, of func(*flowpb.Flow) T) func(*flowpb.FlowFilter) (flowTest, error) {
	return func(f *flowpb.FlowFilter) (flowTest, error) {
		want := values(f)
		if len(want) == 0 {
			return nil, nil
		}
		return func(f *flowpb.Flow) bool { return slices.Contains(want, of(f)) }, nil
	}
}

// listed makes a field whose values need no parsing.
func listed[T any](values func(*flowpb.FlowFilter) []T, match func(T, *flowpb.Flow) bool) func(*flowpb.FlowFilter) (flowTest, error) {
	return func(f *flowpb.FlowFilter) (flowTest, error) {
		want := values(f)
		if len(want) == 0 {
			return nil, nil
		}
		return func(f *flowpb.Flow) bool {
			return slices.ContainsFunc(want, func(v T) bool { return match(v, f) })
		}, nil
	}
}

// parsed makes a field whose values become tests.
func parsed[T any](name string, values func(*flowpb.FlowFilter) []T, parse func(T) (flowTest, error)) func(*flowpb.FlowFilter) (flowTest, error) {
	return func(f *flowpb.FlowFilter) (flowTest, error) {
		var tests []flowTest
		for _, v := range values(f) {
			t, err := parse(v)
			if err != nil {
				return nil, invalid(name, "%v", err)
			}
			tests = append(tests, t)
		}
		if len(tests) == 0 {
			return nil, nil
		}
		return func(f *flowpb.Flow) bool {
			return slices.ContainsFunc(tests, func(t flowTest) bool { return t(f) })
		}, nil
	}
}

// ofHTTP makes a field of HTTP: beside types of events that are not l7 it could
// match nothing.
func ofHTTP[T any](name string, values func(*flowpb.FlowFilter) []T, parse func(T) (flowTest, error)) func(*flowpb.FlowFilter) (flowTest, error) {
	compile := parsed(name, values, parse)
	return func(f *flowpb.FlowFilter) (flowTest, error) {
		t, err := compile(f)
		l7 := func(t *flowpb.EventTypeFilter) bool { return t.GetType() == typeL7 }
		if types := f.GetEventType(); t != nil && err == nil && len(types) > 0 && !slices.ContainsFunc(types, l7) {
			return nil, invalid(name, "no flow can match: the filter wants types of events other than l7")
		}
		return t, err
	}
}

func matchEventType(t *flowpb.EventTypeFilter, f *flowpb.Flow) bool {
	got := f.GetEventType()
	return got != nil && (t.GetType() == 0 || t.GetType() == got.GetType()) &&
		(!t.GetMatchSubType() || t.GetSubType() == got.GetSubType())
}

// matchReply takes a flow whose direction is not known for neither; one that
// was dropped is no reply, as clients expect.
func matchReply(reply bool, f *flowpb.Flow) bool {
	if f.GetIsReply() == nil && f.GetVerdict() != flowpb.Verdict_DROPPED {
		return false
	}
	return f.GetIsReply().GetValue() == reply
}

// matchTCPFlags wants all flags that are set in want.
func matchTCPFlags(want *flowpb.TCPFlags, f *flowpb.Flow) bool {
	got := f.GetL4().GetTCP().GetFlags()
	has := func(want, got bool) bool { return got || !want }
	return got != nil && has(want.GetFIN(), got.GetFIN()) && has(want.GetSYN(), got.GetSYN()) && has(want.GetRST(), got.GetRST()) &&
		has(want.GetPSH(), got.GetPSH()) && has(want.GetACK(), got.GetACK()) && has(want.GetURG(), got.GetURG()) &&
		has(want.GetECE(), got.GetECE()) && has(want.GetCWR(), got.GetCWR()) && has(want.GetNS(), got.GetNS())
}

func matchInterface(want *flowpb.NetworkInterface, f *flowpb.Flow) bool {
	got := f.GetInterface()
	return got != nil && (want.GetIndex() == 0 || want.GetIndex() == got.GetIndex()) &&
		(want.GetName() == "" || want.GetName() == got.GetName())
}

func matchWorkload(want *flowpb.Workload, e *flowpb.Endpoint) bool {
	return slices.ContainsFunc(e.GetWorkloads(), func(got *flowpb.Workload) bool {
		return (want.GetName() == "" || want.GetName() == got.GetName()) && (want.GetKind() == "" || want.GetKind() == got.GetKind())
	})
}

// matchIdentity takes an end that is not there for none, also not for 0, which is
// one that is not known.
func matchIdentity(want uint32, e *flowpb.Endpoint) bool {
	return e != nil && e.GetIdentity() == want
}

func parseProtocol(name string) (flowTest, error) {
	switch strings.ToLower(name) {
	case "tcp":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetTCP() != nil }, nil
	case "udp":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetUDP() != nil }, nil
	case "icmp":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetICMPv4() != nil || f.GetL4().GetICMPv6() != nil }, nil
	case "icmpv4":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetICMPv4() != nil }, nil
	case "icmpv6":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetICMPv6() != nil }, nil
	case "sctp":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetSCTP() != nil }, nil
	case "vrrp":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetVRRP() != nil }, nil
	case "igmp":
		return func(f *flowpb.Flow) bool { return f.GetL4().GetIGMP() != nil }, nil
	case "dns":
		return func(f *flowpb.Flow) bool { return f.GetL7().GetDns() != nil }, nil
	case "http":
		return func(f *flowpb.Flow) bool { return f.GetL7().GetHttp() != nil }, nil
	}
	return nil, fmt.Errorf("no protocol %q", name)
}

// portOf makes tests of a port.
func portOf(of func(*flowpb.Layer4) (uint32, bool)) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		want, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("no port %q", text)
		}
		return func(f *flowpb.Flow) bool {
			port, ok := of(f.GetL4())
			return ok && uint64(port) == want
		}, nil
	}
}

func sourcePort(l *flowpb.Layer4) (uint32, bool) {
	switch {
	case l.GetTCP() != nil:
		return l.GetTCP().GetSourcePort(), true
	case l.GetUDP() != nil:
		return l.GetUDP().GetSourcePort(), true
	case l.GetSCTP() != nil:
		return l.GetSCTP().GetSourcePort(), true
	}
	return 0, false
}

func destinationPort(l *flowpb.Layer4) (uint32, bool) {
	switch {
	case l.GetTCP() != nil:
		return l.GetTCP().GetDestinationPort(), true
	case l.GetUDP() != nil:
		return l.GetUDP().GetDestinationPort(), true
	case l.GetSCTP() != nil:
		return l.GetSCTP().GetDestinationPort(), true
	}
	return 0, false
}

// addressOf makes tests of an address: for one, or for a network.
func addressOf(of func(*flowpb.IP) string) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		var network netip.Prefix
		if strings.Contains(text, "/") {
			var err error
			if network, err = netip.ParsePrefix(text); err != nil {
				return nil, fmt.Errorf("no network %q", text)
			}
			if a := network.Addr(); a.Is4In6() && network.Bits() >= 96 {
				network = netip.PrefixFrom(a.Unmap(), network.Bits()-96)
			}
		} else {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("no address %q", text)
			}
			addr = addr.Unmap().WithZone("")
			network = netip.PrefixFrom(addr, addr.BitLen())
		}
		return func(f *flowpb.Flow) bool {
			addr, err := netip.ParseAddr(of(f.GetIP()))
			return err == nil && network.Contains(addr.Unmap().WithZone(""))
		}, nil
	}
}

func podName(e *flowpb.Endpoint) (namespace, name string)    { return e.GetNamespace(), e.GetPodName() }
func serviceName(s *flowpb.Service) (namespace, name string) { return s.GetNamespace(), s.GetName() }

// nameOf makes tests of a name in a namespace, [namespace/][prefix]. Without a
// slash the namespace is default; before one, nothing stands for any.
func nameOf(of func(*flowpb.Flow) (namespace, name string)) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		namespace, prefix, slash := strings.Cut(text, "/")
		switch {
		case text == "":
			return nil, fmt.Errorf("a name must not be empty")
		case !slash:
			namespace, prefix = "default", text
		case strings.Contains(prefix, "/"):
			return nil, fmt.Errorf("%q has more than one slash", text)
		}
		return func(f *flowpb.Flow) bool {
			ns, name := of(f)
			return (ns != "" || name != "") && (namespace == "" || namespace == ns) && strings.HasPrefix(name, prefix)
		}, nil
	}
}

func clusterOf(of func(*flowpb.Flow) *flowpb.Endpoint) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		p, err := parseWildcard(text)
		if err != nil {
			return nil, err
		}
		return func(f *flowpb.Flow) bool {
			name := of(f).GetClusterName()
			return name != "" && p.match(name)
		}, nil
	}
}

func fqdnOf(of func(*flowpb.Flow) []string) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		p, err := parseWildcard(text)
		if err != nil {
			return nil, err
		}
		return func(f *flowpb.Flow) bool { return slices.ContainsFunc(of(f), p.match) }, nil
	}
}

// parseNodeName makes a test of [cluster/]node, each with wildcards and each of
// which may be missing.
func parseNodeName(text string) (flowTest, error) {
	clusterPart, nodePart, slash := strings.Cut(text, "/")
	switch {
	case text == "":
		return nil, fmt.Errorf("a name must not be empty")
	case !slash:
		clusterPart, nodePart = "", text
	case strings.Contains(nodePart, "/"):
		return nil, fmt.Errorf("%q has more than one slash", text)
	}
	var parts [2]wildcard
	for i, part := range []string{clusterPart, nodePart} {
		if part == "" {
			part = "*"
		}
		var err error
		if parts[i], err = parseWildcard(part); err != nil {
			return nil, err
		}
	}
	return func(f *flowpb.Flow) bool {
		clusterName, node, slash := strings.Cut(f.GetNodeName(), "/")
		if !slash {
			clusterName, node = DefaultCluster, f.GetNodeName()
		}
		return node != "" && parts[0].match(clusterName) && parts[1].match(node)
	}, nil
}

// selectorOf makes tests of labels.
func selectorOf(of func(*flowpb.Flow) []string) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		s, err := parseLabelSelector(text)
		if err != nil {
			return nil, err
		}
		return func(f *flowpb.Flow) bool { return s.match(of(f)) }, nil
	}
}

// maxPattern bounds regular expressions, in bytes: each flow is tried.
const maxPattern = 4096

// patternOf makes tests of a text by regular expressions (RE2). What is missing
// matches none.
func patternOf(of func(*flowpb.Flow) string) func(string) (flowTest, error) {
	return func(text string) (flowTest, error) {
		if len(text) > maxPattern {
			return nil, fmt.Errorf("a pattern has at most %d bytes", maxPattern)
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("no pattern %q: %w", text, err)
		}
		return func(f *flowpb.Flow) bool {
			got := of(f)
			return got != "" && re.MatchString(got)
		}, nil
	}
}

func httpPath(f *flowpb.Flow) string {
	u, err := url.ParseRequestURI(f.GetL7().GetHttp().GetUrl())
	if err != nil {
		return "" // also for none
	}
	return u.Path
}

var statusCode = regexp.MustCompile(`^(?:[1-5][0-9]{2}|[1-5][0-9]?\+)$`)

// parseStatusCode makes a test of a status of HTTP, or of how it begins: 4+.
func parseStatusCode(text string) (flowTest, error) {
	if !statusCode.MatchString(text) {
		return nil, fmt.Errorf("no status %q: want 404, 40+ or 4+", text)
	}
	prefix, open := strings.CutSuffix(text, "+")
	return func(f *flowpb.Flow) bool {
		code := f.GetL7().GetHttp().GetCode()
		if code == 0 {
			return false // a request
		}
		got := strconv.FormatUint(uint64(code), 10)
		return got == prefix || open && strings.HasPrefix(got, prefix)
	}, nil
}
