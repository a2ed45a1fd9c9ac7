/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ways past the host's stack: into a pod here, to the next node, into the tunnel.
 *
 * A packet that cannot go on as it is (its hops are used up, it is too big for the
 * way between nodes) is left to the stack, which answers with ICMP, as routers do.
 */
#ifndef FORWARD_H
#define FORWARD_H

#include <flow.h>

enum {
	BPF_F_RECOMPUTE_CSUM = 1 << 0,
};

/* The tunnel's port of UDP. User space sets it. */
const volatile __u16 tunnel_port = 8472;

/* Hardware addresses of tunnels: this and the node's IPv4 address. */
static const __u8 tunnel_mac[2] = { 0x0e, 0x57 };

/* Writes into the mark which pod here a packet came from, 0 for none; the other bits are others'. */
static __always_inline void mark_set(struct __sk_buff *skb, __u32 number)
{
	__u32 mark = (skb->mark & ((1 << MARK_SHIFT) - 1)) | number << MARK_SHIFT;

	barrier_var(mark); /* the mark is written whole or not at all */
	skb->mark = mark;
}

/* What the mark says of where a packet has come into the stack: a pod's number, one that means something, or 0. */
static __always_inline __u32 mark_number(struct __sk_buff *skb, const struct config *cfg)
{
	return cfg->mode == MODE_CHAINED ? 0 : skb->mark >> MARK_SHIFT;
}

/* The pod that has a number: its interface, or 0. */
static __always_inline __u32 number_sender(__u32 number)
{
	__u32 *ifindex = number ? bpf_map_lookup_elem(&numbers, &number) : NULL;

	return ifindex ? *ifindex : 0;
}

/* Whether only the stack can deal with this packet, whatever flow it is of. */
static __always_inline bool stack_only(struct __sk_buff *skb, const struct packet *p)
{
	if (p->ttl > 1 && p->l3 == sizeof(struct eth_header) && !skb->vlan_present)
		return false;
	if (p->ttl <= 1)
		count_packet(p, hook_ingress(p->hook), REASON_TTL_EXCEEDED);
	return true;
}

/* Writes the Ethernet addresses and takes one hop from the packet, as a router does. dst is of two parts: 2 + 4 bytes.
 */
static __always_inline bool route_packet(struct __sk_buff *skb, const struct packet *p, const __u8 *src,
					 const __u8 *dst2, const __u8 *dst4)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct eth_header *eth = data;
	struct ip4_header *ip4 = (void *)(eth + 1);
	__u32 sum;
	__u8 hops;

	if ((void *)(ip4 + 1) > end)
		return false;
	__builtin_memcpy(eth->dst, dst2, 2);
	__builtin_memcpy(eth->dst + 2, dst4, 4);
	__builtin_memcpy(eth->src, src, ETH_ALEN);
	if (!p->v6) {
		/* The sum over the header stays the same, so that of the packet does. */
		ip4->ttl--;
		sum = ip4->check + bpf_htons(0x0100);
		ip4->check = sum + (sum >= 0xffff);
		return true;
	}
	hops = p->ttl - 1;
	return !bpf_skb_store_bytes(skb, sizeof(*eth) + offsetof(struct ip6_header, hops), &hops, 1,
				    BPF_F_RECOMPUTE_CSUM);
}

/* Into a pod here. */
static __always_inline int forward_pod(struct __sk_buff *skb, const struct packet *p, const struct place *to)
{
	if (stack_only(skb, p) || !route_packet(skb, p, to->host_mac, to->mac, to->mac + 2))
		return TC_ACT_UNSPEC;
	return bpf_redirect_peer(to->ifindex, 0);
}

/* Whether a packet, or one of the segments that will be made of it, is bigger than the way to other nodes. */
static __always_inline bool too_big(struct __sk_buff *skb, const struct packet *p, const struct config *cfg)
{
	__u32 size = skb->gso_size ? p->headers + skb->gso_size : p->bytes;

	return cfg->mtu && size > cfg->mtu;
}

/* Says to which node a packet goes in the tunnel. Global for its stack. */
__noinline int tunnel_set(struct __sk_buff *skb, __u32 vni, __u32 node)
{
	struct bpf_tunnel_key key = {};

	key.tunnel_id = vni;
	key.remote_ipv4 = node;
	key.tunnel_ttl = 64;
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX);
}

/* To a pod on another node. */
static __always_inline int forward_node(struct __sk_buff *skb, const struct packet *p, const struct place *to,
					const struct endpoint *ep, const struct config *cfg)
{
	if (stack_only(skb, p))
		return TC_ACT_UNSPEC;
	if (too_big(skb, p, cfg)) {
		count_packet(p, false, REASON_TOO_BIG);
		return TC_ACT_UNSPEC;
	}
	if (cfg->mode == MODE_ROUTED) {
		/* The way there and the next hop's address are the host's routes'. */
		if (!cfg->uplink || !route_packet(skb, p, ep->host_mac, ep->mac, ep->mac + 2))
			return TC_ACT_UNSPEC;
		return bpf_redirect_neigh(cfg->uplink, NULL, 0, 0);
	}
	if (cfg->mode != MODE_VXLAN || !cfg->tunnel || !to->node4 ||
	    !route_packet(skb, p, ep->host_mac, tunnel_mac, (const __u8 *)&to->node4))
		return TC_ACT_UNSPEC;
	if (tunnel_set(skb, cfg->vni, bpf_ntohl(to->node4))) {
		count_packet(p, false, REASON_NO_ROUTE);
		return TC_ACT_SHOT;
	}
	return bpf_redirect(cfg->tunnel, 0);
}

#endif /* FORWARD_H */
