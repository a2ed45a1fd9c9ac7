//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Observes processes: how they come to be, what they run, how they end, and
 * when they change their credentials or namespaces.
 *
 * Hooks: tp_btf sched_process_fork, sched_process_exec, sched_process_exit, and
 *        cgroup_attach_task.
 *        Credentials: fentry/commit_creds, or entries and exits of the system
 *        calls. Namespaces: fentry/switch_task_namespaces and commit_creds (a
 *        user namespace comes with credentials), or entries and exits of setns
 *        and unshare. iter/task for the processes that are older than the hooks.
 * Out:   ring critical: fork_record, exec_record (also for existing processes),
 *        exit_record, cred_record, ns_record, cgroup_record. Ring bulk:
 *        attempt_record.
 * State: identities, of the processes that need one: what user space was told
 *        (identity.h). With a scope, which processes it was told of (told.h). exes,
 *        what processes execute, for other sensors (exe.h).
 *        Scratch buffers: one per program, so that no program finds another's
 *        data in its own.
 */
#include "kernel.h"
#include "road.h"
#include "path.h"
#include "task.h"

#include "record.h"
#include "told.h"
#include "image.h"
#include "identity.h"
#include "attempt.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* How many CPUs there can be. Set by Go. */
const volatile __u32 cpus = 1;

/*
 * Exec records in the making, by CPU, and behind these that of a process that is
 * moved. Not a per-CPU map: those end at 32 KiB. Its size is set by Go.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct exec_scratch));
} exec_scratches SEC(".maps");

/* The iterator sleeps and moves between CPUs; only one runs at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct exec_scratch));
} task_scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct cgroup_scratch));
} fork_scratches SEC(".maps");

/* The kernel can keep a sleepable program in an RCU section, since 6.2. */
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;

/* So that the types are in the object's BTF, where Go's come from. */
const union {
	struct fork_record fork;
	struct exec_record exec;
	struct exit_record exit;
	struct cred_record cred;
	struct ns_record ns;
	struct cgroup_record cgroup;
	struct attempt_record attempt;
	enum image_flags image;
	enum task_flags task;
} *records __attribute__((unused));

/* ---- fork ---- */

#define NR_CLONE3 435 /* on all architectures, 32-bit tables included */

/* The flags are in a struct of the caller for clone3, in the first register otherwise. */
static __always_inline __u64 clone_flags(const struct task_call *call)
{
	__u64 flags = 0;

	if (call->nr != NR_CLONE3)
		return call->arg0;
	bpf_probe_read_user(&flags, sizeof(flags), (void *)call->arg0);
	return flags;
}

/*
 * A child executes what its maker does, where that is known. Before its record is
 * made, so that what was told of the maker comes before that in the ring too.
 */
static __always_inline struct exe *exe_copy(struct exe *from, struct task_struct *child)
{
	struct exe *e;

	e = bpf_task_storage_get(&exes, child, from, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (e)
		exe_comm(e, child->comm);
	return e;
}

/* The child was told, or not; meanwhile the maker may have been doubted. */
static __always_inline void exe_copied(struct exe *from, struct exe *e, bool told)
{
	if (!told)
		e->comm_bits = 0;
	if (!told || !from->path_bits)
		e->path_bits = 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *maker, struct task_struct *child)
{
	struct cgroup_scratch *scratch;
	struct fork_record *r;
	struct cgroup_key cgroup;
	struct task_call call;
	struct exe *from, *exe = NULL;
	__u32 zero = 0;

	if (!task_in_scope(child))
		return 0;
	if (child->pid != child->tgid) {
		identity_get(child->group_leader, BPF_LOCAL_STORAGE_GET_F_CREATE);
		return 0;
	}
	told_add(child, TOLD);
	identity_compare(maker);

	scratch = bpf_map_lookup_elem(&fork_scratches, &zero);
	if (!scratch)
		return 0; /* never */
	cgroup_announce(&cgroup, task_cgroup(child), scratch);

	from = task_in_scope(maker) ? exe_of(maker) : NULL;
	if (from)
		exe = exe_copy(from, child);
	r = record_reserve(&critical, REC_FORK, sizeof(*r));
	if (exe)
		exe_copied(from, exe, r);
	if (!r)
		return 0;

	call = task_syscall(maker);
	r->nr = call.nr;
	r->compat = call.compat;
	r->clone_flags = clone_flags(&call);
	r->task.cgroup = cgroup;
	task_fill(&r->task, child);
	task_key_fill_relative(&r->task.parent, child->real_parent);
	task_key_fill_relative(&r->maker, maker);
	record_submit(&critical, r);
	return 0;
}

/* ---- exec and existing processes ---- */

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *p, int old_pid, struct linux_binprm *bprm)
{
	__u32 cpu = bpf_get_smp_processor_id();
	const char *filename = bprm->filename, *interp = bprm->interp;
	struct exec_scratch *s;
	struct exec_record *r;
	unsigned long start;
	__u64 off = 0, len;

	if (!task_in_scope(p))
		return 0;
	told_add(p, TOLD);
	s = bpf_map_lookup_elem(&exec_scratches, &cpu);
	if (!s)
		return 0; /* never */
	r = &s->rec;

	image_fill(s, &off, p, BPF_CORE_READ(bprm, file));
	if (bprm->fdpath)
		r->flags |= EXEC_AT;
	r->filename_len = put_string(s, &off, filename);
	if (interp != filename)
		r->interp_len = put_string(s, &off, interp);

	len = args_range(r, p, &start);
	if (off > 4 * PATH_MAX || len > ARGS_MAX)
		return 0; /* never */
	if (bpf_probe_read_user(&s->data[off], len, (void *)start)) {
		r->flags |= ARGS_CUT;
		len = 0;
	}
	r->args_len = len;

	if (!exec_output(s, REC_EXEC, off + len)) {
		identity_told(p, &r->task, true);
		exe_executed(p, s);
	}
	return 0;
}

