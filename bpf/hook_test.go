package bpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

func fork(t testing.TB) {
	t.Helper()
	if err := testkit.Command(t, "idle").Run(); err != nil {
		t.Fatal(err)
	}
}

func getpgid(t testing.TB) {
	t.Helper()
	if _, err := unix.Getpgid(0); err != nil {
		t.Fatal(err)
	}
}

// rungTests are the kinds of rungs of one hook, and what makes each fire.
var rungTests = []struct {
	feature Feature
	rung    Rung
	slots   []uint32
	fire    func(testing.TB, *Object)
}{
	{FeatureFentry, Rung{"fentry", []Attachment{BTF("testroad_fentry"), BTF("testroad_fexit")}}, []uint32{1, 2}, func(t testing.TB, o *Object) {
		// The kernel runs the function when it is asked to test such a program.
		p, err := o.Program("testroad_fentry")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Run(&ebpf.RunOptions{}); err != nil {
			t.Fatal(err)
		}
	}},
	{FeatureTPBTF, Rung{"tp_btf", []Attachment{BTF("testroad_btf")}}, []uint32{0}, func(t testing.TB, _ *Object) { fork(t) }},
	{FeatureTracepoint, Rung{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}}, []uint32{3}, func(t testing.TB, _ *Object) { getpgid(t) }},
	{FeatureKprobe, Rung{"kprobe", []Attachment{Kprobe("testroad_kprobe", "sys_getpgid"), Kretprobe("testroad_kret", "sys_getpgid")}}, []uint32{4, 5}, func(t testing.TB, _ *Object) { getpgid(t) }},
}

