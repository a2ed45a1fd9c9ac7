package prefilter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/cluster"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// A rig is the test's programs in the kernel, with an engine.
type rig struct {
	obj    *bpf.Object
	engine *Engine
	ask    *ebpf.Program
	works  Workloads
	mine   event.CgroupKey // of this process
	pidfd  int32           // also
	execID uint64
}

// testTypes are types by number, with numbers that stand for none.
var testTypes = []Type{
	{}, {event.KindOpen, "open"}, {event.KindOpen, "openat"}, {event.KindOpen, "creat"}, {},
	{event.KindFile, "unlink"}, {event.KindFile, "rename"}, {event.KindFileClose, "close"}, {event.KindExec, "execve"},
	{event.KindConnection, "connect"},
}

func newRig(t testing.TB) *rig {
	t.Helper()
	road, err := bpf.NewRoad(bpf.Config{Unmeasured: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = road.Close() })
	spec, err := loadPrefilter()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	if r.obj, err = road.Open("prefilter", spec); err != nil {
		t.Fatal(err)
	}
	if r.engine, err = New(r.obj, Config{Types: testTypes, Workloads: &r.works}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.engine.Close)
	if r.ask, err = r.obj.Program("prefilter_ask"); err != nil {
		if v := (*ebpf.VerifierError)(nil); errors.As(err, &v) {
			t.Logf("%+v", v)
		}
		t.Fatal(err)
	}
	r.wanted(t)
	var mine prefilterCgroupKey
	if err := r.obj.Variable("mine").Get(&mine); err != nil {
		t.Fatal(err)
	}
	r.mine = event.CgroupKey{ID: mine.Id, Hierarchy: mine.Hierarchy}
	if err := r.obj.Variable("exec_id").Get(&r.execID); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	r.pidfd = int32(fd)
	return r
}

// execute says what this process executes, as the process sensor does. It is the
// road's map: other tests have others.
func (r *rig) execute(t testing.TB, path, name string) {
	t.Helper()
	e := prefilterExe{ExecId: r.execID}
	bits := func(to []uint8, text string) uint32 {
		n := copy(to, text+"\x00")
		return uint32(8 * n)
	}
	e.PathBits = bits(e.Path[:], path)
	e.CommBits = bits(e.Comm[:], name)
	r.told(t, e)
}

func (r *rig) told(t testing.TB, e prefilterExe) {
	t.Helper()
	if err := r.obj.Map("exes").Put(r.pidfd, e); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) apply(t testing.TB, terms ...interest.Term) {
	t.Helper()
	if err := r.engine.Apply(interest.Union(interest.Holder{Name: "test", Interest: interest.Interest{Terms: terms}})); err != nil {
		t.Fatal(err)
	}
}

// put describes an event to the programs.
func (r *rig) put(t testing.TB, typ uint32, open interest.OpenMask, failed bool, ino, dev uint64, raw string, names ...string) {
	t.Helper()
	r.putWith(t, func(*prefilterQuestion) {}, typ, open, failed, ino, dev, raw, names...)
}

