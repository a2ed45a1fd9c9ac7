/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who is who, and what policy says.
 *
 * A verdict is found by exact keys: every combination of the peer or anybody, each
 * length of a port's prefix that the set uses, and the protocol or any. Among all
 * that are found the smallest order counts, tier by tier. Sets without port ranges
 * use one or two lengths, so that is four to six lookups, for a flow's first
 * packet only.
 */
#ifndef POLICY_H
#define POLICY_H

#include <packet.h>

/* Pods, nodes and services; NULL for the rest of the world. */
static __always_inline struct place *place_known(const struct addr *a, __u32 slot)
{
	struct place_entry *e = bpf_map_lookup_elem(&addresses, a);

	if (!e)
		return NULL;
	barrier_var(e); /* or it is added to before it is known to be one */
	return &e->slot[slot & 1];
}

/*
 * Pods' links have two ends: an address of the link, fe80::/10, that is not the
 * pod's is this node's own. On another plugin's link there may be other pods.
 */
static __always_inline void place_link(struct addr *a)
{
	struct config *cfg = config_get();

	if (a->bytes[0] != 0xfe || (a->bytes[1] & 0xc0) != 0x80 || !cfg || cfg->mode == MODE_CHAINED)
		return;
	*a = addr_half(&cfg->node6, 1) ? cfg->node6 : cfg->node4;
}

/* Keys of maps are copied to the stack in global functions: 6.1 takes none from elsewhere. */
static __noinline struct place *place_find(const struct addr *a, __u32 slot)
{
	struct addr key = *a;
	struct network_entry *e;
	struct network n;
	struct place *p;

	place_link(&key);
	p = place_known(&key, slot);
	if (p)
		return p;
	n.prefix = 128;
	__builtin_memcpy(n.addr, &key, sizeof(n.addr));
	e = bpf_map_lookup_elem(&networks, &n);
	if (!e)
		return NULL;
	barrier_var(e);
	return &e->slot[slot & 1];
}

static __always_inline struct endpoint *endpoint_at(__u32 ifindex)
{
	return ifindex ? bpf_map_lookup_elem(&endpoints, &ifindex) : NULL;
}

/* An address that it does not have is all 0, which nobody has. */
static __always_inline bool endpoint_has(const struct endpoint *ep, const struct addr *a)
{
	return (addr_equal(a, &ep->ip4) || addr_equal(a, &ep->ip6)) && (addr_half(a, 1) || addr_half(a, 0));
}

/* What verdict_find is asked, and its answer's rule. */
struct question {
	__u32 set;
	__u32 peer;
	__be16 port;
	__u8 proto;
	__u8 direction; /* enum direction */
	__u32 rule;
};

/* The best so far of both tiers. */
struct answer {
	__u32 order[2];
	__u32 rule[2];
};

/* Global, so that the verifier does not follow each key's outcome through all later ones. */
__noinline int answer_better(struct answer *a, const struct verdict_key *k)
{
	const struct verdict *v;
	struct verdict_key key;

	if (!a || !k)
		return 0;
	key = *k;
	v = bpf_map_lookup_elem(&verdicts, &key);
	if (!v)
		return 0;
	/* 0 is no rule: as the largest number it never wins. */
	if (v->order[0] - 1 < a->order[0] - 1) {
		a->order[0] = v->order[0];
		a->rule[0] = v->rule[0];
	}
	if (v->order[1] - 1 < a->order[1] - 1) {
		a->order[1] = v->order[1];
		a->rule[1] = v->rule[1];
	}
	return 0;
}

/* Returns VERDICT_ALLOW or VERDICT_DENY. */
__noinline int verdict_find(struct question *q)
{
	struct verdict_key k = {};
	struct answer a = {};
	__u32 bits, action;
	struct set *set;
	bool ingress;
	__u32 n;

	if (!q)
		return VERDICT_DENY;
	q->rule = 0;
	k.set = q->set;
	if (!k.set)
		return VERDICT_ALLOW;
	set = bpf_map_lookup_elem(&sets, &k.set);
	if (!set)
		return VERDICT_DENY; /* written before whatever refers to it, so this is somebody's mistake */
	ingress = q->direction == INGRESS;
	bits = set->bits[ingress];
	k.proto = q->proto;
	for (n = 0; n <= 16; n++) {
		if (!(bits & 1 << n))
			continue;
		k.port = q->port & bpf_htons(0xffff << (16 - n));
		k.bits = n | (ingress ? KEY_INGRESS : 0);
		k.peer = q->peer;
		answer_better(&a, &k);
		if (!q->peer)
			continue;
		k.peer = 0;
		answer_better(&a, &k);
	}
	if (set->any_proto[ingress]) {
		k.port = 0;
		k.proto = 0;
		k.bits = ingress ? KEY_INGRESS : 0;
		k.peer = q->peer;
		answer_better(&a, &k);
		if (q->peer) {
			k.peer = 0;
			answer_better(&a, &k);
		}
	}
	action = a.order[0] & 3;
	if (action == ACTION_ALLOW || action == ACTION_DENY) {
		q->rule = a.rule[0];
		return action == ACTION_ALLOW ? VERDICT_ALLOW : VERDICT_DENY;
	}
	action = a.order[1] & 3;
	if (action == ACTION_ALLOW || action == ACTION_DENY) {
		q->rule = a.rule[1];
		return action == ACTION_ALLOW ? VERDICT_ALLOW : VERDICT_DENY;
	}
	return set->isolated[ingress] ? VERDICT_DENY : VERDICT_ALLOW;
}

