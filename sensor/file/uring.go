package file

import (
	"warren/bpf"
	"warren/event"
)

// uring is the hook of what io_uring is asked to do to files. Requests pass its
// tracepoints whatever they are about, so it is attached only while somebody
// wants one of these types; io_uring's own name for the first changed in 6.4.
func uring() hook {
	end := []bpf.Attachment{bpf.BTF("file_u_done"), bpf.BTF("file_u_over")}
	return hook{
		Hook: bpf.Hook{Name: "file.io_uring", Purpose: "files that are opened, changed and closed through io_uring", Rungs: []bpf.Rung{
			{Kind: "tp_btf", Attachments: append([]bpf.Attachment{bpf.BTF("file_u_submit")}, end...)},
			{Kind: "tp_btf/submit_sqe", Attachments: append([]bpf.Attachment{bpf.BTF("file_u_sqe")}, end...)},
		}},
		kind:  event.KindOpen,
		types: []string{"openat", "openat2"},
		more: []hook{
			{kind: event.KindFile, types: []string{"renameat", "renameat2", "unlinkat", "mkdirat", "symlinkat", "linkat", "ftruncate"}},
			{kind: event.KindFileClose, types: []string{"close"}},
		},
	}
}
