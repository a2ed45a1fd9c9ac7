/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who may want an event: what consumers asked for, decided before anything is
 * recorded. Go's package prefilter fills the maps, package interest says what it
 * means. The answer is conservative: what a consumer wants is never left out.
 *
 * A consumer's interest is terms, each with conditions on several dimensions of
 * an event. Every term is a bit. A dimension is one look-up, which gives the bits
 * of the terms whose condition on it holds; those that have none are always
 * among them. What is left after all dimensions is who may want the event.
 *
 *	struct interest m;
 *
 *	if (!interest_call(&m, type, open, failed))
 *		return 0;                              nobody, whoever it is of and whatever the path
 *	if (!interest_actor(&m))
 *		return 0;                              nobody of whom this task is
 *	if (interest_needs_raw(&m) && !interest_raw(&m, text, len))
 *		return 0;                              what the process gave
 *	if (interest_needs_inode(&m) && !interest_inode(&m, ino, dev))
 *		return 0;
 *	if (interest_needs_path(&m)) {
 *		... resolve the path ...
 *		interest_path(&m, head, tail, len);    for each that is reported,
 *		interest_any_path(&m);                 or where it is not known
 *		if (!interest_wanted(&m))
 *			return 0;
 *	}
 *	... record ...
 *
 * That is the order of what it costs, where each step may spare the next. Where
 * interest_path_first says so, the path is looked at first, whatever
 * interest_needs_path says, then interest_no_more_paths, and then the others.
 *
 * Everything is there twice; interest_slot says which is in force, and is read
 * once for an event. The other is written while nobody looks.
 *
 * Programs that are preempted cannot use interest_path: its keys are this CPU's.
 *
 * Include after kernel.h.
 */
#ifndef INTEREST_H
#define INTEREST_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "cgroup.h"
#include "exe.h"

#define INTEREST_TYPES	 128 /* values of evt.type that a sensor can have, by its own numbers */
#define INTEREST_TEXT	 64  /* bytes at either end of a path that are looked at */
#define INTEREST_PATHS	 8192
#define INTEREST_KEYS	 4096
#define INTEREST_CGROUPS 8192
#define INTEREST_RAW	 1022 /* bytes of what a process gave that are looked at */
#define INTEREST_SHORT	 64   /* bytes of it that are looked at first */

#define INTEREST_FAILED 16 /* beside the purposes: 1 read, 2 write, 4 execute, 8 create */

struct interest_mask {
	__u64 bits[4];
};

/* What is looked up by number. */
struct interest_table {
	struct interest_mask types[INTEREST_TYPES];
	struct interest_mask calls[32]; /* by purposes and INTEREST_FAILED */
	/* Of terms with a path condition that one of these letters may satisfy: behind the first one, and the last. */
	struct interest_mask heads[256], tails[256];
	struct interest_mask no_uid, no_inode, no_path, no_raw, no_workload; /* terms without such a condition */
	struct interest_mask no_port, no_net;				     /* interest_ends.h */
	struct interest_mask no_exe, no_comm;
	struct interest_mask no_actor;	 /* terms with no condition on who acts */
	struct interest_mask plain;	 /* terms that want the event itself, and not only count */
	struct interest_mask enough;	 /* those of them without a path */
	struct interest_mask path_first; /* terms to which mostly nothing but the path says no */
	__u32 uids, inodes, paths, raws, workloads, ports, nets; /* whether there are terms with one */
	__u32 exes, comms;
	__u32 counts, count_dirs; /* whether there are terms that only count, and by directory */
	__u32 zero;
};

struct interest_table interest_tables[2] SEC(".data.interest");

/* The table in force: 0 or 1. */
volatile __u32 interest_slot SEC(".data.interest");

struct interest_uid {
	__u32 uid, slot;
};

struct interest_cgroup {
	__u64 id;
	__u32 hierarchy, slot;
};

struct interest_inode {
	__u64 ino, dev; /* dev 0: any */
	__u64 slot;
};

