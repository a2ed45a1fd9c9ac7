/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What an agent sees of the machine: all of it, or a subtree of the unified
 * cgroup hierarchy. Where it is all, the verifier knows it and removes every
 * test.
 *
 * A task belongs where it is. A socket belongs where the process was that
 * created it, which is also how the kernel chooses the cgroup programs that run
 * for it; one that was accepted belongs where its listener does. So every task
 * and every socket is in one of two disjoint subtrees at most, whoever holds or
 * uses the socket.
 *
 * Include after kernel.h.
 */
#ifndef SCOPE_H
#define SCOPE_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* The subtree: its own cgroup's number, 0 for the whole machine, and how deep that is. Set by Open. */
const volatile __u64 scope_id;
const volatile __u32 scope_level;

static __always_inline bool cgroup_in_scope(struct cgroup *c)
{
	struct cgroup **up, *at = NULL;

	if (!scope_id)
		return true;
	if (BPF_CORE_READ(c, level) < scope_level)
		return false;
	up = (void *)__builtin_preserve_access_index(&c->ancestors) + scope_level * sizeof(*up);
	bpf_probe_read_kernel(&at, sizeof(at), up);
	return BPF_CORE_READ(at, kn, id) == scope_id;
}

static __always_inline bool task_in_scope(struct task_struct *p)
{
	if (!scope_id)
		return true;
	return cgroup_in_scope(BPF_CORE_READ(p, cgroups, dfl_cgrp));
}

/* Of whole sockets only: requests and sockets in TIME_WAIT have no cgroup. */
static __always_inline bool sock_in_scope(struct sock *sk)
{
	if (!scope_id)
		return true;
	if (!bpf_core_field_exists(sk->sk_cgrp_data))
		return false; /* a kernel without cgroup programs */
	return cgroup_in_scope(BPF_CORE_READ(sk, sk_cgrp_data.cgroup));
}

#endif /* SCOPE_H */
