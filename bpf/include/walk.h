/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The path of a file, for programs that run often: what path.h does, at a
 * fraction of its cost, and held against changes meanwhile.
 *
 * Where the kernel has bpf_rdonly_cast (6.2), its memory is read by plain loads;
 * before, by bpf_probe_read. Names come in words of eight bytes.
 *
 * The walk takes no lock, but no answer mixes two moments: the kernel counts
 * the changes of each entry's name and place (d_seq). A second walk adds up the
 * same entries; only if their counts and the mounts on the way are what they
 * were, all of it was true at once, between the two. A path that keeps changing
 * has no answer.
 */
#ifndef WALK_H
#define WALK_H

#include "path.h"

/* Read-only pointers to any type, at any address; what cannot be read is 0. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

#define READ(p, member)                                                                                \
	({                                                                                             \
		typeof(&*(p)) __p = (p);                                                               \
		typeof(__p->member) __v;                                                               \
		if (bpf_rdonly_cast) {                                                                 \
			typeof(__p) __t = bpf_rdonly_cast(__p, bpf_core_type_id_kernel(typeof(*__p))); \
			__v = __t->member;                                                             \
		} else {                                                                               \
			__v = BPF_CORE_READ(__p, member);                                              \
		}                                                                                      \
		__v;                                                                                   \
	})

/* Eight bytes at any address of the kernel; 0 if they cannot be read. */
static __always_inline __u64 read_word(const void *at)
{
	__u64 w = 0;

	if (bpf_rdonly_cast) /* for its type any will do that begins with a word */
		return ((struct timespec64 *)bpf_rdonly_cast(at, bpf_core_type_id_kernel(struct timespec64)))->tv_sec;
	bpf_probe_read_kernel(&w, sizeof(w), at);
	return w;
}

#define WALK_ROOM     256		     /* before the text: for the head of a record */
#define WALK_END      (WALK_ROOM + PATH_MAX) /* where the text ends, and what the caller likes begins */
#define WALK_MORE     (3 * PATH_MAX)
#define WALK_ATTEMPTS 3

enum {
	PATH_CHANGING = PATH_TOO_LONG + 1, /* it did not hold still: no path */
};

/*
 * A walk and its answer: the bytes from off to WALK_END. It lies in a map, as
 * path.h says; that of this CPU, for programs that are not preempted.
 */
struct walk {
	struct dentry *dentry, *mnt_root;
	struct mount *mount;
	struct dentry *root_dentry;
	struct mount *root_mount;
	struct dentry *top; /* the entry below the root, on the way to the file */
	struct dentry *from_dentry;
	struct vfsmount *from_mnt;
	__u64 from;
	__u64 off;
	__u64 sum; /* of all that the answer depends on */
	__u32 end; /* enum path_end */
	__u32 again;
	/* Behind the text the caller has room for WALK_MORE. The verifier takes place and length for independent. */
	char bytes[WALK_END + WALK_MORE + PATH_MAX + WALK_ROOM];
};

struct walk_state {
	struct walk *w;
};

/*
 * v & mask, of which neither clang forgets that it is to be done nor the
 * verifier what it means: a comparison, they do.
 */
static __always_inline __u64 masked(__u64 v, const __u64 mask)
{
	asm volatile("%0 &= %1" : "+r"(v) : "i"(mask));
	return v;
}

/* A place in the text of w, or behind its end; offsets are below 8,192. */
static __always_inline char *walk_at(struct walk *w, __u64 off)
{
	return &w->bytes[masked(off, 0x1fff)];
}

/* Writes a name of len bytes that ends before at. */
static __always_inline void walk_name(struct walk *w, __u64 at, const unsigned char *name, __u64 len)
{
	barrier_var(at);
	if (at < WALK_ROOM || at > WALK_END || len > NAME_MAX)
		return; /* never */
	if (!bpf_rdonly_cast || len > 32) {
		at -= len;
		if (at > WALK_END)
			return; /* never */
		bpf_probe_read_kernel(&w->bytes[at], len & NAME_MAX, name);
		return;
	}
	if (len <= 8) {
		/* The bytes before the name are overwritten by what stands there. */
		*(__u64 *)&w->bytes[at - 8] = read_word(name) << ((8 - len) * 8 & 63);
		return;
	}
	*(__u64 *)&w->bytes[at - 8] = read_word(name + len - 8);
	if (len > 16) {
		*(__u64 *)&w->bytes[at - 16] = read_word(name + len - 16);
		if (len > 24)
			*(__u64 *)&w->bytes[at - 24] = read_word(name + len - 24);
	}
	at -= len;
	if (at > WALK_END)
		return; /* never */
	*(__u64 *)&w->bytes[at] = read_word(name);
}

