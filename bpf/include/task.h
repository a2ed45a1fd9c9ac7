/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a task is: who it belongs to, in which namespaces and which control
 * group it is, and by which system call it came to do what it does.
 *
 * Members are read straight from the task where the verifier knows its type; a
 * pointer that turns out to be NULL or stale reads as zeros. Where a member's
 * place is computed, the pointer goes through bpf_probe_read first.
 */
#ifndef TASK_H
#define TASK_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "cgroup.h"
#include "path.h"
#include "road.h"
#include "scope.h"

#define COMM_LEN 16

/* Names a process; in Go event.Key. */
struct task_key {
	__u64 start; /* start_boottime of the group's leader, ns */
	__u32 pid;   /* tgid in the initial pid namespace */
	__u32 tid;   /* the thread that acted; 0 where none did */
};

/* As the host counts; in Go event.Creds. */
struct creds {
	__u64 effective, permitted, inheritable, bounding, ambient;
	__u32 uid, gid, ruid, rgid, suid, sgid, fsuid, fsgid; /* uid, gid: effective */
};

/* Inode numbers; in Go event.Namespaces. */
struct namespaces {
	__u32 mnt, pid, net, user, uts, ipc, cgroup, time;
};

enum task_flags {
	TASK_KTHREAD = 1, /* a thread of the kernel */
};

/* What fork, exec and existing processes have in common. */
struct task_info {
	struct task_key key, parent;
	struct creds creds;
	struct namespaces ns;
	struct cgroup_key cgroup;
	__u32 vpid, sid, pgid, vsid, vpgid; /* v: in the task's own pid namespace */
	__u32 loginuid, sessionid;	    /* 2^32-1: none */
	__u32 tty;			    /* as /proc/PID/stat encodes it */
	__u32 flags;			    /* enum task_flags */
	__u32 zero;
	char comm[COMM_LEN];
};

static __always_inline void task_key_fill(struct task_key *k, struct task_struct *p)
{
	k->start = p->group_leader->start_boottime;
	k->pid = p->tgid;
	k->tid = p->pid;
}

/* The same for a relative of a process; none, all zero, for one outside the scope. */
static __always_inline void task_key_fill_relative(struct task_key *k, struct task_struct *p)
{
	if (!task_in_scope(p)) {
		__builtin_memset(k, 0, sizeof(*k));
		return;
	}
	task_key_fill(k, p);
}

/* Capabilities of a struct cred, whichever way this kernel keeps them. */
#define CAPS(c, set)                                                          \
	({                                                                    \
		__u64 __v;                                                    \
		if (bpf_core_field_exists(((struct cred *)0)->set.val)) {     \
			__v = (c)->set.val;                                   \
		} else {                                                      \
			const struct cred___old *__o = (const void *)(c);     \
			__v = (__u64)__o->set.cap[1] << 32 | __o->set.cap[0]; \
		}                                                             \
		__v;                                                          \
	})

static __always_inline void creds_fill(struct creds *t, const struct cred *c)
{
	t->effective = CAPS(c, cap_effective);
	t->permitted = CAPS(c, cap_permitted);
	t->inheritable = CAPS(c, cap_inheritable);
	t->bounding = CAPS(c, cap_bset);
	t->ambient = CAPS(c, cap_ambient);
	t->uid = c->euid.val;
	t->gid = c->egid.val;
	t->ruid = c->uid.val;
	t->rgid = c->gid.val;
	t->suid = c->suid.val;
	t->sgid = c->sgid.val;
	t->fsuid = c->fsuid.val;
	t->fsgid = c->fsgid.val;
}

static __always_inline bool creds_equal(const struct creds *a, const struct creds *b)
{
	return a->effective == b->effective && a->permitted == b->permitted && a->inheritable == b->inheritable &&
	       a->bounding == b->bounding && a->ambient == b->ambient && a->uid == b->uid && a->gid == b->gid &&
	       a->ruid == b->ruid && a->rgid == b->rgid && a->suid == b->suid && a->sgid == b->sgid &&
	       a->fsuid == b->fsuid && a->fsgid == b->fsgid;
}

