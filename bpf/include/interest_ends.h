/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who may want an event, by the ends of its socket: what interest.h judges, and beside
 * it ports and networks. For sensors whose events have such ends.
 */
#ifndef INTEREST_ENDS_H
#define INTEREST_ENDS_H

#include "interest.h"

struct interest_port {
	__u32 port, slot;
};

/* IPv4 lies within IPv6, as ::ffff:a.b.c.d. */
struct interest_net {
	__u32 prefixlen; /* bits, slot included */
	__u32 slot;
	__u32 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, INTEREST_KEYS);
	__type(key, struct interest_port);
	__type(value, struct interest_mask);
} interest_ports SEC(".maps");

/* Each entry has the bits of all that hold it. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, INTEREST_KEYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct interest_net);
	__type(value, struct interest_mask);
} interest_nets SEC(".maps");

static __always_inline void interest_add_port(struct interest_mask *m, __u32 slot, __u32 port)
{
	struct interest_port key = { .port = port, .slot = slot };
	struct interest_mask *found = bpf_map_lookup_elem(&interest_ports, &key);

	if (found)
		interest_or(m, found);
}

/* addr is of 16 bytes, of which IPv4 has the first four. */
static __always_inline void interest_add_net(struct interest_mask *m, __u32 slot, __u32 family, const __u8 *addr)
{
	struct interest_net key = { .prefixlen = 32 + 128, .slot = slot };
	const __u32 *words = (const __u32 *)addr;
	struct interest_mask *found;

	if (family == AF_INET) {
		key.addr[2] = bpf_htonl(0xffff);
		key.addr[3] = words[0];
	} else {
		key.addr[0] = words[0];
		key.addr[1] = words[1];
		key.addr[2] = words[2];
		key.addr[3] = words[3];
	}
	found = bpf_map_lookup_elem(&interest_nets, &key);
	if (found)
		interest_or(m, found);
}

/* Whether the answer depends on addresses and ports. */
static __always_inline bool interest_needs_ends(const struct interest *m)
{
	struct interest_table *t = interest_table(m);

	return t->ports | t->nets;
}

/*
 * The ends of the event's socket, ports in the host's order; of another family, or
 * without a socket, there are no addresses, and the ports are 0. Returns whether
 * anybody may want the event.
 */
static __always_inline bool interest_ends(struct interest *m, __u32 family, const __u8 *laddr, const __u8 *raddr,
					  __u16 lport, __u16 rport)
{
	struct interest_table *t = interest_table(m);

	if (t->ports) {
		struct interest_mask of = t->no_port;

		interest_add_port(&of, m->slot, lport);
		interest_add_port(&of, m->slot, rport);
		interest_and(&m->may, &of);
	}
	if (t->nets) {
		struct interest_mask of = t->no_net;

		if (family == AF_INET || family == AF_INET6) {
			interest_add_net(&of, m->slot, family, laddr);
			interest_add_net(&of, m->slot, family, raddr);
		}
		interest_and(&m->may, &of);
	}
	return !interest_none(&m->may);
}

#endif /* INTEREST_ENDS_H */
