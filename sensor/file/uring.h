/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What processes have io_uring do to files, which no system call's tracepoint
 * sees: io_uring's own tell when a request is submitted, and when it has ended.
 *
 * When it is submitted the kernel has copied what was asked for: nobody can
 * change that any more. It is kept here until the request ends, wherever that is
 * executed: by the task that submitted it, by a worker, by the thread that polls.
 *
 * A descriptor is there when the request has ended, but ends of several requests
 * are told together. Meanwhile the descriptor may have been closed, by another
 * request, and stand for another file: it tells the path only if no request was
 * submitted that could have done so: uring_call.h.
 *
 * Of what is changed there is no object then: names are told as they were asked
 * for, and as unproven.
 */
#ifndef FILE_URING_H
#define FILE_URING_H

#include <bpf/bpf_tracing.h>

#include "close.h"
#include "uring_call.h"

/* ---- requests that are submitted ---- */

static __always_inline __u32 uring_what(struct io_kiocb *req, __u8 op)
{
	switch (op) {
	case URING_OPENAT:
		return FILE_OPENAT;
	case URING_OPENAT2:
		return FILE_OPENAT2;
	case URING_CLOSE:
		return FILE_CLOSE;
	case URING_RENAMEAT:
		return READ((struct io_rename *)req, flags) ? FILE_RENAMEAT2 : FILE_RENAMEAT;
	case URING_UNLINKAT:
		return FILE_UNLINKAT;
	case URING_MKDIRAT:
		return FILE_MKDIRAT;
	case URING_SYMLINKAT:
		return FILE_SYMLINKAT;
	case URING_LINKAT:
		return FILE_LINKAT;
	case URING_FTRUNCATE:
		return FILE_FTRUNCATE;
	}
	return 0;
}

/* Global, as walk_run is; so are those below. */
__noinline int uring_wanted(__u32 what)
{
	struct interest m = {};

	return judge_begin(&m, what, 15, false) || judge_begin(&m, what, 15, true);
}

/* Copies a name that the kernel has, behind at bytes. Returns its length. */
static __always_inline __u32 uring_copy(struct uring_scratch *s, __u64 at, struct filename *from)
{
	long n = bpf_probe_read_kernel_str(&s->text[masked(at, 0x1fff)], PATH_MAX, READ(from, name));

	return n > 0 && n <= PATH_MAX ? n - 1 : 0;
}

/* What a request is about; with its names, as long as it has not been executed. */
__noinline int uring_read(struct uring_scratch *s, __u32 names)
{
	struct filename *first = NULL, *second = NULL;
	struct io_rename *rename;
	struct io_unlink *unlink;
	struct io_mkdir *mkdir;
	struct io_close *close;
	struct io_ftrunc *trunc;
	struct io_open *open;
	struct io_link *link;
	struct io_kiocb *req;
	struct uring_call *c;

	if (!s)
		return 0; /* never */
	c = &s->call;
	req = uring_of(s);
	rename = (void *)req;
	unlink = (void *)req;
	mkdir = (void *)req;
	close = (void *)req;
	trunc = (void *)req;
	open = (void *)req;
	link = (void *)req;
	c->dir = c->target_dir = AT_FDCWD;
	c->fd = -1;
	switch (c->what) {
	case FILE_OPENAT:
	case FILE_OPENAT2:
		c->dir = READ(open, dfd);
		c->slot = READ(open, file_slot);
		c->flags = READ(open, how.flags) & ~(__u64)O_LARGEFILE; /* which the kernel adds */
		c->mode = READ(open, how.mode);
		first = READ(open, filename);
		break;
	case FILE_CLOSE:
		c->closes = 1;
		c->fd = READ(close, fd);
		c->slot = READ(close, file_slot);
		break;
	case FILE_UNLINKAT:
		c->dir = READ(unlink, dfd);
		c->flags = (__u32)READ(unlink, flags);
		first = READ(unlink, filename);
		break;
	case FILE_RENAMEAT:
	case FILE_RENAMEAT2:
		c->dir = READ(rename, old_dfd);
		c->target_dir = READ(rename, new_dfd);
		c->flags = (__u32)READ(rename, flags);
		first = READ(rename, oldpath);
		second = READ(rename, newpath);
		break;
	case FILE_MKDIRAT:
		c->dir = READ(mkdir, dfd);
		c->mode = READ(mkdir, mode);
		first = READ(mkdir, filename);
		break;
	case FILE_SYMLINKAT:
	case FILE_LINKAT:
		if (c->what == FILE_LINKAT) {
			c->dir = READ(link, old_dfd);
			c->flags = (__u32)READ(link, flags);
		}
		c->target_dir = READ(link, new_dfd);
		first = READ(link, oldpath);
		second = READ(link, newpath);
		break;
	case FILE_FTRUNCATE:
		c->fd = READ(req, cqe.fd);
		if (bpf_core_type_exists(struct io_ftrunc))
			c->size = READ(trunc, len);
		break;
	}
	if (names && first)
		c->raw_len = uring_copy(s, 0, first);
	if (names && second)
		c->target_raw_len = uring_copy(s, c->raw_len, second);
	return 0;
}