// Every kind of rung works where its feature does, and elsewhere gives the
// feature's reason.
func TestBPFRungs(t *testing.T) {
	for _, tt := range rungTests {
		t.Run(tt.rung.Kind, func(t *testing.T) {
			_, o := openTest(t, Config{})
			probed := Probe(tt.feature)
			st, err := o.Attach(Hook{Name: "test.hook", Purpose: "testing", Rungs: []Rung{tt.rung}})
			if probed != nil {
				t.Logf("not on this kernel: %v", probed)
				if err == nil {
					t.Fatalf("attached, though %v", probed)
				}
				if want := []Refusal{{tt.rung.Kind, reasonOf(probed)}}; !cmp.Equal(st.Refused, want) {
					t.Errorf("refused %+v, want %+v", st.Refused, want)
				}
				checkTruth(t, err.Error(), st.Err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if st.Rung != tt.rung.Kind || st.Hook != "test.hook" || st.Purpose != "testing" || st.Target == "" {
				t.Errorf("status %+v", st)
			}
			tt.fire(t, o)
			for _, slot := range tt.slots {
				if hits(t, o, slot) == 0 {
					t.Errorf("the program of slot %d did not run", slot)
				}
			}
			if err := o.Detach("test.hook"); err != nil {
				t.Fatal(err)
			}
			before := hits(t, o, tt.slots[0])
			tt.fire(t, o)
			if n := hits(t, o, tt.slots[0]); n != before {
				t.Errorf("%d more runs after detaching", n-before)
			}
			if err := o.Detach("test.hook"); err != nil {
				t.Errorf("detached again: %v", err)
			}
		})
	}
}

// checkTruth fails if an error blames what is not to blame.
func checkTruth(t testing.TB, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if strings.Contains(strings.ToLower(s), "memlock") || strings.Contains(s, "\n") {
			t.Errorf("error is not the truth in one line: %q", s)
		}
	}
}

// The ladder goes down to the first rung that works as a whole and remembers
// why the others did not.
func TestBPFLadder(t *testing.T) {
	_, o := openTest(t, Config{})
	getpgidTP := Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")
	st, err := o.Attach(Hook{Name: "test.hook", Rungs: []Rung{
		{"absent", []Attachment{BTF("testroad_none")}},
		{"refused", []Attachment{BTF("testroad_wrong")}},
		{"half", []Attachment{getpgidTP, Tracepoint("testroad_tp", "syscalls", "sys_enter_nothing")}},
		{"unknown", []Attachment{BTF("no_program")}},
		{"empty", nil},
		{"tracepoint", []Attachment{getpgidTP, Tracepoint("testroad_tp", "syscalls", "sys_enter_getsid")}},
		{"never", []Attachment{BTF("testroad_btf")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if st.Rung != "tracepoint" || st.Target != "syscalls/sys_enter_getpgid syscalls/sys_enter_getsid" {
		t.Errorf("attached to %s by %s", st.Target, st.Rung)
	}
	wants := []string{"no tracepoint no_such_tracepoint", "the verifier refuses it: ", "no tracepoint syscalls/sys_enter_nothing", "no such program", "no attachments"}
	if len(st.Refused) != len(wants) {
		t.Fatalf("refused %+v", st.Refused)
	}
	for i, want := range wants {
		checkTruth(t, st.Refused[i].Reason)
		if !strings.Contains(st.Refused[i].Reason, want) {
			t.Errorf("%s: %q, want %q in it", st.Refused[i].Rung, st.Refused[i].Reason, want)
		}
	}

	// One program in two places, each once: nothing is left of the half rung.
	getpgid(t)
	if _, err := unix.Getsid(0); err != nil {
		t.Fatal(err)
	}
	if n := hits(t, o, 3); n != 2 {
		t.Errorf("%d runs, want one at each of two tracepoints", n)
	}

	if _, err := o.Attach(Hook{Name: "test.hook"}); err == nil {
		t.Error("a hook is attached twice")
	}
}

func TestBPFNoRungWorks(t *testing.T) {
	_, o := openTest(t, Config{})
	st, err := o.Attach(Hook{Name: "test.hook", Rungs: []Rung{
		{"tp_btf", []Attachment{BTF("testroad_none")}},
		{"tracepoint", []Attachment{Tracepoint("testroad_tp", "no", "thing")}},
	}})
	var u *UnavailableError
	if !errors.As(err, &u) || st.Rung != "" || st.Err == "" || len(st.Refused) != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
	const want = "tp_btf: this kernel has no tracepoint no_such_tracepoint; tracepoint: this kernel has no tracepoint no/thing"
	if err.Error() != "test.hook is unavailable: "+want || st.Err != want {
		t.Errorf("error %q and %q, want %q", err, st.Err, want)
	}
}

func TestTellRefusals(t *testing.T) {
	got := tellRefusals([]Refusal{{"fentry", "lockdown"}, {"fentry", "lockdown"}, {"kprobe", "not built"}, {"lsm", "lockdown"}})
	if want := "fentry, lsm: lockdown; kprobe: not built"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCgroupPlaces(t *testing.T) {
	for at, want := range map[ebpf.AttachType]string{
		ebpf.AttachCGroupInetIngress: "cgroup_skb/ingress", ebpf.AttachCGroupInetEgress: "cgroup_skb/egress",
		ebpf.AttachCGroupInetSockCreate: "cgroup/sock_create", ebpf.AttachCgroupInetSockRelease: "cgroup/sock_release",
		ebpf.AttachCGroupInet4Bind: "cgroupinet4bind",
	} {
		if got := Cgroup("program", at).Target; got != want {
			t.Errorf("%s is told as %q, want %q", at, got, want)
		}
	}
}

func TestBPFForcedRung(t *testing.T) {
	_, o := openTest(t, Config{Rungs: map[string]string{"test.low": "tracepoint", "test.absent": "tp_btf", "test.typo": "kprob"}})
	low := Rung{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}}

	st, err := o.Attach(Hook{Name: "test.low", Rungs: []Rung{{"tp_btf", []Attachment{BTF("testroad_btf")}}, low}})
	if err != nil || st.Rung != "tracepoint" || st.Refused != nil {
		t.Errorf("%+v, %v", st, err)
	}
	for name, want := range map[string]string{
		"test.absent": "test.absent is unavailable: the configuration forces tp_btf, which does not work: tp_btf: this kernel has no tracepoint no_such_tracepoint",
		"test.typo":   "test.typo is unavailable: the configuration forces kprob, which is none of its rungs: tp_btf, tracepoint",
	} {
		st, err := o.Attach(Hook{Name: name, Rungs: []Rung{{"tp_btf", []Attachment{BTF("testroad_none")}}, low}})
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if name+" is unavailable: "+st.Err != want || st.Refused != nil {
			t.Errorf("status %+v, want the error alone", st)
		}
	}
}

// helperPacket sends one packet to nobody.
func helperPacket([]string) int {
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err == nil {
		_, err = c.Write([]byte("x"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestBPFCgroupRung(t *testing.T) {
	cg := testkit.NewCgroup(t, "egress")
	ns := testkit.NewNetns(t)
	_, o := openTest(t, Config{CgroupRoot: cg.Path})
	st, err := o.Attach(Hook{Name: "test.egress", Rungs: []Rung{
		{"cgroup", []Attachment{Cgroup("testroad_egress", ebpf.AttachCGroupInetEgress)}}}})
	if err != nil {
		t.Fatal(err)
	}
	if st.Rung != "cgroup" {
		t.Errorf("%+v", st)
	}
	send := func(start func(*exec.Cmd) error) {
		t.Helper()
		cmd := testkit.Command(t, "packet")
		if err := ns.Do(func() error { return start(cmd) }); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	send(func(cmd *exec.Cmd) error { return cmd.Start() })
	if n := hits(t, o, 6); n != 0 {
		t.Errorf("%d packets from outside the cgroup", n)
	}
	send(func(cmd *exec.Cmd) error { cg.Start(t, cmd); return nil })
	if n := hits(t, o, 6); n != 1 {
		t.Errorf("%d packets, want 1", n)
	}
}

// A place that is full says so, and not that an argument list is too long.
func TestBPFPlaceIsFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		ps   *ebpf.ProgramSpec
		at   Attachment
		want string
	}{
		{"tracepoint", probeTracepoint, Tracepoint("", "syscalls", "sys_enter_personality"),
			"64 programs are attached to this tracepoint already, the kernel takes no more"},
		{"cgroup", probeCgroup, Cgroup("", ebpf.AttachCGroupInetEgress),
			"64 programs are attached to this cgroup already, the kernel takes no more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needBPF(t)
			_, dir, err := openScope(testkit.NewCgroup(t, "full").Path)
			if err != nil {
				t.Fatal(err)
			}
			where := places{cgroup: dir}
			all := attached{programs: map[string]*ebpf.Program{}, skips: &skips{}}
			t.Cleanup(func() {
				if err := errors.Join(all.close(""), where.close()); err != nil {
					t.Error(err)
				}
			})
			for i := range 65 { // others may be there already
				p, err := ebpf.NewProgram(tt.ps) // no place takes one program twice
				if err != nil {
					t.Fatal(err)
				}
				all.programs[strconv.Itoa(i)] = p
				l, err := where.attach(tt.at, p, 0)
				if err != nil {
					if reason := reasonOf(explainAttach(tt.at, tt.ps, err)); reason != tt.want {
						t.Errorf("reason %q, want %q", reason, tt.want)
					}
					return
				}
				all.links = append(all.links, l)
			}
			t.Error("there is room for 65 programs")
		})
	}
}

// A program that tolerates no other in its cgroup is named among the reasons.
func TestBPFCgroupTaken(t *testing.T) {
	cg := testkit.NewCgroup(t, "taken")
	_, o := openTest(t, Config{CgroupRoot: cg.Path})
	p, err := ebpf.NewProgram(probeCgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dir, err := os.Open(cg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: ebpf.AttachCGroupInetEgress}); err != nil {
		t.Fatal(err)
	}
	_, err = o.Attach(Hook{Name: "test.egress", Rungs: []Rung{
		{"cgroup", []Attachment{Cgroup("testroad_egress", ebpf.AttachCGroupInetEgress)}}}})
	if err == nil || !strings.Contains(err.Error(), "suffers no other beside it") {
		t.Errorf("%v", err)
	}
}

// What this kernel must offer, it offers; what it refuses has a reason.
func TestBPFProbe(t *testing.T) {
	needBPF(t)
	for _, f := range Features() {
		err := Probe(f)
		t.Logf("%s: %v", f, err)
		var u *UnavailableError
		switch {
		case err == nil:
		case f != FeatureFentry && f != FeatureKprobe:
			t.Error(err)
		case !errors.As(err, &u) || u.Feature != string(f):
			t.Errorf("%s: %v", f, err)
		default:
			checkTruth(t, err.Error())
		}
	}
	if Probe("nonsense") == nil {
		t.Error("an unknown feature works")
	}
	switch mode, err := Lockdown(), Probe(FeatureFentry); {
	case mode != "none" && mode != "" && err == nil:
		t.Errorf("fentry works under lockdown (%s)", mode)
	case mode == "none" && err != nil:
		t.Errorf("no fentry though lockdown is off: %v", err)
	case err != nil && !strings.Contains(err.Error(), "lockdown refuses fentry"):
		t.Errorf("the reason for no fentry is lockdown (%s), not %v", mode, err)
	}
}

// helperProbe prints what Probe says about every feature, what attaching to an
// absent tracepoint does, and what making a road does.
func helperProbe([]string) int {
	out := map[string]string{}
	note := func(name string, err error) {
		if out[name] = "works"; err != nil {
			out[name] = reasonOf(err)
		}
	}
	for _, f := range Features() {
		note(string(f), Probe(f))
	}
	ps := probeSpec(ebpf.Tracing, ebpf.AttachTraceRawTp, "no_such_tracepoint", 0)
	note("absent", probeAttach(ps, BTF("")))
	r, err := NewRoad(Config{})
	note("road", err)
	if err == nil {
		note("close", r.Close())
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return 1
	}
	return 0
}

// probeWith returns what helperProbe prints with no other capabilities than
// caps.
func probeWith(t *testing.T, caps ...int) map[string]string {
	t.Helper()
	type result struct {
		out []byte
		err error
	}
	done := make(chan result)
	go func() {
		// Root's capabilities after exec are the bounding set of the thread that
		// forks. The thread ends with the goroutine.
		runtime.LockOSThread()
		var keep CapSet
		for _, c := range caps {
			keep |= 1 << c
		}
		for c := 0; c <= unix.CAP_LAST_CAP; c++ {
			if !keep.Has(c) {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
					done <- result{err: fmt.Errorf("drop capability %d: %w", c, err)}
					return
				}
			}
		}
		out, err := testkit.Command(t, "probe").Output()
		done <- result{out, err}
	}()
	res := <-done
	if res.err != nil {
		t.Fatal(res.err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(res.out, &got); err != nil {
		t.Fatalf("%v: %s", err, res.out)
	}
	return got
}

func TestBPFMissingCapabilities(t *testing.T) {
	needBPF(t)
	const bpf, perfmon, netAdmin, read = unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_DAC_READ_SEARCH
	const absent = "this kernel has no tracepoint no_such_tracepoint"
	for name, tt := range map[string]struct {
		caps []int
		want map[string]string
	}{
		"all that is needed": {[]int{bpf, perfmon, netAdmin, read}, map[string]string{
			"ring": "works", "tp_btf": "works", "iter": "works", "cgroup": "works", "road": "works", "close": "works", "absent": absent}},
		"none": {nil, map[string]string{
			"road": "CAP_BPF is missing", "tp_btf": "CAP_BPF and CAP_PERFMON are missing", "cgroup": "CAP_BPF and CAP_NET_ADMIN are missing"}},
		"no bpf": {[]int{perfmon, netAdmin, read}, map[string]string{
			"road": "CAP_BPF is missing", "ring": "CAP_BPF is missing", "tp_btf": "CAP_BPF is missing", "fentry": "CAP_BPF is missing"}},
		"no perfmon": {[]int{bpf, netAdmin, read}, map[string]string{
			"road": "works", "tp_btf": "CAP_PERFMON is missing", "iter": "CAP_PERFMON is missing", "fentry": "CAP_PERFMON is missing", "cgroup": "works"}},
		"no net admin": {[]int{bpf, perfmon, read}, map[string]string{
			"tp_btf": "works", "cgroup": "CAP_NET_ADMIN is missing"}},
		"all of them in one": {[]int{unix.CAP_SYS_ADMIN, read}, map[string]string{
			"road": "works", "tp_btf": "works", "tracepoint": "works", "absent": absent,
			"cgroup": "works|CAP_NET_ADMIN is missing"}}, // before 6.9 the one does not stand for the other
	} {
		t.Run(name, func(t *testing.T) {
			got := probeWith(t, tt.caps...)
			for f, want := range tt.want {
				if !slices.Contains(strings.Split(want, "|"), got[f]) {
					t.Errorf("%s: %q, want %q", f, got[f], want)
				}
			}
			for f, reason := range got {
				t.Log(f, ": ", reason)
				checkTruth(t, reason)
			}
		})
	}
}

// Root of a user namespace has every capability and none that counts, also where
// its users are numbered as the machine's.
func TestBPFUserNamespace(t *testing.T) {
	needBPF(t)
	cmd := testkit.Command(t, "probe")
	same := []syscall.SysProcIDMap{{Size: 1<<32 - 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: same, GidMappings: same}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const want = "CAP_BPF is missing (capabilities of a user namespace do not count)"
	if got["road"] != want {
		t.Errorf("%q, want %q", got["road"], want)
	}
}

// Without CAP_SYS_ADMIN tracepoints can be attached to or the reason is true:
// tracefs is not mounted, or Debian's strictest level of perf events is set.
func TestBPFTracepointsWithoutAdmin(t *testing.T) {
	needBPF(t)
	dir, err := mounted("tracefs")
	if err != nil {
		t.Fatal(err)
	}
	want := "works"
	if dir == nil {
		want = "tracefs is not mounted, and mounting it needs CAP_SYS_ADMIN"
	} else {
		dir.Close()
		if n := perfParanoid(); n > 2 {
			want = fmt.Sprintf("kernel.perf_event_paranoid is %d: CAP_SYS_ADMIN is missing, without which this kernel then opens no perf events", n)
		}
	}
	got := probeWith(t, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_DAC_READ_SEARCH)
	if got["tracepoint"] != want {
		t.Errorf("tracepoint: %q, want %q", got["tracepoint"], want)
	}
}

// Kernel file systems that are not mounted are reached all the same, and stay
// not mounted.
func TestBPFDetachedMountsChangeNothing(t *testing.T) {
	needBPF(t)
	// Others mount other things in the meantime.
	ofType := func(fstype string) (out []mount) {
		all, err := mounts()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.fstype == fstype {
				out = append(out, m)
			}
		}
		return out
	}
	before := map[string][]mount{}
	for fstype := range fsMagic {
		before[fstype] = ofType(fstype)
	}
	for _, f := range []Feature{FeatureTracepoint, FeatureCgroup} {
		if err := Probe(f); err != nil {
			t.Error(err)
		}
	}
	for fstype := range fsMagic {
		dir, err := detachedMount(fstype)
		if err != nil {
			t.Error(err)
			continue
		}
		if !isFS(dir, fstype) {
			t.Errorf("the %s that was mounted is none", fstype)
		}
		if diff := cmp.Diff(before[fstype], ofType(fstype), cmp.AllowUnexported(mount{})); diff != "" {
			t.Error(diff)
		}
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCapabilityNames(t *testing.T) {
	if got := CapName(unix.CAP_BPF); got != "CAP_BPF" {
		t.Error(got)
	}
	if got := CapName(63); got != "capability "+strconv.Itoa(63) {
		t.Error(got)
	}
}