/* The beginning of a path, or its end read backwards, to be found by its longest prefix. */
struct interest_text {
	__u32 prefixlen; /* bits, slot included */
	__u32 slot;
	union {
		__u8 bytes[INTEREST_TEXT];
		__u64 words[INTEREST_TEXT / 8];
	};
};

struct interest_path {
	struct interest_text head, tail;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, INTEREST_KEYS);
	__type(key, struct interest_uid);
	__type(value, struct interest_mask);
} interest_uids SEC(".maps");

/*
 * Of each control group of which user space knows whose it is. One that is not here is
 * not judged: its container has just begun, or is not described yet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, INTEREST_CGROUPS);
	__type(key, struct interest_cgroup);
	__type(value, struct interest_mask);
} interest_groups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, INTEREST_KEYS);
	__type(key, struct interest_inode);
	__type(value, struct interest_mask);
} interest_inodes SEC(".maps");

/* Each entry has the bits of all that are a prefix of it: one look-up finds all. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, INTEREST_PATHS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct interest_text);
	__type(value, struct interest_mask);
} interest_heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, INTEREST_PATHS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct interest_text);
	__type(value, struct interest_mask);
} interest_tails SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct interest_path);
} interest_paths SEC(".maps");

/* What a process executes, and what it is called: keys as struct exe has them. */
struct interest_exe {
	__u32 bits;
	__u8 path[EXE_TEXT];
};

struct interest_comm {
	__u32 bits;
	__u8 comm[EXE_COMM];
};

/* A map for each slot: the key is where it is kept, and nothing is put before it. */
#define INTEREST_TRIE(name, key_type)                 \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);  \
		__uint(max_entries, INTEREST_KEYS);   \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type);                \
		__type(value, struct interest_mask);  \
	} name SEC(".maps")

INTEREST_TRIE(interest_exes0, struct interest_exe);
INTEREST_TRIE(interest_exes1, struct interest_exe);
INTEREST_TRIE(interest_comms0, struct interest_comm);
INTEREST_TRIE(interest_comms1, struct interest_comm);

/* Of one event: the terms that may hold, and those of them that a path satisfies. */
struct interest {
	struct interest_mask may, by_path;
	__u32 slot;
};

static __always_inline bool interest_none(const struct interest_mask *m)
{
	return !(m->bits[0] | m->bits[1] | m->bits[2] | m->bits[3]);
}

static __always_inline void interest_and(struct interest_mask *m, const struct interest_mask *o)
{
	m->bits[0] &= o->bits[0];
	m->bits[1] &= o->bits[1];
	m->bits[2] &= o->bits[2];
	m->bits[3] &= o->bits[3];
}

static __always_inline void interest_or(struct interest_mask *m, const struct interest_mask *o)
{
	m->bits[0] |= o->bits[0];
	m->bits[1] |= o->bits[1];
	m->bits[2] |= o->bits[2];
	m->bits[3] |= o->bits[3];
}

/* Whether a and b have a bit in common that c has not. */
static __always_inline bool interest_more(const struct interest_mask *a, const struct interest_mask *b,
					  const struct interest_mask *c)
{
	return ((a->bits[0] & b->bits[0] & ~c->bits[0]) | (a->bits[1] & b->bits[1] & ~c->bits[1]) |
		(a->bits[2] & b->bits[2] & ~c->bits[2]) | (a->bits[3] & b->bits[3] & ~c->bits[3])) != 0;
}

static __always_inline struct interest_table *interest_table(const struct interest *m)
{
	__u32 slot = m->slot;

	barrier_var(slot); /* or clang takes the bounds for known, which 6.1's verifier has forgotten */
	return &interest_tables[slot & 1];
}

static __always_inline void interest_add_uid(struct interest_mask *m, __u32 slot, __u32 uid)
{
	struct interest_uid key = { .uid = uid, .slot = slot };
	struct interest_mask *found = bpf_map_lookup_elem(&interest_uids, &key);

	if (found)
		interest_or(m, found);
}

/* Whether a term that may hold has the condition that those of none have not. */
static __always_inline bool interest_has(const struct interest *m, const struct interest_mask *none)
{
	return interest_more(&m->may, &m->may, none);
}

