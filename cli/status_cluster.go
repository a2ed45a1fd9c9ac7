package cli

import (
	"fmt"
	"strconv"

	"warren/api"
)

// place says of which part of the machine the agent tells, where that is not
// all of it, and which node of a cluster it is.
func (v *statusView) place() {
	if v.st.Node != "" {
		v.line("node", v.safe(v.st.Node))
	}
	if v.st.CgroupRoot != "" {
		v.line("sees only", "cgroup "+v.safe(v.st.CgroupRoot))
	}
}

// cluster says what the agent knows of its cluster, and who asks it from there.
func (v *statusView) cluster() {
	if k := v.st.Kubernetes; k != nil {
		v.heading("Kubernetes")
		v.kubernetes(k)
	}
	c, h := v.st.Certificate, v.st.Hubble
	if c == nil && h == nil {
		return
	}
	v.heading("Hub and Hubble")
	if c != nil {
		expires := "expires in " + span(c.Expires.Sub(v.now))
		if left := c.Expires.Sub(v.now); left <= 0 {
			expires = v.paint(red, "expired "+span(-left)+" ago: nobody believes it")
		}
		v.line("certificate", expires)
		if c.Error != "" {
			v.line("new files", v.paint(red, v.safe(c.Error)))
		}
		refused := strconv.FormatUint(c.Refused, 10)
		if c.Refused > 0 {
			refused = v.paint(yellow, refused) + ", without a certificate that is believed: the log says who"
		}
		v.line("clients refused", refused)
	}
	if h != nil {
		text := fmt.Sprintf("%d of %d flows, %s", h.Flows, h.MaxFlows, byteCount(uint64(h.Bytes)))
		if !h.Oldest.IsZero() {
			text += ", the oldest " + span(v.now.Sub(h.Oldest)) + " old"
		}
		v.line("remembers", text)
		v.line("flows asked for", fmt.Sprintf("by %d at present", h.Streams))
	}
}

func (v *statusView) kubernetes(k *api.Kubernetes) {
	if k.Off != "" {
		v.line("state", v.paint(dim, "not asked: "+v.safe(k.Off)))
		return
	}
	since := ""
	if !k.Since.IsZero() {
		since = " for " + span(v.now.Sub(k.Since))
	}
	state := "connected" + since
	switch {
	case !k.Connected:
		state = v.paint(red, "the API server is away"+since) + ": what is known stays known"
	case !k.Synced:
		state += v.paint(yellow, ", still reading what there is")
	}
	v.line("state", state)
	if k.Server != "" {
		v.line("API server", v.safe(k.Server))
	}
	v.line("knows", fmt.Sprintf("%d pods, %d services, %d nodes, %d namespaces, %d addresses; %d pods that have ended", k.Pods, k.Services, k.Nodes, k.Namespaces, k.Addresses, k.EndedPods))
	own := strconv.Itoa(k.OwnPods)
	if k.Untold > 0 {
		own += v.paint(yellow, fmt.Sprintf(", %d of them without a name yet", k.Untold))
	}
	v.line("pods here", own)
	if k.PeersWaiting > 0 || k.PeersDropped > 0 {
		v.line("far ends", fmt.Sprintf("%d wait until they are known, %d were given up", k.PeersWaiting, k.PeersDropped))
	}
	if k.Forgotten > 0 || k.Trimmed > 0 {
		v.line("bounds", fmt.Sprintf("%d ended pods and addresses were forgotten, %d texts cut", k.Forgotten, k.Trimmed))
	}
	if len(k.Resources) == 0 {
		return
	}
	rows := make([][]cell, len(k.Resources))
	for i, r := range k.Resources {
		rows[i] = []cell{{text: v.safe(r.Name)}, count(r.Objects), count(r.Events), {text: byteCount(r.Bytes)}, count(r.Restarts), bad(r.Failures), {text: v.safe(r.Error), color: red}}
	}
	v.rows([]column{{head: "WATCHED", min: 16}, {head: "LISTED", right: true}, {head: "CHANGES", right: true}, {head: "READ", right: true}, {head: "RESTARTS", right: true}, {head: "FAILED", right: true}, {head: "LAST ERROR"}}, rows)
}
