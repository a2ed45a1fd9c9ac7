package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// processShowCommand tells all that is known of one process.
func processShowCommand(g *globals) *command {
	var output string
	var about selection
	return &command{
		name:    "process show",
		args:    "PID|EXEC-ID",
		summary: "Tell everything that is known of one process",
		about: "Who it is, who started it, what it executes, which rights it has, where it runs, whom it talks to, what it started, what it has open, and how it ended. Paths of open files are those that the process sees, from the kernel's own objects. " +
			"A pid that several processes have had means the latest; an exec id means one process for all time.",
		examples: []example{
			{"warren process show 1", "Init"},
			{"warren process show 1 -o json", "The same for a script"},
		},
		cluster: []example{
			{"kubectl warren process show 1 --node node-1", "Init of one node"},
			{"kubectl warren process show 4f2a61d0c3b1-1a2b3c4d5e-4242", "A process by its exec id, wherever it ran"},
		},
		flags: append([]*option{outputFlag(&output, "", "table", "json")}, nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which process? A pid or an exec id is needed")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			if err := who.oneProcess(args[0]); err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			line, err := who.Process(ctx, args[0], who.nodes...)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeObject(env, line)
			}
			var p record
			if err := p.parse(line); err != nil {
				return err
			}
			v := processView{page: page{screen: env.screen(true)}, p: &p, now: env.Now()}
			v.write()
			return v.print(env)
		},
	}
}

// A processView writes what is known of a process.
type processView struct {
	page
	p   *record
	now time.Time
}

func (v *processView) write() {
	v.identity()
	v.present()
	pt := processTable{screen: v.screen, exited: true, now: v.now}
	v.processes("Ancestors", &pt, v.p.objects("ancestors"))
	v.executableFile()
	v.credentials()
	v.heading("Namespaces")
	for _, n := range []string{"mnt", "pid", "net", "user", "uts", "ipc", "cgroup", "time"} {
		v.line(n, v.safe(v.p.str("proc.ns."+n)))
	}
	v.place()
	v.sockets()
	v.processes("Children", &pt, v.p.objects("children"))
	v.files()
}

// processes writes a list of other processes.
func (v *processView) processes(heading string, pt *processTable, list []*record) {
	if len(list) == 0 {
		return
	}
	v.heading(heading)
	rows := make([][]cell, len(list))
	for i, p := range list {
		rows[i] = []cell{{text: v.safe(p.str("proc.pid"))}, {text: v.user(p)}, {text: pt.started(p)}, {text: pt.duration(p)}, pt.ended(p), pt.command(p)}
	}
	v.rows([]column{{head: "PID", right: true}, {head: "USER"}, {head: "STARTED"}, {head: "DURATION", right: true}, {head: "ENDED"}, {head: "COMMAND"}}, rows)
}

func (v *processView) sockets() {
	list := v.p.objects("connections")
	if len(list) == 0 {
		return
	}
	v.heading("Sockets")
	ct := connectionTable{screen: v.screen, now: func() time.Time { return v.now }}
	rows := make([][]cell, len(list))
	for i, c := range list {
		full := ct.row(c)
		rows[i] = append(append(full[:3:3], full[5:12]...), full[len(full)-1])
	}
	v.rows([]column{{head: "PROTO"}, {head: "STATE"}, {head: "DIR"}, {head: "LOCAL"}, {head: "REMOTE"}, {head: "SENT", right: true}, {head: "RECV", right: true},
		{head: "RTT", right: true}, {head: "RETRANS", right: true}, {head: "AGE", right: true}, {head: "ERROR"}}, rows)
}

