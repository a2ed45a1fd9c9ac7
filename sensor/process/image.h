/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a process executes: its file, its path, its arguments, the directory it
 * works in. Include after record.h.
 */
#ifndef PROCESS_IMAGE_H
#define PROCESS_IMAGE_H

#include "exe.h"

#define ARGS_MAX (32 << 10) /* most bytes of arguments that are kept */

/* Most bytes of arguments; less than ARGS_MAX where the ring is tiny. */
const volatile __u32 args_max = ARGS_MAX;

/* An exec record in the making: rec, and the strings behind each other in data. */
struct exec_scratch {
	struct exec_record rec;
	char data[4 * PATH_MAX + ARGS_MAX];
	struct path_buf path;
	struct cgroup_scratch cgroup;
	struct exe exe;
};

/* Whether gid is among the supplementary groups, which are sorted. */
static __always_inline bool cred_in_group(const struct cred *c, __u32 gid)
{
	struct group_info *groups = BPF_CORE_READ(c, group_info);
	__u32 low = 0, high = BPF_CORE_READ(groups, ngroups);
	kgid_t *list = (void *)__builtin_preserve_access_index(&groups->gid);
	int i;

	for (i = 0; i < 17 && low < high; i++) { /* 2^16 groups at most */
		__u32 mid = (low + high) / 2, g = 0;

		bpf_probe_read_kernel(&g, sizeof(g), (void *)list + mid * sizeof(*list));
		if (g == gid)
			return true;
		if (g < gid)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

/* Whether the mode lets c write; capabilities do not count. */
static __always_inline bool inode_writable(const struct cred *c, __u32 mode, __u32 uid, __u32 gid)
{
	if (BPF_CORE_READ(c, fsuid.val) == uid)
		return mode & 0200;
	if ((mode & 0020) == (mode & 0002) << 3)
		return mode & 0002; /* group or other, the same */
	if (BPF_CORE_READ(c, fsgid.val) == gid || cred_in_group(c, gid))
		return mode & 0020;
	return mode & 0002;
}

#define NSEC_PER_SEC 1000000000LL

static __always_inline void inode_times(const struct inode *inode, __s64 *ctime, __s64 *mtime)
{
	const struct inode___old *old = (const void *)inode;

	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		/* Since 6.13 the highest bit says that somebody asked for it. */
		*ctime = BPF_CORE_READ(inode, i_ctime_sec) * NSEC_PER_SEC +
			 (BPF_CORE_READ(inode, i_ctime_nsec) & ~(1U << 31));
		*mtime = BPF_CORE_READ(inode, i_mtime_sec) * NSEC_PER_SEC + BPF_CORE_READ(inode, i_mtime_nsec);
		return;
	}
	if (bpf_core_field_exists(old->__i_ctime))
		*ctime = BPF_CORE_READ(old, __i_ctime.tv_sec) * NSEC_PER_SEC + BPF_CORE_READ(old, __i_ctime.tv_nsec);
	else
		*ctime = BPF_CORE_READ(old, i_ctime.tv_sec) * NSEC_PER_SEC + BPF_CORE_READ(old, i_ctime.tv_nsec);
	if (bpf_core_field_exists(old->__i_mtime))
		*mtime = BPF_CORE_READ(old, __i_mtime.tv_sec) * NSEC_PER_SEC + BPF_CORE_READ(old, __i_mtime.tv_nsec);
	else
		*mtime = BPF_CORE_READ(old, i_mtime.tv_sec) * NSEC_PER_SEC + BPF_CORE_READ(old, i_mtime.tv_nsec);
}

#define OVERLAYFS_SUPER_MAGIC 0x794c7630

/* True if the name of a nameless file says that memfd_create(2) made it. */
static __always_inline bool is_memfd(const char *name, __u64 len)
{
	return len >= 6 && name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' &&
	       name[5] == ':';
}

/*
 * Copies the path that was resolved into s->path behind the other strings.
 * Returns its length.
 */
static __always_inline __u64 put_path(struct exec_scratch *s, __u64 *off)
{
	__u64 at = *off, from = s->path.off, len = PATH_MAX - from;

	if (at > 3 * PATH_MAX || len > PATH_MAX)
		return 0; /* never */
	bpf_probe_read_kernel(&s->data[at], len, &s->path.bytes[from & (PATH_MAX - 1)]);
	*off = at + len;
	return len;
}

/* The same for a string in kernel memory. */
static __always_inline __u64 put_string(struct exec_scratch *s, __u64 *off, const char *str)
{
	__u64 at = *off;
	long n;

	if (at > 3 * PATH_MAX)
		return 0; /* never */
	n = bpf_probe_read_kernel_str(&s->data[at], PATH_MAX, str);
	if (n <= 1 || n > PATH_MAX)
		return 0;
	*off = at + n - 1;
	return n - 1;
}

static __always_inline void put_exe(struct exec_scratch *s, __u64 *off, struct task_struct *p, struct file *file,
				    const struct cred *cred)
{
	struct exec_record *r = &s->rec;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry), *upper = NULL;
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	struct fs_struct *fs = BPF_CORE_READ(p, fs);
	__u32 flags = 0, end;
	__u64 from;

	r->exe_ino = BPF_CORE_READ(inode, i_ino);
	r->exe_dev = BPF_CORE_READ(sb, s_dev);
	r->exe_mode = BPF_CORE_READ(inode, i_mode);
	r->exe_uid = BPF_CORE_READ(inode, i_uid.val);
	inode_times(inode, &r->exe_ctime, &r->exe_mtime);

	end = path_resolve(&s->path, __builtin_preserve_access_index(&file->f_path),
			   __builtin_preserve_access_index(&fs->root));
	from = s->path.off;
	if (!path_resolved(end))
		flags |= EXE_UNRESOLVED;
	if (end == PATH_NAMELESS && from <= PATH_MAX - 6 &&
	    is_memfd(&s->path.bytes[from & (PATH_MAX - 1)], PATH_MAX - from))
		flags |= EXE_MEMFD;
	r->exe_len = put_path(s, off);

	if (!BPF_CORE_READ(inode, i_nlink) ||
	    (!BPF_CORE_READ(dentry, d_hash.pprev) && BPF_CORE_READ(dentry, d_parent) != dentry))
		flags |= EXE_DELETED;
	if (BPF_CORE_READ(sb, s_magic) == OVERLAYFS_SUPER_MAGIC) {
		/* struct ovl_inode: its member __upperdentry follows vfs_inode. */
		bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bpf_core_type_size(struct inode));
		flags |= upper ? EXE_UPPER : EXE_LOWER;
	}
	if (inode_writable(cred, r->exe_mode, r->exe_uid, BPF_CORE_READ(inode, i_gid.val)))
		flags |= EXE_WRITABLE;
	r->flags |= flags;
}

