/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of a TCP connection, by the changes of its state.
 *
 * MPTCP's own sockets change state like TCP's and are passed over: what they
 * send travels over TCP sockets of the kernel, their subflows, which are seen.
 */
#ifndef TCP_H
#define TCP_H

#include "sock.h"

/* A connect(2) under way, by thread: connect.h. */
struct connecting {
	__u64 sk;    /* address of the socket that went to SYN_SENT meanwhile */
	__u64 uaddr; /* user pointer, until the address could be read */
	__u64 began;
	__u64 cookie;
	__u32 netns;
	__u32 ulen;
	__u16 family; /* of the address; 0: not read */
	__be16 port;
	__u8 addr[16];
	__u16 lport;
	__u8 l4;
	__u8 syn_sent; /* the change of state reports the outcome */
	__u32 zero;
};

/* LRU: a lost exit must not leak. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct connecting);
} connectings SEC(".maps");

/* Whether accepting programs know sockets by address only: `adopted`. Set by Go. */
bool accept_raw;

/*
 * Whether the changes of state are seen, and so the close of whatever is told.
 * Set by Go. Until then accepting programs tell nothing: what still lives then is
 * told by the first sweep.
 */
bool closes_seen;

struct listener {
	__u32 netns;
	__u16 port;
	__u16 zero;
};

/* Listening ports as the last SWEEP_LISTENERS found them: sweep.h. Go empties it before. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct listener);
	__type(value, __u8);
} listeners SEC(".maps");

static __always_inline struct listener listener_of(struct sock *sk, __u32 netns)
{
	struct listener l = {
		.netns = netns,
		.port = sock_lport(sk),
	};

	return l;
}

static __always_inline void listener_add(struct sock *sk, __u32 netns)
{
	struct listener l = listener_of(sk, netns);
	__u8 one = 1;

	bpf_map_update_elem(&listeners, &l, &one, BPF_ANY);
}

static __always_inline bool listener_has(struct sock *sk, __u32 netns)
{
	struct listener l = listener_of(sk, netns);

	return bpf_map_lookup_elem(&listeners, &l) != NULL;
}

/*
 * Decides about a connection that is older than us before a sweep has: its
 * state is new, or has no more than an owner. Without a listener at its port it
 * counts as the client's.
 */
static __always_inline void tcp_settle(struct sock *sk, struct sock_state *st, bool client)
{
	if (st->began || st->existing)
		return;
	st->existing = 1;
	st->client = client;
	st->netns = sock_netns(sk, false);
	st->server = !client && listener_has(sk, st->netns);
}

/*
 * Counters of a connection. The kernel's byte counts include SYN and FIN, which
 * take a sequence number each: bytes_acked the client's SYN and the own FIN,
 * bytes_received the peer's FIN. What was acknowledged is never more than the
 * distinct bytes that were sent, so the lesser of both is exact.
 */
static __always_inline void tcp_fill_counters(struct sock_record *r, struct tcp_sock *tp, bool client, const bool probe)
{
	struct sock *sk = (struct sock *)tp;
	__u64 acked = GET(probe, tp, bytes_acked), sent = GET(probe, tp, bytes_sent) - GET(probe, tp, bytes_retrans);
	__u64 received = GET(probe, tp, bytes_received);

	if (client && acked)
		acked--;
	if (received && BPF_CORE_READ(sk, __sk_common.skc_flags) & 1UL << SOCK_DONE)
		received--;
	r->sent = acked < sent ? acked : sent;
	r->received = received;
	r->packets_out = GET(probe, tp, segs_out);
	r->packets_in = GET(probe, tp, segs_in);
	r->rtt = GET(probe, tp, srtt_us) >> 3;
	r->rtt_min = BPF_CORE_READ(tp, rtt_min.s[0].v);
	if (r->rtt_min == ~0U)
		r->rtt_min = 0; /* not measured */
	r->retrans = GET(probe, tp, total_retrans);
	r->lost = GET(probe, tp, lost_out);
}

/* Fills in all that a TCP socket tells. st may be NULL. */
static __always_inline void tcp_fill(struct sock_record *r, struct sock *sk, const struct sock_state *st, __u8 state)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	sock_fill_ends(r, sk, false);
	r->l4 = IPPROTO_TCP;
	r->state = state;
	r->cookie = bpf_get_socket_cookie(sk);
	if (st)
		sock_fill_state(r, st);
	else
		r->existing = 1;
	if (tp) /* always: the caller has looked at sk_protocol */
		tcp_fill_counters(r, tp, !r->server, false);
}

