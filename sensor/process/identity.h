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
	__u64 claim; /* what somebody is doing with the members below; 0: nobody is */
	struct creds creds;
	struct namespaces ns;
	__u32 child_pidns, child_timens;
	__u32 known;	       /* the members above are filled */
	__u32 exited;	       /* the exit was told */
	__u32 creds_by, ns_by; /* the thread whose call has changed them, and that was told */
};

/* Of changes these are the lowest three bits, below a hash of what is changed to. */
enum identity_claim {
	CLAIM_FILL = 1, /* what the process is, read from it */
	CLAIM_TOLD = 2, /* what user space was told by a whole record */
	CLAIM_CREDS = 5,
	CLAIM_NS = 6,
};

#define CLAIM_TRIES (1 << 20) /* milliseconds: the owner's CPU can be taken away from it */

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

struct claim_try {
	struct identity *id;
	__u64 what, held;
};

static __always_inline bool claim_once(struct claim_try *t)
{
	t->held = __sync_val_compare_and_swap(&t->id->claim, 0, t->what);
	return !t->held || t->held == t->what;
}

static long claim_step(__u32 i, struct claim_try *t)
{
	return claim_once(t);
}

enum claim_result {
	CLAIMED,      /* the caller must release it */
	CLAIMED_SAME, /* another thread is doing the very same */
	CLAIM_LOST,   /* another thread has kept it for too long */
};

/*
 * Threads of a process on several CPUs may want to compare with an identity, and
 * change it, at once: comparison, record and change are one step, claimed by
 * what it is about. None of the programs interrupts another. Where they can be
 * preempted, so can the one that waits.
 */
static __always_inline enum claim_result identity_claim(struct identity *id, __u64 what)
{
	struct claim_try t = { .id = id, .what = what };

	if (!claim_once(&t))
		bpf_loop(CLAIM_TRIES, claim_step, &t, 0);
	if (!t.held)
		return CLAIMED;
	return t.held == what ? CLAIMED_SAME : CLAIM_LOST;
}

static __always_inline void identity_release(struct identity *id)
{
	__sync_lock_test_and_set(&id->claim, 0); /* with a barrier: what was written is seen by the next */
}

