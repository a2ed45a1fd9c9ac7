/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's end of the road: how a program writes records.
 *
 * Every record begins with struct record, is written into one of two rings, and
 * is counted by type: submitted, or lost because the ring was full. Nothing is
 * ever lost without being counted.
 *
 * Fixed size:     e = record_reserve(&critical, REC_EXIT, sizeof(*e));
 *                 if (!e) return 0;              (the loss is counted)
 *                 ... fill all of e ...
 *                 record_submit(&critical, e);   (or record_discard(e))
 * Variable size:  build it in a scratch buffer, then
 *                 record_output(&bulk, scratch, REC_DNS, len);
 *
 * Include after kernel.h.
 */
#ifndef ROAD_H
#define ROAD_H

#include <bpf/bpf_helpers.h>

/* First in every record. The memory after it is not zeroed: fill all of it. */
struct record {
	__u64 ktime; /* bpf_ktime_get_boot_ns() */
	__u32 len;   /* of the record with this header, bytes */
	__u16 cpu;
	__u8 type;  /* enum record_type */
	__u8 flags; /* the type's own; 0 after record_reserve */
};

enum record_type {
	REC_FORK = 1,
	REC_EXEC,
	REC_EXIT,
	REC_CRED,
	REC_NS,
	REC_TASK, /* a process that existed before us */
	REC_CGROUP,
	REC_ATTEMPT, /* a call that could have changed a process, and has not */
	REC_TCP = 16,
	REC_SOCK, /* a socket that existed before us */
	REC_UDP,
	REC_UDP_END,
	REC_DNS,
	REC_OPEN = 32,
	REC_FILE,
	REC_MOUNT,
	REC_FILE_CLOSE,
	REC_CALL = 40, /* a system call returned */
	REC_CALL_UP,   /* the same on the critical ring */
	REC_MAX = 64,
};

/* Of one type on one CPU: submitted + lost = generated. */
struct counter {
	__u64 submitted;
	__u64 lost;
};

/* The three maps are the road's, shared by all objects; sizes are set by Open.
 *
 * critical carries what all later knowledge depends on (processes, cgroups),
 * bulk the rest: a flood of one never drops the other. Whatever was submitted
 * to critical before a record of bulk was reserved is decoded before it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
	__type(value, struct record);
} critical SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
	__type(value, struct record);
} bulk SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REC_MAX);
	__type(key, enum record_type);
	__type(value, struct counter);
} counters SEC(".maps");

/* Sizes of the rings in bytes, powers of two. Set before loading. */
const volatile __u64 critical_size = 2 << 20;
const volatile __u64 bulk_size = 16 << 20;

#define RECORD_OVERHEAD 8 /* the kernel's header before each record in a ring */

/*
 * Flags for submitting a record of len bytes to ring.
 *
 * The reader polls, so records wake nobody: a wake-up costs a hundred times
 * what a record costs. Only a ring that fills faster than it is polled wakes
 * the reader: once a quarter is waiting, at each 1/32 of the ring. A step that
 * two CPUs cross at once may be missed by both; the next one comes soon.
 *
 * reserved: whether the producer position already includes the record.
 */
static __always_inline __u64 record_wakeup(void *ring, __u64 len, bool reserved)
{
	__u64 size = ring == (void *)&critical ? critical_size : bulk_size;
	__u64 step = size / 32;
	__u64 pos = bpf_ringbuf_query(ring, BPF_RB_PROD_POS);
	__s64 past;

	if (!reserved)
		pos += len + RECORD_OVERHEAD;
	/* Subtracted, not compared with: after comparing with a sum, 6.12's verifier forgets the bounds of len. */
	past = (pos & (step - 1)) - len - RECORD_OVERHEAD;
	barrier_var(past);
	if (past >= 0)
		return BPF_RB_NO_WAKEUP;
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) < size / 4)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

/*
 * The additions are atomic though the counter is this CPU's own: programs are
 * preempted and interrupted by others that count the same type.
 */
static __always_inline void record_count_submitted(__u32 type)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &type);

	if (c) /* always, for a type below REC_MAX */
		__sync_fetch_and_add(&c->submitted, 1);
}

static __always_inline void record_count_lost(__u32 type)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &type);

	if (c)
		__sync_fetch_and_add(&c->lost, 1);
}

static __always_inline void record_fill(struct record *r, __u8 type, __u32 len)
{
	r->ktime = bpf_ktime_get_boot_ns();
	r->len = len;
	r->cpu = bpf_get_smp_processor_id();
	r->type = type;
	r->flags = 0;
}

/* Returns a record of a constant size with its header filled, or NULL: lost, and counted. */
static __always_inline void *record_reserve(void *ring, enum record_type type, __u64 size)
{
	struct record *r = bpf_ringbuf_reserve(ring, size, 0);

	if (!r) {
		record_count_lost(type);
		return NULL;
	}
	record_fill(r, type, size);
	return r;
}

/* Counts before it submits: the reader never sees more than was counted. */
static __always_inline void record_submit(void *ring, void *rec)
{
	struct record *r = rec;

	record_count_submitted(r->type);
	bpf_ringbuf_submit(r, record_wakeup(ring, r->len, true));
}

/* Gives a reserved record back, as if it had never been. */
static __always_inline void record_discard(void *rec)
{
	bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
}

/*
 * Copies len bytes from rec, which begins with struct record, to ring; fills
 * the header except for flags. The caller bounds len. Returns 0, or a negative
 * error: lost, and counted.
 */
static __always_inline long record_output(void *ring, void *rec, enum record_type type, __u64 len)
{
	struct record *r = rec;
	__u8 flags = r->flags;
	long err;

	record_fill(r, type, len);
	r->flags = flags;
	err = bpf_ringbuf_output(ring, rec, len, record_wakeup(ring, len, false));
	if (err)
		record_count_lost(type);
	else
		record_count_submitted(type);
	return err;
}

/*
 * For iterators, after each element: when ring is half full, ends this read of
 * the iterator, so that Object.Iterate lets the reader catch up before it goes
 * on. What exists already is never lost.
 */
static __always_inline void record_pause(struct seq_file *seq, void *ring)
{
	__u64 size = ring == (void *)&critical ? critical_size : bulk_size;
	char byte = 0;

	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > size / 2)
		bpf_seq_write(seq, &byte, sizeof(byte));
}

#endif /* ROAD_H */
