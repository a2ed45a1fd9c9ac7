/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Files that are opened: the exits of the system calls. By then the descriptor
 * is there, and leads to the file; what the process asked for is still where it
 * was, or somebody has changed it meanwhile, and it is told as what it is.
 */
#ifndef FILE_OPEN_H
#define FILE_OPEN_H

#include "record.h"

enum {
	O_ACCMODE = 3,
	O_RDWR = 2,
	O_WRONLY = 1,
	O_CREAT = 0100,
	O_TRUNC = 01000,
	O_TMPFILE = 020000000, /* without O_DIRECTORY, which it needs */
};

struct open_how {
	__u64 flags, mode, resolve;
};

/* The arguments of a call. */
struct open_args {
	__u64 flags;
	__u64 path;
	__s32 dir;
	__u32 mode;
};

/* Global, as walk_run is. */
__noinline int open_args(struct open_args *a, __u32 what)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct open_how how = {};

	if (!a)
		return 0; /* never */
	a->dir = AT_FDCWD;
	a->path = a->mode = 0;
	a->flags = 0;
	switch (what) {
	case FILE_OPEN:
		a->path = call_arg(p, 0);
		a->flags = (__u32)call_arg(p, 1);
		a->mode = call_arg(p, 2);
		break;
	case FILE_CREAT:
		a->path = call_arg(p, 0);
		a->flags = O_CREAT | O_WRONLY | O_TRUNC;
		a->mode = call_arg(p, 1);
		break;
	case FILE_OPENAT:
		a->dir = call_arg(p, 0);
		a->path = call_arg(p, 1);
		a->flags = (__u32)call_arg(p, 2);
		a->mode = call_arg(p, 3);
		break;
	case FILE_OPENAT2:
		a->dir = call_arg(p, 0);
		a->path = call_arg(p, 1);
		bpf_probe_read_user(&how, sizeof(how), (void *)call_arg(p, 2));
		a->flags = how.flags & 0xffffffff;
		a->mode = how.mode;
		break;
	case FILE_OPEN_BY_HANDLE:
		a->dir = call_arg(p, 0);
		a->flags = (__u32)call_arg(p, 2);
		break;
	}
	return 0;
}

/* Reading and writing as flags have it. */
static __always_inline __u32 open_intent(__u64 flags)
{
	switch (flags & O_ACCMODE) {
	case 0:
		return FILE_READ;
	case O_WRONLY:
		return FILE_WRITE;
	}
	return FILE_READ | FILE_WRITE;
}

/* What a file was opened for, as interest_begin takes it; more than that does no harm. */
static __always_inline __u32 open_purposes(__u32 marks, __u32 mode)
{
	__u32 purposes = 0;

	if (marks & FILE_READ)
		purposes |= 1;
	if (marks & FILE_WRITE)
		purposes |= 2;
	if (mode & 0111)
		purposes |= 4;
	if (marks & FILE_CREATED)
		purposes |= 8;
	return purposes;
}

/* Beside enum file_marks, in what opens are counted by. */
enum {
	COUNT_EXEC = 1 << 16,
	COUNT_NAMED = 1 << 17,
	COUNT_ERROR = 20, /* and above: enum file_error */
};

/*
 * Counts an open, of which the key has type, result and marks, with dirs by the
 * directory too. seq is the count of changes of the file's name before its path
 * was found. Returns 1 if it is
 * counted; 0 if it is to be recorded. Global, as walk_run is.
 */
__noinline int open_count(struct walk *w, __u32 dirs, __u32 seq)
{
	struct count *c = count_room();
	struct dentry *dentry;
	__u64 off, len, name;

	if (!c || !w)
		return 0; /* never */
	c->example = 0;
	if (dirs) {
		dentry = w->from_dentry;
		off = w->off;
		len = WALK_END - off;
		name = READ(dentry, d_name.len);
		/* If its name has changed, what of the path is the directory is not known. */
		if (seq & 1 || READ(dentry, d_seq.seqcount.sequence) != seq || name + 1 >= len)
			return 0;
		len -= name + 1; /* and the slash before it */
		barrier_var(off);
		if (off < WALK_ROOM || off > WALK_END)
			return 0; /* never */
		if (!count_dir(c, &w->bytes[off], len))
			return 0;
	}
	return count_again();
}

