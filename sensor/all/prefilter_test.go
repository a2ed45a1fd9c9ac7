package all

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/filter"
	"warren/interest"
	"warren/internal/testkit"
	"warren/sensor"
	"warren/sensor/file"
	"warren/test/roadtest"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{"office": helperOffice, "canary": helperCanary, "flood": helperFlood, "who": helperWho})
}

// listed are filters as people write them, the conditions of Falco's rules among
// them: macros spelt out, and without what no file can tell.
var listed = []string{
	// What is asked most.
	"evt.type in (open, openat, creat) and fd.name startswith /etc and evt.is_open_write = true",
	"evt.type = openat and fd.name = /etc/shadow",
	"evt.kind = open and fd.name in (/etc/shadow, /etc/sudoers, /etc/pam.conf, /etc/security/pwquality.conf)",
	"evt.type in (open, openat, openat2) and evt.is_open_read = true and (fd.name in (/etc/shadow, /etc/sudoers) or fd.directory in (/etc/sudoers.d, /etc/pam.d)) and not proc.name in (sshd, sudo, su)",
	"evt.type in (open, openat, openat2) and evt.is_open_write = true and fd.directory in (/bin, /sbin, /usr/bin, /usr/sbin)",
	"evt.type in (open, openat, openat2) and evt.is_open_write = true and fd.name pmatch (/bin, /sbin, /usr/bin, /usr/sbin, /usr/local/bin)",
	"evt.kind = open and evt.is_open_write = true and (fd.name startswith /root/.ssh or fd.name pmatch (/home/*/.ssh))",
	"evt.kind = open and fd.filename in (id_rsa, id_dsa, id_ed25519, authorized_keys)",
	"evt.kind = open and fd.name endswith .bash_history and evt.is_open_write = true",
	"evt.kind = open and fd.name endswith release_agent and evt.is_open_write = true",
	"evt.kind = open and fd.name startswith /var/log and evt.arg.flags contains O_TRUNC",
	"evt.kind = open and evt.res = EACCES",
	"evt.kind = open and evt.rawres < 0 and user.uid = 1000",
	"evt.kind = open and not evt.res = SUCCESS and not evt.res = ENOENT",
	"evt.kind = open and evt.is_open_create = true and fd.name startswith /tmp",
	"evt.kind = open and evt.is_open_create = true and evt.is_open_exec = true",
	"evt.type = openat2",
	"evt.type = creat or evt.type = open_by_handle_at",
	"evt.kind = open and user.uid != 0 and user.uid = 1000 and fd.name startswith /etc/s",
	"evt.kind = open and fd.name glob /etc/cron.*",
	"evt.kind = open and fd.name glob '*.conf' and evt.is_open_write = true",
	"evt.kind = open and (fd.name startswith /dev/sd or fd.name startswith /dev/nvme)",
	"evt.kind = open and fd.name = /var/run/docker.sock",
	"evt.kind = open and fd.directory startswith /etc/ssh and evt.is_open_write = true",
	"evt.kind = open and fd.name pmatch (/etc/systemd, /lib/systemd, /usr/lib/systemd) and evt.is_open_write = true",
	"evt.kind = open and fd.name in (/root/.aws/credentials, /root/.kube/config, /root/.docker/config.json)",
	"evt.kind = open and fd.name startswith /proc/ and fd.filename = environ",
	"fs.path.name = /etc/hosts and evt.is_open_write = true",
	"evt.kind = open and evt.is_open_write = true and fd.name startswith /lib/modules and not fd.name endswith .tmp",
	"evt.kind = open and ((fd.name startswith /etc/ld.so and evt.is_open_write = true) or (fd.name endswith .so and evt.is_open_create = true))",
	"evt.kind = open and fd.name regex '/srv/data/7[0-9]' or evt.type = openat and fd.name = /srv/data/1",
	"evt.kind = open and (fd.nameraw contains '../' or fd.name startswith /etc/s or fd.name startswith /home/ and user.uid = 1000)",
	"evt.kind = open and evt.is_open_read = true and (fd.name startswith /etc/ or fd.name contains id_rsa) and fd.nameraw contains '../' and fd.nameraw glob '*../*../*'",
}

