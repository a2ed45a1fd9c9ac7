package event

import (
	"slices"
	"strings"
)

// A FalcoField is a field that Falco, or a plugin of Falco's, documents.
type FalcoField struct {
	// Name is Falco's, Form what may stand behind it: [n], [key], .TYPE.
	Name, Form string
	// Note says what is particular about it here, Why why there is none: then it
	// is refused with that. Both are "" where it is as in Falco.
	Note, Why string
}

// Why some of Falco's fields are not there.
const (
	noEnvironment = "the environment of processes is not read: it is where secrets are"
	noCapture     = "there is no capture that begins somewhere: evt.ktime counts from the machine's boot"
	noLatency     = "events of calls that begin are not told, so that nobody knows how long one took; Falco says 0"
	noPrevious    = "it depends on what else was looked at, and rules look at different events side by side"
	noPlugin      = "Falco's plugins are not loaded"
	noMemory      = "the memory of processes is not measured at each event; warren process show has it"
	noThreads     = "threads and their processor time are not counted"
	noFDTable     = "the table of descriptors is not kept: what an event is about has its own descriptor"
	noMounts      = "container runtimes are not asked for mounts"
	noProbe       = "Falco has no value for it either: it is deprecated there"
	noPoll        = "poll and select are not observed"
	noMeta        = "only names and labels of what Kubernetes made are kept; Falco has no value for it either"
)