/* Whether programs with only an address will ask for sk: it belongs to an MPTCP socket. */
static __always_inline bool tcp_is_subflow(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp && bpf_core_field_exists(tp->is_mptcp) && BPF_CORE_READ_BITFIELD_PROBED(tp, is_mptcp);
}

static __always_inline void tcp_adopt(struct sock *sk, const struct sock_state *st)
{
	__u64 key = (__u64)sk;

	/* Full: the connection's owner will be who listened. */
	bpf_map_update_elem(&adopted, &key, st, BPF_ANY);
}

static __always_inline struct sock_state *sock_state_of(struct sock *sk, __u64 flags)
{
	return bpf_sk_storage_get(&socks, sk, 0, flags);
}

/* In the context of the process that connects. */
static __always_inline int tcp_syn_sent(struct sock *sk)
{
	struct sock_state *st = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	__u64 thread = bpf_get_current_pid_tgid();
	struct connecting *c = bpf_map_lookup_elem(&connectings, &thread);

	if (c) {
		c->sk = (__u64)sk;
		c->syn_sent = 1;
	}
	if (!st)
		return 0; /* no memory: the connection has no owner */
	owner_current(&st->owner);
	st->began = bpf_ktime_get_boot_ns();
	st->segments = 0;
	st->netns = sock_netns(sk, false);
	st->client = 1;
	st->accepted = st->reset = st->existing = st->server = st->closed = 0;
	return 0;
}

/* In sock_state.segments of a listening socket: it has no port yet, and has not been reported. */
#define LISTEN_UNREPORTED 1

/*
 * In the context of the process that listens. A socket that was not bound gets
 * its port after this: the next sweep reports it.
 */
static __always_inline int tcp_listen(struct sock *sk)
{
	struct sock_state *st = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	bool bound = sk->__sk_common.skc_num;
	struct sock_record *r;

	if (st) {
		owner_current(&st->owner);
		st->began = bpf_ktime_get_boot_ns();
		st->netns = sock_netns(sk, false);
		st->segments = bound ? 0 : LISTEN_UNREPORTED;
		st->accepted = 1; /* so is the owner certain */
		st->client = st->reset = st->existing = st->server = st->closed = 0;
		if (tcp_is_subflow(sk))
			tcp_adopt(sk, st);
	}
	if (!bound)
		return 0;
	r = sock_reserve(REC_TCP, SOCK_LISTEN);
	if (!r)
		return 0;
	tcp_fill(r, sk, st, TCP_LISTEN);
	sock_emit(r);
	return 0;
}

/* A socket was just cloned from its listener, and its state with it. */
static __always_inline int tcp_child(struct sock *sk)
{
	struct sock_state *st = sock_state_of(sk, 0);

	if (!st)
		return 0; /* a listener older than us, before the snapshot */
	st->began = bpf_ktime_get_boot_ns();
	st->segments = 0;
	st->client = st->accepted = st->reset = st->existing = st->server = st->closed = 0;
	return 0;
}

static __always_inline int tcp_established(struct sock *sk, int before)
{
	struct sock_state *st = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	__u64 now = bpf_ktime_get_boot_ns();
	bool server = before != TCP_SYN_SENT;
	struct sock_record *r;

	if (!st)
		return 0;
	server = server && !st->client;
	if (server) {
		if (!st->began)
			st->began = now;
		st->netns = sock_netns(sk, false);
		/* Accepting programs must find what they cannot make. */
		bpf_get_socket_cookie(sk);
	} else {
		tcp_settle(sk, st, true);
	}
	if ((server && accept_raw && !st->accepted) || tcp_is_subflow(sk))
		tcp_adopt(sk, st);
	if (server)
		return 0;
	r = sock_reserve(REC_TCP, SOCK_CONNECT);
	if (!r)
		return 0;
	tcp_fill(r, sk, st, TCP_ESTABLISHED);
	if (st->began)
		r->latency = now - st->began;
	sock_emit(r);
	return 0;
}

