//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Observes TCP connections, listening sockets and UDP flows with the processes
 * they belong to, and DNS messages. The programs are in the headers:
 *
 *   sock.h     records, the state of a socket, its owner
 *   tcp.h      connections, by tp_btf/inet_sock_set_state and the resets
 *   accept.h   who accepted
 *   connect.h  connect(2) that fails before the connection is begun
 *   packet.h   UDP flows and DNS: cgroup_skb, cgroup/sock_create and sock_release
 *   sweep.h    what exists: iter/task_file and iter/bpf_map_elem
 *
 * Out:   struct sock_record (REC_TCP, REC_SOCK, REC_UDP, REC_UDP_END) and struct
 *        dns_record (REC_DNS), all in the ring `bulk`.
 * State: `socks` and `adopted` by socket, `flows` by UDP flow, `connectings` by
 *        thread.
 */
#include "kernel.h"
#include "sock.h"
#include "tcp.h"
#include "accept.h"
#include "connect.h"
#include "packet.h"
#include "sweep.h"

/* For the types' sake: only what is referred to gets a Go type. */
union {
	struct sock_record sock;
	struct dns_record dns;
	enum sock_what what;
	enum sock_reset reset;
	enum sweep_mode mode;
} *types __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";
