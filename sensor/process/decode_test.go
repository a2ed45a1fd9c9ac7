package process

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"warren/bpf"
	"warren/event"
)

// bytesOf is a record as the kernel would send it, with what follows the struct.
func bytesOf[T any](r T, tail string) []byte {
	return append(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))...), tail...)
}

func execRecord() (processExecRecord, string) {
	r := processExecRecord{
		Hdr: processRecord{Ktime: 5e9},
		Task: processTaskInfo{
			Key:       processTaskKey{Start: 4e9, Pid: 100, Tid: 100},
			Parent:    processTaskKey{Start: 1e9, Pid: 50, Tid: 51},
			Creds:     processCreds{Effective: 1 << 21, Uid: 1000, Gid: 1001, Ruid: 1002, Rgid: 1003, Suid: 1004, Sgid: 1005, Fsuid: 1006, Fsgid: 1007},
			Ns:        processNamespaces{Mnt: 1, Pid: 2, Net: 3, User: 4, Uts: 5, Ipc: 6, Cgroup: 7, Time: 8},
			Cgroup:    processCgroupKey{Id: 77, Hierarchy: 3},
			Vpid:      7,
			Sessionid: noSession,
			Loginuid:  uint32(event.NoLogin),
			Comm:      [16]int8{'c', 'u', 'r', 'l', 0, 'x'},
		},
		ExeIno:      9,
		Flags:       uint32(processImageFlagsEXE_WRITABLE | processImageFlagsEXE_UPPER),
		ExeLen:      13,
		CwdLen:      5,
		FilenameLen: 4,
		InterpLen:   0,
		ArgsLen:     36,
	}
	return r, "/usr/bin/curl/rootcurlcurl\x00-sS\x00https://example.org/x\xff\x00\x00-k\x00"
}

func TestDecodeExec(t *testing.T) {
	var d decoder
	r, text := execRecord()
	e, err := d.exec(bytesOf(r, text))
	if err != nil {
		t.Fatal(err)
	}
	p := e.Process
	want := &event.Process{
		Key: event.Key{PID: 100, Start: 4e9}, PID: 100, ParentKey: event.Key{PID: 50, Start: 1e9}, TID: 100, VPID: 7,
		Name: "curl", Exe: "curl", ExePath: "/usr/bin/curl", Cwd: "/root", Filename: "curl",
		Args: []string{"curl", "-sS", "https://example.org/x\xff", "", "-k"}, ArgsLine: "-sS https://example.org/x\xff  -k", Cmdline: "curl -sS https://example.org/x\xff  -k",
		ExeUpper: true, ExeWritable: true, ExeInode: 9,
		Creds:      event.Creds{UID: 1000, GID: 1001, RUID: 1002, RGID: 1003, SUID: 1004, SGID: 1005, FUID: 1006, FGID: 1007, CapEffective: 1 << 21},
		Namespaces: event.Namespaces{MntNS: 1, PidNS: 2, NetNS: 3, UserNS: 4, UtsNS: 5, IpcNS: 6, CgroupNS: 7, TimeNS: 8},
		LoginUID:   event.NoLogin, StartTime: bpf.Wall(4e9), ExecTime: bpf.Wall(5e9),
		Cgroup: event.Cgroup{CgroupKey: event.CgroupKey{Hierarchy: 3, ID: 77}, CgroupID: 77},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("process (-want +got):\n%s", diff)
	}
	if e.Ktime != 5e9 || !e.Time.Equal(bpf.Wall(5e9)) || e.Actor != p.Key {
		t.Errorf("event: %+v", e)
	}
}

func TestDecodeDamaged(t *testing.T) {
	var d decoder
	r, text := execRecord()
	r.ArgsLen++
	if e, err := d.exec(bytesOf(r, text)); !errors.Is(err, errLengths) || e != nil {
		t.Errorf("one byte too few: %v, %v", e, err)
	}
	r.ArgsLen = 1<<32 - 1
	if _, err := d.exec(bytesOf(r, text)); !errors.Is(err, errLengths) {
		t.Errorf("4 GiB of arguments: %v", err)
	}
	c := processCgroupRecord{Len: 5}
	if _, err := d.cgroup(bytesOf(c, "/abc")); !errors.Is(err, errLengths) {
		t.Errorf("cgroup: %v", err)
	}
	for name, decode := range map[string]func([]byte) (*event.Event, error){
		"fork": d.fork, "exec": d.exec, "exit": d.exit, "cred": d.credentials, "ns": d.namespaces, "task": d.task, "cgroup": d.cgroup,
	} {
		if e, err := decode(make([]byte, 39)); !errors.Is(err, bpf.ErrShort) || e != nil {
			t.Errorf("short %s: %v, %v", name, e, err)
		}
	}
}

