/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel as our programs see it: only what they use of it.
 *
 * A struct lists the members that some program reads and no others; CO-RE
 * moves each access to where the running kernel keeps the member, so order and
 * gaps mean nothing here. A member that some kernel lacks is asked for with
 * bpf_core_field_exists; one that changed its type or its place has a second
 * struct with the suffix ___old (CO-RE ignores what follows three underscores).
 *
 * Sections: 1 integers, 2 constants of the bpf(2) interface, 3 structs that all
 * sensors share, 4 tasks (sensor/process), 5 sockets (sensor/socket).
 * Those of io_uring are in io_uring.h.
 */
#ifndef KERNEL_H
#define KERNEL_H

/* ---- 1. integers ---- */

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef signed short __s16;
typedef unsigned int __u32;
typedef signed int __s32;
typedef unsigned long long __u64;
typedef signed long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef _Bool bool;

#define true  1
#define false 0
#define NULL  ((void *)0)

#define offsetof(type, member) __builtin_offsetof(type, member)

/* ---- 2. constants of the bpf(2) interface (include/uapi/linux/bpf.h) ---- */

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};

/* Flags of maps. */
enum {
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_CLONE = 1 << 9,
};

enum {
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
};

enum {
	BPF_RB_NO_WAKEUP = 1 << 0,
	BPF_RB_FORCE_WAKEUP = 1 << 1,
};

enum {
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
	BPF_RB_CONS_POS = 2,
	BPF_RB_PROD_POS = 3,
};

/*
 * Everything below is relocated. The compiler may not place members by these
 * declarations, hence no padding is spelled out.
 */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* ---- 3. shared ---- */

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

/* tracepoint/syscalls/sys_enter_* */
struct trace_event_raw_sys_enter {
	long id;
	unsigned long args[6];
};

/* tracepoint/syscalls/sys_exit_* */
struct trace_event_raw_sys_exit {
	long id;
	long ret;
};

/* ---- 4. tasks (sensor/process) ---- */

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

/* Eight bytes since 6.3, two words before: cred___old. */
typedef struct {
	__u64 val;
} kernel_cap_t;

struct kernel_cap_struct {
	__u32 cap[2];
};

struct list_head {
	struct list_head *next, *prev;
};

/* Namespaces: all we want of each is its inode number. */

struct ns_common {
	unsigned int inum;
	__u64 ns_id; /* since 6.18; 0 in an anonymous mount namespace */
};

struct uts_namespace {
	struct ns_common ns;
};

struct ipc_namespace {
	struct ns_common ns;
};

struct pid_namespace {
	unsigned int level;
	struct ns_common ns;
};

struct net {
	struct ns_common ns;
};

struct user_namespace {
	struct ns_common ns;
};

struct time_namespace {
	struct ns_common ns;
};

struct cgroup_namespace {
	struct ns_common ns;
};

struct mnt_namespace {
	struct ns_common ns;
	__u64 seq; /* until 6.17; 0 in an anonymous mount namespace */
};

struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	struct time_namespace *time_ns;
	struct time_namespace *time_ns_for_children;
	struct cgroup_namespace *cgroup_ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

enum pid_type {
	PIDTYPE_PID,
	PIDTYPE_TGID,
	PIDTYPE_PGID,
	PIDTYPE_SID,
};

struct group_info {
	int ngroups;
	kgid_t gid[0]; /* sorted */
};

struct cred {
	kuid_t uid, suid, euid, fsuid;
	kgid_t gid, sgid, egid, fsgid;
	kernel_cap_t cap_inheritable, cap_permitted, cap_effective, cap_bset, cap_ambient;
	struct user_namespace *user_ns;
	struct group_info *group_info;
};

struct cred___old {
	struct kernel_cap_struct cap_inheritable, cap_permitted, cap_effective, cap_bset, cap_ambient;
};

/* Files and where they lie. */

struct qstr {
	union {
		struct {
			__u32 hash;
			__u32 len;
		};
		__u64 hash_len;
	};
	const unsigned char *name;
};

struct hlist_bl_node {
	struct hlist_bl_node *next, **pprev;
};

typedef struct {
	unsigned int sequence;
} seqcount_t;

typedef struct {
	seqcount_t seqcount;
} seqcount_spinlock_t;

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
};

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
};

struct inode {
	unsigned short i_mode;
	kuid_t i_uid;
	kgid_t i_gid;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	atomic_t i_writecount; /* below 0: nobody can write, for it is being executed */
	__s64 i_size;
	__s64 i_mtime_sec, i_ctime_sec; /* since 6.11 */
	__u32 i_mtime_nsec, i_ctime_nsec;
};

struct inode___old { /* until 6.5, i_mtime alone; 6.6 to 6.10 have the underscores */
	struct timespec64 i_mtime, i_ctime;
	struct timespec64 __i_mtime, __i_ctime;
};

