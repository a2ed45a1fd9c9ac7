package event

import (
	"strings"
	"time"

	"warren/cluster"
)

// A Process is what is known of a process at one moment: a snapshot. When
// something about the process changes, a new snapshot takes its place; events
// keep the one that was true when they happened.
type Process struct {
	Key `column:"proc.key"`
	PID uint32   `field:"proc.pid" ancestors:"proc.apid" doc:"process id, as seen from the host"`
	_   struct{} `field:"proc.ppid" type:"uint" doc:"process id of the parent; there even where nothing else is known of it"`
	// Depth counts the ancestors reachable by Parent. It stands where it takes no
	// room: snapshots are most of what the agent's memory holds.
	Depth int32 `column:"proc.depth"`
	// Parent is the process that started this one, as it was then. It is not
	// replaced when the parent ends and the kernel hands the child to init.
	Parent *Process `column:"-"` // by whoever keeps the columns
	// ParentKey names the parent also where Parent is nil.
	ParentKey Key `column:"proc.parent"`

	TID  uint32 `field:"thread.tid,omitzero" doc:"id of the thread that acted, as seen from the host"`
	VPID uint32 `field:"proc.vpid,omitzero" doc:"process id, as seen in its own pid namespace"`

	Name     string   `field:"proc.name" parent:"proc.pname" ancestors:"proc.aname" doc:"name the kernel keeps for the process (comm): at most 15 bytes"`
	Exe      string   `field:"proc.exe" parent:"proc.pexe" ancestors:"proc.aexe" doc:"first argument: what the process was told its own name is"`
	ExePath  string   `field:"proc.exepath" parent:"proc.pexepath" ancestors:"proc.aexepath" doc:"path of the executable file, resolved by the kernel, seen from the process's root"`
	Cmdline  string   `field:"proc.cmdline" parent:"proc.pcmdline" ancestors:"proc.acmdline" doc:"proc.name and the arguments behind the first, joined by blanks"`
	ArgsLine string   `field:"proc.args" ancestors:"proc.aargs,virtual" doc:"the arguments behind the first, joined by blanks"`
	Args     []string `field:"proc.argv" doc:"every argument, the first included"`
	ArgsCut  bool     `field:"proc.args_truncated,omitzero" doc:"true when arguments are missing: they were longer than what is kept (32 KiB), or could not be read"`
	Cwd      string   `field:"proc.cwd" doc:"working directory at the last exec, or when the agent first saw the process; seen from the process's root"`
	Filename string   `field:"proc.filename" doc:"file that was asked to be executed, as the caller gave it; a script's own name"`
	Interp   string   `field:"proc.interp" doc:"interpreter that runs proc.filename, where it is a script"`

	ExeUnresolved bool   `field:"proc.exepath_unresolved,omitzero" doc:"true when the path of the executable could not be resolved"`
	ExeMemfd      bool   `field:"proc.is_exe_from_memfd" doc:"true when the executable is an anonymous file in memory (memfd_create)"`
	ExeDeleted    bool   `field:"proc.is_exe_deleted" doc:"true when the executable had no name left when it was started"`
	ExeUpper      bool   `field:"proc.is_exe_upper_layer" doc:"true when the executable lies in the upper layer of an overlay: it came or changed after the container was made"`
	ExeLower      bool   `field:"proc.is_exe_lower_layer" doc:"true when the executable lies in a lower layer of an overlay: it is the image's own"`
	ExeWritable   bool   `field:"proc.is_exe_writable" doc:"true when the user of the process may write to its executable, by the file's mode"`
	ExeInode      uint64 `field:"proc.exe_ino,omitzero" doc:"inode number of the executable"`
	ExeDev        uint64 `field:"proc.exe_dev,omitzero" doc:"device number of the executable's file system, as the kernel encodes it"`
	ExeMode       uint32 `field:"proc.exe_mode,omitzero" doc:"mode bits of the executable, set-user-id included"`
	ExeUID        uint32 `field:"proc.exe_uid,omitzero" doc:"owner of the executable"`
	ExeCtime      int64  `field:"proc.exe_ino.ctime,omitzero" doc:"last change of the executable's inode: nanoseconds since 1970"`
	ExeMtime      int64  `field:"proc.exe_ino.mtime,omitzero" doc:"last change of the executable's content: nanoseconds since 1970"`

	Creds
	Namespaces
	LoginUID  LoginUID `field:"user.loginuid" doc:"user that logged in at the root of this session (audit login uid); -1 where nobody did"`
	SessionID uint32   `field:"proc.audit_session,omitzero" doc:"audit session id"`
	TTY       uint32   `field:"proc.tty" doc:"controlling terminal as a device number; 0 where there is none"`
	SID       uint32   `field:"proc.sid,omitzero" doc:"session id, as seen from the host"`
	PGID      uint32   `field:"proc.pgid,omitzero" doc:"process group id, as seen from the host"`
	VSID      uint32   `field:"proc.vsid,omitzero" doc:"session id, as seen in its own pid namespace"`
	VPGID     uint32   `field:"proc.vpgid,omitzero" doc:"process group id, as seen in its own pid namespace"`
	Kthread   bool     `field:"proc.is_kthread,omitzero" doc:"true for a thread of the kernel"`
	UserName  string   `field:"user.name" doc:"name of user.uid: the container's own, or the host's"`
	GroupName string   `field:"group.name" doc:"name of group.gid: the container's own, or the host's"`
	LoginName string   `field:"user.loginname" doc:"name of user.loginuid"`

	StartTime time.Time `field:"proc.start" doc:"when the process started"`
	ExecTime  time.Time `field:"proc.exec_time" doc:"when its present executable was started"`

	// Container is where the process runs, nil on the host itself.
	Container *Container `column:"container"`
	Cgroup    Cgroup

	// Exited is set on the last snapshot of a process.
	Exited *Exit `column:"proc.exited"`

	_ struct{} `field:"proc.exec_id" type:"string" doc:"id of the process that no other ever has: boot id, start time and pid"`
	_ struct{} `field:"proc.parent_exec_id" type:"string" doc:"proc.exec_id of the parent"`
	_ struct{} `field:"proc.duration" type:"duration" doc:"nanoseconds since the process started"`
	_ struct{} `field:"proc.ppid.duration" type:"duration" virtual:"1" doc:"nanoseconds since the parent process started"`
	_ struct{} `field:"proc.pid.ts" type:"int" virtual:"1" doc:"start of the process: nanoseconds since 1970"`
	_ struct{} `field:"proc.ppid.ts" type:"int" virtual:"1" doc:"start of the parent process: nanoseconds since 1970"`
	_ struct{} `field:"proc.exeline" type:"string" virtual:"1" doc:"every argument joined by blanks"`
	_ struct{} `field:"proc.nargs" type:"uint" virtual:"1" doc:"number of arguments behind the first"`
	_ struct{} `field:"proc.cmdnargs" type:"uint" virtual:"1" doc:"number of arguments behind the first"`
	_ struct{} `field:"proc.cmdlenargs" type:"uint" virtual:"1" doc:"bytes in the arguments behind the first, without blanks between them"`
	_ struct{} `field:"proc.sname" type:"string" virtual:"1" doc:"proc.name of the session's leader"`
	_ struct{} `field:"proc.sid.exe" type:"string" virtual:"1" doc:"proc.exe of the session's leader"`
	_ struct{} `field:"proc.sid.exepath" type:"string" virtual:"1" doc:"proc.exepath of the session's leader"`
	_ struct{} `field:"proc.pgid.name" type:"string" virtual:"1" doc:"proc.name of the process group's leader"`
	_ struct{} `field:"proc.pgid.exe" type:"string" virtual:"1" doc:"proc.exe of the process group's leader"`
	_ struct{} `field:"proc.pgid.exepath" type:"string" virtual:"1" doc:"proc.exepath of the process group's leader"`
	_ struct{} `field:"proc.vpgid.name" type:"string" virtual:"1" doc:"the same as proc.pgid.name"`
	_ struct{} `field:"proc.vpgid.exe" type:"string" virtual:"1" doc:"the same as proc.pgid.exe"`
	_ struct{} `field:"proc.vpgid.exepath" type:"string" virtual:"1" doc:"the same as proc.pgid.exepath"`
	_ struct{} `field:"proc.pvpid" type:"uint" virtual:"1" doc:"proc.vpid of the parent process"`
	_ struct{} `field:"user.homedir" type:"string" virtual:"1" doc:"home of user.uid, by the same file as user.name; absent in events of the history"`
	_ struct{} `field:"user.shell" type:"string" virtual:"1" doc:"login shell of user.uid, by the same file as user.name; absent in events of the history"`
	_ struct{} `field:"proc.loginshellid" type:"uint" virtual:"1" doc:"process id of the oldest shell among the process and its ancestors: of what has a name that ends in sh"`
	_ struct{} `field:"proc.pidns_init_start_ts" type:"int" virtual:"1" doc:"start of the first process of the pid namespace, where that is an ancestor: nanoseconds since 1970"`
	_ struct{} `field:"proc.exe_ino.ctime_duration_pidns_start" type:"duration" virtual:"1" doc:"nanoseconds between the start of the pid namespace's first process and the last change of the executable's inode, where that came later"`
	_ struct{} `field:"proc.is_pgid_leader" type:"bool" virtual:"1" doc:"true when the process leads its process group"`
	_ struct{} `field:"proc.is_vpgid_leader" type:"bool" virtual:"1" doc:"true when the process leads its process group"`
	_ struct{} `field:"proc.is_sid_leader" type:"bool" virtual:"1" doc:"true when the process leads its session"`
	_ struct{} `field:"proc.exe_ino.ctime_duration_proc_start" type:"duration" virtual:"1" doc:"nanoseconds between the last change of the executable's inode and the start of the process"`
	_ struct{} `field:"thread.vtid" type:"uint" virtual:"1" doc:"id of the thread that acted, as seen in its own pid namespace, of a process's first thread and of all on the host"`
	_ struct{} `field:"thread.ismain" type:"bool" virtual:"1" doc:"true when the thread that acted is the process's first"`

	// Account is what else is known of the user, nil where nothing is.
	Account *Account `column:"-"`
}

