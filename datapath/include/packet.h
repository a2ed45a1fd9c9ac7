/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading packets.
 *
 * Almost all are TCP or UDP right behind an IP header without options, and are
 * read by packet_fast from memory that lies there anyway. All others (VLAN tags,
 * options, extension headers, fragments, other protocols, headers that are not in
 * the linear part) are read by packet_slow, which alone judges what is wrong.
 *
 * A packet is either one that we understand; or one that passes to the host's
 * stack unjudged, since it can go no further than there: ARP, neighbour discovery,
 * multicast listeners; or there is a reason to drop it.
 */
#ifndef PACKET_H
#define PACKET_H

#include <state.h>
#include <headers.h>
#include <bpf/bpf_endian.h>

/* What packet_read gives besides an enum reason. */
enum {
	PACKET_OK = 0,
	PACKET_PASS = -1,
};

enum packet_flags {
	PACKET_ERROR = 1 << 0,	 /* ICMP about another packet, which is quoted at quote */
	PACKET_LATER = 1 << 1,	 /* a fragment without the transport's header */
	PACKET_FIRST = 1 << 2,	 /* a fragment with it: see part_first */
	PACKET_COUNTED = 1 << 3, /* another program has counted it in its flow */
	PACKET_BARE = 1 << 4,	 /* begins with the IP header: of a device without another */
};

/* One packet. The first part is what was read, the second what programs make of it. */
struct packet {
	struct flow_key key;
	struct addr src, dst;
	__be16 sport, dport;
	__u16 l3;      /* where the IP header is */
	__u16 headers; /* bytes of IP's and the transport's headers */
	__u32 bytes;   /* of the IP packet */
	__u32 packets; /* 1, or how many segments will become of it */
	__u16 quote;   /* where the packet begins that an ICMP error is about */
	__u8 v6;
	__u8 ttl;
	__u8 swapped; /* the sender is key.b */
	__u8 tcp_flags;
	__u8 icmp_type, icmp_code;
	__u8 flags; /* enum packet_flags */
	__u8 stale; /* an end of the flow is somebody else by now */

	__u8 hook;	 /* enum hook */
	__u8 flow_flags; /* FLOW_STACK, _DEFERRED, _SERVICE, _OUTSIDE of the flow that it may begin */
	__u8 flow_mask;	 /* those of them that it tells of a flow that there is, if the client sent it */
	__u8 pad;
	__u32 from, to; /* interfaces of the pods here that sent it and get it, 0 if none */
};

/* Memory as numbers, whatever type it was written by. */
typedef __u64 __attribute__((may_alias)) half_t;
typedef __u32 __attribute__((may_alias)) word_t;

static __always_inline __u64 addr_half(const struct addr *a, int half)
{
	return ((const half_t *)a)[half];
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return addr_half(a, 1) == addr_half(b, 1) && addr_half(a, 0) == addr_half(b, 0);
}

static __always_inline void addr_set4(struct addr *a, __be32 v4)
{
	((half_t *)a)[0] = 0;
	((half_t *)a)[1] = (__u64)v4 << 32 | bpf_htonl(0xffff);
}

static __always_inline void addr_set6(struct addr *a, const __u8 *v6)
{
	__builtin_memcpy(a, v6, sizeof(*a));
}

/* An IPv4 address written as one of IPv6. */
static __always_inline bool addr_mapped(const struct addr *a)
{
	return !addr_half(a, 0) && (__u32)addr_half(a, 1) == bpf_htonl(0xffff);
}

/* fe80::/10 and ff00::/8, which no router passes on but some of the latter. */
static __always_inline bool addr_local(const struct addr *a)
{
	return a->bytes[0] == 0xff || (a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80);
}

/* Addresses of this node that nobody tells us of: addr_local, 169.254.0.0/16, and 127.0.0.0/8, which has node ports. */
static __always_inline bool addr_near(const struct addr *a)
{
	return addr_local(a) ||
	       (addr_mapped(a) && (a->bytes[12] == 127 || (a->bytes[12] == 169 && a->bytes[13] == 254)));
}

