/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The objects that a call is about, seen in its middle: where security modules
 * are asked, by fentry. What the process asked for has been looked up by then,
 * and is what will be changed. The exit of the call tells the rest: change.h.
 *
 * Closes are seen by the tracepoint of their entry, when the descriptor still is.
 */
#ifndef FILE_SEEN_H
#define FILE_SEEN_H

#include <bpf/bpf_tracing.h>

#include "change.h"

/* Fills in the file, and its path, which is the only one or the first of two. */
static __always_inline void seen_file(struct change_call *c, struct task_struct *p, struct vfsmount *mnt,
				      struct dentry *dentry)
{
	struct inode *inode = READ(dentry, d_inode);

	if (inode)
		c->marks |= object_fill(&c->file, inode, dentry);
	c->seen = 1 + walk_resolve(&c->walk, mnt, dentry, p->fs, WALK_END);
}

/* Fills in the path of the target. To be called before seen_file. */
static __always_inline void seen_target(struct change_call *c, struct task_struct *p, struct vfsmount *mnt,
					struct dentry *dentry)
{
	c->seen = 1 + walk_resolve(&c->walk, mnt, dentry, p->fs, WALK_END);
	c->target_len = text_behind(&c->walk);
}

static __noinline int seen_one(struct vfsmount *mnt, struct dentry *dentry)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct change_call *c = change_begin(p);

	if (c)
		seen_file(c, p, mnt, dentry);
	return 0;
}

/* One that is a target: of a symlink, or where something is mounted. */
static __noinline int seen_as_target(struct vfsmount *mnt, struct dentry *dentry)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct change_call *c = change_begin(p);

	if (c)
		seen_target(c, p, mnt, dentry);
	return 0;
}

static __noinline int seen_two(struct vfsmount *mnt, struct dentry *dentry, struct vfsmount *to_mnt, struct dentry *to)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct change_call *c = change_begin(p);
	__u32 first;

	if (!c)
		return 0;
	seen_target(c, p, to_mnt, to);
	first = c->seen;
	seen_file(c, p, mnt, dentry);
	if (!path_resolved(first - 1))
		c->seen = first;
	return 0;
}

SEC("fentry/security_path_unlink")
int BPF_PROG(file_s_unlink, const struct path *dir, struct dentry *dentry)
{
	return seen_one(dir->mnt, dentry);
}

SEC("fentry/security_path_rmdir")
int BPF_PROG(file_s_rmdir, const struct path *dir, struct dentry *dentry)
{
	return seen_one(dir->mnt, dentry);
}

SEC("fentry/security_path_mkdir")
int BPF_PROG(file_s_mkdir, const struct path *dir, struct dentry *dentry)
{
	return seen_one(dir->mnt, dentry);
}

SEC("fentry/security_path_symlink")
int BPF_PROG(file_s_symlink, const struct path *dir, struct dentry *dentry)
{
	return seen_as_target(dir->mnt, dentry);
}

SEC("fentry/security_path_rename")
int BPF_PROG(file_s_rename, const struct path *dir, struct dentry *dentry, const struct path *to_dir, struct dentry *to)
{
	return seen_two(dir->mnt, dentry, to_dir->mnt, to);
}

/* Both names of a link are on the same mount: the kernel has seen to it. */
SEC("fentry/security_path_link")
int BPF_PROG(file_s_link, struct dentry *dentry, const struct path *to_dir, struct dentry *to)
{
	return seen_two(to_dir->mnt, dentry, to_dir->mnt, to);
}

SEC("fentry/security_path_chmod")
int BPF_PROG(file_s_chmod, const struct path *path)
{
	return seen_one(path->mnt, path->dentry);
}

SEC("fentry/security_path_chown")
int BPF_PROG(file_s_chown, const struct path *path)
{
	return seen_one(path->mnt, path->dentry);
}

SEC("fentry/security_path_truncate")
int BPF_PROG(file_s_truncate, const struct path *path)
{
	return seen_one(path->mnt, path->dentry);
}

SEC("fentry/security_sb_mount")
int BPF_PROG(file_s_mount, const char *dev, const struct path *path)
{
	return seen_as_target(path->mnt, path->dentry);
}

SEC("fentry/security_sb_umount")
int BPF_PROG(file_s_umount, struct vfsmount *mnt)
{
	return seen_as_target(mnt, READ(mnt, mnt_root));
}

SEC("fentry/security_move_mount")
int BPF_PROG(file_s_movemnt, const struct path *from, const struct path *to)
{
	return seen_as_target(to->mnt, to->dentry);
}

/* An overlay's own inode does not know how long its file in the upper layer is. */
static __always_inline __u64 size_of(struct inode *inode)
{
	struct dentry *upper = upper_of(inode);

	return upper ? READ(READ(upper, d_inode), i_size) : READ(inode, i_size);
}

SEC("tracepoint/syscalls/sys_enter_close")
int file_close_e(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct change_call *c;
	struct dentry *dentry;
	struct file *file;

	if (!task_in_scope(p))
		return 0;
	file = file_of(p, call_arg(p, 0));
	if (!file || !(READ(file, f_mode) & FMODE_WRITE))
		return 0;
	dentry = READ(file, f_path.dentry);
	if ((READ(READ(file, f_inode), i_mode) & S_IFMT) != S_IFREG)
		return 0;
	c = change_begin(p);
	if (!c)
		return 0;
	seen_file(c, p, READ(file, f_path.mnt), dentry);
	c->size = size_of(READ(file, f_inode));
	if (c->seen == 1 + PATH_NAMELESS && walk_memfd(&c->walk))
		c->marks |= FILE_MEMFD;
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_close")
int file_close_x(struct trace_event_raw_sys_exit *ctx)
{
	return change_tell(FILE_CLOSE, ctx->ret);
}

#endif /* FILE_SEEN_H */
