/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What all programs of the sensor share: the records they write, and the state
 * of a socket, most of all its owner.
 *
 * The owner of a socket is a process: the last that did one of these with it.
 * It created it, listened, connected, accepted it, or (UDP) sent a datagram.
 * Handing the descriptor to another process changes nothing until that process
 * does one of them. A socket of the kernel has no owner.
 *
 * A socket belongs to the scope or not for all its life (scope.h). Of one that
 * does not, nothing is kept. Who is outside becomes no owner of one that does.
 */
#ifndef SOCK_H
#define SOCK_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "road.h"
#include "scope.h"

#define ECANCELED 125

/* Names a process; in Go event.Key. All zero: none. */
struct owner {
	__u64 start; /* start_boottime of the group's leader, ns */
	__u32 pid;   /* tgid in the initial pid namespace */
	__u32 zero;
};

enum sock_what {
	SOCK_LISTEN = 1,
	SOCK_CONNECT, /* the outcome is known */
	SOCK_ACCEPT,
	SOCK_ACCEPT4,
	SOCK_SENDTO,   /* a UDP flow began with a datagram out */
	SOCK_RECVFROM, /* ... with one in */
	SOCK_UPDATE,
	SOCK_CLOSE,
	SOCK_RELEASED,	 /* only cookie: a UDP socket with several flows is gone */
	SOCK_TABLE_FULL, /* only received: datagrams that found no room in flows */
	SOCK_TRYING,	 /* asks for a connection: its ends and its owner */
};

enum sock_reset {
	RESET_LOCAL = 1,
	RESET_REMOTE,
};

/* REC_TCP, REC_SOCK, REC_UDP and REC_UDP_END. */
struct sock_record {
	struct record h;
	struct owner owner;
	__u64 cookie;
	__u64 began;	/* boot time, ns; 0: before us */
	__u64 duration; /* ns */
	__u64 latency;	/* ns */
	__u64 sent, received;
	__u64 packets_out, packets_in;
	__u32 netns;
	__u32 rtt, rtt_min; /* us */
	__u32 retrans, lost;
	__s32 res;   /* 0, a negative error number, or of accept the descriptor, where it is known */
	__s32 error; /* 0, or an error number */
	__u16 lport, rport;
	__u8 laddr[16], raddr[16]; /* IPv4: the first four bytes */
	__u8 what;		   /* enum sock_what */
	__u8 family;
	__u8 l4;
	__u8 state; /* of TCP */
	__u8 reset; /* enum sock_reset */
	__u8 server;
	__u8 shared;   /* owner is the listener's: nobody has accepted */
	__u8 existing; /* older than us */
};

/*
 * Of a socket. Members are bytes where several programs write at once.
 *
 * It lies in `socks` by socket; with BPF_F_CLONE the kernel copies it from the
 * listener to the socket of a new connection. Programs that have no typed
 * pointer to the socket keep it in `adopted`, by the socket's address: what
 * stands there prevails, and it is removed when the connection closes.
 */
struct sock_state {
	struct owner owner;
	__u64 began;	/* boot time, ns; 0: before us */
	__u64 segments; /* in and out, when last reported */
	__u32 netns;
	__u32 sweep; /* the last one that saw it */
	__u8 client;
	__u8 accepted;
	__u8 reset; /* enum sock_reset */
	__u8 existing;
	__u8 server; /* of existing ones: by its port */
	__u8 closed; /* its close has been told, or is about to be */
	__u8 zero[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sock_state);
} socks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct sock_state);
} adopted SEC(".maps");

/* The process of the current task; none for a thread of the kernel, or outside the scope. */
static __always_inline void owner_current(struct owner *o)
{
	struct task_struct *p = bpf_get_current_task_btf();

	o->start = 0;
	o->pid = 0;
	o->zero = 0;
	if (p->flags & PF_KTHREAD || !task_in_scope(p))
		return;
	o->start = p->group_leader->start_boottime;
	o->pid = p->tgid;
}

/* Numbers of processes are used again: one is the same only if it began at the same time. */
static __always_inline bool owner_equal(const struct owner *a, const struct owner *b)
{
	return a->pid == b->pid && a->start == b->start;
}

static __always_inline bool inet_family(__u16 family)
{
	return family == AF_INET || family == AF_INET6;
}

/* Reserves a record in which all but the header is zero. */
static __always_inline struct sock_record *sock_reserve(enum record_type type, enum sock_what what)
{
	struct sock_record *r = record_reserve(&bulk, type, sizeof(*r));

	if (!r)
		return NULL;
	__builtin_memset((void *)r + sizeof(r->h), 0, sizeof(*r) - sizeof(r->h));
	r->what = what;
	return r;
}

static __always_inline void sock_emit(struct sock_record *r)
{
	record_submit(&bulk, r);
}

/*
 * Reads a member of a socket: directly where the verifier knows the type, by
 * probing where it is a mere address. probe is a constant.
 */
#define GET(probe, p, member) ((probe) ? BPF_CORE_READ(p, member) : (p)->member)

static __always_inline __u32 sock_netns(struct sock *sk, const bool probe)
{
	struct net *net = GET(probe, sk, __sk_common.skc_net.net);

	return GET(probe, net, ns.inum);
}

/* The number is gone when a socket is closed, the port in packets stays; one that is not bound yet has neither. */
static __always_inline __u16 sock_lport(struct sock *sk)
{
	struct inet_sock *inet = (struct inet_sock *)sk;
	__u16 port = bpf_ntohs(BPF_CORE_READ(inet, inet_sport));

	return port ? port : BPF_CORE_READ(sk, __sk_common.skc_num);
}

/* Fills in who the socket connects: addresses, ports, namespace. */
static __always_inline void sock_fill_ends(struct sock_record *r, struct sock *sk, const bool probe)
{
	r->family = GET(probe, sk, __sk_common.skc_family);
	if (r->family == AF_INET) {
		*(__be32 *)r->laddr = GET(probe, sk, __sk_common.skc_rcv_saddr);
		*(__be32 *)r->raddr = GET(probe, sk, __sk_common.skc_daddr);
	} else if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) { /* not without CONFIG_IPV6 */
		BPF_CORE_READ_INTO(&r->laddr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&r->raddr, sk, __sk_common.skc_v6_daddr);
	}
	r->lport = sock_lport(sk);
	r->rport = bpf_ntohs(GET(probe, sk, __sk_common.skc_dport));
	r->netns = sock_netns(sk, probe);
}

static __always_inline void sock_fill_state(struct sock_record *r, const struct sock_state *st)
{
	r->owner = st->owner;
	r->began = st->began;
	if (st->began && r->h.ktime > st->began)
		r->duration = r->h.ktime - st->began;
	r->reset = st->reset;
	r->existing = st->existing;
	r->server = !st->client && (!st->existing || st->server);
	r->shared = r->server && !st->accepted && !st->existing;
}

#endif /* SOCK_H */
