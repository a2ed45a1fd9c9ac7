package event

import "golang.org/x/sys/unix"

// Commands that change what the other arguments mean.
var (
	prctlName    = is(0, unix.PR_SET_NAME, unix.PR_GET_NAME)
	prctlPointed = done(is(0, unix.PR_GET_CHILD_SUBREAPER))
	prctlNumber  = no(0, unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_GET_CHILD_SUBREAPER)

	ptraceSignal = is(0, unix.PTRACE_CONT, unix.PTRACE_SINGLESTEP, unix.PTRACE_DETACH, unix.PTRACE_SYSCALL)
	ptracePeek   = done(is(0, unix.PTRACE_PEEKTEXT, unix.PTRACE_PEEKDATA, unix.PTRACE_PEEKUSR))
	ptraceOther  = no(0, unix.PTRACE_CONT, unix.PTRACE_SINGLESTEP, unix.PTRACE_DETACH, unix.PTRACE_SYSCALL,
		unix.PTRACE_PEEKTEXT, unix.PTRACE_PEEKDATA, unix.PTRACE_PEEKUSR)

	// Of keyctl: whether the second, third and fourth argument are text, or
	// serial numbers and other small integers.
	keyctlText2 = is(0, unix.KEYCTL_JOIN_SESSION_KEYRING)
	keyctlInt2  = no(0, unix.KEYCTL_JOIN_SESSION_KEYRING, unix.KEYCTL_SESSION_TO_PARENT)
	keyctlText3 = is(0, unix.KEYCTL_RESTRICT_KEYRING, unix.KEYCTL_SEARCH,
		unix.KEYCTL_PKEY_ENCRYPT, unix.KEYCTL_PKEY_DECRYPT, unix.KEYCTL_PKEY_SIGN, unix.KEYCTL_PKEY_VERIFY)
	keyctlInt3 = is(0, unix.KEYCTL_GET_KEYRING_ID, unix.KEYCTL_SETPERM, unix.KEYCTL_LINK, unix.KEYCTL_UNLINK, unix.KEYCTL_SET_TIMEOUT,
		unix.KEYCTL_GET_PERSISTENT, unix.KEYCTL_CHOWN, unix.KEYCTL_NEGATE, unix.KEYCTL_REJECT, unix.KEYCTL_MOVE, unix.KEYCTL_PKEY_QUERY)
	keyctlLong3 = is(0, unix.KEYCTL_CAPABILITIES, unix.KEYCTL_UPDATE, unix.KEYCTL_DESCRIBE, unix.KEYCTL_READ, unix.KEYCTL_GET_SECURITY,
		unix.KEYCTL_WATCH_KEY, unix.KEYCTL_INSTANTIATE, unix.KEYCTL_INSTANTIATE_IOV, unix.KEYCTL_DH_COMPUTE)
	keyctlText4 = is(0, unix.KEYCTL_RESTRICT_KEYRING, unix.KEYCTL_SEARCH, unix.KEYCTL_PKEY_QUERY)
	keyctlInt4  = is(0, unix.KEYCTL_CHOWN, unix.KEYCTL_NEGATE, unix.KEYCTL_REJECT, unix.KEYCTL_MOVE)
	keyctlLong4 = is(0, unix.KEYCTL_UPDATE, unix.KEYCTL_DESCRIBE, unix.KEYCTL_READ, unix.KEYCTL_GET_SECURITY, unix.KEYCTL_WATCH_KEY,
		unix.KEYCTL_INSTANTIATE, unix.KEYCTL_INSTANTIATE_IOV, unix.KEYCTL_DH_COMPUTE,
		unix.KEYCTL_PKEY_ENCRYPT, unix.KEYCTL_PKEY_DECRYPT, unix.KEYCTL_PKEY_SIGN, unix.KEYCTL_PKEY_VERIFY)
	keyctlInt5 = is(0, unix.KEYCTL_SEARCH, unix.KEYCTL_INSTANTIATE, unix.KEYCTL_INSTANTIATE_IOV, unix.KEYCTL_REJECT, unix.KEYCTL_MOVE)

	keyctlLong5 = is(0, unix.KEYCTL_DH_COMPUTE, unix.KEYCTL_PKEY_ENCRYPT, unix.KEYCTL_PKEY_DECRYPT, unix.KEYCTL_PKEY_SIGN, unix.KEYCTL_PKEY_VERIFY)

	bpfMap  = is(0, unix.BPF_MAP_CREATE)
	bpfProg = is(0, unix.BPF_PROG_LOAD)
	// What is done with elements of maps.
	bpfElements = is(0, unix.BPF_MAP_LOOKUP_ELEM, unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_MAP_GET_NEXT_KEY,
		unix.BPF_MAP_LOOKUP_AND_DELETE_ELEM, unix.BPF_MAP_LOOKUP_BATCH, unix.BPF_MAP_LOOKUP_AND_DELETE_BATCH,
		unix.BPF_MAP_UPDATE_BATCH, unix.BPF_MAP_DELETE_BATCH)
)

