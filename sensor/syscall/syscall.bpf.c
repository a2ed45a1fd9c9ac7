//go:build ignore
/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * System calls that no other sensor tells of, each when it returns.
 *
 * Hooks: tracepoint syscalls/sys_exit_* of each call that somebody wants. When a
 *        call returns, the registers still hold its arguments; on the way to a
 *        deadly signal that it sent to itself, too. 32-bit programs' calls do not
 *        come here. tp_btf io_uring_*: requests that are such calls.
 * Out:   ring bulk: syscall_record; ring critical: those of calls that are
 *        marked so and have succeeded.
 * State: call_plans, by number: what to read of each call. Written once, by Go,
 *        from the table event.Calls. scratches: records in the making. uring_asks:
 *        requests that are on their way. What is wanted of whom: interest.h,
 *        interest_ends.h.
 */
#include "kernel.h"
#include "road.h"
#include "walk.h"
#include "task.h"

#include "interest_ends.h"
#include "count.h"

#include "record.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CALLS_MAX 512

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALLS_MAX);
	__type(key, __u32);
	__type(value, struct call_plan);
} call_plans SEC(".maps");

#define PIECE_MAX 4096 /* longest piece of memory */
#define DATA_MAX  (3 * PIECE_MAX)

struct scratch {
	struct syscall_record rec;
	char data[DATA_MAX + PIECE_MAX];
	__u64 off; /* how much of data is written */
	struct path_buf path;
};

/* Tracepoints of system calls run with preemption disabled. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct scratch));
} scratches SEC(".maps");

/* The agent: its number in its pid namespace, and that, by inode number. Set by Go. */
const volatile __u32 self_pid, self_pidns;

/* So that the types are in the object's BTF, where Go's come from. */
const union {
	struct syscall_record rec;
	struct call_plan plan;
	struct task_key key;
	enum read_flags flags;
	enum read_how how;
	enum uring_marks uring;
} *records __attribute__((unused));

struct user_iovec {
	__u64 base, len;
};

struct user_message {
	__u64 name;
	__u32 name_len, zero;
	struct user_iovec *vector;
	__u64 count;
};

static __always_inline void args_fill(__u64 *args, struct pt_regs *regs)
{
	if (bpf_core_field_exists(regs->orig_ax)) {
		args[0] = regs->di;
		args[1] = regs->si;
		args[2] = regs->dx;
		args[3] = regs->r10;
		args[4] = regs->r8;
		args[5] = regs->r9;
	} else {
		const struct pt_regs___arm64 *arm = (const void *)regs;

		args[0] = BPF_CORE_READ(arm, orig_x0);
		args[1] = BPF_CORE_READ(arm, regs[1]);
		args[2] = BPF_CORE_READ(arm, regs[2]);
		args[3] = BPF_CORE_READ(arm, regs[3]);
		args[4] = BPF_CORE_READ(arm, regs[4]);
		args[5] = BPF_CORE_READ(arm, regs[5]);
	}
}

static __always_inline __u64 arg_at(const struct syscall_record *r, __u8 at)
{
	return at < 6 ? r->args[at] : 0;
}

/* Whether a piece is to be read: event.When. */
static __always_inline bool read_wanted(const struct read_plan *p, const struct syscall_record *r)
{
	__u32 value;
	bool has;

	if (!p->how || (p->flags & READ_DONE && r->ret < 0))
		return false;
	if (!p->is)
		return true;
	value = arg_at(r, p->if_at);
	has = value < 64 && p->is >> (value & 63) & 1;
	return has != !!(p->flags & READ_NOT);
}

/* Copies a string of at most max bytes, its end included. Returns its length without it. */
static __always_inline long copy_text(char *to, __u64 from, __u64 max, bool *cut)
{
	char last = 0;
	long n;

	n = bpf_probe_read_user_str(to, max, (void *)from);
	if (n <= 0)
		return -1;
	if (n == (long)max) {
		bpf_probe_read_user(&last, 1, (void *)from + n - 1);
		*cut = last;
	}
	return n - 1;
}

/*
 * Reads one piece of memory behind the others. All that lives longer is in the
 * scratch: the verifier does not follow it from piece to piece.
 */