/*
 * Whether p is the thread to ask about its process: the first one, or, where that
 * has ended and left the others without it, the next.
 */
static __always_inline bool task_speaks(struct task_struct *p)
{
	struct task_struct *leader = BPF_CORE_READ(p, group_leader), *next;

	if (p->flags & PF_KTHREAD || BPF_CORE_READ(leader, mm))
		return p->pid == p->tgid;
	next = (void *)BPF_CORE_READ(leader, thread_node.next) - bpf_core_field_offset(struct task_struct, thread_node);
	if (p->pid == p->tgid)
		return BPF_CORE_READ(next, tgid) != p->tgid; /* there is no other: a zombie */
	return BPF_CORE_READ(next, pid) == p->pid;
}

/* Names the process of p, where that is not the first thread, after the first. */
static __always_inline void task_rename(struct task_info *t, struct task_struct *p)
{
	struct task_struct *leader = BPF_CORE_READ(p, group_leader);
	struct pid_namespace *ns;
	__u32 level;

	t->key.start = BPF_CORE_READ(leader, start_boottime);
	t->key.tid = t->key.pid;
	task_upid(leader, &level, &ns, &t->vpid);
	BPF_CORE_READ_INTO(&t->comm, leader, comm);
}

/*
 * One process that is older than the hooks. Its exit may be told while this
 * runs: user space does not believe a REC_TASK behind a REC_EXIT.
 *
 * Returns 1 to be called again with the same task once the reader has made
 * room: what exists already is never lost.
 */
static __always_inline int task_state(struct bpf_iter__task *ctx, bool sleepable)
{
	struct task_struct *p = ctx->task;
	struct exec_scratch *s;
	struct exec_record *r;
	unsigned long start;
	__u64 off = 0, len, need, exec_id;
	__u32 zero = 0, may;
	bool rcu;

	if (!p || !task_in_scope(p) || !task_speaks(p))
		return 0;
	s = bpf_map_lookup_elem(&task_scratch, &zero);
	if (!s)
		return 0; /* never */
	r = &s->rec;
	need = sizeof(*r) + 4 * PATH_MAX + args_max + sizeof(s->cgroup);
	if (need > critical_size / 2)
		need = critical_size / 2; /* a tiny ring: what is longer is lost, and counted */
	if (critical_size - bpf_ringbuf_query(&critical, BPF_RB_AVAIL_DATA) < need)
		return 1;

	rcu = sleepable && bpf_rcu_read_lock && bpf_rcu_read_unlock;
	if (rcu)
		bpf_rcu_read_lock();
	/* In this order: one that ends now is forgotten here, or behind this by its exit. */
	told_add(p, TOLD);
	if (!BPF_CORE_READ(p, signal, live.counter)) {
		told_remove(p, TOLD);
		if (rcu)
			bpf_rcu_read_unlock();
		return 0; /* a zombie: it has ended */
	}
	exec_id = p->self_exec_id;
	image_fill(s, &off, p, BPF_CORE_READ(p, mm, exe_file));
	if (p->pid != p->tgid) {
		task_rename(&r->task, p);
		identity_get(p->group_leader, BPF_LOCAL_STORAGE_GET_F_CREATE);
	} else if (BPF_CORE_READ(p, signal, nr_threads) > 1) {
		identity_get(p, BPF_LOCAL_STORAGE_GET_F_CREATE);
	}
	exe_fill(s, exec_id);
	may = exe_doubt(p->group_leader, s);
	if (rcu)
		bpf_rcu_read_unlock();

	len = args_range(r, p, &start);
	if (off > 4 * PATH_MAX || len > ARGS_MAX)
		return 0; /* never */
	if (len && (!sleepable || bpf_copy_from_user_task(&s->data[off], len, (void *)start, p, 0))) {
		r->flags |= ARGS_CUT;
		len = 0;
	}
	r->args_len = len;
	if (exec_output(s, REC_TASK, off + len) || p->pid != p->tgid || !p->mm)
		return 0;
	identity_told(p, &r->task, false);
	exe_known(p, s, may);
	return 0;
}

