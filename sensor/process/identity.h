/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What user space was told of a process's credentials and namespaces, and how
 * it is told that they have changed. Include after record.h.
 */
#ifndef PROCESS_IDENTITY_H
#define PROCESS_IDENTITY_H

/*
 * Set by Go while credentials, or namespaces, are watched by entries and exits
 * of system calls. These tell nothing of 32-bit calls, which every program can
 * make: what they changed is found by comparing, at the next fork, exec or exit.
 * So that there is something to compare with, each exec makes an identity.
 */
bool compare_creds;
bool compare_ns;

/*
 * What user space was told of a process, where that may differ from what the
 * process is: it hangs on the leader, where all threads find it.
 *
 * Most processes live and end without one, for making it costs more than all
 * the rest of a fork. It is made with the second thread, for then the exit of
 * the last one must be told from that of the last but one; and with the first
 * change of credentials or namespaces, so that what all threads change one
 * after the other (glibc's setuid) is told once.
 */
struct identity {
	struct creds creds;
	struct namespaces ns;
	__u32 child_pidns, child_timens;
	__u32 known;  /* the members above are filled */
	__u32 exited; /* the exit was told */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct identity);
} identities SEC(".maps");

static __always_inline struct identity *identity_get(struct task_struct *leader, __u64 flags)
{
	if (!leader)
		return NULL; /* never */
	return bpf_task_storage_get(&identities, leader, NULL, flags);
}

static __always_inline void child_namespaces(struct nsproxy *ns, __u32 *pidns, __u32 *timens)
{
	*pidns = ns->pid_ns_for_children->ns.inum;
	*timens = 0;
	if (bpf_core_field_exists(((struct time_namespace *)0)->ns))
		*timens = ns->time_ns_for_children->ns.inum;
}

/* p has these credentials and namespaces now. */
static __always_inline void identity_fill(struct identity *id, struct task_struct *p, const struct cred *c)
{
	struct pid_namespace *ns;
	__u32 level, nr;

	task_upid(p, &level, &ns, &nr);
	creds_fill(&id->creds, c);
	namespaces_fill(&id->ns, p->nsproxy, c, BPF_CORE_READ(ns, ns.inum));
	child_namespaces(p->nsproxy, &id->child_pidns, &id->child_timens);
	id->known = 1;
}

/*
 * User space was told by an exec, or by what existed, all that p is: fresh says
 * whether that is news of p, which replaces what was told before.
 */
static __always_inline void identity_told(struct task_struct *p, const struct task_info *t, bool fresh)
{
	bool compare = compare_creds || compare_ns;
	struct identity *id = identity_get(p, compare ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);

	if (!id || !p->nsproxy || (id->known ? !fresh : !compare))
		return;
	id->creds = t->creds;
	id->ns = t->ns;
	child_namespaces(p->nsproxy, &id->child_pidns, &id->child_timens);
	id->known = 1;
}

/*
 * The process of the current task p is about to change: returns its identity,
 * filled with what it is until then, or NULL if none can be made or the change
 * belongs to an exec, which tells everything.
 */
static __always_inline struct identity *identity_before(struct task_struct *p)
{
	struct identity *id;

	if (BPF_CORE_READ_BITFIELD_PROBED(p, in_execve))
		return NULL;
	id = identity_get(p->group_leader, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (id && !id->known)
		identity_fill(id, p, p->real_cred);
	return id;
}

/* The current task p changes, or has changed, its credentials to c. */
static __always_inline void creds_changed(struct task_struct *p, struct identity *id, const struct cred *c)
{
	struct cred_record *r;
	struct task_call call;
	struct creds now;

	creds_fill(&now, c);
	if (creds_equal(&now, &id->creds))
		return;
	r = record_reserve(&critical, REC_CRED, sizeof(*r));
	if (!r)
		return; /* identity keeps what was told: the next change tells this one too */
	call = task_syscall(p);
	r->nr = call.nr;
	r->compat = call.compat;
	task_key_fill(&r->key, p);
	r->now = now;
	r->old = id->creds;
	id->creds = now;
	record_submit(&critical, r);
}

/* The current task p goes to the namespaces ns, and to the user namespace of c. */
static __always_inline void namespaces_changed(struct task_struct *p, struct identity *id, struct nsproxy *ns,
					       const struct cred *c)
{
	__u32 child_pidns, child_timens;
	struct namespaces now;
	struct ns_record *r;
	struct task_call call;

	namespaces_fill(&now, ns, c, id->ns.pid); /* a process never leaves its pid namespace */
	child_namespaces(ns, &child_pidns, &child_timens);
	if (now.mnt == id->ns.mnt && now.net == id->ns.net && now.user == id->ns.user && now.uts == id->ns.uts &&
	    now.ipc == id->ns.ipc && now.cgroup == id->ns.cgroup && now.time == id->ns.time &&
	    child_pidns == id->child_pidns && child_timens == id->child_timens)
		return;
	r = record_reserve(&critical, REC_NS, sizeof(*r));
	if (!r)
		return;
	call = task_syscall(p);
	r->nr = call.nr;
	r->compat = call.compat;
	task_key_fill(&r->key, p);
	r->now = now;
	r->old = id->ns;
	r->child_pidns = child_pidns;
	r->child_timens = child_timens;
	r->old_child_pidns = id->child_pidns;
	r->old_child_timens = id->child_timens;
	id->ns = now;
	id->child_pidns = child_pidns;
	id->child_timens = child_timens;
	record_submit(&critical, r);
}

/*
 * Tells what p, the current task, has changed by system calls that no program of
 * ours sees. Not of several threads: each may have credentials of its own, which
 * were told as its process's.
 */
static __always_inline void identity_compare(struct task_struct *p)
{
	struct nsproxy *ns = p->nsproxy;
	struct identity *id;

	if ((!compare_creds && !compare_ns) || p->signal->nr_threads != 1)
		return;
	id = identity_get(p->group_leader, 0);
	if (!id || !id->known)
		return;
	if (compare_creds)
		creds_changed(p, id, p->real_cred);
	if (compare_ns && ns)
		namespaces_changed(p, id, ns, p->real_cred);
}

#endif /* PROCESS_IDENTITY_H */
