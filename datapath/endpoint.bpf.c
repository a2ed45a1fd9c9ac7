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

SEC("tc")
int endpoint_from(struct __sk_buff *skb)
{
	struct endpoint *ep = endpoint_at(skb->ifindex);
	struct config *cfg = config_get();
	struct packet p;
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
	to = place_known(&p.dst, config_generation(cfg));
	f = bpf_map_lookup_elem(&flows, &p.key);
	/* Of a flow past the stack both ends are pods; the other one may be another by now. */
	if (f && to && !(f->flags & FLOW_STACK))
		p.stale = to->id != f->id[!flow_role(f, &p)];
	if (f && !p.stale && flow_good(f, &p, cfg)) {
		r = flow_next(skb, &p, f, cfg);
	} else {
		p.from = skb->ifindex;
		if (to) {
			p.to = to->ifindex;
			p.flow_flags = to->flags & PLACE_SERVICE ? FLOW_SERVICE : 0;
		}
		r = flow_other(skb, &p);
		if (r < 0)
			return TC_ACT_SHOT;
	}
	count_passed(&p, false, r);
	if (!to)
		return TC_ACT_UNSPEC;
	if (r & FLOW_STACK) {
		/* It may come out of the stack as another, to a backend: then the mark says whose it is. */
		if (to->flags & (PLACE_SERVICE | PLACE_HOST) && cfg->mode != MODE_CHAINED)
			mark_set(skb, ep->number);
		return TC_ACT_UNSPEC;
	}
	if (!to->ifindex)
		return forward_node(skb, &p, to, ep, cfg);
	count_passed(&p, true, r);
	return forward_pod(skb, &p, to);
}

/*
 * A service's backend may be a process of this node itself: then no program of ours
 * has met the request behind the stack, and its answer is the first that tells us,
 * by the socket that it comes from. It is judged as what the request was for. A
 * datagram has reached the process by then; a connection has not begun.
 */
__noinline int answer_judge(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock *sk = skb->sk;
	struct question q = {};
	struct config *cfg;
	struct endpoint *ep;
	struct flow_key key;
	struct place *host;
	struct addr server;
	__u32 generation, slot, ip4, ip6[4];
	struct flow *f;
	__u8 verdict;

	if (!p || !sk || (sk->family != AF_INET && sk->family != AF_INET6))
		return 0;
	cfg = config_get();
	key = p->key;
	f = bpf_map_lookup_elem(&flows, &key);
	if (!cfg || !f)
		return 0;
	ep = endpoint_at(f->ifindex[CLIENT]);
	if (!ep)
		return 0;
	generation = config_generation(cfg);
	slot = generation & 1;
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
	host = place_find(&server, slot);
	if (!host || !(host->flags & PLACE_HOST))
		return 0;
	q.peer = host->id;
	q.port = bpf_htons(sk->src_port);
	q.proto = key.proto;
	verdict = verdict_at(ep, &q, slot, EGRESS);
	f->id[SERVER] = q.peer;
	f->rule[EGRESS] = q.rule;
	f->verdict[EGRESS] = verdict;
	if (verdict == VERDICT_AUDIT)
		f->flags |= FLOW_AUDITED;
	if (verdict == VERDICT_DENY) {
		f->flags |= FLOW_DENIED;
		f->reason = REASON_POLICY_DENIED;
	}
	/* Last, as flow_judge does. */
	barrier();
	f->generation = generation;
	if (verdict == VERDICT_DENY)
		flow_tell(skb, p, f, EVENT_DROP);
	return 0;
}

SEC("tc")
int endpoint_to(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	struct packet p;
	struct place *from;
	struct flow *f;
	__u32 role;
	int r;

	r = packet_read(skb, &p, HOOK_ENDPOINT_TO);
	if (r == PACKET_PASS)
		return TC_ACT_UNSPEC;
	if (!cfg || !endpoint_at(skb->ifindex))
		return packet_drop(skb, &p, REASON_NO_ENDPOINT);
	if (r)
		return packet_drop(skb, &p, r);
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (f) {
		role = flow_role(f, &p);
		/* A pod here sent it, so endpoint_from has judged and counted it, unless the stack has made it another.
		 */
		if (f->ifindex[role] && !(f->flags & FLOW_DEFERRED && role == CLIENT) && !(f->flags & FLOW_DENIED)) {
			count_passed(&p, true, f->flags);
			return TC_ACT_UNSPEC;
		}
		if (f->flags & FLOW_SERVICE && role == SERVER && skb->sk &&
		    (!f->verdict[EGRESS] || f->generation != cfg->generation))
			answer_judge(skb, &p);
	}
	if (f && flow_good(f, &p, cfg)) {
		r = flow_next(skb, &p, f, cfg);
	} else {
		p.flow_flags = FLOW_STACK;
		p.to = skb->ifindex;
		from = place_known(&p.src, config_generation(cfg));
		if (from && from->flags & PLACE_POD)
			p.from = from->ifindex;
		else if (cfg->mode != MODE_CHAINED)
			p.from = mark_sender(skb); /* translated to the node's address */
		if (p.from)
			p.flow_flags |= FLOW_DEFERRED;
		r = flow_other(skb, &p);
		if (r < 0)
			return TC_ACT_SHOT;
	}
	count_passed(&p, true, r);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