SEC("iter.s/task")
int process_task_s(struct bpf_iter__task *ctx)
{
	return task_state(ctx, true);
}

/* Where the kernel has no sleepable iterators: without arguments. */
SEC("iter/task")
int process_task(struct bpf_iter__task *ctx)
{
	return task_state(ctx, false);
}

/* ---- moves ---- */

/*
 * A process is moved to another cgroup, into the scope, within it or out of it: it
 * is told as it is now. One that comes in was unknown until then; of one that
 * leaves, only its end is told from now on. Single threads are moved within one
 * subtree only.
 *
 * The kernel holds a lock around this: it runs once at a time.
 */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(process_moved, struct cgroup *to, const char *path, struct task_struct *p, bool all)
{
	__u32 slot = cpus, may;
	struct exec_scratch *s;
	struct exec_record *r;
	unsigned long start;
	__u64 off = 0, len, exec_id;
	bool leaves;

	/* One that ends stays where it is, and may be told to have ended already. */
	if (!all || p->flags & PF_EXITING || !told_has(p))
		return 0;
	/* The scope is of the unified hierarchy; which one tells the container, a move in any can change. */
	if (scope_id && BPF_CORE_READ(p, cgroups, dfl_cgrp) != to)
		return 0;
	s = bpf_map_lookup_elem(&exec_scratches, &slot);
	if (!s)
		return 0; /* never */
	leaves = !task_in_scope(p);
	if (!leaves) {
		told_add(p, TOLD);
		told_remove(p, TOLD_LEFT);
	} else if (told_add(p, TOLD_LEFT)) {
		return 0;
	}
	r = &s->rec;
	exec_id = p->self_exec_id;
	image_fill(s, &off, p, BPF_CORE_READ(p, mm, exe_file));
	exe_fill(s, exec_id);
	may = exe_doubt(p, s);
	if (p->signal->nr_threads > 1)
		identity_get(p, BPF_LOCAL_STORAGE_GET_F_CREATE);

	len = args_range(r, p, &start);
	if (off > 4 * PATH_MAX || len > ARGS_MAX)
		return 0; /* never */
	/* The memory of another process is out of reach here. */
	if (len &&
	    (p->tgid != bpf_get_current_task_btf()->tgid || bpf_probe_read_user(&s->data[off], len, (void *)start))) {
		r->flags |= ARGS_CUT;
		len = 0;
	}
	r->args_len = len;
	if (!exec_output(s, REC_TASK, off + len) && p->mm && !leaves) {
		identity_told(p, &r->task, false);
		exe_known(p, s, may);
	}
	if (leaves)
		identity_forget(p);
	return 0;
}

/* ---- exit ---- */

#define THREADS_MAX 8192 /* living threads whose times are added up */

struct usage {
	struct list_head *node, *head;
	__u64 utime, stime, runtime, minflt, majflt;
};

static __always_inline void usage_add(struct usage *u, struct task_struct *t)
{
	u->utime += BPF_CORE_READ(t, utime);
	u->stime += BPF_CORE_READ(t, stime);
	u->runtime += BPF_CORE_READ(t, se.sum_exec_runtime);
	u->minflt += BPF_CORE_READ(t, min_flt);
	u->majflt += BPF_CORE_READ(t, maj_flt);
}

static long usage_step(__u32 i, struct usage *u)
{
	struct list_head *node = u->node;

	if (node == u->head || !node)
		return 1;
	usage_add(u, (void *)node - bpf_core_field_offset(struct task_struct, thread_node));
	u->node = BPF_CORE_READ(node, next);
	return 0;
}

/*
 * Adds up the threads that are gone, which the kernel keeps in the signal
 * struct, and those that are not. A thread that goes from the one to the other
 * meanwhile would be counted twice or never; stats_lock tells. Returns whether
 * none did.
 */
