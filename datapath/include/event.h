/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is told and counted. Counters are exact; events of flows carry the flow's
 * own counts, so one that is lost loses no figure, and it is counted itself.
 * The reader polls, so events wake nobody.
 */
#ifndef EVENT_H
#define EVENT_H

#include <policy.h>

enum {
	SECOND = 1000000000,
	QUOTA = 100, /* drops without a flow told in a second, by CPU and reason */
};

static __always_inline void count(__u32 index, __u64 packets, __u64 bytes)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &index);

	if (!c)
		return;
	c->packets += packets;
	c->bytes += bytes;
}

static __always_inline void count_packet(const struct packet *p, bool ingress, enum reason reason)
{
	count((ingress ? COUNT_INGRESS : 0) + reason, p->packets, p->bytes);
}

/* Counts a packet that goes its way, by the flags of its flow. */
static __always_inline void count_passed(const struct packet *p, bool ingress, int flow_flags)
{
	count_packet(p, ingress, flow_flags & FLOW_AUDITED ? REASON_AUDITED : REASON_NONE);
}

static __always_inline bool hook_ingress(__u8 hook)
{
	return hook == HOOK_ENDPOINT_TO || hook == HOOK_HOST_FROM;
}

static __always_inline bool telling(const struct config *cfg)
{
	return cfg && cfg->flags & CONFIG_TELL;
}

/* Everything that is in the flow, with times of the clock that events have. */
static __always_inline void event_flow(struct flow_event *e, const struct flow_key *k, const struct flow *f,
				       __u64 coarse)
{
	__u64 shift = e->ktime - coarse;

	e->key = *k;
	e->flow = *f;
	e->flow.began += shift;
	e->flow.seen += shift;
	e->flow.told += shift;
}

static __always_inline void event_header(struct __sk_buff *skb, struct flow_event *e)
{
	__u32 len = skb->len < HEADER_MAX ? skb->len : HEADER_MAX;

	__builtin_memset(e->header, 0, sizeof(e->header));
	e->captured = 0;
	if (!bpf_skb_load_bytes(skb, 0, e->header, length_bounded(len)))
		e->captured = len;
}

/* Tells of a packet, with the flow that it belongs to, or NULL. */
static __always_inline int event_tell(struct __sk_buff *skb, const struct packet *p, struct flow *f, __u8 kind,
				      __u8 reason, bool reply)
{
	/* A drop has the header behind it; the verifier wants to know the size. */
	const __u32 bare = offsetof(struct flow_event, header);
	struct flow_event *e;
	__u64 coarse;

	if (kind == EVENT_DROP)
		e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	else
		e = bpf_ringbuf_reserve(&events, bare, 0);
	if (!e) {
		count(COUNT_LOST + kind, 1, 0);
		return 0;
	}
	coarse = coarse_now();
	e->ktime = bpf_ktime_get_boot_ns();
	e->cookie = p->hook == HOOK_ENDPOINT_FROM ? bpf_get_socket_cookie(skb) : 0;
	if (f) {
		f->told = coarse;
		event_flow(e, &p->key, f, coarse);
	} else {
		e->key = p->key;
		__builtin_memset(&e->flow, 0, sizeof(e->flow));
		e->flow.reversed = p->swapped;
	}
	e->ifindex = skb->ifindex;
	e->len = p->bytes;
	e->captured = 0;
	e->kind = kind;
	e->reason = reason;
	e->hook = p->hook;
	e->reply = reply;
	e->icmp_type = p->icmp_type;
	e->icmp_code = p->icmp_code;
	if (kind == EVENT_DROP) {
		e->flow.tcp_flags[reply] |= p->tcp_flags; /* no flow counts what was dropped */
		event_header(skb, e);
	}
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	count(COUNT_EVENTS + kind, 1, 0);
	return 1;
}

/* Tells of a flow; the reason is that of a drop. */
__noinline int flow_tell(struct __sk_buff *skb, struct packet *p, struct flow *f, __u32 kind)
{
	bool reply;

	if (!p || !f || !telling(config_get()))
		return 0;
	reply = p->swapped != f->reversed;
	switch (kind) {
	case EVENT_NEW:
		return event_tell(skb, p, f, EVENT_NEW, REASON_NONE, reply);
	case EVENT_UPDATE:
		return event_tell(skb, p, f, EVENT_UPDATE, REASON_NONE, reply);
	case EVENT_DROP:
		return event_tell(skb, p, f, EVENT_DROP, f->reason, reply);
	}
	return 0;
}

/* Tells of a flow without a packet of it: the last word, or what it has done since it was told of. */
static __always_inline int flow_report(const struct flow_key *k, struct flow *f, __u8 hook, __u8 kind)
{
	const __u32 bare = offsetof(struct flow_event, header);
	struct flow_event *e;
	__u64 coarse;

	if (!telling(config_get()))
		return 0;
	e = bpf_ringbuf_reserve(&events, bare, 0);
	if (!e) {
		count(COUNT_LOST + kind, 1, 0);
		return 0;
	}
	e->ktime = bpf_ktime_get_boot_ns();
	e->cookie = 0;
	coarse = coarse_now();
	f->told = coarse;
	event_flow(e, k, f, coarse);
	e->ifindex = 0;
	e->len = 0;
	e->captured = 0;
	e->kind = kind;
	e->reason = REASON_NONE;
	e->hook = hook;
	e->reply = 0;
	e->icmp_type = f->icmp_type;
	e->icmp_code = f->icmp_code;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	count(COUNT_EVENTS + kind, 1, 0);
	return 1;
}

/*
 * Counts and tells a drop that belongs to no flow. Nobody can fill the ring with
 * these: of each reason only so many are told in a second.
 */
__noinline int packet_drop(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	__u64 second = coarse_now() / SECOND;
	struct quota *q;

	if (!p || reason >= REASON_MAX)
		return TC_ACT_SHOT;
	count_packet(p, hook_ingress(p->hook), reason);
	if (!telling(config_get()))
		return TC_ACT_SHOT;
	q = bpf_map_lookup_elem(&quotas, &reason);
	if (!q)
		return TC_ACT_SHOT;
	if (q->second != second) {
		q->second = second;
		q->told = 0;
	}
	if (q->told >= QUOTA) {
		count(COUNT_QUIET, 1, 0);
		return TC_ACT_SHOT;
	}
	q->told++;
	event_tell(skb, p, NULL, EVENT_DROP, reason, false);
	return TC_ACT_SHOT;
}

#endif /* EVENT_H */