// undecided are those of listed of which the kernel can decide nothing but the
// type: they are accepted, and cost what they cost.
var undecided = map[string]bool{
	listed[30]: true,
}

// office is a tree of files in which the programs of the test live.
var office = []string{
	"etc/shadow", "etc/sudoers", "etc/pam.d/sshd", "etc/hosts", "etc/ssh/sshd_config", "etc/cron.d/backup", "etc/cron.daily/x", "etc/ld.so.preload", "etc/nginx/nginx.conf",
	"etc/systemd/system/x.service", "root/.ssh/id_rsa", "root/.ssh/authorized_keys", "root/.bash_history", "root/.aws/credentials", "root/.kube/config", "home/u/.ssh/id_ed25519",
	"home/u/.bash_history", "usr/bin/curl", "usr/sbin/x", "usr/local/bin/tool", "usr/lib/systemd/system/y.service", "lib/modules/6/x.ko", "var/log/syslog", "var/log/nginx/access.log",
	"var/run/docker.sock", "dev/sda", "dev/nvme0", "proc/1/environ", "proc/1/status", "sys/fs/cgroup/release_agent", "srv/app/app.conf", "srv/app/lib.so",
}

// noise is how many opens of what nobody asks for there are for each that
// somebody may.
const noise = 1500

// begin is a file that is opened first: what comes before is the runtime's, and
// not yet the user's.
const begin = "/srv/begin"

// helperOffice DIR UID opens files in a tree, as a user: every call succeeds or
// fails as it did the time before.
func helperOffice(args []string) int {
	uid, err := strconv.Atoi(args[1])
	if err == nil {
		err = unix.Chroot(args[0])
	}
	if err == nil {
		err = os.Chdir("/")
	}
	if err == nil {
		err = syscall.Setuid(uid)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	open := func(path string, flags, mode int) {
		if fd, err := unix.Open(path, flags, uint32(mode)); err == nil {
			_ = unix.Close(fd)
		}
	}
	open(begin, unix.O_RDONLY, 0)
	for i := range noise {
		open(fmt.Sprintf("/srv/data/%d", i%500), unix.O_RDONLY, 0)
	}
	for _, name := range office {
		path := "/" + name
		open(path, unix.O_RDONLY, 0)
		open(path, unix.O_WRONLY, 0)
		open(path, unix.O_RDWR|unix.O_TRUNC, 0)
		open(path+".tmp", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
		_ = unix.Unlink(path + ".tmp")
		if fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_RDONLY}); err == nil {
			_ = unix.Close(fd)
		}
	}
	open("/etc/pam.d/../../etc/hosts", unix.O_RDONLY, 0)
	open("/etc/"+strings.Repeat("./", 50)+"pam.d/../../etc/hosts", unix.O_RDONLY, 0)
	open("/tmp/new.sh", unix.O_RDWR|unix.O_CREAT, 0o755)
	_ = unix.Unlink("/tmp/new.sh")
	open("/tmp/new.so", unix.O_RDWR|unix.O_CREAT, 0o600)
	_ = unix.Unlink("/tmp/new.so")
	if p, err := unix.BytePtrFromString("/tmp/made"); err == nil && runtime.GOARCH == "amd64" {
		fd, _, errno := unix.Syscall(85, uintptr(unsafe.Pointer(p)), 0o600, 0) // creat(2)
		if errno == 0 {
			_ = unix.Close(int(fd))
		}
		_ = unix.Unlink("/tmp/made")
	}
	return 0
}

