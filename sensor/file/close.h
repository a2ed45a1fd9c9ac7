/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Files that were open for writing, and go.
 *
 * close(2), and dup2(2) and dup3(2) over an open descriptor, are seen when they
 * begin, while the descriptor still is, and told when they return, with how they
 * ended: change.h. What goes with many others is told as it goes, for it cannot
 * fail then: by close_range(2), by an exec if it is O_CLOEXEC, and by the end of
 * who has the descriptors.
 *
 * close(2) is always told. Of the other ways it is only told if nobody else has the
 * file, a descriptor in another process or a mapping: whoever is last tells it. Of
 * two that let go of it at once neither may be.
 */
#ifndef FILE_CLOSE_H
#define FILE_CLOSE_H

#include <bpf/bpf_tracing.h>

#include "change.h"

/* An overlay's own inode does not know how long its file in the upper layer is. */
static __always_inline __u64 size_of(struct inode *inode)
{
	struct dentry *upper = upper_of(inode);

	return upper ? READ(READ(upper, d_inode), i_size) : READ(inode, i_size);
}

/* Whether a file is one whose closes are told. */
static __always_inline bool close_counts(struct file *file)
{
	return file && READ(file, f_mode) & FMODE_WRITE && (READ(READ(file, f_inode), i_mode) & S_IFMT) == S_IFREG;
}

/* How many have a file: descriptors, mappings, calls that are on their way. */
static __always_inline __u64 close_holders(struct file *file)
{
	struct file___ref *new = (void *)file;

	if (bpf_core_field_exists(new->f_ref))
		return READ(new, f_ref.refcnt.counter) + 1; /* which counts from 0 */
	return READ(file, f_count.counter);
}

/* ---- a descriptor, by a call that returns ---- */

/*
 * What is closed is seen before the descriptor is gone, and only kept for the
 * call's end if somebody wants it.
 */
SEC("tracepoint")
int file_close_e(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	__u32 what = call_what(ctx->id);
	struct file_scratch *s;
	struct change_call *c;
	struct dentry *dentry;
	struct inode *inode;
	struct file *file;
	struct interest m = {};
	__s32 slot;
	bool both, kept;
	__u32 seen, wants;

	if (!what || !task_in_scope(p))
		return 0;
	file = file_of(p, call_arg(p, what == FILE_CLOSE ? 0 : 1));
	if (!close_counts(file))
		return 0;
	if (what != FILE_CLOSE && ((__u32)call_arg(p, 0) == (__u32)call_arg(p, 1) || close_holders(file) != 1))
		return 0;
	inode = READ(file, f_inode);
	wants = change_may_be_wanted(&m, what);
	if (!wants)
		return 0;
	both = wants & CHANGE_BOTH;
	if (both && interest_needs_inode(&m) && !interest_inode(&m, READ(inode, i_ino), READ(READ(inode, i_sb), s_dev)))
		return 0;
	s = file_scratch();
	if (!s)
		return 0; /* never */
	dentry = READ(file, f_path.dentry);
	seen = 1 + walk_resolve(&s->walk, READ(file, f_path.mnt), dentry, p->fs, WALK_END);
	if (both && interest_needs_path(&m)) {
		if (file_unnamed(walk_error(seen - 1)))
			interest_any_path(&m);
		else if (s->walk.off != WALK_END)
			walk_judge(&m, &s->walk);
		if (!interest_wanted(&m))
			return 0;
	}
	c = change_begin(&slot, what);
	if (!c) {
		record_count_lost(REC_FILE_CLOSE);
		return 0;
	}
	c->marks = object_fill(&c->file, inode, dentry);
	c->seen = seen;
	c->size = size_of(inode);
	if (seen == 1 + PATH_NAMELESS && walk_memfd(&s->walk))
		c->marks |= FILE_MEMFD;
	kept = change_keep_texts(c, &s->walk, 0, what);
	slot_leave(SLOT_CALLS, slot, kept);
	if (!kept)
		record_count_lost(REC_FILE_CLOSE);
	return 0;
}

/* ---- many descriptors at once ---- */

