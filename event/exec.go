package event

import "time"

// Exec is a program started in a process: Process is the new image. Calls that
// fail are not observed, here as in Fork, Credentials and Namespace: their Res is
// SUCCESS. Of the latter two [Attempt] tells them.
type Exec struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`
}

// Kind implements [Data].
func (*Exec) Kind() Kind { return KindExec }

// Fork is a process that came to be as a copy of its parent: Process is the child.
type Fork struct {
	Type  string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Flags uint64 `column:"fork.flags"` // of the clone call; its lowest byte is the signal for the parent (clone) or CLONE_NEWTIME (clone3)
	Res   Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`

	_ struct{} `field:"evt.arg.flags" type:"string" doc:"flags of the call, by name, joined by |"`
}

// Kind implements [Data].
func (*Fork) Kind() Kind { return KindFork }

// Exit is the end of a process: of its last thread.
type Exit struct {
	Type     string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Status   int32  `field:"evt.arg.status" doc:"status as wait(2) reports it"`
	Code     int32  `field:"exit.code" doc:"exit code; 0 where a signal ended the process"`
	Signal   Signal `field:"exit.signal,omitzero" doc:"signal that ended the process"`
	CoreDump bool   `field:"exit.core_dumped,omitzero" doc:"true when the kernel wrote a core dump"`
	Duration int64  `field:"exit.duration" type:"duration" doc:"life of the process in nanoseconds"`
	UserTime int64  `field:"exit.utime" type:"duration" doc:"CPU time spent in user space by the whole process, nanoseconds"`
	SysTime  int64  `field:"exit.stime" type:"duration" doc:"CPU time spent in the kernel by the whole process, nanoseconds"`
	MaxRSS   uint64 `field:"exit.maxrss,omitzero" doc:"most memory it ever held, bytes"`
	MinFlt   uint64 `field:"exit.minflt" doc:"page faults served without I/O"`
	MajFlt   uint64 `field:"exit.majflt" doc:"page faults that needed I/O"`
	// Ktime is the event's, kept because Process.Exited outlives the event.
	Ktime uint64 `column:"exit.ktime"`
}

// Kind implements [Data].
func (*Exit) Kind() Kind { return KindExit }

// Credentials is a change of a process's user, group or capabilities. Process
// is the snapshot after the change, Old what was true before.
type Credentials struct {
	Type    string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res     Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	UID     uint32 `field:"evt.arg.uid" doc:"effective user id after the change; of chown, the new owner"`
	GID     uint32 `field:"evt.arg.gid" doc:"effective group id after the change; of chown, the new group"`
	OldUID  uint32 `field:"cred.old_uid" doc:"effective user id before the change"`
	OldGID  uint32 `field:"cred.old_gid" doc:"effective group id before the change"`
	OldCaps CapSet `field:"cred.old_cap_effective" doc:"capabilities in force before the change"`
	Gained  CapSet `field:"cred.cap_gained,omitzero" doc:"capabilities in force now that were not before"`
	Dropped CapSet `field:"cred.cap_dropped,omitzero" doc:"capabilities in force before that no longer are"`
}

// Kind implements [Data].
func (*Credentials) Kind() Kind { return KindCredentials }

// Namespace is a process that moved to other namespaces.
type Namespace struct {
	Type    string   `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res     Errno    `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	Changed []string `field:"ns.changed" doc:"which namespaces changed: mnt, pid, net, user, uts, ipc, cgroup, time"`
	// Old is what was true before.
	Old Namespaces `fields:"-" column:"ns.old"`
}

// Kind implements [Data].
func (*Namespace) Kind() Kind { return KindNamespace }

// ProcessState is a process as the process table remembers it: what lists of
// processes are filtered on and made of. To the table, and to no consumer, the
// process sensor tells by it of the processes that are older than the agent.
type ProcessState struct {
	Type     string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Exited   bool   `field:"proc.exited" doc:"true when the process has ended"`
	Code     *int32 `field:"exit.code" doc:"exit code; 0 where a signal ended the process"`
	Signal   Signal `field:"exit.signal,omitzero" doc:"signal that ended the process"`
	CoreDump bool   `field:"exit.core_dumped,omitzero" doc:"true when the kernel wrote a core dump"`
}

// Kind implements [Data].
func (*ProcessState) Kind() Kind { return KindProcess }

// State returns the event that describes p in a list made at time now, which
// is ktime after boot.
func (p *Process) State(now time.Time, ktime uint64) *Event {
	s := &ProcessState{Type: "process"}
	if x := p.Exited; x != nil {
		s.Exited, s.Code, s.Signal, s.CoreDump = true, &x.Code, x.Signal, x.CoreDump
	}
	return &Event{Time: now, Ktime: ktime, Actor: p.Key, Process: p, Data: s}
}

// CgroupState tells the path of a cgroup, before the first event that names it.
type CgroupState struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Cgroup Cgroup `fields:"-"`
}

// Kind implements [Data].
func (*CgroupState) Kind() Kind { return KindCgroup }