// present writes what /proc says of a process that lives.
func (v *processView) present() {
	now := v.p.object("proc")
	if len(now.fields) == 0 {
		return
	}
	v.heading("At present")
	v.line("state", v.safe(now.str("state")))
	v.line("threads", v.safe(now.str("threads")))
	if rss := now.num("rss_bytes"); rss > 0 {
		text := byteCount(uint64(rss)) + " resident, " + byteCount(uint64(now.num("rss_anon_bytes"))) + " of it its own"
		if swap := now.num("swap_bytes"); swap > 0 {
			text += ", " + byteCount(uint64(swap)) + " swapped out"
		}
		v.line("memory", text)
	}
	if dir := now.str("cwd"); dir != v.p.str("proc.cwd") {
		v.line("directory", v.safe(dir))
	}
	if root := now.str("root"); root != "/" {
		v.line("root", v.safe(root))
	}
	v.line("seccomp", v.safe(now.str("seccomp")))
	if now.yes("no_new_privs") {
		v.line("note", "gains no rights by exec (no_new_privs)")
	}
	v.line("oom score", v.safe(now.str("oom_score")))
	for _, u := range now.list("unreadable") {
		v.line("unreadable", v.safe(u))
	}
}

// files writes what the process has open.
func (v *processView) files() {
	now := v.p.object("proc")
	list := now.objects("files")
	if len(list) == 0 {
		return
	}
	v.heading("Open files")
	rows := make([][]cell, len(list))
	for i, f := range list {
		rows[i] = v.file(f)
	}
	v.rows([]column{{head: "FD", right: true}, {head: "TYPE"}, {head: "OPENED FOR"}, {head: "AT", right: true}, {head: "WHAT"}}, rows)
	if open := now.num("files_open"); open > int64(len(list)) {
		v.line("", fmt.Sprintf("and %d more", open-int64(len(list))))
	}
}

func (v *processView) file(f *record) []cell {
	what := cell{text: v.safe(f.str("target"))}
	switch {
	case f.yes("deleted"):
		what.tail, what.tailColor = " (deleted)", yellow
	case f.yes("outside_root"):
		what.tail = " (not below its root)"
	case f.has("path_error"):
		what.tail, what.tailColor = " (no path: "+v.safe(f.str("path_error"))+")", yellow
	case f.has("socket"):
		if state := f.object("socket").str("state"); state != "" {
			what.tail = " " + v.safe(state)
		}
	}
	at := ""
	if f.num("pos") > 0 {
		at = v.safe(f.str("pos"))
	}
	return []cell{{text: v.safe(f.str("fd"))}, {text: v.safe(f.str("type"))}, {text: v.safe(openedFor(f.str("flags")))}, {text: at}, what}
}

// openedFor says by which flags of open(2) a file is open.
func openedFor(flags string) string {
	var words []string
	for name := range strings.SplitSeq(flags, "|") {
		switch name {
		case "":
		case "O_RDONLY":
			words = append(words, "read")
		case "O_WRONLY":
			words = append(words, "write")
		case "O_RDWR":
			words = append(words, "read, write")
		default:
			words = append(words, strings.ToLower(strings.TrimPrefix(name, "O_")))
		}
	}
	return strings.Join(words, ", ")
}

func (v *processView) identity() {
	p := v.p
	v.heading(fmt.Sprintf("%s (%s)", v.orUnknown(p.str("proc.name")), v.orUnknown(p.str("proc.pid"))))
	v.line("command", v.command(p))
	state := "runs"
	if p.yes("proc.exited") {
		end := v.ending(p)
		state = "ended: " + v.paint(end.color, end.text)
	} else if p.yes("proc.is_kthread") {
		state = "runs, a thread of the kernel"
	}
	v.line("state", state)
	v.line("started", v.moment("proc.start"))
	if t := p.time("proc.exec_time"); !t.IsZero() && !t.Equal(p.time("proc.start")) {
		v.line("last exec", v.moment("proc.exec_time"))
	}
	if p.yes("proc.exited") {
		v.line("lived", span(p.duration("proc.duration")))
	}
	v.line("exec id", v.safe(p.str("proc.exec_id")))
	for _, id := range p.list("others") {
		v.line("same pid before", v.safe(id))
	}
	if vpid := p.str("proc.vpid"); vpid != p.str("proc.pid") {
		v.line("own pid", v.safe(vpid))
	}
	v.line("directory", v.safe(p.str("proc.cwd")))
	v.line("session", v.safe(p.str("proc.sid")))
	v.line("process group", v.safe(p.str("proc.pgid")))
	v.line("terminal", terminalName(p.num("proc.tty")))
}

