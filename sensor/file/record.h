/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the programs write, and where they build it. */
#ifndef FILE_RECORD_H
#define FILE_RECORD_H

#include "kernel.h"
#include "road.h"
#include "scope.h"
#include "walk.h"
#include "interest.h"
#include "count.h"

#define AT_FDCWD (-100)

/* By the numbers of this architecture's system calls: enum file_what, 0 for others. Set before loading. */
#define FILE_CALLS 512
const volatile __u8 call_whats[FILE_CALLS];

/* What a system call is, by its number; which tracepoints have in half of their word. */
static __always_inline __u32 call_what(__u32 nr)
{
	return nr < FILE_CALLS ? call_whats[nr] : 0;
}

/* What happened: the evt.type. Go has the same list. */
enum file_what {
	FILE_OPEN = 1,
	FILE_OPENAT,
	FILE_OPENAT2,
	FILE_CREAT,
	FILE_OPEN_BY_HANDLE,
	FILE_UNLINK,
	FILE_UNLINKAT,
	FILE_RMDIR,
	FILE_RENAME,
	FILE_RENAMEAT,
	FILE_RENAMEAT2,
	FILE_LINK,
	FILE_LINKAT,
	FILE_SYMLINK,
	FILE_SYMLINKAT,
	FILE_MKDIR,
	FILE_MKDIRAT,
	FILE_CHMOD,
	FILE_FCHMOD,
	FILE_FCHMODAT,
	FILE_FCHMODAT2,
	FILE_CHOWN,
	FILE_LCHOWN,
	FILE_FCHOWN,
	FILE_FCHOWNAT,
	FILE_TRUNCATE,
	FILE_FTRUNCATE,
	FILE_MOUNT,
	FILE_UMOUNT,
	FILE_MOVE_MOUNT,
	FILE_CLOSE, /* and the other ways on which descriptors go */
	FILE_CLOSE_DUP2,
	FILE_CLOSE_DUP3,
	FILE_CLOSE_RANGE,
	FILE_CLOSE_EXEC,
	FILE_CLOSE_EXIT,
	FILE_WHATS,
};

/* Why there is no name; in Go event.PathError. */
enum file_error {
	FILE_KNOWN,
	FILE_FAILED,
	FILE_CLOSED,
	FILE_DETACHED,
	FILE_ESCAPED,
	FILE_TOO_LONG,
	FILE_UNPROVEN,
};

enum file_marks {
	FILE_READ = 1 << 0,
	FILE_WRITE = 1 << 1,
	FILE_CREATED = 1 << 2,
	FILE_DELETED = 1 << 3,
	FILE_MEMFD = 1 << 4,
	FILE_UPPER = 1 << 5,
	FILE_LOWER = 1 << 6,
	FILE_IO_URING = 1 << 7,
	FILE_SHARED = 1 << 8, /* others can write to the memory of who asked */
};

/* Who acted; pid and start are in Go event.Key. */
struct file_actor {
	__u64 start;
	__u32 pid, tid;
};

/* The file itself; all zero where there is none. */
struct file_object {
	__u64 ino;
	__u32 dev, mode, uid, links;
};

/*
 * A file that was opened, or was to be. Behind it pad bytes, then name_len bytes
 * of the path, then raw_len bytes of what was asked for.
 */
struct open_record {
	struct record h;
	struct file_actor actor;
	struct file_object file;
	__u64 flags;
	__u64 example; /* of events that are counted: count.h */
	__s32 res, dir;
	__u32 mode;
	__u16 name_len, raw_len;
	__u16 marks; /* enum file_marks */
	__u8 what;   /* enum file_what */
	__u8 error;  /* enum file_error */
	__u8 pad;
	__u8 zero[3];
};

#define FSTYPE_LEN 32

/*
 * A change of a name, of a file or of a mount, and a close. Behind it pad bytes,
 * then name_len bytes of the path, target_len of the second one, and what was
 * asked for: raw_len and target_raw_len. Calls with a target and no more have
 * one path, the target.
 */
