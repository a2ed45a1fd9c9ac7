/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What io_uring is asked for in place of a call: told when the request has ended,
 * with what the kernel took of it when it was submitted; what that points at in the
 * process's memory is read when it is told, as of calls. One of which nobody is to be
 * told that it succeeded is told when it is submitted, as -EINPROGRESS.
 *
 * Included by syscall.bpf.c.
 */
#ifndef SYSCALL_URING_H
#define SYSCALL_URING_H

#include "io_uring.h"

#define URING_OPS  64
#define URING_ASKS 2048

/* By operation: the number of the call that does the same, plus one; 0: none. Set by Go. */
const volatile __u16 uring_calls[URING_OPS];

/* Of a request that was submitted, by its address. */
struct uring_ask {
	struct uring_name name;
	__s32 fd; /* -1: one of the ring's own table */
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, URING_ASKS);
	__type(key, __u64);
	__type(value, struct uring_ask);
} uring_asks SEC(".maps");

/* What to tell of a request, NULL: nothing. */
static __always_inline struct call_plan *uring_plan(struct io_kiocb *req)
{
	__u32 op = BPF_CORE_READ(req, opcode), nr;
	struct call_plan *plan;

	if (op >= URING_OPS || !uring_calls[op])
		return NULL;
	nr = uring_calls[op] - 1;
	plan = bpf_map_lookup_elem(&call_plans, &nr);
	return plan && plan->call ? plan : NULL;
}

/* The arguments that the call would have had. */
static __always_inline void uring_args(struct syscall_record *r, struct io_kiocb *req, __s32 fd)
{
	struct io_sr_msg *msg = (void *)req;
	struct io_socket *sock = (void *)req;

	__builtin_memset(r->args, 0, sizeof(r->args));
	if (BPF_CORE_READ(req, opcode) == URING_SOCKET) {
		r->args[0] = BPF_CORE_READ(sock, domain);
		r->args[1] = BPF_CORE_READ(sock, type);
		r->args[2] = BPF_CORE_READ(sock, protocol);
		if (BPF_CORE_READ(sock, file_slot))
			r->uring |= CALL_DIRECT;
		return;
	}
	r->args[0] = (__s64)fd;
	r->args[1] = (__u64)BPF_CORE_READ(msg, umsg);
	r->args[2] = BPF_CORE_READ(msg, msg_flags);
}

static __noinline int uring_tell(struct io_kiocb *req, __s32 fd, __s64 ret)
{
	struct call_plan *plan = uring_plan(req);
	struct task_struct *task = uring_task(req);
	struct syscall_record *r;
	struct interest m = {};
	struct scratch *s;
	__u32 zero = 0;
	bool own;

	if (!plan || !task_in_scope(task))
		return 0;
	/* Else it is somebody who cleans up behind it. */
	own = BPF_CORE_READ(task, tgid) == bpf_get_current_task_btf()->tgid;
	if (own && !interest_begin(&m, plan->call - 1, 0, ret < 0))
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s)
		return 0; /* never */
	r = &s->rec;
	r->key.start = BPF_CORE_READ(task, group_leader, start_boottime);
	r->key.pid = BPF_CORE_READ(task, tgid);
	r->key.tid = BPF_CORE_READ(task, pid);
	r->ret = ret;
	r->uring = CALL_URING;
	uring_args(r, req, fd);
	/* It has the file until it ends, whatever becomes of the descriptor; before it is executed it has none. */
	return call_tell(s, plan, &m, BPF_CORE_READ(req, file), own);
}

static __always_inline int uring_submitted(struct io_kiocb *req)
{
	struct uring_ask ask = { .fd = -1 };
	__u64 key = (__u64)req;
	__u32 flags;

	if (!uring_plan(req))
		return 0;
	flags = BPF_CORE_READ(req, flags);
	if (!(flags & URING_FIXED))
		ask.fd = BPF_CORE_READ(req, cqe.fd);
	if (flags & URING_SKIP)
		uring_tell(req, ask.fd, -EINPROGRESS);
	ask.name = uring_name(req);
	bpf_map_update_elem(&uring_asks, &key, &ask, BPF_ANY);
	return 0;
}

static __always_inline int uring_ended(struct io_kiocb *req)
{
	__u64 key = (__u64)req;
	struct uring_ask *ask;
	__s32 fd = -1, ret;

	if (!req || !uring_plan(req))
		return 0;
	ret = BPF_CORE_READ(req, cqe.res);
	ask = bpf_map_lookup_elem(&uring_asks, &key);
	if (ask) {
		fd = ask->fd;
		bpf_map_delete_elem(&uring_asks, &key);
	} else if (ret < 0) {
		return 0; /* the kernel has refused it before it was submitted: there are no arguments */
	}
	return uring_tell(req, fd, ret);
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(syscall_u_req, struct io_kiocb *req)
{
	return uring_submitted(req);
}

/* Its name until 6.4. */
SEC("tp_btf/io_uring_submit_sqe")
int BPF_PROG(syscall_u_sqe, struct io_kiocb *req)
{
	return uring_submitted(req);
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(syscall_u_done, void *ctx_, struct io_kiocb *req)
{
	return uring_ended(req);
}

/* One whose end has no room in the ring of the process. */
SEC("tp_btf/io_uring_cqe_overflow")
int BPF_PROG(syscall_u_over, void *ring, __u64 data, __s32 res)
{
	struct uring_end end = { .name = { .ctx = (__u64)ring, .data = data }, .res = res };

	bpf_for_each_map_elem(&uring_asks, uring_end_match, &end, 0);
	if (end.found > 1)
		record_count_lost(REC_CALL); /* it cannot be told of which it is */
	return end.found == 1 ? uring_ended((struct io_kiocb *)end.req) : 0;
}

#endif /* SYSCALL_URING_H */
