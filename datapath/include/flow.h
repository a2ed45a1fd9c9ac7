/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The flow table: who began, what was judged, how much went which way.
 *
 * A packet of a flow that is known, allowed, and judged by what is in force
 * (flow_good) takes flow_next alone: one lookup and no policy. All others go
 * through flow_other, which begins flows, judges them again, and drops.
 *
 * Who begins is the client, whatever its packet looks like: after a loss of the
 * table a flow is judged by who sends first. A guess from flags or ports would let
 * anybody who forges those past the policy of its own pod.
 */
#ifndef FLOW_H
#define FLOW_H

#include <event.h>

/*
 * How long flows last without packets, seconds. Cilium's where it has one
 * (bpf-ct-timeout-*, pkg/option and pkg/maps/ctmap), else those of nf_conntrack
 * (nf_conntrack_proto_*.c, nf_conntrack_generic_timeout).
 */
enum {
	TIMEOUT_TCP_NEW = 60,		/* Cilium's regular-tcp-syn */
	TIMEOUT_TCP_ESTABLISHED = 8000, /* Cilium's regular-tcp; half-closed connections too, which may be idle */
	TIMEOUT_TCP_CLOSED = 10,	/* Cilium's regular-tcp-fin */
	TIMEOUT_UDP_NEW = 30,		/* nf_conntrack_udp_timeout */
	TIMEOUT_UDP_ESTABLISHED = 120,	/* nf_conntrack_udp_timeout_stream */
	TIMEOUT_SCTP_NEW = 30,		/* ten times nf_conntrack's cookie-wait */
	TIMEOUT_SCTP_ESTABLISHED = 210, /* nf_conntrack_sctp_timeout_established: seven heartbeats */
	TIMEOUT_ICMP = 30,		/* nf_conntrack_icmp_timeout */
	TIMEOUT_OTHER = 600,		/* nf_conntrack_generic_timeout */
	TIMEOUT_DENIED = 30,
};

/* How long a flow waits for the next look at it, ns. Tests make it shorter. */
const volatile __u64 sweep_every = 5ULL * SECOND;

/* What flow_open and flow_next return besides flags: the server sent the packet. */
enum {
	FLOW_ANSWER = 1 << 8,
};

enum {
	SWEEP_BATCH = 4096, /* flows at once: less than a millisecond */
	SWEEP_TICKS = 5,    /* while a flow waits */
	SWEEP_SOON = 10000000,
	SWEEP_DEAD = 5,	 /* seconds without a tick */
	SWEEP_HELP = 16, /* entries that a new flow looks at for one of its own */
};

static __always_inline __u64 flow_timeout(const struct flow *f, __u8 proto)
{
	__u32 seconds = TIMEOUT_OTHER;

	if (f->flags & FLOW_DENIED && !(f->flags & FLOW_OPENED)) {
		seconds = TIMEOUT_DENIED;
	} else if (proto == IPPROTO_TCP) {
		seconds = TIMEOUT_TCP_ESTABLISHED;
		if (f->state == STATE_NEW)
			seconds = TIMEOUT_TCP_NEW;
		else if (f->state == STATE_CLOSED)
			seconds = TIMEOUT_TCP_CLOSED;
	} else if (proto == IPPROTO_UDP) {
		seconds = f->state == STATE_NEW ? TIMEOUT_UDP_NEW : TIMEOUT_UDP_ESTABLISHED;
	} else if (proto == IPPROTO_SCTP) {
		seconds = f->state == STATE_NEW ? TIMEOUT_SCTP_NEW : TIMEOUT_SCTP_ESTABLISHED;
	} else if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		seconds = TIMEOUT_ICMP;
	}
	return (__u64)seconds * SECOND;
}

/* Global for who asks: it wants registers, and is called for few packets. */
__noinline int flow_silent(const struct flow *f, __u32 proto, __u64 idle)
{
	return f && idle >= flow_timeout(f, proto);
}

