package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/event"
)

// detail returns what a person wants to know of an event that the columns
// common to all kinds do not say.
func (s screen) detail(r *record) cell {
	switch r.kind() {
	case event.KindExec:
		return s.execDetail(r)
	case event.KindFork:
		return cell{text: fmt.Sprintf("from %s (%s)", s.orUnknown(r.str("proc.pname")), s.orUnknown(r.str("proc.ppid")))}
	case event.KindExit:
		return s.exitDetail(r)
	case event.KindCredentials:
		return s.credentialsDetail(r)
	case event.KindNamespace:
		text := "moved to another " + s.safe(strings.Join(r.list("ns.changed"), ", ")) + " namespace"
		if r.str("evt.type") == "unshare" {
			text = "made a new " + s.safe(strings.Join(r.list("ns.changed"), ", ")) + " namespace"
		}
		return cell{text: text + s.failure(r)}
	case event.KindAttempt:
		return s.attemptDetail(r)
	case event.KindConnection:
		return s.connectionDetail(r)
	case event.KindDNS:
		return s.dnsDetail(r)
	case event.KindAlert:
		return s.alertDetail(r)
	case event.KindReaction:
		return s.reactionDetail(r, false)
	case event.KindLost:
		return cell{text: s.lostDetail(r), color: red}
	case event.KindFlow:
		return s.flowDetail(r)
	case event.KindOpen, event.KindFile, event.KindFileClose, event.KindMount:
		return s.fileDetail(r)
	case event.KindNodes:
		return s.nodesDetail(r)
	case event.KindSyscall:
		return s.callDetail(r)
	case event.KindK8sAudit:
		return s.auditDetail(r)
	}
	return cell{}
}

// attemptDetail tells what was asked for, and that nothing came of it.
func (s screen) attemptDetail(r *record) cell {
	var args []string
	for _, name := range []string{"uid", "ruid", "euid", "suid", "gid", "rgid", "egid", "sgid", "fd", "nstype", "flags"} {
		if v := r.str("evt.arg." + name); v != "" {
			args = append(args, name+"="+s.safe(v))
		}
	}
	text := strings.Join(args, " ")
	if f := s.failure(r); f != "" {
		return cell{text: text + f, color: yellow}
	}
	return cell{text: text + ": nothing changed"}
}

// alertDetail says what a rule says, in the colour of how bad it is.
func (s screen) alertDetail(r *record) cell {
	text := r.str("alert.priority") + ": " + r.str("alert.rule") + ": " + r.str("alert.output")
	if n := r.num("alert.count"); n > 1 {
		text += fmt.Sprintf(" (%d times)", n)
	}
	return cell{text: s.safe(text), color: priorityColor(r.str("alert.priority"))}
}

// reactionDetail says what became of what a rule wanted done, whose name stands
// before it where that is not known.
func (s screen) reactionDetail(r *record, known bool) cell {
	text := strings.TrimSpace(r.str("reaction.action")+" "+r.str("reaction.target")) + ": " + r.str("reaction.outcome")
	if n := r.num("reaction.count"); n > 1 {
		text += fmt.Sprintf(" (%d times)", n)
	}
	c := cell{}
	switch r.str("reaction.outcome") {
	case event.ReactionFailed:
		c.color = red
	case event.ReactionDone:
	default:
		c.color = yellow
	}
	if r.yes("reaction.dry_run") {
		text += ", a dry run"
	}
	for _, why := range []string{r.str("reaction.reason"), r.str("reaction.output")} {
		if why != "" {
			text += ": " + why
		}
	}
	if !known {
		text = r.str("alert.rule") + ": " + text
	}
	c.text = s.safe(text)
	return c
}

func (s screen) orUnknown(text string) string {
	if text == "" {
		return "?"
	}
	return s.safe(text)
}

// failure returns the error of a system call, "" if it succeeded.
func (s screen) failure(r *record) string {
	if res := r.str("evt.res"); res != "" && res != "SUCCESS" {
		return ": " + s.safe(res)
	}
	return ""
}

// command returns the command line as a shell would take it.
func (s screen) command(r *record) string {
	if args := r.list("proc.argv"); len(args) > 0 {
		line := s.commandLine(args)
		if len(args) == 1 {
			line = s.safe(args[0]) // a title that the process gave itself, or nothing to tell apart
		}
		if r.yes("proc.args_truncated") {
			line += " " + s.ellipsis()
		}
		return line
	}
	if r.yes("proc.is_kthread") {
		return "[" + s.safe(r.str("proc.name")) + "]"
	}
	for _, key := range []string{"proc.cmdline", "proc.exepath", "proc.name"} {
		if v := r.str(key); v != "" {
			return s.safe(v)
		}
	}
	return "?"
}