// moment writes a time and how long ago it was.
func (v *processView) moment(key string) string {
	t := v.p.time(key)
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s ago)", t.In(v.now.Location()).Format("2006-01-02 15:04:05.000"), span(v.now.Sub(t)))
}

func (v *processView) executableFile() {
	p := v.p
	v.heading("Executable")
	v.line("path", v.executable(p))
	if asked := p.str("proc.filename"); asked != p.str("proc.exepath") {
		v.line("asked for", v.safe(asked))
	}
	v.line("interpreter", v.safe(p.str("proc.interp")))
	if p.has("proc.exe_ino") {
		dev := uint64(p.num("proc.exe_dev"))
		// The kernel's own encoding, not the one of system calls.
		v.line("inode", fmt.Sprintf("%s on device %d:%d", v.safe(p.str("proc.exe_ino")), dev>>20, dev&0xfffff))
	}
	if p.has("proc.exe_mode") {
		v.line("mode", fmt.Sprintf("%04o, owner %d", p.num("proc.exe_mode")&0o7777, p.num("proc.exe_uid")))
	}
	for _, t := range []struct{ name, key string }{{"changed", "proc.exe_ino.ctime"}, {"modified", "proc.exe_ino.mtime"}} {
		if n := p.num(t.key); n > 0 {
			v.line(t.name, time.Unix(0, n).In(v.now.Location()).Format("2006-01-02 15:04:05"))
		}
	}
	for _, m := range []struct{ key, says string }{
		{"proc.is_exe_from_memfd", "exists in memory only (memfd)"},
		{"proc.is_exe_deleted", "had no name left when it was started"},
		{"proc.is_exe_upper_layer", "came or changed after the container was made (overlay's upper layer)"},
		{"proc.is_exe_lower_layer", "the image's own (overlay's lower layer)"},
		{"proc.is_exe_writable", "the process's user may write to it"},
	} {
		if m.key == "proc.is_exe_writable" && p.str("user.uid") == "0" {
			continue // root may write to nearly every file
		}
		if p.yes(m.key) {
			color := yellow
			if m.key == "proc.is_exe_lower_layer" {
				color = plain
			}
			v.line("note", v.paint(color, m.says))
		}
	}
}

func (v *processView) credentials() {
	p := v.p
	v.heading("Credentials")
	named := func(name, id string) string {
		if name == "" {
			return v.safe(id)
		}
		return v.safe(name) + " (" + v.safe(id) + ")"
	}
	// others lists the ids of a process that differ from the effective one.
	others := func(effective string, ids ...string) string {
		var parts []string
		for i := 0; i < len(ids); i += 2 {
			if x := p.str(ids[i+1]); x != effective && x != "" {
				parts = append(parts, ids[i]+" "+v.safe(x))
			}
		}
		if len(parts) == 0 {
			return ""
		}
		return "; " + strings.Join(parts, ", ")
	}
	uid, gid := p.str("user.uid"), p.str("group.gid")
	v.line("user", named(p.str("user.name"), uid)+others(uid, "real", "proc.ruid", "saved", "proc.suid", "for files", "proc.fsuid"))
	v.line("group", named(p.str("group.name"), gid)+others(gid, "real", "proc.rgid", "saved", "proc.sgid", "for files", "proc.fsgid"))
	if login := p.str("user.loginuid"); login != "" && login != "-1" {
		v.line("logged in as", named(p.str("user.loginname"), login))
	}
	v.line("audit session", v.safe(p.str("proc.audit_session")))

	v.heading("Capabilities")
	for _, set := range []string{"effective", "permitted", "inheritable", "bounding", "ambient"} {
		names := p.str("thread.cap_" + set)
		text := "none"
		if n := len(strings.Fields(names)); n >= allCapabilities {
			text = fmt.Sprintf("all %d", n)
		} else if missing := missingCapabilities(names); n > allCapabilities/2 && len(missing) > 0 {
			text = fmt.Sprintf("%d: all but %s", n, strings.Join(missing, " "))
		} else if n > 0 {
			text = v.safe(names)
		}
		v.line(set, text)
	}
}