// Offsets in union bpf_attr (include/uapi/linux/bpf.h).
const (
	bpfAttrLen    = 64
	bpfMapName    = 28
	bpfProgName   = 48
	ioUringParams = 40 // of struct io_uring_params, what is read
	perfAttrLen   = 16
	sigsetLen     = 8
)

// Calls are the calls that events of the kind syscall tell of, each when it
// returns. Changes of credentials and namespaces, files, and connections have
// kinds of their own.
var Calls = []Call{
	// Other processes.
	{Name: "ptrace", AMD64: 101, ARM64: 117, FD: NoFD, Doc: "observe and control another process",
		Args: []CallArg{result(), regHex("addr", 2),
			regSig("data", 3).when(ptraceSignal), CallArg{Name: "data", Form: FormHex, Bits: 64}.in(0, 0).when(ptracePeek), regHex("data", 3).when(ptraceOther),
			regEnum("request", 0, ptraceRequests), regPID("pid", 1)},
		Reads: []CallRead{readBytes(3, 8).when(ptracePeek)}},
	{Name: "process_vm_readv", AMD64: 310, ARM64: 270, FD: NoFD, Doc: "read another process's memory",
		Args:  []CallArg{result(), regPID("pid", 0), memData("data", 0)},
		Reads: []CallRead{{How: ReadVector, At: 1, Len: 2, Max: maxData, ByResult: true, If: When{Done: true}}}},
	{Name: "process_vm_writev", AMD64: 311, ARM64: 271, FD: NoFD, Doc: "write another process's memory",
		Args:  []CallArg{result(), regPID("pid", 0), memData("data", 0)},
		Reads: []CallRead{{How: ReadVector, At: 1, Len: 2, Max: maxData, ByResult: true, If: When{Done: true}}}},
	{Name: "kill", AMD64: 62, ARM64: 129, FD: NoFD, Doc: "send a signal to a process or group",
		Args: []CallArg{result(), regPID("pid", 0), regSig("sig", 1)}},
	{Name: "tkill", AMD64: 200, ARM64: 130, FD: NoFD, Doc: "send a signal to a thread",
		Args: []CallArg{result(), regPID("tid", 0), regSig("sig", 1)}},
	{Name: "tgkill", AMD64: 234, ARM64: 131, FD: NoFD, Doc: "send a signal to a thread of a process",
		Args: []CallArg{result(), regPID("pid", 0), regPID("tid", 1), regSig("sig", 2)}},
	{Name: "pidfd_open", AMD64: 434, ARM64: 434, FD: AtResult, Doc: "get a descriptor of a process",
		Args: []CallArg{newFD("fd"), regPID("pid", 0), regFlags("flags", 1, pidfdFlags)}},
	{Name: "pidfd_getfd", AMD64: 438, ARM64: 438, FD: AtResult, Doc: "take a descriptor of another process",
		Args: []CallArg{newFD("fd"), regFD("pid_fd", 0), regFD("target_fd", 1), regHex("flags", 2)}},
	{Name: "pidfd_send_signal", AMD64: 424, ARM64: 424, FD: 0, Doc: "send a signal by a descriptor",
		Args: []CallArg{result(), regFD("fd", 0), regSig("sig", 1), regHex("info", 2), regHex("flags", 3)}},

	// The process itself.
	{Name: "prctl", AMD64: 157, ARM64: 167, FD: NoFD, Doc: "change what a process is to the kernel",
		Args: []CallArg{result(), regEnum("option", 0, prctlOptions), memText("arg2_str", 0).when(prctlName),
			CallArg{Name: "arg2_int", Form: FormInt, Bits: 32}.in(1, 0).when(prctlPointed), regLong("arg2_int", 1).when(prctlNumber)},
		Reads: []CallRead{readText(1, 16).when(prctlName), readBytes(1, 4).when(prctlPointed)}},
	{Name: "personality", AMD64: 135, ARM64: 92, FD: NoFD, Doc: "choose how the kernel treats the process",
		Args: []CallArg{result(), regFlags("persona", 0, personalities)}},
	{Name: "seccomp", AMD64: 317, ARM64: 277, FD: NoFD, Doc: "limit the system calls of a process",
		Args: []CallArg{result(), regEnum("op", 0, seccompOperations), regFlags("flags", 1, seccompFlags)}},
	{Name: "chroot", AMD64: 161, ARM64: 51, FD: NoFD, Doc: "change the root directory of a process",
		Args: []CallArg{result(), memText("path", 0)}, Reads: []CallRead{readText(0, maxPath)}},
	{Name: "pivot_root", AMD64: 155, ARM64: 41, FD: NoFD, Doc: "change the root of a mount namespace",
		Args:  []CallArg{result(), memText("new_root", 0), memText("put_old", 1)},
		Reads: []CallRead{readText(0, maxPath), readText(1, maxPath)}},

	// The kernel.
	{Name: "bpf", AMD64: 321, ARM64: 280, FD: AtResult, Own: bpfElements.Is, Doc: "load programs into the kernel, and what belongs to them",
		Args: []CallArg{newFD("fd"), regEnum("cmd", 0, bpfCommands),
			CallArg{Name: "prog_type", Form: FormEnum, Bits: 32, Names: bpfProgramTypes}.in(0, 0).when(bpfProg),
			CallArg{Name: "prog_name", Form: FormText}.in(0, bpfProgName).when(bpfProg),
			CallArg{Name: "map_type", Form: FormEnum, Bits: 32, Names: bpfMapTypes}.in(0, 0).when(bpfMap),
			CallArg{Name: "map_name", Form: FormText}.in(0, bpfMapName).when(bpfMap),
			regSize("size", 2)},
		Reads: []CallRead{{How: ReadBytes, At: 1, Len: 2, Max: bpfAttrLen, If: When{Is: bpfMap.Is | bpfProg.Is}}}},
	{Name: "perf_event_open", AMD64: 298, ARM64: 241, FD: AtResult, Doc: "count or sample what happens",
		Args: []CallArg{newFD("fd"), CallArg{Name: "perf_type", Form: FormEnum, Bits: 32, Names: perfTypes}.in(0, 0),
			CallArg{Name: "config", Form: FormHex, Bits: 64}.in(0, 8),
			regPID("pid", 1), regInt("cpu", 2), regFD("group_fd", 3), regFlags("flags", 4, perfFlags)},
		Reads: []CallRead{readBytes(0, perfAttrLen)}},
	{Name: "init_module", AMD64: 175, ARM64: 105, FD: NoFD, Critical: true, Doc: "load a kernel module from memory",
		Args:  []CallArg{result(), memData("img", 0), regSize("length", 1), memText("uargs", 1)},
		Reads: []CallRead{{How: ReadBytes, At: 0, Len: 1, Max: maxData}, readText(2, maxPath)}},
	{Name: "finit_module", AMD64: 313, ARM64: 273, FD: 0, FDObject: true, Critical: true, Doc: "load a kernel module from a file",
		Args:  []CallArg{result(), regFD("fd", 0), memText("uargs", 0), regFlags("flags", 2, finitModuleFlags)},
		Reads: []CallRead{readText(1, maxPath)}},
	{Name: "delete_module", AMD64: 176, ARM64: 106, FD: NoFD, Critical: true, Doc: "remove a kernel module",
		Args:  []CallArg{result(), memText("name", 0), regFlags("flags", 1, deleteModuleFlags)},
		Reads: []CallRead{readText(0, maxText)}},
	{Name: "kexec_load", AMD64: 246, ARM64: 104, FD: NoFD, Critical: true, Doc: "prepare another kernel",
		Args: []CallArg{result(), regHex("entry", 0), regSize("nr_segments", 1), regFlags("flags", 3, kexecFlags)}},
	{Name: "kexec_file_load", AMD64: 320, ARM64: 294, FD: 0, FDObject: true, Critical: true, Doc: "prepare another kernel from files",
		Args:  []CallArg{result(), regFD("fd", 0), regFD("initrd_fd", 1), memText("cmdline", 0), regFlags("flags", 4, kexecFileFlags)},
		Reads: []CallRead{readText(3, maxPath)}},

	// Keys.
	{Name: "keyctl", AMD64: 250, ARM64: 219, FD: NoFD, Doc: "use and change the kernel's keys",
		Args: []CallArg{result(), regEnum("operation", 0, keyctlOperations),
			memText("arg2", 0).when(keyctlText2), regInt("arg2", 1).text().when(keyctlInt2),
			memText("arg3", 1).when(keyctlText3), regInt("arg3", 2).text().when(keyctlInt3), regLong("arg3", 2).text().when(keyctlLong3),
			memText("arg4", 2).when(keyctlText4), regInt("arg4", 3).text().when(keyctlInt4), regLong("arg4", 3).text().when(keyctlLong4),
			regInt("arg5", 4).text().when(keyctlInt5), regLong("arg5", 4).text().when(keyctlLong5)},
		Reads: []CallRead{readText(1, maxText).when(keyctlText2), readText(2, maxText).when(keyctlText3), readText(3, maxText).when(keyctlText4)}},
	{Name: "add_key", AMD64: 248, ARM64: 217, FD: NoFD, Doc: "give the kernel a key",
		Args:  []CallArg{result(), memText("key_type", 0), memText("description", 1), regSize("size", 3), regInt("keyring", 4)},
		Reads: []CallRead{readText(0, 32), readText(1, maxText)}},
	{Name: "request_key", AMD64: 249, ARM64: 218, FD: NoFD, Doc: "ask the kernel for a key",
		Args:  []CallArg{result(), memText("key_type", 0), memText("description", 1), memText("callout_info", 2), regInt("keyring", 3)},
		Reads: []CallRead{readText(0, 32), readText(1, maxText), readText(2, maxText)}},

	// Memory and descriptors.
	{Name: "memfd_create", AMD64: 319, ARM64: 279, FD: AtResult, Doc: "make a file in memory",
		Args:  []CallArg{newFD("fd"), memText("name", 0), regFlags("flags", 1, memfdFlags)},
		Reads: []CallRead{readText(0, 256)}},
	{Name: "userfaultfd", AMD64: 323, ARM64: 282, FD: AtResult, Doc: "serve page faults in user space",
		Args: []CallArg{result(), regFlags("flags", 0, userfaultFlags)}},
	{Name: "dup", AMD64: 32, ARM64: 23, FD: AtResult, FDObject: true, Doc: "copy a descriptor",
		Args: []CallArg{result(), regFD("oldfd", 0)}},
	{Name: "dup2", AMD64: 33, ARM64: NoCall, FD: AtResult, FDObject: true, Doc: "copy a descriptor to a number",
		Args: []CallArg{result(), regFD("oldfd", 0), regFD("newfd", 1)}},
	{Name: "dup3", AMD64: 292, ARM64: 24, FD: AtResult, FDObject: true, Doc: "copy a descriptor to a number",
		Args: []CallArg{result(), regFD("oldfd", 0), regFD("newfd", 1), regFlags("flags", 2, dupFlags)}},
	{Name: "fcntl", AMD64: 72, ARM64: 25, FD: 0, Doc: "change or copy a descriptor",
		Args: []CallArg{result(), regFD("fd", 0), regEnum("cmd", 1, fcntlCommands), regHex("arg", 2)}},
	{Name: "io_uring_setup", AMD64: 425, ARM64: 425, FD: AtResult, Doc: "make a ring of requests",
		Args: []CallArg{result(), regUint("entries", 0), regUint("sq_entries", 0).in(0, 0), regUint("cq_entries", 0).in(0, 4),
			regFlags("flags", 0, ioUringSetupFlags).in(0, 8), regUint("sq_thread_cpu", 0).in(0, 12), regUint("sq_thread_idle", 0).in(0, 16),
			regFlags("features", 0, ioUringFeatures).in(0, 20)},
		Reads: []CallRead{readBytes(1, ioUringParams)}},
	{Name: "io_uring_enter", AMD64: 426, ARM64: 426, FD: 0, Doc: "submit requests of a ring",
		Args: []CallArg{result(), regFD("fd", 0), regUint("to_submit", 1), regUint("min_complete", 2), regFlags("flags", 3, ioUringEnterFlags),
			CallArg{Name: "sigset", Form: FormSignalSet, Bits: 64}.in(0, 0)},
		Reads: []CallRead{readBytes(4, sigsetLen).when(no(3, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))}},
	{Name: "io_uring_register", AMD64: 427, ARM64: 427, FD: 0, Doc: "give a ring files and memory",
		Args: []CallArg{result(), regFD("fd", 0), regEnum("opcode", 1, ioUringOpcodes), regHex("arg", 2), regUint("nr_args", 3)}},

	// Sockets that are made, and messages. Connections are of another kind.
	{Name: "socket", AMD64: 41, ARM64: 198, FD: AtResult, Uring: []uint8{45}, Doc: "make a socket",
		Args: []CallArg{newFD("fd"), regEnum("domain", 0, socketFamilies), regUint("type", 1).text(), regUint("proto", 2), regFlags("flags", 1, socketFlags).of(1<<11 | 1<<19)}},
	{Name: "socketpair", AMD64: 53, ARM64: 199, FD: NoFD, Doc: "make two connected sockets",
		Args:  []CallArg{result(), regFD("fd1", 0).in(0, 0), regFD("fd2", 0).in(0, 4), regEnum("domain", 0, socketFamilies), regUint("type", 1).text(), regUint("proto", 2)},
		Order: []string{"res", "fd1", "fd2", noArg, noArg, "domain", "type", "proto"}, // Falco has the addresses of both ends
		Reads: []CallRead{readBytes(3, 8).when(When{Done: true})}},
	{Name: "bind", AMD64: 49, ARM64: 200, FD: 0, FDObject: true, Doc: "give a socket its own address; what it has when the call returns is in fd.*",
		Args:  []CallArg{result(), CallArg{Name: "addr", Form: FormAddress}.in(0, 0), regFD("fd", 0)},
		Reads: []CallRead{{How: ReadBytes, At: 1, Len: 2, Max: maxAddr}}},
	{Name: "sendmsg", AMD64: 46, ARM64: 211, FD: 0, Uring: []uint8{9, 48}, Doc: "send a message",
		Args:  []CallArg{result(), memData("data", 0), regFD("fd", 0), CallArg{Name: "size", Form: FormUint, At: AtResult, Bits: 64}.when(When{Done: true}), message(), regFlags("flags", 2, messageFlags)},
		Reads: messageReads()},
	{Name: "recvmsg", AMD64: 47, ARM64: 212, FD: 0, Uring: []uint8{10}, Doc: "receive a message",
		Args:  []CallArg{result(), CallArg{Name: "size", Form: FormUint, At: AtResult, Bits: 64}.when(When{Done: true}), memData("data", 0), message(), regFD("fd", 0), regFlags("flags", 2, messageFlags)},
		Order: []string{"res", "size", "data", "tuple", noArg, "fd", "flags"}, // the control message; flags are not Falco's
		Reads: messageReads()},
	{Name: "sendmmsg", AMD64: 307, ARM64: 269, FD: 0, Doc: "send messages; data and tuple are those of the first",
		Args:  []CallArg{result(), regFD("fd", 0), memData("data", 0), message(), regFlags("flags", 3, messageFlags)},
		Order: []string{"res", "fd", noArg, "data", "tuple", "flags"}, // the size; flags are not Falco's
		Reads: messageReads()},
	{Name: "recvmmsg", AMD64: 299, ARM64: 243, FD: 0, Doc: "receive messages; data and tuple are those of the first",
		Args:  []CallArg{result(), regFD("fd", 0), memData("data", 0), message(), regFlags("flags", 3, messageFlags)},
		Order: []string{"res", "fd", noArg, "data", "tuple", noArg, "flags"}, // size and control message; flags are not Falco's
		Reads: messageReads()},

	// Files that are no files.
	{Name: "mknod", AMD64: 133, ARM64: NoCall, FD: NoFD, Doc: "make a device, pipe or socket file",
		Args:  []CallArg{result(), memText("path", 0), mode("mode", 1), regUint("dev", 2).device()},
		Reads: []CallRead{readText(0, maxPath)}},
	{Name: "mknodat", AMD64: 259, ARM64: 33, FD: NoFD, Doc: "make a device, pipe or socket file",
		Args:  []CallArg{result(), regFD("dirfd", 0).text(), memText("path", 0), mode("mode", 2), regUint("dev", 3).device()},
		Reads: []CallRead{readText(1, maxPath)}},
}

// text makes a number one that is written and compared as text, because other
// events call text by the same name.
func (a CallArg) text() CallArg {
	a.AsText = true
	return a
}

// of limits flags to some bits.
func (a CallArg) of(mask uint64) CallArg {
	a.Mask = mask
	return a
}

func (a CallArg) device() CallArg {
	a.Form, a.AsText = FormDevice, true // elsewhere it is a path
	return a
}

func mode(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormMode, At: at, Bits: 32, Names: nodeModes}
}

// message is the other end that a message is for, or from.
func message() CallArg { return CallArg{Name: "tuple", Form: FormAddress}.in(1, 0) }

func messageReads() []CallRead {
	return []CallRead{
		{How: ReadMessage, At: 1, Len: NoLen, Max: maxData, ByResult: true, If: When{Done: true}},
		{How: ReadName, At: 1, Len: NoLen, Max: maxAddr, If: When{Done: true}},
	}
}
