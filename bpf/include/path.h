/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The path of a file, from the kernel's own objects.
 *
 * A struct path is a dentry and a mount. The walk goes up from the dentry to
 * the root of its mount, from there to the place the mount is mounted on, and
 * so on until the root directory of the process that asks (both its dentry and
 * its mount: a dentry can be seen through several mounts). Names are written
 * into the buffer from its end towards its beginning.
 *
 * The answer is the whole path or none: what is longer than the buffer, lies
 * on a mount that hangs nowhere, or was moved out from under its mount has no
 * path. The walk takes no lock: of a directory renamed at the same moment, the
 * old or the new name may be read. Who must be sure compares inode and device.
 *
 * Works in every program type: all kernel memory is read by bpf_probe_read.
 * A sleepable program should hold bpf_rcu_read_lock where the kernel has it.
 */
#ifndef PATH_H
#define PATH_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define PATH_MAX 4096 /* longest path, bytes */
#define NAME_MAX 255  /* longest name in a directory, bytes */

/* The longest walk: a path of one-letter names, and as many mounts. */
#define PATH_STEPS PATH_MAX

enum path_end {
	PATH_FOUND = 1, /* reached the root directory asked for */
	PATH_OUTSIDE,	/* reached the root of the mount namespace: not below the root asked for */
	PATH_NAMELESS,	/* not in any directory (memfd, pipe): the name the kernel gave it, without a slash */
	PATH_DETACHED,	/* its mount hangs in no namespace: no path */
	PATH_ESCAPED,	/* moved out of what is mounted: no path */
	PATH_TOO_LONG,	/* longer than PATH_MAX: no path */
};

/*
 * A walk and its answer: PATH_MAX - off bytes at bytes[off]. The room behind
 * bytes[PATH_MAX] is never written: it lets the verifier see that a name cannot
 * leave the buffer.
 *
 * It lies in a map, which no other program may use meanwhile. On the stack it
 * would be too large; and the verifier, which follows each value that lies on
 * the stack through every step of a loop, would not come to an end.
 */
struct path_buf {
	struct dentry *dentry, *mnt_root, *root_dentry;
	struct mount *mount, *root_mount;
	__u64 off;
	__u32 end; /* enum path_end */
	char bytes[PATH_MAX + NAME_MAX + 1];
};

struct path_walk {
	struct path_buf *buf;
};

static __always_inline struct mount *path_mount(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* Whether a path was found, be it below the root or not. */
static __always_inline bool path_resolved(__u32 end)
{
	return end == PATH_FOUND || end == PATH_OUTSIDE || end == PATH_NAMELESS;
}

/*
 * What the root of a tree of mounts belongs to: a namespace that processes live
 * in, or nothing (unmounted; open_tree(2); the kernel's own, like memfd's).
 */
static __always_inline bool path_mounted(struct mount *root)
{
	struct mnt_namespace *ns = BPF_CORE_READ(root, mnt_ns);

	if (!ns || (unsigned long)ns >= -4095UL) /* IS_ERR: MNT_NS_INTERNAL */
		return false;
	if (bpf_core_field_exists(ns->ns.ns_id))
		return BPF_CORE_READ(ns, ns.ns_id) != 0;
	if (bpf_core_field_exists(ns->seq))
		return BPF_CORE_READ(ns, seq) != 0;
	return true;
}

/* Writes a name before what is already there. Returns false if it does not fit. */
static __always_inline bool path_prepend(struct path_buf *b, struct dentry *dentry, bool slash)
{
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
	__u64 len = BPF_CORE_READ(dentry, d_name.len);
	__u64 off = b->off;

	if (len > NAME_MAX || off > PATH_MAX || len + slash > off)
		return false;
	off -= len;
	bpf_probe_read_kernel(&b->bytes[off & (PATH_MAX - 1)], len & NAME_MAX, name);
	if (slash) {
		off--;
		b->bytes[off & (PATH_MAX - 1)] = '/';
	}
	b->off = off;
	return true;
}

static long path_step(__u32 i, struct path_walk *w)
{
	struct path_buf *b = w->buf;
	struct dentry *dentry = b->dentry, *parent;
	struct mount *mount = b->mount, *up;

	if (dentry == b->root_dentry && mount == b->root_mount) {
		b->end = PATH_FOUND;
		return 1;
	}
	if (dentry == b->mnt_root) {
		up = BPF_CORE_READ(mount, mnt_parent);
		if (up == mount) {
			b->end = path_mounted(mount) ? PATH_OUTSIDE : PATH_DETACHED;
			return 1;
		}
		b->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		b->mnt_root = BPF_CORE_READ(up, mnt.mnt_root);
		b->mount = up;
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (dentry == parent) {
		if (i)
			b->end = PATH_ESCAPED;
		else
			b->end = path_prepend(b, dentry, false) ? PATH_NAMELESS : PATH_TOO_LONG;
		return 1;
	}
	if (!path_prepend(b, dentry, true)) {
		b->end = PATH_TOO_LONG;
		return 1;
	}
	b->dentry = parent;
	return 0;
}

/*
 * Writes the path of p as seen from root into b; both are kernel memory. The
 * root itself is "/". Returns how it ended; where there is no path, b->off is
 * PATH_MAX.
 */
static __always_inline __u32 path_resolve(struct path_buf *b, const struct path *p, const struct path *root)
{
	struct path_walk w = { .buf = b };
	struct vfsmount *mnt = BPF_CORE_READ(p, mnt);

	b->dentry = BPF_CORE_READ(p, dentry);
	b->mount = path_mount(mnt);
	b->mnt_root = BPF_CORE_READ(mnt, mnt_root);
	b->root_dentry = BPF_CORE_READ(root, dentry);
	b->root_mount = path_mount(BPF_CORE_READ(root, mnt));
	b->off = PATH_MAX;
	b->end = PATH_TOO_LONG; /* unless the walk ends sooner */

	bpf_loop(PATH_STEPS, path_step, &w, 0);
	if (!path_resolved(b->end)) {
		b->off = PATH_MAX;
	} else if (b->off == PATH_MAX && b->end != PATH_NAMELESS) {
		b->off--;
		b->bytes[PATH_MAX - 1] = '/';
	}
	return b->end;
}

#endif /* PATH_H */
