package cli

import "strconv"

// reactions shows what became of what rules wanted done.
func (v *statusView) reactions() {
	st := v.st.Reactions
	if st == nil {
		return
	}
	v.heading("Reactions")
	switch {
	case !st.Enabled:
		v.line("enabled", v.paint(yellow, "no: what rules want done is refused"))
	case st.DryRun:
		v.line("enabled", v.paint(yellow, "as dry runs alone"))
	default:
		v.line("enabled", "yes")
	}
	if st.Waiting > 0 {
		v.line("waiting", strconv.Itoa(st.Waiting)+" alerts, behind "+strconv.Itoa(st.Running))
	}
	rows := make([][]cell, len(st.Actions))
	for i, a := range st.Actions {
		failed := count(a.Failed)
		if a.Failed > 0 {
			failed.color = red
		}
		rows[i] = []cell{{text: v.safe(a.Action)}, count(a.Done), count(a.DryRun), failed, count(a.Refused), count(a.Limited)}
	}
	if len(rows) > 0 {
		v.rows([]column{{head: "ACTION"}, {head: "DONE", right: true}, {head: "DRY RUN", right: true}, {head: "FAILED", right: true}, {head: "REFUSED", right: true}, {head: "LIMITED", right: true}}, rows)
	}
	if f := st.Failure; f != nil {
		v.line("last failure", v.paint(red, v.safe(f.Action)+" of "+v.safe(f.Rule)+", "+span(v.now.Sub(f.At))+" ago: ")+v.safe(f.Error))
	}
}
