//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets between this node and the others, on the uplink and the tunnel.
 *
 * Hooks: TCX or clsact of the uplink and the vxlan device: ingress (host_from),
 *        egress (host_to).
 * Out:   events.
 * State: see include/state.h.
 */
#include <state.h>

SEC("tc")
int host_from(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *s = bpf_map_lookup_elem(&settings, &zero);

	return s && skb ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int host_to(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
