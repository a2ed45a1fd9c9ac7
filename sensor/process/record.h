/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the process sensor sends. Go's types are generated from these. */
#ifndef PROCESS_RECORD_H
#define PROCESS_RECORD_H

struct fork_record {
	struct record hdr;
	struct task_info task; /* the child */
	struct task_key maker; /* who called: with CLONE_PARENT not the parent */
	__u64 clone_flags;     /* of clone and clone3; 0 if they could not be read */
	__u32 nr, compat;      /* the maker's system call, as in struct task_call */
};

enum image_flags {
	EXE_UNRESOLVED = 1 << 0,
	EXE_MEMFD = 1 << 1,
	EXE_DELETED = 1 << 2,
	EXE_UPPER = 1 << 3,
	EXE_LOWER = 1 << 4,
	EXE_WRITABLE = 1 << 5,
	ARGS_CUT = 1 << 6,
	EXEC_AT = 1 << 7, /* execveat(2) of a descriptor, or relative to one */
};

/*
 * Followed by the strings, in the order of their lengths here; none is
 * terminated, but each argument is.
 */
struct exec_record {
	struct record hdr;
	struct task_info task;
	__u64 exe_ino;
	__s64 exe_ctime, exe_mtime; /* ns since 1970 */
	__u32 exe_dev, exe_mode, exe_uid;
	__u32 flags; /* enum image_flags */
	__u16 exe_len, cwd_len, filename_len, interp_len;
	__u32 args_len, zero;
};

struct exit_record {
	struct record hdr;
	struct task_key key;
	__s32 status; /* as wait(2) reports it */
	__u32 zero;
	__u64 utime, stime; /* ns, as the clock tick sampled them */
	__u64 runtime;	    /* ns on a CPU, as the scheduler counted */
	__u64 maxrss;	    /* pages */
	__u64 minflt, majflt;
};

/* What a process changed to, and what it was before. */
struct cred_record {
	struct record hdr;
	struct task_key key;
	struct creds now, old;
	__u32 nr, compat;
};

struct ns_record {
	struct record hdr;
	struct task_key key;
	struct namespaces now, old;
	/* Where the next children go, unlike the process itself (unshare -p, -T). */
	__u32 child_pidns, child_timens;
	__u32 old_child_pidns, old_child_timens;
	__u32 nr, compat;
};

/* A call that could have changed credentials or namespaces, and has not. */
struct attempt_record {
	struct record hdr;
	struct task_key key;
	__s64 ret;
	__u64 args[3];
	__u32 nr, zero;
};

#endif /* PROCESS_RECORD_H */