/* Adds the terms that want the workload of c. Returns whether it is known which these are. */
static __always_inline bool interest_add_cgroup(struct interest_mask *m, __u32 slot, struct cgroup *c)
{
	struct interest_cgroup key = { .slot = slot };
	struct interest_mask *found;

	if (!c)
		return false; /* never */
	key.id = BPF_CORE_READ(c, kn, id);
	key.hierarchy = BPF_CORE_READ(c, root, hierarchy_id);
	found = bpf_map_lookup_elem(&interest_groups, &key);
	if (!found)
		return false;
	interest_or(m, found);
	return true;
}

/*
 * Leaves of the terms those that want the container of the current task: its own, and
 * its process's, which is what is known of a process, where single threads are elsewhere.
 */
static __always_inline void interest_workload(struct interest *m, struct interest_table *t)
{
	struct task_struct *p = bpf_get_current_task_btf(), *leader = p->group_leader;
	struct interest_mask of = t->no_workload;

	if (!interest_add_cgroup(&of, m->slot, task_cgroup(leader)))
		return;
	if (p->cgroups != leader->cgroups && !interest_add_cgroup(&of, m->slot, task_cgroup(p)))
		return;
	interest_and(&m->may, &of);
}

/* Leaves of the terms those that have no condition, as none says, and those of found. */
static __always_inline void interest_leave(struct interest *m, const struct interest_mask *none,
					   const struct interest_mask *found)
{
	struct interest_mask of = *none;

	if (found)
		interest_or(&of, found);
	interest_and(&m->may, &of);
}

/*
 * Leaves of the terms those that want what the current task executes. All are left
 * where that is not known: the process is older than who would know, or its exec
 * could not be told.
 */
static __always_inline void interest_image(struct interest *m, struct interest_table *t)
{
	struct exe *e = exe_of(bpf_get_current_task_btf());

	if (!e)
		return;
	if (t->exes && e->path_bits)
		interest_leave(m, &t->no_exe,
			       m->slot ? bpf_map_lookup_elem(&interest_exes1, &e->path_bits)
				       : bpf_map_lookup_elem(&interest_exes0, &e->path_bits));
	if (t->comms && e->comm_bits)
		interest_leave(m, &t->no_comm,
			       m->slot ? bpf_map_lookup_elem(&interest_comms1, &e->comm_bits)
				       : bpf_map_lookup_elem(&interest_comms0, &e->comm_bits));
}

/*
 * Begins an event by what it is, whoever it is of. type is the sensor's number of
 * it; open is what a file was opened for, 0 for other events. Returns whether
 * anybody may want it.
 */
static __always_inline bool interest_call(struct interest *m, __u32 type, __u32 open, bool failed)
{
	struct interest_table *t;
	__u32 call = (open & 15) | (failed ? INTEREST_FAILED : 0);

	barrier_var(call); /* as in interest_table */
	m->slot = interest_slot & 1;
	t = interest_table(m);
	if (type >= INTEREST_TYPES)
		return false; /* never */
	m->may = t->types[type];
	interest_and(&m->may, &t->calls[call & 31]);
	__builtin_memset(&m->by_path, 0, sizeof(m->by_path));
	return !interest_none(&m->may);
}

/* Goes on with the current task. Returns whether anybody may want the event. */
static __always_inline bool interest_actor(struct interest *m)
{
	struct interest_table *t = interest_table(m);

	if (!interest_has(m, &t->no_actor))
		return !interest_none(&m->may);
	if (t->uids) {
		/*
		 * The thread's own, and that of the process: what is known of a process is
		 * what its first thread is.
		 */
		struct task_struct *p = bpf_get_current_task_btf();
		struct interest_mask of = t->no_uid;

		interest_add_uid(&of, m->slot, p->cred->euid.val);
		interest_add_uid(&of, m->slot, p->group_leader->cred->euid.val);
		interest_and(&m->may, &of);
	}
	if (t->workloads)
		interest_workload(m, t);
	if (t->exes | t->comms)
		interest_image(m, t);
	return !interest_none(&m->may);
}

/* Begins an event of the current task: both. */
static __always_inline bool interest_begin(struct interest *m, __u32 type, __u32 open, bool failed)
{
	return interest_call(m, type, open, failed) && interest_actor(m);
}