/* The pid namespace that the task lives in, and its number there. */
static __always_inline void task_upid(struct task_struct *p, __u32 *level, struct pid_namespace **ns, __u32 *nr)
{
	struct pid *pid = BPF_CORE_READ(p, thread_pid);
	struct upid *u;

	*level = BPF_CORE_READ(pid, level);
	u = (void *)__builtin_preserve_access_index(&pid->numbers) + *level * bpf_core_type_size(struct upid);
	*ns = BPF_CORE_READ(u, ns);
	*nr = BPF_CORE_READ(u, nr);
}

/* The number of pid in the namespace ns, which is level deep; 0 if it has none there. */
static __always_inline __u32 pid_in_ns(struct pid *pid, __u32 level, struct pid_namespace *ns)
{
	struct upid *u;

	if (BPF_CORE_READ(pid, level) < level)
		return 0;
	u = (void *)__builtin_preserve_access_index(&pid->numbers) + level * bpf_core_type_size(struct upid);
	if (BPF_CORE_READ(u, ns) != ns)
		return 0;
	return BPF_CORE_READ(u, nr);
}

/* The namespaces of a task; its pid namespace is the one it lives in. */
static __always_inline void namespaces_fill(struct namespaces *n, struct nsproxy *ns, const struct cred *c, __u32 pidns)
{
	n->mnt = ns->mnt_ns->ns.inum;
	n->pid = pidns;
	n->net = ns->net_ns->ns.inum;
	n->user = c->user_ns->ns.inum;
	n->uts = ns->uts_ns->ns.inum;
	n->ipc = ns->ipc_ns->ns.inum;
	n->cgroup = ns->cgroup_ns->ns.inum;
	n->time = 0;
	if (bpf_core_field_exists(((struct time_namespace *)0)->ns))
		n->time = ns->time_ns->ns.inum;
}

static __always_inline __u32 task_tty(struct task_struct *p)
{
	struct tty_struct *tty = p->signal->tty;
	__u32 major, minor;

	if (!tty)
		return 0;
	major = tty->driver->major;
	minor = tty->driver->minor_start + tty->index;
	return (minor & 0xff) | major << 8 | (minor & ~0xff) << 12; /* new_encode_dev */
}

/* Fills all of t but parent and cgroup, of the process whose leader is p. */
static __always_inline void task_fill(struct task_info *t, struct task_struct *p)
{
	const struct cred *c = p->real_cred;
	struct signal_struct *sig = p->signal;
	struct pid *sid = sig->pids[PIDTYPE_SID], *pgid = sig->pids[PIDTYPE_PGID];
	struct pid_namespace *ns;
	__u32 level;

	t->key.start = p->start_boottime;
	t->key.pid = p->tgid;
	t->key.tid = p->pid;
	creds_fill(&t->creds, c);
	t->sid = sid->numbers[0].nr;
	t->pgid = pgid->numbers[0].nr;
	task_upid(p, &level, &ns, &t->vpid);
	if (level) {
		t->vsid = pid_in_ns(BPF_CORE_READ(sig, pids[PIDTYPE_SID]), level, ns);
		t->vpgid = pid_in_ns(BPF_CORE_READ(sig, pids[PIDTYPE_PGID]), level, ns);
	} else {
		t->vsid = t->sid;
		t->vpgid = t->pgid;
	}
	namespaces_fill(&t->ns, p->nsproxy, c, BPF_CORE_READ(ns, ns.inum));
	t->loginuid = t->sessionid = ~0U;
	if (bpf_core_field_exists(p->loginuid)) {
		t->loginuid = p->loginuid.val;
		t->sessionid = p->sessionid;
	}
	t->tty = task_tty(p);
	t->flags = p->flags & PF_KTHREAD ? TASK_KTHREAD : 0;
	t->zero = 0;
	bpf_probe_read_kernel(t->comm, sizeof(t->comm), &p->comm);
}

/* ---- the system call a task is in ---- */

