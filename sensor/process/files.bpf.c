//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Tells what one process has open, when somebody asks: numbers, flags, and the
 * paths from the kernel's own objects, as the process's root directory has them.
 *
 * Hooks: iter/task_file.
 * Out:   struct file_record, into the iterator's own output.
 * State: none; wanted and record belong to one reading at a time.
 */
#include "kernel.h"
#include "path.h"
#include "scope.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_UNIX 1

/* Set by Go before each reading. */
__u32 wanted_pid;   /* the thread group */
__u64 wanted_start; /* start_boottime of its first thread: the number may be another's by now */
__u32 paths_max;    /* how many files get a path; of those behind, only the number is told */
__u32 files_told;

/* The path, name_len bytes, follows. len is that of both. */
struct file_record {
	__u32 len;
	__u32 fd;
	__u32 tid;   /* the thread whose table it is: others share it, or have their own */
	__u32 flags; /* as open(2) has them */
	__u64 ino;
	__u64 pos;
	__u64 magic; /* of its file system */
	__u32 dev;   /* as the kernel encodes it */
	__u32 pad;
	__u16 mode;   /* type and permissions */
	__u8 end;     /* enum path_end; 0: not looked at */
	__u8 deleted; /* it has no name any more */
	__u16 name_len;
	/* Of a socket: */
	__u16 family; /* 0: it is none */
	__u16 type;
	__u16 protocol;
	__u16 lport, rport;
	__u8 state;
	__u8 zero[7];
	__u8 laddr[16], raddr[16];
};

struct file_scratch {
	struct file_record rec;
	char name[PATH_MAX];
	struct path_buf path;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct file_scratch));
} scratch SEC(".maps");

/* So that the type is in the object's BTF, where Go's comes from. */
const union {
	struct file_record file;
	enum path_end end;
} *file_types __attribute__((unused));

/* The name that a Unix socket, or its other end, is bound to. */
static __always_inline __u32 unix_name(struct file_scratch *s, struct unix_sock *u)
{
	struct unix_address *a;
	__u32 len;

	if (!bpf_core_type_exists(struct unix_sock))
		return 0;
	a = BPF_CORE_READ(u, addr);
	if (!a)
		return 0;
	len = BPF_CORE_READ(a, len) - 2;
	if (len > sizeof(a->name[0].sun_path))
		return 0;
	if (bpf_probe_read_kernel(s->name, len, (void *)__builtin_preserve_access_index(&a->name) + 2))
		return 0;
	return len;
}

static __always_inline void file_socket(struct file_scratch *s, struct socket *sock)
{
	struct file_record *r = &s->rec;
	struct sock *sk = BPF_CORE_READ(sock, sk);

	if (!sk)
		return;
	r->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	r->type = BPF_CORE_READ(sk, sk_type);
	r->protocol = BPF_CORE_READ(sk, sk_protocol);
	r->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (r->family == AF_UNIX) {
		r->name_len = unix_name(s, (void *)sk);
		if (!r->name_len && bpf_core_type_exists(struct unix_sock)) {
			struct unix_sock *peer = (void *)BPF_CORE_READ((struct unix_sock *)sk, peer);

			if (peer && (r->name_len = unix_name(s, peer)))
				r->rport = 1; /* it is the other end's */
		}
		return;
	}
	if (r->family == AF_INET) {
		*(__be32 *)r->laddr = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		*(__be32 *)r->raddr = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	} else if (r->family == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&r->laddr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&r->raddr, sk, __sk_common.skc_v6_daddr);
	} else {
		return;
	}
	r->lport = BPF_CORE_READ(sk, __sk_common.skc_num);
	r->rport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
}

static __always_inline void file_path(struct file_scratch *s, struct file *file, struct task_struct *p)
{
	struct fs_struct *fs = BPF_CORE_READ(p, fs);
	struct file_record *r = &s->rec;
	__u64 from, len;

	if (!fs)
		return;
	r->end = path_resolve(&s->path, __builtin_preserve_access_index(&file->f_path),
			      __builtin_preserve_access_index(&fs->root));
	from = s->path.off;
	len = PATH_MAX - from;
	if (len > PATH_MAX)
		return; /* never */
	bpf_probe_read_kernel(s->name, len, &s->path.bytes[from & (PATH_MAX - 1)]);
	r->name_len = len;
}

SEC("iter/task_file")
int process_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *p = ctx->task;
	struct file *file = ctx->file;
	struct file_scratch *s;
	struct file_record *r;
	struct dentry *dentry;
	struct inode *inode;
	struct socket *sock;
	__u32 zero = 0;
	__u64 len;

	if (!p || !file || p->tgid != wanted_pid || !task_in_scope(p) ||
	    p->group_leader->start_boottime != wanted_start)
		return 0;
	s = bpf_map_lookup_elem(&scratch, &zero);
	if (!s)
		return 0; /* never */
	r = &s->rec;
	__builtin_memset(r, 0, sizeof(*r));
	r->fd = ctx->fd;
	r->tid = p->pid;
	if (files_told++ >= paths_max)
		goto out;

	inode = BPF_CORE_READ(file, f_inode);
	dentry = BPF_CORE_READ(file, f_path.dentry);
	r->flags = BPF_CORE_READ(file, f_flags);
	r->pos = BPF_CORE_READ(file, f_pos);
	r->ino = BPF_CORE_READ(inode, i_ino);
	r->mode = BPF_CORE_READ(inode, i_mode);
	r->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	r->magic = BPF_CORE_READ(inode, i_sb, s_magic);
	r->deleted = !BPF_CORE_READ(inode, i_nlink) ||
		     (!BPF_CORE_READ(dentry, d_hash.pprev) && BPF_CORE_READ(dentry, d_parent) != dentry);
	sock = bpf_sock_from_file(file);
	if (sock)
		file_socket(s, sock);
	else
		file_path(s, file, p);
out:
	len = r->name_len;
	if (len > PATH_MAX)
		return 0; /* never */
	len += sizeof(*r);
	r->len = len;
	barrier_var(len);
	if (len > sizeof(*r) + PATH_MAX)
		return 0; /* never */
	bpf_seq_write(ctx->meta->seq, s, len);
	return 0;
}