// missingCapabilities returns the names that a set lacks.
func missingCapabilities(names string) []string {
	has := map[string]bool{}
	for name := range strings.FieldsSeq(names) {
		has[name] = true
	}
	var missing []string
	for i := range allCapabilities {
		if name := event.CapSet(1 << i).String(); !has[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

// place writes where the process runs.
func (v *processView) place() {
	p := v.p
	v.heading("Cgroup")
	v.line("path", v.safe(p.str("proc.cgroup")))
	v.line("id", v.safe(p.str("proc.cgroup.id")))
	v.line("unit", v.safe(p.str("proc.unit")))
	if id := p.str("container.id"); id == "" || id == "host" {
		return
	}
	v.heading("Container")
	v.line("name", v.safe(p.str("container.name")))
	v.line("id", v.safe(first(p.str("container.full_id"), p.str("container.id"))))
	v.line("runtime", v.safe(p.str("container.type")))
	v.line("image", v.safe(p.str("container.image")))
	v.line("image digest", v.safe(p.str("container.image.digest")))
	v.line("started", v.moment("container.start_ts"))
	if p.yes("container.privileged") {
		v.line("note", v.paint(yellow, "privileged"))
	}
	if p.yes("container.pending") {
		v.line("note", v.paint(yellow, "the runtime has not described it yet"))
	}
	v.labels("container.label")
	v.pod()
}

// labels writes the entries of a field that has keys.
func (v *processView) labels(field string) {
	for _, f := range v.p.fields {
		if key, ok := strings.CutPrefix(f.key, field+"["); ok && strings.HasSuffix(key, "]") {
			v.line("label", v.safe(strings.TrimSuffix(key, "]")+"="+v.p.str(f.key)))
		}
	}
}

// pod writes the pod that the process runs in.
func (v *processView) pod() {
	p := v.p
	if !p.has("k8s.pod.uid") {
		return
	}
	v.heading("Pod")
	v.line("name", v.safe(p.str("k8s.pod.name")))
	v.line("namespace", v.safe(p.str("k8s.ns.name")))
	v.line("uid", v.safe(p.str("k8s.pod.uid")))
	v.line("node", v.safe(p.str("k8s.node.name")))
	if kind, name := p.str("k8s.workload.kind"), p.str("k8s.workload.name"); name != "" {
		v.line("made by", v.safe(strings.TrimSpace(kind+" "+name)))
	}
	container := p.str("k8s.container.name")
	if kind := p.str("k8s.container.kind"); kind != "" && kind != "main" {
		container += " (" + kind + ")"
	}
	v.line("container", v.safe(container))
	v.line("services", v.safe(strings.Join(p.list("k8s.svc.name"), ", ")))
	v.line("service account", v.safe(p.str("k8s.sa.name")))
	v.line("addresses", v.safe(strings.Join(p.list("k8s.pod.ip"), ", ")))
	if p.yes("k8s.pod.host_network") {
		v.line("note", "shares its node's network")
	}
	v.labels("k8s.pod.labels")
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// terminalName returns the name of a controlling terminal, "" for none. Its
// number is encoded as in /proc/PID/stat.
func terminalName(tty int64) string {
	major, minor := uint64(tty)>>8&0xfff, uint64(tty)&0xff|uint64(tty)>>12&0xfff00
	switch {
	case tty == 0:
		return ""
	case major >= 136 && major < 144:
		return "pts/" + strconv.FormatUint((major-136)<<8+minor, 10)
	case major == 4 && minor < 64:
		return "tty" + strconv.FormatUint(minor, 10)
	case major == 4:
		return "ttyS" + strconv.FormatUint(minor-64, 10)
	}
	return fmt.Sprintf("device %d:%d", major, minor)
}