static __always_inline void interest_add_inode(struct interest_mask *m, const struct interest_inode *key)
{
	struct interest_mask *found = bpf_map_lookup_elem(&interest_inodes, key);

	if (found)
		interest_or(m, found);
}

/* Whether the answer depends on which file it is. */
static __always_inline bool interest_needs_inode(const struct interest *m)
{
	return interest_table(m)->inodes;
}

/* The file that the event is about; 0, 0 for none. Returns whether anybody may want it. */
static __always_inline bool interest_inode(struct interest *m, __u64 ino, __u64 dev)
{
	struct interest_table *t = interest_table(m);

	if (t->inodes) {
		struct interest_inode key = { .ino = ino, .slot = m->slot };
		struct interest_mask of = t->no_inode;

		if (ino) {
			interest_add_inode(&of, &key);
			key.dev = dev;
			interest_add_inode(&of, &key);
		}
		interest_and(&m->may, &of);
	}
	return !interest_none(&m->may);
}

/* Whether the answer depends on what the process called the file. */
static __always_inline bool interest_needs_raw(const struct interest *m)
{
	struct interest_table *t = interest_table(m);

	return t->raws && interest_has(m, &t->no_raw);
}

/* The high bit of each byte of x that is c; none beside them, as quicker ways have. */
static __always_inline __u64 interest_bytes(__u64 x, __u8 c)
{
	const __u64 low = 0x7f7f7f7f7f7f7f7fULL;

	x ^= c * 0x0101010101010101ULL;
	return ~(((x & low) + low) | x | low);
}

/*
 * Whether a text ends within the INTEREST_SHORT bytes at it, and has no two dots in a
 * row. What stands behind its end may be taken for the text: then the answer is no.
 */
static __always_inline bool interest_short(const char *text)
{
	__u64 x, dots, before = 0;
	int i;

#pragma unroll
	for (i = 0; i < INTEREST_SHORT / 8; i++) {
		x = *(const __u64 *)(text + i * 8);
		dots = interest_bytes(x, '.');
		if ((dots & dots >> 8) | (dots << 56 & before))
			return false;
		if (interest_bytes(x, 0))
			return true;
		before = dots;
	}
	return false;
}

struct interest_search {
	const char *text;
	__u32 len;
	bool found;
};

static long interest_search_dots(__u32 i, struct interest_search *s)
{
	__u64 dots;

	if (i >= INTEREST_RAW / 7 || i * 7 + 1 >= s->len)
		return 1;
	dots = interest_bytes(*(const __u64 *)(s->text + i * 7), '.');
	s->found = (dots & dots >> 8) != 0;
	return s->found;
}

/* Whether there are two dots in a row in len bytes at text; true where it is too long to tell. */
static __always_inline bool interest_dots(const char *text, __u32 len)
{
	struct interest_search s = { .text = text, .len = len };

	if (len > INTEREST_RAW)
		return true;
	bpf_loop(INTEREST_RAW / 7, interest_search_dots, &s, 0);
	return s.found;
}

/*
 * The path that the process gave, of len bytes at text, where INTEREST_RAW + 8
 * can be read. Returns whether anybody may want the event.
 */
static __always_inline bool interest_raw(struct interest *m, const char *text, __u32 len)
{
	if (!interest_short(text) && interest_dots(text, len))
		return true;
	interest_and(&m->may, &interest_table(m)->no_raw);
	return !interest_none(&m->may);
}

/*
 * Whether the path is best looked at before who acts and what the process gave: these
 * would hardly ever spare it, and it mostly spares them.
 */
static __always_inline bool interest_path_first(const struct interest *m)
{
	return interest_more(&m->may, &interest_table(m)->path_first, &m->by_path);
}

/* Whether the answer depends on paths: if not, somebody wants the event, whatever file it is about. */
static __always_inline bool interest_needs_path(const struct interest *m)
{
	struct interest_table *t = interest_table(m);

	return t->paths && !interest_more(&m->may, &t->enough, &m->by_path);
}