// putWith is put of what more says.
func (r *rig) putWith(t testing.TB, more func(*prefilterQuestion), typ uint32, open interest.OpenMask, failed bool, ino, dev uint64, raw string, names ...string) {
	t.Helper()
	q := prefilterQuestion{Type: typ, Open: uint32(open), Ino: ino, Dev: dev, Count: uint32(len(names)), RawLen: uint32(len(raw))}
	for i := range min(len(raw), len(q.Raw)) {
		q.Raw[i] = int8(raw[i])
	}
	if failed {
		q.Failed = 1
	}
	// What stands beside a name in memory is nobody's business.
	for i := range q.Text {
		for j := range q.Text[i] {
			q.Text[i][j], q.Back[i][j] = '/', 'x'
		}
	}
	for i, name := range names {
		q.Len[i] = uint32(len(name))
		for j := range min(len(name), len(q.Text[i])) {
			q.Text[i][j] = int8(name[j])
			q.Back[i][len(q.Back[i])-1-j] = int8(name[len(name)-1-j])
		}
	}
	more(&q)
	if err := r.obj.Variable("question_now").Set(q); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) wanted(t testing.TB) bool {
	t.Helper()
	if _, err := r.ask.Run(&ebpf.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	var got uint32
	if err := r.obj.Variable("wanted").Get(&got); err != nil {
		t.Fatal(err)
	}
	return got != 0
}

// TestLayout: what Go writes is what the programs read.
func TestLayout(t *testing.T) {
	ours, theirs := reflect.TypeFor[table](), reflect.TypeFor[prefilterInterestTable]()
	if ours.Size() != theirs.Size() {
		t.Fatalf("%d bytes, want %d", ours.Size(), theirs.Size())
	}
	for i := range ours.NumField() {
		f := ours.Field(i)
		g, ok := theirs.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, f.Name) })
		if f.Name != "_" && (!ok || f.Offset != g.Offset || f.Type.Size() != g.Type.Size()) {
			t.Errorf("%s at %d", f.Name, f.Offset)
		}
	}
	for name, size := range map[string]uintptr{
		"uids": reflect.TypeFor[prefilterInterestUid]().Size(), "inodes": reflect.TypeFor[prefilterInterestInode]().Size(), "texts": reflect.TypeFor[prefilterInterestText]().Size(),
		"cgroups": reflect.TypeFor[prefilterInterestCgroup]().Size(), "ports": reflect.TypeFor[prefilterInterestPort]().Size(), "nets": reflect.TypeFor[prefilterInterestNet]().Size(),
		"exes": reflect.TypeFor[prefilterInterestExe]().Size(), "comms": reflect.TypeFor[prefilterInterestComm]().Size(),
	} {
		got := map[string]int{"uids": 8, "inodes": 24, "texts": 8 + maxText, "cgroups": len(placeKey(event.CgroupKey{}, 0)), "ports": 8, "nets": 8 + 16, "exes": 4 + maxText, "comms": 4 + maxName}
		if uintptr(got[name]) != size {
			t.Errorf("key of %s: %d bytes, want %d", name, got[name], size)
		}
	}
}

// TestBPFEngine asks the kernel of random events for random interests, and
// compares with what interests mean.
func TestBPFEngine(t *testing.T) {
	r := newRig(t)
	rnd := rand.New(rand.NewPCG(7, 8))
	yes, all, loose := 0, 0, 0
	for set := range 150 {
		terms := make([]interest.Term, 1+rnd.IntN(12))
		if set%10 == 0 {
			terms = make([]interest.Term, 300) // more than there are bits
		}
		for i := range terms {
			terms[i] = someTerm(rnd)
		}
		r.apply(t, terms...)
		exact := len(r.engine.Status().Widened) == 0
		want := interest.Interest{Terms: terms}
		for range 60 {
			e, typ := someEvent(rnd)
			open, failed, ino, dev, raw, names := describe(e)
			r.putWith(t, func(q *prefilterQuestion) { ends(q, e) }, typ, open, failed, ino, dev, raw, names...)
			// Of some cgroups nothing is known yet: whoever asks for containers gets it all.
			unknown := rnd.IntN(4) == 0
			if r.works.Doubt(r.mine); !unknown {
				r.works.Know(r.mine, e.Process.Container)
			}
			// Of some processes nothing was told.
			untold := rnd.IntN(5) == 0
			if r.execute(t, e.Process.ExePath, e.Process.Name); untold {
				r.told(t, [...]prefilterExe{{}, {ExecId: r.execID}, {ExecId: r.execID + 1, PathBits: 8, CommBits: 8}}[rnd.IntN(3)])
			}
			got, may := r.wanted(t), want.Match(e)
			exact := exact && !unknown && !untold
			all++
			if may {
				yes++
			}
			switch {
			case may && !got:
				t.Fatalf("%+v wants %s, the kernel does not", r.engine.Status().Terms, event.AppendJSON(nil, e))
			case got && !may && exact && short(names) && short([]string{e.Process.ExePath}):
				t.Fatalf("%+v does not want %s, the kernel does", r.engine.Status().Terms, event.AppendJSON(nil, e))
			case got && !may:
				loose++
			}
		}
	}
	t.Logf("%d of %d events wanted, %d let through beyond that", yes, all, loose)
	if yes < all/20 || yes > all*19/20 {
		t.Error("interests and events are too alike")
	}
}