/* Whether a flow is over because nothing has come for so long. No timeout is shorter than that of closed ones. */
static __always_inline bool flow_expired(const struct flow *f, __u8 proto, __u64 now)
{
	__s64 idle = now - f->seen; /* another CPU may be ahead */

	return idle >= (__s64)TIMEOUT_TCP_CLOSED * SECOND && flow_silent(f, proto, idle);
}

/* ---- the end of flows ---- */

/* Who gets a stamp, and nobody else, tells the flow's end. 0 if another does. */
static __always_inline __u64 flow_claim(struct flow *f)
{
	__u64 stamp = f->stamp;

	return stamp && __sync_val_compare_and_swap(&f->stamp, stamp, 0) == stamp ? stamp : 0;
}

static __always_inline void flow_end(const struct flow_key *k, struct flow *f, __u8 hook)
{
	count(COUNT_ENDED, 1, 0);
	flow_report(k, f, hook, EVENT_CLOSE);
}

struct sweep_run {
	__u64 now;
	__u64 interval;	    /* ns between two events of a flow */
	__u64 until;	    /* entries are looked at that are due by then */
	__u64 more;	    /* there was no end to it */
	struct sweep entry; /* to make room for */
};

/* Looks at the flow of an entry. Returns whether there is still one, so that the entry has to stay. */
static __always_inline bool sweep_keep(const struct sweep *s, const struct sweep_run *run)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &s->key);
	__u64 stamp = f ? f->stamp : 0;

	if (!f || (stamp && stamp != s->stamp)) {
		count(COUNT_EVICTED, 1, 0);
		return false;
	}
	/* flow_expired, without a call: the stack is all used. */
	if ((__s64)(run->now - f->seen) >= (__s64)flow_timeout(f, s->key.proto)) {
		/* Who has the stamp has a flow to follow this one, with the same entry. */
		if (!flow_claim(f))
			return true;
		flow_end(&s->key, f, HOOK_TIMER);
		bpf_map_delete_elem(&flows, &s->key);
		return false;
	}
	/* What has fallen silent since it was told of. */
	if (run->interval && f->seen > f->told && run->now - f->told >= run->interval)
		flow_report(&s->key, f, HOOK_TIMER, EVENT_UPDATE);
	return true;
}

/* Looks at the entry that has been due longest. The queue is in the order of due, for all wait equally long. */
static long sweep_one(__u32 index, struct sweep_run *run)
{
	struct sweep s;
	struct flow *f;

	if (bpf_map_peek_elem(&sweeps, &s) || s.due > run->until || bpf_map_pop_elem(&sweeps, &s)) {
		run->more = 0;
		return 1;
	}
	if (!sweep_keep(&s, run))
		return 0;
	s.due = run->now + sweep_every;
	if (!bpf_map_push_elem(&sweeps, &s, 0))
		return 0;
	/* Somebody was faster, and the queue is full again: nobody would see this flow's end. */
	f = bpf_map_lookup_elem(&flows, &s.key);
	if (!f || flow_claim(f) != s.stamp) {
		count(COUNT_EVICTED, 1, 0);
		return 0;
	}
	flow_end(&s.key, f, HOOK_TIMER);
	bpf_map_delete_elem(&flows, &s.key);
	return 0;
}

static int sweep_tick(void *map, __u32 *key, struct sweep_timer *s)
{
	struct config *cfg = config_get();
	struct sweep_run run = { .more = 1 };

	run.now = run.until = coarse_now();
	if (cfg)
		run.interval = (__u64)cfg->flow_interval * SECOND;
	s->ticked = run.now;
	bpf_loop(SWEEP_BATCH, sweep_one, &run, 0);
	bpf_timer_start(&s->timer, run.more ? SWEEP_SOON : sweep_every / SWEEP_TICKS, 0);
	return 0;
}

