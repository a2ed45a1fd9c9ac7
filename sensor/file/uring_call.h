/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is known of io_uring's requests while they are on their way: uring.h.
 */
#ifndef FILE_URING_CALL_H
#define FILE_URING_CALL_H

#include "io_uring.h"
#include "record.h"

#define URING_ALLOC ~0U /* a slot of the kernel's choice */
#define O_LARGEFILE 0100000

#define URING_TEXT  256	 /* what is longer lies in uring_texts */
#define URING_CALLS 2048 /* requests that are on their way */
#define URING_TEXTS 64
#define URING_SLOTS 4096

/* A request that was submitted. Its texts are a name, and what was asked for. */
struct uring_call {
	struct uring_name name;
	struct file_actor actor;
	struct file_object file; /* of a close */
	__u64 when, chain;
	__u64 flags, size;
	__s32 dir, target_dir;
	__s32 fd;
	__u32 slot; /* of the ring's table of files, plus one; 0: none */
	__u32 mode, marks;
	__u16 name_len, raw_len, target_raw_len;
	__u8 what;   /* enum file_what */
	__u8 error;  /* enum file_error, of name */
	__u8 later;  /* not executed at once by who submits it */
	__u8 closes; /* it is a close */
	__u8 skip;   /* nobody is told that it succeeded */
	__u8 told;   /* nobody wants it told */
	__u8 zero[4];
	char text[URING_TEXT];
};

struct uring_text {
	char bytes[2 * PATH_MAX];
};

struct uring_scratch {
	__u64 req;
	struct uring_call call;
	char text[3 * PATH_MAX];
};

/*
 * What was done to descriptors that share this place: bounded, and so that what
 * shares it by chance makes names unproven, and no name false.
 */
struct uring_slot {
	__u64 last;  /* when one was last asked to be closed */
	__u64 chain; /* in which chain of requests; and when by another one */
	__u64 other;
	__u64 done; /* when such a request last ended */
	__u32 going, mixed;
	__u64 hidden; /* when one of whose success nobody is told */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, URING_CALLS);
	__uint(key_size, sizeof(__u64));
	__uint(value_size, sizeof(struct uring_call));
} uring_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, URING_TEXTS);
	__uint(key_size, sizeof(__u64));
	__uint(value_size, sizeof(struct uring_text));
} uring_texts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, URING_SLOTS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct uring_slot));
} uring_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct uring_scratch));
} uring_scratches SEC(".maps");

static __always_inline struct uring_scratch *uring_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&uring_scratches, &zero);
}

/* A request as a number: the verifier lets nobody calculate with pointers that it knows. */
static __always_inline struct io_kiocb *uring_request(struct uring_scratch *s, struct io_kiocb *req)
{
	*(struct io_kiocb *volatile *)&s->req = req;
	return (struct io_kiocb *)*(volatile __u64 *)&s->req;
}

/* The request that s is about. */
static __always_inline struct io_kiocb *uring_of(struct uring_scratch *s)
{
	return (struct io_kiocb *)*(volatile __u64 *)&s->req;
}

/* ---- descriptors ---- */

#define URING_DIRECT (1ULL << 32) /* a slot of the ring's table, and not a descriptor */
#define URING_TABLE  (3ULL << 32) /* any of them */

static __always_inline struct uring_slot *uring_slot(__u32 pid, __u64 number)
{
	__u64 h = (pid * 0x9e3779b97f4a7c15ULL ^ number) * 0xff51afd7ed558ccdULL;
	__u32 at = h >> 52; /* URING_SLOTS */

	return bpf_map_lookup_elem(&uring_slots, &at);
}

static __always_inline __u64 uring_number(__s32 fd, __u32 slot)
{
	return slot ? URING_DIRECT | (slot - 1) : (__u32)fd;
}

/* A request was submitted that closes, or replaces, a descriptor. */
static __always_inline void uring_closing(__u32 pid, __u64 number, __u64 chain, bool skip)
{
	struct uring_slot *s = uring_slot(pid, number);
	__u64 now = bpf_ktime_get_boot_ns();

	if (!s)
		return; /* never */
	if (s->chain != chain) {
		if (s->going)
			s->mixed = 1;
		s->other = s->last;
		s->chain = chain;
	}
	s->last = now;
	if (skip)
		s->hidden = now;
	else
		__sync_fetch_and_add(&s->going, 1);
}

static __always_inline void uring_closed(__u32 pid, __u64 number)
{
	struct uring_slot *s = uring_slot(pid, number);

	if (!s)
		return; /* never */
	s->done = bpf_ktime_get_boot_ns();
	if (!s->going)
		return; /* it was submitted before anybody looked */
	if (__sync_fetch_and_sub(&s->going, 1) == 1)
		s->mixed = 0;
}

/*
 * Whether a descriptor is still what a request of c made it: no other that could
 * have closed it was submitted since, or was on its way then. Those behind it in
 * the same chain wait until its end was told. self: c is one of those itself.
 */
static __always_inline bool uring_proven(const struct uring_call *c, __u64 number, bool self)
{
	struct uring_slot *s = uring_slot(c->actor.pid, number), *table = uring_slot(c->actor.pid, URING_TABLE);
	bool own;

	if (!s || !table || !c->when)
		return false;
	own = c->chain && s->chain == c->chain;
	if ((own ? s->other : s->last) >= c->when + (self && !own) || s->done >= c->when)
		return false;
	if (s->going > self && (!own || s->mixed))
		return false;
	if (number >> 32 && table->last >= c->when)
		return false;
	return !(c->later && s->hidden);
}

/* A file of the ring's own table. */
static __always_inline struct file *uring_direct(struct io_ring_ctx *ctx, __u32 at)
{
	struct io_ring_ctx___old *old = (void *)ctx;
	struct io_rsrc_node *node;
	__u64 file;

	if (bpf_core_field_exists(struct io_file_table, data)) {
		if (at >= READ(ctx, file_table.data.nr))
			return NULL;
		node = (void *)read_word((void *)READ(ctx, file_table.data.nodes) + (__u64)at * sizeof(void *));
		if (!node)
			return NULL;
		file = READ(node, file_ptr);
	} else {
		if (at >= BPF_CORE_READ(old, nr_user_files))
			return NULL;
		file = read_word((void *)BPF_CORE_READ(old, file_table.files) +
				 (__u64)at * sizeof(struct io_fixed_file));
	}
	return (struct file *)(file & ~7ULL); /* below are flags */
}

/* The file of a descriptor of task, or of a slot, which is counted from one. */
static __always_inline struct file *uring_file(struct io_ring_ctx *ctx, struct task_struct *task, __u32 fd, __u32 slot)
{
	struct files_struct *files;
	struct fdtable *fdt;

	if (slot)
		return uring_direct(ctx, slot - 1);
	files = READ(task, files);
	fdt = READ(files, fdt);
	if (fd >= READ(fdt, max_fds))
		return NULL;
	return (struct file *)read_word((void *)READ(fdt, fd) + (__u64)fd * sizeof(struct file *));
}

#endif /* FILE_URING_CALL_H */
