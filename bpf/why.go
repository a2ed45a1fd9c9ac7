package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// An UnavailableError says that something cannot be had on this machine, and
// the true reason: what the kernel lacks, what forbids it, or what we lack.
type UnavailableError struct {
	Feature   string // a hook, a program, a file system
	MinKernel string // the first kernel that has it, "" if that is not the reason
	Reason    string // one line for people
	Err       error  // what the kernel said
}

// Error returns feature and reason in one line.
func (e *UnavailableError) Error() string {
	s := e.Feature + " is unavailable: " + e.Reason
	if e.MinKernel != "" {
		s += " (kernel " + e.MinKernel + " has it)"
	}
	return s
}

// Unwrap returns what the kernel said.
func (e *UnavailableError) Unwrap() error { return e.Err }

// reasonOf returns the reason in err without the names around it, in one line.
func reasonOf(err error) string {
	var u *UnavailableError
	if errors.As(err, &u) {
		return u.Reason
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// explainMap says why maps cannot be created. Of what it may not try, the library
// says that the kernel does not support it.
func explainMap(err error) error {
	reason := missing("", unix.CAP_BPF)
	if errors.Is(err, unix.EPERM) || (errors.Is(err, ebpf.ErrNotSupported) && reason != "") {
		if reason == "" {
			reason = refusedAltogether
		}
		return &UnavailableError{Feature: "creating BPF maps", Reason: reason, Err: unix.EPERM}
	}
	return err
}

const refusedAltogether = "the kernel refuses bpf(2) though no capability is missing: a seccomp filter or a security module forbids it"

// explainLoad says why a program cannot be loaded. The library's own words for
// EPERM blame a memory limit that kernels no longer have, so they go no
// further.
func explainLoad(ps *ebpf.ProgramSpec, err error, types *btf.Cache) error {
	u := &UnavailableError{Feature: "program " + ps.Name, Err: err}
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM) && !errors.Is(err, btf.ErrNotFound):
		u.Reason, u.Err = whyRefused(ps, types), unix.EPERM
	case ps.AttachTo != "" && absent(err):
		u.Reason = "this kernel has no " + placeName(ps)
		if _, e := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(e, fs.ErrNotExist) {
			u.Reason = "this kernel does not describe its types (no /sys/kernel/btf/vmlinux)"
		}
	case errors.As(err, &verifier) && len(verifier.Log) > 0:
		u.Reason = "the verifier refuses it: " + lastWords(verifier.Log)
	default:
		u.Reason = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return u
}

// absent reports whether the place that a program attaches to does not exist,
// as the library tells it: not supported, or not found.
func absent(err error) bool {
	var verifier *ebpf.VerifierError
	return !errors.As(err, &verifier) && (errors.Is(err, btf.ErrNotFound) || errors.Is(err, ebpf.ErrNotSupported))
}

func placeName(ps *ebpf.ProgramSpec) string {
	switch {
	case ps.AttachType == ebpf.AttachTraceRawTp:
		return "tracepoint " + ps.AttachTo
	case ps.AttachType == ebpf.AttachTraceIter:
		return "iterator over " + ps.AttachTo
	case ps.Type == ebpf.LSM:
		return "LSM hook " + ps.AttachTo
	}
	return "function " + ps.AttachTo + " that can be traced"
}

// lastWords returns the line of a verifier's log that says what is wrong: the
// last one that is not its statistics.
func lastWords(log []string) string {
	for i := len(log) - 1; i >= 0; i-- {
		l := strings.TrimSpace(log[i])
		if l == "" || strings.HasPrefix(l, "processed ") || strings.HasPrefix(l, "verification time") || strings.HasPrefix(l, "stack depth") {
			continue
		}
		return l
	}
	return "without a reason"
}

// whyRefused finds out why the kernel answers EPERM to loading a program: what
// is missing, what is said to forbid it, or by trying what else is refused.
func whyRefused(ps *ebpf.ProgramSpec, types *btf.Cache) string {
	if m := missing("", capsOf(ps.Type)...); m != "" {
		return m
	}
	if !onTrampoline(ps) {
		if err := loadProbe(probeTPBTF, types); errors.Is(err, unix.EPERM) {
			return refusedAltogether
		}
		return fmt.Sprintf("the kernel refuses programs of type %s though no capability is missing: a security module forbids it", ps.Type)
	}
	what := trampolineName(ps) + " (a trampoline on kernel text)"
	mode := Lockdown()
	if mode == "integrity" || mode == "confidentiality" {
		return "lockdown refuses " + what + ": its mode is " + mode
	}
	if err := loadProbe(probeTPBTF, types); errors.Is(err, unix.EPERM) {
		return refusedAltogether
	}
	if mode == "none" {
		return "the kernel refuses " + what + " though no capability is missing and lockdown is off: a security module forbids it"
	}
	// The mode cannot be read, but lockdown is what refuses trampolines and
	// nothing else.
	return "lockdown refuses " + what
}

// capsOf returns the capabilities that loading and attaching a program takes.
func capsOf(t ebpf.ProgramType) []int {
	switch t {
	case ebpf.Tracing, ebpf.LSM, ebpf.Kprobe, ebpf.TracePoint, ebpf.RawTracepoint, ebpf.PerfEvent:
		return []int{unix.CAP_BPF, unix.CAP_PERFMON}
	case ebpf.SocketFilter, ebpf.Syscall:
		return []int{unix.CAP_BPF}
	}
	return []int{unix.CAP_BPF, unix.CAP_NET_ADMIN}
}

// onTrampoline reports whether a program is called by patching kernel text.
func onTrampoline(ps *ebpf.ProgramSpec) bool {
	switch ps.AttachType {
	case ebpf.AttachTraceFEntry, ebpf.AttachTraceFExit, ebpf.AttachModifyReturn, ebpf.AttachLSMMac:
		return ps.Type == ebpf.Tracing || ps.Type == ebpf.LSM
	}
	return false
}

func trampolineName(ps *ebpf.ProgramSpec) string {
	switch ps.AttachType {
	case ebpf.AttachTraceFExit:
		return "fexit"
	case ebpf.AttachModifyReturn:
		return "fmod_ret"
	case ebpf.AttachLSMMac:
		return "BPF LSM"
	}
	return "fentry"
}

// Lockdown returns the kernel's lockdown mode: none, integrity or
// confidentiality; "" if it cannot be read.
func Lockdown() string {
	dir, err := openFS("securityfs")
	if err != nil {
		return ""
	}
	defer dir.Close()
	s, err := readAt(dir, "lockdown")
	if err != nil {
		return ""
	}
	return parseLockdown(s)
}

// parseLockdown returns the bracketed word of "none [integrity] confidentiality".
func parseLockdown(s string) string {
	_, s, _ = strings.Cut(s, "[")
	s, _, ok := strings.Cut(s, "]")
	if !ok {
		return ""
	}
	return s
}

// explainAttach says why a loaded program cannot be attached.
func explainAttach(at Attachment, ps *ebpf.ProgramSpec, err error) error {
	u := &UnavailableError{Feature: "attaching " + at.Program + " to " + at.Target, Err: err}
	var inner *UnavailableError
	switch {
	case errors.As(err, &inner):
		u.Reason = inner.Reason
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		u.Err = unix.EPERM
		u.Reason = whyNotAttached(at, ps)
	case errors.Is(err, unix.E2BIG):
		u.Reason = whyFull(at)
	case at.how == byKprobe || at.how == byKretprobe:
		switch {
		case !kernelHasKprobes():
			u.Reason = "this kernel is built without kprobes"
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EADDRNOTAVAIL):
			u.Reason = "this kernel has no function " + at.symbol + " that takes a kprobe"
		default:
			u.Reason = err.Error()
		}
	default:
		u.Reason = err.Error()
	}
	return u
}

