//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets between this node and all others, on every device that is no pod's: the
 * uplink, the tunnel, and those that the node has besides.
 *
 * What comes for a pod here from a pod elsewhere is judged by the policy of who
 * gets it and goes straight into the pod. What comes from anybody else goes through
 * the stack to endpoint_to, as does all that the stack may have to translate back.
 * All of it is marked: it may come out of the stack as the node's own, which pods
 * must let in.
 *
 * Nobody beyond has an address of a pod here, or this node's; and pods elsewhere
 * are behind the tunnel, or behind the uplink where there is none.
 *
 * Of what leaves only packets of pods are looked at that the stack may have sent to
 * another address than they were for: backends of services.
 *
 * Nothing is dropped here that is not from or for a pod of this node.
 *
 * Hooks: TCX or clsact of the devices: ingress (host_from), egress (host_to). Those
 *        with _bare are for devices whose packets have no Ethernet header.
 * Out:   events.
 * State: see include/state.h.
 */
#include <forward.h>

/* The answer of a service's backend, for the node: its stack has the address of the pod that asked. */
static __always_inline int answer_count(struct __sk_buff *skb, struct packet *p, struct flow *f,
					const struct config *cfg)
{
	if (f && f->flags & FLOW_DEFERRED && flow_role(f, p) == SERVER && flow_good(f, p, cfg))
		flow_next(skb, p, f, cfg);
	return TC_ACT_UNSPEC;
}

/* Whether pods elsewhere are behind this device. */
static __always_inline bool pods_behind(struct __sk_buff *skb, const struct config *cfg)
{
	if (cfg->mode == MODE_CHAINED)
		return true; /* who knows where */
	if (cfg->mode == MODE_VXLAN && cfg->tunnel)
		return skb->ifindex == cfg->tunnel;
	return !cfg->uplink || skb->ifindex == cfg->uplink;
}

/* Whether somebody out there pretends to be a pod, or this node. */
static __always_inline bool place_spoofed(struct __sk_buff *skb, const struct config *cfg, const struct place *from)
{
	if (!from)
		return false;
	return from->ifindex || from->flags & PLACE_HOST || (from->flags & PLACE_POD && !pods_behind(skb, cfg));
}

/* Into the stack, which may translate it: whatever comes of it is not the node's own. */
static __always_inline int node_from(struct __sk_buff *skb, const struct config *cfg)
{
	if (cfg->mode != MODE_CHAINED)
		mark_set(skb, NUMBER_OUTSIDE);
	return TC_ACT_UNSPEC;
}