/* Makes the key of what is between two ends. Returns whether the first is key.b. */
static __always_inline bool key_set(struct flow_key *k, const struct addr *src, const struct addr *dst, __be16 sport,
				    __be16 dport, __u8 proto)
{
	__u64 s0 = addr_half(src, 0), s1 = addr_half(src, 1), d0 = addr_half(dst, 0), d1 = addr_half(dst, 1);
	half_t *to = (half_t *)k;
	bool swapped;

	if (s0 != d0)
		swapped = bpf_be64_to_cpu(s0) > bpf_be64_to_cpu(d0);
	else if (s1 != d1)
		swapped = bpf_be64_to_cpu(s1) > bpf_be64_to_cpu(d1);
	else
		swapped = bpf_ntohs(sport) > bpf_ntohs(dport);
	if (swapped) {
		to[0] = d0;
		to[1] = d1;
		to[2] = s0;
		to[3] = s1;
		to[4] = (__u64)proto << 32 | (__u32)sport << 16 | dport;
	} else {
		to[0] = s0;
		to[1] = s1;
		to[2] = d0;
		to[3] = d1;
		to[4] = (__u64)proto << 32 | (__u32)dport << 16 | sport;
	}
	return swapped;
}

static __always_inline void packet_size(struct __sk_buff *skb, struct packet *p)
{
	p->bytes = skb->len - p->l3;
	p->packets = skb->gso_segs ?: 1;
}

static __always_inline __u64 coarse_now(void)
{
	return bpf_ktime_get_coarse_ns();
}

/*
 * Whether the IP header's length is true. A packet of segments may be longer than
 * the field can say, and then says 0.
 */
static __always_inline bool length_true(struct __sk_buff *skb, __u32 l3, __u32 least, __u32 len, bool none)
{
	if (none)
		return skb->gso_size != 0;
	return len >= least && l3 + len <= skb->len;
}

/* What ports_read is asked and answers. */
struct transport {
	__u32 off;  /* of its header, in the packet */
	__u32 len;  /* from there to the packet's end, as IP says */
	__u32 size; /* of its header */
	__be16 sport, dport;
	__u8 proto, tcp_flags, icmp_type, icmp_code;
	__u8 first; /* of several fragments: more is to come */
	__u8 pad[7];
};

/* The identifier of an ICMP echo is the port of who asks. */
static __always_inline void echo_ports(__u8 proto, const struct icmp_header *h, __be16 *sport, __be16 *dport)
{
	if (proto == IPPROTO_ICMP ? h->type == ICMP4_ECHO || h->type == ICMP4_TIMESTAMP : h->type == ICMP6_ECHO)
		*sport = h->id;
	else if (proto == IPPROTO_ICMP ? h->type == ICMP4_ECHO_REPLY || h->type == ICMP4_TIMESTAMP_REPLY
				       : h->type == ICMP6_ECHO_REPLY)
		*dport = h->id;
}

/* Reads the transport's header. Returns PACKET_OK or a reason. */
__noinline int ports_read(struct __sk_buff *skb, struct transport *t)
{
	union {
		struct tcp_header tcp;
		struct udp_header udp;
		struct icmp_header icmp;
		__u8 sctp[SCTP_HEADER];
	} h;

	if (!t)
		return REASON_INVALID_PACKET;
	switch (t->proto) {
	case IPPROTO_TCP:
		if (t->len < sizeof(h.tcp) || bpf_skb_load_bytes(skb, t->off, &h.tcp, sizeof(h.tcp)))
			return REASON_INVALID_PACKET;
		t->size = (h.tcp.offset >> 4) * 4;
		if (t->size < sizeof(h.tcp) || (t->size > t->len && !t->first))
			return REASON_INVALID_PACKET;
		t->sport = h.tcp.sport;
		t->dport = h.tcp.dport;
		t->tcp_flags = h.tcp.flags;
		return PACKET_OK;
	case IPPROTO_UDP:
		t->size = sizeof(h.udp);
		if (t->len < sizeof(h.udp) || bpf_skb_load_bytes(skb, t->off, &h.udp, sizeof(h.udp)))
			return REASON_INVALID_PACKET;
		t->sport = h.udp.sport;
		t->dport = h.udp.dport;
		/* 0 is that of a jumbogram. */
		if (h.udp.len && (bpf_ntohs(h.udp.len) < sizeof(h.udp) || (bpf_ntohs(h.udp.len) > t->len && !t->first)))
			return REASON_INVALID_PACKET;
		return PACKET_OK;
	case IPPROTO_SCTP:
		t->size = SCTP_HEADER;
		if (t->len < SCTP_HEADER || bpf_skb_load_bytes(skb, t->off, &h.sctp, SCTP_HEADER))
			return REASON_INVALID_PACKET;
		t->sport = h.udp.sport;
		t->dport = h.udp.dport;
		return PACKET_OK;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		t->size = sizeof(h.icmp);
		if (t->len < sizeof(h.icmp) || bpf_skb_load_bytes(skb, t->off, &h.icmp, sizeof(h.icmp)))
			return REASON_INVALID_PACKET;
		t->icmp_type = h.icmp.type;
		t->icmp_code = h.icmp.code;
		echo_ports(t->proto, &h.icmp, &t->sport, &t->dport);
		return PACKET_OK;
	}
	return PACKET_OK;
}

