package alert

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"warren/event"
	"warren/rule"
)

// maxGroups is how many different alerts are remembered at a time. What is beyond
// them is told one by one.
const maxGroups = 8192

// maxHeld is how many bytes the events that are kept for summaries may hold. What
// is beyond them is told one by one.
const maxHeld = 16 << 20

// noise keeps identical alerts from being told again: of the same rule, about the
// same workload, and with the same values of the output's fields, but for those
// that differ each time. The first is told at once, those within a window behind
// it as one, with their number, when it ends; while more come there is one such
// each window.
//
// All workers share it, so that what is told does not depend on how many they are.
type noise struct {
	window time.Duration
	keys   map[*rule.Rule]ruleKey
	seeds  [2]maphash.Seed

	mu     sync.Mutex
	groups map[groupKey]*group
	due    []*group // in the order of when their windows end
	held   int      // bytes of the groups' last events
	over   uint64   // alerts that found no room
}

// A groupKey is what identical alerts have in common, hashed: nobody who does not
// know the seeds can make two that are not look so.
type groupKey [2]uint64

type group struct {
	key   groupKey
	rule  *rule.Rule
	end   time.Time
	more  uint64 // alerts since it was last told
	first time.Time
	last  *event.Event
}

// held is how many bytes the last event holds.
func (g *group) held() int {
	if g.last == nil {
		return 0
	}
	return g.last.HeldBytes()
}

func newNoise(window time.Duration, set *rule.Set) *noise {
	n := &noise{window: window, keys: map[*rule.Rule]ruleKey{}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, groups: map[groupKey]*group{}}
	for _, r := range set.Rules {
		n.keys[r] = newRuleKey(r.Format)
	}
	return n
}

// A ruleKey is what is the same of alike alerts of a rule.
type ruleKey struct {
	others *rule.Format
	// begun is that of events of programs and processes that begin, args whether
	// the output has all arguments of a call: theirs hold ids of the process.
	begun *rule.Format
	args  bool
}

func newRuleKey(f *rule.Format) (k ruleKey) {
	k.others = f.Key(differs)
	k.begun = f.Key(func(name string) bool {
		base := fieldOf(name)
		if base == "evt.args" || base == "evt.info" {
			k.args = true
			return true
		}
		return differs(name) || beginArg(base, name)
	})
	return k
}

func (k *ruleKey) append(b []byte, e *event.Event) []byte {
	if kind := e.Data.Kind(); kind != event.KindExec && kind != event.KindFork {
		return k.others.Append(b, e)
	}
	if b = k.begun.Append(b, e); k.args {
		b = beginArgs.Append(b, e)
	}
	return b
}

// beginArgs are the arguments of calls that begin a program or a process, without
// those of beginArg.
var beginArgs = func() *rule.Format {
	f, err := rule.ParseFormat("%evt.arg.res\x00%evt.arg.exe\x00%evt.arg.args\x00%evt.arg.cwd\x00%evt.arg.comm\x00%evt.arg.tty\x00%evt.arg.loginuid\x00%evt.arg.uid\x00%evt.arg.gid\x00%evt.arg.flags")
	if err != nil {
		panic(err)
	}
	return f
}()

// beginArg reports whether a field is an argument of such a call that is another
// each time: by its name, or by its number, as docs/falco.md has it.
func beginArg(base, name string) bool {
	if base == "evt.arg" || base == "evt.rawarg" {
		_, key, _ := strings.Cut(name, base+"[")
		base, _, _ = strings.Cut(key, "]")
		if slices.Contains([]string{"3", "4", "5", "11", "12"}, base) {
			return true
		}
	}
	base = strings.TrimPrefix(strings.TrimPrefix(base, "evt.arg."), "evt.rawarg.")
	return slices.Contains([]string{"tid", "pid", "ptid", "vtid", "vpid"}, base)
}

// fieldOf returns the field of a name that may have brackets, or stand in those of
// transformers.
func fieldOf(name string) string {
	name = name[strings.LastIndexByte(name, '(')+1:]
	if i := strings.IndexAny(name, "[),"); i >= 0 {
		name = name[:i]
	}
	return strings.TrimSpace(name)
}

// differs reports whether a field has another value each time that the same thing
// happens.
func differs(name string) bool { return slices.Contains(differing, fieldOf(name)) }