static __always_inline __u32 interest_letters(__u8 a, __u8 b)
{
	__u32 letters = a * 31 + b;

	barrier_var(letters);
	return letters & 255;
}

/*
 * A path of the event, of len bytes. At head are INTEREST_TEXT bytes that can be
 * read, of which the first are the beginning of the path; those that end before
 * tail are its end.
 */
static __always_inline void interest_path(struct interest *m, const char *head, const char *tail, __u32 len)
{
	struct interest_table *t = interest_table(m);
	struct interest_mask *first, *last, *found;
	struct interest_path *k;
	__u32 zero = 0, n;
	__u8 a = 0, b = 0;
	int i;

	if (!len)
		return;
	/* Two letters at either end tell most paths from most that are asked for. */
	if (len > 1)
		a = head[1];
	if (len > 2)
		b = head[2];
	first = &t->heads[interest_letters(a, b)];
	last = &t->tails[interest_letters(len > 1 ? tail[-2] : 0, tail[-1])];
	if (!interest_more(&m->may, first, &m->by_path) && !interest_more(&m->may, last, &m->by_path))
		return;
	k = bpf_map_lookup_elem(&interest_paths, &zero);
	if (!k)
		return; /* never */
	if (interest_more(&m->may, first, &m->by_path)) {
#pragma unroll
		for (i = 0; i < INTEREST_TEXT / 8; i++) {
			k->head.words[i] = *(const __u64 *)(head + i * 8);
		}
		/* What is a whole path ends with a zero byte, so that it is no prefix. */
		n = INTEREST_TEXT;
		if (len < INTEREST_TEXT) {
			n = len;
			barrier_var(n); /* as in interest_table */
			k->head.bytes[n & (INTEREST_TEXT - 1)] = 0;
			n++;
		}
		k->head.slot = m->slot;
		k->head.prefixlen = 32 + n * 8;
		found = bpf_map_lookup_elem(&interest_heads, &k->head);
		if (found)
			interest_or(&m->by_path, found);
	}
	if (interest_more(&m->may, last, &m->by_path)) {
#pragma unroll
		for (i = 0; i < INTEREST_TEXT / 8; i++) {
			k->tail.words[i] = __builtin_bswap64(*(const __u64 *)(tail - (i + 1) * 8));
		}
		n = len < INTEREST_TEXT ? len : INTEREST_TEXT;
		k->tail.slot = m->slot;
		k->tail.prefixlen = 32 + n * 8;
		found = bpf_map_lookup_elem(&interest_tails, &k->tail);
		if (found)
			interest_or(&m->by_path, found);
	}
}

/*
 * A path of the event is not known, though there is one: whoever asks for paths gets
 * the event, and says that it could be one of theirs.
 */
static __always_inline void interest_any_path(struct interest *m)
{
	__builtin_memset(&m->by_path, 0xff, sizeof(m->by_path));
}

/* Leaves of the terms those that want one of the paths, or none; no more paths come. Returns as interest_wanted. */
static __always_inline bool interest_no_more_paths(struct interest *m)
{
	interest_leave(m, &interest_table(m)->no_path, &m->by_path);
	return !interest_none(&m->may);
}

/* Whether anybody may want the event, after all that is known of it was said. */
static __always_inline bool interest_wanted(const struct interest *m)
{
	struct interest_table *t = interest_table(m);
	struct interest_mask by_path = t->no_path;

	interest_or(&by_path, &m->by_path);
	interest_and(&by_path, &m->may);
	return !interest_none(&by_path);
}

/* Of an event that is wanted: whether all who want it only count such events. */
static __always_inline bool interest_counts(const struct interest *m)
{
	struct interest_table *t = interest_table(m);
	struct interest_mask plain;

	if (!t->counts)
		return false;
	plain = t->no_path;
	interest_or(&plain, &m->by_path);
	interest_and(&plain, &m->may);
	interest_and(&plain, &t->plain);
	return interest_none(&plain);
}

/* Whether any of them counts by directory. */
static __always_inline bool interest_counts_dirs(const struct interest *m)
{
	return interest_table(m)->count_dirs;
}

#endif /* INTEREST_H */
