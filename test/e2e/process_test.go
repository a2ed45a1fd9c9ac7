package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

// unique is a word that no other process of the machine has in its arguments.
func unique(t *testing.T) string {
	return fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(t.Name(), "/", "-"), os.Getpid(), instances.Add(1))
}

// shell runs a command of the shell; its end is the test's business.
func shell(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script}, args...)...)
	return cmd
}

func TestE2EStartAndStop(t *testing.T) {
	a := start(t, options{http: "127.0.0.1:0"})
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{unix.ByteSliceToString(name.Release[:]), "process", "socket", a.socket, "127.0.0.1:"} {
		// It may answer before it has reported.
		testkit.Wait(t, fmt.Sprintf("a start-up report that says %q", piece), func() bool { return strings.Contains(a.out.String(), piece) })
	}
	if err := a.end(syscall.SIGTERM); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	if _, err := os.Stat(a.socket); err == nil {
		t.Error("the socket is left")
	}
}

func TestE2EExecAndExit(t *testing.T) {
	a := start(t, options{})
	word := unique(t)
	f := a.follow("evt.type in (execve, procexit) and proc.cmdline contains " + word)
	cmd := shell(t, "exit 7", word, "two words")
	cmd.Dir = "/usr"
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		t.Fatalf("the shell ended with %v", err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	shellPath := readlink(t, "/bin/sh")
	exec := f.wait("exec of "+pid, func(o object) bool { return o.str("proc.pid") == pid && o.str("evt.kind") == "exec" })
	want(t, exec, map[string]string{
		"evt.type": "execve", "evt.res": "SUCCESS", "proc.exepath": shellPath, "proc.name": "sh", "proc.exe": "/bin/sh",
		"proc.cwd": "/usr", "proc.ppid": strconv.Itoa(os.Getpid()), "user.uid": "0", "user.name": "root",
	})
	if got := fmt.Sprint(exec["proc.argv"]); got != fmt.Sprintf("[/bin/sh -c exit 7 %s two words]", word) && !strings.Contains(exec.str("proc.cmdline"), "two words") {
		t.Errorf("arguments: %v", exec)
	}
	exit := f.wait("exit of "+pid, func(o object) bool { return o.str("proc.pid") == pid && o.str("evt.kind") == "exit" })
	want(t, exit, map[string]string{"evt.type": "procexit", "exit.code": "7", "proc.exepath": shellPath, "exit.signal": ""})

	// One that is killed.
	cmd = shell(t, "kill -9 $$", word)
	_ = cmd.Run()
	pid = strconv.Itoa(cmd.Process.Pid)
	exit = f.wait("exit of "+pid, func(o object) bool { return o.str("proc.pid") == pid && o.str("evt.kind") == "exit" })
	if s := exit.str("exit.signal"); s != "9" && !strings.Contains(s, "KILL") {
		t.Errorf("exit.signal is %q: %v", s, exit)
	}
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return real
}

// TestE2EKeysAreFields wants each key of JSON to be a field that `warren fields`
// describes.
func TestE2EKeysAreFields(t *testing.T) {
	a := start(t, options{})
	known := map[string]bool{}
	for _, o := range a.objects("fields") {
		known[o.str("name")] = true
	}
	if len(known) < 100 {
		t.Fatalf("warren fields has %d", len(known))
	}
	f := a.follow("proc.name != nothing or evt.kind = dns")
	if err := shell(t, "true; true").Run(); err != nil {
		t.Fatal(err)
	}
	f.wait("an exit", func(o object) bool { return o.str("evt.kind") == "exit" })
	all := append(f.all(), a.objects("process", "list", "--exited", "--kernel")...)
	all = append(all, a.objects("connection", "list")...)
	element := regexp.MustCompile(`\[.*\]$`)
	for _, o := range all {
		for key := range o {
			if name := element.ReplaceAllString(strings.TrimSuffix(key, ";base64"), ""); !known[name] {
				t.Errorf("key %q is no field", key)
				known[name] = true // once
			}
		}
	}
}

func TestE2EFilterMistakes(t *testing.T) {
	a := start(t, options{})
	for _, command := range [][]string{{"events"}, {"process", "list"}, {"connection", "list"}} {
		r := a.warren(append(command, "proc.name = x and fd.nmae = y")...)
		lines := strings.Split(r.stderr, "\n")
		if r.code == 0 || !strings.Contains(r.stderr, "no field fd.nmae; did you mean fd.name?") {
			t.Errorf("%v: exit code %d: %s", command, r.code, r.stderr)
		}
		caret := false
		for i, line := range lines {
			if i > 0 && strings.HasPrefix(strings.TrimSpace(line), "^") {
				caret = strings.Index(lines[i-1], "fd.nmae") == strings.Index(line, "^")
			}
		}
		if !caret {
			t.Errorf("%v: no caret under the field:\n%s", command, r.stderr)
		}
	}
}

func TestE2EProcessTreeAndShow(t *testing.T) {
	// The process is older than the agent: the first answer knows it.
	word := unique(t)
	parent := shell(t, "exec 3<&0; /bin/sh -c 'read line; exit 3' "+word+" <&3 & /bin/sleep 600 & wait", word)
	parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(-parent.Process.Pid, unix.SIGKILL); _ = parent.Wait() }()
	defer func() { _ = stdin.Close() }()
	pid := strconv.Itoa(parent.Process.Pid)
	testkit.Wait(t, "two children", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%s/children", pid, pid))
		return err == nil && len(strings.Fields(string(b))) == 2
	})
	a := start(t, options{})
	tree := a.ok("process", "tree", pid)
	for _, piece := range []string{word, "/bin/sleep 600", pid} {
		if !strings.Contains(tree, piece) {
			t.Errorf("the tree lacks %q:\n%s", piece, tree)
		}
	}
	list := a.objects("process", "list", "proc.pid = "+pid)
	if len(list) != 1 {
		t.Fatalf("process list has %d of pid %s", len(list), pid)
	}
	want(t, list[0], map[string]string{"proc.exepath": readlink(t, "/bin/sh"), "proc.ppid": strconv.Itoa(os.Getpid())})
	show := a.ok("process", "show", pid)
	for _, piece := range []string{readlink(t, "/bin/sh"), word, "root"} {
		if !strings.Contains(show, piece) {
			t.Errorf("show lacks %q:\n%s", piece, show)
		}
	}
	if again := a.ok("process", "show", list[0].str("proc.exec_id")); !strings.Contains(again, word) {
		t.Errorf("show by exec id:\n%s", again)
	}
	if r := a.warren("process", "show", "4194304"); r.code == 0 || !strings.Contains(r.stderr, "4194304") {
		t.Errorf("show of a process that is not: exit code %d: %s", r.code, r.stderr)
	}

	// It ends; the tree remembers how.
	sleep := a.objects("process", "list", "proc.ppid = "+pid+" and proc.name = sleep")
	if len(sleep) != 1 {
		t.Fatalf("process list has %d sleeps", len(sleep))
	}
	sleepPID, err := strconv.Atoi(sleep[0].str("proc.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(sleepPID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the tree to tell of SIGTERM", func() bool {
		return strings.Contains(a.ok("process", "tree", pid), "SIGTERM")
	})
}

