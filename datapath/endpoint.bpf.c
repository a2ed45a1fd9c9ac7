//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A pod's packets, at the host's end of its veth pair.
 *
 * Hooks: TCX or clsact of the device: ingress is what the pod sends (endpoint_from),
 *        egress what the host's stack sends it (endpoint_to).
 * Out:   events.
 * State: see include/state.h.
 */
#include <state.h>

SEC("tc")
int endpoint_from(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *s = bpf_map_lookup_elem(&settings, &zero);

	return s && skb ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int endpoint_to(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
