/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs on network devices know, and what they tell: the maps and
 * their contents, the contract between the kernel's side and user space.
 *
 * Every object declares the same maps, so that one set of them serves all
 * programs (and outlives those who wrote them). Configuration is written by user
 * space only; flows, fragments, sweeper, sweeps and counters by programs only.
 *
 * Addresses are of IPv6 everywhere, IPv4 as ::ffff:a.b.c.d. Ports are in network
 * byte order in what comes from packets.
 *
 * Generations: whatever depends on policy has two slots, and that in force is
 * settings.generation & 1. A change is written into the other slot everywhere
 * and comes into force by one write of settings. Flows remember the generation
 * that they were judged in, so giving an address to another identity wants a new
 * generation, even where no rule changed.
 */
#ifndef STATE_H
#define STATE_H

#include <uapi.h>
#include <bpf/bpf_helpers.h>

/* The version of all that follows: maps of another one are not these. */
enum schema_version {
	SCHEMA_VERSION = 2,
};

/* As in a packet; aligned, so that programs may compare halves. */
struct addr {
	__u8 bytes[16];
} __attribute__((aligned(8)));

/* ---- configuration ---- */

enum mode {
	MODE_ROUTED = 1, /* pods' addresses are routed between nodes */
	MODE_VXLAN,
	MODE_CHAINED, /* another CNI plugin connects pods: nothing is redirected */
};

enum config_flags {
	CONFIG_TELL = 1 << 0, /* somebody listens: flows are told of in events */
};

struct config {
	__u32 generation;
	__u32 mode;	     /* enum mode */
	__u32 uplink;	     /* interface towards other nodes; 0 is: as the host's stack routes */
	__u32 tunnel;	     /* the vxlan device, 0 without */
	__u32 vni;	     /* of the tunnel */
	__u32 mtu;	     /* of the way between nodes for a pod's packet; 0 is not checked */
	__u32 flow_interval; /* seconds between two events of one flow; 0 is none but the first and last */
	__u32 flags;	     /* enum config_flags */
	struct addr node4, node6;
};

enum place_flags {
	PLACE_POD = 1 << 0,
	PLACE_NODE = 1 << 1,	/* another node */
	PLACE_HOST = 1 << 2,	/* this node: what comes from it reaches its pods, as probes must */
	PLACE_SERVICE = 1 << 3, /* judged when the stack has chosen a backend */
};

/* Who is at an address. mac, host_mac: of a pod here, as in struct endpoint. */
struct place {
	__u32 id;      /* identity; 0 is nobody's */
	__u32 ifindex; /* host's end of the veth pair of a pod here, else 0 */
	__be32 node4;  /* of the node that a pod is on, for the tunnel; 0 is none */
	__u32 flags;   /* enum place_flags */
	__u8 mac[ETH_ALEN];
	__u8 host_mac[ETH_ALEN];
};

/*
 * The lock is for user space alone, which writes with BPF_F_LOCK: in place. A new element instead would leave readers
 * with the old one, whose memory the next update may use for another address at once.
 */
struct place_entry {
	struct place slot[2];
	struct bpf_spin_lock lock;
};

/* The same of a network, whose elements are replaced. */
struct network_entry {
	struct place slot[2];
};

struct network {
	__u32 prefix; /* bits, of 128 */
	__u8 addr[16];
};

enum endpoint_flags {
	EP_CHAINED = 1 << 0,	/* never redirected, in neither direction */
	EP_ANY_SOURCE = 1 << 1, /* may send from any address */
};

enum {
	/* In endpoint.set: what the set denies passes, with VERDICT_AUDIT. */
	SET_AUDIT = 0x80000000,
};

enum {
	/* Of skb->mark, which the host's stack keeps: bits 16 to 31. */
	MARK_SHIFT = 16,
	/* In the place of a pod's number: it came from beyond this node. */
	NUMBER_OUTSIDE = 0xffff,
	/* A pod sent it to an address that we do not know: which pod, only the packet's source says. */
	NUMBER_UNKNOWN = 0xfffe,
};

/* A pod here. Its number, 1 to 65533, is what marks its packets in the stack. */
struct endpoint {
	struct addr ip4, ip6; /* all 0 without */
	__u32 set[2];	      /* by slot, with SET_AUDIT */
	__u8 mac[ETH_ALEN];   /* the pod's */
	__u8 host_mac[ETH_ALEN];
	__u32 flags; /* enum endpoint_flags */
	__u16 number;
	__u16 pad;
	__u64 born;		   /* for user space: when it was added, boot time, ns */
	struct bpf_spin_lock lock; /* as that of a place */
	__u32 pad2;
};

/* ---- policy ---- */

enum direction {
	EGRESS,
	INGRESS,
};

/* A set of verdicts: everything about it but the verdicts. By direction. */
struct set {
	__u32 bits[2];	   /* bit n: some key has n bits of a port, 0 to 16 */
	__u8 any_proto[2]; /* some key is for any protocol */
	__u8 isolated[2];  /* what no rule matches is denied */
	__u32 pad;
};