/* Where a chain of IPv6 headers is, and then where it ended. */
struct chain {
	__u32 off;
	__u8 next;
	__u8 routed;   /* a routing header that is not used up */
	__u8 fragment; /* there is a fragment header */
	__u8 pad;
	__be16 part; /* the fragment header's */
	__u16 pad2;
	__be32 id;
};

/* Follows IPv6 extension headers up to the transport's, or what is beyond a fragment header that is not the first. */
__noinline int chain_read(struct __sk_buff *skb, struct chain *c)
{
	struct ip6_fragment f;
	struct ip6_option o;
	int i;

	if (!c)
		return REASON_INVALID_PACKET;
	for (i = 0; i < IP6_CHAIN_MAX; i++) {
		switch (c->next) {
		case IP6_FRAGMENT:
			if (c->fragment || bpf_skb_load_bytes(skb, c->off, &f, sizeof(f)))
				return REASON_INVALID_PACKET;
			c->fragment = 1;
			c->part = f.fragment;
			c->id = f.id;
			c->off += sizeof(f);
			c->next = f.next;
			if (f.fragment & bpf_htons(IP6_OFFSET))
				return PACKET_OK;
			break;
		case IP6_ROUTING:
		case IP6_HOP_OPTIONS:
		case IP6_DEST_OPTIONS:
		case IP6_AUTH:
			if (bpf_skb_load_bytes(skb, c->off, &o, sizeof(o)))
				return REASON_INVALID_PACKET;
			if (c->next == IP6_ROUTING && o.left)
				c->routed = 1;
			c->off += c->next == IP6_AUTH ? (o.len + 2) * 4 : (o.len + 1) * 8;
			c->next = o.next;
			break;
		default:
			return PACKET_OK;
		}
	}
	return REASON_UNKNOWN_L4;
}

/* 1 to 64 as it is, in a way that the verifier of 6.1 understands. */
static __always_inline __u32 length_bounded(__u32 len)
{
	len -= 1;
	barrier_var(len);
	len &= 63;
	barrier_var(len);
	return len + 1;
}

/* Whether IPv4 options want the packet to go a way of its own; 1, 0, or -1 for options that cannot be read. */
__noinline int options_routed(struct __sk_buff *skb, __u32 off, __u32 len)
{
	__u8 options[64] = {};
	__u32 at = 0;
	int i;

	if (len > IP4_OPTIONS_MAX || len < 4 || bpf_skb_load_bytes(skb, off, options, length_bounded(len)))
		return -1;
	for (i = 0; i < IP4_OPTIONS_MAX; i++) {
		__u8 type, size;

		if (at >= len || at >= sizeof(options) - 1)
			return 0;
		type = options[at];
		if (type == IP4_LOOSE_ROUTE || type == IP4_STRICT_ROUTE)
			return 1;
		if (!type)
			return 0;
		size = type == 1 ? 1 : options[at + 1];
		if (!size)
			return -1;
		at += size;
	}
	return 0;
}

static __always_inline struct config *config_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

/* What is in force may change at any time: whoever judges reads it once, and remembers which it was. */
static __always_inline __u32 config_generation(const struct config *cfg)
{
	return *(const volatile __u32 *)&cfg->generation;
}