struct change_record {
	struct record h;
	struct file_actor actor;
	struct file_object file;
	__u64 size;
	__u64 flags;
	__s32 res, fd;
	__s32 dir, target_dir;
	__u32 mode, uid, gid;
	__u16 name_len, target_len, raw_len, target_raw_len;
	__u16 marks; /* enum file_marks */
	__u8 what;   /* enum file_what */
	__u8 error;  /* enum file_error */
	__u8 pad;
	__u8 zero[7];
	char fstype[FSTYPE_LEN]; /* of mount(2), zeros behind it */
};

/*
 * Where records are built; programs that are not preempted have one for each
 * CPU. The head of a record is written just before the text that is there.
 */
struct file_scratch {
	struct walk walk;
	struct change_record change; /* of which the texts are in walk */
	__u64 args[8];		     /* of a system call */
	__u64 path, target;	     /* of these: where what was asked for is; 0 where it has none */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct file_scratch));
} file_scratches SEC(".maps");

static __always_inline struct file_scratch *file_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&file_scratches, &zero);
}

static __always_inline void actor_fill(struct file_actor *a, struct task_struct *p)
{
	a->start = p->group_leader->start_boottime;
	a->pid = p->tgid;
	a->tid = p->pid;
}

/* The argument of the system call that p is in, counted from 0, also when it returns. */
static __always_inline __u64 call_arg(struct task_struct *p, int n)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(p);
	struct pt_regs___arm64 *arm = (void *)regs;

	if (bpf_core_field_exists(regs->orig_ax)) {
		switch (n) {
		case 0:
			return regs->di;
		case 1:
			return regs->si;
		case 2:
			return regs->dx;
		case 3:
			return regs->r10;
		}
		return regs->r8;
	}
	if (!n)
		return BPF_CORE_READ(arm, orig_x0);
	return BPF_CORE_READ(arm, regs[n]);
}

/* Whether p, the current task, is in a call of a 32-bit program: its number and arguments mean something else. */
static __always_inline bool task_is_compat(struct task_struct *p)
{
	if (bpf_core_field_exists(p->thread_info.status))
		return p->thread_info.status & TS_COMPAT;
	return p->thread_info.flags & TIF_32BIT_ARM64;
}

/* The file behind a descriptor of p, NULL if there is none. */
static __always_inline struct file *file_of(struct task_struct *p, __u32 fd)
{
	struct files_struct *files = p->files;
	struct fdtable *fdt = READ(files, fdt);

	if (fd >= READ(fdt, max_fds))
		return NULL;
	return (struct file *)read_word((void *)READ(fdt, fd) + (__u64)fd * sizeof(struct file *));
}

/* The marks of the task that asked. */
static __always_inline __u32 asker_marks(struct task_struct *p)
{
	return READ(p->mm, mm_users.counter) == 1 ? 0 : FILE_SHARED;
}

#define OVERLAYFS_SUPER_MAGIC 0x794c7630

/* Of a file of an overlay, where it is in the upper layer; NULL where it is not, or is no overlay's. */
static __always_inline struct dentry *upper_of(struct inode *inode)
{
	if (READ(READ(inode, i_sb), s_magic) != OVERLAYFS_SUPER_MAGIC)
		return NULL;
	/* struct ovl_inode: __upperdentry follows vfs_inode. */
	return (struct dentry *)read_word((void *)inode + bpf_core_type_size(struct inode));
}

/* Fills in what a file is. Returns marks. */
static __always_inline __u32 object_fill(struct file_object *o, struct inode *inode, struct dentry *dentry)
{
	struct super_block *sb = READ(inode, i_sb);
	__u32 marks = 0;

	o->ino = READ(inode, i_ino);
	o->dev = READ(sb, s_dev);
	o->mode = READ(inode, i_mode);
	o->uid = READ(inode, i_uid.val);
	o->links = READ(inode, i_nlink);
	if (!o->links || (!READ(dentry, d_hash.pprev) && READ(dentry, d_parent) != dentry))
		marks |= FILE_DELETED;
	if (READ(sb, s_magic) == OVERLAYFS_SUPER_MAGIC)
		marks |= upper_of(inode) ? FILE_UPPER : FILE_LOWER;
	return marks;
}

