/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Events that nobody wants one by one, counted: of those that are equal in all
 * that consumers count by, the first in a while is recorded as any other is, and
 * the rest add one to a number. Go's prefilter.Counter reads the numbers, and has
 * each said of the record that was the first.
 *
 *	if (interest_counts(&m)) {
 *		c = count_room();
 *		count_begin(c, type, res, marks);
 *		if (interest_counts_dirs(&m) && !count_dir(c, ...))
 *			...                            it cannot be grouped: recorded
 *		if (count_again())
 *			return 0;                      counted
 *		example = c->example;
 *	}
 *	r->example = example;
 *	err = record_output(...);
 *	if (example)
 *		count_told(err);
 *
 * Nothing is counted twice or not at all: a key is there before its record is,
 * and where that was lost (which counts as lost) the next of the same sort is
 * recorded in its place. A full table means records. Keys are of one of two
 * slots; count_slot says which, and is read once for an event. Go empties the
 * other one when no program can know it any more.
 *
 * For programs that are not preempted. Include after kernel.h and walk.h.
 */
#ifndef COUNT_H
#define COUNT_H

#include <bpf/bpf_helpers.h>

#define COUNT_DIR  128 /* bytes of the longest directory that is counted by */
#define COUNT_KEYS 16384

/* What counted events are equal in. */
struct count_key {
	__u64 start;   /* of the process */
	__u64 exec;    /* counts what it has executed */
	__u64 cgroups; /* its control groups, all in one */
	__u64 cgroup;  /* the number of that of the unified hierarchy */
	__u32 pid, slot;
	__u32 uid, gid; /* effective, of the process */
	__u32 type;	/* the sensor's number */
	__s32 res;	/* negative error, or 0 */
	__u32 marks;	/* the sensor's own */
	__u32 dir_len;
	char dir[COUNT_DIR]; /* zeros behind it */
};

struct count_value {
	__u64 example; /* number of the record that tells what is counted; 0: it was lost */
	__u64 more;    /* events beside it */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, COUNT_KEYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct count_key);
	__type(value, struct count_value);
} counts SEC(".maps");

volatile __u32 count_slot SEC(".data.count");

/* Of one event. */
struct count {
	struct count_key key;
	__u64 instead; /* the key is there already, and its example was lost */
	__u64 example; /* number of the record that is made now */
	__u64 last;    /* number that was given on this CPU */
};

/* Its bytes, for the type of a map's values: see change.h. */
struct count_room {
	__u64 words[sizeof(struct count) / sizeof(__u64)];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct count_room);
} count_rooms SEC(".maps");

static __always_inline struct count *count_room(void)
{
	__u32 zero = 0;

	return (void *)bpf_map_lookup_elem(&count_rooms, &zero);
}

/* Begins an event of the current task, of which nothing but these is told apart. */
static __always_inline void count_begin(struct count *c, __u32 type, long res, __u32 marks)
{
	struct count_key *k = &c->key;

	k->type = type;
	k->res = res < 0 ? res : 0;
	k->marks = marks;
	k->dir_len = 0;
	__builtin_memset(k->dir, 0, sizeof(k->dir));
}

/*
 * Tells events apart by the directory at text too, of len bytes. Returns whether
 * that can be done. What lies in the root is not counted: there is little, and
 * whether a name begins with /etc depends for all else on the directory.
 */
static __always_inline bool count_dir(struct count *c, const char *text, __u64 len)
{
	if (len < 2 || len > COUNT_DIR)
		return false;
	c->key.dir_len = len;
	barrier_var(len);
	if (len > COUNT_DIR)
		return false; /* never: 6.1 forgets that */
	return !bpf_probe_read_kernel(c->key.dir, len, text);
}

/* A number that no other record has, not 0. Its lowest bit is the slot. */
static __always_inline __u64 count_number(struct count *c)
{
	return ++c->last << 20 | bpf_get_smp_processor_id() << 1 | c->key.slot;
}

/*
 * Returns 1 if the event is counted with that. If not it is to be recorded, as an
 * example where its number is not 0. Global, as walk_run is; 6.1 takes no argument
 * of such a function for a key.
 */
__noinline int count_again(void)
{
	struct count *c = count_room();
	struct task_struct *leader = bpf_get_current_task_btf()->group_leader;
	struct count_value *v, fresh = {};
	struct css_set *cgroups;
	struct count_key *k;
	struct cred *cred;

	if (!c)
		return 0; /* never */
	k = &c->key;
	cred = (struct cred *)READ(leader, cred);
	cgroups = READ(leader, cgroups);
	k->start = READ(leader, start_boottime);
	k->exec = READ(leader, self_exec_id);
	k->cgroups = (__u64)cgroups;
	k->cgroup = READ(READ(READ(cgroups, dfl_cgrp), kn), id);
	k->pid = READ(leader, tgid);
	k->slot = count_slot & 1;
	k->uid = READ(cred, euid.val);
	k->gid = READ(cred, egid.val);
	c->instead = 0;
	c->example = 0;
	v = bpf_map_lookup_elem(&counts, k);
	if (!v) {
		c->example = count_number(c);
		fresh.example = c->example;
		if (!bpf_map_update_elem(&counts, k, &fresh, BPF_NOEXIST))
			return 0;
		c->example = 0;
		v = bpf_map_lookup_elem(&counts, k);
		if (!v)
			return 0; /* the table is full */
	}
	if (!v->example) {
		c->example = count_number(c);
		c->instead = 1;
		return 0;
	}
	__sync_fetch_and_add(&v->more, 1);
	return 1;
}

/* Says whether the record that count_again asked for was written. Global likewise. */
__noinline int count_told(int err)
{
	struct count *c = count_room();
	struct count_value *v;

	if (!c || !err == !c->instead) /* as it is in the table already */
		return 0;
	v = bpf_map_lookup_elem(&counts, &c->key);
	if (v) /* always */
		v->example = err ? 0 : c->example;
	return 0;
}

#endif /* COUNT_H */