// An Account is what a user has beside a name.
type Account struct{ Home, Shell string }

// Creds are the credentials of a process.
type Creds struct {
	UID  uint32 `field:"user.uid" doc:"effective user id, as the host counts"`
	GID  uint32 `field:"group.gid" doc:"effective group id, as the host counts"`
	RUID uint32 `field:"proc.ruid" doc:"real user id"`
	RGID uint32 `field:"proc.rgid" doc:"real group id"`
	SUID uint32 `field:"proc.suid" doc:"saved user id"`
	SGID uint32 `field:"proc.sgid" doc:"saved group id"`
	FUID uint32 `field:"proc.fsuid" doc:"user id for file access"`
	FGID uint32 `field:"proc.fsgid" doc:"group id for file access"`

	CapEffective   CapSet `field:"thread.cap_effective" doc:"capabilities in force, by name, separated by blanks"`
	CapPermitted   CapSet `field:"thread.cap_permitted" doc:"capabilities that may be put in force"`
	CapInheritable CapSet `field:"thread.cap_inheritable" doc:"capabilities kept across an exec"`
	CapBounding    CapSet `field:"thread.cap_bounding" doc:"capabilities that an exec can still give"`
	CapAmbient     CapSet `field:"thread.cap_ambient" doc:"capabilities that an exec keeps without file capabilities"`
}