/* Tells that the current task's descriptor goes. Global, as walk_run is. */
__noinline int close_tell(__u32 what, __u32 fd)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	struct file *file = file_of(p, fd);
	struct change_record *r;
	struct interest m = {};
	struct dentry *dentry;
	struct inode *inode;
	__u32 end;

	if (!s || !file || !judge_begin(&m, what, 0, false))
		return 0;
	inode = READ(file, f_inode);
	if (interest_needs_inode(&m) && !interest_inode(&m, READ(inode, i_ino), READ(READ(inode, i_sb), s_dev)))
		return 0;
	dentry = READ(file, f_path.dentry);
	end = walk_resolve(&s->walk, READ(file, f_path.mnt), dentry, p->fs, WALK_END);
	r = &s->change;
	__builtin_memset(r, 0, sizeof(*r));
	r->what = what;
	r->fd = fd;
	r->dir = r->target_dir = AT_FDCWD;
	r->error = walk_error(end);
	r->marks = object_fill(&r->file, inode, dentry);
	if (end == PATH_NAMELESS && walk_memfd(&s->walk))
		r->marks |= FILE_MEMFD;
	r->size = size_of(inode);
	if (!change_wanted(&m, r->error))
		return 0;
	actor_fill(&r->actor, p);
	change_write(REC_FILE_CLOSE);
	return 0;
}

/* The table that threads of a process have in common. */
struct close_table {
	__u64 table; /* struct files_struct * */
	__u64 start; /* of the process */
	__u32 pid;
	__u32 zero;
};

/* Descriptors of a table that go: those before end, of which bits says that they do. */
struct close_scan {
	__u64 files;	  /* of struct file *, by number */
	__u64 open, bits; /* by bit; bits may be open */
	__u64 file;	  /* with several holders, that was looked for last */
	__u64 holders, found;
	__u32 end, fd, at; /* fd is where the scan is, at where it looks for file */
	__u32 left;	   /* steps that all searches together may still take */
	__u32 what;
	__u32 told;
	struct close_table table; /* of file_close_exit */
};

/* In a map, as path.h says. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct close_scan));
} close_scans SEC(".maps");

struct close_state {
	struct close_scan *s;
};

static __always_inline struct close_scan *close_scan(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&close_scans, &zero);
}

/* Whether descriptor *at goes; then *at is the next one that may. */
static __always_inline bool close_goes(struct close_scan *s, __u32 *at)
{
	__u64 word = (*at >> 6) * sizeof(__u64), bits;

	bits = read_word((void *)s->open + word) & read_word((void *)s->bits + word);
	bits >>= *at & 63;
	*at = bits ? *at + 1 : (*at | 63) + 1;
	return bits & 1;
}

static __always_inline struct file *close_file(struct close_scan *s, __u32 fd)
{
	return (struct file *)read_word((void *)s->files + (__u64)fd * sizeof(struct file *));
}

static long close_search_step(__u32 i, struct close_state *st)
{
	struct close_scan *s = st->s;
	__u32 fd = s->at, at = fd;

	if (fd >= s->end || s->found >= s->holders || !s->left)
		return 1;
	s->left--;
	if (close_goes(s, &at) && (__u64)close_file(s, fd) == s->file)
		s->found++;
	s->at = at;
	return 0;
}

/*
 * Words and descriptors that are looked at: by the scan, and by all searches together,
 * or who has made many descriptors would hold up the CPU by the square of their number.
 */
#define CLOSE_STEPS  (1 << 20)
#define CLOSE_SEARCH (1 << 18)

/* Whether all holders of a file that has several are descriptors that go, fd the first. Global, as walk_run is. */
__noinline int close_first(__u64 file, __u32 fd)
{
	struct close_state st = { .s = close_scan() };
	struct close_scan *s = st.s;

	if (!s || s->file == file)
		return 0; /* it was not all before, or fd is not the first */
	s->file = file;
	s->holders = close_holders((struct file *)file);
	s->found = 0;
	s->at = fd;
	bpf_loop(CLOSE_SEARCH, close_search_step, &st, 0);
	return s->found == s->holders;
}

static long close_step(__u32 i, struct close_state *st)
{
	struct close_scan *s = st->s;
	__u32 fd = s->fd, at = fd;
	struct file *file;
	bool goes;

	if (fd >= s->end)
		return 1;
	goes = close_goes(s, &at);
	s->fd = at;
	if (!goes)
		return 0;
	file = close_file(s, fd);
	if (close_counts(file) && (close_holders(file) == 1 || close_first((__u64)file, fd)))
		close_tell(s->what, fd);
	return 0;
}

