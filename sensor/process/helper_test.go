package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{"do": do})
}

// do is a process that does one thing after another: each argument is an action
// and its operands, separated by bars. The first that fails ends it.
func do(actions []string) int {
	for _, a := range actions {
		op := strings.Split(a, "|")
		if err := act(op[0], op[1:]); err != nil {
			fmt.Fprintln(os.Stderr, a, err)
			return 99
		}
	}
	return 0
}

// noTests is the environment of what is executed: if that is the test binary,
// it runs no tests, which would come here again.
var noTests = []string{"WARREN_TEST_HELPER=none"}

func act(what string, op []string) error {
	num := func(i int) int {
		n, err := strconv.Atoi(op[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	switch what {
	case "chdir":
		return os.Chdir(op[0])
	case "dig": // a directory below the present one, and into it
		if err := os.Mkdir(op[0], 0o755); err != nil {
			return err
		}
		return os.Chdir(op[0])
	case "copy":
		b, err := os.ReadFile(op[0])
		if err != nil {
			return err
		}
		return os.WriteFile(op[1], b, 0o755)
	case "write":
		return os.WriteFile(op[0], []byte(op[1]), 0)
	case "chmod":
		return os.Chmod(op[0], 0o700)
	case "setgid":
		return os.Chmod(op[0], 0o755|os.ModeSetgid)
	case "chroot":
		return unix.Chroot(op[0])
	case "bind":
		return unix.Mount(op[0], op[1], "", unix.MS_BIND, "")
	case "overlay":
		return unix.Mount("overlay", op[3], "overlay", 0, "lowerdir="+op[0]+",upperdir="+op[1]+",workdir="+op[2])
	case "detach":
		return unix.Unmount(op[0], unix.MNT_DETACH)
	case "exec":
		return syscall.Exec(op[0], op, noTests)
	case "execthread": // from a thread that is not the first
		result := make(chan error)
		for range 10 {
			go func() {
				runtime.LockOSThread()
				if unix.Gettid() != unix.Getpid() {
					result <- syscall.Exec(op[0], op, noTests)
				}
				select {}
			}()
		}
		return <-result
	case "execdeleted":
		fd, err := unix.Open(op[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := os.Remove(op[0]); err != nil {
			return err
		}
		return execFD(fd, op)
	case "memfd":
		b, err := os.ReadFile(op[0])
		if err != nil {
			return err
		}
		fd, err := unix.MemfdCreate(op[1], unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, b); err != nil {
			return err
		}
		return execFD(fd, op)
	case "core":
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	case "setresuid": // all threads, as libc does it
		return syscall.Setresuid(num(0), num(1), num(2))
	case "setresgid":
		return syscall.Setresgid(num(0), num(1), num(2))
	case "setuid":
		return syscall.Setuid(num(0))
	case "setfsuid":
		return syscall.Setfsuid(num(0))
	case "capset": // keeps these capabilities only
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		d := [2]unix.CapUserData{{Effective: uint32(num(0)), Permitted: uint32(num(0))}}
		return unix.Capset(&hdr, &d[0])
	case "dropbound":
		return unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(num(0)), 0, 0, 0)
	case "unshare":
		runtime.LockOSThread()
		return unix.Unshare(num(0))
	case "spawn": // a child, to its end
		var exit *exec.ExitError
		if err := exec.Command(op[0]).Run(); err != nil && !errors.As(err, &exit) {
			return err
		}
		return nil
	case "wait":
		fmt.Println("waits")
		_, err := bufio.NewReader(os.Stdin).ReadString('\n')
		return err
	case "race": // race|threads|rounds: all threads make the same change at once, round after round
		return race(num(0), num(1), func(round int) error {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, ^uintptr(0), uintptr(round+1), ^uintptr(0))
			return errnoOf(errno)
		})
	case "raceuts": // the same, between two namespaces: ours and one more
		var fds [2]int
		for i := range fds {
			if i == 1 {
				runtime.LockOSThread()
				if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
					return err
				}
			}
			var err error
			if fds[i], err = unix.Open("/proc/thread-self/ns/uts", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return err
			}
		}
		return race(num(0), num(1), func(round int) error {
			_, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(fds[round%2]), unix.CLONE_NEWUTS, 0)
			return errnoOf(errno)
		})
	}
	return fmt.Errorf("no such action")
}

// race calls change in many threads at once, in each of the rounds. No thread
// begins a round before all have ended the last one.
func race(threads, rounds int, change func(round int) error) error {
	runtime.GOMAXPROCS(threads + 1) // all of them run, and are not merely ready to
	var arrived atomic.Int64
	results := make(chan error, threads)
	for range threads {
		go func() {
			runtime.LockOSThread()
			var err error
			for round := range rounds {
				arrived.Add(1)
				for arrived.Load() < int64((round+1)*threads) {
					_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
				}
				if e := change(round); e != nil {
					err = e // the others wait at every round
				}
			}
			results <- err
		}()
	}
	var errs []error
	for range threads {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

func errnoOf(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func execFD(fd int, args []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(noTests)
	if err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}
