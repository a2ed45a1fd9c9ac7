/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What exists, read by iterators: sockets by the descriptors of all processes,
 * in all network namespaces, and UDP flows. At the start it tells user space
 * what is there and gives sockets their owners; later it reports counters that
 * have changed.
 */
#ifndef SWEEP_H
#define SWEEP_H

#include "packet.h"
#include "sock.h"
#include "tcp.h"

enum sweep_mode {
	SWEEP_LISTENERS = 1, /* first: it tells which connections were accepted */
	SWEEP_ALL,
	SWEEP_CHANGED,
};

/* Set by Go before each sweep. */
__u32 sweep_kind; /* enum sweep_mode */
__u32 sweep_id;	  /* counts up: a socket that several descriptors name is reported once */
__u64 flow_idle;  /* ns without a datagram, after which a flow has ended */
__u64 flows_full_reported;

#define SWEEP_ROOM 16 /* records for which there must be room before one is written */

/*
 * Decides about a TCP socket: whether to report it, and as what. st is its
 * state, all zero if it was unknown until now.
 */
static __always_inline enum sock_what sweep_tcp(struct sock *sk, struct sock_state *st, const struct owner *owner,
						__u8 state, __u64 segments)
{
	bool listening = state == TCP_LISTEN, unknown = !st->began && !st->existing;

	if (st->sweep == sweep_id || (sweep_kind != SWEEP_CHANGED && listening != (sweep_kind == SWEEP_LISTENERS)))
		return 0;
	if (unknown) {
		st->netns = sock_netns(sk, true);
		st->owner = *owner;
		st->accepted = 1;
		if (state == TCP_SYN_SENT) {
			st->began = bpf_ktime_get_boot_ns(); /* no later than this */
			st->client = 1;
		} else {
			st->existing = 1;
		}
	}
	st->sweep = sweep_id;
	if (listening) {
		if (sweep_kind == SWEEP_LISTENERS)
			listener_add(sk, st->netns);
		if (sweep_kind == SWEEP_CHANGED && !unknown && st->segments != LISTEN_UNREPORTED)
			return 0;
		st->segments = 0;
		return SOCK_LISTEN;
	}
	if (state == TCP_SYN_SENT || state == TCP_SYN_RECV)
		return 0; /* its outcome will be reported */
	if (unknown)
		st->server = listener_has(sk, st->netns);
	if (sweep_kind == SWEEP_CHANGED && segments == st->segments && !unknown)
		return 0;
	st->segments = segments;
	return SOCK_UPDATE;
}

/* There was no room for the record that sweep_tcp decided on: decides again, and the same. */
static __always_inline int sweep_again(struct sock_state *st, enum sock_what what)
{
	st->sweep = 0;
	st->segments = what == SOCK_LISTEN ? LISTEN_UNREPORTED : ~0ULL;
	return 1;
}

/* This and the next two return 1 where there was no room for the record, else 0. */
static __always_inline int sweep_typed(struct sock *sk, const struct owner *owner)
{
	__u8 state = sk->__sk_common.skc_state;
	struct sock_state *st, *raw;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct sock_record *r;
	__u64 key = (__u64)sk;
	enum sock_what what;

	if (state == TCP_CLOSE || !tp)
		return 0;
	st = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return 0;
	raw = bpf_map_lookup_elem(&adopted, &key);
	if (raw && raw->accepted) { /* where it belongs */
		st->owner = raw->owner;
		st->began = raw->began;
		st->accepted = 1;
		bpf_map_delete_elem(&adopted, &key);
	} else if (raw && !raw->client) {
		/*
		 * It has a descriptor, so somebody has accepted it: by a call that no
		 * program sees, or that is about to return. The entry stays for that.
		 */
		raw->owner = st->owner = *owner;
		raw->accepted = st->accepted = 1;
	} else if (!st->owner.pid) {
		st->owner = *owner; /* its listener is older than us, and it was accepted unseen */
	}
	what = sweep_tcp(sk, st, owner, state, (__u64)tp->segs_out + tp->segs_in);
	if (!what)
		return 0;
	r = sock_reserve(REC_SOCK, what);
	if (!r)
		return sweep_again(st, what);
	if (st->closed) { /* meanwhile: its close may stand before this record */
		record_discard(r);
		return 0;
	}
	tcp_fill(r, sk, st, state);
	if (what == SOCK_LISTEN)
		r->server = 1;
	sock_emit(r);
	return 0;
}

