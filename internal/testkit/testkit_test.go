package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main(m, map[string]func(args []string) int{
		"echo": func(args []string) int {
			fmt.Println(strings.Join(args, " "))
			return len(args)
		},
		"cgroup": func([]string) int {
			b, err := os.ReadFile("/proc/self/cgroup")
			if err != nil {
				return 1
			}
			fmt.Printf("%s\n", b)
			_, _ = bufio.NewReader(os.Stdin).ReadByte()
			return 0
		},
	})
}

func TestCommand(t *testing.T) {
	out, err := Command(t, "echo", "a", "b c").Output()
	if string(out) != "a b c\n" || err == nil || err.Error() != "exit status 2" {
		t.Errorf("helper printed %q, ended with %v", out, err)
	}
}

func TestOlderThan(t *testing.T) {
	for _, test := range []struct {
		release, version string
		want             bool
	}{
		{"6.1.0-50-cloud-amd64", "6.1", false},
		{"6.1.0-50-cloud-amd64", "6.2", true},
		{"6.12.95+deb12-cloud-amd64", "6.2", false},
		{"5.15.0", "6.1", true},
		{"7.0.0-rc1", "6.18", false},
		{"6.1.0", "", false},
	} {
		if got, err := olderThan(test.release, test.version); got != test.want || err != nil {
			t.Errorf("olderThan(%q, %q) = %v, %v, want %v", test.release, test.version, got, err, test.want)
		}
	}
	if _, err := olderThan("6.1.0", "new"); err == nil {
		t.Error(`olderThan("6.1.0", "new") gives no error`)
	}
}

// verdict records how a helper ended a test.
type verdict struct {
	testing.TB
	skipped, failed string
}

type ended struct{}

func (v *verdict) Helper() {}
func (v *verdict) Skipf(format string, args ...any) {
	v.skipped = fmt.Sprintf(format, args...)
	panic(ended{})
}
func (v *verdict) Fatalf(format string, args ...any) {
	v.failed = fmt.Sprintf(format, args...)
	panic(ended{})
}

func TestNeedKernel(t *testing.T) {
	wrong := errors.New("wrong")
	for _, test := range []struct {
		name            string
		min             string
		err             error
		skipped, failed bool
	}{
		{"it works", "6.1", nil, false, false},
		{"too old", "99.0", wrong, true, false},
		{"new enough", "3.0", wrong, false, true},
		{"every kernel", "", wrong, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := &verdict{TB: t}
			func() {
				defer func() {
					if r := recover(); r != nil && r != any(ended{}) {
						panic(r)
					}
				}()
				NeedKernel(v, "x", test.min, test.err)
			}()
			if (v.skipped != "") != test.skipped || (v.failed != "") != test.failed {
				t.Errorf("skipped %q, failed %q", v.skipped, v.failed)
			}
		})
	}
}

func TestCgroupMount(t *testing.T) {
	const hybrid = `30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 30 0:36 /part /mnt/pids rw - cgroup cgroup rw,pids
41 30 0:36 / /sys/fs/cgroup/pids rw shared:15 - cgroup cgroup rw,pids
`
	for _, test := range []struct{ fstype, controller, want string }{
		{"cgroup2", "", "/sys/fs/cgroup/unified"},
		{"cgroup", "pids", "/sys/fs/cgroup/pids"},
		{"cgroup", "cpu", ""},
	} {
		if got := cgroupMount(hybrid, test.fstype, test.controller); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.fstype, test.controller, got, test.want)
		}
	}
}

func TestRootNetns(t *testing.T) {
	n := NewNetns(t)
	var inside unix.Stat_t
	if err := n.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &inside) }); err != nil {
		t.Fatal(err)
	}
	var outside unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &outside); err != nil {
		t.Fatal(err)
	}
	if uint32(inside.Ino) != n.Inode(t) || inside.Ino == outside.Ino {
		t.Errorf("inside %d, outside %d, of the namespace %d", inside.Ino, outside.Ino, n.Inode(t))
	}
	if err := n.Do(func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the function's error is %v", err)
	}
}

func TestRootCgroup(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t testing.TB) *Cgroup
	}{
		{"v2", func(t testing.TB) *Cgroup { return NewCgroup(t, "x") }},
		{"v1", func(t testing.TB) *Cgroup { return NewCgroupV1(t, "pids", "x") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			var dir string
			t.Run("made", func(t *testing.T) {
				c := test.make(t)
				dir = c.Dir
				cmd := Command(t, "cgroup")
				if _, err := cmd.StdinPipe(); err != nil {
					t.Fatal(err)
				}
				c.Start(t, cmd)
				Wait(t, "the process in its cgroup", func() bool {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
					return err == nil && strings.Contains(string(b), c.Path+"\n")
				})
				if c.ID(t) == 0 {
					t.Error("the cgroup has no id")
				}
			})
			if _, err := os.Stat(dir); dir != "" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		})
	}
}
