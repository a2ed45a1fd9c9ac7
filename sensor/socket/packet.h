/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets as sockets send and receive them: UDP flows, and DNS over UDP and
 * TCP. The programs run for every packet of every socket of the scope, at whose
 * cgroup they are attached: what is of no interest leaves them by what the kernel
 * knows of the socket already, before a byte of the packet is read.
 *
 * At egress the current task is the sender: for UDP it becomes the owner.
 */
#ifndef PACKET_H
#define PACKET_H

#include "sock.h"

#define DNS_PORT 53
#define DNS_MAX	 4096 /* bytes captured of a datagram; of a segment DNS_CHUNKS times as much */

#define DNS_CHUNKS 4

/* What Go wants of packets: set before attaching. */
bool want_flows;
bool want_dns;
bool want_trying;

/* A UDP flow: what one socket exchanges with one peer. */
struct flow_key {
	__u64 cookie;
	__u8 laddr[16], raddr[16]; /* IPv4: the first four bytes */
	__u16 lport, rport;
	__u8 family;
	__u8 zero[3];
};

struct flow {
	struct owner owner;
	__u64 first, last; /* datagram, boot time, ns */
	__u64 sent, received;
	__u64 packets_out, packets_in;
	__u64 reported; /* packets out and in, when last reported */
	__u32 netns;
	__u8 server; /* the first one came in */
	__u8 zero[3];
};

/* Its size is set by Go. Entries are allocated as they are needed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Datagrams that found no room in `flows`, ever. */
__u64 flows_full;

/* Of a UDP socket that has had flows. */
struct flow_sock {
	struct flow_key last; /* the newest flow: of most sockets the only one */
	__u32 flows;	      /* how many there have been */
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flow_sock);
} flow_socks SEC(".maps");

/*
 * A UDP socket as a sweep has told of it. Its close is told with the same ends,
 * whatever it has been connected to since; unless a flow between them has taken
 * its place, which has a close of its own.
 */
struct udp_told {
	struct flow_key key; /* without a remote end where it had no peer */
	__u8 flow;	     /* there has been one */
	__u8 zero[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct udp_told);
} udp_tolds SEC(".maps");

/* Cookies of sockets that are gone and had several flows: the next sweep ends these. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u64); /* when, boot time */
} released SEC(".maps");

/* REC_DNS: a datagram or segment from or to port 53. */
struct dns_record {
	struct record h;
	struct owner owner;
	__u64 cookie;
	__u32 netns;
	__u32 size;	/* of the payload on the wire */
	__u32 captured; /* bytes of it in data */
	__u32 seq;	/* TCP: of the first byte of data, or of SYN */
	__u16 lport, rport;
	__u8 laddr[16], raddr[16];
	__u8 family;
	__u8 l4;
	__u8 egress;
	__u8 tcp_flags; /* as in the packet: FIN 1, SYN 2, RST 4 */
	__u8 data[];
};

enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
};

/* Headers, as they are sent. */

struct ip4_header {
	__u8 version_ihl, tos;
	__be16 len, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__u8 saddr[4], daddr[4];
};

struct ip6_header {
	__u8 version_class, class_label[3];
	__be16 len;
	__u8 next, hops;
	__u8 saddr[16], daddr[16];
};

struct ip6_option {
	__u8 next, len;
	__be16 fragment; /* of a fragment header: offset << 3 | more */
};

struct udp_header {
	__be16 source, dest, len, check;
};

struct tcp_header {
	__be16 source, dest;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};

enum {
	IP6_HOP_OPTIONS = 0,
	IP6_ROUTING = 43,
	IP6_FRAGMENT = 44,
	IP6_AUTH = 51,
	IP6_DEST_OPTIONS = 60,
	IP6_MAX_OPTIONS = 6, /* longer chains are passed over */
	IP4_OFFSET = 0x1fff,
	IP6_OFFSET = 0xfff8,
};

struct packet {
	struct flow_key key; /* without ports and cookie at first */
	__u32 off;	     /* of the transport's header */
	__u8 l4;
};

/*
 * Reads the IP header. Returns 0 for what has no transport header here, like
 * later fragments. Global, so that the verifier looks at it once and not once
 * for each way through the programs.
 */
