package event

import "slices"

// Attempt is a call that could have changed a process's credentials or
// namespaces, and has not: it failed, or it asked for what was so. What did
// change is told by [Credentials] and [Namespace].
type Attempt struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`

	// The call's first arguments, as they stood in registers.
	Arg0 uint64 `column:"attempt.arg0"`
	Arg1 uint64 `column:"attempt.arg1"`
	Arg2 uint64 `column:"attempt.arg2"`

	_ struct{} `field:"evt.arg.uid" type:"uint" doc:"of setuid and setfsuid, the user id that was asked for"`
	_ struct{} `field:"evt.arg.gid" type:"uint" doc:"of setgid and setfsgid, the group id that was asked for"`
	_ struct{} `field:"evt.arg.ruid" type:"int" doc:"of setreuid and setresuid, the real user id that was asked for; -1: as it is"`
	_ struct{} `field:"evt.arg.euid" type:"int" doc:"the effective user id that was asked for"`
	_ struct{} `field:"evt.arg.suid" type:"int" doc:"the saved user id that was asked for"`
	_ struct{} `field:"evt.arg.rgid" type:"int" doc:"of setregid and setresgid, the real group id that was asked for; -1: as it is"`
	_ struct{} `field:"evt.arg.egid" type:"int" doc:"the effective group id that was asked for"`
	_ struct{} `field:"evt.arg.sgid" type:"int" doc:"the saved group id that was asked for"`
	_ struct{} `field:"evt.arg.fd" type:"int" doc:"descriptor that a call was given, or made: see docs/syscalls.md; of setns, the namespace's"`
	_ struct{} `field:"evt.arg.nstype" type:"string" doc:"of setns, the kinds of namespaces that the descriptor may be of"`
	_ struct{} `field:"evt.arg.flags" type:"string" doc:"flags of the call, by name, joined by |"`
}

// Kind implements [Data].
func (*Attempt) Kind() Kind { return KindAttempt }

// attemptNum is an argument of some calls, at a register of each.
func attemptNum(at int, calls ...string) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		a := e.Data.(*Attempt)
		if i != 0 || !slices.Contains(calls, a.Type) {
			return 0, false
		}
		return int64(int32([...]uint64{a.Arg0, a.Arg1, a.Arg2}[at])), true
	}}
}

// attemptID is attemptNum for numbers without a sign.
func attemptID(calls ...string) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		a := e.Data.(*Attempt)
		return int64(uint32(a.Arg0)), i == 0 && slices.Contains(calls, a.Type)
	}}
}

// attemptNSType is what kinds of namespaces setns was to join.
func attemptNSType(b []byte, e *Event) []byte {
	if a := e.Data.(*Attempt); a.Type == "setns" {
		return appendFlags(b, uint64(uint32(a.Arg1)), cloneFlags)
	}
	return b
}

// orAttempt is a getter of files' events, and another of attempts.
func orAttempt(file, attempt getter) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		if e.Data.Kind() == KindAttempt {
			return attempt.num(e, i)
		}
		return file.num(e, i)
	}}
}
