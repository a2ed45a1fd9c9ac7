/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which control group tells the container of a task. Include after kernel.h.
 */
#ifndef CGROUP_H
#define CGROUP_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* Names a control group; in Go event.CgroupKey. */
struct cgroup_key {
	__u64 id;
	__u32 hierarchy;
	__u32 zero;
};

static __always_inline struct cgroup *cgroup_deeper(struct cgroup *best, struct css_set *set, __u64 subsys)
{
	struct cgroup_subsys_state **css = (void *)set + bpf_core_field_offset(struct css_set, subsys);
	struct cgroup *c = css[subsys]->cgroup;

	return c->level > best->level ? c : best;
}

#define DEEPER(best, set, id)                                                               \
	(bpf_core_enum_value_exists(enum cgroup_subsys_id, id)                              \
		 ? cgroup_deeper(best, set, bpf_core_enum_value(enum cgroup_subsys_id, id)) \
		 : (best))

/*
 * The cgroup that tells the container: the unified hierarchy's, unless the task
 * is in its root while some v1 controller has put it deeper (hybrid systems).
 */
static __always_inline struct cgroup *task_cgroup(struct task_struct *p)
{
	struct css_set *set = p->cgroups;
	struct cgroup *c;

	if (!set)
		return NULL; /* never */
	c = set->dfl_cgrp;
	if (c->level)
		return c;
	c = DEEPER(c, set, pids_cgrp_id);
	c = DEEPER(c, set, memory_cgrp_id);
	c = DEEPER(c, set, cpu_cgrp_id);
	c = DEEPER(c, set, freezer_cgrp_id);
	c = DEEPER(c, set, devices_cgrp_id);
	return c;
}

#endif /* CGROUP_H */