// TestBPFRaw asks of what a process gave, of lengths about those of words and of what
// is looked at first, with two dots at each place, or at none. Whatever stands behind
// its end, where dots are is seen; where that ends as text does, also that there are
// none.
func TestBPFRaw(t *testing.T) {
	r := newRig(t)
	r.apply(t, interest.Term{Kinds: event.Kinds(event.KindOpen), RawDots: true})
	for _, n := range []int{2, 7, 8, 9, 15, 16, 62, 63, 64, 65, 66, 130, 1021, 1022} {
		for at := -1; at < n-1; at++ {
			raw := []byte(strings.Repeat("./a/.-", n/6+1))[:n]
			if at >= 0 {
				raw[at], raw[at+1] = '.', '.'
			}
			for _, behind := range []string{"\x00\x00", "\x00x", "\x00.", "x.", ".."} {
				r.putWith(t, func(q *prefilterQuestion) {
					for i := n; i < len(q.Raw); i++ {
						q.Raw[i] = int8(behind[min(i-n, 1)])
					}
				}, 1, 0, false, 0, 0, string(raw))
				switch got := r.wanted(t); {
				case at >= 0 && !got:
					t.Fatalf("%d bytes: dots at %d with %q behind are not seen", n, at, behind)
				case at < 0 && got && behind[0] == 0 && behind[1] != '.':
					t.Fatalf("%d bytes: dots are seen where there are none, with %q behind", n, behind)
				}
			}
		}
	}
}

func short(names []string) bool {
	for _, n := range names {
		if len(n) >= maxText {
			return false
		}
	}
	return true
}

var someParts = []string{"etc", "usr", "lib", "e", "passwd", "a.conf", "x", "ssh", strings.Repeat("long", 10)}

func someName(rnd *rand.Rand) string {
	if rnd.IntN(12) == 0 {
		return "memfd:" + someParts[rnd.IntN(len(someParts))]
	}
	var b strings.Builder
	for range 1 + rnd.IntN(4) {
		b.WriteString("/" + someParts[rnd.IntN(len(someParts))])
	}
	return b.String()
}

// someRaw has dots of all sorts, at every place of the words that are compared.
func someRaw(rnd *rand.Rand) string {
	raw := []byte(strings.Repeat("./a/.-", 1+rnd.IntN(20)))
	for range rnd.IntN(4) {
		raw[rnd.IntN(len(raw))] = ".x/"[rnd.IntN(3)]
	}
	if rnd.IntN(2) == 0 {
		return strings.ReplaceAll(string(raw), "..", ".a")
	}
	return string(raw)
}

func somePath(rnd *rand.Rand) interest.Path {
	name := someName(rnd)
	switch op := interest.PathOp(1 + rnd.IntN(4)); op {
	case interest.Prefix:
		return interest.Path{Op: op, Text: name[:1+rnd.IntN(len(name))]}
	case interest.Suffix:
		return interest.Path{Op: op, Text: name[rnd.IntN(len(name)):]}
	default:
		return interest.Path{Op: op, Text: name}
	}
}

var someComms = []string{"sh", "bash", "sshd", "a name of 15 by", "a name of 15 bx"}

// someBeginning is a condition that looks at how a text begins.
func someBeginning(rnd *rand.Rand, text string) interest.Path {
	switch op := []interest.PathOp{interest.Exact, interest.Exact, interest.Prefix, interest.Under}[rnd.IntN(4)]; op {
	case interest.Prefix:
		return interest.Path{Op: op, Text: text[:1+rnd.IntN(len(text))]}
	default:
		return interest.Path{Op: op, Text: text}
	}
}

