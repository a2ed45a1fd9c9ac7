/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Names that are made, moved and removed, files whose mode, owner or size is
 * changed, mounts: told at the exits of the system calls.
 *
 * Which objects a call was about is known then from one of:
 *
 *   the hooks that security modules have there, by fentry: the kernel's own
 *   objects, in the middle of the call. change_seen.h
 *
 *   the descriptor that the call was given, if it was given one.
 *
 *   what was asked for, if it proves enough: a single name that is not followed,
 *   read before and after the call and the same, in memory that nobody else can
 *   write to, in the same directory, which is known by its object. That is how
 *   files are removed recursively, and what remains where a locked down kernel
 *   has no fentry.
 *
 * Otherwise what was asked for is told, and that it proves nothing.
 */
#ifndef FILE_CHANGE_H
#define FILE_CHANGE_H

#include "calls.h"
#include "record.h"

/* Which arguments of a call are what; -1: it has none. The group follows the user. */
struct change_shape {
	__s8 path, dir, target, target_dir, flags, mode, owner, size, fd;
	__u8 last; /* names that are not followed: 1 the path, 2 the target */
};

/* clang-format off */
static const struct change_shape shapes[FILE_WHATS] = {
	/*                     path dir tgt tdir flags mode owner size fd last */
	[FILE_UNLINK]	  = {  0, -1, -1, -1, -1, -1, -1, -1, -1, 1 },
	[FILE_UNLINKAT]	  = {  1,  0, -1, -1,  2, -1, -1, -1, -1, 1 },
	[FILE_RMDIR]	  = {  0, -1, -1, -1, -1, -1, -1, -1, -1, 1 },
	[FILE_RENAME]	  = {  0, -1,  1, -1, -1, -1, -1, -1, -1, 3 },
	[FILE_RENAMEAT]	  = {  1,  0,  3,  2, -1, -1, -1, -1, -1, 3 },
	[FILE_RENAMEAT2]  = {  1,  0,  3,  2,  4, -1, -1, -1, -1, 3 },
	[FILE_LINK]	  = {  0, -1,  1, -1, -1, -1, -1, -1, -1, 3 },
	[FILE_LINKAT]	  = {  1,  0,  3,  2,  4, -1, -1, -1, -1, 2 },
	[FILE_SYMLINK]	  = {  0, -1,  1, -1, -1, -1, -1, -1, -1, 2 },
	[FILE_SYMLINKAT]  = {  0, -1,  2,  1, -1, -1, -1, -1, -1, 2 },
	[FILE_MKDIR]	  = {  0, -1, -1, -1, -1,  1, -1, -1, -1, 1 },
	[FILE_MKDIRAT]	  = {  1,  0, -1, -1, -1,  2, -1, -1, -1, 1 },
	[FILE_CHMOD]	  = {  0, -1, -1, -1, -1,  1, -1, -1, -1, 0 },
	[FILE_FCHMOD]	  = { -1, -1, -1, -1, -1,  1, -1, -1,  0, 0 },
	[FILE_FCHMODAT]	  = {  1,  0, -1, -1, -1,  2, -1, -1, -1, 0 },
	[FILE_FCHMODAT2]  = {  1,  0, -1, -1,  3,  2, -1, -1, -1, 0 },
	[FILE_CHOWN]	  = {  0, -1, -1, -1, -1, -1,  1, -1, -1, 0 },
	[FILE_LCHOWN]	  = {  0, -1, -1, -1, -1, -1,  1, -1, -1, 1 },
	[FILE_FCHOWN]	  = { -1, -1, -1, -1, -1, -1,  1, -1,  0, 0 },
	[FILE_FCHOWNAT]	  = {  1,  0, -1, -1,  4, -1,  2, -1, -1, 0 },
	[FILE_TRUNCATE]	  = {  0, -1, -1, -1, -1, -1, -1,  1, -1, 0 },
	[FILE_FTRUNCATE]  = { -1, -1, -1, -1, -1, -1, -1,  1,  0, 0 },
	[FILE_MOUNT]	  = {  0, -1,  1, -1,  3, -1, -1, -1, -1, 0 },
	[FILE_UMOUNT]	  = { -1, -1,  0, -1,  1, -1, -1, -1, -1, 0 },
	[FILE_MOVE_MOUNT] = {  1,  0,  3,  2,  4, -1, -1, -1, -1, 0 },
	[FILE_CLOSE]	  = { -1, -1, -1, -1, -1, -1, -1, -1,  0, 0 },
	[FILE_CLOSE_DUP2] = { -1, -1, -1, -1, -1, -1, -1, -1,  1, 0 },
	[FILE_CLOSE_DUP3] = { -1, -1, -1, -1, -1, -1, -1, -1,  1, 0 },
};
/* clang-format on */

