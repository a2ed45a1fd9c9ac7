package process

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// eachRung runs a test on every implementation of a hook that this kernel takes.
func eachRung(t *testing.T, hook string, test func(t *testing.T, w *watch)) {
	t.Run("best", func(t *testing.T) { test(t, start(t, bpf.Config{}, kinds)) })
	t.Run("tracepoint", func(t *testing.T) {
		w := start(t, bpf.Config{Rungs: map[string]string{hook: "tracepoint"}}, kinds)
		for _, st := range w.sensor.Hooks() {
			if st.Hook == hook && st.Rung != "tracepoint" {
				t.Fatalf("%s is attached by %q: %s", hook, st.Rung, st.Err)
			}
		}
		test(t, w)
	})
}

func TestBPFCredentials(t *testing.T) {
	const (
		chown  = 1 << 0
		setuid = 1 << unix.CAP_SETUID
		setgid = 1 << unix.CAP_SETGID
	)
	type change struct {
		Type                       string
		UID, GID, OldUID, OldGID   uint32
		RUID, SUID, FUID           uint32
		Effective, Gained, Dropped bool // whether there are any
	}
	all := event.CapSet(effectiveCaps(t))
	eachRung(t, "process.credentials", func(t *testing.T, w *watch) {
		for _, tt := range []struct {
			name    string
			actions []string
			want    []change
		}{
			{"setresuid by all threads", []string{"setresuid|1000|1001|1002"}, []change{
				{Type: "setresuid", UID: 1001, RUID: 1000, SUID: 1002, FUID: 1001, Dropped: true},
			}},
			{"there and back", []string{"setresuid|-1|1001|-1", "setresuid|-1|0|-1"}, []change{
				{Type: "setresuid", UID: 1001, FUID: 1001, Dropped: true},
				{Type: "setresuid", OldUID: 1001, Effective: true, Gained: true},
			}},
			{"nothing changes", []string{"setresuid|0|0|0", "setresuid|-1|-1|-1", "setresgid|-1|-1|-1"}, nil},
			{"setuid", []string{"setuid|1000"}, []change{{Type: "setuid", UID: 1000, RUID: 1000, SUID: 1000, FUID: 1000, Dropped: true}}},
			{"setresgid", []string{"setresgid|7|8|9"}, []change{{Type: "setresgid", GID: 8, Effective: true}}},
			{"setfsuid", []string{"setfsuid|1000"}, []change{{Type: "setfsuid", FUID: 1000, Effective: true, Dropped: true}}},
			{"capset", []string{fmt.Sprintf("capset|%d", chown|setuid)}, []change{{Type: "capset", Effective: true, Dropped: true}}},
			{"prctl", []string{fmt.Sprintf("dropbound|%d", unix.CAP_SYS_BOOT)}, []change{{Type: "commit_creds", Effective: true}}},
			{"refused", []string{"setresuid|1000|1000|1000", "setresuid|0|0|0"}, []change{
				{Type: "setresuid", UID: 1000, RUID: 1000, SUID: 1000, FUID: 1000, Dropped: true},
			}},
			{"an exec changes them, and tells", []string{fmt.Sprintf("capset|%d", setgid), "exec|" + install(t, exits(0), "x")}, []change{
				{Type: "capset", Effective: true, Dropped: true},
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				cmd := testkit.Command(t, "do", tt.actions...)
				if tt.name == "refused" {
					cmd.Stderr = nil
				}
				pid := run(t, cmd)
				d, at := data[*event.Credentials](w.of(pid))
				var got []change
				old := all
				for i, c := range d {
					p := at[i].Process
					if p.UID != c.UID || p.GID != c.GID || c.OldCaps != old || c.Gained != p.CapEffective&^old || c.Dropped != old&^p.CapEffective {
						t.Errorf("%+v does not agree with %+v, before %v", c, p.Creds, old)
					}
					old = p.CapEffective
					got = append(got, change{Type: c.Type, UID: c.UID, GID: c.GID, OldUID: c.OldUID, OldGID: c.OldGID, RUID: p.RUID, SUID: p.SUID, FUID: p.FUID,
						Effective: p.CapEffective != 0, Gained: c.Gained != 0, Dropped: c.Dropped != 0})
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("changes (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// TestBPFChangesAtOnce makes the threads of a process change the same at the same
// time: each change is told once, and each from what the one before made.
func TestBPFChangesAtOnce(t *testing.T) {
	const threads = 4
	rounds := testkit.Rounds(2000, 400)
	t.Run("credentials", func(t *testing.T) {
		eachRung(t, "process.credentials", func(t *testing.T, w *watch) {
			d, at := data[*event.Credentials](w.of(run(t, testkit.Command(t, "do", fmt.Sprintf("race|%d|%d", threads, rounds)))))
			var got, want []uint32
			for i, c := range d {
				got = append(got, c.OldGID, at[i].Process.GID)
			}
			for i := range uint32(rounds) {
				want = append(want, i, i+1)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%d changes, want %d (-want +got):\n%s", len(d), rounds, diff)
			}
		})
	})
	t.Run("namespaces", func(t *testing.T) {
		eachRung(t, "process.namespaces", func(t *testing.T, w *watch) {
			events := w.of(run(t, testkit.Command(t, "do", fmt.Sprintf("raceuts|%d|%d", threads, rounds))))
			d, at := data[*event.Namespace](events)
			_, xe := only[*event.Exec](t, events)
			if len(d) != 1+rounds {
				t.Errorf("%d changes, want %d", len(d), 1+rounds)
			}
			old := xe.Process.Namespaces
			for i, n := range d {
				if n.Old != old || at[i].Process.UtsNS == old.UtsNS {
					t.Fatalf("change %d to %+v, from %+v, want from %+v", i, at[i].Process.Namespaces, n.Old, old)
				}
				old = at[i].Process.Namespaces
			}
		})
	})
}

// TestBPFLostExec loses an exec that changes credentials: the next change is told
// from what is known of the process, not from what the lost record said.
func TestBPFLostExec(t *testing.T) {
	// So long that no ring of this size holds the record.
	const ring = 8 << 10
	deep := slices.Repeat([]string{"dig|" + strings.Repeat("d", 250)}, 14)
	long := strings.Repeat("a", ring/4)
	for _, rung := range []string{"", "tracepoint"} {
		cfg := bpf.Config{CriticalBytes: ring, Idle: time.Millisecond}
		if rung != "" {
			cfg.Rungs = map[string]string{"process.credentials": rung}
		}
		w := start(t, cfg, kinds)
		x := install(t, new(program).call(unix.SYS_SETFSGID, 9).call(unix.SYS_EXIT_GROUP, 0), "x")
		type change struct{ OldGID, GID, FGID uint32 }
		// What else happens on the machine meanwhile can fill so small a ring, and
		// push out what this process did before: then again.
		var diff string
		for range 10 {
			actions := append([]string{"chdir|" + t.TempDir()}, deep...)
			actions = append(actions, "copy|"+x+"|y", "setgid|y", "setresgid|7|7|7", "exec|./y|"+long)
			events := w.of(run(t, testkit.Command(t, "do", actions...)))
			if execs, at := data[*event.Exec](events); len(execs) > 0 && at[len(at)-1].Process.Name == "y" {
				t.Fatal("the exec was not lost")
			}
			var got []change
			d, at := data[*event.Credentials](events)
			for i, c := range d {
				got = append(got, change{c.OldGID, c.GID, at[i].Process.FGID})
			}
			if diff = cmp.Diff([]change{{0, 7, 7}, {7, 0, 9}}, got); diff == "" {
				break
			}
		}
		if diff != "" {
			t.Errorf("by %q, changes (-want +got):\n%s", rung, diff)
		}
	}
}

func effectiveCaps(t testing.TB) (caps uint64) {
	t.Helper()
	if _, err := fmt.Sscanf(statusOf(t, os.Getpid())["CapEff"], "%x", &caps); err != nil {
		t.Fatal(err)
	}
	return caps
}

func TestBPFNamespaces(t *testing.T) {
	eachRung(t, "process.namespaces", func(t *testing.T, w *watch) {
		netns := testkit.NewNetns(t)
		for _, tt := range []struct {
			name string
			p    *program
			call string
			want []string
		}{
			{"unshare one", new(program).call(unix.SYS_UNSHARE, unix.CLONE_NEWUTS), "unshare", []string{"uts"}},
			{"unshare all but users'", new(program).call(unix.SYS_UNSHARE, unix.CLONE_NEWUTS|unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWNET|unix.CLONE_NEWCGROUP),
				"unshare", []string{"mnt", "net", "uts", "ipc", "cgroup"}},
			{"of the children", new(program).call(unix.SYS_UNSHARE, unix.CLONE_NEWPID), "unshare", []string{"pid"}},
			{"users'", new(program).call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER), "unshare", []string{"user"}},
			{"users' and mounts", new(program).call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS), "unshare", []string{"mnt", "user"}},
			{"setns", new(program).call(unix.SYS_SETNS, 3, unix.CLONE_NEWNET), "setns", []string{"net"}},
			{"setns to where it is", new(program).call(unix.SYS_SETNS, 4, unix.CLONE_NEWNET), "setns", nil},
			{"refused", new(program).call(unix.SYS_SETNS, 99, unix.CLONE_NEWNET), "setns", nil},
			{"files, which are no namespace", new(program).call(unix.SYS_UNSHARE, unix.CLONE_FILES), "unshare", nil},
		} {
			t.Run(tt.name, func(t *testing.T) {
				own, err := os.Open("/proc/thread-self/ns/net") // the first thread may be another test's
				if err != nil {
					t.Fatal(err)
				}
				defer own.Close()
				other := os.NewFile(uintptr(dup(t, netns.FD())), "netns")
				defer other.Close()
				cmd := exec.Command(install(t, tt.p.call(unix.SYS_EXIT, 0), "x"))
				cmd.ExtraFiles = []*os.File{other, own}
				events := w.of(run(t, cmd))
				_, xe := only[*event.Exec](t, events)
				d, at := data[*event.Namespace](events)

				// By fentry, a user namespace and others that come by one call are
				// two changes: the kernel makes them one after the other.
				var changed []string
				old := xe.Process.Namespaces
				for i, n := range d {
					p := at[i].Process
					changed = append(changed, n.Changed...)
					if n.Type != tt.call || n.Old != old || int(p.PID) != cmd.Process.Pid || p.PidNS != old.PidNS {
						t.Errorf("%+v to %+v, want by %s from %+v", n, p.Namespaces, tt.call, old)
					}
					old = p.Namespaces
				}
				slices.Sort(changed)
				slices.Sort(tt.want)
				if diff := cmp.Diff(tt.want, changed); diff != "" {
					t.Errorf("changed (-want +got):\n%s", diff)
				}
				if slices.Contains(tt.want, "net") && tt.call == "setns" && old.NetNS != netns.Inode(t) {
					t.Errorf("network namespace %d, want %d", old.NetNS, netns.Inode(t))
				}
			})
		}
	})
}

func dup(t testing.TB, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
