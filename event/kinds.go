package event

// A Kind is a family of events that share a Go struct.
type Kind uint8

// The kinds. Zero is none.
const (
	KindExec Kind = iota + 1
	KindFork
	KindExit
	KindCredentials
	KindNamespace
	KindConnection
	KindDNS
	KindLost
	KindProcess
	KindCgroup
	KindNodes
	KindFlow
	KindSocket
	KindOpen
	KindFile
	KindMount
	KindFileClose
	KindSyscall
	KindAttempt
	KindAlert
	KindReaction
	KindK8sAudit

	numKinds
)

// kinds is every kind there is: a new one adds its line here. types are the
// values that evt.type can have; a few belong to two kinds, as close does.
var kinds = [numKinds]kind{
	KindExec:        describe[Exec]("exec", "a program was started", "execve", "execveat"),
	KindFork:        describe[Fork]("fork", "a process was created", "fork", "vfork", "clone", "clone3"),
	KindExit:        describe[Exit]("exit", "a process ended", "procexit"),
	KindCredentials: describe[Credentials]("credentials", "a process changed its user, group or capabilities", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "capset", "commit_creds"),
	KindNamespace:   describe[Namespace]("namespace", "a process moved to another namespace", "setns", "unshare"),
	KindConnection:  describe[Connection]("connection", "a TCP connection, listening socket or UDP flow began, went on or ended", "connect", "accept", "accept4", "listen", "sendto", "recvfrom", "update", "close"),
	KindDNS:         describe[DNS]("dns", "a DNS question was asked or answered", "dns"),
	KindLost:        describe[Lost]("lost", "events were lost", "lost"),
	KindProcess:     describe[ProcessState]("process", "a process as the process table knows it: no event, but what process list filters on", "process"),
	KindCgroup:      describe[CgroupState]("cgroup", "a cgroup was seen for the first time: no event for consumers, but how identity learns paths", "cgroup"),
	KindNodes:       describe[Nodes]("nodes", "which of a cluster's agents answered: what follows is of these alone", "nodes"),
	KindFlow:        describe[Flow]("flow", "packets between two ends were forwarded or dropped, seen from a pod of this machine; where Warren judges packets", "flow_new", "flow_update", "flow_close", "flow_drop"),
	KindSocket:      describe[SocketState]("socket", "a socket asks for a connection: no event for consumers, but how identity learns whose packets are that nobody answers", "socket"),
	KindOpen:        describe[Open]("open", "a file was opened, or was to be opened", "open", "openat", "openat2", "creat", "open_by_handle_at"),
	KindFile: describe[File]("file", "a name of a file was made, moved or removed, or a file's mode, owner or size was changed", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
		"mkdir", "mkdirat", "rmdir", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "truncate", "ftruncate"),
	KindMount:     describe[Mount]("mount", "a file system was mounted, moved or unmounted", "mount", "umount", "umount2", "move_mount"),
	KindFileClose: describe[FileClose]("file_close", "a file that was open for writing was closed", "close"),
	KindAlert:     describe[Alert]("alert", "an event matched a rule", "alert"),
	KindSyscall:   describe[Syscall]("syscall", "a system call that no other kind is about returned", callTypes()...),
	KindReaction:  describe[Reaction]("reaction", "a rule wanted something done when it alerted: what became of it", "reaction"),
	KindK8sAudit:  describe[K8sAudit]("k8s_audit", "a user of a Kubernetes cluster asked its API server for something; where that tells this agent", auditType),
	KindAttempt:   describe[Attempt]("attempt", "a process asked for other credentials or namespaces and nothing changed: the call failed, or that was so before", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "capset", "setns", "unshare"),
}

// StateKinds are kinds that inform the tables of identity and reach no
// consumer.
const StateKinds KindSet = 1<<KindProcess | 1<<KindCgroup | 1<<KindSocket

// NoticeKinds are kinds that tell of the stream itself: how much is missing
// from it. They reach every consumer, whatever it filters on, complete.
const NoticeKinds KindSet = 1<<KindLost | 1<<KindNodes

// OnDemandKinds are kinds of what programs, and users of a cluster, do all the time. A stream of events
// has them where somebody asks for them: by kind or type, or by a field that not
// every event has.
const OnDemandKinds KindSet = 1<<KindOpen | 1<<KindFile | 1<<KindMount | 1<<KindFileClose | 1<<KindSyscall | 1<<KindAttempt | 1<<KindK8sAudit