// Namespaces are inode numbers of the namespaces a process is in.
type Namespaces struct {
	MntNS    uint32 `field:"proc.ns.mnt,omitzero" doc:"mount namespace, by inode number"`
	PidNS    uint32 `field:"proc.ns.pid,omitzero" doc:"pid namespace, by inode number"`
	NetNS    uint32 `field:"proc.ns.net,omitzero" doc:"network namespace, by inode number"`
	UserNS   uint32 `field:"proc.ns.user,omitzero" doc:"user namespace, by inode number"`
	UtsNS    uint32 `field:"proc.ns.uts,omitzero" doc:"UTS namespace, by inode number"`
	IpcNS    uint32 `field:"proc.ns.ipc,omitzero" doc:"IPC namespace, by inode number"`
	CgroupNS uint32 `field:"proc.ns.cgroup,omitzero" doc:"cgroup namespace, by inode number"`
	TimeNS   uint32 `field:"proc.ns.time,omitzero" doc:"time namespace, by inode number"`
}

// CgroupKey names a cgroup. On hybrid systems the same id can stand in several
// hierarchies, so that the id alone is not enough.
type CgroupKey struct {
	Hierarchy uint32 `column:"proc.cgroup.hierarchy"` // cgroup_root.hierarchy_id; the unified hierarchy's is 0 or 1 by kernel
	ID        uint64 `column:"proc.cgroup.own_id"`    // inode number of the cgroup's directory
}