__noinline int packet_parse(struct __sk_buff *skb, struct packet *p, bool egress)
{
	__u8 *from, *to;
	union {
		struct ip4_header v4;
		struct ip6_header v6;
	} ip;
	struct ip6_option opt;
	__u8 next;
	int i;

	if (!p)
		return 0;
	from = egress ? p->key.laddr : p->key.raddr;
	to = egress ? p->key.raddr : p->key.laddr;
	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip.v4)))
		return 0;
	if (ip.v4.version_ihl >> 4 == 4) {
		if (ip.v4.fragment & bpf_htons(IP4_OFFSET))
			return 0;
		p->key.family = AF_INET;
		p->off = (ip.v4.version_ihl & 15) * 4;
		p->l4 = ip.v4.protocol;
		__builtin_memcpy(from, ip.v4.saddr, 4);
		__builtin_memcpy(to, ip.v4.daddr, 4);
		return 1;
	}
	if (ip.v4.version_ihl >> 4 != 6 || bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip.v6)))
		return 0;
	p->key.family = AF_INET6;
	__builtin_memcpy(from, ip.v6.saddr, 16);
	__builtin_memcpy(to, ip.v6.daddr, 16);
	next = ip.v6.next;
	p->off = sizeof(ip.v6);
#pragma unroll
	for (i = 0; i < IP6_MAX_OPTIONS; i++) {
		if (next != IP6_HOP_OPTIONS && next != IP6_ROUTING && next != IP6_FRAGMENT && next != IP6_AUTH &&
		    next != IP6_DEST_OPTIONS)
			break;
		if (bpf_skb_load_bytes(skb, p->off, &opt, sizeof(opt)))
			return 0;
		if (next == IP6_FRAGMENT) {
			if (opt.fragment & bpf_htons(IP6_OFFSET))
				return 0;
			p->off += 8;
		} else if (next == IP6_AUTH) {
			p->off += (opt.len + 2) * 4;
		} else {
			p->off += (opt.len + 1) * 8;
		}
		next = opt.next;
	}
	p->l4 = next;
	return 1;
}

static __always_inline void packet_ports(struct packet *p, __be16 source, __be16 dest, const bool egress)
{
	p->key.lport = bpf_ntohs(egress ? source : dest);
	p->key.rport = bpf_ntohs(egress ? dest : source);
}

/* What a captured piece of payload is. */
struct dns_piece {
	__u32 off, len; /* in the packet */
	__u32 size;	/* of the whole payload */
	__u32 seq;
	__u8 flags;
};

/* room is a constant: the ring reserves nothing else. */
static __always_inline void dns_emit(struct __sk_buff *skb, const struct packet *p, const struct sock_state *st,
				     const struct dns_piece *d, const bool egress, const __u32 room)
{
	struct dns_record *r = record_reserve(&bulk, REC_DNS, sizeof(*r) + room);
	__u64 len = d->len;

	if (!r)
		return;
	__builtin_memset(&r->owner, 0, sizeof(r->owner));
	r->netns = 0;
	if (st) {
		r->owner = st->owner;
		r->netns = st->netns;
	}
	r->cookie = p->key.cookie;
	r->size = d->size;
	r->seq = d->seq;
	r->lport = p->key.lport;
	r->rport = p->key.rport;
	__builtin_memcpy(r->laddr, p->key.laddr, sizeof(r->laddr));
	__builtin_memcpy(r->raddr, p->key.raddr, sizeof(r->raddr));
	r->family = p->key.family;
	r->l4 = p->l4;
	r->egress = egress;
	r->tcp_flags = d->flags;
	r->captured = 0;
	barrier_var(len); /* the verifier of 6.1 wants both bounds checked, and signed */
	if ((__s64)len > 0) {
		barrier_var(len);
		if (len <= room && !bpf_skb_load_bytes(skb, d->off, r->data, len))
			r->captured = len;
	}
	record_submit(&bulk, r);
}

static __always_inline void dns_capture(struct __sk_buff *skb, const struct packet *p, const struct sock_state *st,
					const struct dns_piece *d, const bool egress)
{
	if (d->len <= 128)
		dns_emit(skb, p, st, d, egress, 128);
	else if (d->len <= 512)
		dns_emit(skb, p, st, d, egress, 512);
	else
		dns_emit(skb, p, st, d, egress, DNS_MAX);
}

