/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What user space was told that a process executes, for the programs of other
 * sensors. The process sensor writes it with the records of fork, exec and
 * existing processes: where it is not there, nothing was told, or what was told
 * may be older than what the process is.
 */
#ifndef EXE_H
#define EXE_H

#include <bpf/bpf_helpers.h>

#define EXE_TEXT 64 /* bytes of the path that are kept */
#define EXE_COMM 16

/* Two keys of tries: a length in bits, and a text that ends with a zero byte where there is room for it. */
struct exe {
	__u64 exec_id;	 /* of the task when it was told: it counts what the task has executed */
	__u32 comm_bits; /* 0: what the process is called is not known */
	__u8 comm[EXE_COMM];
	__u32 path_bits; /* 0: the path is not known */
	union {
		__u8 path[EXE_TEXT];
		__u64 words[EXE_TEXT / 8];
	};
};

/* The road's, shared by all objects. It hangs on the leader of a process. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct exe);
} exes SEC(".maps");

/*
 * What the process of p executes, NULL where it is not known. An exec that was not
 * told, because the ring was full or nobody looked, has made exec_id another.
 */
static __always_inline struct exe *exe_of(struct task_struct *p)
{
	struct task_struct *leader = p->group_leader;
	struct exe *e;

	if (!leader)
		return NULL; /* never */
	e = bpf_task_storage_get(&exes, leader, NULL, 0);
	return e && e->exec_id == p->self_exec_id ? e : NULL;
}

#endif /* EXE_H */
