/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which processes user space was told of: an agent with a scope remembers it, so
 * that a process that leaves the scope is told to the end, and nobody else's end
 * is. Without a scope nothing is remembered: everything is told.
 */
#ifndef PROCESS_TOLD_H
#define PROCESS_TOLD_H

#include "scope.h"

#define PID_LIMIT (4 << 20) /* PID_MAX_LIMIT: no pid is larger */

enum told_state {
	TOLD = 1,
	TOLD_LEFT = 2, /* and of its leaving */
	TOLD_BITS = 2,
	TOLD_IN_WORD = 64 / TOLD_BITS,
};

/* TOLD_BITS for each pid. Its size is set by Go: for all pids, or as good as none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PID_LIMIT / TOLD_IN_WORD);
	__type(key, __u32);
	__type(value, __u64);
} told SEC(".maps");

static __always_inline __u64 *told_word(struct task_struct *p)
{
	__u32 word = (__u32)p->tgid / TOLD_IN_WORD;

	return bpf_map_lookup_elem(&told, &word);
}

static __always_inline __u64 told_mask(struct task_struct *p, __u64 state)
{
	return state << ((__u32)p->tgid % TOLD_IN_WORD * TOLD_BITS);
}

/* Adds to the state of p, and returns whether it had that already. */
static __always_inline bool told_add(struct task_struct *p, __u64 state)
{
	__u64 *word, mask = told_mask(p, state);

	if (!scope_id)
		return false;
	word = told_word(p);
	if (!word)
		return false; /* never */
	return __sync_fetch_and_or(word, mask) & mask;
}

/* Takes from the state of p; all of it before another process can have the pid. */
static __always_inline void told_remove(struct task_struct *p, __u64 state)
{
	__u64 *word;

	if (!scope_id)
		return;
	word = told_word(p);
	if (word)
		__sync_fetch_and_and(word, ~told_mask(p, state));
}

/* Whether user space is told of p: it is in the scope, or was when it was told. */
static __always_inline bool told_has(struct task_struct *p)
{
	__u64 *word;

	if (task_in_scope(p))
		return true;
	word = told_word(p);
	return word && *word & told_mask(p, TOLD);
}

#endif /* PROCESS_TOLD_H */