static __always_inline void flow_fill(struct sock_record *r, const struct flow_key *k, const struct flow *f)
{
	r->owner = f->owner;
	r->cookie = k->cookie;
	r->began = f->first;
	r->duration = f->last - f->first;
	r->sent = f->sent;
	r->received = f->received;
	r->packets_out = f->packets_out;
	r->packets_in = f->packets_in;
	r->netns = f->netns;
	r->lport = k->lport;
	r->rport = k->rport;
	__builtin_memcpy(r->laddr, k->laddr, sizeof(r->laddr));
	__builtin_memcpy(r->raddr, k->raddr, sizeof(r->raddr));
	r->family = k->family;
	r->l4 = IPPROTO_UDP;
	r->state = r->what == SOCK_CLOSE ? TCP_CLOSE : TCP_ESTABLISHED;
	r->server = f->server;
}

/*
 * Fills in the last word on a flow, and forgets the flow. What another CPU counts
 * meanwhile is still told if it comes before the second reading; a datagram
 * whose program has found the flow and adds to it only then, some instructions
 * later, is in no record. The next one begins another flow.
 *
 * The kernel may use the memory for another flow at once, with another beginning.
 */
static __always_inline void flow_end(struct sock_record *r, const struct flow_key *k, const struct flow *f)
{
	flow_fill(r, k, f);
	bpf_map_delete_elem(&flows, k);
	barrier();
	if (f->first == r->began && f->packets_out >= r->packets_out && f->packets_in >= r->packets_in)
		flow_fill(r, k, f);
}

static __always_inline void flow_count(struct flow *f, __u64 bytes, __u64 packets, const bool egress)
{
	if (egress) {
		__sync_fetch_and_add(&f->sent, bytes);
		__sync_fetch_and_add(&f->packets_out, packets);
	} else {
		__sync_fetch_and_add(&f->received, bytes);
		__sync_fetch_and_add(&f->packets_in, packets);
	}
}

static __always_inline bool udp_same_peer(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a->raddr, *y = (const __u64 *)b->raddr;

	return a->rport == b->rport && a->family == b->family && x[0] == y[0] && x[1] == y[1];
}

