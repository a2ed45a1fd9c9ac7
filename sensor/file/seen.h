/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The objects that a call is about, seen in its middle: where security modules
 * are asked, by fentry. What the process asked for has been looked up by then,
 * and is what will be changed. The exit of the call tells the rest: change.h.
 */
#ifndef FILE_SEEN_H
#define FILE_SEEN_H

#include <bpf/bpf_tracing.h>

#include "change.h"

/*
 * Where paths are walked: what sees objects in the middle of a call can be
 * preempted there by what sees those of another one, so that there are some for
 * each CPU.
 */
struct seen_walk {
	__u64 busy;
	struct walk walk;
};

#define SEEN_WALKS 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SEEN_WALKS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct seen_walk));
} seen_walks SEC(".maps");

static __always_inline struct seen_walk *seen_walk_take(void)
{
	struct seen_walk *s;
	__u32 i;

	for (i = 0; i < SEEN_WALKS; i++) {
		__u32 at = i;

		s = bpf_map_lookup_elem(&seen_walks, &at);
		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1))
			return s;
	}
	return NULL;
}

/*
 * What the call is in which an object is seen: one of four; 0 where it is none of
 * these, because the kernel comes here on other ways too: from 32-bit programs,
 * whose calls are numbered otherwise, from io_uring, and when files are opened.
 */
static __always_inline __u32 seen_what(struct task_struct *p, const __u32 a, const __u32 b, const __u32 c,
				       const __u32 d)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(p);
	struct pt_regs___arm64 *arm = (void *)regs;
	__u32 what;

	if (p->flags & PF_KTHREAD || task_is_compat(p) || !task_in_scope(p))
		return 0;
	if (bpf_core_field_exists(regs->orig_ax))
		what = call_what(regs->orig_ax);
	else
		what = call_what(BPF_CORE_READ(arm, syscallno));
	return what == a || what == b || what == c || what == d ? what : 0;
}

/* Of the object, what it is; its path into w. Returns what change_call.seen is to be. */
static __always_inline __u32 seen_walk(struct walk *w, struct task_struct *p, struct vfsmount *mnt,
				       struct dentry *dentry)
{
	return 1 + walk_resolve(w, mnt, dentry, p->fs, WALK_END);
}

/* Objects of a call: what is changed, and where there are two the target. */
struct seen {
	struct vfsmount *mnt, *target_mnt;
	struct dentry *dentry, *target;
};

/* What the file is whose path was walked last. Global, as walk_run is. */
__noinline int seen_fill(struct change_call *c, struct walk *w)
{
	struct inode *inode;

	if (!c || !w)
		return 0; /* never */
	inode = READ(w->from_dentry, d_inode);
	if (inode)
		c->marks = object_fill(&c->file, inode, w->from_dentry);
	return 0;
}

static __noinline int seen_objects(__u32 what, struct seen *o)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct inode *inode = NULL;
	struct change_call *c;
	struct seen_walk *s;
	struct interest m = {};
	__s32 slot;
	__u32 target = 0, seen = 0, wants;
	bool kept = false;

	if (!what)
		return 0;
	wants = change_may_be_wanted(&m, what);
	if (!wants)
		return 0;
	if (o->mnt)
		inode = READ(o->dentry, d_inode);
	if (wants & CHANGE_BOTH && interest_needs_inode(&m)) {
		bool wanted = inode ? interest_inode(&m, READ(inode, i_ino), READ(READ(inode, i_sb), s_dev))
				    : interest_inode(&m, 0, 0);

		if (!wanted)
			return 0;
	}
	s = seen_walk_take();
	if (!s)
		goto lost;
	if (o->target_mnt) {
		seen = seen_walk(&s->walk, p, o->target_mnt, o->target);
		target = text_behind(&s->walk);
	}
	if (o->mnt) {
		__u32 first = seen;

		seen = seen_walk(&s->walk, p, o->mnt, o->dentry);
		if (first && !path_resolved(first - 1))
			seen = first;
	}
	c = change_begin(&slot, what);
	if (c) {
		if (inode)
			seen_fill(c, &s->walk);
		c->seen = seen;
		kept = change_keep_texts(c, &s->walk, target, what);
		slot_leave(SLOT_CALLS, slot, kept);
	}
	__sync_lock_test_and_set(&s->busy, 0);
	if (kept)
		return 0;
lost:
	/* When the call returns it is told of by its descriptor, or without names to who asks for none. */
	if (what < FILE_WHATS && shapes[what].fd < 0 && !(interest_inode(&m, 0, 0) && interest_wanted(&m)))
		record_count_lost(record_of(what));
	return 0;
}

