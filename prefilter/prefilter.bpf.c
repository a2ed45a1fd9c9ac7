//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Observes nothing: it asks the engine of interest.h, for its tests.
 *
 * Hooks: a program that the tests run; getpgid, by a tracepoint.
 * Out:   none.
 * State: the engine's maps; what a test asks, and is answered.
 */
#include "kernel.h"
#include "interest_ends.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define QUESTION_TEXT 256

/* An event, as a sensor would describe it. */
struct question {
	__u32 type, open, failed, count; /* count: how many names it has, 0 to 2 */
	__u64 ino, dev;
	__u32 len[2];
	__u32 raw_len, unnamed; /* unnamed: it has one, which is not known, nor which file it is */
	__u8 laddr[16], raddr[16];
	__u16 lport, rport;
	__u32 family;
	char text[2][QUESTION_TEXT]; /* from the beginning */
	char back[2][QUESTION_TEXT]; /* up to the end */
	char raw[INTEREST_RAW + 10];
};

struct question question_now;
__u32 wanted;
struct cgroup_key mine; /* of the task that asks */
__u64 exec_id;		/* also */
__u64 asked, passed;	/* of repeated ones */

static __always_inline bool judge_actor(struct interest *m, struct question *q)
{
	return interest_actor(m) && (!interest_needs_raw(m) || interest_raw(m, q->raw, q->raw_len));
}

static __always_inline bool judge(void)
{
	struct question *q = &question_now;
	struct interest m;
	bool path_first;
	int i;

	if (!interest_call(&m, q->type, q->open, q->failed))
		return false;
	path_first = interest_path_first(&m);
	if (!path_first && !judge_actor(&m, q))
		return false;
	if (interest_needs_ends(&m) && !interest_ends(&m, q->family, q->laddr, q->raddr, q->lport, q->rport))
		return false;
	if (q->unnamed)
		interest_any_path(&m);
	else if (interest_needs_inode(&m) && !interest_inode(&m, q->ino, q->dev))
		return false;
	if (!path_first && !interest_needs_path(&m))
		return interest_wanted(&m);
	for (i = 0; i < 2; i++) {
		if (i < q->count)
			interest_path(&m, q->text[i], q->back[i] + QUESTION_TEXT, q->len[i]);
	}
	return interest_no_more_paths(&m) && (!path_first || judge_actor(&m, q));
}

SEC("raw_tracepoint/sys_enter")
int prefilter_ask(void *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct cgroup *c = task_cgroup(p);

	exec_id = p->self_exec_id;
	if (c) {
		mine.id = BPF_CORE_READ(c, kn, id);
		mine.hierarchy = BPF_CORE_READ(c, root, hierarchy_id);
	}
	wanted = judge();
	return 0;
}

/* For what an answer costs: once for each getpgid. */
SEC("tracepoint/syscalls/sys_exit_getpgid")
int prefilter_pair(void *ctx)
{
	if (judge())
		__sync_fetch_and_add(&passed, 1);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_getpgid")
int prefilter_empty(void *ctx)
{
	return 0;
}
