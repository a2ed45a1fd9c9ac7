//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps that all programs on network devices share, and no program: user
 * space makes them from here and hands them to the others.
 *
 * Hooks: none.
 * Out:   events.
 * State: see include/state.h.
 */
#include <state.h>

/* The compiler describes only what is used, and user space wants to know all of it. */
const enum schema_version *type_schema_version __attribute__((unused));
const struct addr *type_addr __attribute__((unused));
const enum mode *type_mode __attribute__((unused));
const enum config_flags *type_config_flags __attribute__((unused));
const struct config *type_config __attribute__((unused));
const enum place_flags *type_place_flags __attribute__((unused));
const struct place *type_place __attribute__((unused));
const struct place_entry *type_place_entry __attribute__((unused));
const struct network_entry *type_network_entry __attribute__((unused));
const struct network *type_network __attribute__((unused));
const enum endpoint_flags *type_endpoint_flags __attribute__((unused));
const struct endpoint *type_endpoint __attribute__((unused));
const enum direction *type_direction __attribute__((unused));
const struct set *type_set __attribute__((unused));
const struct verdict_key *type_verdict_key __attribute__((unused));
const enum action *type_action __attribute__((unused));
const struct verdict *type_verdict __attribute__((unused));
const struct flow_key *type_flow_key __attribute__((unused));
const enum verdict_kind *type_verdict_kind __attribute__((unused));
const enum flow_flags *type_flow_flags __attribute__((unused));
const enum flow_state *type_flow_state __attribute__((unused));
const enum reason *type_reason __attribute__((unused));
const struct flow *type_flow __attribute__((unused));
const struct fragment_key *type_fragment_key __attribute__((unused));
const struct fragment *type_fragment __attribute__((unused));
const enum event_kind *type_event_kind __attribute__((unused));
const enum hook *type_hook __attribute__((unused));
const struct flow_event *type_flow_event __attribute__((unused));
const enum counter_index *type_counter_index __attribute__((unused));
const struct counter *type_counter __attribute__((unused));
const struct sweep_timer *type_sweep_timer __attribute__((unused));
const struct sweep *type_sweep __attribute__((unused));
const struct flow_scratch *type_flow_scratch __attribute__((unused));
const struct quota *type_quota __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";