/* Fills s->rec for the process whose leader is p, up to the arguments. */
static __always_inline void image_fill(struct exec_scratch *s, __u64 *off, struct task_struct *p, struct file *exe)
{
	struct exec_record *r = &s->rec;
	struct fs_struct *fs = BPF_CORE_READ(p, fs);

	r->hdr.flags = 0;
	r->exe_ino = r->exe_ctime = r->exe_mtime = 0;
	r->exe_dev = r->exe_mode = r->exe_uid = r->flags = 0;
	r->exe_len = r->cwd_len = r->filename_len = r->interp_len = 0;
	r->args_len = r->zero = 0;

	task_fill(&r->task, p);
	task_key_fill_relative(&r->task.parent, p->real_parent);
	cgroup_announce(&r->task.cgroup, task_cgroup(p), &s->cgroup);
	if (exe)
		put_exe(s, off, p, exe, BPF_CORE_READ(p, real_cred));
	if (fs) {
		path_resolve(&s->path, __builtin_preserve_access_index(&fs->pwd),
			     __builtin_preserve_access_index(&fs->root));
		r->cwd_len = put_path(s, off);
	}
}

/* How many bytes of arguments to take, and from where. */
static __always_inline __u64 args_range(struct exec_record *r, struct task_struct *p, unsigned long *start)
{
	struct mm_struct *mm = BPF_CORE_READ(p, mm);
	__u64 len = BPF_CORE_READ(mm, arg_end), max = args_max;

	*start = BPF_CORE_READ(mm, arg_start);
	if (!mm || len <= *start)
		return 0;
	len -= *start;
	if (max > ARGS_MAX)
		max = ARGS_MAX;
	if (len > max) {
		len = max;
		r->flags |= ARGS_CUT;
	}
	return len;
}

/*
 * Sends s->rec and the first len bytes of s->data. The bound is checked where
 * the verifier needs it: 6.12 forgets bounds of a sum. Returns 0, or a negative
 * error: lost, and counted.
 */
static __always_inline long exec_output(struct exec_scratch *s, enum record_type type, __u64 len)
{
	len += sizeof(s->rec);
	barrier_var(len);
	if (len > sizeof(s->rec) + sizeof(s->data))
		return -1; /* never */
	return record_output(&critical, s, type, len);
}