/* Sets the timer going, which is so as long as it ticks. */
static __always_inline void sweep_begin(__u64 now)
{
	__u32 zero = 0;
	struct sweep_timer *s = bpf_map_lookup_elem(&sweeper, &zero);
	__u64 ticked;

	if (!s)
		return;
	ticked = s->ticked;
	if (ticked && ticked + (__u64)SWEEP_DEAD * SECOND > now)
		return;
	if (__sync_val_compare_and_swap(&s->ticked, ticked, now) != ticked)
		return;					      /* another CPU does it */
	bpf_timer_init(&s->timer, &sweeper, CLOCK_MONOTONIC); /* fails where it is a timer already */
	bpf_timer_set_callback(&s->timer, sweep_tick);
	bpf_timer_start(&s->timer, sweep_every / SWEEP_TICKS, 0);
}

/* Looks at an entry before it is due, which makes room unless its flow goes on. */
static long sweep_room(__u32 index, struct sweep_run *run)
{
	sweep_one(index, run);
	run->more = bpf_map_push_elem(&sweeps, &run->entry, 0) != 0;
	return !run->more;
}

/*
 * Has a new flow looked at. Returns 0 if there is no room for that. In a full queue
 * at least half of the entries are of flows that are no more.
 */
__noinline int sweep_later(const struct flow_key *k, __u64 stamp, __u64 now)
{
	struct sweep_run run = {};

	if (!k)
		return 0;
	run.entry.key = *k;
	run.entry.stamp = stamp;
	run.entry.due = now + sweep_every;
	sweep_begin(now);
	if (!bpf_map_push_elem(&sweeps, &run.entry, 0))
		return 1;
	run.now = now;
	run.until = ~0ULL;
	run.more = 1;
	bpf_loop(SWEEP_HELP, sweep_room, &run, 0);
	return !run.more;
}

/* ---- packets of flows ---- */

static __always_inline void flow_count(struct flow *f, const struct packet *p, __u32 role, __u64 now)
{
	__sync_fetch_and_add(&f->packets[role & 1], p->packets);
	__sync_fetch_and_add(&f->bytes[role & 1], p->bytes);
	f->seen = now;
}

/* Whether flow_track would change anything. */
static __always_inline bool flow_changes(const struct flow *f, const struct packet *p, __u32 role)
{
	return p->tcp_flags & ~f->tcp_flags[role & 1] || (role == SERVER && f->state == STATE_NEW);
}

