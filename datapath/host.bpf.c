//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets between this node and the others, on the uplink and the tunnel.
 *
 * What comes for a pod here from a pod elsewhere is judged by the policy of who
 * gets it and goes straight into the pod. What comes from anybody else goes through
 * the stack to endpoint_to, as does all that the stack may have to translate back.
 * Of what leaves only packets of pods are looked at that the stack has sent to
 * another address than they were for: backends of services.
 *
 * Nothing is dropped here that is not from or for a pod of this node.
 *
 * Hooks: TCX or clsact of the uplink and the vxlan device: ingress (host_from),
 *        egress (host_to).
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

/* Between pods everything comes through the tunnel, where there is one for its addresses. */
static __always_inline bool tunnel_missed(struct __sk_buff *skb, const struct config *cfg)
{
	return cfg->mode == MODE_VXLAN && cfg->tunnel && skb->ifindex != cfg->tunnel;
}

SEC("tc")
int host_from(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	struct place *to, *from;
	struct packet p;
	struct flow *f;
	int r;

	if (!cfg)
		return TC_ACT_UNSPEC;
	if (skb->pkt_type != PACKET_HOST) {
		/* For others, if the device hears it at all; but whatever comes out of the tunnel is for us. */
		if (skb->ifindex != cfg->tunnel || skb->pkt_type != PACKET_OTHERHOST)
			return TC_ACT_UNSPEC;
		bpf_skb_change_type(skb, PACKET_HOST);
	}
	r = packet_read(skb, &p, HOOK_HOST_FROM);
	if (r == PACKET_PASS)
		return TC_ACT_UNSPEC;
	/* Of a packet that could not be read: nobody's, or whose it says. */
	to = place_known(&p.dst, config_generation(cfg));
	if (!to)
		return TC_ACT_UNSPEC;
	if (r)
		return to->ifindex ? packet_drop(skb, &p, r) : TC_ACT_UNSPEC;
	if (!to->ifindex && !(to->flags & PLACE_HOST))
		return TC_ACT_UNSPEC;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (!to->ifindex) {
		/* What this node makes of it could pass for that pod's. */
		from = place_known(&p.src, config_generation(cfg));
		if (from && from->ifindex)
			return packet_drop(skb, &p, REASON_SPOOFED);
		return answer_count(skb, &p, f, cfg);
	}
	if (f) {
		if (f->ifindex[flow_role(f, &p)])
			return packet_drop(skb, &p, REASON_SPOOFED); /* that one is here */
		if (f->flags & FLOW_STACK)
			return answer_count(skb, &p, f, cfg);
		if (tunnel_missed(skb, cfg))
			return packet_drop(skb, &p, REASON_SPOOFED);
		p.stale = to->id != f->id[!flow_role(f, &p)];
	}
	if (f && !p.stale && flow_good(f, &p, cfg)) {
		r = flow_next(skb, &p, f, cfg);
	} else {
		from = place_known(&p.src, config_generation(cfg));
		if (from && from->ifindex)
			return packet_drop(skb, &p, REASON_SPOOFED);
		if (!from || !(from->flags & PLACE_POD) || cfg->mode == MODE_CHAINED)
			return TC_ACT_UNSPEC; /* endpoint_to will see it */
		if (tunnel_missed(skb, cfg))
			return packet_drop(skb, &p, REASON_SPOOFED);
		p.to = to->ifindex;
		r = flow_other(skb, &p);
		if (r < 0)
			return TC_ACT_SHOT;
		if (r & FLOW_STACK)
			return TC_ACT_UNSPEC;
	}
	count_passed(&p, true, r);
	return forward_pod(skb, &p, to);
}

SEC("tc")
int host_to(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	struct packet p;
	struct place *from;
	struct flow *f;
	__u32 sender;
	int r;

	if (!cfg)
		return TC_ACT_UNSPEC;
	if (cfg->mode != MODE_CHAINED) {
		sender = mark_sender(skb);
		if (!sender)
			return TC_ACT_UNSPEC;
		mark_set(skb, 0); /* a tunnel's own packet is none of the pod's */
	}
	/* endpoint_from has seen it, and would have dropped what cannot be read. */
	if (packet_read(skb, &p, HOOK_HOST_TO))
		return TC_ACT_UNSPEC;
	if (cfg->mode == MODE_CHAINED) {
		/* Others use the mark; here a pod's packets have its address. */
		from = place_known(&p.src, config_generation(cfg));
		sender = from ? from->ifindex : 0;
	}
	if (!sender)
		return TC_ACT_UNSPEC;
	f = bpf_map_lookup_elem(&flows, &p.key);
	/* Only what the stack has made another: endpoint_from has judged and counted the rest. */
	if (f && !(f->flags & FLOW_DENIED) && (!(f->flags & FLOW_DEFERRED) || flow_role(f, &p) != CLIENT))
		return TC_ACT_UNSPEC;
	if (f && flow_good(f, &p, cfg)) {
		flow_next(skb, &p, f, cfg);
		return TC_ACT_UNSPEC;
	}
	p.from = sender;
	p.flow_flags = FLOW_STACK | FLOW_DEFERRED;
	r = flow_other(skb, &p);
	return r < 0 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