func TestSplitArgs(t *testing.T) {
	for _, tt := range []struct {
		in       string
		existing bool
		want     []string
	}{
		{"", false, nil},
		{"", true, nil},
		{"\x00", false, []string{""}},
		{"\x00", true, []string{""}},
		{"a\x00", false, []string{"a"}},
		{"a\x00b", false, []string{"a", "b"}},
		{"a\x00\x00\x00", false, []string{"a", "", ""}},
		{"a\x00\x00\x00", true, []string{"a"}},
		{"nginx: master process\x00\x00\x00\x00", true, []string{"nginx: master process"}},
		{"\x00\x00a", true, []string{"", "", "a"}},
	} {
		if diff := cmp.Diff(tt.want, splitArgs(tt.in, tt.existing)); diff != "" {
			t.Errorf("%q, existing %v (-want +got):\n%s", tt.in, tt.existing, diff)
		}
	}
}

func TestCPUTime(t *testing.T) {
	const max = 1<<64 - 1
	for _, tt := range [][5]uint64{
		// utime, stime, runtime, user, sys
		{0, 0, 700, 700, 0},
		{4, 0, 700, 700, 0},
		{0, 4, 700, 0, 700},
		{3, 1, 800, 600, 200},
		{3e9, 1e9, 4e18, 3e18, 1e18},
		{max, max, 5, max, max},
		{1, max - 1, max, 1, max - 1},
	} {
		if user, sys := cpuTime(tt[0], tt[1], tt[2]); user != tt[3] || sys != tt[4] {
			t.Errorf("cpuTime(%v) = %d, %d, want %d, %d", tt[:3], user, sys, tt[3], tt[4])
		}
	}
}

func TestCallNames(t *testing.T) {
	for _, tt := range []struct {
		name   func(uint32, bool) string
		nr     uint32
		compat bool
		want   string
	}{
		{forkType, 1<<32 - 1, false, "clone"},
		{forkType, 435, false, "clone3"},
		{forkType, 2, true, "fork"},
		{forkType, 190, true, "vfork"},
		{credType, 213, true, "setuid"},
		{credType, 1<<32 - 1, false, "commit_creds"},
		{nsType, 310, true, "unshare"},
		{nsType, 1<<32 - 1, false, "setns"},
	} {
		if got := tt.name(tt.nr, tt.compat); got != tt.want {
			t.Errorf("%d, compat %v: %s, want %s", tt.nr, tt.compat, got, tt.want)
		}
	}
	// Every name is one that the event package lists.
	listed := map[string]bool{}
	for _, k := range kinds.List() {
		for _, n := range k.Types() {
			listed[n] = true
		}
	}
	for _, table := range []map[uint32]string{forkCalls, compatForks, credCalls, compatCreds, nsCalls, compatNS} {
		for nr, n := range table {
			if !listed[n] {
				t.Errorf("%d: %s is no evt.type", nr, n)
			}
		}
	}
}

