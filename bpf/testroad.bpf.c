//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/* Observes nothing of use: it makes records for the tests of the road.
 *
 * Hooks: syscall programs that the tests run; sched_process_fork by several
 *        kinds of program; getpgid by tracepoints; packets of a cgroup;
 *        bpf_trace_printk, by which programs set off programs.
 * Out:   struct test_record to either ring, of the types 60 to 63.
 * State: hits counts runs of the attached programs, by slot.
 */
#include "kernel.h"
#include "road.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define TEST_CRITICAL ((enum record_type)60)
#define TEST_BULK     ((enum record_type)61)
#define TEST_VARIABLE ((enum record_type)62)
#define TEST_FOREIGN  ((enum record_type)63) /* the tests set no decoder */

struct test_record {
	struct record rec;
	__u64 producer;
	__u64 seq;
	__u64 pad[5];
};

/* What a test asks of testroad_make. */
struct test_order {
	__u64 producer;
	__u64 count;
	__u64 mode; /* enum test_mode */
};

enum test_mode {
	MODE_CRITICAL,
	MODE_BULK,
	MODE_BOTH,    /* critical before bulk, with the same seq */
	MODE_DISCARD, /* every other critical record is discarded */
	MODE_GARBAGE, /* records with damaged headers */
	MODE_VARIABLE,
};

/* Set before loading: the thread group whose doings count. */
const volatile __u32 only_tgid;

/* Shows that initialised variables survive rung by rung loading. */
__u64 initialised = 42;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct test_record);
} scratch SEC(".maps");

/* For bpf2go to make Go types of. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, enum test_mode);
	__type(value, struct test_order);
} orders SEC(".maps");

static __always_inline int hit(__u32 slot)
{
	__u64 *n = bpf_map_lookup_elem(&hits, &slot);

	if (n && bpf_get_current_pid_tgid() >> 32 == only_tgid)
		__sync_fetch_and_add(n, 1);
	return 0;
}

static __always_inline void make(void *ring, enum record_type type, __u64 producer, __u64 seq)
{
	struct test_record *e = record_reserve(ring, type, sizeof(*e));

	if (!e)
		return;
	e->producer = producer;
	e->seq = seq;
	record_submit(ring, e);
}

static __always_inline void make_garbage(__u64 seq)
{
	struct test_record *e = record_reserve(&critical, TEST_CRITICAL, sizeof(*e));

	if (!e)
		return;
	record_count_submitted(TEST_CRITICAL);
	e->producer = 0;
	e->seq = seq;
	switch (seq & 3) {
	case 0:
		e->rec.len = sizeof(*e) + 1; /* longer than it is */
		break;
	case 1:
		e->rec.len = 3; /* shorter than its header */
		break;
	case 2:
		e->rec.type = 200; /* no such type */
		break;
	case 3:
		e->rec.len = sizeof(struct record); /* shorter than its type */
		break;
	}
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static long make_one(__u64 i, struct test_order *o)
{
	__u32 zero = 0;
	struct test_record *s;

	switch (o->mode) {
	case MODE_CRITICAL:
		make(&critical, TEST_CRITICAL, o->producer, i);
		break;
	case MODE_BULK:
		make(&bulk, TEST_BULK, o->producer, i);
		break;
	case MODE_BOTH:
		make(&critical, TEST_CRITICAL, o->producer, i);
		make(&bulk, TEST_BULK, o->producer, i);
		break;
	case MODE_DISCARD:
		make(&critical, TEST_CRITICAL, o->producer, i);
		s = record_reserve(&critical, TEST_CRITICAL, sizeof(*s));
		if (s)
			record_discard(s);
		break;
	case MODE_GARBAGE:
		make_garbage(i);
		break;
	case MODE_VARIABLE:
		s = bpf_map_lookup_elem(&scratch, &zero);
		if (!s)
			break;
		s->producer = o->producer;
		s->seq = i;
		record_output(&bulk, s, TEST_VARIABLE, 32 + (i & 31));
		break;
	}
	return 0;
}

SEC("syscall")
int testroad_make(struct test_order *ctx)
{
	struct test_order o = { ctx->producer, ctx->count, ctx->mode };

	bpf_loop(o.count, make_one, &o, 0);
	return 0;
}

SEC("syscall")
int testroad_alien(struct test_order *ctx)
{
	make(&bulk, TEST_FOREIGN, ctx->producer, 0);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int testroad_btf(void *ctx)
{
	return hit(0);
}

SEC("tp_btf/no_such_tracepoint")
int testroad_none(void *ctx)
{
	return hit(0);
}

SEC("fentry/bpf_fentry_test1")
int testroad_fentry(void *ctx)
{
	return hit(1);
}

SEC("fexit/bpf_fentry_test1")
int testroad_fexit(void *ctx)
{
	return hit(2);
}

SEC("tp/syscalls/sys_enter_getpgid")
int testroad_tp(void *ctx)
{
	return hit(3);
}

SEC("kprobe/bpf_fentry_test1")
int testroad_kprobe(void *ctx)
{
	return hit(4);
}

SEC("kretprobe/bpf_fentry_test1")
int testroad_kret(void *ctx)
{
	return hit(5);
}

SEC("cgroup_skb/egress")
int testroad_egress(void *ctx)
{
	__u32 slot = 6;
	__u64 *n = bpf_map_lookup_elem(&hits, &slot);

	if (n)
		__sync_fetch_and_add(n, 1);
	return 1;
}

/* Refused by the verifier of every kernel: it reads beyond the value. */
SEC("tp_btf/sched_process_fork")
int testroad_wrong(void *ctx)
{
	__u32 slot = 0;
	__u64 *n = bpf_map_lookup_elem(&hits, &slot);

	return n ? n[1] : 0;
}

/* Writes more than a small ring holds. */
SEC("iter/task")
int testroad_tasks(struct bpf_iter__task *ctx)
{
	int i;

	if (!ctx->task)
		return 0;
	for (i = 0; i < 16; i++)
		make(&critical, TEST_CRITICAL, 0, i);
	record_pause(ctx->meta->seq, &critical);
	return 0;
}

/* What testroad_nested is attached to. */
SEC("syscall")
int testroad_print(struct test_order *ctx)
{
	bpf_printk("testroad");
	return 0;
}

/* Sets itself off: the kernel leaves that run out. */
SEC("tp_btf/bpf_trace_printk")
int testroad_nested(void *ctx)
{
	hit(7);
	if (bpf_get_current_pid_tgid() >> 32 == only_tgid)
		bpf_printk("testroad, nested");
	return 0;
}

/* The same at a tracepoint, where no program runs while another one does. */
SEC("perf_event")
int testroad_clock(void *ctx)
{
	bpf_printk("testroad, at a clock");
	return 0;
}

SEC("tp/bpf_trace/bpf_trace_printk")
int testroad_traced(void *ctx)
{
	return hit(7);
}
