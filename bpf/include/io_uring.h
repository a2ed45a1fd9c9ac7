/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kernel's io_uring, as kernel.h has the rest of the kernel. Include after it. */
#ifndef IO_URING_H
#define IO_URING_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct filename {
	const char *name;
};

struct io_submit_link {
	struct io_kiocb *head;
};

struct io_submit_state {
	struct io_submit_link link; /* the chain that is being submitted */
};

struct io_fixed_file { /* until 6.12 */
	unsigned long file_ptr;
};

struct io_rsrc_node { /* since 6.13 */
	unsigned long file_ptr;
};

struct io_rsrc_data {
	unsigned int nr;
	struct io_rsrc_node **nodes;
};

struct io_file_table {
	struct io_rsrc_data data;
};

struct io_file_table___old {
	struct io_fixed_file *files;
};

struct io_ring_ctx {
	struct io_submit_state submit_state;
	struct io_file_table file_table;
};

struct io_ring_ctx___old {
	unsigned int nr_user_files;
	struct io_file_table___old file_table;
};

struct io_cqe {
	__u64 user_data;
	__s32 res;
	int fd; /* until it is issued: the descriptor that it is about */
};

struct io_uring_task {
	struct task_struct *task;
};

struct io_kiocb {
	struct file *file; /* of requests that are about a file: held until they end */
	__u8 opcode;
	unsigned int flags; /* the lower half */
	struct io_cqe cqe;
	struct io_ring_ctx *ctx;
	struct io_uring_task *tctx; /* since 6.13 */
};

struct io_kiocb___old {
	struct task_struct *task;
};

/* What a request is about lies in its beginning, by its opcode. */

struct io_how {
	__u64 flags, mode;
};

struct io_open {
	int dfd;
	__u32 file_slot;
	struct filename *filename;
	struct io_how how;
};

struct io_close {
	int fd;
	__u32 file_slot;
};

struct io_unlink {
	int dfd, flags;
	struct filename *filename;
};

struct io_rename {
	int old_dfd, new_dfd, flags;
	struct filename *oldpath, *newpath;
};

struct io_mkdir {
	int dfd;
	unsigned short mode;
	struct filename *filename;
};

struct io_link {
	int old_dfd, new_dfd, flags;
	struct filename *oldpath, *newpath;
};

struct io_ftrunc { /* since 6.9 */
	__s64 len;
};

struct io_accept {
	__u32 file_slot;
};

struct io_socket {
	int domain, type, protocol, flags;
	__u32 file_slot;
};

struct io_sr_msg {
	void *umsg;
	unsigned int msg_flags;
};

#pragma clang attribute pop

/*
 * What the process knows a request by: its ring, and the number that it has given
 * it, which others may have too.
 */
struct uring_name {
	__u64 ctx, data;
};

/* enum io_uring_op */
enum {
	URING_ACCEPT = 13,
	URING_OPENAT = 18,
	URING_CLOSE = 19,
	URING_FILES_UPDATE = 20,
	URING_OPENAT2 = 28,
	URING_RENAMEAT = 35,
	URING_UNLINKAT,
	URING_MKDIRAT,
	URING_SYMLINKAT,
	URING_LINKAT,
	URING_SOCKET = 45,
	URING_FTRUNCATE = 55,
	URING_PIPE = 62,
};

/* Flags of a request. */
enum {
	URING_FIXED = 1 << 0, /* its file is one of the ring's own table */
	URING_DRAIN = 1 << 1,
	URING_LINKS = 1 << 2 | 1 << 3,
	URING_ASYNC = 1 << 4,
	URING_SKIP = 1 << 6, /* nobody is told that it succeeded */
};

#define EINPROGRESS 115

/* The task that submitted a request. */
static __always_inline struct task_struct *uring_task(struct io_kiocb *req)
{
	struct io_kiocb___old *old = (void *)req;

	if (bpf_core_field_exists(req->tctx))
		return BPF_CORE_READ(req, tctx, task);
	return BPF_CORE_READ(old, task);
}

static __always_inline struct uring_name uring_name(struct io_kiocb *req)
{
	return (struct uring_name){ .ctx = (__u64)BPF_CORE_READ(req, ctx), .data = BPF_CORE_READ(req, cqe.user_data) };
}

static __always_inline bool uring_same(const struct uring_name *a, const struct uring_name *b)
{
	return a->ctx == b->ctx && a->data == b->data;
}

/*
 * An end that has no room in the ring of the process, of which the kernel tells the
 * name and the result; and the requests that it can be of.
 */
struct uring_end {
	struct uring_name name;
	__u64 req; /* one of them */
	__s32 res;
	__u32 found; /* how many there are */
};

/* For bpf_for_each_map_elem, over maps of requests whose values begin with their names. */
static long uring_end_match(void *map, const __u64 *key, const struct uring_name *known, struct uring_end *end)
{
	struct io_kiocb *req = (struct io_kiocb *)*key;
	struct uring_name now;

	if (!uring_same(known, &end->name))
		return 0;
	now = uring_name(req);
	if (!uring_same(&now, &end->name) || BPF_CORE_READ(req, cqe.res) != end->res)
		return 0; /* it has ended long ago, or has not yet */
	end->req = *key;
	end->found++;
	return 0;
}

#endif /* IO_URING_H */