/* Neighbour discovery and the like: about the link to the pod, not for anybody behind it. */
static __always_inline int discovery_read(const struct packet *p)
{
	bool neighbours =
		p->icmp_type >= ICMP6_ROUTER_SOLICIT && p->icmp_type <= ICMP6_REDIRECT && p->ttl == DISCOVERY_HOPS;
	bool listeners = ((p->icmp_type >= ICMP6_LISTENER_QUERY && p->icmp_type <= ICMP6_LISTENER_DONE) ||
			  p->icmp_type == ICMP6_LISTENER_REPORT) &&
			 p->ttl == 1;
	struct addr dst = p->dst;
	struct place_entry *to;
	struct config *cfg;

	if (!neighbours && !listeners)
		return PACKET_OK;
	if (p->hook != HOOK_ENDPOINT_FROM)
		return PACKET_PASS;
	if (p->icmp_type == ICMP6_ROUTER_ADVERT || p->icmp_type == ICMP6_REDIRECT)
		return REASON_SPOOFED; /* a pod is no router */
	if (addr_local(&dst))
		return PACKET_PASS;
	cfg = config_get();
	if (!cfg || cfg->mode == MODE_CHAINED)
		return PACKET_PASS; /* other pods may be on the same link */
	to = bpf_map_lookup_elem(&addresses, &dst);
	if (!to)
		return PACKET_OK;
	barrier_var(to);
	return to->slot[config_generation(cfg) & 1].flags & PLACE_HOST ? PACKET_PASS : PACKET_OK;
}

/* What a fragment is: its number, where it begins, whether more come. */
struct part {
	__be32 id;
	__u16 begin; /* bytes into the transport's header and data */
	__u8 more;
	__u8 is;
};

/* A later fragment is given the ports of the first. */
static __always_inline int part_later(struct packet *p, __u8 proto, const struct part *part)
{
	struct fragment_key k = { .src = p->src, .dst = p->dst, .id = part->id, .proto = proto };
	__u32 least = 0;
	struct fragment *f;

	/* It may not write over the header by which the first one was judged (RFC 1858). */
	if (proto == IPPROTO_TCP)
		least = sizeof(struct tcp_header);
	else if (proto == IPPROTO_SCTP)
		least = SCTP_HEADER;
	if (part->begin < least)
		return REASON_INVALID_PACKET;
	p->flags |= PACKET_LATER;
	f = bpf_map_lookup_elem(&fragments, &k);
	if (!f || coarse_now() - f->seen > FRAGMENT_SECONDS * 1000000000ULL)
		return REASON_FRAGMENT_UNKNOWN;
	p->sport = f->sport;
	p->dport = f->dport;
	p->icmp_type = f->icmp_type;
	p->icmp_code = f->icmp_code;
	return PACKET_OK;
}

/* Remembers a first fragment. Whoever has read the packet calls it, but not before its source is known for true. */
__noinline int part_first(struct __sk_buff *skb, const struct packet *p)
{
	struct fragment_key k = {};
	struct fragment f = {};
	struct chain c = {};
	__be16 id = 0;

	if (!p)
		return 0;
	if (!p->v6) {
		if (bpf_skb_load_bytes(skb, p->l3 + offsetof(struct ip4_header, id), &id, sizeof(id)))
			return 0;
		k.id = id;
	} else {
		c.off = p->l3 + offsetof(struct ip6_header, next);
		if (bpf_skb_load_bytes(skb, c.off, &c.next, sizeof(c.next)))
			return 0;
		c.off = p->l3 + sizeof(struct ip6_header);
		if (chain_read(skb, &c))
			return 0;
		k.id = c.id;
	}
	k.src = p->src;
	k.dst = p->dst;
	k.proto = p->key.proto;
	f.sport = p->sport;
	f.dport = p->dport;
	f.icmp_type = p->icmp_type;
	f.icmp_code = p->icmp_code;
	f.seen = coarse_now();
	bpf_map_update_elem(&fragments, &k, &f, BPF_ANY);
	return 0;
}

/* The packet's source is its sender's. */
static __always_inline void packet_true(struct __sk_buff *skb, const struct packet *p)
{
	if (p->flags & PACKET_FIRST)
		part_first(skb, p);
}

static __always_inline bool icmp_is_error(const struct packet *p, __u8 proto)
{
	if (proto == IPPROTO_ICMPV6)
		return p->icmp_type >= ICMP6_UNREACHABLE && p->icmp_type <= ICMP6_PARAMETER;
	return p->icmp_type == ICMP4_UNREACHABLE || p->icmp_type == ICMP4_QUENCH ||
	       p->icmp_type == ICMP4_TIME_EXCEEDED || p->icmp_type == ICMP4_PARAMETER;
}

