//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A pod's packets, at the host's end of its veth pair.
 *
 * What a pod sends is judged by its own policy and, where it goes to a pod here, by
 * that one's, and takes the short way if both ends are pods. The rest goes through
 * the host's stack. What is for a service is judged when the stack has chosen a
 * backend: in endpoint_to if that is here, in host_to otherwise.
 *
 * Hooks: TCX or clsact of the device: ingress is what the pod sends (endpoint_from),
 *        egress what the host's stack sends it (endpoint_to).
 * Out:   events.
 * State: see include/state.h.
 */
#include <forward.h>

/* Whether a pod makes packets of the tunnel itself: what is in them would pass for another pod's. */
static __always_inline bool tunnel_forged(const struct packet *p, const struct place *to, const struct config *cfg)
{
	if (cfg->mode != MODE_VXLAN || p->key.proto != IPPROTO_UDP || bpf_ntohs(p->dport) != tunnel_port)
		return false;
	return !to || !(to->flags & (PLACE_POD | PLACE_SERVICE));
}

/*
 * Says in the mark of what goes into the stack whose it is. It may come out as another's, of the node or for a backend.
 * An answer was judged with its question, whatever it is translated to; but where the stack has forgotten the question
 * it may be one itself, by a node port, and not the node's. What is for none of these may be for a service all the
 * same, of which nobody has told us yet.
 */
static __always_inline void mark_sent(struct __sk_buff *skb, const struct packet *p, const struct place *to, int flow,
				      const struct endpoint *ep, const struct config *cfg)
{
	if (cfg->mode == MODE_CHAINED || (to && to->flags & PLACE_POD))
		return;
	if (to ? !(to->flags & (PLACE_SERVICE | PLACE_HOST)) : !addr_near(&p->dst))
		mark_set(skb, NUMBER_UNKNOWN);
	else
		mark_set(skb, flow & FLOW_ANSWER ? NUMBER_OUTSIDE : ep->number);
}

SEC("tc")
int endpoint_from(struct __sk_buff *skb)
{
	struct endpoint *ep = endpoint_at(skb->ifindex);
	struct config *cfg = config_get();
	struct packet p;
	__u32 role;
	struct place *to;
	struct flow *f;
	int r;

	r = packet_read(skb, &p, HOOK_ENDPOINT_FROM);
	if (r == PACKET_PASS)
		return TC_ACT_UNSPEC;
	if (!ep || !cfg)
		return packet_drop(skb, &p, REASON_NO_ENDPOINT);
	if (r)
		return packet_drop(skb, &p, r);
	/* From its own address of this link it reaches no further than the host. */
	if (!endpoint_has(ep, &p.src) && !(ep->flags & EP_ANY_SOURCE) &&
	    !(p.src.bytes[0] == 0xfe && addr_local(&p.src) && addr_local(&p.dst)))
		return packet_drop(skb, &p, REASON_SPOOFED);
	packet_true(skb, &p);
	to = place_known(&p.dst, config_generation(cfg));
	if (tunnel_forged(&p, to, cfg))
		return packet_drop(skb, &p, REASON_SPOOFED);
	p.to = to ? to->ifindex : 0;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (f) {
		role = flow_role(f, &p);
		/* Addresses are others' some day: the flow is that of the pods that it was judged for. */
		p.stale = f->ifindex[role] != skb->ifindex ||
			  (f->ifindex[!role] != p.to && !(f->flags & FLOW_DEFERRED && role == SERVER));
		/* Of a flow past the stack both ends are pods; the other one may be another by now. */
		if (to && !(f->flags & FLOW_STACK))
			p.stale |= to->id != f->id[!role];
	}
	if (f && !p.stale && flow_good(f, &p, cfg)) {
		r = flow_next(skb, &p, f, cfg);
	} else {
		p.from = skb->ifindex;
		p.flow_flags = to && to->flags & PLACE_SERVICE ? FLOW_SERVICE : 0;
		p.flow_mask = FLOW_SERVICE;
		r = flow_other(skb, &p);
		if (r < 0)
			return TC_ACT_SHOT;
	}
	count_passed(&p, false, r);
	if (!to || r & FLOW_STACK) {
		mark_sent(skb, &p, to, r, ep, cfg);
		return TC_ACT_UNSPEC;
	}
	if (!p.to)
		return forward_node(skb, &p, to, ep, cfg);
	count_passed(&p, true, r);
	return forward_pod(skb, &p, to);
}

/*
 * A service's backend may be a process of this node itself: then no program of ours
 * has met the request behind the stack, and its answer is the first that tells us,
 * by the socket that it comes from. It is judged as what the request was for. A
 * datagram has reached the process by then; a connection has not begun. That there is
 * no process is no answer of one: a RST is not judged, whose socket is the kernel's and
 * knows of no port.
 */