// A Cgroup is where a process is accounted.
type Cgroup struct {
	CgroupKey
	CgroupID uint64 `field:"proc.cgroup.id,omitzero" doc:"id of the cgroup that tells the container: inode number of its directory"`
	Path     string `field:"proc.cgroup" doc:"path of that cgroup below its hierarchy's root"`
	Unit     string `field:"proc.unit" doc:"systemd unit the process belongs to"`
}

// A Container is an isolated group of processes, as a container runtime made it.
// Its description may come later than its first process: Pending is true until then.
type Container struct {
	FullID      string            `field:"container.full_id" doc:"id of the container, whole"`
	ID          string            `field:"container.id" doc:"id of the container, its first 12 digits; host outside containers"`
	Type        string            `field:"container.type" doc:"runtime that made the container: docker, podman, containerd, cri-o, ...; host outside containers"`
	Name        string            `field:"container.name" doc:"name of the container; host outside containers"`
	Image       string            `field:"container.image" doc:"image, as it was asked for"`
	ImageID     string            `field:"container.image.id" doc:"id of the image"`
	ImageRepo   string            `field:"container.image.repository" doc:"repository of the image"`
	ImageTag    string            `field:"container.image.tag" doc:"tag of the image"`
	ImageDigest string            `field:"container.image.digest" doc:"digest of the image"`
	Labels      map[string]string `field:"container.label" doc:"labels of the container: container.label[key]"`
	StartTime   time.Time         `field:"container.start_ts" doc:"when the container started"`
	Privileged  bool              `field:"container.privileged" doc:"true when the container was made privileged"`
	Pending     bool              `field:"container.pending,omitzero" doc:"true when the runtime had not yet described the container at the time of the event"`

	// Pod is the pod that the container belongs to, nil outside pods. Where
	// neither the cluster nor the runtime has told of it, it has a UID alone.
	Pod *cluster.Pod `column:"k8s.pod"`
	// PodContainer is what the pod calls the container; POD for the sandbox,
	// which holds the pod's namespaces.
	PodContainer     string                `field:"k8s.container.name" doc:"name of the container in its pod; POD for the sandbox that holds the pod's namespaces"`
	PodContainerKind cluster.ContainerKind `field:"k8s.container.kind" doc:"role of the container in its pod: main, init, sidecar, ephemeral, sandbox"`
	SandboxID        string                `field:"k8s.pod.full_sandbox_id" doc:"id of the pod's sandbox, whole"`
	// Services are those that stood for the pod, by name.
	Services []string `field:"k8s.svc.name" doc:"names of the services that stand for the pod"`

	_ struct{} `field:"container.labels" type:"string" virtual:"1" doc:"the same as container.label; without a key, all of them: key:value, joined by commas and blanks"`
	_ struct{} `field:"container.duration" type:"duration" virtual:"1" doc:"nanoseconds since the container started"`
	_ struct{} `field:"container.ip" type:"string" virtual:"1" doc:"address of the container's pod, of IPv4"`
	_ struct{} `field:"container.host_pid" type:"bool" virtual:"1" doc:"true when the process is in the host's pid namespace"`
	_ struct{} `field:"container.host_ipc" type:"bool" virtual:"1" doc:"true when the process is in the host's IPC namespace"`
	_ struct{} `field:"container.host_network" type:"bool" virtual:"1" doc:"true when the process is in the host's network namespace"`
	_ struct{} `field:"k8s.pod.ip" type:"ip" many:"either" doc:"addresses of the pod, of both families; its node's where it shares the node's network"`
	_ struct{} `field:"k8s.pod.id" type:"string" virtual:"1" doc:"the same as k8s.pod.uid"`
	_ struct{} `field:"k8s.pod.sandbox_id" type:"string" virtual:"1" doc:"id of the pod's sandbox, its first 12 digits"`
	_ struct{} `field:"k8s.pod.label" type:"string" virtual:"1" doc:"the same as k8s.pod.labels: k8s.pod.label[app]"`
	_ struct{} `field:"k8s.ns.label" type:"string" virtual:"1" doc:"the same as k8s.ns.labels: k8s.ns.label[team]"`
	_ struct{} `field:"k8s.deployment.name" type:"string" virtual:"1" doc:"k8s.workload.name, where that is a deployment"`
	_ struct{} `field:"k8s.daemonset.name" type:"string" virtual:"1" doc:"k8s.workload.name, where that is a daemon set"`
	_ struct{} `field:"k8s.statefulset.name" type:"string" virtual:"1" doc:"k8s.workload.name, where that is a stateful set"`
	_ struct{} `field:"k8s.cronjob.name" type:"string" virtual:"1" doc:"k8s.workload.name, where that is a cron job"`
	_ struct{} `field:"k8s.rc.name" type:"string" virtual:"1" doc:"k8s.workload.name, where that is a replication controller"`
}