/* The most text of a record: two paths, and of what was asked for what there is room for. */
#define CHANGE_TEXT (0x3fff - sizeof(struct change_record) - 8)

/* A single name as it was asked for when the call began, and where. */
struct change_asked {
	struct dentry *dentry;
	struct vfsmount *mnt;
	__u32 len; /* 0: it proves nothing */
	__u32 zero;
	__u64 mine, now, left, differ; /* while they are compared: where, how many bytes yet, whether */
	char name[NAME_MAX + 1];
};

#define CALL_TEXT 640  /* bytes of paths for which a slot has room */
#define LONG_TEXT 8192 /* longer ones lie elsewhere */

/* What is known of the call that a thread is in. */
struct change_call {
	__u32 epoch; /* of the call's hooks: what was left behind by others is not taken for true */
	__u32 seen;  /* 1 + enum path_end: objects have been seen; texts has their names */
	__u32 name_len, target_len;
	__u32 marks;
	__u32 zero;
	__u64 size;
	struct file_object file;
	union {
		struct {
			struct change_asked asked, target;
		};
		char texts[CALL_TEXT];
	};
};

/* Its bytes: the type of such a map's values must be told, and Go has none for pointers. */
struct change_slot {
	__u64 words[sizeof(struct change_call) / sizeof(__u64)];
};

/* Sizes are set by Go. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOT_WAYS);
	__type(key, __u32);
	__type(value, struct change_slot);
} calls SEC(".maps");

struct call_text {
	char bytes[LONG_TEXT];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOT_WAYS);
	__type(key, __u32);
	__type(value, struct call_text);
} call_texts SEC(".maps");

/* By enum file_what: counts up whenever hooks of such calls are attached. */
#define CHANGE_EPOCHS 64
volatile __u32 change_epochs[CHANGE_EPOCHS];

/*
 * By enum file_what: whether the objects of all such calls are seen. Then a call that
 * was not kept is one that nobody wanted, or for which there was no room, which was
 * counted.
 */
volatile __u8 change_sees[CHANGE_EPOCHS];

static __always_inline bool change_seen(__u32 what)
{
	barrier_var(what);
	return change_sees[what & (CHANGE_EPOCHS - 1)];
}

static __always_inline __u32 change_epoch(__u32 what)
{
	barrier_var(what);
	return change_epochs[what & (CHANGE_EPOCHS - 1)];
}

/* Takes a slot for the call that the current task is in. NULL: there is no room. */
static __always_inline struct change_call *change_begin(__s32 *slot, __u32 what)
{
	struct change_call *c;

	*slot = slot_take(SLOT_CALLS, what);
	if (*slot < 0)
		return NULL;
	c = bpf_map_lookup_elem(&calls, slot);
	if (!c)
		return NULL; /* never */
	c->epoch = change_epoch(what);
	c->seen = 0;
	c->name_len = c->target_len = 0;
	c->marks = 0;
	c->size = 0;
	__builtin_memset(&c->file, 0, sizeof(c->file));
	return c;
}

/* Keeps the texts around the end of w, a name and a target. Returns 0 if there is no room. Global, as walk_run is. */
__noinline int change_keep_texts(struct change_call *c, struct walk *w, __u32 target, __u32 what)
{
	struct call_text *text;
	__u64 off, len;
	__s32 slot;

	if (!c || !w)
		return 0; /* never */
	off = w->off;
	len = WALK_END - off + target;
	barrier_var(len);
	if (len > LONG_TEXT - 1)
		return false; /* never: two paths with 4,095 bytes each */
	c->name_len = WALK_END - off;
	c->target_len = target;
	if (len <= CALL_TEXT) {
		bpf_probe_read_kernel(c->texts, len, walk_at(w, off));
		return true;
	}
	slot = slot_take(SLOT_TEXTS, what);
	if (slot < 0)
		return false;
	text = bpf_map_lookup_elem(&call_texts, &slot);
	if (text)
		bpf_probe_read_kernel(text->bytes, masked(len, LONG_TEXT - 1), walk_at(w, off));
	slot_leave(SLOT_TEXTS, slot, true);
	return true;
}