static __always_inline int verdict_at(struct endpoint *ep, struct question *q, __u32 slot, __u8 direction)
{
	__u32 set = ep->set[slot];
	int v;

	q->set = set & ~SET_AUDIT;
	q->direction = direction;
	v = verdict_find(q);
	return v == VERDICT_DENY && set & SET_AUDIT ? VERDICT_AUDIT : v;
}

/* The identity of a flow's end: of the pod, where its address was translated on the way. */
static __always_inline __u32 identity_of(struct place *at, struct endpoint *ep, const struct addr *a, __u32 slot)
{
	struct place *p = at;

	if (ep && !endpoint_has(ep, a)) {
		p = place_known(addr_mapped(a) ? &ep->ip4 : &ep->ip6, slot);
		if (!p) /* a pod of the other family alone */
			p = place_known(addr_mapped(a) ? &ep->ip6 : &ep->ip4, slot);
	}
	return p ? p->id : 0;
}

/*
 * Whether what goes between two places may go past the host's stack, both ways:
 * between pods only. Everything else may be translated there, and then its
 * connection tracking must see both directions.
 */
static __always_inline bool path_direct(const struct config *cfg, const struct place *p)
{
	if (!p || !(p->flags & PLACE_POD))
		return false;
	if (p->ifindex)
		return true;
	return cfg->mode == MODE_VXLAN ? cfg->tunnel && p->node4 : cfg->uplink != 0;
}

/*
 * A flow's generation, verdicts and flags are one word, so that nobody ever finds the verdict of the one judgement with
 * the generation of another. Whoever judges replaces the word that there was when it began, or nothing: then another
 * program has judged meanwhile, and the flow is judged again if that was by something else than what is in force.
 */
static __always_inline half_t *flow_word(const struct flow *f)
{
	return (half_t *)&f->generation;
}

static __always_inline __u64 flow_now(const struct flow *f)
{
	return *(volatile half_t *)flow_word(f);
}

/* Has a flow judged again by whoever comes next: before its ends are written. */
static __always_inline void flow_unjudge(struct flow *f, const struct config *cfg)
{
	*(volatile __u32 *)&f->generation = ~cfg->generation;
}

/* Writes what was judged in place of the word was. Returns the flags. */
static __always_inline __u8 flow_settle(struct flow *f, __u64 was, __u32 generation, const __u8 *verdict, __u8 flags)
{
	const __u8 judged = FLOW_DENIED | FLOW_AUDITED;
	__u64 next, seen;
	int i;

	if (verdict[EGRESS] == VERDICT_DENY || verdict[INGRESS] == VERDICT_DENY)
		flags |= FLOW_DENIED;
	if (verdict[EGRESS] == VERDICT_AUDIT || verdict[INGRESS] == VERDICT_AUDIT)
		flags |= FLOW_AUDITED;
	for (i = 0; i < 2; i++) {
		next = (was & ~((__u64)judged << WORD_FLAGS | 0xffffULL << WORD_VERDICT | 0xffffffff)) |
		       (__u64)flags << WORD_FLAGS | (__u64)verdict[INGRESS] << (WORD_VERDICT + 8) |
		       (__u64)verdict[EGRESS] << WORD_VERDICT | generation;
		seen = __sync_val_compare_and_swap(flow_word(f), was, next);
		/* Only FLOW_OPENED changes without a judgement. */
		if (seen == was || (__u32)seen != (__u32)was)
			break;
		was = seen;
	}
	return next >> WORD_FLAGS;
}

/* Who is unknown: it is as everybody is that no rule names. */
static __always_inline struct place *place_nobody(const struct addr *a, __u32 slot)
{
	struct network_entry *e;
	struct network n = {};

	if (addr_mapped(a)) {
		n.prefix = 96;
		n.addr[10] = n.addr[11] = 0xff;
	}
	e = bpf_map_lookup_elem(&networks, &n);
	if (!e)
		return NULL;
	barrier_var(e);
	return &e->slot[slot & 1];
}