/* True if the text in w is the name that memfd_create(2) gives. */
static __always_inline bool walk_memfd(struct walk *w)
{
	__u64 off = w->off;
	char *name;

	barrier_var(off);
	if (off < WALK_ROOM || off > WALK_END - 6)
		return false;
	name = &w->bytes[off];
	return name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' && name[5] == ':';
}

static __always_inline __u8 walk_error(__u32 end)
{
	switch (end) {
	case PATH_DETACHED:
		return FILE_DETACHED;
	case PATH_ESCAPED:
		return FILE_ESCAPED;
	case PATH_TOO_LONG:
		return FILE_TOO_LONG;
	case PATH_CHANGING:
		return FILE_UNPROVEN;
	}
	return FILE_KNOWN;
}

/*
 * Whether it says that there is a file of which the name is not known, as
 * interest.Unnamed has it. A call that failed has none.
 */
static __always_inline bool file_unnamed(__u32 error)
{
	return error != FILE_KNOWN && error != FILE_FAILED;
}

/*
 * Copies what the process asked for into w, more bytes behind the end of the
 * text. Returns its length; 0 if it cannot be read.
 */
static __always_inline __u32 raw_copy(struct walk *w, __u64 more, const void *user)
{
	long n = bpf_probe_read_user_str(&w->bytes[WALK_END + masked(more, 0x1fff)], PATH_MAX, user);

	return n > 0 && n <= PATH_MAX ? n - 1 : 0;
}

/* Begins an event, as interest_call does. Global, as walk_run is; so are those below. */
__noinline int judge_call(struct interest *m, __u32 what, __u32 open, __u32 failed)
{
	return m && interest_call(m, masked(what, INTEREST_TYPES - 1), open, failed);
}

/* The same with who acts, as interest_begin does. */
__noinline int judge_begin(struct interest *m, __u32 what, __u32 open, __u32 failed)
{
	return m && interest_begin(m, masked(what, INTEREST_TYPES - 1), open, failed);
}

/* Adds a text in w to the names of an event that somebody may want. */
__noinline int text_judge(struct interest *m, struct walk *w, __u64 from, __u64 len)
{
	__u64 to = masked(from + len, 0x3fff);

	from = masked(from, 0x3fff);
	if (!m || !w || from < WALK_ROOM || to < WALK_ROOM)
		return 0; /* never */
	interest_path(m, &w->bytes[from], &w->bytes[to], len);
	return 0;
}

static __always_inline void walk_judge(struct interest *m, struct walk *w)
{
	text_judge(m, w, w->off, WALK_END - w->off);
}

/*
 * Goes on with who acts, and with what the process asked for, where either matters for
 * who wants the event. That is read behind the end of the text in w. Returns its
 * length, which is 0 too where it was not read; -1 if nobody may want the event.
 */
__noinline int actor_judge(struct interest *m, struct walk *w, __u64 user)
{
	__u32 raw;

	if (!m || !w || !interest_actor(m))
		return -1;
	if (!interest_needs_raw(m))
		return 0;
	raw = user ? raw_copy(w, 0, (void *)user) : 0;
	return interest_raw(m, &w->bytes[WALK_END], raw) ? (int)raw : -1;
}

/* Where the head of a record begins that ends before the text in w, at a multiple of eight: pad bytes are between. */
static __always_inline void *head_of(struct walk *w, const __u64 size, __u64 *at, __u8 *pad)
{
	__u64 off = masked(w->off, 0x1fff), odd = masked(off, 7);

	*pad = odd;
	*at = off - odd - size;
	if (off < WALK_ROOM - 8 || off > WALK_END)
		return NULL; /* never */
	return walk_at(w, *at);
}

#endif /* FILE_RECORD_H */