static __always_inline int open_tell(__u32 what, long res)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_object object = {};
	struct file_scratch *s;
	struct open_record *r;
	struct open_args args = {};
	struct dentry *dentry = NULL;
	struct file *file = NULL;
	struct count *c;
	struct interest m = {};
	__u32 marks, error = FILE_FAILED, seq = 0, end = PATH_FOUND;
	struct walk *w;
	__u64 at, len, example = 0;
	int err, raw = 0;
	bool path_first;
	__u8 pad;

	if (!task_in_scope(p))
		return 0;
	s = file_scratch();
	if (!s)
		return 0; /* never */
	w = &s->walk;
	w->off = WALK_END;
	open_args(&args, what);
	marks = open_intent(args.flags);
	if (res >= 0) {
		file = file_of(p, res);
		error = FILE_CLOSED;
	}
	if (file) {
		__u32 mode = READ(file, f_mode);

		marks = 0;
		if (mode & FMODE_READ)
			marks |= FILE_READ;
		if (mode & FMODE_WRITE)
			marks |= FILE_WRITE;
		if (mode & FMODE_CREATED)
			marks |= FILE_CREATED;
	}
	if (!judge_call(&m, what, open_purposes(marks, args.mode), res < 0))
		return 0;
	path_first = file && interest_path_first(&m);
	if (!path_first) {
		raw = actor_judge(&m, w, args.path);
		if (raw < 0)
			return 0;
	}
	if (file) {
		struct inode *inode = READ(file, f_inode);

		dentry = READ(file, f_path.dentry);
		if (interest_needs_inode(&m) && !interest_inode(&m, READ(inode, i_ino), READ(READ(inode, i_sb), s_dev)))
			return 0;
		seq = READ(dentry, d_seq.seqcount.sequence);
		end = walk_resolve(w, READ(file, f_path.mnt), dentry, p->fs, WALK_END);
		error = walk_error(end);
		if (error)
			interest_any_path(&m);
		else if (path_first || interest_needs_path(&m))
			walk_judge(&m, w);
		if (!interest_no_more_paths(&m))
			return 0;
		if (path_first) {
			raw = actor_judge(&m, w, args.path);
			if (raw < 0)
				return 0;
		}
		marks |= object_fill(&object, inode, dentry);
		if (end == PATH_NAMELESS && walk_memfd(w))
			marks |= FILE_MEMFD;
	} else if (res >= 0) {
		interest_any_path(&m); /* it is closed already: it can be any */
	} else if ((interest_needs_inode(&m) && !interest_inode(&m, 0, 0)) || !interest_wanted(&m)) {
		return 0;
	}
	if (interest_counts(&m) && end != PATH_NAMELESS) {
		bool dirs = file && !error && interest_counts_dirs(&m);
		__u32 equal = marks | error << COUNT_ERROR;

		c = count_room();
		if (!c)
			return 0; /* never */
		if (args.flags & (O_CREAT | O_TMPFILE) && args.mode & 0111)
			equal |= COUNT_EXEC;
		count_begin(c, what, res, dirs ? equal | COUNT_NAMED : equal);
		if (open_count(w, dirs, seq))
			return 0;
		example = c->example;
	}
	marks |= asker_marks(p);
	if (args.path && !raw)
		raw = raw_copy(w, 0, (void *)args.path);
	r = head_of(w, sizeof(*r), &at, &pad);
	if (!r)
		return 0; /* never */
	actor_fill(&r->actor, p);
	r->file = object;
	r->flags = args.flags;
	r->res = res;
	r->dir = args.dir;
	r->mode = args.mode;
	r->name_len = WALK_END - w->off;
	r->raw_len = raw;
	r->marks = marks;
	r->what = what;
	r->error = error;
	r->pad = pad;
	__builtin_memset(r->zero, 0, sizeof(r->zero));
	r->h.flags = 0;
	r->example = example;
	len = masked(WALK_END - at + raw, 0x3fff);
	err = record_output(&bulk, r, REC_OPEN, len);
	if (example)
		count_told(err);
	return 0;
}

/* Of all calls that open. */
SEC("tracepoint")
int file_open_x(struct trace_event_raw_sys_exit *ctx)
{
	__u32 what = call_what(ctx->id);

	return what ? open_tell(what, ctx->ret) : 0;
}

#endif /* FILE_OPEN_H */
