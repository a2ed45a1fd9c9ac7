package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"warren/api"
)

// network says how the node's pods are connected, and which policy is in force.
func (v *statusView) network() {
	n := v.st.Network
	if n == nil {
		return
	}
	v.heading("Network")
	state := v.paint(green, "in force")
	switch {
	case n.Error != "":
		state = v.paint(red, "not as it should be")
	case n.Waiting != "":
		state = v.paint(yellow, "waits for "+v.safe(n.Waiting)) + "; what is in the kernel goes on"
	}
	v.line("mode", v.safe(n.Mode))
	v.line("state", state)
	if n.Error != "" {
		v.line("error", v.paint(red, v.safe(n.Error)))
	}
	for _, p := range n.Problems {
		v.line("problem", v.paint(yellow, v.safe(p)))
	}
	if n.Uplink != "" {
		uplink := v.safe(n.Uplink)
		if n.MTU > 0 {
			uplink += ", pods' MTU " + strconv.Itoa(n.MTU)
		}
		v.line("uplink", uplink)
	}
	if !n.Applied.IsZero() {
		v.line("last change", fmt.Sprintf("%s ago: %s to compute, %s to apply; generation %d, %d changes, %d failed",
			span(v.now.Sub(n.Applied)), n.ComputeTime.Round(time.Microsecond), n.ApplyTime.Round(time.Microsecond), n.Generation, n.Changes, n.Failures))
	}
	v.networkPods(n)
	v.networkPolicies(n)
	v.networkKernel(n)
}

func (v *statusView) networkPods(n *api.Network) {
	if len(n.Endpoints) == 0 {
		return
	}
	rows := make([][]cell, len(n.Endpoints))
	for i, e := range n.Endpoints {
		state := cell{text: v.safe(e.Hook), color: green}
		if !e.InForce {
			state = cell{text: "not in force", color: red}
		}
		audit := ""
		if e.Audit {
			audit = "audit"
		}
		rows[i] = []cell{{text: v.safe(e.Pod)}, {text: v.safe(e.Interface)}, {text: v.safe(strings.Join(e.Addresses, " "))}, state, {text: audit, color: yellow}, {text: v.safe(e.Error), color: red}}
	}
	v.rows([]column{{head: "POD", min: 16}, {head: "INTERFACE"}, {head: "ADDRESSES"}, {head: "ATTACHED BY"}, {head: "MODE"}, {head: "WHY NOT"}}, rows)
}

func (v *statusView) networkPolicies(n *api.Network) {
	if len(n.Policies) == 0 {
		return
	}
	rows := make([][]cell, len(n.Policies))
	for i, p := range n.Policies {
		name := p.Name
		if p.Namespace != "" {
			name = p.Namespace + "/" + name
		}
		rows[i] = []cell{{text: v.safe(name)}, {text: v.safe(p.Tier)}, count(uint64(max(0, p.Endpoints))), bad(uint64(len(p.Failed))), {text: v.safe(strings.Join(p.Problems, "; ")), color: yellow}}
	}
	v.rows([]column{{head: "POLICY", min: 16}, {head: "TIER"}, {head: "PODS HERE", right: true}, {head: "FAILED", right: true}, {head: "PROBLEMS"}}, rows)
}

func (v *statusView) networkKernel(n *api.Network) {
	var rows [][]cell
	var why notes
	for _, h := range n.Hooks {
		var refused []string
		for _, r := range h.Refused {
			refused = append(refused, v.safe(r.Rung)+" "+why.mark(r.Reason))
		}
		rows = append(rows, []cell{{text: v.safe(h.Name)}, {text: v.safe(h.Rung), color: green}, count(uint64(max(0, h.Devices))), {text: strings.Join(refused, ", ")}})
	}
	if len(rows) > 0 {
		v.rows([]column{{head: "DEVICES OF", min: 16}, {head: "ATTACHED BY"}, {head: "NUMBER", right: true}, {head: "REFUSED"}}, rows)
	}
	for i, reason := range why {
		fmt.Fprintf(&v.b, "  [%d] %s\n", i+1, v.safe(reason))
	}
	rows = nil
	for _, m := range n.Maps {
		full := cell{text: strconv.Itoa(m.Used)}
		if m.Capacity > 0 && m.Used >= m.Capacity/10*9 {
			full.color = red
		}
		rows = append(rows, []cell{{text: v.safe(m.Name)}, full, {text: strconv.Itoa(m.Capacity)}})
	}
	if len(rows) > 0 && v.wide {
		v.rows([]column{{head: "MAP", min: 16}, {head: "USED", right: true}, {head: "ROOM", right: true}}, rows)
	}
	rows = nil
	for _, p := range n.Packets {
		verdict := cell{text: v.safe(p.Verdict)}
		if p.Verdict == "denied" {
			verdict.color = red
		}
		rows = append(rows, []cell{{text: v.safe(p.Direction)}, verdict, {text: v.safe(p.Reason)}, count(p.Packets), {text: byteCount(p.Bytes)}})
	}
	if len(rows) > 0 {
		v.rows([]column{{head: "PACKETS", min: 16}, {head: "VERDICT"}, {head: "REASON"}, {head: "NUMBER", right: true}, {head: "BYTES", right: true}}, rows)
	}
	if n.EventsLost > 0 || n.Evicted > 0 || n.Unflowed > 0 {
		v.line("flows lost", fmt.Sprintf("%d events found no room, %d flows gave way to others, %d packets passed without one", n.EventsLost, n.Evicted, n.Unflowed))
	}
}
