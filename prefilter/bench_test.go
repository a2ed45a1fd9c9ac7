package prefilter

import (
	"fmt"
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
)

// BenchmarkEngine is what it costs to ask, beside a program that does nothing:
// nanoseconds of a getpgid(2), the least of many batches. A hundred paths are
// wanted, and none is the name that is asked for.
func BenchmarkEngine(b *testing.B) {
	r := newRig(b)
	var paths []interest.Path
	for i := range 100 {
		p := interest.Path{Op: interest.Under, Text: fmt.Sprintf("/srv/data/%d/private", i)}
		switch i % 4 {
		case 1:
			p = interest.Path{Op: interest.Exact, Text: fmt.Sprintf("/etc/secret.d/key%d", i)}
		case 2:
			p = interest.Path{Op: interest.Prefix, Text: fmt.Sprintf("/var/lib/app%d", i)}
		case 3:
			p = interest.Path{Op: interest.Suffix, Text: fmt.Sprintf("/.ssh/id_%d", i)}
		}
		paths = append(paths, p)
	}
	open := event.Kinds(event.KindOpen)
	term := interest.Term{Kinds: open, Paths: paths}
	other := term
	other.Types = []string{"creat"}
	uid := term
	uid.UIDs = []uint32{4711}
	exe := interest.Term{Kinds: open}
	for i := range 100 {
		exe.Exes = append(exe.Exes, interest.Path{Op: interest.Prefix, Text: fmt.Sprintf("/opt/app%d/bin/", i)})
	}
	r.execute(b, "/opt/app99/lib/daemon", "daemon")
	for _, bench := range []struct {
		name, program, path string
		terms               []interest.Term
	}{
		{"none", "", "", nil},
		{"empty", "prefilter_empty", "", nil},
		{"nothing wanted", "prefilter_pair", "/usr/lib/x86_64-linux-gnu/libc.so.6", nil},
		{"other type", "prefilter_pair", "/usr/lib/x86_64-linux-gnu/libc.so.6", []interest.Term{other}},
		{"other user", "prefilter_pair", "/usr/lib/x86_64-linux-gnu/libc.so.6", []interest.Term{uid}},
		{"other executable", "prefilter_pair", "/usr/lib/x86_64-linux-gnu/libc.so.6", []interest.Term{exe}},
		{"other letters", "prefilter_pair", "/usr/lib/x86_64-linux-gnu/libc.so.6", []interest.Term{term}},
		{"other path", "prefilter_pair", "/etc/secret.d/unknown.conf", []interest.Term{term}},
		{"path and end", "prefilter_pair", "/var/lib/ap/.ssh/id_4", []interest.Term{term}},
		{"wanted", "prefilter_pair", "/srv/data/12/private/x", []interest.Term{term}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r.apply(b, bench.terms...)
			r.put(b, 1, 1, false, 77, 1, "", bench.path)
			if bench.program != "" {
				hook := bpf.Hook{Name: "prefilter." + bench.name, Rungs: []bpf.Rung{{Kind: "tracepoint", Attachments: []bpf.Attachment{bpf.Tracepoint(bench.program, "syscalls", "sys_exit_getpgid")}}}}
				if _, err := r.obj.Attach(hook); err != nil {
					b.Fatal(err)
				}
				defer func() { _ = r.obj.Detach(hook.Name) }()
			}
			const batch = 2000
			least := math.Inf(1)
			for b.Loop() {
				begun := time.Now()
				for range batch {
					unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0)
				}
				least = min(least, float64(time.Since(begun).Nanoseconds())/batch)
			}
			b.ReportMetric(least, "least-ns")
		})
	}
}