/* Reads an IPv4 header at p->l3: addresses, and where what it carries begins. */
static __always_inline int ip4_read(struct __sk_buff *skb, struct packet *p, struct transport *t, struct part *part)
{
	struct ip4_header ip;
	__u32 size, len;
	int routed;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return REASON_INVALID_PACKET;
	addr_set4(&p->src, ip.src);
	addr_set4(&p->dst, ip.dst);
	p->ttl = ip.ttl;
	size = (ip.version_ihl & 15) * 4;
	len = bpf_ntohs(ip.len);
	if (size < sizeof(ip) || !length_true(skb, p->l3, size, len, !len))
		return REASON_INVALID_PACKET;
	if (size > sizeof(ip)) {
		routed = options_routed(skb, p->l3 + sizeof(ip), size - sizeof(ip));
		if (routed)
			return routed > 0 ? REASON_SOURCE_ROUTED : REASON_INVALID_PACKET;
	}
	if (!len)
		len = skb->len - p->l3;
	t->proto = ip.proto;
	t->off = p->l3 + size;
	t->len = len - size;
	part->id = ip.id;
	part->begin = (bpf_ntohs(ip.fragment) & IP4_OFFSET) * 8;
	part->more = !!(ip.fragment & bpf_htons(IP4_MORE));
	part->is = part->begin || part->more;
	return PACKET_OK;
}

static __always_inline int ip6_read(struct __sk_buff *skb, struct packet *p, struct transport *t, struct part *part)
{
	struct chain c = {};
	struct ip6_header ip;
	__u32 len;
	int r;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || ip.version_class >> 4 != 6)
		return REASON_INVALID_PACKET;
	p->v6 = 1;
	addr_set6(&p->src, ip.src);
	addr_set6(&p->dst, ip.dst);
	p->ttl = ip.hops;
	len = bpf_ntohs(ip.len);
	/* IPv4 has its own packets: in these its addresses would mean another's. */
	if (!length_true(skb, p->l3 + sizeof(ip), 0, len, !len && ip.next != IPPROTO_NONE) || addr_mapped(&p->src) ||
	    addr_mapped(&p->dst))
		return REASON_INVALID_PACKET;
	if (!len)
		len = skb->len - p->l3 - sizeof(ip);
	c.off = p->l3 + sizeof(ip);
	c.next = ip.next;
	r = chain_read(skb, &c);
	if (r)
		return r;
	if (c.routed)
		return REASON_SOURCE_ROUTED;
	if (c.off > p->l3 + sizeof(ip) + len)
		return REASON_INVALID_PACKET;
	t->proto = c.next;
	t->off = c.off;
	t->len = p->l3 + sizeof(ip) + len - c.off;
	if (c.fragment) {
		part->id = c.id;
		part->begin = bpf_ntohs(c.part) & IP6_OFFSET;
		part->more = !!(c.part & bpf_htons(IP6_MORE));
		part->is = part->begin || part->more; /* neither: an atomic fragment, which is whole */
	}
	return PACKET_OK;
}

/* Reads any packet; p->hook is set. See packet_read. */
__noinline int packet_slow(struct __sk_buff *skb, struct packet *p)
{
	struct vlan_header vlan;
	struct transport t = {};
	struct part part = {};
	struct eth_header eth;
	__be16 proto;
	__u8 hook, bare;
	int i, r;

	if (!p)
		return REASON_INVALID_PACKET;
	hook = p->hook;
	bare = p->flags & PACKET_BARE;
	__builtin_memset(p, 0, sizeof(*p));
	p->hook = hook;
	p->bytes = skb->len;
	p->packets = 1;
	if (bare) {
		proto = skb->protocol;
	} else {
		if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
			return REASON_INVALID_PACKET;
		p->l3 = sizeof(eth);
		proto = eth.proto;
	}
	for (i = 0; i < VLAN_MAX; i++) {
		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if (bpf_skb_load_bytes(skb, p->l3, &vlan, sizeof(vlan)))
			return REASON_INVALID_PACKET;
		proto = vlan.proto;
		p->l3 += sizeof(vlan);
	}
	if (proto == bpf_htons(ETH_P_ARP))
		return PACKET_PASS;
	packet_size(skb, p);
	if (proto == bpf_htons(ETH_P_IP))
		r = ip4_read(skb, p, &t, &part);
	else if (proto == bpf_htons(ETH_P_IPV6))
		r = ip6_read(skb, p, &t, &part);
	else
		return REASON_NOT_IP;
	p->key.proto = t.proto; /* of a packet that is told as dropped */
	if (r)
		return r;
	if (part.begin) {
		r = part_later(p, t.proto, &part);
		p->headers = t.off - p->l3;
	} else {
		t.first = part.more;
		r = ports_read(skb, &t);
		p->headers = t.off + t.size - p->l3;
		p->sport = t.sport;
		p->dport = t.dport;
		p->tcp_flags = t.tcp_flags;
		p->icmp_type = t.icmp_type;
		p->icmp_code = t.icmp_code;
		if (!r && part.is)
			p->flags |= PACKET_FIRST;
	}
	p->swapped = key_set(&p->key, &p->src, &p->dst, p->sport, p->dport, t.proto);
	if (r)
		return r;
	if (t.proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) && !part.begin) {
		if (icmp_is_error(p, t.proto)) {
			p->flags |= PACKET_ERROR;
			p->quote = t.off + sizeof(struct icmp_header);
		}
		if (p->v6)
			return discovery_read(p);
		if (p->icmp_type == ICMP4_REDIRECT && p->hook == HOOK_ENDPOINT_FROM)
			return REASON_SPOOFED; /* a pod is no router */
	}
	return PACKET_OK;
}

