package syscall

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/test/roadtest"
)

// harmless are calls that change nothing, or fail, with what evt.args is then.
// A # stands for any number, an @ for any hexadecimal one.
var harmless = []struct {
	name string
	args []any
	want string // evt.args
	res  string // where it can be more than one on different machines: ""
}{
	{"ptrace", []any{unix.PTRACE_PEEKTEXT, 1 << 22, 0x1000, 0x2000}, "res=-3(ESRCH) addr=1000 request=1(PTRACE_PEEKTEXT) pid=4194304", "ESRCH"},
	{"ptrace", []any{unix.PTRACE_CONT, 1 << 22, 0, 9}, "res=-3(ESRCH) addr=0 data=9(SIGKILL) request=7(PTRACE_CONT) pid=4194304", "ESRCH"},
	{"ptrace", []any{unix.PTRACE_ATTACH, 1 << 22, 0, 0}, "res=-3(ESRCH) addr=0 data=0 request=16(PTRACE_ATTACH) pid=4194304", "ESRCH"},
	{"ptrace", []any{0x4999, 1 << 22, 0, 0xabc}, "res=-#(#) addr=0 data=ABC request=18841 pid=4194304", ""},
	{"process_vm_readv", []any{1 << 22, 0, 0, 0, 0, 0}, "res=# pid=4194304 data=NULL", ""},
	{"kill", []any{1 << 22, int(unix.SIGUSR1)}, "res=-3(ESRCH) pid=4194304 sig=10(SIGUSR1)", "ESRCH"},
	{"kill", []any{-1 << 20, 0}, "res=-3(ESRCH) pid=-1048576 sig=0", "ESRCH"},
	{"tkill", []any{1 << 22, int(unix.SIGKILL)}, "res=-3(ESRCH) tid=4194304 sig=9(SIGKILL)", "ESRCH"},
	{"tgkill", []any{1 << 22, 1 << 22, 40}, "res=-3(ESRCH) pid=4194304 tid=4194304 sig=40(SIGRT6)", "ESRCH"},
	{"pidfd_open", []any{1 << 22, unix.O_NONBLOCK}, "fd=-3(ESRCH) pid=4194304 flags=2048(PIDFD_NONBLOCK)", "ESRCH"},
	{"pidfd_getfd", []any{-1, 1, 0}, "fd=-9(EBADF) pid_fd=-1 target_fd=1 flags=0", "EBADF"},
	{"pidfd_send_signal", []any{-1, 15, 0, 0}, "res=-9(EBADF) fd=-1 sig=15(SIGTERM) info=0 flags=0", "EBADF"},
	{"prctl", []any{unix.PR_GET_DUMPABLE}, "res=1 option=3(PR_GET_DUMPABLE) arg2_int=#", "SUCCESS"},
	{"prctl", []any{unix.PR_CAPBSET_READ, 0, 0, 0, 0}, "res=1 option=23(PR_CAPBSET_READ) arg2_int=0", "SUCCESS"},
	{"prctl", []any{0x7777, -5}, "res=-22(EINVAL) option=30583 arg2_int=-5", "EINVAL"},
	{"personality", []any{0xffffffff}, "res=# persona=#(UNAME26|ADDR_NO_RANDOMIZE|FDPIC_FUNCPTRS|MMAP_PAGE_ZERO|ADDR_COMPAT_LAYOUT|READ_IMPLIES_EXEC|ADDR_LIMIT_32BIT|SHORT_INODE|WHOLE_SECONDS|STICKY_TIMEOUTS|ADDR_LIMIT_3GB|0xf001ffff)", "SUCCESS"},
	{"seccomp", []any{unix.SECCOMP_GET_ACTION_AVAIL, unix.SECCOMP_FILTER_FLAG_LOG, 0}, "res=-22(EINVAL) op=2(SECCOMP_GET_ACTION_AVAIL) flags=2(SECCOMP_FILTER_FLAG_LOG)", "EINVAL"},
	{"chroot", []any{"/does/not/exist"}, "res=-2(ENOENT) path=/does/not/exist", "ENOENT"},
	{"pivot_root", []any{"/nowhere/new", "/nowhere/old"}, "res=-2(ENOENT) new_root=/nowhere/new put_old=/nowhere/old", "ENOENT"},
	{"bpf", []any{0x40, 0, 0}, "fd=-22(EINVAL) cmd=64 size=0", "EINVAL"},
	{"init_module", []any{"no module", 9, "a=1 b=2"}, "res=-#(#) img=no module length=9 uargs=a=1 b=2", ""},
	{"finit_module", []any{-1, "a=1", unix.MODULE_INIT_IGNORE_VERMAGIC}, "res=-#(#) fd=-1 uargs=a=1 flags=2(MODULE_INIT_IGNORE_VERMAGIC)", ""},
	{"delete_module", []any{"no_such_module", unix.O_NONBLOCK}, "res=-#(#) name=no_such_module flags=2048(O_NONBLOCK)", ""},
	{"kexec_load", []any{0x1000, 99, 0, 1}, "res=-#(#) entry=1000 nr_segments=99 flags=1(KEXEC_ON_CRASH)", ""},
	{"kexec_file_load", []any{-1, -1, 4, "a=b", 2}, "res=-#(#) fd=-1 initrd_fd=-1 cmdline=a=b flags=2(KEXEC_FILE_ON_CRASH)", ""},
	{"keyctl", []any{unix.KEYCTL_GET_KEYRING_ID, 0, 0}, "res=-#(#) operation=0(KEYCTL_GET_KEYRING_ID) arg2=0 arg3=0", ""},
	{"keyctl", []any{unix.KEYCTL_SEARCH, -1, "user", "warren:none", 0}, "res=-#(#) operation=10(KEYCTL_SEARCH) arg2=-1 arg3=user arg4=warren:none arg5=0", ""},
	{"keyctl", []any{99, 0}, "res=-#(#) operation=99 arg2=0", ""},
	{"add_key", []any{"warren_no", "description", 0, 0, -3}, "res=-#(#) key_type=warren_no description=description size=0 keyring=-3", ""},
	{"request_key", []any{"warren_no", "description", "callout", -3}, "res=-#(#) key_type=warren_no description=description callout_info=callout keyring=-3", ""},
	{"memfd_create", []any{"x", 0x8000}, "fd=-22(EINVAL) name=x flags=32768(0x8000)", "EINVAL"},
	{"userfaultfd", []any{unix.O_CLOEXEC | 1<<20}, "res=-#(#) flags=1572864(O_CLOEXEC|0x100000)", ""},
	{"dup", []any{-1}, "res=-9(EBADF) oldfd=-1", "EBADF"},
	{"dup2", []any{-1, 5}, "res=-9(EBADF) oldfd=-1 newfd=5", "EBADF"},
	{"dup3", []any{-1, 5, unix.O_CLOEXEC}, "res=-9(EBADF) oldfd=-1 newfd=5 flags=524288(O_CLOEXEC)", "EBADF"},
	{"fcntl", []any{-1, unix.F_GETFD, 0xabcd}, "res=-9(EBADF) fd=-1 cmd=1(F_GETFD) arg=ABCD", "EBADF"},
	{"io_uring_enter", []any{-1, 1, 0, 1, 0, 0}, "res=-#(#) fd=-1 to_submit=1 min_complete=0 flags=1(IORING_ENTER_GETEVENTS) sigset=NULL", ""},
	{"io_uring_register", []any{-1, 2, 0, 7}, "res=-#(#) fd=-1 opcode=2(IORING_REGISTER_FILES) arg=0 nr_args=7", ""},
	{"socket", []any{99, unix.SOCK_STREAM, 0}, "fd=-97(EAFNOSUPPORT) domain=99 type=1 proto=0 flags=0", "EAFNOSUPPORT"},
	{"socket", []any{unix.AF_UNIX, 77, 0}, "fd=-22(EINVAL) domain=1(AF_LOCAL|AF_UNIX) type=77 proto=0 flags=0", "EINVAL"},
	{"socketpair", []any{unix.AF_INET6, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0, 0}, "res=-#(#) fd1=NULL fd2=NULL domain=10(AF_INET6) type=524289 proto=0", ""},
	{"bind", []any{-1, []byte{unix.AF_INET, 0, 1, 187, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 16}, "res=-9(EBADF) addr=127.0.0.1:443 fd=-1", "EBADF"},
	{"bind", []any{-1, 0, 16}, "res=-9(EBADF) addr=NULL fd=-1", "EBADF"},
	{"sendmsg", []any{-1, 0, unix.MSG_NOSIGNAL}, "res=-9(EBADF) data=NULL fd=-1 tuple=NULL flags=16384(MSG_NOSIGNAL)", "EBADF"},
	{"recvmsg", []any{-1, 0, 0}, "res=-9(EBADF) data=NULL tuple=NULL fd=-1 flags=0", "EBADF"},
	{"sendmmsg", []any{-1, 0, 0, 0}, "res=-9(EBADF) fd=-1 data=NULL tuple=NULL flags=0", "EBADF"},
	{"recvmmsg", []any{-1, 0, 0, 0, 0}, "res=-9(EBADF) fd=-1 data=NULL tuple=NULL flags=0", "EBADF"},
	{"mknod", []any{"/nowhere/x", unix.S_IFCHR | 0o640, 0x103}, "res=-2(ENOENT) path=/nowhere/x mode=20640(S_IRGRP|S_IWUSR|S_IRUSR|S_IFCHR) dev=259", "ENOENT"},
	{"mknodat", []any{unix.AT_FDCWD, "/nowhere/x", unix.S_IFIFO | 0o4700, 0}, "res=-2(ENOENT) dirfd=-100(AT_FDCWD) path=/nowhere/x mode=14700(S_IXUSR|S_IWUSR|S_IRUSR|S_ISUID|S_IFIFO) dev=0", "ENOENT"},
	{"process_vm_writev", []any{1 << 22, 0, 0, 0, 0, 0}, "res=# pid=4194304 data=NULL", ""},
	{"perf_event_open", []any{make([]byte, 16), -1, -1, -1, 8}, "fd=-22(EINVAL) perf_type=0(PERF_TYPE_HARDWARE) config=0 pid=-1 cpu=-1 group_fd=-1 flags=8(PERF_FLAG_FD_CLOEXEC)", ""},
	{"io_uring_setup", []any{1 << 30, make([]byte, 120)}, "res=-#(#) entries=1073741824 sq_entries=0 cq_entries=0 flags=0 sq_thread_cpu=0 sq_thread_idle=0 features=0", ""},
}

// like says whether text is as want, in which # and @ stand for numbers or names.
func like(text, want string) bool {
	p := regexp.QuoteMeta(want)
	p = strings.ReplaceAll(p, "-#\\(#\\)", "-[0-9]+\\([A-Z0-9]+\\)")
	p = strings.ReplaceAll(p, "#", "-?[0-9]+(\\([A-Z]+\\))?")
	p = strings.ReplaceAll(p, "@", "[0-9A-F]+")
	return regexp.MustCompile("^" + p + "$").MatchString(text)
}

// TestBPFCalls makes every call there is.
func TestBPFCalls(t *testing.T) {
	w := start(t, bpf.Config{}, only(event.KindSyscall.Types()...))
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	tried, missing := map[string]bool{}, notHere(t, w.sensor)
	for _, tt := range harmless {
		tried[tt.name] = true
		if missing[tt.name] || event.LookupCall(tt.name).Number() == event.NoCall {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			e, errno := w.call(tt.name, tt.args...)
			d := e.Data.(*event.Syscall)
			if got := text(t, e, "evt.args"); !like(got, tt.want) {
				t.Errorf("evt.args\n got %s\nwant %s", got, tt.want)
			}
			if tt.res != "" && text(t, e, "evt.res") != tt.res {
				t.Errorf("evt.res %s, want %s", text(t, e, "evt.res"), tt.res)
			}
			if errno != 0 && (d.Res != event.Errno(errno) || d.RawRes != -int64(errno)) {
				t.Errorf("result %d %v, the caller was told %d", d.RawRes, d.Res, errno)
			}
			if len(d.Unreadable) > 0 || len(d.Truncated) > 0 {
				t.Errorf("unreadable %v, truncated %v", d.Unreadable, d.Truncated)
			}
		})
	}
	w.t = t
	for i := range event.Calls {
		if !tried[event.Calls[i].Name] {
			t.Errorf("no test of %s", event.Calls[i].Name)
		}
	}
}