var differing = []string{
	"evt.time", "evt.time.s", "evt.time.iso8601", "evt.datetime", "evt.datetime.s", "evt.rawtime", "evt.rawtime.s", "evt.rawtime.ns", "evt.outputtime",
	"evt.num", "evt.cpu", "evt.ktime", "evt.count", "evt.time_last",
	"proc.pid", "proc.vpid", "proc.ppid", "proc.pvpid", "proc.apid", "thread.tid", "thread.vtid", "proc.loginshellid",
	"proc.sid", "proc.pgid", "proc.vsid", "proc.vpgid", "proc.audit_session", "proc.exec_id", "proc.parent_exec_id",
	"proc.duration", "proc.ppid.duration", "proc.pid.ts", "proc.ppid.ts", "proc.pidns_init_start_ts", "proc.start", "proc.exec_time",
	"proc.exe_ino.ctime", "proc.exe_ino.mtime", "proc.exe_ino.ctime_duration_proc_start", "proc.exe_ino.ctime_duration_pidns_start",
	"container.start_ts", "container.duration",
	"exit.duration", "exit.utime", "exit.stime",
	// A client's port is left out by append, and the process in the arguments of a
	// call by ruleKey. In those of others it is one that something is done to.
	"fd.uid", "fd.cookie", "conn.start", "conn.duration", "conn.latency", "conn.rtt", "conn.rtt_min", "dns.id", "dns.latency",
	"flow.start", "flow.last", "flow.duration", "alert.first", "alert.last", "alert.uuid", "alert.evt.num", "reaction.duration", "lost.until",
	"ka.auditid", "jevt.obj", "jevt.rawtime", "json.obj", "json.rawtime",
}

// append appends what has to be the same of an event.
func (n *noise) append(b []byte, r *rule.Rule, e *event.Event) []byte {
	b = append(b, r.Name...)
	b = append(b, 0)
	if p := e.Process; p != nil && p.Container != nil {
		b = append(b, p.Container.FullID...)
		if p.Container.Pod != nil {
			b = append(b, p.Container.Pod.UID...)
		}
	}
	b = append(b, 0)
	key := n.keys[r]
	s := event.SocketOf(e)
	if s == nil {
		return key.append(b, e)
	}
	// A client has another port each time.
	c := *e
	d := *s
	if d.Server {
		d.RemotePort = 0
	} else {
		d.LocalPort = 0
	}
	switch data := e.Data.(type) {
	case *event.Connection:
		x := *data
		x.Socket, c.Data = d, &x
	case *event.DNS:
		x := *data
		x.Socket, c.Data = d, &x
	case *event.Syscall:
		x := *data
		x.Sock, c.Data = &d, &x
	default:
		return key.append(b, e)
	}
	return key.append(b, &c)
}

// add reports whether a match of a rule is another one of those that were told:
// it is not to be told then. text is room for a key.
func (n *noise) add(text []byte, r *rule.Rule, e *event.Event, now time.Time) (_ []byte, again bool) {
	text = n.append(text[:0], r, e)
	key := groupKey{maphash.Bytes(n.seeds[0], text), maphash.Bytes(n.seeds[1], text)}
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.groups[key]
	switch {
	case g != nil:
		if g.last == nil || !e.Time.Before(g.last.Time) {
			held := n.held + e.HeldBytes() - g.held()
			if held > max(n.held, maxHeld) {
				n.over++
				return text, false
			}
			g.last, n.held = e, held
		}
		if g.more == 0 {
			g.first = e.Time
		}
		g.more++
		if e.Time.Before(g.first) { // of another process
			g.first = e.Time
		}
		return text, true
	case len(n.groups) >= maxGroups:
		n.over++
		return text, false
	}
	g = &group{key: key, rule: r, end: now.Add(n.window)}
	n.groups[key] = g
	n.due = append(n.due, g)
	return text, false
}

// A summary is of alerts that were not told one by one.
type summary struct {
	rule  *rule.Rule
	times uint64
	first time.Time
	last  *event.Event
}

// ended returns what is to be told of windows that end up to now; of all of them,
// with the zero time.
func (n *noise) ended(now time.Time) (list []summary) {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := len(n.due)
	for ; left > 0 && (now.IsZero() || !n.due[0].end.After(now)); left-- {
		g := n.due[0]
		n.due[0] = nil
		n.due = n.due[1:]
		if g.more == 0 {
			delete(n.groups, g.key)
			continue
		}
		list = append(list, summary{g.rule, g.more, g.first, g.last})
		n.held -= g.held()
		g.more, g.last = 0, nil
		if now.IsZero() {
			delete(n.groups, g.key)
			continue
		}
		g.end = now.Add(n.window)
		n.due = append(n.due, g)
	}
	return list
}

// overflow returns how many alerts found no room.
func (n *noise) overflow() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.over
}
