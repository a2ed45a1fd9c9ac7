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

/*
 * A path ends at bytes[PATH_MAX]. The room behind that is never written: it
 * lets the verifier see that a name cannot leave the buffer.
 */
struct path_buf {
	char bytes[PATH_MAX + NAME_MAX + 1];
};

enum path_end {
	PATH_WALKING,
	PATH_FOUND,    /* reached the root directory asked for */
	PATH_OUTSIDE,  /* reached the root of the mount namespace: not below the root asked for */
	PATH_NAMELESS, /* not in any directory (memfd, pipe): the name the kernel gave it, without a slash */
	PATH_DETACHED, /* its mount hangs in no namespace: no path */
	PATH_ESCAPED,  /* moved out of what is mounted: no path */
	PATH_TOO_LONG, /* longer than PATH_MAX: no path */
};

struct path_walk {
	struct path_buf *buf;
	struct dentry *dentry, *mnt_root, *root_dentry;
	struct mount *mount, *root_mount;
	__u64 off; /* where the path begins in buf */
	__u32 end; /* enum path_end */
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

	if (!ns || (long)ns >= -4095L && (long)ns < 0) /* IS_ERR: MNT_NS_INTERNAL */
		return false;
	if (bpf_core_field_exists(ns->ns.ns_id))
		return BPF_CORE_READ(ns, ns.ns_id) != 0;
	if (bpf_core_field_exists(ns->seq))
		return BPF_CORE_READ(ns, seq) != 0;
	return true;
}

/* Writes a name before what is already there. Returns false if it does not fit. */
static __always_inline bool path_prepend(struct path_walk *w, struct dentry *dentry, bool slash)
{
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
	__u64 len = BPF_CORE_READ(dentry, d_name.len);
	__u64 off = w->off;

	if (len > NAME_MAX || off > PATH_MAX || len + slash > off)
		return false;
	off -= len;
	bpf_probe_read_kernel(&w->buf->bytes[off & (PATH_MAX - 1)], len & NAME_MAX, name);
	if (slash) {
		off--;
		w->buf->bytes[off & (PATH_MAX - 1)] = '/';
	}
	w->off = off;
	return true;
}

static long path_step(__u32 i, struct path_walk *w)
{
	struct dentry *dentry = w->dentry, *parent;
	struct mount *mount = w->mount, *up;

	if (dentry == w->root_dentry && mount == w->root_mount) {
		w->end = PATH_FOUND;
		return 1;
	}
	if (dentry == w->mnt_root) {
		up = BPF_CORE_READ(mount, mnt_parent);
		if (up == mount) {
			w->end = path_mounted(mount) ? PATH_OUTSIDE : PATH_DETACHED;
			return 1;
		}
		w->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		w->mnt_root = BPF_CORE_READ(up, mnt.mnt_root);
		w->mount = up;
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (dentry == parent) {
		if (i) {
			w->end = PATH_ESCAPED;
			return 1;
		}
		w->end = path_prepend(w, dentry, false) ? PATH_NAMELESS : PATH_TOO_LONG;
		return 1;
	}
	if (!path_prepend(w, dentry, true)) {
		w->end = PATH_TOO_LONG;
		return 1;
	}
	w->dentry = parent;
	return 0;
}

/*
 * Writes the path of p as seen from root into buf; both are kernel memory.
 * Returns how it ended; where the path begins is stored in *off, so that it has
 * PATH_MAX - *off bytes. The root itself is "/". Where there is no path, *off
 * is PATH_MAX.
 */
static __always_inline __u32 path_resolve(struct path_buf *buf, const struct path *p, const struct path *root,
					  __u64 *off)
{
	struct path_walk w = { .buf = buf, .off = PATH_MAX };
	struct vfsmount *mnt = BPF_CORE_READ(p, mnt);

	w.dentry = BPF_CORE_READ(p, dentry);
	w.mount = path_mount(mnt);
	w.mnt_root = BPF_CORE_READ(mnt, mnt_root);
	w.root_dentry = BPF_CORE_READ(root, dentry);
	w.root_mount = path_mount(BPF_CORE_READ(root, mnt));

	bpf_loop(PATH_STEPS, path_step, &w, 0);
	if (!path_resolved(w.end)) {
		*off = PATH_MAX;
		return w.end == PATH_WALKING ? PATH_TOO_LONG : w.end;
	}
	if (w.off == PATH_MAX && w.end != PATH_NAMELESS) {
		w.off--;
		buf->bytes[PATH_MAX - 1] = '/';
	}
	*off = w.off;
	return w.end;
}

#endif /* PATH_H */