// whyFull says what the kernel means by "argument list too long": each place
// has room for so many programs, whoever attached them.
func whyFull(at Attachment) string {
	switch at.how {
	case byTracepoint: // BPF_TRACE_MAX_PROGS
		return "64 programs are attached to this tracepoint already, the kernel takes no more"
	case byCgroup: // BPF_CGROUP_MAX_PROGS
		return "64 programs are attached to this cgroup already, the kernel takes no more"
	}
	return "too many programs are attached to this function already, the kernel takes no more"
}

func whyNotAttached(at Attachment, ps *ebpf.ProgramSpec) string {
	caps := capsOf(ps.Type)
	if m := missing("", caps...); m != "" {
		return m
	}
	if at.how == byCgroup && !Effective().Has(unix.CAP_NET_ADMIN) {
		// Kernels before 6.9 do not let CAP_SYS_ADMIN stand for it here.
		return "CAP_NET_ADMIN is missing"
	}
	kprobe := at.how == byKprobe || at.how == byKretprobe
	if kprobe && !kernelHasKprobes() {
		return "this kernel is built without kprobes"
	}
	if kprobe || at.how == byTracepoint {
		if level := perfParanoid(); level > 2 && !Effective().Has(unix.CAP_SYS_ADMIN) {
			return fmt.Sprintf("kernel.perf_event_paranoid is %d: CAP_SYS_ADMIN is missing, without which this kernel then opens no perf events", level)
		}
		switch mode := Lockdown(); {
		case kprobe && (mode == "integrity" || mode == "confidentiality"):
			return "lockdown refuses kprobes: its mode is " + mode
		case mode == "confidentiality":
			return "lockdown refuses perf events: its mode is " + mode
		case mode == "":
			return "the kernel refuses it though no capability is missing: lockdown, a seccomp filter or a security module forbids it"
		}
	}
	if at.how == byCgroup {
		return "the kernel refuses it though no capability is missing: a program is attached to this cgroup, or above it, that suffers no other beside it, or a seccomp filter or a security module forbids it"
	}
	return "the kernel refuses it though no capability is missing: a seccomp filter or a security module forbids it"
}

// perfParanoid returns the sysctl kernel.perf_event_paranoid. Above 2, which
// Debian and its relatives know and use, CAP_PERFMON is not enough for any perf
// event.
func perfParanoid() int {
	b, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// kernelHasKprobes reports whether the kernel offers kprobes as perf events, as
// every one that has kprobes does since 4.17.
func kernelHasKprobes() bool {
	_, err := os.Stat("/sys/bus/event_source/devices/kprobe")
	return err == nil
}