/* Puts them back. Returns false if they are gone. */
static __always_inline bool change_take_texts(struct change_call *c, struct walk *w, __u32 what)
{
	__u64 name = c->name_len, len = name + c->target_len;
	struct call_text *text;
	__s32 slot;

	barrier_var(len);
	if (len > LONG_TEXT - 1 || name > PATH_MAX)
		return false; /* never */
	w->off = WALK_END - name;
	if (len <= CALL_TEXT) {
		bpf_probe_read_kernel(walk_at(w, WALK_END - name), len, c->texts);
		return true;
	}
	slot = slot_find(SLOT_TEXTS, what);
	if (slot < 0) {
		w->off = WALK_END;
		return false;
	}
	text = bpf_map_lookup_elem(&call_texts, &slot);
	if (text)
		bpf_probe_read_kernel(walk_at(w, WALK_END - name), masked(len, LONG_TEXT - 1), text->bytes);
	slot_leave(SLOT_TEXTS, slot, false);
	return true;
}

enum {
	CHANGE_WANTED = 1,
	CHANGE_BOTH = 2,
};

/*
 * Begins an event of a call that has not returned, as interest_begin does:
 * whether anybody may want it, however it ends. CHANGE_BOTH says that who wants it
 * if it fails is who wants it anyway: only then what is asked next holds for
 * either. Global, as walk_run is.
 */
__noinline int change_may_be_wanted(struct interest *m, __u32 what)
{
	struct interest failed = {};
	bool done, not;

	if (!m)
		return 0; /* never */
	done = judge_begin(m, what, 0, false);
	not = judge_begin(&failed, what, 0, true);
	if (!done && !not)
		return 0;
	if (failed.slot == m->slot && !interest_more(&failed.may, &failed.may, &m->may))
		return CHANGE_WANTED | CHANGE_BOTH;
	return CHANGE_WANTED;
}

static __always_inline __u64 shape_arg(const struct file_scratch *s, __s8 at)
{
	__u32 i = at;

	barrier_var(i);
	return at < 0 ? 0 : s->args[i & 7];
}

/*
 * Reads what the call is given that the current task is in, into the scratch:
 * there the verifier does not follow it. Global likewise.
 */
__noinline int change_args(__u32 what)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	const struct change_shape *shape;
	struct change_record *r;

	barrier_var(what);
	if (what >= FILE_WHATS || !s)
		return 0; /* never */
	shape = &shapes[what];
	s->args[0] = call_arg(p, 0);
	s->args[1] = call_arg(p, 1);
	s->args[2] = call_arg(p, 2);
	s->args[3] = call_arg(p, 3);
	s->args[4] = call_arg(p, 4);
	s->path = shape_arg(s, shape->path);
	s->target = shape_arg(s, shape->target);
	r = &s->change;
	__builtin_memset(r, 0, sizeof(*r));
	r->what = what;
	r->flags = shape_arg(s, shape->flags);
	r->size = shape_arg(s, shape->size);
	r->mode = shape_arg(s, shape->mode);
	r->uid = shape_arg(s, shape->owner);
	r->gid = shape->owner < 0 ? 0 : shape_arg(s, shape->owner + 1);
	r->fd = shape->fd < 0 ? -1 : (__s32)shape_arg(s, shape->fd);
	r->dir = shape->dir < 0 ? AT_FDCWD : (__s32)shape_arg(s, shape->dir);
	r->target_dir = shape->target_dir < 0 ? AT_FDCWD : (__s32)shape_arg(s, shape->target_dir);
	if (what == FILE_MOUNT)
		bpf_probe_read_user_str(r->fstype, sizeof(r->fstype), (void *)s->args[2]);
	return 0;
}

/* ---- before the call: what is asked for, where that proves something ---- */

/* The directory that a relative path begins at: a descriptor's, or the working directory. */
static __always_inline bool change_base(struct task_struct *p, __s32 dir, struct dentry **dentry, struct vfsmount **mnt)
{
	struct fs_struct *fs = p->fs;
	struct file *file;

	if (dir == AT_FDCWD) {
		if (READ(fs, users) != 1)
			return false;
		*dentry = READ(fs, pwd.dentry);
		*mnt = READ(fs, pwd.mnt);
		return true;
	}
	if (READ(p->files, count.counter) != 1)
		return false;
	file = file_of(p, dir);
	if (!file)
		return false;
	*dentry = READ(file, f_path.dentry);
	*mnt = READ(file, f_path.mnt);
	return true;
}