static __noinline int read_piece(struct scratch *s, const struct read_plan *p, __u32 i)
{
	struct syscall_record *r = &s->rec;
	struct user_message message = {};
	struct user_iovec vector = {};
	__u64 off = s->off, from, len = p->max;
	bool cut = false;
	long n;

	if (i >= READS_MAX || !read_wanted(p, r))
		return 0;
	if (off > DATA_MAX)
		return 0; /* never */
	if (len > PIECE_MAX)
		len = PIECE_MAX;
	from = arg_at(r, p->at);
	if (!from)
		return 0;

	switch (p->how) {
	case READ_TEXT:
		barrier_var(len);
		if (len > PIECE_MAX)
			return 0; /* never: 6.1 forgets that */
		n = copy_text(&s->data[off], from, len, &cut);
		if (n < 0)
			goto bad;
		len = n;
		goto done;
	case READ_BYTES:
		if (p->len_at != NO_REGISTER && arg_at(r, p->len_at) < len)
			len = arg_at(r, p->len_at);
		else if (p->len_at != NO_REGISTER)
			cut = arg_at(r, p->len_at) > len;
		break;
	case READ_VECTOR:
		if (!arg_at(r, p->len_at))
			return 0;
		if (bpf_probe_read_user(&vector, sizeof(vector), (void *)from))
			goto bad;
		break;
	case READ_MESSAGE:
	case READ_NAME:
		if (bpf_probe_read_user(&message, sizeof(message), (void *)from))
			goto bad;
		if (p->how == READ_NAME) {
			vector.base = message.name;
			vector.len = message.name_len;
		} else if (message.count && bpf_probe_read_user(&vector, sizeof(vector), message.vector)) {
			goto bad;
		}
		break;
	default:
		return 0;
	}
	if (p->how != READ_BYTES) {
		from = vector.base;
		if (!from)
			return 0;
		if (vector.len < len)
			len = vector.len;
		else
			cut = vector.len > len;
	}
	if (p->flags & READ_BY_RESULT && r->ret >= 0 && r->ret <= len) {
		len = r->ret;
		cut = false;
	}
	barrier_var(len);
	if (len > PIECE_MAX)
		return 0; /* never */
	if (len && bpf_probe_read_user(&s->data[off], len, (void *)from))
		goto bad;
done:
	if (len > PIECE_MAX)
		return 0; /* never */
	s->off = off + len;
	r->lens[i] = len;
	r->there |= 1 << i;
	if (cut)
		r->cut |= 1 << i;
	return 0;
bad:
	r->bad |= 1 << i;
	return 0;
}

static __always_inline struct file *file_of_fd(struct task_struct *p, __u32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(p, files, fdt);
	struct file **fds = BPF_CORE_READ(fdt, fd), *file = NULL;

	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), &fds[fd]);
	return file;
}

static __always_inline void object_socket(struct fd_object *o, struct file *file)
{
	struct socket *sock = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(sock, sk);

	if (!sk)
		return;
	o->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	o->type = BPF_CORE_READ(sk, sk_type);
	o->protocol = BPF_CORE_READ(sk, sk_protocol);
	if (o->family == AF_INET) {
		BPF_CORE_READ_INTO((__be32 *)o->local, sk, __sk_common.skc_rcv_saddr);
		BPF_CORE_READ_INTO((__be32 *)o->remote, sk, __sk_common.skc_daddr);
	} else if (o->family == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr *)o->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)o->remote, sk, __sk_common.skc_v6_daddr);
	} else {
		return;
	}
	o->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	o->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
}

/* What a call is about. */
static __noinline int object_fill(struct scratch *s, struct file *file)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct fd_object *o = &s->rec.object;
	struct fs_struct *fs = BPF_CORE_READ(p, fs);
	__u64 off, from, len;
	struct inode *inode;

	if (!file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	o->mode = BPF_CORE_READ(inode, i_mode);
	o->magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if ((o->mode & S_IFMT) == S_IFSOCK && o->magic == SOCKFS_MAGIC) {
		object_socket(o, file);
		return 0;
	}
	if (!fs)
		return 0;
	o->path_end = path_resolve(&s->path, __builtin_preserve_access_index(&file->f_path),
				   __builtin_preserve_access_index(&fs->root));
	from = s->path.off;
	len = PATH_MAX - from;
	off = s->off; /* once more: 6.1 forgets bounds over a loop */
	if (!path_resolved(o->path_end) || !len || len > PATH_MAX || off > DATA_MAX)
		return 0;
	bpf_probe_read_kernel(&s->data[off], len, &s->path.bytes[from & (PATH_MAX - 1)]);
	s->off = off + len;
	o->path_len = len;
	return 0;
}