func (s screen) execDetail(r *record) cell {
	text := s.command(r) + s.failure(r)
	// What the arguments do not say, and an intruder hopes nobody asks.
	if marks := executableMarks(r); len(marks) > 0 {
		text += " (" + strings.Join(marks, ", ") + ")"
	}
	c := cell{text: text}
	if a := s.ancestry(r, 3); a != "" {
		c.tail = "  " + a
	}
	return c
}

// executableMarks tells what is unusual about an executable.
func executableMarks(r *record) []string {
	var m []string
	if r.yes("proc.is_exe_from_memfd") {
		m = append(m, "in memory only")
	} else if r.yes("proc.is_exe_deleted") {
		m = append(m, "deleted")
	}
	if r.yes("proc.is_exe_upper_layer") {
		m = append(m, "not from the image")
	}
	return m
}

// ending returns how a process ended: "exit 0", "SIGKILL (core dumped)".
func (s screen) ending(r *record) cell {
	if sig := r.str("exit.signal"); sig != "" {
		c := cell{text: s.safe(sig), color: red}
		if r.yes("exit.core_dumped") {
			c.text += " (core dumped)"
		}
		return c
	}
	c := cell{text: "exit " + s.orUnknown(r.str("exit.code"))}
	if r.num("exit.code") != 0 {
		c.color = yellow
	}
	return c
}

func (s screen) exitDetail(r *record) cell {
	c := s.ending(r)
	c.text += " after " + span(r.duration("exit.duration"))
	if cpu := r.duration("exit.utime") + r.duration("exit.stime"); cpu > 0 {
		c.text += ", cpu " + span(cpu)
	}
	if rss := r.num("exit.maxrss"); rss > 0 {
		c.text += ", " + byteCount(uint64(rss))
	}
	return c
}

func (s screen) credentialsDetail(r *record) cell {
	var parts []string
	changed := func(what, from, to string) {
		if f, t := r.str(from), r.str(to); f != t && f != "" && t != "" {
			parts = append(parts, fmt.Sprintf("%s %s -> %s", what, s.safe(f), s.safe(t)))
		}
	}
	changed("uid", "cred.old_uid", "evt.arg.uid")
	changed("gid", "cred.old_gid", "evt.arg.gid")
	if caps := r.str("cred.cap_gained"); caps != "" {
		parts = append(parts, "gained "+s.capabilities(caps))
	}
	if caps := r.str("cred.cap_dropped"); caps != "" {
		parts = append(parts, "dropped "+s.capabilities(caps))
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing in force changed")
	}
	c := cell{text: strings.Join(parts, ", ") + s.failure(r)}
	if r.num("evt.arg.uid") == 0 && r.num("cred.old_uid") != 0 {
		c.color = red
	}
	return c
}

// capabilities writes a set of capabilities, in few words if it is large.
func (s screen) capabilities(names string) string {
	n := len(strings.Fields(names))
	switch {
	case n == 0:
		return "none"
	case n >= allCapabilities:
		return fmt.Sprintf("all %d capabilities", n)
	case n > 6:
		return fmt.Sprintf("%d capabilities", n)
	}
	return s.safe(names)
}

// allCapabilities is how many there are: up to CAP_CHECKPOINT_RESTORE.
const allCapabilities = 41

// end writes one end of a socket: the name, if there is one, the address, and
// the port.
func (s screen) end(r *record, side string) string {
	addr, port, name := r.str("fd."+side+"ip"), r.str("fd."+side+"port"), r.str("fd."+side+"ip.name")
	if addr == "" {
		return "?"
	}
	shown := s.safe(addr)
	if a, err := netip.ParseAddr(addr); err == nil && a.Is6() {
		shown = "[" + a.String() + "]"
	}
	if name == "" && side == "r" {
		name = peerName(r)
	}
	if name != "" {
		shown = s.safe(name) + " (" + s.safe(addr) + ")"
	}
	if port != "" {
		shown += ":" + s.safe(port)
	}
	return shown
}

// peerName returns what the far address stands for in a cluster, "" where
// nothing is known.
func peerName(r *record) string {
	ns := r.str("k8s.remote.ns.name")
	switch r.str("k8s.remote.kind") {
	case "pod":
		return ns + "/" + r.str("k8s.remote.pod.name")
	case "service":
		return "service " + ns + "/" + r.str("k8s.remote.svc.name")
	case "node":
		return "node " + r.str("k8s.remote.node.name")
	}
	return ""
}

// ends writes a connection from its client to its server.
func (s screen) ends(r *record) string {
	if !r.has("fd.rip") {
		return s.end(r, "l") // it listens, or did
	}
	from, to := s.end(r, "l"), s.end(r, "r")
	if r.yes("fd.is_server") {
		from, to = to, from
	}
	return from + " -> " + to
}

