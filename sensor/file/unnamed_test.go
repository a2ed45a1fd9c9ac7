package file

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

// TestBPFUnnamed: changes and requests of which the kernel does not show which file
// they were about reach whoever asks for names or files, and no event does of which
// it is known that it is not about these.
func TestBPFUnnamed(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	u := testkit.NewUring(t, 8, 0)
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, term := range map[string]interest.Term{
		"paths":  {Paths: []interest.Path{{Op: interest.Under, Text: "/nobody/has/this"}}},
		"inodes": {Inodes: []interest.Inode{{Ino: 1 << 62}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, bpf.Config{}, kinds)
			seen := w.rung("file.remove") == "fentry"
			term.Kinds = kinds
			set := interest.Union(interest.Holder{Name: "test", Interest: interest.Interest{Terms: []interest.Term{term}}})
			if err := w.sensor.Start(set, w.add); err != nil {
				t.Fatal(err)
			}
			begun := len(w.all())

			alone(t, dir, "mkdir", "proven")                       // known, and not asked for
			if err := unix.Rmdir(in("none")); err != unix.ENOENT { // about no file
				t.Fatal(err)
			}
			if err := unix.Mkdir(in("threads"), 0o700); err != nil { // by one of several threads
				t.Fatal(err)
			}
			res := u.Do(testkit.Request{Op: opMkdirat, FD: unix.AT_FDCWD, Addr: u.Text(in("ring")), Len: 0o700})[0]
			if res != 0 {
				t.Fatal(res)
			}
			u.Submit(0, testkit.Request{Op: opMkdirat, Flags: testkit.UringSkip, FD: unix.AT_FDCWD, Addr: u.Text(in("silent")), Len: 0o700})
			testkit.Wait(t, "directory", func() bool { _, err := os.Stat(in("silent")); return err == nil })
			r := openRequest(u, in("hidden"), unix.O_CREAT|unix.O_RDWR, 0o600)
			r.Flags = testkit.UringSkip
			u.Submit(0, r)
			testkit.Wait(t, "file", func() bool { _, err := os.Stat(in("hidden")); return err == nil })

			told := map[string]int{}
			for _, e := range w.all()[begun:] {
				if !term.Match(e) {
					t.Errorf("told, though the term does not hold: %s", event.AppendJSON(nil, e))
				}
				switch d := e.Data.(type) {
				case *event.File:
					told[d.NameRaw]++
				case *event.Open:
					told[d.NameRaw]++
				}
			}
			want := map[string]int{in("threads"): 1, in("ring"): 1, in("silent"): 1, in("hidden"): 1, "proven": 0, in("none"): 0}
			if seen {
				want[in("threads")] = 0
			}
			for raw, n := range want {
				if told[raw] != n {
					t.Errorf("%d events of %s, want %d", told[raw], raw, n)
				}
			}
			for _, name := range []string{"proven", "threads", "ring", "silent", "hidden"} {
				if err := os.Remove(in(name)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