static __always_inline void flow_add(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p,
				     const struct sock_state *st, __u64 bytes, const bool egress)
{
	__u64 packets = skb->gso_segs ?: 1, now = bpf_ktime_get_boot_ns();
	struct flow *f = bpf_map_lookup_elem(&flows, &p->key), fresh = {};
	struct udp_told *told;
	struct flow_sock *fs;
	struct sock_record *r;

	if (f) {
		flow_count(f, bytes, packets, egress);
		f->last = now;
		if (egress && st && !owner_equal(&f->owner, &st->owner))
			f->owner = st->owner;
		return;
	}
	fresh.first = fresh.last = now;
	fresh.server = !egress;
	if (st) {
		fresh.owner = st->owner;
		fresh.netns = st->netns;
	}
	flow_count(&fresh, bytes, packets, egress);
	fresh.reported = packets;
	if (bpf_map_update_elem(&flows, &p->key, &fresh, BPF_NOEXIST)) {
		f = bpf_map_lookup_elem(&flows, &p->key);
		if (f) /* another CPU was first */
			flow_count(f, bytes, packets, egress);
		else
			__sync_fetch_and_add(&flows_full, packets);
		return;
	}
	fs = bpf_sk_storage_get(&flow_socks, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (fs) {
		fs->last = p->key;
		fs->flows++;
	}
	told = bpf_sk_storage_get(&udp_tolds, sk, 0, 0);
	if (told && udp_same_peer(&told->key, &p->key))
		told->flow = 1;
	r = sock_reserve(REC_UDP, egress ? SOCK_SENDTO : SOCK_RECVFROM);
	if (!r)
		return;
	flow_fill(r, &p->key, &fresh);
	sock_emit(r);
}

/* Notes what a sweep tells. Addresses are those of packets: IPv4 where IPv6 only wraps it. */
static __always_inline void udp_tell(struct udp_told *told, const struct sock_record *r)
{
	struct flow_key *k = &told->key;
	const __u32 *from = (const __u32 *)r->laddr, *to = (const __u32 *)r->raddr;
	__u32 *local = (__u32 *)k->laddr, *remote = (__u32 *)k->raddr;

	__builtin_memset(told, 0, sizeof(*told));
	k->cookie = r->cookie;
	k->lport = r->lport;
	k->rport = r->rport;
	k->family = r->family;
	if (k->family == AF_INET6 && !to[0] && !to[1] && to[2] == bpf_htonl(0xffff)) {
		k->family = AF_INET;
		local[0] = from[3];
		remote[0] = to[3];
		return;
	}
	__builtin_memcpy(k->laddr, r->laddr, sizeof(k->laddr));
	__builtin_memcpy(k->raddr, r->raddr, sizeof(k->raddr));
}

/* Tells the close of a socket that a sweep has told of. */
static __always_inline void udp_told_close(struct bpf_sock *sk)
{
	struct udp_told *told = bpf_sk_storage_get(&udp_tolds, sk, 0, 0);
	struct flow_key *k;
	struct sock_state *st;
	struct sock_record *r;

	if (!told || told->flow || bpf_map_lookup_elem(&flows, &told->key))
		return;
	k = &told->key;
	st = bpf_sk_storage_get(&socks, sk, 0, 0);
	r = sock_reserve(REC_UDP_END, SOCK_CLOSE);
	if (!r)
		return;
	if (st) {
		r->owner = st->owner;
		r->netns = st->netns;
		r->existing = st->existing;
	}
	r->cookie = k->cookie;
	r->lport = k->lport;
	r->rport = k->rport;
	__builtin_memcpy(r->laddr, k->laddr, sizeof(r->laddr));
	__builtin_memcpy(r->raddr, k->raddr, sizeof(r->raddr));
	r->family = k->family;
	r->l4 = IPPROTO_UDP;
	r->state = TCP_CLOSE;
	r->server = !k->rport;
	sock_emit(r);
}

static __always_inline void packet_udp(struct __sk_buff *skb, struct bpf_sock *sk, const bool egress)
{
	struct sock_state *st = bpf_sk_storage_get(&socks, sk, 0, 0);
	struct dns_piece d = {};
	struct packet p = {};
	struct udp_header udp;
	struct owner now;

	if (egress && st) { /* a socket of the kernel has no state */
		owner_current(&now);
		if (now.pid && !owner_equal(&now, &st->owner))
			st->owner = now;
	}
	if (!packet_parse(skb, &p, egress) || p.l4 != IPPROTO_UDP)
		return;
	if (bpf_skb_load_bytes(skb, p.off, &udp, sizeof(udp)))
		return;
	d.off = p.off + sizeof(udp);
	if (skb->len < d.off)
		return;
	d.size = skb->len - d.off;
	packet_ports(&p, udp.source, udp.dest, egress);
	p.key.cookie = bpf_get_socket_cookie(skb);
	if (want_flows)
		flow_add(skb, sk, &p, st, d.size, egress);
	if (want_dns && (p.key.lport == DNS_PORT || p.key.rport == DNS_PORT)) {
		d.len = d.size;
		if (d.len > DNS_MAX)
			d.len = DNS_MAX;
		dns_capture(skb, &p, st, &d, egress);
	}
}

static __always_inline void packet_tcp(struct __sk_buff *skb, struct bpf_sock *sk, const bool egress)
{
	struct sock_state *st;
	struct dns_piece d = {};
	struct packet p = {};
	struct tcp_header tcp;
	__u32 left;
	int i;

	if (!packet_parse(skb, &p, egress) || p.l4 != IPPROTO_TCP)
		return;
	if (bpf_skb_load_bytes(skb, p.off, &tcp, sizeof(tcp)))
		return;
	d.off = p.off + (tcp.offset >> 4) * 4;
	if (skb->len < d.off)
		return;
	d.size = left = skb->len - d.off;
	d.seq = bpf_ntohl(tcp.seq);
	d.flags = tcp.flags;
	if (!left && !(tcp.flags & (TCP_FIN | TCP_SYN | TCP_RST)))
		return; /* a mere acknowledgement */
	packet_ports(&p, tcp.source, tcp.dest, egress);
	p.key.cookie = bpf_get_socket_cookie(skb);
	st = bpf_sk_storage_get(&socks, sk, 0, 0);

	/* What is beyond the last piece is missed by user space as a hole. */
	for (i = 0; i < DNS_CHUNKS; i++) {
		d.len = left < DNS_MAX ? left : DNS_MAX;
		dns_capture(skb, &p, st, &d, egress);
		if (left <= DNS_MAX)
			break;
		left -= DNS_MAX;
		d.off += DNS_MAX;
		d.seq += DNS_MAX;
		d.flags &= ~TCP_SYN;
	}
}

/*
 * A TCP socket asks for a connection: only now does it have a port, and nobody may ever answer. Whoever sees the packet
 * on its way wants to know whose it is.
 */
static __always_inline void packet_trying(struct bpf_sock *sk, __u64 cookie)
{
	struct sock_state *st = bpf_sk_storage_get(&socks, sk, 0, 0);
	struct sock_record *r;

	if (!st || !st->owner.pid)
		return;
	r = sock_reserve(REC_TCP, SOCK_TRYING);
	if (!r)
		return;
	r->owner = st->owner;
	r->netns = st->netns;
	r->cookie = cookie;
	r->l4 = IPPROTO_TCP;
	r->state = TCP_SYN_SENT;
	r->family = sk->family;
	r->lport = sk->src_port;
	r->rport = bpf_ntohs(sk->dst_port);
	if (sk->family == AF_INET) {
		*(__u32 *)r->laddr = sk->src_ip4;
		*(__u32 *)r->raddr = sk->dst_ip4;
	} else {
		*(__u32 *)r->laddr = sk->src_ip6[0];
		*(__u32 *)(r->laddr + 4) = sk->src_ip6[1];
		*(__u32 *)(r->laddr + 8) = sk->src_ip6[2];
		*(__u32 *)(r->laddr + 12) = sk->src_ip6[3];
		*(__u32 *)r->raddr = sk->dst_ip6[0];
		*(__u32 *)(r->raddr + 4) = sk->dst_ip6[1];
		*(__u32 *)(r->raddr + 8) = sk->dst_ip6[2];
		*(__u32 *)(r->raddr + 12) = sk->dst_ip6[3];
	}
	sock_emit(r);
}

static __always_inline int packet_seen(struct __sk_buff *skb, const bool egress)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	if (egress && want_trying && sk->protocol == IPPROTO_TCP && sk->state == TCP_SYN_SENT)
		packet_trying(sk, bpf_get_socket_cookie(skb));
	if (sk->protocol == IPPROTO_UDP)
		packet_udp(skb, sk, egress);
	else if (sk->protocol == IPPROTO_TCP && want_dns &&
		 (sk->src_port == DNS_PORT || sk->dst_port == bpf_htons(DNS_PORT)))
		packet_tcp(skb, sk, egress);
	return 1;
}