__noinline int answer_judge(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock *sk = skb->sk;
	struct config *cfg;
	struct flow_key key;
	struct place *host;
	struct addr server;
	__u32 generation, ip4, ip6[4];
	struct flow *f;
	__u8 before;
	int flags;

	if (!p || !sk || p->tcp_flags & TCP_RST || (sk->family != AF_INET && sk->family != AF_INET6))
		return 0;
	cfg = config_get();
	key = p->key;
	f = bpf_map_lookup_elem(&flows, &key);
	if (!cfg || !f)
		return 0;
	/* A socket that is bound to no address answers from the node's. */
	if (!p->v6) {
		ip4 = sk->src_ip4;
		server = cfg->node4;
		if (ip4)
			addr_set4(&server, ip4);
	} else {
		ip6[0] = sk->src_ip6[0];
		ip6[1] = sk->src_ip6[1];
		ip6[2] = sk->src_ip6[2];
		ip6[3] = sk->src_ip6[3];
		server = cfg->node6;
		if (ip6[0] || ip6[3])
			addr_set6(&server, (const __u8 *)ip6);
	}
	generation = config_generation(cfg);
	host = place_find(&server, generation);
	if (!host || !(host->flags & PLACE_HOST))
		return 0;
	before = flow_now(f) >> WORD_FLAGS;
	flags = service_judge(f, generation, host->id, bpf_htons(sk->src_port), key.proto);
	if (flags & FLOW_DENIED && !(before & FLOW_DENIED)) {
		f->reason = REASON_POLICY_DENIED;
		flow_tell(skb, p, f, EVENT_DROP);
	}
	return 0;
}

/*
 * Whether the packet of a flow's client was sent by another one than the flow was judged
 * for: a pod whose address was translated is known by its mark, and one whose address was
 * not by that.
 */
static __always_inline bool sender_changed(const struct flow *f, const struct packet *p, __u32 number, __u32 sender,
					   const struct config *cfg)
{
	struct place *from;

	if (!!(f->flags & FLOW_OUTSIDE) != (number == NUMBER_OUTSIDE))
		return true;
	if (sender)
		return sender != f->ifindex[CLIENT] || !(f->flags & (FLOW_DEFERRED | FLOW_STACK));
	if (!(f->flags & FLOW_DEFERRED))
		return false;
	from = place_known(&p->src, config_generation(cfg));
	return (from && from->flags & PLACE_POD ? from->ifindex : 0) != f->ifindex[CLIENT];
}

/* Whether an address is that of a pod here. */
static __always_inline bool addr_pod(const struct addr *a, const struct config *cfg)
{
	struct place *p = place_known(a, config_generation(cfg));

	return p && p->flags & PLACE_POD && p->ifindex;
}

SEC("tc")
int endpoint_to(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	__u32 role, number, sender;
	struct packet p;
	struct place *from;
	struct flow *f;
	int r;

	r = packet_read(skb, &p, HOOK_ENDPOINT_TO);
	if (r == PACKET_PASS)
		return TC_ACT_UNSPEC;
	if (!cfg || !endpoint_at(skb->ifindex))
		return packet_drop(skb, &p, REASON_NO_ENDPOINT);
	if (r)
		return packet_drop(skb, &p, r);
	packet_true(skb, &p);
	number = mark_number(skb, cfg);
	sender = number_sender(number);
	/* It is from outside, or the pod is gone or unknown: nobody knows who it was, but not the node. */
	if (number && !sender)
		number = number == NUMBER_UNKNOWN && addr_pod(&p.src, cfg) ? 0 : NUMBER_OUTSIDE;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (f) {
		role = flow_role(f, &p);
		if (f->flags & FLOW_SERVICE && role == SERVER && skb->sk &&
		    (!f->verdict[EGRESS] || f->generation != cfg->generation))
			answer_judge(skb, &p);
		p.stale = f->ifindex[!role] != skb->ifindex ||
			  (role == CLIENT && sender_changed(f, &p, number, sender, cfg));
		/*
		 * A pod here sent it, so endpoint_from has judged and counted it, unless the stack has made it
		 * another.
		 */
		if (!p.stale && f->ifindex[role] && !(f->flags & FLOW_DEFERRED && role == CLIENT)) {
			p.flags |= PACKET_COUNTED;
			if (flow_good(f, &p, cfg)) {
				count_passed(&p, true, f->flags);
				return TC_ACT_UNSPEC;
			}
		}
	}
	if (f && !p.stale && flow_good(f, &p, cfg)) {
		r = flow_next(skb, &p, f, cfg);
	} else {
		p.to = skb->ifindex;
		from = place_known(&p.src, config_generation(cfg));
		if (from && from->flags & PLACE_POD)
			p.from = from->ifindex;
		else
			p.from = sender; /* translated to the node's address */
		if (p.from && number == NUMBER_OUTSIDE)
			return packet_drop(skb, &p, REASON_SPOOFED);
		p.flow_flags = FLOW_STACK;
		if (number == NUMBER_OUTSIDE)
			p.flow_flags |= FLOW_OUTSIDE;
		if (p.from)
			p.flow_flags |= FLOW_DEFERRED;
		if (!(p.flags & PACKET_COUNTED))
			p.flow_mask = FLOW_STACK | FLOW_DEFERRED | FLOW_OUTSIDE;
		r = flow_other(skb, &p);
		if (r < 0)
			return TC_ACT_SHOT;
	}
	count_passed(&p, true, r);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
