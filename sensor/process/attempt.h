/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Calls that could have changed credentials or namespaces and have not: they
 * failed, or asked for what is so. What has changed is told by identity.h, and by
 * nothing here.
 *
 * Of a process with several threads only those that failed: each thread has
 * credentials and namespaces of its own, and what all of them change one after
 * the other is told once.
 *
 * For who asks for it alone: anybody can make such calls, as many as he likes.
 */
#ifndef PROCESS_ATTEMPT_H
#define PROCESS_ATTEMPT_H

#include "identity.h"

static __always_inline void attempt_tell(struct task_struct *p, const struct trace_event_raw_sys_exit *ctx)
{
	struct attempt_record *r = record_reserve(&bulk, REC_ATTEMPT, sizeof(*r));
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(p);
	struct pt_regs___arm64 *arm = (void *)regs;

	if (!r)
		return;
	task_key_fill(&r->key, p);
	r->ret = ctx->ret;
	r->nr = ctx->id;
	r->zero = 0;
	if (bpf_core_field_exists(regs->orig_ax)) {
		r->args[0] = BPF_CORE_READ(regs, di);
		r->args[1] = BPF_CORE_READ(regs, si);
		r->args[2] = BPF_CORE_READ(regs, dx);
	} else {
		r->args[0] = BPF_CORE_READ(arm, orig_x0);
		r->args[1] = BPF_CORE_READ(arm, regs[1]);
		r->args[2] = BPF_CORE_READ(arm, regs[2]);
	}
	record_submit(&bulk, r);
}

/* Whether the call may be told: it has failed, or p is all of its process. */
static __always_inline bool attempt_clear(struct task_struct *p, const struct trace_event_raw_sys_exit *ctx)
{
	return task_in_scope(p) && ((__s64)ctx->ret < 0 || p->signal->nr_threads == 1);
}

/* The identity of p, where user space may know something else of it than what is so; NULL where it cannot. */
static __always_inline struct identity *attempt_identity(struct task_struct *p)
{
	struct identity *id = identity_get(p->group_leader, 0);

	return id && id->known ? id : NULL;
}

/* Exit of setuid and its like, and of capset. */
SEC("tracepoint")
int process_try_c(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct identity *id;
	struct creds now;

	if (!attempt_clear(p, ctx))
		return 0;
	id = (__s64)ctx->ret < 0 ? NULL : attempt_identity(p);
	if (id) {
		creds_fill(&now, p->real_cred);
		if (id->creds_by == (__u32)p->pid) {
			id->creds_by = 0;
			return 0;
		}
		if (!creds_equal(&now, &id->creds))
			return 0; /* the program beside this one is about to tell */
	}
	attempt_tell(p, ctx);
	return 0;
}

/* Exit of setns and unshare. */
SEC("tracepoint")
int process_try_n(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct nsproxy *ns = p->nsproxy;
	struct identity *id;
	struct ns_state now;

	if (!attempt_clear(p, ctx))
		return 0;
	id = (__s64)ctx->ret < 0 || !ns ? NULL : attempt_identity(p);
	if (id) {
		if (id->ns_by == (__u32)p->pid) {
			id->ns_by = 0;
			return 0;
		}
		namespaces_fill(&now.ns, ns, p->real_cred, 0);
		child_namespaces(ns, &now.child_pidns, &now.child_timens);
		if (!ns_state_equal(&now, id))
			return 0;
	}
	attempt_tell(p, ctx);
	return 0;
}

#endif /* PROCESS_ATTEMPT_H */