/* Reads the usual packet, without calling anything. False: it is not one. */
static __always_inline bool packet_fast(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct eth_header *eth = data;
	struct ip4_header *ip4 = (void *)(eth + 1);
	struct ip6_header *ip6 = (void *)(eth + 1);
	struct tcp_header *tcp;
	struct udp_header *udp;
	__u32 size, len, left;
	__u8 proto;

	if ((void *)(ip4 + 1) > end)
		return false;
	if (eth->proto == bpf_htons(ETH_P_IP)) {
		if (ip4->version_ihl != 0x45 || ip4->fragment & bpf_htons(IP4_MORE | IP4_OFFSET))
			return false;
		addr_set4(&p->src, ip4->src);
		addr_set4(&p->dst, ip4->dst);
		proto = ip4->proto;
		p->ttl = ip4->ttl;
		p->v6 = 0;
		size = sizeof(*ip4);
		len = bpf_ntohs(ip4->len);
		tcp = (void *)(ip4 + 1);
	} else if (eth->proto == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(ip6 + 1) > end || ip6->version_class >> 4 != 6)
			return false;
		addr_set6(&p->src, ip6->src);
		addr_set6(&p->dst, ip6->dst);
		if (addr_mapped(&p->src) || addr_mapped(&p->dst))
			return false;
		proto = ip6->next;
		p->ttl = ip6->hops;
		p->v6 = 1;
		size = sizeof(*ip6);
		len = bpf_ntohs(ip6->len) + sizeof(*ip6);
		tcp = (void *)(ip6 + 1);
	} else {
		return false;
	}
	p->bytes = skb->len - sizeof(*eth);
	if (len > p->bytes || len < size)
		return false;
	left = len - size;
	p->tcp_flags = 0;
	if (proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return false;
		len = (tcp->offset >> 4) * 4;
		if (len < sizeof(*tcp) || len > left)
			return false;
		p->tcp_flags = tcp->flags;
		size += len;
	} else if (proto == IPPROTO_UDP) {
		udp = (void *)tcp;
		if ((void *)(udp + 1) > end)
			return false;
		len = bpf_ntohs(udp->len);
		if (len < sizeof(*udp) || len > left)
			return false;
		size += sizeof(*udp);
	} else {
		return false;
	}
	p->sport = tcp->sport;
	p->dport = tcp->dport;
	p->headers = size;
	p->l3 = sizeof(*eth);
	p->packets = skb->gso_segs ?: 1;
	p->quote = 0;
	p->icmp_type = p->icmp_code = 0;
	p->flags = 0;
	p->swapped = key_set(&p->key, &p->src, &p->dst, p->sport, p->dport, proto);
	return true;
}

/*
 * Reads a packet. Returns PACKET_OK; PACKET_PASS for what only the stack should
 * see; or the reason why it is to be dropped, and then as much is filled in as
 * could be read.
 */
static __always_inline int packet_read(struct __sk_buff *skb, struct packet *p, const enum hook hook)
{
	p->hook = hook;
	p->flow_flags = p->flow_mask = 0;
	p->stale = 0;
	p->from = p->to = 0;
	if (packet_fast(skb, p))
		return PACKET_OK;
	p->flags = 0;
	return packet_slow(skb, p);
}

/* The same of a device whose packets begin with the IP header. */
static __always_inline int packet_read_bare(struct __sk_buff *skb, struct packet *p, const enum hook hook)
{
	p->hook = hook;
	p->flags = PACKET_BARE;
	return packet_slow(skb, p);
}

#endif /* PACKET_H */