func someTerm(rnd *rand.Rand) interest.Term {
	t := interest.Term{Kinds: event.Kinds(event.KindOpen, event.KindFile)}
	if rnd.IntN(3) == 0 {
		t.Types = []string{testTypes[1+rnd.IntN(3)].Name, "rename"}
	}
	if rnd.IntN(4) == 0 {
		t.Outcome = interest.Outcome(1 + rnd.IntN(2))
	}
	if rnd.IntN(4) == 0 {
		t.Kinds, t.Open = event.Kinds(event.KindOpen), interest.OpenMask(1+rnd.IntN(15))
	}
	if rnd.IntN(6) == 0 {
		t.Kinds, t.RawDots = event.Kinds(event.KindOpen), true
	}
	if rnd.IntN(4) == 0 {
		t.UIDs = []uint32{uint32(rnd.IntN(3)), 1000}
	}
	if rnd.IntN(6) == 0 {
		t.Inodes = []interest.Inode{{Dev: uint64(rnd.IntN(3)), Ino: uint64(1 + rnd.IntN(3))}}
	}
	if rnd.IntN(4) == 0 {
		t.Workload = someWorkloads[rnd.IntN(len(someWorkloads))]
	}
	if rnd.IntN(4) == 0 {
		for range 1 + rnd.IntN(3) {
			t.Exes = append(t.Exes, someBeginning(rnd, someName(rnd)))
		}
	}
	if rnd.IntN(4) == 0 {
		t.Names = []interest.Path{someBeginning(rnd, someComms[rnd.IntN(len(someComms))])}
	}
	if rnd.IntN(4) == 0 {
		for range 1 + rnd.IntN(3) {
			t.NotExes = append(t.NotExes, someBeginning(rnd, someName(rnd)))
		}
	}
	if rnd.IntN(4) == 0 {
		t.NotNames = []interest.Path{someBeginning(rnd, someComms[rnd.IntN(len(someComms))])}
	}
	if rnd.IntN(3) == 0 {
		t.Kinds, t.Types = event.Kinds(event.KindConnection), nil
		t.Open, t.RawDots, t.Inodes = 0, false, nil
		if rnd.IntN(2) == 0 {
			t.Ports = []uint16{uint16(1 + rnd.IntN(4)), 443}
		}
		for range rnd.IntN(3) {
			t.Nets = append(t.Nets, netip.MustParsePrefix(someNets[rnd.IntN(len(someNets))]))
		}
		return t
	}
	if rnd.IntN(5) != 0 {
		for range 1 + rnd.IntN(3) {
			t.Paths = append(t.Paths, somePath(rnd))
		}
	}
	if t.Paths != nil || t.Inodes != nil {
		t.NotExes, t.NotNames = nil, nil // which say nothing then
	}
	return t
}

func someEvent(rnd *rand.Rand) (*event.Event, uint32) {
	e := &event.Event{Process: &event.Process{ExePath: someName(rnd), Name: someComms[rnd.IntN(len(someComms))], Container: someContainers[rnd.IntN(len(someContainers))]}}
	if rnd.IntN(3) == 0 {
		addr := func() netip.Addr { return netip.MustParseAddr(someEnds[rnd.IntN(len(someEnds))]) }
		e.Data = &event.Connection{Type: "connect", Socket: event.Socket{Local: addr(), Remote: addr(), LocalPort: uint16(1 + rnd.IntN(4)), RemotePort: uint16(440 + rnd.IntN(5))}}
		return e, 9
	}
	res := int64(rnd.IntN(3) - 1)
	obj := event.FileObject{Inode: uint64(rnd.IntN(4)), Dev: uint64(1 + rnd.IntN(2))}
	typ := uint32(1 + rnd.IntN(7))
	if typ == 4 {
		typ = 1
	}
	name := testTypes[typ].Name
	if typ < 4 {
		m := interest.OpenMask(rnd.IntN(16))
		e.Data = &event.Open{Type: name, RawRes: res, Res: event.Errno(max(0, -res)), FileObject: obj,
			Read: m&1 != 0, Write: m&2 != 0, Exec: m&4 != 0, Create: m&8 != 0}
		if rnd.IntN(10) != 0 {
			e.Data.(*event.Open).Name = someName(rnd)
		} else if rnd.IntN(2) == 0 {
			e.Data.(*event.Open).Error, obj = event.PathClosed, event.FileObject{}
			e.Data.(*event.Open).FileObject = obj
		}
		e.Data.(*event.Open).NameRaw = someRaw(rnd)
		return e, typ
	}
	if typ == 7 {
		e.Data = &event.FileClose{Type: name, RawRes: res, Res: event.Errno(max(0, -res)), FileObject: obj, Name: someName(rnd)}
		return e, typ
	}
	f := &event.File{Type: name, RawRes: res, Res: event.Errno(max(0, -res)), FileObject: obj}
	e.Data = f
	if name == "rename" {
		f.Source, f.Target = someName(rnd), someName(rnd)
	} else {
		f.Name = someName(rnd)
	}
	return e, typ
}