enum {
	KEY_INGRESS = 0x80, /* in verdict_key.bits */
};

struct verdict_key {
	__u32 set;
	__u32 peer;  /* identity; 0 is anybody */
	__be16 port; /* its first bits; the others are 0 */
	__u8 bits;   /* 0 to 16, with KEY_INGRESS */
	__u8 proto;  /* 0 is any, then bits is 0 but for KEY_INGRESS */
};

enum action {
	ACTION_ALLOW = 1,
	ACTION_DENY,
	ACTION_PASS,
};

/*
 * [0] is of the admin tier, [1] of the one behind it. An order is
 * precedence << 2 | enum action, and the lowest wins; 0 is no rule.
 */
struct verdict {
	__u32 order[2];
	__u32 rule[2];
};

/* ---- flows ---- */

/* Both directions of a flow have the same key: a:port_a < b:port_b as bytes. Ports are 0 for protocols without. Of ICMP
 * echo who asks has the identifier, so that a question of the other end is another flow. */
struct flow_key {
	struct addr a, b;
	__be16 port_a, port_b;
	__u8 proto;
	__u8 pad[3];
};

enum {
	CLIENT, /* who sent the first packet */
	SERVER,
};

enum verdict_kind {
	VERDICT_NONE, /* that end is not a pod here */
	VERDICT_ALLOW,
	VERDICT_DENY,
	VERDICT_AUDIT, /* would be denied */
};

enum flow_flags {
	FLOW_STACK = 1 << 0, /* goes through the host's stack, both ways */
	FLOW_DEFERRED =
		1 << 1,	       /* what the stack has made of a packet to a service, or to this node: judged behind it */
	FLOW_SERVICE = 1 << 2, /* to a service's own address: judged, and told, as the deferred one */
	FLOW_OPENED = 1 << 3,  /* a packet has passed */
	FLOW_DENIED = 1 << 4,  /* by one of its verdicts */
	FLOW_AUDITED = 1 << 5, /* one of its verdicts would be denied */
	/* Its client is beyond this node, whose address it may have: by a node port. */
	FLOW_OUTSIDE = 1 << 6,
};

/* Where parts of a flow are in its word, which is written at once: see flow_word. */
enum {
	WORD_VERDICT = 32,
	WORD_FLAGS = 48,
};

enum flow_state {
	STATE_NEW,	   /* one direction only */
	STATE_ESTABLISHED, /* both */
	STATE_CLOSING,	   /* TCP: a FIN */
	STATE_CLOSED,	   /* TCP: FINs of both, or a RST */
};

/* Why a packet was dropped, or went another way than it would have. */
enum reason {
	REASON_NONE,
	/* Drops. */
	REASON_POLICY_DENIED,	 /* by the flow's rule; rule 0 is default deny */
	REASON_SPOOFED,		 /* the source is not the pod's; from outside: it is a pod's here */
	REASON_INVALID_PACKET,	 /* headers that are cut off, or lie about their lengths */
	REASON_FRAGMENT_UNKNOWN, /* a later fragment whose first one was not seen */
	REASON_UNKNOWN_L4,	 /* more IPv6 extension headers than we read */
	REASON_NO_ENDPOINT,	 /* a device that nobody told us of */
	REASON_NO_ROUTE,	 /* into the tunnel, and no node is known for it */
	REASON_SOURCE_ROUTED,	 /* wants to go by a way of its own, past the policy of where it arrives */
	REASON_NOT_IP,		 /* neither IP nor ARP, from a pod */
	/* Not dropped: the host's stack answers. */
	REASON_TTL_EXCEEDED,
	REASON_TOO_BIG,
	/* Passed, and would have been denied but for SET_AUDIT. */
	REASON_AUDITED,
	REASON_MAX,
};

/*
 * Times are of CLOCK_MONOTONIC_COARSE, ns. Counts are exact: [CLIENT] is what the
 * client sent; bytes are those of IP packets. What was dropped is in dropped only.
 */
struct flow {
	__u64 packets[2], bytes[2];
	__u64 dropped; /* packets */
	__u64 began, seen;
	__u64 told;		   /* when the last event was */
	__u64 stamp;		   /* of its entry in sweeps; 0 while its end is told, which who took the stamp does */
	__u32 generation;	   /* of the verdicts; the first part of the flow's word */
	__u8 verdict[2];	   /* enum verdict_kind; EGRESS is of the client, INGRESS of the server */
	__u8 flags;		   /* enum flow_flags */
	__u8 reversed;		   /* the client is b; the last part of the word */
	__u32 rule[2];		   /* by enum direction, as verdict */
	__u32 id[2];		   /* of client and server */
	__u32 ifindex[2];	   /* of client and server, 0 if not here */
	__u8 tcp_flags[2];	   /* all that were seen */
	__u8 state;		   /* enum flow_state */
	__u8 reason;		   /* enum reason, of the last drop */
	__u8 icmp_type, icmp_code; /* of the first packet */
	__u8 pad[2];
};