/* The claim of a change to what now says: the same for two that are the same change. */
static __always_inline __u64 claim_of(const void *now, __u32 len, enum identity_claim kind)
{
	__u64 h = 0x9e3779b97f4a7c15ULL, word;
	__u32 i;

#pragma unroll
	for (i = 0; i < len / sizeof(word); i++) {
		__builtin_memcpy(&word, now + i * sizeof(word), sizeof(word));
		h = (h ^ word) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	return h << 3 | kind;
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

	if (!id || !p->nsproxy)
		return;
	if (identity_claim(id, fresh ? CLAIM_TOLD : CLAIM_FILL) != CLAIMED)
		return; /* filled meanwhile; nothing is in the way of an exec, which is alone */
	if (id->known ? fresh : compare) {
		id->creds = t->creds;
		id->ns = t->ns;
		child_namespaces(p->nsproxy, &id->child_pidns, &id->child_timens);
		id->known = 1;
	}
	identity_release(id);
}

/* What p changes from now on is not told: when it is again, it is told anew. */
static __always_inline void identity_forget(struct task_struct *p)
{
	struct identity *id = identity_get(p, 0);

	if (!id || identity_claim(id, CLAIM_TOLD) != CLAIMED)
		return; /* never: only an exec claims the same, and it ends at once */
	id->known = 0;
	identity_release(id);
}

/*
 * The process of the current task p is about to change: returns its identity,
 * filled with what it is until then, or NULL if none can be made or the change
 * belongs to an exec, which tells everything.
 */
static __always_inline struct identity *identity_before(struct task_struct *p)
{
	struct identity *id;

	if (!task_in_scope(p) || BPF_CORE_READ_BITFIELD_PROBED(p, in_execve))
		return NULL;
	id = identity_get(p->group_leader, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!id)
		return NULL;
	if (id->creds_by == (__u32)p->pid)
		id->creds_by = 0;
	if (id->ns_by == (__u32)p->pid)
		id->ns_by = 0;
	if (!id->known && identity_claim(id, CLAIM_FILL) == CLAIMED) {
		if (!id->known)
			identity_fill(id, p, p->real_cred);
		identity_release(id);
	}
	return id;
}

/*
 * Claims an identity for a change. A change of which another thread has just told
 * the same is done; one that has waited too long is lost, and counted. Returns
 * whether the caller is to compare and tell, and then to release.
 */
static __always_inline bool change_begin(struct identity *id, __u64 claim, enum record_type type)
{
	enum claim_result got = identity_claim(id, claim);

	if (got == CLAIM_LOST)
		record_count_lost(type);
	return got == CLAIMED;
}

/* The current task p changes, or has changed, its credentials to c. */
static __always_inline void creds_changed(struct task_struct *p, struct identity *id, const struct cred *c)
{
	struct cred_record *r;
	struct task_call call;
	struct creds now;

	creds_fill(&now, c);
	if (!change_begin(id, claim_of(&now, sizeof(now), CLAIM_CREDS), REC_CRED))
		return;
	if (!id->known || creds_equal(&now, &id->creds))
		goto out;
	r = record_reserve(&critical, REC_CRED, sizeof(*r));
	if (!r)
		goto out; /* identity keeps what was told: the next change tells this one too */
	call = task_syscall(p);
	r->nr = call.nr;
	r->compat = call.compat;
	task_key_fill(&r->key, p);
	r->now = now;
	r->old = id->creds;
	id->creds = now;
	id->creds_by = p->pid;
	record_submit(&critical, r);
out:
	identity_release(id);
}

/* The namespaces that a process and its next children are in. */
struct ns_state {
	struct namespaces ns;
	__u32 child_pidns, child_timens;
};

static __always_inline bool ns_state_equal(const struct ns_state *now, const struct identity *id)
{
	return now->ns.mnt == id->ns.mnt && now->ns.net == id->ns.net && now->ns.user == id->ns.user &&
	       now->ns.uts == id->ns.uts && now->ns.ipc == id->ns.ipc && now->ns.cgroup == id->ns.cgroup &&
	       now->ns.time == id->ns.time && now->child_pidns == id->child_pidns &&
	       now->child_timens == id->child_timens;
}

/* The current task p goes to the namespaces ns, and to the user namespace of c. */
static __always_inline void namespaces_changed(struct task_struct *p, struct identity *id, struct nsproxy *ns,
					       const struct cred *c)
{
	struct ns_state now;
	struct ns_record *r;
	struct task_call call;

	namespaces_fill(&now.ns, ns, c, 0);
	child_namespaces(ns, &now.child_pidns, &now.child_timens);
	if (!change_begin(id, claim_of(&now, sizeof(now), CLAIM_NS), REC_NS))
		return;
	now.ns.pid = id->ns.pid; /* a process never leaves its pid namespace */
	if (!id->known || ns_state_equal(&now, id))
		goto out;
	r = record_reserve(&critical, REC_NS, sizeof(*r));
	if (!r)
		goto out;
	call = task_syscall(p);
	r->nr = call.nr;
	r->compat = call.compat;
	task_key_fill(&r->key, p);
	r->now = now.ns;
	r->old = id->ns;
	r->child_pidns = now.child_pidns;
	r->child_timens = now.child_timens;
	r->old_child_pidns = id->child_pidns;
	r->old_child_timens = id->child_timens;
	id->ns = now.ns;
	id->child_pidns = now.child_pidns;
	id->child_timens = now.child_timens;
	id->ns_by = p->pid;
	record_submit(&critical, r);
out:
	identity_release(id);
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

	if ((!compare_creds && !compare_ns) || p->signal->nr_threads != 1 || !task_in_scope(p))
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