// describe is what a sensor would tell the engine of an event.
func describe(e *event.Event) (open interest.OpenMask, failed bool, ino, dev uint64, raw string, names []string) {
	add := func(ss ...string) {
		for _, s := range ss {
			if s != "" {
				names = append(names, s)
			}
		}
	}
	switch x := e.Data.(type) {
	case *event.Connection:
		return 0, false, 0, 0, "", nil
	case *event.Open:
		for i, on := range []bool{x.Read, x.Write, x.Exec, x.Create} {
			if on {
				open |= 1 << i
			}
		}
		add(x.Name)
		return open, x.RawRes < 0, x.Inode, x.Dev, x.NameRaw, names
	case *event.File:
		add(x.Name, x.Source, x.Target)
		return 0, x.RawRes < 0, x.Inode, x.Dev, "", names
	case *event.FileClose:
		add(x.Name)
		return 0, x.RawRes < 0, x.Inode, x.Dev, "", names
	}
	panic(fmt.Sprintf("an event of kind %v", e.Data.Kind()))
}

// ends is the rest of what a sensor would tell of an event.
func ends(q *prefilterQuestion, e *event.Event) {
	if interest.Unnamed(e) {
		q.Unnamed = 1
	}
	c, ok := e.Data.(*event.Connection)
	if !ok {
		return
	}
	q.Lport, q.Rport, q.Family = c.LocalPort, c.RemotePort, unix.AF_INET6
	if c.Remote.Is4() && c.Local.Is4() {
		a, b := c.Local.As4(), c.Remote.As4()
		copy(q.Laddr[:], a[:])
		copy(q.Raddr[:], b[:])
		q.Family = unix.AF_INET
		return
	}
	q.Laddr, q.Raddr = c.Local.As16(), c.Remote.As16()
}

var (
	someNets = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.168.1.7/24", "2001:db8::/32", "2001:db8::1/128", "fe80::/10", "0.0.0.0/0"}
	someEnds = []string{"10.0.0.1", "10.1.2.3", "10.1.2.4", "192.168.1.1", "2001:db8::1", "2001:db8::2", "fe80::1", "127.0.0.1", "::1"}

	someContainers = []*event.Container{
		nil, {FullID: "a1", ID: "a1", Name: "web", Type: "docker", Labels: map[string]string{"app": "shop"}},
		{FullID: "b2", ID: "b2", Name: "db", Type: "containerd", Pod: &cluster.Pod{Name: "db-0", Namespace: "shop", Labels: map[string]string{"app": "db"}}},
	}
	someWorkloads = []interest.Workload{
		&workload{"container.id != host", func(c *event.Container) bool { return c != nil }},
		&workload{"container.id = host", func(c *event.Container) bool { return c == nil }},
		&workload{"container.name = web", func(c *event.Container) bool { return c != nil && c.Name == "web" }},
		&workload{"k8s.ns.name = shop", func(c *event.Container) bool { return c != nil && c.Pod != nil && c.Pod.Namespace == "shop" }},
	}
)

// A workload is a condition on a container.
type workload struct {
	text string
	is   func(*event.Container) bool
}

func (w *workload) String() string            { return w.text }
func (w *workload) Match(e *event.Event) bool { return w.is(e.Process.Container) }