// notHere returns the calls that this kernel was built without: those with modules
// and those with other kernels can be missing.
func notHere(t *testing.T, s *Sensor) map[string]bool {
	t.Helper()
	missing := map[string]bool{}
	for _, h := range s.Hooks() {
		name := strings.TrimPrefix(h.Hook, "syscall.")
		if h.Err == "" {
			continue
		}
		if !strings.HasSuffix(name, "_module") && !strings.HasPrefix(name, "kexec") {
			t.Errorf("%s: %s", h.Hook, h.Err)
		}
		missing[name] = true
	}
	return missing
}

// TestBPFCallsThatWork looks at what calls leave behind.
func TestBPFCallsThatWork(t *testing.T) {
	w := start(t, bpf.Config{}, only("prctl", "memfd_create", "socket", "socketpair", "dup", "fcntl", "sendmsg", "recvmsg", "io_uring_setup", "bpf", "perf_event_open"))
	check := func(e *event.Event, want string) {
		t.Helper()
		if got := text(t, e, "evt.args"); !like(got, want) {
			t.Errorf("evt.args\n got %s\nwant %s", got, want)
		}
	}
	closing := func(e *event.Event, errno unix.Errno) *event.Event {
		t.Helper()
		if errno != 0 {
			t.Fatal(errno)
		}
		fd := int(e.Data.(*event.Syscall).RawRes)
		t.Cleanup(func() { _ = unix.Close(fd) })
		return e
	}
	e, _ := w.call("prctl", unix.PR_GET_NAME, make([]byte, 16))
	check(e, "res=0 option=16(PR_GET_NAME) arg2_str="+text(t, e, "evt.arg.arg2_str"))
	if text(t, e, "evt.arg.arg2_str") == "" {
		t.Error("PR_GET_NAME says no name")
	}
	e, _ = w.call("prctl", unix.PR_GET_CHILD_SUBREAPER, make([]byte, 4))
	check(e, "res=0 option=37(PR_GET_CHILD_SUBREAPER) arg2_int=0")

	e = closing(w.call("memfd_create", "größe", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))
	memfd := int(number(t, e, "evt.arg.fd"))
	check(e, fmt.Sprintf("fd=%d name=größe flags=3(MFD_CLOEXEC|MFD_ALLOW_SEALING)", memfd))
	if text(t, e, "evt.arg[name]") != "größe" || text(t, e, "evt.arg[1]") != "größe" || number(t, e, "evt.rawarg.flags") != 3 || number(t, e, "fd.num") != int64(memfd) {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
	e = closing(w.call("dup", memfd))
	if text(t, e, "fd.name") != "memfd:größe" || text(t, e, "fd.type") != "memfd" || text(t, e, "fd.typechar") != "m" {
		t.Errorf("dup of a memfd: %s", event.AppendJSON(nil, e))
	}
	e = closing(w.call("fcntl", memfd, unix.F_DUPFD_CLOEXEC, 100))
	check(e, fmt.Sprintf("res=# fd=%d cmd=1030(F_DUPFD_CLOEXEC) arg=64", memfd))

	e = closing(w.call("socket", unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	check(e, "fd=# domain=2(AF_INET) type=524290 proto=0 flags=524288(O_CLOEXEC)")
	udp := int(e.Data.(*event.Syscall).RawRes)
	if err := unix.Connect(udp, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9}); err != nil {
		t.Fatal(err)
	}
	e = closing(w.call("dup", udp))
	if got := text(t, e, "fd.name"); !regexp.MustCompile(`^127\.0\.0\.1:\d+->127\.0\.0\.1:9$`).MatchString(got) ||
		text(t, e, "fd.type") != "ipv4" || text(t, e, "fd.l4proto") != "udp" || text(t, e, "fd.sockfamily") != "ip" || number(t, e, "fd.rport") != 9 {
		t.Errorf("dup of a socket: %s", event.AppendJSON(nil, e))
	}

	pair := make([]byte, 8)
	e, _ = w.call("socketpair", unix.AF_UNIX, unix.SOCK_DGRAM, 0, pair)
	fds := *(*[2]int32)(unsafe.Pointer(&pair[0]))
	t.Cleanup(func() { _ = unix.Close(int(fds[0])); _ = unix.Close(int(fds[1])) })
	check(e, fmt.Sprintf("res=0 fd1=%d fd2=%d domain=1(AF_LOCAL|AF_UNIX) type=2 proto=0", fds[0], fds[1]))
	e = closing(w.call("dup", int(fds[0])))
	if text(t, e, "fd.type") != "unix" || text(t, e, "fd.name") != "" || text(t, e, "fd.sockfamily") != "unix" {
		t.Errorf("dup of a Unix socket: %s", event.AppendJSON(nil, e))
	}
	long := append([]byte("hello\n\x00"), make([]byte, 93)...)
	iov := unix.Iovec{Base: &long[0], Len: 100}
	to := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: 0x0900, Addr: [4]byte{127, 0, 0, 1}}
	msg := unix.Msghdr{Iov: &iov, Iovlen: 1}
	e, errno := w.call("sendmsg", int(fds[0]), unsafe.Pointer(&msg), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	check(e, fmt.Sprintf("res=100 data=hello..%s fd=%d size=100 tuple=NULL flags=0", strings.Repeat(".", 73), fds[0]))
	if d := e.Data.(*event.Syscall); len(d.Truncated) != 1 || d.Truncated[0] != "data" {
		t.Errorf("truncated: %v", d.Truncated)
	}
	iov.Len = 3
	if e, errno = w.call("recvmsg", int(fds[1]), unsafe.Pointer(&msg), 0); errno != 0 {
		t.Fatal(errno)
	}
	check(e, fmt.Sprintf("res=3 size=3 data=hel tuple=NULL fd=%d flags=0", fds[1]))
	msg.Name, msg.Namelen = (*byte)(unsafe.Pointer(&to)), unix.SizeofSockaddrInet4
	if e, errno = w.call("sendmsg", udp, unsafe.Pointer(&msg), unix.MSG_DONTWAIT); errno != 0 && errno != unix.ECONNREFUSED {
		t.Fatal(errno)
	}
	if errno == 0 {
		check(e, fmt.Sprintf("res=3 data=hel fd=%d size=3 tuple=127.0.0.1:9 flags=64(MSG_DONTWAIT)", udp))
	}

	params := make([]byte, 120)
	if e, errno = w.call("io_uring_setup", 3, params); errno == 0 {
		closing(e, 0)
		if got := text(t, e, "evt.args"); !regexp.MustCompile(`^res=\d+ entries=3 sq_entries=4 cq_entries=8 flags=0 sq_thread_cpu=0 sq_thread_idle=0 features=\d+\(IORING_FEAT_SINGLE_MMAP\|.*\)$`).MatchString(got) {
			t.Error(got)
		}
	}
	attr := make([]byte, 72)
	attr[0], attr[4], attr[8], attr[12] = 2, 4, 4, 1 // BPF_MAP_TYPE_ARRAY of one number
	copy(attr[28:], "warren_test")
	e = closing(w.call("bpf", unix.BPF_MAP_CREATE, attr, len(attr)))
	check(e, "fd=# cmd=0(BPF_MAP_CREATE) map_type=2(BPF_MAP_TYPE_ARRAY) map_name=warren_test size=72")
}

// TestBPFUnreadable: what the caller points at can be nothing at all.
func TestBPFUnreadable(t *testing.T) {
	w := start(t, bpf.Config{}, only("chroot", "pivot_root"))
	e, errno := w.call("chroot", 0x10)
	if d := e.Data.(*event.Syscall); errno != unix.EFAULT || d.Res != event.Errno(unix.EFAULT) || strings.Join(d.Unreadable, ",") != "path" || text(t, e, "evt.args") != "res=-14(EFAULT) path=NULL" {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
	if s, ok := mustField(t, "evt.arg.path").Str(e, 0); ok {
		t.Errorf("path %q", s)
	}
	e, _ = w.call("pivot_root", "/", 0x10)
	if d := e.Data.(*event.Syscall); text(t, e, "evt.arg.new_root") != "/" || strings.Join(d.Unreadable, ",") != "put_old" {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
	long := strings.Repeat("/abcdefg", 600)
	e, _ = w.call("chroot", long)
	if d := e.Data.(*event.Syscall); text(t, e, "evt.arg.path") != long[:4095] || strings.Join(d.Truncated, ",") != "path" || d.Res != event.Errno(unix.ENAMETOOLONG) {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
	exact := strings.Repeat("/abcdefg", 511) + "/abcdef" // with its end, 4096 bytes
	e, _ = w.call("chroot", exact)
	if d := e.Data.(*event.Syscall); text(t, e, "evt.arg.path") != exact || len(d.Truncated) > 0 {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
	e, _ = w.call("chroot", "/not\xffutf8\n")
	if text(t, e, "evt.arg.path") != "/not\xffutf8\n" || !strings.Contains(string(event.AppendJSON(nil, e)), `"evt.arg.path;base64"`) {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
}

func mustField(t testing.TB, name string) *event.Field {
	t.Helper()
	f, ok := event.Lookup(name)
	if !ok {
		t.Fatalf("no field %s", name)
	}
	return f
}

// TestBPFOnDemand: hooks follow what is wanted, and nothing else is told.
func TestBPFOnDemand(t *testing.T) {
	w := start(t, bpf.Config{}, only("kill"))
	hooks := func() string {
		var names []string
		for _, h := range w.sensor.Hooks() {
			if h.Rung != "" {
				names = append(names, h.Hook)
			}
		}
		return strings.Join(names, " ")
	}
	if hooks() != "syscall.kill" {
		t.Errorf("hooks %s", hooks())
	}
	w.call("kill", 1<<22, 0)
	if err := w.sensor.Start(only("kill", "dup", "personality"), w.add); err != nil {
		t.Fatal(err)
	}
	if hooks() != "syscall.kill syscall.personality syscall.dup" {
		t.Errorf("hooks %s", hooks())
	}
	w.call("kill", 1<<22, 0)
	w.call("dup", -1)
	if err := w.sensor.Start(only("personality"), w.add); err != nil {
		t.Fatal(err)
	}
	before := len(w.of(os.Getpid(), "dup"))
	_, _ = unix.Dup(-1)
	w.call("personality", 0xffffffff)
	if after := len(w.of(os.Getpid(), "dup")); after != before {
		t.Errorf("%d events that nobody wants", after-before)
	}
	if err := w.sensor.Start(interest.Set{}, w.add); err != nil {
		t.Fatal(err)
	}
	if hooks() != "" {
		t.Errorf("hooks %s", hooks())
	}
}