struct name_scan {
	const char *name;
	__u32 slash;
};

static long name_step(__u32 i, struct name_scan *s)
{
	char c = 0;

	bpf_probe_read_kernel(&c, sizeof(c), s->name + i);
	s->slash |= c == '/';
	return c == '/' || !c;
}

struct memory_look {
	__u64 end; /* of what is to be the process's alone */
	bool own;
};

static long memory_own(struct task_struct *p, struct vm_area_struct *vma, struct memory_look *look)
{
	struct file *file = READ(vma, vm_file);

	if (READ(vma, vm_flags) & VM_SHARED || look->end > READ(vma, vm_end))
		return 0;
	/* Of a private mapping, what was not written yet is still the file's. */
	look->own = !file || READ(READ(file, f_inode), i_writecount.counter) < 0;
	return 0;
}

/* Whether no other process can write to the memory of p, the current task, at user. */
static __always_inline bool memory_is_own(struct task_struct *p, const void *user, __u64 len)
{
	struct memory_look look = { .end = (__u64)user + len };

	bpf_find_vma(p, (__u64)user, memory_own, &look, 0);
	return look.own;
}

/* Keeps a single name that is not followed; any other proves nothing. Global, as walk_run is. */
__noinline int change_ask(struct change_asked *a, __s32 dir, __u64 user)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct name_scan scan = {};
	long n;

	if (!a)
		return 0; /* never */
	n = bpf_probe_read_user_str(a->name, sizeof(a->name), (void *)user);
	/* As long as there is room for: it may be longer. */
	if (n <= 1 || n >= (long)sizeof(a->name))
		return 0;
	if (a->name[0] == '.' && (n == 2 || (n == 3 && a->name[1] == '.')))
		return 0;
	scan.name = a->name;
	bpf_loop(NAME_MAX, name_step, &scan, 0);
	if (scan.slash || !memory_is_own(p, (void *)user, n) || !change_base(p, dir, &a->dentry, &a->mnt))
		return 0;
	a->len = n - 1;
	return 0;
}

static __noinline int change_enter(__u32 what)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	struct change_call *c;
	struct interest m = {};
	__s32 slot;
	__u8 last;

	barrier_var(what);
	if (what >= FILE_WHATS || !s)
		return 0; /* never */
	last = shapes[what].last;
	/* Of calls that fail, and of threads that share their memory, names are not proven. */
	if (!last || !task_in_scope(p) || READ(p->mm, mm_users.counter) != 1 || !judge_begin(&m, what, 0, false))
		return 0;
	c = change_begin(&slot, what);
	if (!c)
		return 0; /* it is told without its name */
	change_args(what);
	c->asked.len = c->target.len = 0;
	if (last & 1)
		change_ask(&c->asked, s->change.dir, s->path);
	if (last & 2)
		change_ask(&c->target, s->change.target_dir, s->target);
	slot_leave(SLOT_CALLS, slot, c->asked.len || c->target.len);
	return 0;
}

/* ---- after it ---- */

struct same_scan {
	struct change_asked *a;
};

/* What is compared lies in the map, as path.h says. */
static long same_step(__u32 i, struct same_scan *s)
{
	struct change_asked *a = s->a;
	__u64 x = read_word((void *)a->mine) ^ read_word((void *)a->now), left = a->left;

	a->mine += 8;
	a->now += 8;
	if (left < 8) {
		a->differ |= x << ((8 - left) * 8 & 63); /* what is behind the name is old */
		return 1;
	}
	a->differ |= x;
	a->left = left - 8;
	return left == 8;
}

/* Whether the name at user is still a's. */
static __always_inline bool change_same(struct change_asked *a, struct walk *w, const void *user)
{
	/* Behind where the name of the target may be. */
	char *now = &w->bytes[WALK_END + PATH_MAX];
	long n = bpf_probe_read_user_str(now, NAME_MAX + 1, user);
	struct same_scan scan = { .a = a };

	if (n <= 0 || n != a->len + 1)
		return false;
	a->mine = (__u64)a->name;
	a->now = (__u64)now;
	a->left = n;
	a->differ = 0;
	bpf_loop((NAME_MAX + 1) / 8, same_step, &scan, 0);
	return !a->differ;
}