static __always_inline bool task_is_self(struct task_struct *p)
{
	struct task_struct *leader = BPF_CORE_READ(p, group_leader);
	struct pid_namespace *ns;
	__u32 level, nr;

	task_upid(leader, &level, &ns, &nr);
	return nr == self_pid && BPF_CORE_READ(ns, ns.inum) == self_pidns;
}

/*
 * The file of the descriptor that a call of the current task is about, as it is now:
 * another thread may have closed it meanwhile, or put another file there.
 */
static __always_inline struct file *call_file(const struct syscall_record *r, const struct call_plan *plan)
{
	__s64 fd = plan->fd_at == AT_RESULT ? r->ret : (__s64)(__s32)arg_at(r, plan->fd_at);

	return fd >= 0 ? file_of_fd(bpf_get_current_task_btf(), fd) : NULL;
}

/*
 * Tells of the call that is in s, with who made it, its arguments, its result and the
 * file that it is about: as far as m is asked, if the current task is of who made it,
 * whose memory is read then.
 */
static __always_inline int call_tell(struct scratch *s, const struct call_plan *plan, struct interest *m,
				     struct file *file, bool own)
{
	struct syscall_record *r = &s->rec;
	__u64 len, example = 0;
	struct count *c;
	__u32 i;
	int err;

	s->off = 0;
	r->hdr.flags = 0;
	if (own && interest_counts(m)) {
		c = count_room();
		if (!c)
			return 0; /* never */
		count_begin(c, plan->call - 1, r->ret, 0);
		if (count_again())
			return 0;
		example = c->example;
	}
	r->example = example;
	__builtin_memset(&r->object, 0, sizeof(r->object));
	r->call = plan->call;
	__builtin_memset(r->lens, 0, sizeof(r->lens));
	r->there = r->bad = r->cut = 0;
	r->zeros = 0;

	for (i = 0; i < READS_MAX; i++) {
		if (!plan->reads[i].how)
			break;
		if (own)
			read_piece(s, &plan->reads[i], i);
		else
			r->bad |= 1 << i;
	}
	if (plan->object)
		object_fill(s, file);
	if (own && interest_needs_ends(m) &&
	    !interest_ends(m, r->object.family, r->object.local, r->object.remote, r->object.local_port,
			   r->object.remote_port))
		return 0;
	len = s->off + sizeof(*r);
	barrier_var(len);
	if (len > sizeof(*r) + sizeof(s->data))
		return 0; /* never */
	if (plan->critical && r->ret >= 0)
		err = record_output(&critical, s, REC_CALL_UP, len);
	else
		err = record_output(&bulk, s, REC_CALL, len);
	if (example)
		count_told(err);
	return 0;
}

SEC("tracepoint")
int syscall_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	__u32 nr = (__u32)ctx->id, zero = 0;
	struct syscall_record *r;
	struct call_plan *plan;
	struct interest m;
	struct scratch *s;

	if (!task_in_scope(p))
		return 0;
	plan = bpf_map_lookup_elem(&call_plans, &nr);
	if (!plan || !plan->call || !interest_begin(&m, plan->call - 1, 0, (__s64)ctx->ret < 0))
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s)
		return 0; /* never */
	r = &s->rec;
	task_key_fill(&r->key, p);
	r->ret = ctx->ret;
	r->uring = 0;
	args_fill(r->args, (struct pt_regs *)bpf_task_pt_regs(p));
	if (plan->own && r->args[0] < 64 && plan->own >> (r->args[0] & 63) & 1 && task_is_self(p))
		return 0;
	return call_tell(s, plan, &m, plan->object ? call_file(r, plan) : NULL, true);
}

#include "uring.h"