/* A first fragment says to which flow the later ones belong. */
struct fragment_key {
	struct addr src, dst;
	__be32 id;
	__u8 proto;
	__u8 pad[3];
};

struct fragment {
	__be16 sport, dport;
	__u8 icmp_type, icmp_code;
	__u8 pad[2];
	__u64 seen;
};

/* ---- events ---- */

enum event_kind {
	EVENT_NEW = 1, /* a flow's first packet */
	EVENT_UPDATE,  /* its verdict, or the flags of TCP that were seen, changed; or flow_interval is over */
	EVENT_CLOSE,
	EVENT_DROP, /* a packet; without a flow began is 0. Of a flow's only the first; others are in its counts. */
	EVENT_MAX,
};

enum hook {
	HOOK_ENDPOINT_FROM = 1,
	HOOK_ENDPOINT_TO,
	HOOK_HOST_FROM,
	HOOK_HOST_TO,
	HOOK_TIMER,
};

enum {
	HEADER_MAX = 64,
};

/*
 * One record in events. header is there only where captured is not 0: other
 * records are shorter. flow's times are moved to boot time here, and tcp_flags
 * are those of a dropped packet, too.
 */
struct flow_event {
	__u64 ktime;  /* boot time, ns */
	__u64 cookie; /* of the socket that sent it, if it is a pod's here; else 0 */
	struct flow_key key;
	struct flow flow;
	__u32 ifindex; /* where it was seen; 0 for EVENT_CLOSE */
	__u32 len;     /* of the packet that this is about, IP and up */
	__u16 captured;
	__u8 kind;		   /* enum event_kind */
	__u8 reason;		   /* enum reason, of EVENT_DROP */
	__u8 hook;		   /* enum hook */
	__u8 reply;		   /* the packet came from the server */
	__u8 icmp_type, icmp_code; /* of this packet */
	__u8 header[HEADER_MAX];   /* from the Ethernet header on */
};

/*
 * Indices of counters. Packets are counted where a pod here sends (EGRESS) and where one receives (INGRESS), by
 * enum direction * 16 + enum reason; REASON_NONE is what went its way.
 */
enum counter_index {
	COUNT_INGRESS = 16,
	COUNT_EVENTS = 32, /* + enum event_kind */
	COUNT_LOST = 40,   /* + enum event_kind: the ring was full */
	COUNT_QUIET = 48,  /* drops without a flow that were not told, for there were too many */
	/* Every flow that began is there, or has ended, or was evicted, or will be noticed to have been. */
	COUNT_BEGUN,
	COUNT_ENDED,	/* with an EVENT_CLOSE, if somebody listens */
	COUNT_EVICTED,	/* gave way to others before their time, without */
	COUNT_UNFLOWED, /* packets that passed without a flow: there was no room for one */
	COUNT_MAX = 64,
};

struct counter {
	__u64 packets;
	__u64 bytes; /* 0 where it makes no sense */
};

/* ---- housekeeping ---- */

/* One timer ends flows that are over. */
struct sweep_timer {
	struct bpf_timer timer;
	__u64 ticked; /* when it last did, as a flow's times; user space writes 0 to have new programs take it over */
};

/* A flow that the sweeper looks at when it is due; they are queued in that order. Each flow has one. */
struct sweep {
	struct flow_key key;
	__u64 stamp; /* the flow's: another one may have the key by now */
	__u64 due;
};

/* How many drops without a flow were told in this second, by enum reason. */
struct quota {
	__u64 second;
	__u64 told;
};

/* ---- the maps ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct addr);
	__type(value, struct place_entry);
} addresses SEC(".maps");

/* Asked only where addresses has nothing; ::/0 and ::ffff:0.0.0.0/96 are always there. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct network);
	__type(value, struct network_entry);
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, __u32); /* ifindex */
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Interfaces by the endpoints' numbers; 0 is none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, __u32);
} numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 15);
	__type(key, __u32);
	__type(value, struct set);
} sets SEC(".maps");

/* User space may make it larger or smaller: 16 bytes for each that there is room for, 100 more for each there is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct verdict_key);
	__type(value, struct verdict);
} verdicts SEC(".maps");

/* User space may make flows larger or smaller; sweeps wants twice as many, for those of evicted flows are there too. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sweep_timer);
} sweeper SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1 << 18);
	__type(value, struct sweep);
} sweeps SEC(".maps");

/* Where a new flow is made: a stack is small. */
struct flow_scratch {
	struct flow flow;
	__u64 stamps; /* how many this CPU has given */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_scratch);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_MAX);
	__type(key, __u32);
	__type(value, struct quota);
} quotas SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNT_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

#endif /* STATE_H */
