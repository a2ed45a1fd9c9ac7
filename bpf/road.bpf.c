//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/* Observes nothing: it is where the Go side learns the road's maps, record
 * header and record types, so that neither is written down twice.
 *
 * Hooks: none.
 * Out:   nothing.
 * State: the maps of road.h and exe.h.
 */
#include "kernel.h"
#include "road.h"
#include "exe.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