/* Follows the flow's state. Returns whether that is worth telling. */
static __always_inline bool flow_track(struct flow *f, const struct packet *p, __u32 role)
{
	__u8 flags = p->tcp_flags & ~f->tcp_flags[role & 1];

	f->tcp_flags[role & 1] |= flags;
	if (flags & TCP_RST)
		f->state = STATE_CLOSED;
	else if (flags & TCP_FIN)
		f->state = f->tcp_flags[!role] & TCP_FIN ? STATE_CLOSED : STATE_CLOSING;
	else if (role == SERVER && f->state == STATE_NEW)
		f->state = STATE_ESTABLISHED;
	return flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

static __always_inline bool packet_begins(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u32 flow_role(const struct flow *f, const struct packet *p)
{
	return p->swapped == f->reversed ? CLIENT : SERVER;
}

/*
 * Whether a packet begins a flow anew where there is one with its ends: when that
 * one is over, or never was more than denied packets of the other end. A flow that
 * was open before a policy denied it stays one, or its answers would be questions.
 */
static __always_inline bool flow_over(const struct flow *f, const struct packet *p, __u64 now)
{
	if (flow_expired(f, p->key.proto, now))
		return true;
	if (packet_begins(p) && f->state == STATE_CLOSED)
		return true;
	return f->flags & FLOW_DENIED && flow_role(f, p) == SERVER && (packet_begins(p) || !(f->flags & FLOW_OPENED));
}

static __always_inline int flow_dropped(struct __sk_buff *skb, struct packet *p, struct flow *f, bool tell, __u64 now,
					const struct config *cfg)
{
	__sync_fetch_and_add(&f->dropped, p->packets);
	f->reason = REASON_POLICY_DENIED;
	if (!(f->flags & FLOW_OPENED))
		f->seen = now;
	count_packet(p, f->verdict[EGRESS] != VERDICT_DENY, REASON_POLICY_DENIED);
	if (tell)
		flow_tell(skb, p, f, EVENT_DROP);
	else if (cfg->flow_interval && now - f->told >= (__u64)cfg->flow_interval * SECOND)
		flow_tell(skb, p, f, EVENT_UPDATE);
	return -REASON_POLICY_DENIED;
}

/* What every new flow begins with; it is judged next. */
static __always_inline void flow_begin(struct flow *f, const struct packet *p, __u64 now)
{
	__builtin_memset(f, 0, sizeof(*f));
	f->began = f->seen = f->told = now;
	f->reversed = p->swapped;
	f->ifindex[CLIENT] = p->from;
	f->ifindex[SERVER] = p->to;
	f->flags = p->flow_flags;
	f->icmp_type = p->icmp_type;
	f->icmp_code = p->icmp_code;
}

/*
 * What a packet tells of a flow that is older than it: which pods here are its ends by
 * now, and which way it comes.
 */
static __always_inline void flow_ends(struct flow *f, const struct packet *p, __u32 role, const struct config *cfg)
{
	__u32 client = role == CLIENT ? p->from : p->to, server = role == CLIENT ? p->to : p->from;
	__u8 flags = f->flags, mask = role == CLIENT ? p->flow_mask : 0;
	__u64 was;

	flags = (flags & ~mask) | (p->flow_flags & mask);
	/* An answer is for the address that the client was given by the stack: that does not tell whose it is. */
	if (role == SERVER && flags & FLOW_DEFERRED && !client)
		client = f->ifindex[CLIENT];
	if (flags & FLOW_SERVICE)
		server = 0;
	if (client == f->ifindex[CLIENT] && server == f->ifindex[SERVER] && flags == f->flags)
		return;
	flow_unjudge(f, cfg);
	f->ifindex[CLIENT] = client;
	f->ifindex[SERVER] = server;
	was = flow_now(f);
	__sync_val_compare_and_swap(flow_word(f), was,
				    (was & ~((__u64)mask << WORD_FLAGS)) | (__u64)(p->flow_flags & mask) << WORD_FLAGS);
}

/* What is to be told of a flow, besides its flags. */
enum {
	ACCOUNT_NEW = 1 << 9,
	ACCOUNT_CHANGED = 1 << 10,
};

/* Counts and tells a packet of a flow with flags. Returns what flow_open does. Global for its stack. */
__noinline int flow_account(struct __sk_buff *skb, struct packet *p, struct flow *f, __u32 flags)
{
	struct config *cfg = config_get();
	__u64 now = coarse_now();
	bool tell;
	__u32 role;

	if (!p || !f || !cfg)
		return -REASON_NO_ENDPOINT;
	tell = flags & ACCOUNT_CHANGED;
	role = flow_role(f, p);
	if (flags & FLOW_DENIED)
		return flow_dropped(skb, p, f, flags & (ACCOUNT_NEW | ACCOUNT_CHANGED), now, cfg);
	if (!(flags & FLOW_OPENED))
		__sync_fetch_and_or(flow_word(f), (__u64)FLOW_OPENED << WORD_FLAGS);
	tell |= flow_track(f, p, role);
	if (!(p->flags & PACKET_COUNTED))
		flow_count(f, p, role, now);
	if (flags & ACCOUNT_NEW)
		flow_tell(skb, p, f, EVENT_NEW);
	else if (tell)
		flow_tell(skb, p, f, EVENT_UPDATE);
	return (flags & 0xff) | (role == SERVER ? FLOW_ANSWER : 0);
}

/*
 * Begins a flow, or judges one again. Returns its flags, with FLOW_ANSWER, or minus the
 * reason for which the packet was dropped; it is counted and told either way.
 */
__noinline int flow_open(struct __sk_buff *skb, struct packet *p)
{
	struct flow_scratch *scratched;
	struct flow *fresh, *f;
	struct config *cfg = config_get();
	bool new = false, over;
	struct flow_key key;
	__u64 stamp, was;
	__u32 zero = 0;
	int flags;

	if (!p || !cfg)
		return -REASON_NO_ENDPOINT;
	key = p->key;
	f = bpf_map_lookup_elem(&flows, &key);
	over = f && flow_over(f, p, coarse_now());
	if (!f || over) {
		scratched = bpf_map_lookup_elem(&scratch, &zero);
		if (!scratched)
			return -REASON_NO_ENDPOINT;
		fresh = &scratched->flow;
		flow_begin(fresh, p, coarse_now());
		flags = flow_judge(&key, fresh);
		if (over) {
			/* Two ends that are both denied do not take turns at it, which would be told each time. */
			if (f->flags & FLOW_DENIED && flags & FLOW_DENIED && !flow_expired(f, key.proto, fresh->began))
				return flow_dropped(skb, p, f, false, fresh->began, cfg);
			/* Its place in the queue is the next one's. Where another CPU was faster there is that one. */
			stamp = flow_claim(f);
			if (stamp) {
				flow_end(&key, f, p->hook);
				fresh->stamp = stamp;
				count(COUNT_BEGUN, 1, 0);
				new = !bpf_map_update_elem(&flows, &key, fresh, BPF_ANY);
				if (!new)
					bpf_map_delete_elem(&flows, &key);
			}
		} else {
			stamp = ++scratched->stamps << 16 | (bpf_get_smp_processor_id() & 0xffff);
			fresh->stamp = stamp;
			new = !bpf_map_update_elem(&flows, &key, fresh, BPF_NOEXIST);
			if (new && !sweep_later(&key, stamp, fresh->began)) {
				bpf_map_delete_elem(&flows, &key);
				new = false;
			}
			if (new)
				count(COUNT_BEGUN, 1, 0);
		}
		f = bpf_map_lookup_elem(&flows, &key);
		if (!f) {
			count(COUNT_UNFLOWED, p->packets, p->bytes);
			return flags & FLOW_DENIED ? -REASON_POLICY_DENIED : flags;
		}
		if (new)
			return flow_account(skb, p, f, flags | ACCOUNT_NEW);
	}
	was = flow_now(f);
	flags = was >> WORD_FLAGS & 0xff;
	if (p->stale || (__u32)was != cfg->generation) {
		flow_ends(f, p, flow_role(f, p), cfg);
		flags = flow_judge(&key, f);
		if ((__u16)(was >> WORD_VERDICT) != (__u16)(flow_now(f) >> WORD_VERDICT))
			flags |= ACCOUNT_CHANGED;
	}
	return flow_account(skb, p, f, flags);
}

/* Whether a flow's verdict still holds, so that this packet of it may go. */
static __always_inline bool flow_good(const struct flow *f, const struct packet *p, const struct config *cfg)
{
	__u64 now = flow_now(f);

	return (__u32)now == cfg->generation && !(now >> WORD_FLAGS & FLOW_DENIED) &&
	       !(f->state == STATE_CLOSED && packet_begins(p)) && !flow_expired(f, p->key.proto, coarse_now());
}

/* Counts a packet of a flow that flow_good holds for, and tells what it changes. Returns what flow_open does. */
static __always_inline int flow_next(struct __sk_buff *skb, struct packet *p, struct flow *f, const struct config *cfg)
{
	__u32 role = flow_role(f, p);
	__u64 now = coarse_now();
	bool tell = false;

	flow_count(f, p, role, now);
	if (flow_changes(f, p, role))
		tell = flow_track(f, p, role);
	if (tell || (cfg->flow_interval && now - f->told >= (__u64)cfg->flow_interval * SECOND))
		flow_tell(skb, p, f, EVENT_UPDATE);
	return f->flags | (role == SERVER ? FLOW_ANSWER : 0);
}

/*
 * An ICMP error goes where the flow goes that it is about, if that is allowed.
 * Returns the flow's flags, with FLOW_ANSWER, or -1 if it is about none that we
 * know: then it is judged like any other packet.
 */
__noinline int error_flow(struct __sk_buff *skb, struct packet *p)
{
	struct transport t = {};
	struct addr src, dst;
	struct ip4_header ip4;
	struct ip6_header ip6;
	struct flow_key key;
	struct chain c = {};
	__be16 ports[2] = {};
	struct config *cfg = config_get();
	struct flow *f;
	struct icmp_header icmp;
	__u32 role;
	bool swapped;

	if (!p || !cfg)
		return -1;
	if (p->v6) {
		if (bpf_skb_load_bytes(skb, p->quote, &ip6, sizeof(ip6)) || ip6.version_class >> 4 != 6)
			return -1;
		addr_set6(&src, ip6.src);
		addr_set6(&dst, ip6.dst);
		c.off = p->quote + sizeof(ip6);
		c.next = ip6.next;
		if (chain_read(skb, &c) || (c.fragment && c.part & bpf_htons(IP6_OFFSET)))
			return -1;
		t.proto = c.next;
		t.off = c.off;
	} else {
		if (bpf_skb_load_bytes(skb, p->quote, &ip4, sizeof(ip4)) || ip4.version_ihl >> 4 != 4 ||
		    ip4.fragment & bpf_htons(IP4_OFFSET))
			return -1;
		addr_set4(&src, ip4.src);
		addr_set4(&dst, ip4.dst);
		t.proto = ip4.proto;
		t.off = p->quote + (ip4.version_ihl & 15) * 4;
	}
	/* It goes to who sent that packet; and from a pod it comes from where that packet went. */
	if (!addr_equal(&src, &p->dst) || (p->hook == HOOK_ENDPOINT_FROM && !addr_equal(&dst, &p->src)))
		return -1;
	if (t.proto == IPPROTO_ICMP || t.proto == IPPROTO_ICMPV6) {
		if (bpf_skb_load_bytes(skb, t.off, &icmp, sizeof(icmp)))
			return -1;
		echo_ports(t.proto, &icmp, &ports[0], &ports[1]);
	} else if (t.proto == IPPROTO_TCP || t.proto == IPPROTO_UDP || t.proto == IPPROTO_SCTP) {
		if (bpf_skb_load_bytes(skb, t.off, ports, sizeof(ports)))
			return -1;
	}
	swapped = key_set(&key, &src, &dst, ports[0], ports[1], t.proto);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f || flow_expired(f, key.proto, coarse_now()))
		return -1;
	/* Both ends must be whom the flow was judged for, as far as this packet tells. */
	role = swapped == f->reversed ? CLIENT : SERVER; /* of who gets the error */
	if (p->hook == HOOK_ENDPOINT_FROM && f->ifindex[!role] != p->from)
		return -1;
	if (f->ifindex[role] != p->to && !(f->flags & FLOW_DEFERRED && role == CLIENT))
		return -1;
	/* Who has sent what it is about has had it judged by what is in force, or will at once. */
	if (f->generation != cfg->generation || f->flags & FLOW_DENIED)
		return -1;
	return f->flags | (role == CLIENT ? FLOW_ANSWER : 0);
}

/* Where flow_next does not do: an error about another packet, a new flow, one to judge again, one that is denied. */
static __always_inline int flow_other(struct __sk_buff *skb, struct packet *p)
{
	int flags = -1;

	if (p->flags & PACKET_ERROR)
		flags = error_flow(skb, p);
	return flags < 0 ? flow_open(skb, p) : flags;
}

#endif /* FLOW_H */
