package process

import (
	"slices"

	"warren/bpf"
	"warren/event"
	"warren/interest"
)

// A try is a hook of calls that have not changed what they could have changed,
// with the types of events that it is for. It is attached while somebody wants
// one of them.
type try struct {
	bpf.Hook
	types []string
}

var attempts = []try{
	newTry("process.credentials_kept", "changes of users, groups and capabilities that are refused, or change nothing", "process_try_c",
		"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "capset"),
	newTry("process.namespaces_kept", "changes of namespaces that are refused, or change nothing", "process_try_n", "setns", "unshare"),
}

func newTry(name, purpose, program string, calls ...string) try {
	var at []bpf.Attachment
	for _, c := range calls {
		at = append(at, bpf.Tracepoint(program, "syscalls", "sys_exit_"+c))
	}
	return try{bpf.Hook{Name: name, Purpose: purpose, Rungs: []bpf.Rung{{Kind: "tracepoint", Attachments: at}}}, calls}
}

func (a *try) wanted(want interest.Set) bool {
	return slices.ContainsFunc(a.types, func(t string) bool { return want.Wants(event.KindAttempt, t) })
}

// attempt decodes a struct attempt_record.
func (d *decoder) attempt(rec []byte) (*event.Event, error) {
	r, err := bpf.View[processAttemptRecord](rec)
	if err != nil {
		return nil, err
	}
	e, a := newEvent[event.Attempt](&r.Hdr, keyOf(&r.Key), nil)
	a.Type, a.RawRes = callName(credCalls, nil, r.Nr, false, ""), r.Ret
	a.Arg0, a.Arg1, a.Arg2 = r.Args[0], r.Args[1], r.Args[2]
	if a.Type == "" {
		a.Type = nsType(r.Nr, false)
	}
	if r.Ret < 0 && r.Ret >= -maxErrno {
		a.Res = event.Errno(-r.Ret)
	}
	return e, nil
}

// maxErrno is the largest error number: what is below its negative is a result.
const maxErrno = 4095