static __noinline bool usage_fill(struct usage *u, struct task_struct *p)
{
	struct signal_struct *sig = BPF_CORE_READ(p, signal);
	struct list_head *head = __builtin_preserve_access_index(&sig->thread_head);
	__u32 seq = BPF_CORE_READ(sig, stats_lock.seqcount.seqcount.sequence);

	__builtin_memset(u, 0, sizeof(*u));
	if (BPF_CORE_READ(sig, nr_threads) == 1) {
		usage_add(u, p);
	} else {
		u->head = head;
		u->node = BPF_CORE_READ(head, next);
		bpf_loop(THREADS_MAX, usage_step, u, 0);
	}
	u->utime += BPF_CORE_READ(sig, utime);
	u->stime += BPF_CORE_READ(sig, stime);
	u->runtime += BPF_CORE_READ(sig, sum_sched_runtime);
	u->minflt += BPF_CORE_READ(sig, min_flt);
	u->majflt += BPF_CORE_READ(sig, maj_flt);
	return !(seq & 1) && seq == BPF_CORE_READ(sig, stats_lock.seqcount.seqcount.sequence);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *p)
{
	struct task_struct *leader = p->group_leader;
	struct signal_struct *sig = p->signal;
	struct exit_record *r;
	struct identity *id;
	struct usage u;

	if (sig->live.counter || !told_has(p))
		return 0; /* other threads go on */

	/*
	 * The last two threads may both come here and see that none lives. What
	 * was never more than one thread has no identity, and needs none.
	 */
	id = identity_get(leader, 0);
	if (id && __sync_lock_test_and_set(&id->exited, 1))
		return 0;
	told_remove(p, TOLD | TOLD_LEFT);
	identity_compare(p);

	r = record_reserve(&critical, REC_EXIT, sizeof(*r));
	if (!r)
		return 0;
	task_key_fill(&r->key, p);
	/*
	 * What the parent will be told (kernel/exit.c, wait_task_zombie): the
	 * code of exit_group or of the signal; where each thread left by exit,
	 * the first thread's.
	 */
	r->status = sig->flags & SIGNAL_GROUP_EXIT ? sig->group_exit_code : leader->exit_code;
	r->zero = 0;
	if (!usage_fill(&u, p) && !usage_fill(&u, p))
		usage_fill(&u, p);
	r->utime = u.utime;
	r->stime = u.stime;
	r->runtime = u.runtime;
	r->minflt = u.minflt;
	r->majflt = u.majflt;
	r->maxrss = sig->maxrss;
	record_submit(&critical, r);
	return 0;
}

/* ---- credentials and namespaces ---- */

/* commit_creds cannot fail. It is called with no change, too, and for keyrings. */
SEC("fentry/commit_creds")
int BPF_PROG(process_cred_e, const struct cred *new)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct identity *id = identity_before(p);

	if (id)
		creds_changed(p, id, new);
	return 0;
}

SEC("fentry/commit_creds")
int BPF_PROG(process_uns_e, const struct cred *new)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct identity *id;

	if (new->user_ns->ns.inum == p->real_cred->user_ns->ns.inum)
		return 0;
	id = identity_before(p);
	if (id)
		namespaces_changed(p, id, p->nsproxy, new);
	return 0;
}

SEC("fentry/switch_task_namespaces")
int BPF_PROG(process_ns_e, struct task_struct *p, struct nsproxy *new)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct identity *id;

	if (!new || p->pid != current->pid)
		return 0; /* a task that ends, or a child that could not be made */
	id = identity_before(current);
	if (id)
		namespaces_changed(current, id, new, current->real_cred);
	return 0;
}

#define PR_CAPBSET_DROP 24
#define PR_CAP_AMBIENT	47

/* Entry of setuid and its like, setns, unshare. */
SEC("tracepoint")
int process_before(struct trace_event_raw_sys_enter *ctx)
{
	identity_before(bpf_get_current_task_btf());
	return 0;
}

/* Entry of prctl, most calls of which change no capabilities. */
SEC("tracepoint")
int process_prctl(struct trace_event_raw_sys_enter *ctx)
{
	if (ctx->args[0] == PR_CAPBSET_DROP || ctx->args[0] == PR_CAP_AMBIENT)
		identity_before(bpf_get_current_task_btf());
	return 0;
}

SEC("tracepoint")
int process_cred_r(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct identity *id;

	if (ctx->ret < 0 || !task_in_scope(p))
		return 0;
	id = identity_get(p->group_leader, 0);
	if (id)
		creds_changed(p, id, p->real_cred);
	return 0;
}

SEC("tracepoint")
int process_ns_r(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct identity *id;

	if (ctx->ret < 0 || !task_in_scope(p))
		return 0;
	id = identity_get(p->group_leader, 0);
	if (id)
		namespaces_changed(p, id, p->nsproxy, p->real_cred);
	return 0;
}
