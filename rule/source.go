package rule

import (
	"strings"

	"warren/event"
)

// The sources of events. A rule sees those of its own alone.
const (
	// SourceSyscall is this machine: what sensors see.
	SourceSyscall = "syscall"
	// SourceAudit is the audit log of a Kubernetes API server.
	SourceAudit = "k8s_audit"
)

// auditKinds are the kinds of [SourceAudit]. All others are of [SourceSyscall].
const auditKinds = event.KindSet(1 << event.KindK8sAudit)

// kindsOf returns the kinds of events of a source.
func kindsOf(source string) event.KindSet {
	switch source {
	case SourceAudit:
		return auditKinds
	case SourceSyscall:
		return event.AllKinds &^ auditKinds
	}
	return 0
}

// Kinds returns the kinds of events that the rule can match: those of its source.
func (r *Rule) Kinds() event.KindSet { return r.Program.Kinds() & kindsOf(r.Source) }

// hasField reports whether events of a source have a field, as far as that is known.
// All fields of processes are fields of each kind of event, but no process is behind
// those of an audit log.
func hasField(source, name string) bool {
	f, ok := event.Lookup(name)
	if !ok || kindsOf(source) == 0 {
		return true
	}
	if source == SourceAudit && f.Kinds() == event.AllKinds {
		return strings.HasPrefix(name, "evt.")
	}
	return f.Kinds()&kindsOf(source) != 0
}

// otherSource says that there is no such field in a source, and where it is.
func otherSource(source, name string) (msg, hint string) {
	other := SourceSyscall
	if source == SourceSyscall {
		other = SourceAudit
	}
	return "no field " + name + " in events of the source " + source, "it is one of the source " + other
}