// newOffice makes the tree.
func newOffice(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for at := dir; at != "/"; at = filepath.Dir(at) { // the other user passes through
		if err := os.Chmod(at, 0o755); err != nil && at == dir {
			t.Fatal(err)
		}
		if at == os.TempDir() {
			break
		}
	}
	make := func(name string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append(office, begin) {
		mode := os.FileMode(0o640)
		if name == begin {
			mode = 0o644
		}
		make(name, mode)
	}
	for i := range 500 {
		make(fmt.Sprintf("srv/data/%d", i), 0o644)
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A desk is a file sensor that sees one cgroup, and what it has told.
type desk struct {
	t      *testing.T
	cgroup *testkit.Cgroup
	road   *bpf.Road
	sensor sensor.Sensor

	mu     sync.Mutex
	events []*event.Event
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	testkit.NeedRoot(t)
	d := &desk{t: t, cgroup: testkit.NewCgroup(t, "office")}
	var end func(testing.TB)
	d.road, end = roadtest.Run(t, bpf.Config{CgroupRoot: d.cgroup.Path})
	d.sensor = file.New(d.road, file.Config{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(func() {
		if err := d.sensor.Stop(); err != nil {
			t.Error(err)
		}
		end(t)
	})
	return d
}

func (d *desk) start(want interest.Interest) {
	d.t.Helper()
	if err := d.sensor.Start(interest.Union(interest.Holder{Name: d.t.Name(), Interest: want}), d.add); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) add(e *event.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

// take returns what was told since the last call, and how many records the
// kernel made for it.
func (d *desk) take() []*event.Event {
	d.t.Helper()
	if err := d.road.Sync(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	events := d.events
	d.events = nil
	return events
}

// submitted returns how many records of files the kernel has made, and lost.
func (d *desk) submitted() (made, lost uint64) {
	for _, c := range d.road.Counters() {
		if strings.HasPrefix(c.Name, "file.") {
			made += c.Submitted
			lost += c.Lost
		}
	}
	return made, lost
}

// work has two users open files, and returns the events with their processes.
func (d *desk) work(dir string) []*event.Event {
	d.t.Helper()
	users, begun := map[uint32]uint32{}, map[uint32]bool{}
	for _, uid := range []uint32{0, 1000} {
		cmd := testkit.Command(d.t, "office", dir, strconv.Itoa(int(uid)))
		cmd.Stderr = os.Stderr
		d.cgroup.Start(d.t, cmd)
		if err := cmd.Wait(); err != nil {
			d.t.Fatal(err)
		}
		users[uint32(cmd.Process.Pid)] = uid
	}
	var out []*event.Event
	for _, e := range d.take() {
		uid, ok := users[e.Actor.PID]
		if o, is := e.Data.(*event.Open); is && o.Name == begin {
			begun[e.Actor.PID] = true
			continue
		}
		if !ok || !begun[e.Actor.PID] {
			continue
		}
		copied := *e
		copied.Process = &event.Process{Key: e.Actor, PID: e.Actor.PID, Name: "office", Creds: event.Creds{UID: uid}}
		out = append(out, &copied)
	}
	return out
}

// TestBPFPrefilter has files opened under each of the listed filters, and counts
// what left the kernel: all that the filter accepts, and little beside.
func TestBPFPrefilter(t *testing.T) {
	dir := newOffice(t)
	d := newDesk(t)
	d.start(interest.Of(d.sensor.Kinds()))
	first := interest.Term{Kinds: event.Kinds(event.KindOpen), Types: []string{"openat"}, Outcome: interest.Succeeded, Paths: []interest.Path{{Op: interest.Exact, Text: begin}}}
	everything := d.work(dir)
	if len(everything) < 2*noise {
		t.Fatalf("%d events of %d opens", len(everything), 2*noise)
	}
	if len(listed) < 30 {
		t.Errorf("%d filters", len(listed))
	}
	for _, expr := range listed {
		p, err := filter.Compile(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		want := 0
		for _, e := range everything {
			if p.Match(e) {
				want++
			}
		}
		d.start(interest.Interest{Terms: append(p.Interest().Terms, first)})
		made, _ := d.submitted()
		d.take()
		told := d.work(dir)
		now, _ := d.submitted()
		got := 0
		for _, e := range told {
			if p.Match(e) {
				got++
			}
		}
		left := int(now-made) - 2 // of both users the first
		t.Logf("%5d of %d left the kernel, %4d wanted: %s", left, len(everything), got, expr)
		switch {
		case got != want:
			t.Errorf("%s: %d events, want %d", expr, got, want)
		case want == 0:
			t.Errorf("%s: accepts nothing that is tried here", expr)
		case undecided[expr] != (left >= len(everything)*9/10):
			t.Errorf("%s: %d of %d records left the kernel", expr, left, len(everything))
		}
		if explained := len(p.Explain().Warnings) > 0; explained != undecided[expr] {
			t.Errorf("%s: warnings %q", expr, p.Explain().Warnings)
		}
	}
}

// helperCanary DIR N opens a file n times.
func helperCanary(args []string) int { return openOften(args, "/etc/shadow") }

// helperFlood DIR N opens another file n times.
func helperFlood(args []string) int { return openOften(args, "/srv/data/1") }

func openOften(args []string, name string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 2
	}
	for range n {
		fd, err := unix.Open(args[0]+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		_ = unix.Close(fd)
	}
	return 0
}

// TestBPFPrefilterChange changes what is wanted while files are opened: what
// every set wants is told, each time it happens.
func TestBPFPrefilterChange(t *testing.T) {
	const opens = 5_000
	dir := newOffice(t)
	d := newDesk(t)
	canary := interest.Holder{Name: "canary", Interest: interest.Interest{Terms: []interest.Term{
		{Kinds: event.Kinds(event.KindOpen), Paths: []interest.Path{{Op: interest.Exact, Text: dir + "/etc/shadow"}}}}}}
	set := func(i int) interest.Set {
		var paths []interest.Path
		for j := range i % 7 * 10 {
			paths = append(paths, interest.Path{Op: interest.PathOp(1 + (i+j)%4), Text: fmt.Sprintf("%s/etc/%d/%d", dir, i, j)})
		}
		others := interest.Interest{Terms: []interest.Term{
			{Kinds: event.Kinds(event.KindOpen), UIDs: []uint32{uint32(4711 + i)}, Paths: append(paths, interest.Path{Op: interest.Exact, Text: "/x"})}}}
		switch i % 3 {
		case 1:
			return interest.Union(interest.Holder{Name: "others", Interest: others}, canary)
		case 2: // the same by another term
			return interest.Union(interest.Holder{Name: "below", Interest: interest.Interest{Terms: []interest.Term{
				{Kinds: event.Kinds(event.KindOpen), Outcome: interest.Succeeded, Paths: []interest.Path{{Op: interest.Under, Text: dir + "/etc"}}}}}})
		}
		return interest.Union(canary)
	}
	if err := d.sensor.Start(set(0), d.add); err != nil {
		t.Fatal(err)
	}
	var rounds atomic.Int64
	enough, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-enough:
				return
			default:
			}
			var both sync.WaitGroup
			for _, name := range []string{"canary", "flood"} {
				cmd := testkit.Command(t, name, dir, strconv.Itoa(opens))
				cmd.Stderr = os.Stderr
				d.cgroup.Start(t, cmd)
				both.Go(func() {
					if err := cmd.Wait(); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			rounds.Add(1)
		}
	}()
	const changes = 40
	for i := range changes {
		if err := d.sensor.Start(set(i), d.add); err != nil {
			t.Error(err)
			break
		}
	}
	close(enough)
	<-over
	got, others := 0, 0
	for _, e := range d.take() {
		switch o, ok := e.Data.(*event.Open); {
		case ok && o.Name == dir+"/etc/shadow":
			got++
		case ok && o.Name == dir+"/srv/data/1":
			others++
		}
	}
	_, lost := d.submitted()
	want := uint64(rounds.Load()) * opens
	t.Logf("%d changes under %d opens of either file", changes, want)
	if uint64(got)+lost != want || others != 0 || want == 0 {
		t.Errorf("%d of %d canaries told, %d lost in a full ring, %d others", got, want, lost, others)
	}
}
