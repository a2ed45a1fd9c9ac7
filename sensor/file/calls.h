/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is known of the calls that are on their way, from one program of a call
 * to the next.
 *
 * There are so many slots as Go makes the maps large, and no more memory is ever
 * taken. A thread has a slot of its own from when something was seen of its call
 * to the call's end. They lie in sets of eight; the number of the thread says in
 * which set to look, and one word of a slot says whose it is. Where none is
 * free, that of a call that was begun long ago is taken over, which is a loss,
 * and counted; else the caller counts what it could not keep.
 *
 * Who has a slot marks it as busy while it reads or writes there.
 */
#ifndef FILE_CALLS_H
#define FILE_CALLS_H

#include "record.h"

#define SLOT_WAYS 8
#define SLOT_BUSY (1ULL << 40)
#define SLOT_OLD  64 /* after so many times 2^30 ns another call may have the slot */

/* Of each slot: thread, enum file_what at bit 32, SLOT_BUSY, when at bit 41. 0: free. */
struct slot_set {
	__u64 owners[SLOT_WAYS];
};

/* Two kinds of slots, whose sizes Go sets: of calls, and of texts that are long. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot_set);
} call_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot_set);
} text_sets SEC(".maps");

enum slots {
	SLOT_CALLS,
	SLOT_TEXTS,
};

/* Sets, less one: powers of two. Set before loading. */
const volatile __u32 call_mask;
const volatile __u32 text_mask;

static __always_inline enum record_type record_of(__u32 what)
{
	if (what >= FILE_CLOSE)
		return REC_FILE_CLOSE;
	if (what >= FILE_MOUNT)
		return REC_MOUNT;
	return what >= FILE_UNLINK ? REC_FILE : REC_OPEN;
}

static __always_inline struct slot_set *slot_set(__u32 slots, __u32 set)
{
	return slots == SLOT_CALLS ? bpf_map_lookup_elem(&call_sets, &set) : bpf_map_lookup_elem(&text_sets, &set);
}

static __always_inline __u32 slot_mask(__u32 slots)
{
	return slots == SLOT_CALLS ? call_mask : text_mask;
}

/*
 * Takes this thread's slot, which is busy then: one that it has, or a free one.
 * Returns its number, -1 if there is none. Global, as walk_run is.
 */
__noinline int slot_take(__u32 slots, __u32 what)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid(), set = tid & slot_mask(slots);
	__u64 now = (bpf_ktime_get_boot_ns() >> 30) & 0x7fffff, o;
	__u64 mine = tid | (__u64)what << 32 | SLOT_BUSY | now << 41;
	struct slot_set *s = slot_set(slots, set);
	int i;

	if (!s)
		return -1; /* never */
	for (i = 0; i < SLOT_WAYS; i++) {
		o = *(volatile __u64 *)&s->owners[i];
		/* Left behind by a call whose end was not seen. */
		if ((__u32)o == tid && __sync_val_compare_and_swap(&s->owners[i], o, mine) == o)
			return set * SLOT_WAYS + i;
	}
	for (i = 0; i < SLOT_WAYS; i++) {
		if (!*(volatile __u64 *)&s->owners[i] && !__sync_val_compare_and_swap(&s->owners[i], 0, mine))
			return set * SLOT_WAYS + i;
	}
	for (i = 0; i < SLOT_WAYS; i++) {
		o = *(volatile __u64 *)&s->owners[i];
		if (o & SLOT_BUSY || ((now - (o >> 41)) & 0x7fffff) < SLOT_OLD)
			continue;
		if (__sync_val_compare_and_swap(&s->owners[i], o, mine) != o)
			continue;
		if (slots == SLOT_CALLS)
			record_count_lost(record_of(o >> 32 & 0xff));
		return set * SLOT_WAYS + i;
	}
	return -1;
}

/* Finds what this thread has kept of such a call: the slot is busy then. Returns its number, -1 if there is none. */
__noinline int slot_find(__u32 slots, __u32 what)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid(), set = tid & slot_mask(slots);
	struct slot_set *s = slot_set(slots, set);
	__u64 o;
	int i;

	if (!s)
		return -1; /* never */
	for (i = 0; i < SLOT_WAYS; i++) {
		o = *(volatile __u64 *)&s->owners[i];
		if ((__u32)o != tid || (o >> 32 & 0xff) != what || o & SLOT_BUSY)
			continue;
		if (__sync_val_compare_and_swap(&s->owners[i], o, o | SLOT_BUSY) == o)
			return set * SLOT_WAYS + i;
	}
	return -1;
}

/* Leaves in a slot what was written there, or gives it back. */
static __always_inline void slot_leave(__u32 slots, __u32 slot, bool keep)
{
	struct slot_set *s = slot_set(slots, slot / SLOT_WAYS);
	__u64 *owner;

	if (!s)
		return; /* never */
	owner = &s->owners[slot % SLOT_WAYS];
	__sync_lock_test_and_set(owner, keep ? *owner & ~SLOT_BUSY : 0);
}

#endif /* FILE_CALLS_H */
