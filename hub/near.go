package hub

import (
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/proto"
)

// A flow belongs to the pod at whose end it was seen, the near one. Its direction
// is the connection's, also of replies: so the near end is the source of what
// goes out and of replies to what comes in.
var nearEnds = []struct {
	direction flowpb.TrafficDirection
	reply     bool
	source    bool
}{
	{flowpb.TrafficDirection_EGRESS, false, true},
	{flowpb.TrafficDirection_EGRESS, true, false},
	{flowpb.TrafficDirection_INGRESS, false, false},
	{flowpb.TrafficDirection_INGRESS, true, true},
}

// seesFlow reports whether a flow is told. Where it is not known at which end it
// was seen, both have to be in the view.
func (v *view) seesFlow(f *flowpb.Flow) bool {
	if v.all {
		return true
	}
	source, destination := v.sees(f.GetSource().GetNamespace()), v.sees(f.GetDestination().GetNamespace())
	for _, near := range nearEnds {
		if f.GetIsReply() == nil || f.GetTrafficDirection() != near.direction || f.GetIsReply().GetValue() != near.reply {
			continue
		}
		if near.source {
			return source
		}
		return destination
	}
	return source && destination
}

// namespaceLabel is the label by which Hubble's clients know the namespace of a
// pod.
const namespaceLabel = "k8s:io.kubernetes.pod.namespace"

// narrowFlows returns a whitelist that lets through what is in the view. As with
// rows it only spares the way, and lets "the last ten" be ten where all is true:
// what is told the hub decides.
func (v *view) narrowFlows(white []*flowpb.FlowFilter) (list []*flowpb.FlowFilter, all bool) {
	if v.all || len(v.namespaces) > mostPushed {
		return white, v.all
	}
	asked := white
	if len(asked) == 0 {
		asked = []*flowpb.FlowFilter{{}}
	}
	all = true
	for _, f := range asked {
		for _, near := range nearEnds {
			if len(f.GetTrafficDirection()) > 0 && !slices.Contains(f.GetTrafficDirection(), near.direction) || len(f.GetReply()) > 0 && !slices.Contains(f.GetReply(), near.reply) {
				continue
			}
			one := proto.CloneOf(f)
			one.TrafficDirection, one.Reply = []flowpb.TrafficDirection{near.direction}, []bool{near.reply}
			if near.source {
				all = v.narrowEnd(&one.SourcePod, &one.SourceLabel) && all
			} else {
				all = v.narrowEnd(&one.DestinationPod, &one.DestinationLabel) && all
			}
			list = append(list, one)
		}
	}
	if len(list) == 0 {
		return white, true // which lets nothing through; a list without filters would let everything
	}
	return list, all
}

// narrowEnd makes a filter take only the view's pods at one end, by a part of it
// that is not used yet: what is listed there already are alternatives. It reports
// whether there was one.
func (v *view) narrowEnd(pods, labels *[]string) bool {
	switch names := v.list(); {
	case len(*pods) == 0:
		for _, ns := range names {
			*pods = append(*pods, ns+"/")
		}
	case len(*labels) == 0:
		*labels = []string{namespaceLabel + " in (" + strings.Join(names, ", ") + ")"}
	default:
		return false
	}
	return true
}