static __always_inline int seen_one(__u32 what, struct vfsmount *mnt, struct dentry *dentry)
{
	struct seen o = { .mnt = mnt, .dentry = dentry };

	return seen_objects(what, &o);
}

/* One that is a target: of a symlink, or where something is mounted. */
static __always_inline int seen_as_target(__u32 what, struct vfsmount *mnt, struct dentry *dentry)
{
	struct seen o = { .target_mnt = mnt, .target = dentry };

	return seen_objects(what, &o);
}

static __always_inline int seen_two(__u32 what, struct vfsmount *mnt, struct dentry *dentry, struct vfsmount *to_mnt,
				    struct dentry *to)
{
	struct seen o = { .mnt = mnt, .dentry = dentry, .target_mnt = to_mnt, .target = to };

	return seen_objects(what, &o);
}

#define SEEN_WHAT(...)		      SEEN_WHAT_OF(__VA_ARGS__, 0, 0, 0)
#define SEEN_WHAT_OF(a, b, c, d, ...) seen_what(bpf_get_current_task_btf(), a, b, c, d)

SEC("fentry/security_path_unlink")
int BPF_PROG(file_s_unlink, const struct path *dir, struct dentry *dentry)
{
	return seen_one(SEEN_WHAT(FILE_UNLINK, FILE_UNLINKAT), dir->mnt, dentry);
}

SEC("fentry/security_path_rmdir")
int BPF_PROG(file_s_rmdir, const struct path *dir, struct dentry *dentry)
{
	return seen_one(SEEN_WHAT(FILE_RMDIR, FILE_UNLINKAT), dir->mnt, dentry);
}

SEC("fentry/security_path_mkdir")
int BPF_PROG(file_s_mkdir, const struct path *dir, struct dentry *dentry)
{
	return seen_one(SEEN_WHAT(FILE_MKDIR, FILE_MKDIRAT), dir->mnt, dentry);
}

SEC("fentry/security_path_symlink")
int BPF_PROG(file_s_symlink, const struct path *dir, struct dentry *dentry)
{
	return seen_as_target(SEEN_WHAT(FILE_SYMLINK, FILE_SYMLINKAT), dir->mnt, dentry);
}

SEC("fentry/security_path_rename")
int BPF_PROG(file_s_rename, const struct path *dir, struct dentry *dentry, const struct path *to_dir, struct dentry *to)
{
	return seen_two(SEEN_WHAT(FILE_RENAME, FILE_RENAMEAT, FILE_RENAMEAT2), dir->mnt, dentry, to_dir->mnt, to);
}

/* Both names of a link are on the same mount: the kernel has seen to it. */
SEC("fentry/security_path_link")
int BPF_PROG(file_s_link, struct dentry *dentry, const struct path *to_dir, struct dentry *to)
{
	return seen_two(SEEN_WHAT(FILE_LINK, FILE_LINKAT), to_dir->mnt, dentry, to_dir->mnt, to);
}

SEC("fentry/security_path_chmod")
int BPF_PROG(file_s_chmod, const struct path *path)
{
	return seen_one(SEEN_WHAT(FILE_CHMOD, FILE_FCHMOD, FILE_FCHMODAT, FILE_FCHMODAT2), path->mnt, path->dentry);
}

SEC("fentry/security_path_chown")
int BPF_PROG(file_s_chown, const struct path *path)
{
	return seen_one(SEEN_WHAT(FILE_CHOWN, FILE_LCHOWN, FILE_FCHOWN, FILE_FCHOWNAT), path->mnt, path->dentry);
}

SEC("fentry/security_path_truncate")
int BPF_PROG(file_s_truncate, const struct path *path)
{
	return seen_one(SEEN_WHAT(FILE_TRUNCATE, FILE_FTRUNCATE), path->mnt, path->dentry);
}

SEC("fentry/security_sb_mount")
int BPF_PROG(file_s_mount, const char *dev, const struct path *path)
{
	return seen_as_target(SEEN_WHAT(FILE_MOUNT), path->mnt, path->dentry);
}

SEC("fentry/security_sb_umount")
int BPF_PROG(file_s_umount, struct vfsmount *mnt)
{
	return seen_as_target(SEEN_WHAT(FILE_UMOUNT), mnt, READ(mnt, mnt_root));
}

SEC("fentry/security_move_mount")
int BPF_PROG(file_s_movemnt, const struct path *from, const struct path *to)
{
	return seen_as_target(SEEN_WHAT(FILE_MOVE_MOUNT), to->mnt, to->dentry);
}

#endif /* FILE_SEEN_H */