struct dentry {
	seqcount_spinlock_t d_seq; /* odd while the name or the parent is being changed */
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	unsigned int f_mode, f_flags;
	__s64 f_pos;
	void *private_data; /* of a socket's: struct socket */
	atomic64_t f_count; /* until 6.12 */
};

struct file_ref {
	atomic64_t refcnt;
};

struct file___ref { /* since 6.13 */
	struct file_ref f_ref;
};

struct fs_struct {
	int users;
	struct path root, pwd;
};

struct mm_struct {
	atomic_t mm_users;
	unsigned long arg_start, arg_end;
	struct file *exe_file;
};

#define VM_SHARED 0x00000008

struct vm_area_struct {
	unsigned long vm_end, vm_flags;
	struct file *vm_file;
};

struct linux_binprm {
	struct file *file;
	const char *filename, *interp, *fdpath;
};

/* Control groups. */

struct kernfs_node {
	const char *name;
	__u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	struct cgroup *ancestors[]; /* from the root, at 0, to itself, at level */
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

enum cgroup_subsys_id {
	cpu_cgrp_id,
	memory_cgrp_id,
	devices_cgrp_id,
	freezer_cgrp_id,
	pids_cgrp_id,
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

/* Tasks. */

struct tty_driver {
	int major;
	int minor_start;
};

struct tty_struct {
	struct tty_driver *driver;
	int index;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

struct thread_info {
	__u32 status;	     /* x86: TS_COMPAT */
	unsigned long flags; /* arm64: TIF_32BIT */
};

typedef struct {
	seqcount_spinlock_t seqcount;
} seqlock_t;

struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	int group_exit_code;
	unsigned int flags;
	struct pid *pids[4];
	struct tty_struct *tty;
	seqlock_t stats_lock;
	__u64 utime, stime;
	unsigned long min_flt, maj_flt;
	unsigned long maxrss;
	unsigned long long sum_sched_runtime;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct sched_entity se;
	struct mm_struct *mm;
	int exit_code;
	unsigned int in_execve : 1;
	int pid, tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct list_head thread_node;
	__u64 utime, stime;
	__u64 start_boottime;
	unsigned long min_flt, maj_flt;
	__u64 self_exec_id;
	const struct cred *cred;
	const struct cred *real_cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	kuid_t loginuid;
	unsigned int sessionid;
	struct css_set *cgroups;
};

enum {
	FMODE_READ = 1 << 0,
	FMODE_WRITE = 1 << 1,
	FMODE_CREATED = 1 << 20,
};

enum {
	PF_EXITING = 0x4,
	PF_KTHREAD = 0x200000,
	SIGNAL_GROUP_EXIT = 0x4,
	TS_COMPAT = 0x2,
	TIF_32BIT_ARM64 = 1 << 22,
};

struct pt_regs { /* x86 */
	unsigned long bx, di, si, dx, r10, r8, r9, ax;
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	int syscallno;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

/* ---- 5. sockets (sensor/socket) ---- */

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_MPTCP = 262,
	SOCK_DONE = 1, /* bit of skc_flags: the peer's FIN has come */
	S_IFMT = 0170000,
	S_IFSOCK = 0140000,
	S_IFREG = 0100000,
	SOCKFS_MAGIC = 0x534f434b,
};

enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *close_on_exec, *open_fds;
};

struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	unsigned long skc_flags;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
};

struct sock_cgroup_data {
	struct cgroup *cgroup; /* of the unified hierarchy */
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data;
	__u16 sk_type;
	__u16 sk_protocol;
	int sk_err;
};

struct unix_address {
	int len; /* of what follows: the family, and the path or name */
	struct {
		unsigned short sun_family;
		char sun_path[108];
	} name[1];
};

struct unix_sock {
	struct unix_address *addr; /* NULL: it has no name */
	struct sock *peer;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport; /* outlives skc_num, which is 0 once the port is given back */
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct minmax_sample {
	__u32 t, v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_received, bytes_acked, bytes_sent, bytes_retrans;
	__u32 segs_in, segs_out;
	__u32 srtt_us; /* eight times the round-trip time */
	struct minmax rtt_min;
	__u32 total_retrans, lost_out;
	bool is_mptcp : 1;
};

struct mptcp_sock {
	struct sock *first; /* the subflow that the connection began with */
};

typedef enum {
	SS_UNCONNECTED = 1,
	SS_CONNECTING = 2,
} socket_state;

struct socket {
	socket_state state;
	struct sock *sk;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct bpf_map;

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

#pragma clang attribute pop

/*
 * What cgroup programs are given, of the bpf(2) interface: not relocated, so
 * these are whole up to the last member used (include/uapi/linux/bpf.h).
 */

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* host byte order */
	__be16 dst_port;
	__u16 : 16;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

struct bpf_flow_keys;

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	union {
		struct bpf_flow_keys *flow_keys;
		__u64 : 64;
	} __attribute__((aligned(8)));
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	} __attribute__((aligned(8)));
	__u32 gso_size;
};

#endif /* KERNEL_H */
