/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * connect(2) that fails before the connection is begun: no route, no right, no
 * local port. Whatever got as far as SYN_SENT is reported by the change of
 * state (tcp.h). Of UDP, where connecting sends nothing, all failures.
 *
 *   fentry and fexit of __sys_connect_file: the kernel's copy of the address,
 *   io_uring included.
 *   Tracepoints at the entry and exit of connect(2): not those of io_uring, nor
 *   of 32-bit system calls.
 *   kprobe and kretprobe of __sys_connect_file.
 */
#ifndef CONNECT_H
#define CONNECT_H

#include "accept.h"
#include "sock.h"
#include "tcp.h"

#define SOCKADDR_LEN 28 /* struct sockaddr_in6 */

enum {
	EINTR = 4,
	EISCONN = 106,
	EALREADY = 114,
	EINPROGRESS = 115,
	ERESTARTSYS = 512,
	ERESTARTNOINTR = 513,
	ERESTARTNOHAND = 514,
	ERESTART_RESTARTBLOCK = 516,
};

/* struct sockaddr_in and sockaddr_in6 (include/uapi/linux/in6.h) */
union sockaddr_inet {
	__u16 family;
	struct {
		__u16 family;
		__be16 port;
		__be32 addr;
	} in;
	struct {
		__u16 family;
		__be16 port;
		__be32 flowinfo;
		__u8 addr[16];
	} in6;
	__u8 bytes[SOCKADDR_LEN];
};

static __always_inline void connect_address(struct connecting *c, const union sockaddr_inet *a)
{
	c->family = a->family;
	if (a->family == AF_INET)
		*(__be32 *)c->addr = a->in.addr;
	else if (a->family == AF_INET6)
		__builtin_memcpy(c->addr, a->in6.addr, sizeof(c->addr));
	c->port = a->in.port; /* in the same place in both */
}

static __always_inline void connect_read_user(struct connecting *c)
{
	union sockaddr_inet a = {};
	__u32 len = c->ulen < SOCKADDR_LEN ? c->ulen : SOCKADDR_LEN;

	if (!bpf_probe_read_user(&a, len, (void *)c->uaddr))
		connect_address(c, &a);
}

/* Remembers a call. A second call for a connection that is under way only asks how it goes. */
static __always_inline int connect_enter(struct socket *sock, struct connecting *c)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct sock *sk;
	__u16 protocol;

	if (!sock || BPF_CORE_READ(sock, state) == SS_CONNECTING)
		return 0;
	sk = BPF_CORE_READ(sock, sk);
	if (!sk || !inet_family(BPF_CORE_READ(sk, __sk_common.skc_family)) || !sock_in_scope(sk))
		return 0;
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol == IPPROTO_MPTCP)
		protocol = IPPROTO_TCP;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	c->l4 = protocol;
	c->began = bpf_ktime_get_boot_ns();
	c->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	c->netns = sock_netns(sk, true);
	c->lport = BPF_CORE_READ(sk, __sk_common.skc_num);
	bpf_map_update_elem(&connectings, &thread, c, BPF_ANY);
	return 0;
}

static __always_inline bool connect_failed(long ret)
{
	switch (-ret) {
	case EINTR:
	case EISCONN:
	case EALREADY:
	case EINPROGRESS:
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
	case ERESTART_RESTARTBLOCK:
		return false;
	}
	return ret < 0;
}

static __always_inline int connect_exit(long ret)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct connecting *c = bpf_map_lookup_elem(&connectings, &thread);
	struct sock_record *r;

	if (!c)
		return 0; /* not ours, or entered before we attached */
	if (!connect_failed(ret) || c->syn_sent)
		goto out;
	if (!c->family && c->uaddr)
		connect_read_user(c); /* the kernel has brought the page in */
	if (!inet_family(c->family))
		goto out; /* AF_UNSPEC disconnects; others and what cannot be read name no peer */
	r = sock_reserve(REC_TCP, SOCK_CONNECT);
	if (!r)
		goto out;
	owner_current(&r->owner);
	r->cookie = c->cookie;
	r->netns = c->netns;
	r->began = c->began;
	r->duration = r->h.ktime - c->began;
	r->family = c->family;
	r->l4 = c->l4;
	r->state = TCP_CLOSE;
	r->lport = c->lport;
	r->rport = bpf_ntohs(c->port);
	__builtin_memcpy(r->raddr, c->addr, sizeof(r->raddr));
	r->res = ret;
	r->error = -ret;
	sock_emit(r);
out:
	bpf_map_delete_elem(&connectings, &thread);
	return 0;
}

static __always_inline int connect_file(struct file *file, void *address)
{
	union sockaddr_inet a = {};
	struct connecting c = {};

	bpf_probe_read_kernel(&a, sizeof(a), address); /* of a struct sockaddr_storage */
	connect_address(&c, &a);
	return connect_enter(socket_of_file(file), &c);
}

SEC("fentry/__sys_connect_file")
int BPF_PROG(socket_con_fe, struct file *file, void *address)
{
	return connect_file(file, address);
}

SEC("fexit/__sys_connect_file")
int BPF_PROG(socket_con_fx, struct file *file, void *address, int len, int flags, int ret)
{
	return connect_exit(ret);
}

SEC("tracepoint/syscalls/sys_enter_connect")
int socket_con_te(struct trace_event_raw_sys_enter *ctx)
{
	struct connecting c = {
		.uaddr = ctx->args[1],
		.ulen = ctx->args[2],
	};

	connect_read_user(&c);
	return connect_enter(socket_of_fd(ctx->args[0]), &c);
}

SEC("tracepoint/syscalls/sys_exit_connect")
int socket_con_tx(struct trace_event_raw_sys_exit *ctx)
{
	return connect_exit(ctx->ret);
}

SEC("kprobe/__sys_connect_file")
int socket_con_ke(struct pt_regs *ctx)
{
	struct pt_regs___arm64 *arm = (void *)ctx;

	if (bpf_core_field_exists(ctx->di))
		return connect_file((struct file *)BPF_CORE_READ(ctx, di), (void *)BPF_CORE_READ(ctx, si));
	return connect_file((struct file *)BPF_CORE_READ(arm, regs[0]), (void *)BPF_CORE_READ(arm, regs[1]));
}

SEC("kretprobe/__sys_connect_file")
int socket_con_kx(struct pt_regs *ctx)
{
	struct pt_regs___arm64 *arm = (void *)ctx;

	if (bpf_core_field_exists(ctx->ax))
		return connect_exit((int)BPF_CORE_READ(ctx, ax));
	return connect_exit((int)BPF_CORE_READ(arm, regs[0]));
}

#endif /* CONNECT_H */