/*
 * A connection that was never established. sk_err says why, except for a
 * failure within connect(2), which only its return value tells (connect.h), and
 * for a caller who gave up: ECANCELED.
 */
static __always_inline int tcp_refused(struct sock *sk, const struct sock_state *st)
{
	__u64 thread = bpf_get_current_pid_tgid();
	int err = sk->sk_err;
	struct connecting *c;
	struct sock_record *r;

	if (!err) {
		c = bpf_map_lookup_elem(&connectings, &thread);
		if (c && c->sk == (__u64)sk) {
			c->syn_sent = 0;
			return 0;
		}
		err = ECANCELED;
	}
	r = sock_reserve(REC_TCP, SOCK_CONNECT);
	if (!r)
		return 0;
	tcp_fill(r, sk, st, TCP_CLOSE);
	r->latency = r->duration;
	r->res = -err;
	r->error = err;
	sock_emit(r);
	return 0;
}

/*
 * Who reset the connection. The kernel changes the state before it sends the
 * reset when the process closes with unread data, or without lingering: then
 * the connection is gone at once and nobody complained.
 */
static __always_inline __u8 tcp_reset_by(const struct sock_record *r, int before, int err)
{
	if (r->reset || err)
		return r->reset;
	if (before == TCP_ESTABLISHED || before == TCP_CLOSE_WAIT || before == TCP_SYN_RECV)
		return RESET_LOCAL;
	return 0;
}

static __always_inline int tcp_close(struct sock *sk, int before)
{
	struct sock_state *st = sock_state_of(sk, 0), *raw, *mark = st;
	__u64 key = (__u64)sk;
	struct sock_record *r;

	/* Before the record: a sweep that writes a later one must see it. */
	if (!mark)
		mark = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (mark)
		mark->closed = 1;
	raw = bpf_map_lookup_elem(&adopted, &key);
	if (raw) {
		if (st)
			raw->reset = st->reset;
		st = raw;
	} else {
		st = mark;
	}
	if (st)
		tcp_settle(sk, st, before == TCP_SYN_SENT);
	if (before == TCP_SYN_SENT || (before == TCP_SYN_RECV && st && st->client)) {
		tcp_refused(sk, st);
		goto out;
	}
	if (before == TCP_SYN_RECV && !(st && st->accepted))
		goto out; /* the peer gave up before we knew of a connection */
	if (before == TCP_LISTEN && st && st->segments == LISTEN_UNREPORTED)
		goto out; /* it found no port */
	r = sock_reserve(REC_TCP, SOCK_CLOSE);
	if (!r)
		goto out;
	tcp_fill(r, sk, st, TCP_CLOSE);
	if (before == TCP_LISTEN) {
		r->server = 1;
		r->shared = r->reset = 0;
	} else {
		r->error = sk->sk_err;
		r->reset = tcp_reset_by(r, before, r->error);
	}
	sock_emit(r);
out:
	if (raw)
		bpf_map_delete_elem(&adopted, &key);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state_tp, struct sock *sk, int before, int after)
{
	if (sk->sk_protocol != IPPROTO_TCP || !sock_in_scope(sk))
		return 0;
	switch (after) {
	case TCP_SYN_SENT:
		return tcp_syn_sent(sk);
	case TCP_LISTEN:
		return tcp_listen(sk);
	case TCP_SYN_RECV:
		return before == TCP_LISTEN ? tcp_child(sk) : 0;
	case TCP_ESTABLISHED:
		return tcp_established(sk, before);
	case TCP_CLOSE:
		return before == TCP_CLOSE ? 0 : tcp_close(sk, before);
	}
	return 0;
}

/*
 * Both programs rely on bpf_sk_storage_get to refuse what is no whole socket:
 * tcp_send_reset passes time-wait sockets and, since 6.10, NULL. The verifier of
 * 6.12 believes that it never does and drops our check; nothing here reads sk.
 * What is outside the scope has no state.
 */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(socket_rst_out, struct sock *sk)
{
	struct sock_state *st;

	if (!sk)
		return 0;
	st = sock_state_of(sk, 0);
	if (st)
		st->reset = RESET_LOCAL;
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(socket_rst_in, struct sock *sk)
{
	struct sock_state *st = sock_state_of(sk, 0);

	if (st)
		st->reset = RESET_REMOTE;
	return 0;
}

#endif /* TCP_H */