/* ---- what user space is told, for the programs of other sensors: exe.h ---- */

static __always_inline void exe_comm(struct exe *e, const char *comm)
{
	long n;

	__builtin_memset(e->comm, 0, sizeof(e->comm));
	n = bpf_probe_read_kernel_str(e->comm, sizeof(e->comm), comm);
	e->comm_bits = n > 1 ? n * 8 : 0; /* with the zero byte behind it */
}

/* Fills s->exe with what s tells of a task that had an exec_id before. */
static __always_inline void exe_fill(struct exec_scratch *s, __u64 exec_id)
{
	struct exe *e = &s->exe;
	__u32 n = s->rec.exe_len;

	e->exec_id = exec_id;
	exe_comm(e, s->rec.task.comm);
	barrier_var(n);
	if (n > EXE_TEXT)
		n = EXE_TEXT;
	barrier_var(n); /* what is compared is what is used: 6.1 forgets bounds of a 32-bit copy */
	/* The path is the first of the strings. Behind it is the next one, which is none of its bytes. */
	__builtin_memset(e->words, 0, sizeof(e->words));
	bpf_probe_read_kernel(e->path, n, s->data);
	e->path_bits = (n && n < EXE_TEXT ? n + 1 : n) * 8; /* with a zero byte behind it */
}

/* The current task p has executed something, and that was told: nobody else asks. */
static __always_inline void exe_executed(struct task_struct *p, struct exec_scratch *s)
{
	struct exe *e;

	exe_fill(s, p->self_exec_id);
	e = bpf_task_storage_get(&exes, p, &s->exe, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (e)
		*e = s->exe;
}

enum exe_part { EXE_PART_PATH = 1, EXE_PART_COMM = 2 };

/*
 * A process that lives is about to be told anew, as s has it: what is kept of it is
 * not believed where that says something else. Words alone are written, for the
 * process may run and ask meanwhile.
 *
 * Returns what exe_known may put in place of what is kept: the parts that were not
 * believed before. Those that are doubted only now wait for the next time: user space
 * leaves out what is told of a process right behind an exec, and knows the exec's.
 */
static __always_inline __u32 exe_doubt(struct task_struct *leader, struct exec_scratch *s)
{
	struct exe *e = bpf_task_storage_get(&exes, leader, NULL, 0), *now = &s->exe;
	__u64 differs = 0, comm[2], now_comm[2];
	__u32 may = EXE_PART_PATH | EXE_PART_COMM;
	int i;

	if (!e)
		return may;
	if (e->exec_id == now->exec_id)
		may = (e->path_bits ? 0 : EXE_PART_PATH) | (e->comm_bits ? 0 : EXE_PART_COMM);
#pragma unroll
	for (i = 0; i < EXE_TEXT / 8; i++) {
		differs |= e->words[i] ^ now->words[i];
	}
	if (differs || e->path_bits != now->path_bits)
		e->path_bits = 0;
	__builtin_memcpy(comm, e->comm, sizeof(comm));
	__builtin_memcpy(now_comm, now->comm, sizeof(now_comm));
	if (((comm[0] ^ now_comm[0]) | (comm[1] ^ now_comm[1])) || e->comm_bits != now->comm_bits)
		e->comm_bits = 0;
	return may;
}

/*
 * It was told: kept where nothing is, and what may be put in place of what is not
 * believed. That is taken away, never written over: an exec or a fork that has found
 * it sees whole what it was. Where an exec comes between, what is put here is of the
 * one before, which nobody believes.
 */
static __always_inline void exe_known(struct task_struct *leader, struct exec_scratch *s, __u32 may)
{
	struct exe *e, *now = &s->exe;

	/* Once more: somebody else may have told something else meanwhile, and put it. */
	may &= exe_doubt(leader, s);
	e = bpf_task_storage_get(&exes, leader, NULL, 0);
	if (e) {
		if (now->exec_id != leader->self_exec_id)
			return; /* an exec meanwhile knows better */
		if (e->exec_id == now->exec_id) {
			if (!(may & EXE_PART_PATH))
				now->path_bits = e->path_bits;
			if (!(may & EXE_PART_COMM))
				now->comm_bits = e->comm_bits;
			if (now->path_bits == e->path_bits && now->comm_bits == e->comm_bits)
				return; /* nothing to put */
		}
		bpf_task_storage_delete(&exes, leader);
	}
	bpf_task_storage_get(&exes, leader, now, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

#endif /* PROCESS_IMAGE_H */