/* A subflow of MPTCP: it is known by its address only. */
static __always_inline int sweep_address(struct sock *sk, const struct owner *owner)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct sock_state *st, fresh = {};
	struct sock_record *r;
	__u64 key = (__u64)sk;
	enum sock_what what;
	bool before_us = false;

	if (state == TCP_CLOSE)
		return 0;
	st = bpf_map_lookup_elem(&adopted, &key);
	if (!st) {
		/* It is older than us: tcp.h adopts the younger ones. */
		if (bpf_map_update_elem(&adopted, &key, &fresh, BPF_NOEXIST))
			return 0;
		st = bpf_map_lookup_elem(&adopted, &key);
		if (!st)
			return 0;
		before_us = true;
	}
	what = sweep_tcp(sk, st, owner, state, (__u64)BPF_CORE_READ(tp, segs_out) + BPF_CORE_READ(tp, segs_in));
	if (before_us && BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		bpf_map_delete_elem(&adopted, &key); /* meanwhile: nobody would remove it */
	if (!what)
		return 0;
	r = sock_reserve(REC_SOCK, what);
	if (!r)
		return sweep_again(st, what);
	if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE) {
		record_discard(r);
		return 0;
	}
	sock_fill_ends(r, sk, true);
	r->l4 = IPPROTO_TCP;
	r->state = state;
	r->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	sock_fill_state(r, st);
	tcp_fill_counters(r, tp, !r->server, true);
	if (what == SOCK_LISTEN)
		r->server = 1;
	sock_emit(r);
	return 0;
}

static __always_inline int sweep_udp(struct sock *sk, const struct owner *owner)
{
	struct sock_state *st = sock_state_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	struct udp_told *told;
	struct sock_record *r;

	if (!st || sweep_kind == SWEEP_LISTENERS || st->sweep == sweep_id)
		return 0;
	st->sweep = sweep_id;
	if (!st->netns) {
		st->netns = sock_netns(sk, false);
		st->owner = *owner;
		st->existing = 1;
	}
	if (sweep_kind != SWEEP_ALL || !sk->__sk_common.skc_num)
		return 0;
	told = bpf_sk_storage_get(&udp_tolds, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!told)
		return 0; /* no memory: nobody would tell its close */
	r = sock_reserve(REC_SOCK, SOCK_UPDATE);
	if (!r) {
		st->sweep = 0;
		return 1;
	}
	sock_fill_ends(r, sk, false);
	r->l4 = IPPROTO_UDP;
	r->state = TCP_ESTABLISHED;
	r->cookie = bpf_get_socket_cookie(sk);
	r->owner = st->owner;
	r->existing = st->existing;
	r->server = !r->rport;
	udp_tell(told, r);
	sock_emit(r);
	return 0;
}

/*
 * Returns 1 to be called again with the same file once the reader has made room:
 * what exists already is never lost. Other programs write at the same time, so
 * it asks for more room than it needs.
 */
SEC("iter/task_file")
int socket_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *p = ctx->task;
	struct file *file = ctx->file;
	__u64 need = SWEEP_ROOM * sizeof(struct sock_record);
	struct owner owner = {};
	struct socket *sock;
	struct sock *sk;
	__u16 protocol;
	int again = 0;

	if (!p || !file || !task_in_scope(p))
		return 0;
	sock = bpf_sock_from_file(file);
	if (!sock)
		return 0;
	sk = sock->sk;
	if (!sk || !inet_family(sk->__sk_common.skc_family) || !sock_in_scope(sk))
		return 0;
	if (need > bulk_size / 2)
		need = bulk_size / 2; /* a tiny ring */
	if (bulk_size - bpf_ringbuf_query(&bulk, BPF_RB_AVAIL_DATA) < need)
		return 1;
	owner.start = p->group_leader->start_boottime;
	owner.pid = p->tgid;
	protocol = sk->sk_protocol;
	if (protocol == IPPROTO_TCP) {
		again = sweep_typed(sk, &owner);
	} else if (protocol == IPPROTO_UDP) {
		again = sweep_udp(sk, &owner);
	} else if (protocol == IPPROTO_MPTCP) {
		sk = BPF_CORE_READ((struct mptcp_sock *)sk, first);
		if (sk)
			again = sweep_address(sk, &owner);
	}
	if (again)
		return 1;
	record_pause(ctx->meta->seq, &bulk);
	return 0;
}

/* At the end, key is NULL. */
SEC("iter/bpf_map_elem")
int socket_flows(struct bpf_iter__bpf_map_elem *ctx)
{
	struct flow_key *k = ctx->key, key;
	struct flow *f = ctx->value;
	struct sock_record *r;
	__u64 full, packets;
	bool ended;

	if (!k || !f) {
		full = flows_full;
		if (full == flows_full_reported)
			return 0;
		r = sock_reserve(REC_UDP, SOCK_TABLE_FULL);
		if (!r)
			return 0;
		r->received = full - flows_full_reported;
		flows_full_reported = full;
		sock_emit(r);
		return 0;
	}
	key = *k;
	packets = f->packets_out + f->packets_in;
	ended = bpf_ktime_get_boot_ns() - f->last > flow_idle || bpf_map_lookup_elem(&released, &key.cookie);
	if (!ended && packets == f->reported)
		return 0;
	r = sock_reserve(ended ? REC_UDP_END : REC_UDP, ended ? SOCK_CLOSE : SOCK_UPDATE);
	if (!r)
		return 0; /* counted as lost; the next sweep tries again */
	if (ended) {
		flow_end(r, &key, f);
	} else {
		flow_fill(r, &key, f);
		f->reported = packets;
	}
	sock_emit(r);
	record_pause(ctx->meta->seq, &bulk);
	return 0;
}

#endif /* SWEEP_H */
