package api

import (
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// flowExtras returns what Hubble's message has no field for, by the names that
// Warren's fields have: the process, its container, and the counters.
func flowExtras(r *flowRecord) *anypb.Any {
	m := map[string]*structpb.Value{}
	text := func(name, value string) {
		if value != "" {
			// Paths may be any bytes; messages hold UTF-8.
			m[name] = structpb.NewStringValue(strings.ToValidUTF8(value, "\uFFFD"))
		}
	}
	number := func(name string, n float64) {
		if n != 0 {
			m[name] = structpb.NewNumberValue(n)
		}
	}
	number("evt.num", float64(r.seq))
	a := &r.actor
	text("proc.exec_id", a.key.ExecID())
	number("proc.pid", float64(a.key.PID))
	if a.known {
		text("proc.name", a.name)
		text("proc.exepath", a.exePath)
		text("user.name", a.user)
		m["user.uid"] = structpb.NewNumberValue(float64(a.uid))
		text("proc.unit", a.unit)
	}
	if c := a.container; c != nil {
		text("container.id", c.ID)
		text("container.name", c.Name)
		text("container.image", c.Image)
		text("k8s.container.name", c.PodContainer)
		if c.Pod != nil {
			text("k8s.pod.uid", c.Pod.UID)
		}
	}
	switch {
	case r.conn != nil:
		c := r.conn
		text("evt.type", c.Type)
		text("evt.res", c.Res.String())
		number("fd.netns", float64(c.NetNS))
		text("conn.state", c.State.String())
		text("conn.reset", c.Reset.String())
		if c.Error != 0 {
			text("conn.error", c.Error.String())
		}
		number("conn.duration", float64(c.Duration))
		number("conn.latency", float64(c.Latency))
		number("conn.bytes_sent", float64(c.BytesSent))
		number("conn.bytes_received", float64(c.BytesReceived))
		number("conn.packets_sent", float64(c.PacketsSent))
		number("conn.packets_received", float64(c.PacketsRecv))
		number("conn.rtt", float64(c.RTT))
		number("conn.retransmits", float64(c.Retransmits))
		if c.Existing {
			m["conn.existing"] = structpb.NewBoolValue(true)
		}
	case r.dns != nil:
		text("evt.type", r.dns.Type)
		number("fd.netns", float64(r.dns.NetNS))
	}
	if f := r.flow; f != nil {
		text("evt.type", f.Type)
		number("fd.netns", float64(f.NetNS))
		text("flow.verdict", f.Verdict.String())
		text("flow.direction", f.Direction())
		text("flow.drop_reason", f.Reason.String())
		text("flow.nearest", f.Nearest)
		if p := f.Policy; p != nil {
			text("flow.policy", p.Title)
			text("flow.rule", p.Number)
			text("flow.policy_tier", p.Tier.String())
		}
		number("flow.bytes_sent", float64(f.BytesSent))
		number("flow.bytes_received", float64(f.BytesReceived))
		number("flow.packets_sent", float64(f.PacketsSent))
		number("flow.packets_received", float64(f.PacketsReceived))
		number("flow.packets_dropped", float64(f.PacketsDropped))
		number("flow.identity", float64(f.Identity))
		number("flow.remote_identity", float64(f.RemoteIdentity))
		text("flow.interface", f.Interface)
	}
	packed, err := anypb.New(&structpb.Struct{Fields: m})
	if err != nil {
		return nil // cannot be: every text is UTF-8
	}
	return packed
}

// A FlowMask is the fields that a client wants of flows. Its zero value, and
// nil, want all.
type FlowMask struct {
	tree maskTree
}

// maskTree is the fields of a message that are wanted; a nil tree of a field
// stands for all of it.
type maskTree map[protoreflect.Name]maskTree

// NewFlowMask checks a mask. The error, an InvalidArgument of gRPC, names the
// path that flows do not have.
func NewFlowMask(mask *fieldmaskpb.FieldMask) (*FlowMask, error) {
	m := &FlowMask{}
	for _, path := range mask.GetPaths() {
		if _, err := fieldmaskpb.New(&flowpb.Flow{}, path); err != nil {
			return nil, invalid("field_mask", "flows have no field %q", path)
		}
		if m.tree == nil {
			m.tree = maskTree{}
		}
		m.tree.add(strings.Split(path, "."))
	}
	return m, nil
}

func (t maskTree) add(path []string) {
	name := protoreflect.Name(path[0])
	sub, ok := t[name]
	switch {
	case ok && sub == nil: // all of it is wanted already
	case len(path) == 1:
		t[name] = nil
	default:
		if sub == nil {
			sub = maskTree{}
			t[name] = sub
		}
		sub.add(path[1:])
	}
}

// Wants reports whether a field of flows is wanted, or some of it.
func (m *FlowMask) Wants(field protoreflect.Name) bool {
	if m == nil || m.tree == nil {
		return true
	}
	_, ok := m.tree[field]
	return ok
}

// Prune removes what is not wanted from a flow.
func (m *FlowMask) Prune(f *flowpb.Flow) {
	if m != nil && m.tree != nil {
		m.tree.prune(f.ProtoReflect())
	}
}

func (t maskTree) prune(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		sub, ok := t[field.Name()]
		switch {
		case !ok:
			m.Clear(field)
		case sub != nil && field.Message() != nil && !field.IsList() && !field.IsMap():
			sub.prune(value.Message())
		}
		return true
	})
}

// unknownFields reports whether a message, or one inside it, has fields that
// this program does not know.
func unknownFields(m proto.Message) bool {
	found := false
	var visit func(protoreflect.Message)
	visit = func(m protoreflect.Message) {
		if len(m.GetUnknown()) > 0 {
			found = true
		}
		m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			switch {
			case field.Message() == nil || field.IsMap():
			case field.IsList():
				for i := range value.List().Len() {
					visit(value.List().Get(i).Message())
				}
			default:
				visit(value.Message())
			}
			return !found
		})
	}
	visit(m.ProtoReflect())
	return found
}
