package datapath

// The maps and all types are those of the object state, which has no programs;
// endpoint and host are given its maps when they are loaded.
//
//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type schema_version -type addr -type mode -type config_flags -type config -type place_flags -type place -type place_entry -type network_entry -type network -type endpoint_flags -type endpoint -type direction -type set -type verdict_key -type action -type verdict -type flow_key -type verdict_kind -type flow_flags -type flow_state -type reason -type flow -type fragment_key -type fragment -type event_kind -type hook -type flow_event -type counter_index -type counter -type sweep_timer -type sweep -type flow_scratch -type quota state state.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -Iinclude -I../bpf/include
//go:generate go tool bpf2go -no-global-types -cc clang-19 -no-strip -target bpfel endpoint endpoint.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -Iinclude -I../bpf/include
//go:generate go tool bpf2go -no-global-types -cc clang-19 -no-strip -target bpfel host host.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -Iinclude -I../bpf/include