// hostContainer answers for processes outside containers, as Falco does.
var hostContainer = &Container{ID: "host", Type: "host", Name: "host"}

// InContainer reports whether p runs in a container.
func (p *Process) InContainer() bool { return p.Container != nil }

// SetArgs sets the arguments and what follows from them. The snapshot must not
// have been published yet.
func (p *Process) SetArgs(args []string) {
	p.Args = args
	if len(args) == 0 {
		p.Exe, p.ArgsLine, p.Cmdline = "", "", p.Name
		return
	}
	p.Exe = args[0]
	n := len(p.Name) + 1
	for _, a := range args[1:] {
		n += len(a) + 1
	}
	var b strings.Builder // one allocation for both lines
	b.Grow(n)
	b.WriteString(p.Name)
	for _, a := range args[1:] {
		b.WriteByte(' ')
		b.WriteString(a)
	}
	p.Cmdline, p.ArgsLine = b.String(), ""
	if b.Len() > len(p.Name)+1 {
		p.ArgsLine = p.Cmdline[len(p.Name)+1:]
	} else {
		p.Cmdline = p.Name
	}
}

// Ancestor returns the n-th ancestor: 0 is p itself, 1 its parent. It returns
// nil where there is none or it is unknown.
func (p *Process) Ancestor(n int) *Process {
	for ; p != nil && n > 0; n-- {
		p = p.Parent
	}
	return p
}