// TestE2EExistingSockets wants what was there before the agent in its first
// answer.
func TestE2EExistingSockets(t *testing.T) {
	helper := testkit.Command(t, "hold")
	stdin, err := helper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = helper.Wait() }()
	port, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port = strings.TrimSpace(port)
	a := start(t, options{})
	pid := strconv.Itoa(helper.Process.Pid)
	connections := a.objects("connection", "list", "fd.lport = "+port+" or fd.rport = "+port)
	states := map[string]int{}
	for _, c := range connections {
		want(t, c, map[string]string{"proc.pid": pid, "proc.exepath": readlink(t, "/proc/self/exe")})
		states[c.str("conn.state")]++
	}
	if len(connections) != 3 || len(states) != 2 {
		t.Errorf("want a listening socket and both ends of a connection, got %v", connections)
	}
}

// TestE2EHostileText runs a program whose name and arguments would harm a
// terminal and are not UTF-8.
func TestE2EHostileText(t *testing.T) {
	a := start(t, options{})
	dir := t.TempDir() + "/\xffdir\n\x1b[31m"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := dir + "/\xfe\x1b]0;owned\x07"
	if err := os.Symlink("/bin/true", path); err != nil {
		t.Fatal(err)
	}
	word := unique(t)
	f := a.follow("proc.cmdline contains " + word)
	cmd := exec.CommandContext(t.Context(), path, word, "\xff\xfe\u202e\n\r\x1b[2J")
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	o := f.wait("the exec", func(o object) bool { return o.str("proc.pid") == pid && o.str("evt.kind") == "exec" })
	if o["proc.cmdline;base64"] == nil || o["proc.cwd;base64"] == nil {
		t.Errorf("no exact bytes of what is not UTF-8: %v", o)
	}
	f.wait("the exit", func(o object) bool { return o.str("proc.pid") == pid && o.str("evt.kind") == "exit" })
	for _, args := range [][]string{
		{"process", "list", "--exited"}, {"process", "list", "--exited", "-o", "wide"}, {"process", "tree"},
		{"process", "show", pid}, {"process", "list", "--exited", "-o", "json"},
	} {
		out := a.ok(args...)
		if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && (r < ' ' || r == 0x7f || r == 0x202e) }); i >= 0 {
			t.Errorf("warren %v prints %q", args, out[max(0, i-20):min(len(out), i+20)])
		}
	}
	if out := a.ok("process", "list", "--exited"); !strings.Contains(out, word) {
		t.Error("the process is not listed")
	}
}
