package filter

import (
	"slices"
	"strings"

	"warren/event"
)

// otherNames are what people call fields elsewhere.
var otherNames = map[string]string{
	"comm": "proc.name", "process": "proc.name", "process.name": "proc.name", "process.pid": "proc.pid", "process.executable": "proc.exepath",
	"binary": "proc.exepath", "path": "proc.exepath", "command": "proc.cmdline", "argv": "proc.argv",
	"ppid": "proc.ppid", "parent": "proc.pname", "parent.name": "proc.pname", "ancestor": "proc.aname",
	"type": "evt.type", "event": "evt.type", "event.type": "evt.type", "kind": "evt.kind", "syscall": "evt.type", "time": "evt.time",
	"src": "fd.cip", "dst": "fd.sip", "src.ip": "fd.cip", "dst.ip": "fd.sip", "saddr": "fd.cip", "daddr": "fd.sip", "src.port": "fd.cport", "dst.port": "fd.sport",
	"sport": "fd.sport", "dport": "fd.sport", "ip": "fd.ip", "host": "evt.hostname", "port": "fd.port", "proto": "fd.l4proto",
	"user": "user.name", "uid": "user.uid", "group": "group.name", "gid": "group.gid",
	"container": "container.id", "image": "container.image", "label": "container.label",
	"pod": "k8s.pod.name", "namespace": "k8s.ns.name", "ns": "k8s.ns.name", "node": "k8s.node.name", "deployment": "k8s.deployment.name", "workload": "k8s.workload.name",
	"service": "k8s.svc.name", "k8s.pod": "k8s.pod.name", "k8s.ns": "k8s.ns.name", "k8s.namespace": "k8s.ns.name", "k8s.namespace.name": "k8s.ns.name",
	"k8s.container": "k8s.container.name", "k8s.service.name": "k8s.svc.name", "k8s.workload": "k8s.workload.name", "k8s.deployment": "k8s.deployment.name",
	"domain": "dns.name", "fd.sip.domain": "fd.sip.name",
}

// SuggestField returns the hint for a field that does not exist: "did you mean
// proc.name?", or "" where nothing is near.
func SuggestField(name string) string {
	lower := strings.ToLower(name)
	if f, ok := otherNames[lower]; ok {
		if _, ok := event.Lookup(f); ok {
			return "did you mean " + f + "?"
		}
	}
	for _, prefix := range []string{"evt.arg.", "evt.rawarg."} {
		if key, ok := strings.CutPrefix(name, prefix); ok {
			if near := Nearest(key, event.CallArgNames()); near != "" {
				return "did you mean " + prefix + near + "?"
			}
			return "docs/syscalls.md has the arguments of system calls"
		}
	}
	// Falco lets keys follow a dot; as keys have dots themselves, we do not.
	for _, f := range event.Fields() {
		if key, ok := strings.CutPrefix(name, f.Name+"."); ok && f.Arg == event.KeyArg && key != "" {
			return "write " + f.Name + "[" + key + "]"
		}
	}
	names := make([]string, 0, len(event.Fields()))
	for _, f := range event.Fields() {
		names = append(names, f.Name)
	}
	// "pid" is proc.pid: fields of processes come first in the list.
	if !strings.Contains(name, ".") {
		for _, n := range names {
			if strings.HasPrefix(n, "proc.") && n == "proc."+lower {
				return "did you mean " + n + "?"
			}
		}
		for _, n := range names {
			if strings.HasSuffix(n, "."+lower) {
				return "did you mean " + n + "?"
			}
		}
	}
	if hint := suggestOf(name, names); hint != "" {
		return hint
	}
	if group, _, ok := strings.Cut(lower, "."); ok {
		if near := Nearest(group, groups(names)); near != "" {
			if near == group {
				return "see the fields that begin with " + near + "."
			}
			return "did you mean a field that begins with " + near + ".?"
		}
	}
	return ""
}

func groups(names []string) []string {
	var gs []string
	for _, n := range names {
		g, _, _ := strings.Cut(n, ".")
		if !slices.Contains(gs, g) {
			gs = append(gs, g)
		}
	}
	return gs
}

// suggestOf returns "did you mean x?" for the nearest of names, or nothing.
func suggestOf(word string, names []string) string {
	if near := Nearest(word, names); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

// Nearest returns the name with the fewest typing errors, if they are few: one
// in three characters. Of several it is the first.
func Nearest(word string, names []string) string {
	if len(word) > 64 {
		return ""
	}
	word = strings.ToLower(word)
	best, name := max(len(word)/3, 1)+1, ""
	for _, n := range names {
		if n == "" || abs(len(n)-len(word)) >= best {
			continue
		}
		if d := distance(word, strings.ToLower(n)); d < best && d < len(n) {
			best, name = d, n
		}
	}
	return name
}

func abs(n int) int { return max(n, -n) }

// distance counts the typing errors between a and b: a byte too many, too few,
// another, or two exchanged (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
