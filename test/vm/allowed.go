package main

// An allowance is a test that may be skipped on a kernel, or a hook that may be
// attached in a lesser way there, because that kernel cannot do it.
type allowance struct {
	kernel string
	where  string // the package's folder, or the hook
	what   string // the test, or the rung
	why    string
}

// allowedSkips are the skips that are no failures.
var allowedSkips = []allowance{
	{"6.1", "internal/testkit", "TestRootCgroup/v1/made", noV1},
	{"6.12", "internal/testkit", "TestRootCgroup/v1/made", noV1},
	{"6.1", "bpf", "TestBPFSkipsTracepoint", "the kernel counts runs of tracepoint programs that it leaves out since 6.7"},
}

const noV1 = "the machines mount the unified hierarchy alone"

// allowedRungs are hooks that are not attached in the best way, or not at all:
// by the rung notAttached.
var allowedRungs = []allowance{
	{"6.1", "file.chmod2", notAttached, "fchmodat2 is there since 6.6"},
	{"6.1", "file.close", "tracepoint/fexit", "an exec is shown before it closes files by a tracepoint since 6.10"},
	{"6.1", "file.io_uring", "tp_btf/submit_sqe", "the tracepoint has its present name since 6.4"},
	{"6.1", "syscall.io_uring", "tp_btf/submit_sqe", "the tracepoint has its present name since 6.4"},
}

const notAttached = "-"

func allowedSkip(kernel, dir, test string) (string, bool) {
	return find(allowedSkips, kernel, dir, test)
}

func allowedRung(kernel, hook, rung string) (string, bool) {
	return find(allowedRungs, kernel, hook, rung)
}

func find(list []allowance, kernel, where, what string) (string, bool) {
	for _, a := range list {
		if a.kernel == kernel && a.where == where && a.what == what {
			return a.why, true
		}
	}
	return "", false
}