/*
 * Writes the path of what was asked for into w, if it is proven. Returns enum
 * file_error. Global, as walk_run is.
 */
__noinline int change_prove(struct change_asked *a, struct walk *w, __s32 dir, __u64 user)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct vfsmount *mnt;
	struct dentry *dentry;
	__u64 at = WALK_END;
	__u32 len, end;

	if (!a || !w)
		return FILE_UNPROVEN; /* never */
	w->off = WALK_END;
	len = a->len;
	if (!len || len > NAME_MAX || !change_same(a, w, (void *)user) || !change_base(p, dir, &dentry, &mnt))
		return FILE_UNPROVEN;
	if (dentry != a->dentry || mnt != a->mnt)
		return FILE_UNPROVEN;
	at -= len;
	bpf_probe_read_kernel(walk_at(w, at), masked(len, NAME_MAX), a->name);
	*walk_at(w, at - 1) = '/';
	end = walk_resolve(w, mnt, dentry, p->fs, at - 1);
	if (end == PATH_NAMELESS)
		return FILE_UNPROVEN;
	return walk_error(end);
}

/* Moves the text in w behind its end. Returns its length. */
static __always_inline __u32 text_behind(struct walk *w)
{
	__u64 off = w->off, len = masked(WALK_END - off, 0x1fff);

	if (len > PATH_MAX)
		return 0; /* never: a text longer than that is none */
	bpf_probe_read_kernel(&w->bytes[WALK_END], masked(len, 0x1fff), walk_at(w, off));
	w->off = WALK_END;
	return len;
}

/*
 * Whether somebody wants the change in the scratch, by inode or by any of its names.
 * error is enum file_error: where it says that the file is not known, it can be
 * anybody's. Global, as walk_run is.
 */
__noinline int change_wanted(struct interest *m, __u32 error)
{
	struct file_scratch *s = file_scratch();
	bool unnamed = file_unnamed(error);
	struct change_record *r;
	struct walk *w;

	if (!m || !s)
		return 0; /* never */
	w = &s->walk;
	r = &s->change;
	if (interest_needs_inode(m) && (r->file.ino || !unnamed) && !interest_inode(m, r->file.ino, r->file.dev))
		return 0;
	if (unnamed) {
		interest_any_path(m);
	} else if (interest_needs_path(m)) {
		if (w->off != WALK_END)
			walk_judge(m, w);
		if (r->target_len)
			text_judge(m, w, WALK_END, r->target_len);
		/* What these calls are given beside a path is a name of the event too. */
		if (r->raw_len && (r->what == FILE_SYMLINK || r->what == FILE_SYMLINKAT || r->what >= FILE_MOUNT))
			text_judge(m, w, WALK_END + r->target_len, r->raw_len);
	}
	return interest_wanted(m);
}

/* What was seen of the call, into the scratch. Global likewise. */
__noinline int change_recall(struct change_call *c, __u32 what)
{
	struct file_scratch *s = file_scratch();
	struct change_record *r;

	if (!c || !s)
		return 0; /* never */
	r = &s->change;
	r->error = walk_error(c->seen - 1);
	r->file = c->file;
	r->marks = c->marks;
	if (change_take_texts(c, &s->walk, what))
		r->target_len = c->target_len;
	else
		r->error = FILE_UNPROVEN; /* never */
	return 0;
}

/* The file of the descriptor that the call was given, into the scratch. Global likewise. */
__noinline int change_by_fd(void)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	struct change_record *r;
	struct dentry *dentry;
	struct file *file;

	if (!s)
		return 0; /* never */
	r = &s->change;
	file = file_of(p, r->fd);
	if (!file) {
		if (r->res >= 0)
			r->error = FILE_CLOSED;
		return 0;
	}
	dentry = READ(file, f_path.dentry);
	r->marks = object_fill(&r->file, READ(file, f_inode), dentry);
	r->error = walk_error(walk_resolve(&s->walk, READ(file, f_path.mnt), dentry, p->fs, WALK_END));
	return 0;
}

