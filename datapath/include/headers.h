/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Headers of packets and their numbers, and how much of them we read.
 */
#ifndef HEADERS_H
#define HEADERS_H

#include <uapi.h>

/* As they are sent. */

struct eth_header {
	__u8 dst[ETH_ALEN], src[ETH_ALEN];
	__be16 proto;
};

struct vlan_header {
	__be16 tag, proto;
};

struct ip4_header {
	__u8 version_ihl, tos;
	__be16 len, id, fragment;
	__u8 ttl, proto;
	__sum16 check;
	__be32 src, dst;
};

struct ip6_header {
	__u8 version_class, class_label[3];
	__be16 len;
	__u8 next, hops;
	__u8 src[16], dst[16];
};

struct ip6_option {
	__u8 next, len;
	__u8 type, left; /* of a routing header */
};

struct ip6_fragment {
	__u8 next, zero;
	__be16 fragment; /* offset << 3 | more */
	__be32 id;
};

struct tcp_header {
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};

struct udp_header {
	__be16 sport, dport, len, check;
};

struct icmp_header {
	__u8 type, code;
	__be16 check, id, seq;
};

enum {
	IP4_MORE = 0x2000,
	IP4_OFFSET = 0x1fff,
	IP4_LOOSE_ROUTE = 131,
	IP4_STRICT_ROUTE = 137,
	IP4_OPTIONS_MAX = 40,
	IP6_HOP_OPTIONS = 0,
	IP6_ROUTING = 43,
	IP6_FRAGMENT = 44,
	IP6_AUTH = 51,
	IP6_DEST_OPTIONS = 60,
	IP6_CHAIN_MAX = 8, /* extension headers of one packet */
	IP6_MORE = 1,
	IP6_OFFSET = 0xfff8,
	VLAN_MAX = 2,
	VLAN_NUMBER = 0xfff, /* in its tag */
	SCTP_HEADER = 12,
	/* A later fragment lasts as long as the kernel waits for all of them: net.ipv4.ipfrag_time. */
	FRAGMENT_SECONDS = 30,
};

enum {
	TCP_FIN = 1 << 0,
	TCP_SYN = 1 << 1,
	TCP_RST = 1 << 2,
	TCP_ACK = 1 << 4,
};

enum {
	ICMP4_UNREACHABLE = 3,
	ICMP4_QUENCH = 4,
	ICMP4_REDIRECT = 5,
	ICMP4_ECHO = 8,
	ICMP4_ECHO_REPLY = 0,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER = 12,
	ICMP4_TIMESTAMP = 13,
	ICMP4_TIMESTAMP_REPLY = 14,
	ICMP6_UNREACHABLE = 1,
	ICMP6_PARAMETER = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_LISTENER_QUERY = 130,
	ICMP6_LISTENER_DONE = 132,
	ICMP6_ROUTER_SOLICIT = 133,
	ICMP6_ROUTER_ADVERT = 134,
	ICMP6_REDIRECT = 137,
	ICMP6_LISTENER_REPORT = 143,
	DISCOVERY_HOPS = 255, /* nobody forwards these: a router would have made it less */
};

#endif /* HEADERS_H */