struct task_call {
	__u32 nr;     /* number in its table; 2^32-1 where there is none: the kernel itself acts */
	__u32 compat; /* whether the table is the one for 32-bit programs */
	__u64 arg0;   /* first argument */
};

/* p is the current task. */
static __always_inline struct task_call task_syscall(struct task_struct *p)
{
	struct task_call call = { .nr = ~0U };
	struct pt_regs *regs;

	if (p->flags & PF_KTHREAD)
		return call;
	regs = (struct pt_regs *)bpf_task_pt_regs(p);
	if (bpf_core_field_exists(regs->orig_ax)) {
		call.nr = BPF_CORE_READ(regs, orig_ax);
		call.arg0 = BPF_CORE_READ(regs, di);
		if (bpf_core_field_exists(p->thread_info.status) && p->thread_info.status & TS_COMPAT) {
			call.compat = 1;
			call.arg0 = BPF_CORE_READ(regs, bx);
		}
	} else {
		const struct pt_regs___arm64 *arm = (const void *)regs;

		call.nr = BPF_CORE_READ(arm, syscallno);
		call.arg0 = BPF_CORE_READ(arm, orig_x0);
	}
	return call;
}

/* ---- control groups ---- */

/*
 * Tells user space a path before the first record that names the cgroup: the
 * path follows the struct.
 */
struct cgroup_record {
	struct record hdr;
	struct cgroup_key key;
	__u32 len; /* of the path, bytes; 0 if it is longer than PATH_MAX */
	__u32 zero;
};

/* Where such a record is built; path_buf says why not on the stack. */
struct cgroup_scratch {
	struct cgroup_record rec;
	char path[PATH_MAX + NAME_MAX + 1];
	__u64 off; /* how much of the path is written */
	struct cgroup *cgroup;
};

/* Cgroups whose path user space was told. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct cgroup_key);
	__type(value, __u8);
} cgroups_told SEC(".maps");

struct cgroup_walk {
	struct cgroup_scratch *s;
};

static long cgroup_step(__u32 i, struct cgroup_walk *w)
{
	struct cgroup_scratch *s = w->s;
	struct cgroup *c = s->cgroup, **up;
	__u64 off = s->off;
	long n;

	if (off >= PATH_MAX) {
		s->off = PATH_MAX + 1;
		return 1;
	}
	up = (void *)__builtin_preserve_access_index(&c->ancestors) + (i + 1) * sizeof(*up);
	c = NULL;
	bpf_probe_read_kernel(&c, sizeof(c), up);
	s->path[off] = '/';
	n = bpf_probe_read_kernel_str(&s->path[off + 1], NAME_MAX + 1, BPF_CORE_READ(c, kn, name));
	s->off = n > 0 ? off + n : PATH_MAX + 1;
	return 0;
}

/*
 * Stores the key of cgroup c and makes sure that user space was told its path
 * before. s is a scratch buffer that no other program uses on this CPU. If the
 * ring is full, the cgroup is announced again the next time.
 */
static __always_inline void cgroup_announce(struct cgroup_key *key, struct cgroup *c, struct cgroup_scratch *s)
{
	struct cgroup_walk w = { .s = s };
	struct cgroup_key k = {};
	__u8 told = 1;
	__u64 len;

	k.id = BPF_CORE_READ(c, kn, id);
	k.hierarchy = BPF_CORE_READ(c, root, hierarchy_id);
	*key = k;
	if (bpf_map_lookup_elem(&cgroups_told, &k))
		return;

	s->cgroup = c;
	s->off = 0;
	bpf_loop(BPF_CORE_READ(c, level), cgroup_step, &w, 0);
	if (!s->off) {
		s->path[0] = '/';
		s->off = 1;
	}
	len = s->off;
	if (len > PATH_MAX)
		len = 0;
	s->rec.hdr.flags = 0;
	s->rec.key = k;
	s->rec.len = len;
	s->rec.zero = 0;
	if (!record_output(&critical, s, REC_CGROUP, sizeof(s->rec) + len))
		bpf_map_update_elem(&cgroups_told, &k, &told, BPF_ANY);
}

#endif /* TASK_H */