/* The names that were asked for, as far as they are proven, into the scratch. Global likewise. */
__noinline int change_by_name(struct change_call *c, __u32 what)
{
	struct file_scratch *s = file_scratch();
	const struct change_shape *shape;
	struct change_record *r;
	__u32 error = FILE_KNOWN;
	struct walk *w;

	barrier_var(what);
	if (!c || !s || what >= FILE_WHATS)
		return 0; /* never */
	shape = &shapes[what];
	w = &s->walk;
	r = &s->change;
	if (shape->last & 2) {
		error = change_prove(&c->target, w, r->target_dir, s->target);
		r->target_len = text_behind(w);
	}
	if (shape->last & 1) {
		__u32 e = change_prove(&c->asked, w, r->dir, s->path);

		if (e)
			error = e;
	} else if (shape->path >= 0 && what != FILE_SYMLINK && what != FILE_SYMLINKAT) {
		error = FILE_UNPROVEN;
	}
	r->error = error;
	return 0;
}

/* What was asked for, behind the target. Global likewise. */
__noinline int change_raw(void)
{
	struct file_scratch *s = file_scratch();
	struct change_record *r;
	__u64 target;

	if (!s)
		return 0; /* never */
	r = &s->change;
	target = r->target_len;
	if (s->path)
		r->raw_len = raw_copy(&s->walk, target, (void *)s->path);
	if (s->target)
		r->target_raw_len = raw_copy(&s->walk, target + r->raw_len, (void *)s->target);
	return 0;
}

/* Writes the record in the scratch, and its texts. Global likewise. */
__noinline int change_write(enum record_type type)
{
	struct file_scratch *s = file_scratch();
	struct change_record *r, *from;
	struct walk *w;
	__u64 at, len;
	__u8 pad;

	if (!s)
		return 0; /* never */
	w = &s->walk;
	from = &s->change;
	if (WALK_END - w->off + from->target_len + from->raw_len + from->target_raw_len > CHANGE_TEXT)
		from->raw_len = from->target_raw_len = 0;
	from->name_len = WALK_END - w->off;
	r = head_of(w, sizeof(*r), &at, &pad);
	if (!r)
		return 0; /* never */
	*r = *from;
	r->pad = pad;
	len = masked(WALK_END - at + from->target_len + from->raw_len + from->target_raw_len, 0x3fff);
	record_output(&bulk, r, type, len);
	return 0;
}

/* c is what is known of the call; NULL: nothing. */
static __noinline int change_tell(__u32 what, long res, struct change_call *c)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct file_scratch *s = file_scratch();
	struct change_record *r;
	struct interest m = {};
	__u32 error;
	bool by_fd;

	barrier_var(what);
	if (what >= FILE_WHATS || !s)
		return 0; /* never */
	by_fd = shapes[what].fd >= 0;
	if (!judge_begin(&m, what, 0, res < 0))
		return 0;
	s->walk.off = WALK_END;
	change_args(what);
	r = &s->change;
	r->res = res;
	r->error = res < 0 ? FILE_FAILED : FILE_UNPROVEN;
	if (c && c->seen)
		change_recall(c, what);
	else if (by_fd)
		change_by_fd();
	else if (c && res >= 0)
		change_by_name(c, what);
	change_raw();
	error = !c && !by_fd && change_seen(what) ? FILE_KNOWN : r->error;
	if (!change_wanted(&m, error))
		return 0;
	r->marks |= asker_marks(p);
	actor_fill(&r->actor, p);
	if (what >= FILE_CLOSE)
		r->size = c ? c->size : 0;
	change_write(record_of(what));
	return 0;
}

/* The call that p is in returns. */
static __noinline int change_exit(__u32 what, long res)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct change_call *c = NULL;
	__s32 slot;

	if (!task_in_scope(p))
		return 0;
	slot = slot_find(SLOT_CALLS, what);
	if (slot >= 0)
		c = bpf_map_lookup_elem(&calls, &slot);
	if (c && c->epoch != change_epoch(what))
		c = NULL;
	/* A close of what was not open for writing is none; what fails puts nothing in a descriptor's place. */
	if (what < FILE_CLOSE || (c && (what == FILE_CLOSE || res >= 0)))
		change_tell(what, res, c);
	if (slot >= 0)
		slot_leave(SLOT_CALLS, slot, false);
	return 0;
}

/* Of all calls that change something, of close(2), and of what puts something in a descriptor's place. */
SEC("tracepoint")
int file_change_x(struct trace_event_raw_sys_exit *ctx)
{
	__u32 what = call_what(ctx->id);

	return what ? change_exit(what, ctx->ret) : 0;
}

SEC("tracepoint")
int file_change_e(struct trace_event_raw_sys_enter *ctx)
{
	__u32 what = call_what(ctx->id);

	return what ? change_enter(what) : 0;
}

#endif /* FILE_CHANGE_H */