/* A pod's from elsewhere, into the stack: until here the mark is that of the tunnel's packet which it came in. */
static __always_inline int pod_from(struct __sk_buff *skb, const struct config *cfg)
{
	if (cfg->mode != MODE_CHAINED)
		mark_set(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Whether an endpoint gets its packets from the stack alone. */
static __always_inline bool stack_endpoint(__u32 ifindex)
{
	struct endpoint *ep = endpoint_at(ifindex);

	return ep && ep->flags & EP_CHAINED;
}

static __always_inline int from_outside(struct __sk_buff *skb, const bool bare)
{
	struct config *cfg = config_get();
	struct place *to, *from;
	struct packet p;
	struct flow *f;
	bool straight;
	int r;

	if (!cfg)
		return TC_ACT_UNSPEC;
	/* What another plugin does on its devices is its own business. */
	if (cfg->mode == MODE_CHAINED && skb->ifindex != cfg->uplink && skb->ifindex != cfg->tunnel)
		return TC_ACT_UNSPEC;
	/* For a VLAN's device, which has these programs too. */
	if (skb->vlan_present && skb->vlan_tci & VLAN_NUMBER)
		return TC_ACT_UNSPEC;
	if (skb->pkt_type != PACKET_HOST) {
		/* For others, if the device hears it at all; but whatever comes out of the tunnel is for us. */
		if (skb->ifindex != cfg->tunnel || skb->pkt_type != PACKET_OTHERHOST)
			return TC_ACT_UNSPEC;
		bpf_skb_change_type(skb, PACKET_HOST);
	}
	r = bare ? packet_read_bare(skb, &p, HOOK_HOST_FROM) : packet_read(skb, &p, HOOK_HOST_FROM);
	if (r == PACKET_PASS)
		return TC_ACT_UNSPEC;
	/* Of a packet that could not be read: nobody's, or whose it says. */
	to = place_known(&p.dst, config_generation(cfg));
	if (!to)
		return node_from(skb, cfg); /* it may be for a service that nobody has told us of */
	if (r)
		return to->ifindex ? packet_drop(skb, &p, r) : node_from(skb, cfg);
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (!to->ifindex) {
		/* What this node makes of it could pass for that pod's. */
		from = place_known(&p.src, config_generation(cfg));
		if (from && from->ifindex)
			return packet_drop(skb, &p, REASON_SPOOFED);
		packet_true(skb, &p);
		answer_count(skb, &p, f, cfg);
		return node_from(skb, cfg);
	}
	straight = p.ttl > 1 && p.l3 == sizeof(struct eth_header) && !skb->vlan_present;
	if (f) {
		p.stale = f->ifindex[!flow_role(f, &p)] != to->ifindex || f->ifindex[flow_role(f, &p)] ||
			  to->id != f->id[!flow_role(f, &p)];
	}
	if (!f || p.stale || f->flags & FLOW_STACK || !pods_behind(skb, cfg) || !straight || !flow_good(f, &p, cfg)) {
		from = place_known(&p.src, config_generation(cfg));
		if (place_spoofed(skb, cfg, from))
			return packet_drop(skb, &p, REASON_SPOOFED);
		packet_true(skb, &p);
		if (f && f->flags & FLOW_STACK && !p.stale)
			answer_count(skb, &p, f, cfg);
		/* endpoint_to sees what is not from a pod, and what goes through the stack. */
		if (!from || !(from->flags & PLACE_POD))
			return node_from(skb, cfg); /* somebody's rules may give it the node's address */
		if (cfg->mode == MODE_CHAINED || !straight || !path_direct(cfg, from) || stack_endpoint(to->ifindex) ||
		    (f && f->flags & FLOW_STACK))
			return pod_from(skb, cfg);
		p.to = to->ifindex;
		r = flow_other(skb, &p);
		if (r < 0)
			return TC_ACT_SHOT;
		if (r & FLOW_STACK)
			return pod_from(skb, cfg);
	} else {
		packet_true(skb, &p);
		r = flow_next(skb, &p, f, cfg);
	}
	count_passed(&p, true, r);
	return forward_pod(skb, &p, to);
}

/*
 * What leaves for the address of a service that the stack has not translated: it is
 * for whoever has that address out there.
 */
static __always_inline int service_leaves(struct __sk_buff *skb, struct packet *p, struct flow *f,
					  const struct config *cfg)
{
	struct place *there;
	bool first;
	__u32 generation;
	int r;

	first = !f->verdict[EGRESS];
	r = f->flags;
	if (first || f->generation != cfg->generation) {
		generation = config_generation(cfg);
		there = place_find(&p->dst, generation);
		r = service_judge(f, generation, there ? there->id : 0, p->dport, p->key.proto);
	}
	if (!(r & FLOW_DENIED))
		return TC_ACT_UNSPEC;
	flow_dropped(skb, p, f, first, coarse_now(), cfg);
	return TC_ACT_SHOT;
}

static __always_inline int to_outside(struct __sk_buff *skb, const bool bare)
{
	struct config *cfg = config_get();
	__u32 sender = 0, role, number;
	struct place *from, *to;
	struct packet p;
	struct flow *f;
	int r;

	if (!cfg)
		return TC_ACT_UNSPEC;
	if (cfg->mode != MODE_CHAINED) {
		number = mark_number(skb, cfg);
		if (!number)
			return TC_ACT_UNSPEC;
		mark_set(skb, 0); /* a tunnel's own packet is none of the pod's */
		sender = number_sender(number);
		if (!sender)
			return TC_ACT_UNSPEC;
	}
	r = bare ? packet_read_bare(skb, &p, HOOK_HOST_TO) : packet_read(skb, &p, HOOK_HOST_TO);
	if (r == PACKET_PASS)
		return TC_ACT_UNSPEC;
	if (cfg->mode == MODE_CHAINED) {
		/* Others use the mark; here a pod's packets have its address. */
		from = place_known(&p.src, config_generation(cfg));
		sender = from ? from->ifindex : 0;
		to = place_known(&p.dst, config_generation(cfg));
		if (!sender || (to && to->ifindex))
			return TC_ACT_UNSPEC; /* for a pod here: endpoint_to sees it */
	}
	if (r)
		return packet_drop(skb, &p, r);
	packet_true(skb, &p);
	p.flow_mask = FLOW_STACK | FLOW_DEFERRED | FLOW_OUTSIDE;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (f) {
		role = flow_role(f, &p);
		if (role == CLIENT && f->flags & FLOW_SERVICE)
			return service_leaves(skb, &p, f, cfg);
		if (role == CLIENT && (f->flags & FLOW_DEFERRED || !(f->flags & FLOW_STACK))) {
			p.stale = f->ifindex[CLIENT] != sender || !(f->flags & FLOW_DEFERRED);
		} else {
			/* The stack has not made it another: endpoint_from has judged and counted it. */
			p.flags |= PACKET_COUNTED;
			p.flow_mask = 0;
		}
		if (!p.stale && flow_good(f, &p, cfg)) {
			if (!(p.flags & PACKET_COUNTED))
				flow_next(skb, &p, f, cfg);
			return TC_ACT_UNSPEC;
		}
	}
	p.from = sender;
	p.flow_flags = FLOW_STACK | FLOW_DEFERRED;
	r = flow_other(skb, &p);
	return r < 0 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int host_from(struct __sk_buff *skb)
{
	return from_outside(skb, false);
}

SEC("tc")
int host_to(struct __sk_buff *skb)
{
	return to_outside(skb, false);
}

SEC("tc")
int host_from_bare(struct __sk_buff *skb)
{
	return from_outside(skb, true);
}

SEC("tc")
int host_to_bare(struct __sk_buff *skb)
{
	return to_outside(skb, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
