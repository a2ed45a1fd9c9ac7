/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who really accepted a connection: with several processes on one listener it
 * need not be the one that listened. Exactly one of these rungs is attached, so
 * each connection is accepted once:
 *
 *   fexit of inet_csk_accept: every way to accept, MPTCP and io_uring included.
 *   Tracepoints at the exit of accept(2) and accept4(2): not those of io_uring,
 *   nor of 32-bit system calls. The next sweep finds who has such a connection.
 *   kretprobe of inet_csk_accept.
 *   The established connection itself: the listener's owner is taken for the
 *   acceptor, and the record says so (shared).
 */
#ifndef ACCEPT_H
#define ACCEPT_H

#include "sock.h"
#include "tcp.h"

/* Numbers of accept4(2): x86-64, and what arm64 shares with most others. */
#define NR_ACCEPT4_X86	   288
#define NR_ACCEPT4_GENERIC 242

static __always_inline enum sock_what accept_syscall(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pt_regs___arm64 *arm = (void *)regs;

	if (bpf_core_field_exists(regs->orig_ax))
		return BPF_CORE_READ(regs, orig_ax) == NR_ACCEPT4_X86 ? SOCK_ACCEPT4 : SOCK_ACCEPT;
	return BPF_CORE_READ(arm, syscallno) == NR_ACCEPT4_GENERIC ? SOCK_ACCEPT4 : SOCK_ACCEPT;
}

/* sk is typed: its state is where it belongs. */
static __always_inline int accept_typed(struct sock *sk)
{
	struct sock_state *st, *raw;
	__u64 key = (__u64)sk;
	struct sock_record *r;

	if (!sk || sk->sk_protocol != IPPROTO_TCP || !sock_in_scope(sk))
		return 0;
	st = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (st) {
		owner_current(&st->owner);
		st->client = 0;
		st->accepted = 1;
		if (!st->began)
			st->began = bpf_ktime_get_boot_ns();
		raw = bpf_map_lookup_elem(&adopted, &key);
		if (raw) { /* a subflow */
			raw->owner = st->owner;
			raw->accepted = 1;
		}
	}
	if (!closes_seen)
		return 0;
	r = sock_reserve(REC_TCP, accept_syscall());
	if (!r)
		return 0;
	tcp_fill(r, sk, st, sk->__sk_common.skc_state);
	r->server = 1;
	sock_emit(r);
	return 0;
}

/*
 * sk is an address: its state is in `adopted`. fd is 0 where it is unknown.
 *
 * What was established before us has no number yet, and here it can be given
 * none: nothing that is told later could be known to be of the same connection.
 * The next sweep tells it, or its close.
 */
static __always_inline int accept_address(struct sock *sk, enum sock_what what, __s32 fd)
{
	struct sock_state *st, fresh = {};
	__u64 key = (__u64)sk, cookie;
	struct sock_record *r;

	if (!closes_seen || !sock_in_scope(sk))
		return 0; /* nobody would remove it from `adopted`, either */
	st = bpf_map_lookup_elem(&adopted, &key);
	if (!st) {
		/* Reset meanwhile, or established before us. */
		fresh.began = bpf_ktime_get_boot_ns();
		fresh.netns = sock_netns(sk, true);
		st = &fresh;
	}
	owner_current(&st->owner);
	st->accepted = 1;
	if (st == &fresh && BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_CLOSE) {
		bpf_map_update_elem(&adopted, &key, &fresh, BPF_NOEXIST);
		/* Closed in between: nobody would remove it. */
		if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
			bpf_map_delete_elem(&adopted, &key);
	}
	cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	if (!cookie)
		return 0;
	r = sock_reserve(REC_TCP, what);
	if (!r)
		return 0;
	sock_fill_ends(r, sk, true);
	sock_fill_state(r, st);
	tcp_fill_counters(r, (struct tcp_sock *)sk, false, true);
	r->l4 = IPPROTO_TCP;
	r->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	r->cookie = cookie;
	r->server = 1;
	r->res = fd;
	sock_emit(r);
	return 0;
}

/* The socket of a file, NULL if it is none. */
static __always_inline struct socket *socket_of_file(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);

	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK || BPF_CORE_READ(inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return NULL;
	return BPF_CORE_READ(file, private_data);
}

/* The socket of a descriptor of the current process, NULL if it is none. */
static __always_inline struct socket *socket_of_fd(__u32 fd)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct fdtable *fdt = BPF_CORE_READ(p, files, fdt);
	struct file **fds = BPF_CORE_READ(fdt, fd), *file = NULL;

	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), &fds[fd]);
	return file ? socket_of_file(file) : NULL;
}

static __always_inline int accept_fd(long fd, enum sock_what what)
{
	struct socket *sock;
	struct sock *sk;
	__u16 protocol;

	if (fd < 0)
		return 0;
	sock = socket_of_fd(fd);
	if (!sock)
		return 0; /* another thread closed it meanwhile */
	sk = BPF_CORE_READ(sock, sk);
	if (!sk || !inet_family(BPF_CORE_READ(sk, __sk_common.skc_family)))
		return 0;
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol == IPPROTO_MPTCP)
		sk = BPF_CORE_READ((struct mptcp_sock *)sk, first);
	else if (protocol != IPPROTO_TCP)
		return 0;
	return sk ? accept_address(sk, what, fd) : 0;
}

/* Until 6.9 (sk, flags, err, kern); the verifier refuses a fifth value later. */
SEC("fexit/inet_csk_accept")
int BPF_PROG(socket_acc_old, struct sock *listener, int flags, int *err, bool kern, struct sock *sk)
{
	return accept_typed(sk);
}

/* Since 6.10 (sk, arg). */
SEC("fexit/inet_csk_accept")
int BPF_PROG(socket_acc_new, struct sock *listener, void *arg, struct sock *sk)
{
	return accept_typed(sk);
}

SEC("tracepoint/syscalls/sys_exit_accept")
int socket_acc_tp(struct trace_event_raw_sys_exit *ctx)
{
	return accept_fd(ctx->ret, SOCK_ACCEPT);
}

SEC("tracepoint/syscalls/sys_exit_accept4")
int socket_acc4_tp(struct trace_event_raw_sys_exit *ctx)
{
	return accept_fd(ctx->ret, SOCK_ACCEPT4);
}

SEC("kretprobe/inet_csk_accept")
int socket_acc_kr(struct pt_regs *ctx)
{
	struct pt_regs___arm64 *arm = (void *)ctx;
	struct sock *sk;

	if (bpf_core_field_exists(ctx->ax))
		sk = (struct sock *)BPF_CORE_READ(ctx, ax);
	else
		sk = (struct sock *)BPF_CORE_READ(arm, regs[0]);
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	return accept_address(sk, accept_syscall(), 0);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_acc_est, struct sock *sk, int before, int after)
{
	struct sock_state *st;
	struct sock_record *r;

	if (!closes_seen || sk->sk_protocol != IPPROTO_TCP || before != TCP_SYN_RECV || after != TCP_ESTABLISHED ||
	    !sock_in_scope(sk))
		return 0;
	st = sock_state_of(sk, 0);
	if (st && st->client)
		return 0; /* both ends connected at once */
	r = sock_reserve(REC_TCP, SOCK_ACCEPT);
	if (!r)
		return 0;
	tcp_fill(r, sk, st, TCP_ESTABLISHED);
	r->server = r->shared = 1;
	r->existing = 0;
	sock_emit(r);
	return 0;
}

#endif /* ACCEPT_H */