/*
 * Whether the source of what came by a node port says nothing of who sent it: it is this node's own after
 * masquerading, or that of a pod elsewhere, which only the tunnel's word would be good for.
 */
static __always_inline bool place_doubtful(const struct config *cfg, const struct place *p)
{
	return p && (p->flags & PLACE_HOST || (p->flags & PLACE_POD && (p->ifindex || cfg->mode == MODE_VXLAN)));
}

/*
 * Judges a flow by what is in force now: its ends' identities, verdicts and rules,
 * and the flags that follow from them. A flow that has been past the host's stack
 * goes through it when an end is no pod any more, and never the other way: the
 * stack may translate it. Returns the flow's flags.
 */
__noinline int flow_judge(const struct flow_key *key, struct flow *f)
{
	struct endpoint *ce, *se;
	const struct addr *ca, *sa;
	struct place *cp, *sp;
	struct question q = {};
	struct config *cfg;
	__u32 zero = 0, generation, slot, rule[2] = {};
	__u8 verdict[2] = {}, flags;
	bool self, host;
	__u64 was;

	cfg = bpf_map_lookup_elem(&settings, &zero);
	if (!cfg || !key || !f)
		return FLOW_DENIED;
	was = flow_now(f); /* before the ends are read */
	barrier();
	flags = was >> WORD_FLAGS;
	generation = config_generation(cfg);
	slot = generation & 1;
	ca = &key->a;
	sa = &key->b;
	q.port = key->port_b;
	if (f->reversed) {
		ca = &key->b;
		sa = &key->a;
		q.port = key->port_a;
	}
	q.proto = key->proto;
	if (q.proto == IPPROTO_ICMP || q.proto == IPPROTO_ICMPV6)
		q.port = 0; /* an identifier, no port */
	ce = endpoint_at(f->ifindex[CLIENT]);
	se = endpoint_at(f->ifindex[SERVER]);
	cp = place_find(ca, slot);
	sp = place_find(sa, slot);
	host = cp && cp->flags & PLACE_HOST;
	if (flags & FLOW_OUTSIDE && place_doubtful(cfg, cp)) {
		cp = place_nobody(ca, slot);
		host = false;
	}
	f->id[CLIENT] = identity_of(cp, ce, ca, slot);
	f->id[SERVER] = identity_of(sp, NULL, sa, slot);
	/* Nobody can keep a pod from talking to itself. */
	self = ce && (ce == se || endpoint_has(ce, sa));
	if (flags & FLOW_SERVICE) {
		ce = NULL;
		se = NULL;
	}
	flags = 0;
	if (cfg->mode == MODE_CHAINED || !path_direct(cfg, cp) || !path_direct(cfg, sp) ||
	    (ce && ce->flags & EP_CHAINED) || (se && se->flags & EP_CHAINED))
		flags = FLOW_STACK;
	if (ce) {
		verdict[EGRESS] = VERDICT_ALLOW;
		q.peer = f->id[SERVER];
		if (!self) {
			verdict[EGRESS] = verdict_at(ce, &q, slot, EGRESS);
			rule[EGRESS] = q.rule;
		}
	}
	/* What was denied at the one end has never come to the other. */
	if (se && verdict[EGRESS] != VERDICT_DENY) {
		verdict[INGRESS] = VERDICT_ALLOW;
		q.peer = f->id[CLIENT];
		if (!self && (ce || !host)) {
			verdict[INGRESS] = verdict_at(se, &q, slot, INGRESS);
			rule[INGRESS] = q.rule;
		}
	}
	f->rule[EGRESS] = rule[EGRESS];
	f->rule[INGRESS] = rule[INGRESS];
	/* Last: who finds it in force takes the rest for judged. */
	barrier();
	return flow_settle(f, was, generation, verdict, flags);
}

/*
 * Judges a flow to a service's own address by who is behind it, as it turned out: a process of this node, or nobody,
 * for the stack has not translated it. peer is an identity of that generation. Returns the flow's flags.
 */
__noinline int service_judge(struct flow *f, __u32 generation, __u32 peer, __u32 port, __u32 proto)
{
	struct question q = {};
	__u8 verdict[2] = {};
	struct endpoint *ep;
	__u64 was;

	if (!f)
		return FLOW_DENIED;
	was = flow_now(f);
	barrier();
	ep = endpoint_at(f->ifindex[CLIENT]);
	if (!ep)
		return was >> WORD_FLAGS;
	q.peer = peer;
	q.port = port;
	q.proto = proto;
	verdict[EGRESS] = verdict_at(ep, &q, generation & 1, EGRESS);
	f->id[SERVER] = peer;
	f->rule[EGRESS] = q.rule;
	barrier();
	return flow_settle(f, was, generation, verdict, 0);
}

#endif /* POLICY_H */
