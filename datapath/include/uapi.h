/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What programs on network devices use of the kernel's interface besides
 * bpf/include/kernel.h: include/uapi/linux/{bpf,pkt_cls,if_ether,if_packet,in,in6}.h.
 * Nothing here is relocated: it is what both sides have agreed on for good.
 */
#ifndef UAPI_H
#define UAPI_H

#include <kernel.h>

enum {
	BPF_MAP_TYPE_QUEUE = 22,
};

/* What becomes of a packet. UNSPEC asks the next program on the device, or else passes it to the stack. */
enum {
	TC_ACT_UNSPEC = -1,
	TC_ACT_OK = 0,
	TC_ACT_SHOT = 2,
	TC_ACT_REDIRECT = 7,
};

enum {
	PACKET_HOST = 0,
	PACKET_OTHERHOST = 3,
};

enum {
	ETH_P_IP = 0x0800,
	ETH_P_ARP = 0x0806,
	ETH_P_8021Q = 0x8100,
	ETH_P_8021AD = 0x88a8,
	ETH_P_IPV6 = 0x86dd,
	ETH_ALEN = 6,
};

enum {
	IPPROTO_ICMP = 1,
	IPPROTO_ICMPV6 = 58,
	IPPROTO_NONE = 59,
	IPPROTO_SCTP = 132,
};

enum {
	CLOCK_MONOTONIC = 1,
};

enum {
	BPF_F_ZERO_CSUM_TX = 1 << 1,
};

struct bpf_spin_lock {
	__u32 val;
};

struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));

/* Up to where all our kernels agree on its size. */
struct bpf_tunnel_key {
	__u32 tunnel_id;
	__u32 remote_ipv4; /* host byte order */
	__u32 rest[3];
	__u8 tunnel_tos;
	__u8 tunnel_ttl;
	__u16 tunnel_ext;
	__u32 tunnel_label;
};

#endif /* UAPI_H */
