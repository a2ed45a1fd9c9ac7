//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Observes what processes do to files. The programs are in the headers:
 *
 *   record.h  what is written, and from which objects of the kernel
 *   open.h    open(2) and its relatives, by the tracepoints of their exits
 *   uring.h   the same, and changes, where io_uring is asked for them
 *   change.h  names, files and mounts that are changed
 *   seen.h    the objects that such a call is about, in its middle
 *   close.h   files that were open for writing, and go
 *   calls.h   what is known of calls that are on their way
 *
 * Out:   struct open_record (REC_OPEN) and struct change_record (REC_FILE,
 *        REC_MOUNT, REC_FILE_CLOSE) in the ring `bulk`.
 * State: call_sets, calls, text_sets, call_texts: of calls that are on their way.
 *        close_tables: of processes that ended just now.
 *        file_scratches and seen_walks are where records and paths are built.
 */
#include "kernel.h"
#include "record.h"
#include "open.h"
#include "change.h"
#include "seen.h"
#include "close.h"
#include "uring.h"

/* For the types' sake: only what is referred to gets a Go type. */
union {
	struct open_record open;
	struct change_record change;
	enum file_what what;
	enum file_error error;
	enum file_marks marks;
} *types __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";