/* The file that a close is to close, if that would be told. */
__noinline int uring_close(struct uring_scratch *s)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_scratch *f = file_scratch();
	struct uring_call *c;
	struct dentry *dentry;
	struct inode *inode;
	struct file *file;
	__u64 off, len;

	if (!s)
		return 0; /* never */
	c = &s->call;
	file = uring_file(READ(uring_of(s), ctx), p, c->fd, c->slot);
	if (!f || !file || !(READ(file, f_mode) & FMODE_WRITE))
		return 0;
	inode = READ(file, f_inode);
	if ((READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	dentry = READ(file, f_path.dentry);
	c->marks |= object_fill(&c->file, inode, dentry);
	c->size = size_of(inode);
	c->error = walk_error(walk_resolve(&f->walk, READ(file, f_path.mnt), dentry, p->fs, WALK_END));
	if (f->walk.end == PATH_NAMELESS && walk_memfd(&f->walk))
		c->marks |= FILE_MEMFD;
	off = f->walk.off;
	len = masked(WALK_END - off, 0x1fff);
	if (len > PATH_MAX)
		return 0; /* never */
	bpf_probe_read_kernel(s->text, masked(len, 0x1fff), walk_at(&f->walk, off));
	c->name_len = len;
	return 1;
}

static __always_inline void uring_keep(struct uring_scratch *s, __u64 key)
{
	struct uring_call *c = &s->call;

	if (c->name_len + c->raw_len + c->target_raw_len > URING_TEXT)
		bpf_map_update_elem(&uring_texts, &key, s->text, BPF_ANY);
	else
		bpf_probe_read_kernel(c->text, URING_TEXT, s->text);
	bpf_map_update_elem(&uring_calls, &key, c, BPF_ANY);
}

static __noinline int uring_tell(struct uring_scratch *s, long res);

#define URING_OPS                                                                                           \
	(1ULL << URING_ACCEPT | 1ULL << URING_OPENAT | 1ULL << URING_CLOSE | 1ULL << URING_FILES_UPDATE |   \
	 1ULL << URING_OPENAT2 | 31ULL << URING_RENAMEAT | 1ULL << URING_SOCKET | 1ULL << URING_FTRUNCATE | \
	 1ULL << URING_PIPE)

/* Whether a request is one of those that are looked at; most are not. */
static __always_inline bool uring_known(__u8 op)
{
	return op < 64 && URING_OPS >> op & 1;
}

/* Requests that make what becomes of the ring's own table uncertain. */
static __always_inline bool uring_table(struct io_kiocb *req, __u8 op)
{
	switch (op) {
	case URING_ACCEPT:
		return READ((struct io_accept *)req, file_slot);
	case URING_SOCKET:
		return READ((struct io_socket *)req, file_slot);
	case URING_PIPE:
	case URING_FILES_UPDATE:
		return true;
	}
	return false;
}

/* Whether a request closes its descriptor, or replaces it. */
static __always_inline bool uring_closes(const struct uring_call *c)
{
	return c->closes || (c->slot && c->slot != URING_ALLOC);
}

/* Notes that the request of s closes something. Returns what of the answer depends on that: whether it is told. */
__noinline int uring_closer(struct uring_scratch *s)
{
	struct uring_slot *at;
	struct uring_call *c;
	__u64 number;
	bool told;

	if (!s)
		return 0; /* never */
	c = &s->call;
	number = uring_number(c->fd, c->slot);
	at = uring_slot(c->actor.pid, number);
	if (!at)
		return 0; /* never */
	told = uring_wanted(c->what);
	if (c->closes && told) {
		told = uring_close(s);
		if (at->going || (c->later && at->hidden))
			c->error = FILE_UNPROVEN; /* what it is to close may be another file by then */
	}
	uring_closing(c->actor.pid, number, c->chain, c->skip);
	c->when = at->last;
	return told;
}

static __noinline int uring_submitted(struct io_kiocb *req)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct uring_scratch *s;
	struct uring_call *c;
	__u32 flags;
	__u64 head;
	__u8 op;

	s = uring_scratch();
	if (!s)
		return 0; /* never */
	req = uring_request(s, req);
	op = READ(req, opcode);
	if (!uring_known(op) || !task_in_scope(p))
		return 0;
	if (uring_table(req, op)) {
		uring_closing(p->tgid, URING_TABLE, 0, true);
		return 0;
	}
	c = &s->call;
	__builtin_memset(c, 0, offsetof(struct uring_call, text));
	c->what = uring_what(req, op);
	if (!c->what)
		return 0;
	uring_read(s, true);
	actor_fill(&c->actor, p);
	flags = READ(req, flags);
	head = (__u64)READ(READ(req, ctx), submit_state.link.head);
	c->chain = head;
	if (!head && flags & URING_LINKS)
		c->chain = (__u64)req;
	c->later = head || flags & (URING_ASYNC | URING_DRAIN);
	c->skip = !!(flags & URING_SKIP);
	c->name = uring_name(req);
	c->error = FILE_UNPROVEN;
	c->when = bpf_ktime_get_boot_ns();
	if (uring_closes(c)) {
		c->told = !uring_closer(s);
	} else if (!uring_wanted(c->what)) {
		return 0;
	}
	uring_keep(s, (__u64)req);
	if (c->skip && !c->told)
		uring_tell(s, -EINPROGRESS);
	return 0;
}