// What was told while existing processes are read is believed, not the record.
func TestWindow(t *testing.T) {
	var d decoder
	r, text := execRecord()
	task := bytesOf(r, text)
	read := func() *event.Event {
		t.Helper()
		e, err := d.task(task)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	must := func(_ *event.Event, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Closed, nothing is remembered.
	must(d.exit(bytesOf(processExitRecord{Key: r.Task.Key}, "")))
	if read() == nil {
		t.Error("an exit before the window opened counts")
	}
	d.window.open()
	if read() == nil {
		t.Error("nothing is told yet")
	}
	must(d.credentials(bytesOf(processCredRecord{Key: r.Task.Key, Now: processCreds{Uid: 5}}, "")))
	must(d.namespaces(bytesOf(processNsRecord{Key: r.Task.Key, Now: processNamespaces{Net: 6}}, "")))
	if e := read(); e == nil || e.Process.UID != 5 || e.Process.NetNS != 6 {
		t.Errorf("after changes: %+v", e)
	}
	must(d.exec(task))
	if e := read(); e != nil {
		t.Errorf("after an exec: %+v", e)
	}
	d.window.close()
	d.window.open()
	must(d.exit(bytesOf(processExitRecord{Key: r.Task.Key}, "")))
	if e := read(); e != nil {
		t.Errorf("after the exit: %+v", e)
	}
	other := r
	other.Task.Key.Start++ // the pid of another
	if e, err := d.task(bytesOf(other, text)); e == nil || err != nil {
		t.Errorf("another process: %v, %v", e, err)
	}
}

// Reading that fails, or whose time is over, leaves records that are not decoded yet:
// until they are, what was told meanwhile is remembered.
func TestWindowOutlivesReading(t *testing.T) {
	broken := errors.New("broken")
	for name, want := range map[string]error{"ended": context.Canceled, "failed": broken, "read": nil} {
		t.Run(name, func(t *testing.T) {
			var d decoder
			r, text := execRecord()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			synced := false
			err := d.window.while(ctx, func(context.Context) error {
				if _, err := d.exec(bytesOf(r, text)); err != nil {
					t.Fatal(err)
				}
				if errors.Is(want, context.Canceled) {
					cancel()
				}
				return want
			}, func(ctx context.Context) error {
				synced = true
				if err := ctx.Err(); err != nil {
					t.Errorf("nothing is waited for: %v", err)
				}
				if e, err := d.task(bytesOf(r, text)); e != nil || err != nil {
					t.Errorf("a record older than the exec: %v, %v", e, err)
				}
				return nil
			})
			if !errors.Is(err, want) || synced != (want != nil) {
				t.Errorf("returned %v, waited %v", err, synced)
			}
			if d.window.opened.Load() {
				t.Error("the window is still open")
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	r, text := execRecord()
	f.Add(byte(0), bytesOf(r, text))
	f.Add(byte(1), bytesOf(r, text)[:300])
	f.Add(byte(2), bytesOf(processForkRecord{Nr: 58}, ""))
	f.Add(byte(3), bytesOf(processExitRecord{Status: 139, Utime: 5, Stime: 7, Runtime: 9}, ""))
	f.Add(byte(4), bytesOf(processCredRecord{Nr: 105}, ""))
	f.Add(byte(5), bytesOf(processNsRecord{Nr: 272}, ""))
	f.Add(byte(6), bytesOf(processCgroupRecord{Len: 4}, "/abc"))
	f.Fuzz(func(t *testing.T, which byte, rec []byte) {
		var d decoder
		d.window.open()
		all := []func([]byte) (*event.Event, error){d.exec, d.task, d.fork, d.exit, d.credentials, d.namespaces, d.cgroup}
		given := string(rec)
		e, err := all[int(which)%len(all)](rec)
		if (e == nil) == (err == nil) {
			t.Fatalf("event %v, error %v", e, err)
		}
		if string(rec) != given {
			t.Fatal("the record was changed")
		}
		if e == nil {
			return
		}
		if e.Data == nil || e.Ktime == 0 && e.Time.IsZero() {
			t.Fatalf("%+v", e)
		}
		if p := e.Process; p != nil {
			n := len(p.ExePath) + len(p.Cwd) + len(p.Filename) + len(p.Interp) + len(strings.Join(p.Args, "\x00"))
			if n > len(rec) {
				t.Fatalf("%d bytes of strings from a record of %d", n, len(rec))
			}
		}
		// The event must not depend on the ring's memory, which is used again.
		before := describe(e)
		clear(rec)
		if after := describe(e); after != before {
			t.Fatalf("changed with the ring:\n%s\n%s", before, after)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	r, text := execRecord()
	var d decoder
	for name, bench := range map[string]struct {
		rec    []byte
		decode func([]byte) (*event.Event, error)
	}{
		"exec": {bytesOf(r, text), d.exec},
		"fork": {bytesOf(processForkRecord{Task: r.Task, Nr: 56}, ""), d.fork},
		"exit": {bytesOf(processExitRecord{Key: r.Task.Key, Runtime: 5}, ""), d.exit},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bench.decode(bench.rec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
