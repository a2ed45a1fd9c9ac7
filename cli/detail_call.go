package cli

import (
	"slices"
	"strings"

	"warren/event"
)

// callFields are what callDetail is made of.
func callFields() []string {
	fields := []string{"evt.rawres", "evt.args_unreadable", "evt.args_truncated", "fd.name"}
	for _, name := range event.CallArgNames() {
		fields = append(fields, "evt.arg."+name)
	}
	return fields
}

// callDetail writes the arguments of a system call by name, in the order of its
// description, then what it returned where that is more than success.
func (s screen) callDetail(r *record) cell {
	c := event.LookupCall(r.str("evt.type"))
	if c == nil {
		return cell{text: strings.TrimPrefix(s.failure(r), ": ")} // of a newer agent
	}
	var parts, told []string
	for i := range c.Args {
		a := &c.Args[i]
		if a.At == event.AtResult && a.Read == 0 || slices.Contains(told, a.Name) {
			continue
		}
		told = append(told, a.Name)
		v := r.str("evt.arg." + a.Name)
		switch {
		case slices.Contains(r.list("evt.args_unreadable"), a.Name):
			v = "?"
		case !r.has("evt.arg." + a.Name), v == "0" && a.Form == event.FormFlags:
			continue
		default:
			v = s.safe(v)
		}
		if slices.Contains(r.list("evt.args_truncated"), a.Name) {
			v += s.ellipsis()
		}
		parts = append(parts, a.Name+"="+v)
	}
	out := cell{text: strings.Join(parts, " ")}
	if name := r.str("fd.name"); name != "" {
		out.text += " (" + s.safe(name) + ")"
	}
	if fail := s.failure(r); fail != "" {
		out.text, out.color = strings.TrimPrefix(out.text+fail, ": "), yellow
	} else if n := r.num("evt.rawres"); n > 0 {
		out.tail = " -> " + s.safe(r.str("evt.rawres"))
	}
	return out
}