func (s screen) connectionDetail(r *record) cell {
	c := cell{text: s.ends(r)}
	if proto := r.str("fd.l4proto"); proto != "" {
		c.text += " " + s.safe(proto)
	}
	switch typ := r.str("evt.type"); {
	case !r.has("fd.rip"):
		if typ == "close" {
			c.text += ", listens no more"
		}
	case typ == "update" || typ == "close":
		c.tail = fmt.Sprintf(" sent %s, received %s", byteCount(uint64(r.num("conn.bytes_sent"))), byteCount(uint64(r.num("conn.bytes_received"))))
		if d := r.duration("conn.duration"); d > 0 {
			c.tail += ", " + span(d)
		}
		if rtt := r.duration("conn.rtt"); rtt > 0 {
			c.tail += ", rtt " + span(rtt)
		}
		if n := r.num("conn.retransmits"); n > 0 {
			c.tail += fmt.Sprintf(", %d retransmitted", n)
			c.tailColor = yellow
		}
	default:
		if l := r.duration("conn.latency"); l > 0 {
			c.tail = " " + span(l)
		}
	}
	// What went wrong comes first: the end of a line may be cut.
	if e := s.connectionError(r); e != "" {
		c.tail, c.tailColor = " "+e+strings.Replace(c.tail, " ", ", ", min(1, len(c.tail))), red
	}
	return c
}

// connectionError returns why a connection failed or how it was broken, "" if
// it was not.
func (s screen) connectionError(r *record) string {
	e := r.str("conn.error")
	if e == "" || e == "SUCCESS" {
		if e = r.str("evt.res"); e == "SUCCESS" || e == "EINPROGRESS" {
			e = ""
		}
	}
	e = s.safe(e)
	by := r.str("conn.reset")
	switch {
	case by == "", e == "ECONNREFUSED", e == "ECONNRESET" && by == "remote":
		return e // the error says it
	case e != "":
		e += ", "
	}
	return e + "reset by " + s.safe(by)
}

func (s screen) dnsDetail(r *record) cell {
	text := s.orUnknown(r.str("dns.type")) + " " + s.orUnknown(r.str("dns.name"))
	if !r.yes("dns.response") {
		return cell{text: text + "?"}
	}
	c := cell{}
	if rcode := r.str("dns.rcode"); rcode != "" && rcode != "NOERROR" {
		text += ": " + s.safe(rcode)
		c.color = yellow
	} else {
		// A record is "name TTL type value". Those of the type that was asked
		// for are the answer; aliases only lead there.
		var values []string
		for _, rec := range r.list("dns.answers") {
			if w := strings.SplitN(rec, " ", 4); len(w) == 4 && (w[2] == r.str("dns.type") || r.str("dns.type") == "ANY") {
				values = append(values, s.safe(w[3]))
			}
		}
		text += " = "
		if len(values) == 0 {
			text += "nothing"
		}
		text += strings.Join(slices.Compact(values), ", ")
	}
	if l := r.duration("dns.latency"); l > 0 {
		text += " (" + span(l) + ")"
	}
	c.text = text
	return c
}

// unseen says that no agent kept anything for a time, on a node, "" for this machine.
func unseen(node string, from, to, now time.Time) string {
	if node != "" {
		node += ": "
	}
	begin, end := moments(from, to, now)
	return fmt.Sprintf("%sno agent recorded from %s to %s", node, begin, end)
}

func (s screen) lostDetail(r *record) string {
	count, what := r.str("lost.count"), r.str("lost.kind")
	if what == "" {
		what = "any kind"
	}
	text := fmt.Sprintf("%s events lost: %s", s.orUnknown(count), s.safe(what))
	switch lane := r.str("lost.lane"); lane {
	case "agent":
		return unseen(s.safe(r.str("k8s.node.name")), r.time("evt.time"), r.time("lost.until"), s.now())
	case "connection":
		from, to := moments(r.time("evt.time"), r.time("lost.until"), s.now())
		return fmt.Sprintf("%s: nothing was told from %s to %s, for the connection to its agent broke off", s.safe(r.str("k8s.node.name")), from, to)
	case "name":
		return fmt.Sprintf("%s events of %s could be of those asked for: the kernel does not show which file they are about", s.orUnknown(count), s.safe(what))
	case "critical", "bulk":
		text += ", the " + lane + " ring was full"
	case "queue":
		text += ", this reader did not keep up"
		if who := r.str("lost.consumer"); who != "" {
			text += " (" + s.safe(who) + ")"
		}
	case "table":
		text += ", a kernel map was full"
	case "ring":
		text += ", the ring of the datapath was full"
	case "audit":
		text += ", an API server told what could not be read, or was too large"
	default:
		text += " " + s.safe(lane)
	}
	return text
}

// nodesDetail says which nodes of a cluster an answer is of.
func (s screen) nodesDetail(r *record) cell {
	text := fmt.Sprintf("%s of %s nodes answered", s.orUnknown(r.str("nodes.answered")), s.orUnknown(r.str("nodes.total")))
	missing := r.list("nodes.missing")
	for _, m := range missing {
		text += "; " + s.safe(m)
	}
	if len(missing) == 0 {
		return cell{text: text}
	}
	return cell{text: text, color: red}
}