SEC("cgroup_skb/egress")
int socket_egress(struct __sk_buff *skb)
{
	return packet_seen(skb, true);
}

SEC("cgroup_skb/ingress")
int socket_ingress(struct __sk_buff *skb)
{
	return packet_seen(skb, false);
}

/* A process creates a socket: the only moment at which a UDP socket that never sends has an owner. */
SEC("cgroup/sock_create")
int socket_create(struct bpf_sock *sk)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct sock_state *st;

	if (sk->protocol != IPPROTO_UDP && sk->protocol != IPPROTO_TCP)
		return 1;
	st = bpf_sk_storage_get(&socks, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return 1;
	owner_current(&st->owner);
	st->netns = BPF_CORE_READ(p, nsproxy, net_ns, ns.inum);
	return 1;
}

SEC("cgroup/sock_release")
int socket_release(struct bpf_sock *sk)
{
	struct flow_sock *fs;
	struct sock_record *r;
	struct flow_key key;
	struct flow *f;
	__u64 now;

	if (sk->protocol != IPPROTO_UDP)
		return 1;
	udp_told_close(sk);
	fs = bpf_sk_storage_get(&flow_socks, sk, 0, 0);
	if (!fs)
		return 1;
	key = fs->last;
	if (fs->flows > 1) {
		now = bpf_ktime_get_boot_ns();
		bpf_map_update_elem(&released, &key.cookie, &now, BPF_ANY);
		r = sock_reserve(REC_UDP_END, SOCK_RELEASED);
		if (!r)
			return 1; /* the next regular sweep finds the cookie */
		r->cookie = key.cookie;
		sock_emit(r);
		return 1;
	}
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return 1; /* ended by a sweep */
	r = sock_reserve(REC_UDP_END, SOCK_CLOSE);
	if (!r)
		return 1; /* counted as lost; a sweep ends the flow when it has been idle */
	flow_end(r, &key, f);
	sock_emit(r);
	return 1;
}

#endif /* PACKET_H */