// falcoClasses are the classes of fields in Falco's order.
var falcoClasses = []FalcoClass{
	{"evt", []FalcoField{
		{Name: "evt.num", Note: "counts up since the agent started"},
		{Name: "evt.time", Note: "in outputs as in Falco; compared as a time"},
		{Name: "evt.time.s"}, {Name: "evt.time.iso8601"}, {Name: "evt.datetime"}, {Name: "evt.datetime.s"}, {Name: "evt.outputtime"},
		{Name: "evt.rawtime"}, {Name: "evt.rawtime.s"}, {Name: "evt.rawtime.ns"},
		{Name: "evt.reltime", Why: noCapture}, {Name: "evt.reltime.s", Why: noCapture}, {Name: "evt.reltime.ns", Why: noCapture},
		{Name: "evt.pluginname", Why: noPlugin}, {Name: "evt.plugininfo", Why: noPlugin},
		{Name: "evt.source", Note: "syscall or k8s_audit"},
		{Name: "evt.is_async", Note: "always false"},
		{Name: "evt.asynctype", Why: "there are no asynchronous events: what containers are is no event"},
		{Name: "evt.hostname"},
	}},
	{"evt, of system calls", []FalcoField{
		{Name: "evt.latency", Why: noLatency}, {Name: "evt.latency.s", Why: noLatency}, {Name: "evt.latency.ns", Why: noLatency},
		{Name: "evt.latency.human", Why: noLatency}, {Name: "evt.latency.quantized", Why: noLatency}, {Name: "evt.wait_latency", Why: noLatency},
		{Name: "evt.deltatime", Why: noPrevious}, {Name: "evt.deltatime.s", Why: noPrevious}, {Name: "evt.deltatime.ns", Why: noPrevious},
		{Name: "evt.dir", Note: "always <"},
		{Name: "evt.type", Note: "also what Falco does not have: dns, flow_drop and others, see events.md"},
		{Name: "evt.type.is", Form: ".TYPE", Note: "compared as text, with 1 or 0"},
		{Name: "syscall.type"}, {Name: "evt.category"},
		{Name: "evt.cpu", Note: "absent in events that are not of the kernel's, and of the history"},
		{Name: "evt.args", Note: "arguments that events do not have are left out; of exec and fork these are limits, memory, the environment, cgroups and capabilities"},
		{Name: "evt.arg", Form: ".NAME, [NAME], [n]", Note: "text, but for those that events.md has as numbers: descriptors, users and the like are compared as numbers; flags that Falco does not know are written too. Numbers are Falco's; one of an argument that events do not have has no value"},
		{Name: "evt.rawarg", Form: ".NAME", Note: "of arguments that are numbers; flags of opens and of processes as Falco numbers them, those of other calls as the kernel does"},
		{Name: "evt.info"},
		{Name: "evt.buffer", Note: "text, what cannot be printed as dots, of the calls in syscalls.md that have data; 80 bytes"},
		{Name: "evt.buflen"},
		{Name: "evt.res"}, {Name: "evt.rawres"}, {Name: "evt.failed"},
		{Name: "evt.is_io"}, {Name: "evt.is_io_read"}, {Name: "evt.is_io_write"}, {Name: "evt.io_dir", Note: "read or write: what Falco says, other than its documentation"},
		{Name: "evt.is_wait", Note: "always false: no such call is observed"},
		{Name: "evt.is_syslog"},
		{Name: "evt.count", Note: "in outputs 1, or how many equal events the history keeps as one; in conditions absent where it would be 1"},
		{Name: "evt.count.error"}, {Name: "evt.count.error.file"}, {Name: "evt.count.error.net"}, {Name: "evt.count.error.memory"}, {Name: "evt.count.error.other"},
		{Name: "evt.count.exit", Note: "always 1"},
		{Name: "evt.around", Why: "a rule looks at what happens: warren events --at asks what happened around a moment"},
		{Name: "evt.abspath", Form: ".src, .dst", Note: "what the kernel's objects say, absent where they do not; Falco joins texts"},
		{Name: "evt.is_open_read", Note: "in conditions absent in other events, where Falco has false"}, {Name: "evt.is_open_write", Note: "likewise"},
		{Name: "evt.is_open_exec", Note: "likewise"}, {Name: "evt.is_open_create", Note: "likewise"},
	}},
	{"proc and thread", []FalcoField{
		{Name: "proc.exe"}, {Name: "proc.pexe"}, {Name: "proc.aexe", Form: "[n]"},
		{Name: "proc.exepath"}, {Name: "proc.pexepath"}, {Name: "proc.aexepath", Form: "[n]"},
		{Name: "proc.name"}, {Name: "proc.pname"}, {Name: "proc.aname", Form: "[n]"},
		{Name: "proc.args", Form: "[n]"}, {Name: "proc.aargs", Form: "[n]"},
		{Name: "proc.cmdline"}, {Name: "proc.pcmdline"}, {Name: "proc.acmdline", Form: "[n]"},
		{Name: "proc.cmdnargs"}, {Name: "proc.cmdlenargs"}, {Name: "proc.exeline"},
		{Name: "proc.env", Form: "[NAME]", Why: noEnvironment}, {Name: "proc.aenv", Form: "[n], [NAME]", Why: noEnvironment},
		{Name: "proc.cwd", Note: "as it was at the last exec; in outputs with a slash at the end, as in Falco, in conditions without"},
		{Name: "proc.loginshellid"}, {Name: "proc.tty"}, {Name: "proc.pid"}, {Name: "proc.ppid"}, {Name: "proc.apid", Form: "[n]"},
		{Name: "proc.vpid"}, {Name: "proc.pvpid"},
		{Name: "proc.sid", Note: "as the host numbers it; in containers Falco has what is proc.vsid here"},
		{Name: "proc.sname"}, {Name: "proc.sid.exe"}, {Name: "proc.sid.exepath"},
		{Name: "proc.vpgid"}, {Name: "proc.vpgid.name"}, {Name: "proc.vpgid.exe"}, {Name: "proc.vpgid.exepath"},
		{Name: "proc.pgid"}, {Name: "proc.pgid.name"}, {Name: "proc.pgid.exe"}, {Name: "proc.pgid.exepath"},
		{Name: "proc.duration"}, {Name: "proc.ppid.duration"}, {Name: "proc.pid.ts"}, {Name: "proc.ppid.ts"},
		{Name: "proc.is_exe_writable"}, {Name: "proc.is_exe_upper_layer"}, {Name: "proc.is_exe_lower_layer"}, {Name: "proc.is_exe_from_memfd"},
		{Name: "proc.is_sid_leader"}, {Name: "proc.is_vpgid_leader"}, {Name: "proc.is_pgid_leader"},
		{Name: "proc.exe_ino"}, {Name: "proc.exe_ino.ctime"}, {Name: "proc.exe_ino.mtime"},
		{Name: "proc.exe_ino.ctime_duration_proc_start"},
		{Name: "proc.exe_ino.ctime_duration_pidns_start", Note: "where the namespace's first process is an ancestor"},
		{Name: "proc.pidns_init_start_ts", Note: "where the namespace's first process is an ancestor"},
		{Name: "thread.cap_permitted"}, {Name: "thread.cap_inheritable"}, {Name: "thread.cap_effective"},
		{Name: "proc.fdopencount", Why: noFDTable}, {Name: "proc.fdlimit", Why: noFDTable}, {Name: "proc.fdusage", Why: noFDTable},
		{Name: "proc.vmsize", Why: noMemory}, {Name: "proc.vmrss", Why: noMemory}, {Name: "proc.vmswap", Why: noMemory},
		{Name: "thread.pfmajor", Why: noMemory}, {Name: "thread.pfminor", Why: noMemory},
		{Name: "thread.tid"}, {Name: "thread.ismain"},
		{Name: "thread.vtid", Note: "of a process's first thread, and of all threads on the host"},
		{Name: "thread.exectime", Why: noThreads}, {Name: "thread.totexectime", Why: noThreads},
		{Name: "thread.cgroups", Why: "one cgroup is kept, the one that tells the container: proc.cgroup"},
		{Name: "thread.cgroup", Form: "[SUBSYSTEM]", Why: "one cgroup is kept, the one that tells the container: proc.cgroup"},
		{Name: "proc.nthreads", Why: noThreads}, {Name: "proc.nchilds", Why: noThreads},
		{Name: "thread.cpu", Why: noThreads}, {Name: "thread.cpu.user", Why: noThreads}, {Name: "thread.cpu.system", Why: noThreads},
		{Name: "thread.vmsize", Why: noMemory}, {Name: "thread.vmrss", Why: noMemory},
		{Name: "proc.stdin.type", Why: noFDTable}, {Name: "proc.stdout.type", Why: noFDTable}, {Name: "proc.stderr.type", Why: noFDTable},
		{Name: "proc.stdin.name", Why: noFDTable}, {Name: "proc.stdout.name", Why: noFDTable}, {Name: "proc.stderr.name", Why: noFDTable},
	}},
	{"user and group", []FalcoField{
		{Name: "user.uid"}, {Name: "user.name"}, {Name: "user.homedir", Note: "absent in events of the history"}, {Name: "user.shell", Note: "absent in events of the history"},
		{Name: "user.loginuid"}, {Name: "user.loginname"}, {Name: "group.gid"}, {Name: "group.name"},
	}},
	{"fd", []FalcoField{
		{Name: "fd.num", Note: "not of events of connections"}, {Name: "fd.type"}, {Name: "fd.typechar"},
		{Name: "fd.name", Note: "what the kernel's objects say; where they do not, it is absent, and fd.nameraw is what was asked for"},
		{Name: "fd.directory", Note: "of a directory, the one that it lies in, where Falco has the directory itself"}, {Name: "fd.filename", Note: "of directories too"},
		{Name: "fd.ip"}, {Name: "fd.cip"}, {Name: "fd.sip"}, {Name: "fd.lip"}, {Name: "fd.rip"},
		{Name: "fd.port"}, {Name: "fd.cport"}, {Name: "fd.sport"}, {Name: "fd.lport"}, {Name: "fd.rport"},
		{Name: "fd.l4proto"}, {Name: "fd.sockfamily"}, {Name: "fd.is_server"}, {Name: "fd.uid", Note: "of files"},
		{Name: "fd.containername"}, {Name: "fd.containerdirectory"},
		{Name: "fd.proto", Note: "the service's name, the port where it has none; to compare ports use fd.port"},
		{Name: "fd.cproto"}, {Name: "fd.sproto"}, {Name: "fd.lproto"}, {Name: "fd.rproto"},
		{Name: "fd.net"}, {Name: "fd.cnet"}, {Name: "fd.snet"}, {Name: "fd.lnet"}, {Name: "fd.rnet"},
		{Name: "fd.connected"}, {Name: "fd.name_changed"},
		{Name: "fd.cip.name", Note: "what the machine was last answered for the address; no address is asked for"}, {Name: "fd.sip.name", Note: "likewise"},
		{Name: "fd.lip.name", Note: "likewise"}, {Name: "fd.rip.name", Note: "likewise"},
		{Name: "fd.dev", Note: "in outputs as in Falco, in conditions as the kernel encodes it"}, {Name: "fd.dev.major"}, {Name: "fd.dev.minor"}, {Name: "fd.ino"},
		{Name: "fd.nameraw"},
		{Name: "fd.types", Form: "[n]", Why: noFDTable},
		{Name: "fd.is_upper_layer", Note: "of files that are opened"}, {Name: "fd.is_lower_layer", Note: "of files that are opened"},
	}},
	{"fs.path", []FalcoField{
		{Name: "fs.path.name", Note: "what the kernel's objects say, absent where they do not; Falco joins texts"}, {Name: "fs.path.nameraw"},
		{Name: "fs.path.source", Note: "likewise"}, {Name: "fs.path.sourceraw"}, {Name: "fs.path.target", Note: "likewise"}, {Name: "fs.path.targetraw"},
	}},
	{"fdlist", []FalcoField{
		{Name: "fdlist.nums", Why: noPoll}, {Name: "fdlist.names", Why: noPoll}, {Name: "fdlist.cips", Why: noPoll}, {Name: "fdlist.sips", Why: noPoll},
		{Name: "fdlist.cports", Why: noPoll}, {Name: "fdlist.sports", Why: noPoll},
	}},
	{"container", []FalcoField{
		{Name: "container.id"}, {Name: "container.full_id"}, {Name: "container.name"}, {Name: "container.image"}, {Name: "container.image.id"}, {Name: "container.type"},
		{Name: "container.privileged"},
		{Name: "container.mounts", Why: noMounts}, {Name: "container.mount", Form: "[n], [SOURCE]", Why: noMounts}, {Name: "container.mount.source", Form: "[n], [DEST]", Why: noMounts},
		{Name: "container.mount.dest", Form: "[n], [SOURCE]", Why: noMounts}, {Name: "container.mount.mode", Form: "[n], [SOURCE]", Why: noMounts},
		{Name: "container.mount.rdwr", Form: "[n], [SOURCE]", Why: noMounts}, {Name: "container.mount.propagation", Form: "[n], [SOURCE]", Why: noMounts},
		{Name: "container.image.repository"}, {Name: "container.image.tag"}, {Name: "container.image.digest"},
		{Name: "container.healthcheck", Why: noProbe}, {Name: "container.liveness_probe", Why: noProbe}, {Name: "container.readiness_probe", Why: noProbe},
		{Name: "container.start_ts", Note: "what the runtime says; Falco takes the start of the pid namespace's first process"},
		{Name: "container.duration", Note: "since container.start_ts"},
		{Name: "container.ip", Note: "of containers in pods"},
		{Name: "container.cni.json", Why: "runtimes are not asked for what CNI plugins said: k8s.pod.ip has the addresses"},
		{Name: "container.host_pid"}, {Name: "container.host_network", Note: "of containers in pods, and where the machine's first process is an ancestor"}, {Name: "container.host_ipc"},
		{Name: "container.label", Form: "[KEY], .KEY"}, {Name: "container.labels"},
		{Name: "proc.is_container_healthcheck", Why: noProbe}, {Name: "proc.is_container_liveness_probe", Why: noProbe}, {Name: "proc.is_container_readiness_probe", Why: noProbe},
	}},
	{"k8s", []FalcoField{
		{Name: "k8s.pod.name"}, {Name: "k8s.ns.name"}, {Name: "k8s.pod.id"}, {Name: "k8s.pod.uid"}, {Name: "k8s.pod.sandbox_id"}, {Name: "k8s.pod.full_sandbox_id"},
		{Name: "k8s.pod.label", Form: "[KEY], .KEY"}, {Name: "k8s.pod.labels"},
		{Name: "k8s.pod.ip", Note: "in outputs the address of IPv4, in conditions either"},
		{Name: "k8s.pod.cni.json", Why: "runtimes are not asked for what CNI plugins said: k8s.pod.ip has the addresses"},
		{Name: "k8s.rc.name", Note: "Falco has no value for it"}, {Name: "k8s.rc.id", Why: noMeta}, {Name: "k8s.rc.label", Form: "[KEY]", Why: noMeta}, {Name: "k8s.rc.labels", Why: noMeta},
		{Name: "k8s.svc.name", Note: "Falco has no value for it"}, {Name: "k8s.svc.id", Why: noMeta}, {Name: "k8s.svc.label", Form: "[KEY]", Why: noMeta}, {Name: "k8s.svc.labels", Why: noMeta},
		{Name: "k8s.ns.id", Why: noMeta}, {Name: "k8s.ns.label", Form: "[KEY], .KEY", Note: "Falco has no value for it"}, {Name: "k8s.ns.labels", Note: "Falco has no value for it"},
		{Name: "k8s.rs.name", Note: "Falco has no value for it"}, {Name: "k8s.rs.id", Why: noMeta}, {Name: "k8s.rs.label", Form: "[KEY]", Why: noMeta}, {Name: "k8s.rs.labels", Why: noMeta},
		{Name: "k8s.deployment.name", Note: "Falco has no value for it"}, {Name: "k8s.deployment.id", Why: noMeta}, {Name: "k8s.deployment.label", Form: "[KEY]", Why: noMeta}, {Name: "k8s.deployment.labels", Why: noMeta},
	}},
}

// FalcoClass is the fields of one class, in Falco's order.
type FalcoClass struct {
	Title  string
	Fields []FalcoField
}

// FalcoFields returns every field that Falco documents for events of machines,
// those that are deprecated included, and those of its plugins for the audit log of
// Kubernetes.
func FalcoFields() []FalcoClass {
	return append(slices.Clip(falcoClasses), auditClass())
}

// FalcoWhy says why there is no field of a name that Falco has, "" for another
// name. What may follow the name, by a dot, is no part of it.
func FalcoWhy(name string) string {
	for _, c := range falcoClasses {
		for _, f := range c.Fields {
			if f.Why != "" && (name == f.Name || f.Form != "" && strings.HasPrefix(name, f.Name+".") && !falcoHas(name)) {
				return f.Why
			}
		}
	}
	return ""
}

func falcoHas(name string) bool {
	for _, c := range falcoClasses {
		for _, f := range c.Fields {
			if f.Name == name {
				return true
			}
		}
	}
	return false
}