// TestBPFEngineWorkloads: containers are judged as they are known at the moment, in
// the set that is in force and in the next one, and let through while nothing is
// known of them.
func TestBPFEngineWorkloads(t *testing.T) {
	r := newRig(t)
	web := interest.Term{Kinds: event.Kinds(event.KindOpen), Workload: someWorkloads[2]}
	host := interest.Term{Kinds: event.Kinds(event.KindOpen), Workload: someWorkloads[1], UIDs: []uint32{uint32(os.Geteuid())}}
	r.put(t, 1, 0, false, 5, 1, "", "/x")
	expect := func(what string, want bool) {
		t.Helper()
		if got := r.wanted(t); got != want {
			t.Errorf("%s: %v", what, got)
		}
	}
	r.apply(t, web)
	expect("nothing is known", true)
	r.works.Know(r.mine, someContainers[2])
	expect("another container", false)
	r.apply(t, web, host)
	expect("after a change of interests", false)
	r.works.Know(r.mine, someContainers[1])
	expect("the container", true)
	r.works.Know(r.mine, nil)
	expect("the host, of a user", true)
	r.apply(t, web)
	expect("the host", false)
	r.works.Doubt(r.mine)
	expect("nothing is known any more", true)
	r.works.Know(r.mine, nil)
	for i := range maxCgroups + 10 {
		r.works.Know(event.CgroupKey{ID: uint64(1<<40) + uint64(i), Hierarchy: 9}, nil)
	}
	expect("the host, beside many", false)
	if judged, unjudged := r.engine.Status().Cgroups(); judged != maxCgroups || unjudged != 11 {
		t.Errorf("%d cgroups are judged, for %d was no room", judged, unjudged)
	}
	r.apply(t, interest.Term{Kinds: event.Kinds(event.KindOpen), UIDs: []uint32{uint32(os.Geteuid())}})
	expect("nobody asks for containers", true)
	if judged, _ := r.engine.Status().Cgroups(); judged != 0 {
		t.Errorf("%d cgroups are judged, and nobody asks", judged)
	}
	r.apply(t, web)
	r.engine.Close()
	r.works.Know(r.mine, someContainers[1])
}

// TestBPFEngineLimits: what is too much for the kernel is let through.
func TestBPFEngineLimits(t *testing.T) {
	r := newRig(t)
	r.put(t, 1, 0, false, 5, 1, "", "/var/log/x")
	if r.wanted(t) {
		t.Error("nothing was asked for")
	}
	var paths []interest.Path
	for i := range maxPaths + 1 {
		paths = append(paths, interest.Path{Op: interest.Exact, Text: fmt.Sprintf("/a/%d", i)})
	}
	open := event.Kinds(event.KindOpen)
	r.apply(t, interest.Term{Kinds: open, Paths: paths[:maxPaths/2]})
	if st := r.engine.Status(); len(st.Widened) != 0 || r.wanted(t) {
		t.Errorf("widened %v, or all is wanted", st.Widened)
	}
	r.put(t, 1, 0, false, 5, 1, "", "/a/77")
	if !r.wanted(t) {
		t.Error("one of many is not wanted")
	}
	r.apply(t, interest.Term{Kinds: open, Paths: paths})
	r.put(t, 1, 0, false, 5, 1, "", "/var/log/x")
	if st := r.engine.Status(); len(st.Widened) != 1 || !r.wanted(t) {
		t.Errorf("widened %v, or what cannot be judged is kept out", st.Widened)
	}
	// A name longer than what is looked at, and one that differs behind that.
	long := "/" + strings.Repeat("a", 100)
	r.apply(t, interest.Term{Kinds: open, Paths: []interest.Path{{Op: interest.Exact, Text: long}, {Op: interest.Suffix, Text: strings.Repeat("b", 80)}}})
	for name, want := range map[string]bool{long: true, long + "b": true, "/" + strings.Repeat("a", 50): false, "/x" + strings.Repeat("b", 80): true, "/x" + strings.Repeat("b", 60): false} {
		r.put(t, 1, 0, false, 5, 1, "", name)
		if got := r.wanted(t); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	r.apply(t)
	if r.wanted(t) {
		t.Error("nothing is asked for any more")
	}
	if _, err := New(r.obj, Config{Types: make([]Type, maxTypes+1)}); err == nil {
		t.Error("more types than there is room for")
	}
}
