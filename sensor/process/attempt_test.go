package process

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// TestBPFAttempts: calls that change nothing are told, those that do are not,
// whichever way these are.
func TestBPFAttempts(t *testing.T) {
	type attempt struct {
		Type string
		Res  event.Errno
		Args [3]uint64
	}
	const keep = 1<<64 - 1
	for _, hooks := range []map[string]string{nil, {"process.credentials": "tracepoint", "process.namespaces": "tracepoint"}} {
		w := start(t, bpf.Config{Rungs: hooks}, kinds)
		if hooks == nil {
			roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
		}
		for _, tt := range []struct {
			name    string
			cmd     *exec.Cmd
			want    []attempt
			changes int
		}{
			{"refused", testkit.Command(t, "do", "setresuid|1000|1000|1000", "setresuid|0|0|0"), []attempt{{"setresuid", event.Errno(unix.EPERM), [3]uint64{}}}, 1},
			{"by all threads", testkit.Command(t, "do", "setresuid|-1|1001|-1", "setresuid|-1|0|-1"), nil, 2},
			{"unshare refused", testkit.Command(t, "do", "setresuid|1000|1000|1000", "unshare|67108864"), []attempt{{"unshare", event.Errno(unix.EPERM), [3]uint64{unix.CLONE_NEWUTS}}}, 1},
			// What a child does between fork and exec.
			{"as it is", as(testkit.Command(t, "do"), 0, 0), []attempt{{"setgid", 0, [3]uint64{}}, {"setuid", 0, [3]uint64{}}}, 0},
			{"one as it is", as(testkit.Command(t, "do"), 0, 7), []attempt{{"setuid", 0, [3]uint64{}}}, 1},
			{"unshare", apart(testkit.Command(t, "do")), nil, 1},
		} {
			t.Run(tt.name, func(t *testing.T) {
				tt.cmd.Stderr = nil
				pid := run(t, tt.cmd)
				// Each thread of the runtime asks for itself.
				seen := map[attempt]bool{}
				var got []attempt
				tries, at := data[*event.Attempt](w.of(pid))
				for i, a := range tries {
					x := attempt{a.Type, a.Res, [3]uint64{a.Arg0, a.Arg1, a.Arg2}}
					for n := range x.Args {
						if x.Args[n] == 1<<32-1 {
							x.Args[n] = keep
						}
					}
					if at[i].Actor.PID != uint32(pid) || (a.Res != 0) != (a.RawRes < 0) {
						t.Errorf("%s", event.AppendJSON(nil, at[i]))
					}
					if !seen[x] {
						got = append(got, x)
					}
					seen[x] = true
				}
				creds, _ := data[*event.Credentials](w.of(pid))
				moves, _ := data[*event.Namespace](w.of(pid))
				if len(creds)+len(moves) != tt.changes {
					t.Errorf("%d changes, want %d", len(creds)+len(moves), tt.changes)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func as(cmd *exec.Cmd, uid, gid uint32) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, NoSetGroups: true}}
	return cmd
}

func apart(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWUTS}
	return cmd
}

// TestBPFAttemptsOnDemand: for who does not ask no hook is attached.
func TestBPFAttemptsOnDemand(t *testing.T) {
	w := start(t, bpf.Config{}, kinds&^event.Kinds(event.KindAttempt))
	for _, st := range w.sensor.Hooks() {
		if st.Hook == "process.credentials_kept" || st.Hook == "process.namespaces_kept" {
			t.Errorf("%s is attached", st.Hook)
		}
	}
	if n, _ := data[*event.Attempt](w.of(run(t, as(testkit.Command(t, "do"), 0, 0)))); len(n) != 0 {
		t.Errorf("%d attempts", len(n))
	}
}