static __always_inline void walk_add(struct walk *w, __u64 value)
{
	w->sum = (w->sum + value) * 0x9e3779b97f4a7c15ULL;
}

static long walk_step(__u32 i, struct walk_state *st)
{
	struct walk *w = st->w;
	struct dentry *dentry = w->dentry, *parent;
	struct mount *mount = w->mount, *up;
	__u64 len, off = w->off;
	__u32 seq;

	if (dentry == w->root_dentry && mount == w->root_mount) {
		w->end = PATH_FOUND;
		return 1;
	}
	if (dentry == w->mnt_root) {
		up = READ(mount, mnt_parent);
		if (up == mount) {
			w->end = path_mounted(mount) ? PATH_OUTSIDE : PATH_DETACHED;
			return 1;
		}
		w->dentry = READ(mount, mnt_mountpoint);
		w->mnt_root = READ(up, mnt.mnt_root);
		w->mount = up;
		/* Read back: the verifier lets nobody calculate with pointers that it knows. */
		walk_add(w, *(volatile __u64 *)&w->mount);
		walk_add(w, *(volatile __u64 *)&w->dentry);
		return 0;
	}
	seq = READ(dentry, d_seq.seqcount.sequence);
	barrier();
	parent = READ(dentry, d_parent);
	walk_add(w, (__u64)dentry ^ seq);
	if (w->again) {
		if (dentry == parent) {
			w->end = i ? PATH_ESCAPED : PATH_NAMELESS;
			return 1;
		}
		w->dentry = parent;
		return 0;
	}
	if (seq & 1) {
		w->end = PATH_CHANGING;
		return 1;
	}
	len = READ(dentry, d_name.len);
	if (len > NAME_MAX || off > WALK_END || off < WALK_ROOM + len + 1) {
		w->end = PATH_TOO_LONG;
		return 1;
	}
	if (dentry == parent && i) {
		w->end = PATH_ESCAPED;
		return 1;
	}
	walk_name(w, off, READ(dentry, d_name.name), len);
	off -= len;
	if (dentry == parent) {
		w->off = off;
		w->end = PATH_NAMELESS;
		return 1;
	}
	off--;
	barrier_var(off);
	if (off > WALK_END)
		return 1; /* never */
	w->bytes[off] = '/';
	w->off = off;
	w->top = dentry;
	w->dentry = parent;
	return 0;
}

static __always_inline void walk_begin(struct walk *w)
{
	struct vfsmount *mnt = w->from_mnt;

	w->dentry = w->from_dentry;
	w->mount = path_mount(mnt);
	w->mnt_root = READ(mnt, mnt_root);
	w->sum = 0;
	w->end = PATH_TOO_LONG; /* unless the walk ends sooner */
}

/*
 * The walk itself: global, so that the verifier looks at it once, and not in each
 * place that it is called from. Takes all it needs from w.
 */
__noinline int walk_run(struct walk *w)
{
	struct walk_state st = { .w = w };
	__u64 sum;
	__u32 end;
	int i;

	if (!w)
		return 0; /* never */
	for (i = 0; i < WALK_ATTEMPTS; i++) {
		walk_begin(w);
		w->off = w->from;
		w->again = 0;
		w->top = NULL;
		bpf_loop(PATH_STEPS, walk_step, &st, 0);
		end = w->end;
		if (end == PATH_TOO_LONG)
			break;
		sum = w->sum;
		barrier();
		if (end != PATH_CHANGING) {
			walk_begin(w);
			w->again = 1;
			bpf_loop(PATH_STEPS, walk_step, &st, 0);
			if (w->sum == sum && w->end == end)
				break;
		}
		w->end = PATH_CHANGING;
	}
	end = w->end;
	if (!path_resolved(end)) {
		w->off = WALK_END;
	} else if (w->off == WALK_END && end != PATH_NAMELESS) {
		w->off--;
		w->bytes[WALK_END - 1] = '/';
	}
	return 0;
}

/*
 * Writes the path of dentry on mnt, as seen from the root of fs, into w, where
 * the text from the offset from on is there already: it is a name below dentry.
 * Returns how it ended; where there is no path, w->off is WALK_END.
 */
static __always_inline __u32 walk_resolve(struct walk *w, struct vfsmount *mnt, struct dentry *dentry,
					  struct fs_struct *fs, __u64 from)
{
	w->root_dentry = READ(fs, root.dentry);
	w->root_mount = path_mount(READ(fs, root.mnt));
	w->from_dentry = dentry;
	w->from_mnt = mnt;
	w->from = from;
	walk_run(w);
	return w->end;
}

#endif /* WALK_H */