/* ---- requests that have ended ---- */

__noinline int uring_tell_open(struct uring_scratch *s, __s32 res, __u32 judge)
{
	struct file_scratch *f = file_scratch();
	__u32 marks, error = res == -EINPROGRESS ? FILE_UNPROVEN : FILE_FAILED, raw, slot;
	struct file_object object = {};
	struct file *file = NULL;
	struct task_struct *task;
	struct open_record *r;
	struct interest m = {};
	struct io_kiocb *req;
	struct uring_call *c;
	struct walk *w;
	__u64 at, len;
	__u8 pad;

	if (!f || !s || !s->call.actor.pid)
		return 0; /* never */
	c = &s->call;
	req = uring_of(s);
	task = uring_task(req);
	raw = c->raw_len;
	slot = c->slot;
	w = &f->walk;
	w->off = WALK_END;
	marks = open_intent(c->flags);
	if (res >= 0) {
		if (slot == URING_ALLOC)
			slot = res + 1;
		file = uring_file(READ(req, ctx), task, res, slot);
		error = FILE_CLOSED;
		if (file && !uring_proven(c, uring_number(res, slot), uring_closes(c))) {
			file = NULL;
			error = FILE_UNPROVEN;
		}
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
	if (judge && !judge_begin(&m, c->what, open_purposes(marks, c->mode), res < 0))
		return 0;
	bpf_probe_read_kernel(&w->bytes[WALK_END], masked(raw, 0xfff), s->text);
	if (judge && interest_needs_raw(&m) && !interest_raw(&m, &w->bytes[WALK_END], raw))
		return 0;
	if (file) {
		struct dentry *dentry = READ(file, f_path.dentry);
		struct inode *inode = READ(file, f_inode);
		__u32 end;

		if (judge && interest_needs_inode(&m) &&
		    !interest_inode(&m, READ(inode, i_ino), READ(READ(inode, i_sb), s_dev)))
			return 0;
		end = walk_resolve(w, READ(file, f_path.mnt), dentry, READ(task, fs), WALK_END);
		error = walk_error(end);
		if (error)
			interest_any_path(&m);
		else if (judge && interest_needs_path(&m))
			walk_judge(&m, w);
		marks |= object_fill(&object, inode, dentry);
		if (end == PATH_NAMELESS && walk_memfd(w))
			marks |= FILE_MEMFD;
	} else if (file_unnamed(error)) {
		interest_any_path(&m); /* it can be any */
	} else if (judge && interest_needs_inode(&m) && !interest_inode(&m, 0, 0)) {
		return 0;
	}
	if (judge && !interest_wanted(&m))
		return 0;
	if (READ(READ(task, files), count.counter) != 1)
		marks |= FILE_SHARED;
	r = head_of(w, sizeof(*r), &at, &pad);
	if (!r)
		return 0; /* never */
	r->actor = c->actor;
	r->file = object;
	r->flags = c->flags;
	r->res = res;
	r->dir = c->dir;
	r->mode = c->mode;
	r->example = 0;
	r->name_len = WALK_END - w->off;
	r->raw_len = raw;
	r->marks = marks | FILE_IO_URING;
	r->what = c->what;
	r->error = error;
	r->pad = pad;
	__builtin_memset(r->zero, 0, sizeof(r->zero));
	r->h.flags = 0;
	len = masked(WALK_END - at + raw, 0x3fff);
	record_output(&bulk, r, REC_OPEN, len);
	return 0;
}

__noinline int uring_tell_change(struct uring_scratch *s, __s32 res, __u32 judge)
{
	struct file_scratch *f = file_scratch();
	__u32 error, name, raw, target_raw;
	struct task_struct *task;
	struct change_record *r;
	struct interest m = {};
	struct io_kiocb *req;
	struct uring_call *c;
	struct walk *w;

	if (!f || !s || !s->call.actor.pid)
		return 0; /* never */
	c = &s->call;
	req = uring_of(s);
	task = uring_task(req);
	name = c->name_len;
	raw = c->raw_len;
	target_raw = c->target_raw_len;
	w = &f->walk;
	w->off = WALK_END;
	r = &f->change;
	__builtin_memset(r, 0, sizeof(*r));
	r->file = c->file;
	r->marks = c->marks;
	error = res < 0 && res != -EINPROGRESS ? FILE_FAILED : FILE_UNPROVEN;
	if (c->what == FILE_CLOSE) {
		error = c->error;
		if (!c->skip && !uring_proven(c, uring_number(c->fd, c->slot), true))
			error = FILE_UNPROVEN;
		if (error) {
			__builtin_memset(&r->file, 0, sizeof(r->file));
			r->marks = 0;
		} else if (name <= PATH_MAX) {
			w->off = WALK_END - name;
			bpf_probe_read_kernel(walk_at(w, w->off), masked(name, 0x1fff), s->text);
		}
	} else if (c->what == FILE_FTRUNCATE && res >= 0) {
		struct file *file = READ(req, file); /* which the request holds */

		if (file) {
			struct dentry *dentry = READ(file, f_path.dentry);

			r->marks |= object_fill(&r->file, READ(file, f_inode), dentry);
			error = walk_error(walk_resolve(w, READ(file, f_path.mnt), dentry, READ(task, fs), WALK_END));
		}
	}
	if (judge && !judge_begin(&m, c->what, 0, res < 0))
		return 0;
	if (c->what != FILE_CLOSE)
		bpf_probe_read_kernel(&w->bytes[WALK_END], masked(raw + target_raw, 0x1fff), s->text);
	r->what = c->what;
	r->raw_len = raw;
	r->target_raw_len = target_raw;
	if (judge && !change_wanted(&m, error))
		return 0;
	r->actor = c->actor;
	r->size = c->size;
	r->flags = c->flags;
	r->res = res;
	r->fd = c->slot ? -1 : c->fd;
	r->dir = c->dir;
	r->target_dir = c->target_dir;
	r->mode = c->mode;
	r->marks |= FILE_IO_URING;
	r->error = error;
	change_write(c->what == FILE_CLOSE ? REC_FILE_CLOSE : REC_FILE);
	return 0;
}

/* Tells of the request that is in s. Who is the current task may be nobody: a thread of the kernel that cleans up. */
static __noinline int uring_tell(struct uring_scratch *s, long res)
{
	bool judge = bpf_get_current_task_btf()->tgid == s->call.actor.pid;

	if (s->call.what == FILE_OPENAT || s->call.what == FILE_OPENAT2)
		return uring_tell_open(s, res, judge);
	return uring_tell_change(s, res, judge);
}

/* Takes what is known of a request out of the maps. Returns whether anything was. */
static __always_inline bool uring_take(struct uring_scratch *s, __u64 key)
{
	struct uring_call *c = &s->call, *kept = bpf_map_lookup_elem(&uring_calls, &key);
	struct uring_text *text;

	if (!kept)
		return false;
	__builtin_memcpy(c, kept, sizeof(*c));
	bpf_map_delete_elem(&uring_calls, &key);
	if (c->name_len + c->raw_len + c->target_raw_len <= URING_TEXT) {
		bpf_probe_read_kernel(s->text, URING_TEXT, c->text);
		return true;
	}
	text = bpf_map_lookup_elem(&uring_texts, &key);
	if (text) {
		bpf_probe_read_kernel(s->text, sizeof(*text), text);
		bpf_map_delete_elem(&uring_texts, &key);
	} else {
		c->name_len = c->raw_len = c->target_raw_len = 0;
		c->error = FILE_UNPROVEN;
	}
	return true;
}

/* A request has ended. */
static __noinline int uring_ended(struct io_kiocb *req)
{
	struct uring_scratch *s;
	struct task_struct *p;
	struct uring_call *c;
	__u8 op;

	if (!req)
		return 0;
	op = READ(req, opcode);
	if (!uring_known(op))
		return 0;
	s = uring_scratch();
	if (!s)
		return 0; /* never */
	req = uring_request(s, req);
	c = &s->call;
	if (!uring_take(s, (__u64)req)) {
		/* Nobody wanted it then, or there were too many, or the kernel refused it before it was submitted. */
		__builtin_memset(c, 0, offsetof(struct uring_call, text));
		c->what = uring_what(req, op);
		p = uring_task(req);
		if (!c->what || c->what == FILE_CLOSE || !task_in_scope(p))
			return 0;
		uring_read(s, false);
		c->error = FILE_UNPROVEN;
		c->actor.start = READ(READ(p, group_leader), start_boottime);
		c->actor.pid = READ(p, tgid);
		c->actor.tid = READ(p, pid);
	}
	if (!c->told)
		uring_tell(s, READ(req, cqe.res));
	if (uring_closes(c) && !c->skip)
		uring_closed(c->actor.pid, uring_number(c->fd, c->slot));
	return 0;
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(file_u_submit, struct io_kiocb *req)
{
	return uring_submitted(req);
}

/* Its name until 6.4. */
SEC("tp_btf/io_uring_submit_sqe")
int BPF_PROG(file_u_sqe, struct io_kiocb *req)
{
	return uring_submitted(req);
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(file_u_done, void *ctx_, struct io_kiocb *req)
{
	return uring_ended(req);
}

/* The end of a request is lost. */
static __always_inline void uring_lost(__u64 key)
{
	const struct uring_call *c = bpf_map_lookup_elem(&uring_calls, &key);

	if (c && !c->told)
		record_count_lost(record_of(c->what));
}

/* One whose end has no room in the ring of the process. */
SEC("tp_btf/io_uring_cqe_overflow")
int BPF_PROG(file_u_over, void *ring, __u64 data, __s32 res)
{
	struct uring_end end = { .name = { .ctx = (__u64)ring, .data = data }, .res = res };

	bpf_for_each_map_elem(&uring_calls, uring_end_match, &end, 0);
	if (end.found > 1)
		uring_lost(end.req); /* it cannot be told of which it is */
	return end.found == 1 ? uring_ended((struct io_kiocb *)end.req) : 0;
}

#endif /* FILE_URING_H */