/* The current task's descriptors from first to last go, with cloexec those alone that are marked so. */
static __noinline int close_many(__u32 what, __u32 first, __u32 last, bool cloexec)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct close_state st = { .s = close_scan() };
	struct fdtable *fdt = READ(p->files, fdt);
	__u32 max = READ(fdt, max_fds);
	struct close_scan *s = st.s;

	if (!s)
		return 0; /* never */
	s->files = (__u64)READ(fdt, fd);
	s->open = (__u64)READ(fdt, open_fds);
	s->bits = cloexec ? (__u64)READ(fdt, close_on_exec) : s->open;
	s->file = 0;
	s->fd = first;
	s->end = last < max ? last + 1 : max;
	s->left = CLOSE_SEARCH;
	s->what = what;
	bpf_loop(CLOSE_STEPS, close_step, &st, 0);
	if (s->fd < s->end || !s->left) /* what was not looked at may be one to tell */
		record_count_lost(REC_FILE_CLOSE);
	return 0;
}

/*
 * Whether anybody may want a close of what the current task has open. Global, as
 * walk_run is, and so that its stack is gone when close_many has its own.
 */
__noinline int close_wanted(__u32 what)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct interest m = {};

	return !(p->flags & PF_KTHREAD) && task_in_scope(p) && judge_begin(&m, what, 0, false);
}

enum {
	CLOSE_RANGE_UNSHARE = 2,
	EEXIST = 17,
};

SEC("tracepoint")
int file_close_many(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	__u32 first = ctx->args[0], last = ctx->args[1], flags = ctx->args[2];

	/* Else it marks them only, or is refused. */
	if (first > last || flags & ~CLOSE_RANGE_UNSHARE || !close_wanted(FILE_CLOSE_RANGE))
		return 0;
	/* A table of its own is made first: the files stay open in the other one. */
	if (flags & CLOSE_RANGE_UNSHARE && READ(p->files, count.counter) > 1)
		return 0;
	return close_many(FILE_CLOSE_RANGE, first, last, false);
}

/* Whether only threads of p's own process, as far as can be seen, have its table. */
static __always_inline bool close_own(struct task_struct *p)
{
	return READ(p->files, count.counter) <= p->signal->nr_threads;
}

/*
 * The current task executes something else. It cannot fail any more, the other threads
 * are about to be ended, and the descriptors are still there.
 */
static __noinline int close_exec(void)
{
	if (!close_wanted(FILE_CLOSE_EXEC) || !close_own(bpf_get_current_task_btf()))
		return 0;
	return close_many(FILE_CLOSE_EXEC, 0, ~0U, true);
}

SEC("tp_btf/sched_prepare_exec")
int BPF_PROG(file_close_exec, struct task_struct *p)
{
	return close_exec();
}

/* The same until 6.9: what the kernel does right before it can fail no more. */
SEC("fexit/security_bprm_creds_from_file")
int BPF_PROG(file_exec_fexit, struct linux_binprm *bprm, struct file *file, int err)
{
	return err ? 0 : close_exec();
}

/*
 * Those that were told while several threads had them: of processes that ended just
 * now, of which threads may still come. Task storage would not do: a thread that is
 * preempted in the middle of it keeps others on its CPU from making theirs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct close_table);
	__type(value, __u32);
} close_tables SEC(".maps");

/*
 * A thread ends, and still has its descriptors. They go if no other one has them, or
 * only threads that end too: several can be here at once, and see the others.
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(file_close_exit, struct task_struct *p)
{
	__u64 table = (__u64)BPF_CORE_READ(p, files);
	struct close_scan *s;
	__u32 holders;

	if (!table || !close_wanted(FILE_CLOSE_EXIT))
		return 0;
	s = close_scan();
	if (!s)
		return 0; /* never */
	s->table.table = table;
	s->table.start = p->group_leader->start_boottime;
	s->table.pid = p->tgid;
	holders = READ(p->files, count.counter);
	if (holders > 1) {
		if (p->signal->live.counter || !close_own(p))
			return 0;
		if (bpf_map_update_elem(&close_tables, &s->table, &s->told, BPF_NOEXIST) == -EEXIST)
			return 0;
	} else if (bpf_map_lookup_elem(&close_tables, &s->table)) {
		return 0;
	}
	return close_many(FILE_CLOSE_EXIT, 0, ~0U, false);
}

#endif /* FILE_CLOSE_H */
