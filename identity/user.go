package identity

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
)

// Names of users and groups come from /etc/passwd and /etc/group: the host's,
// and for a process in a container the container's own. Users that only a
// directory service knows have no name here.

// maxPasswd bounds what is read of one file, in bytes; maxUsers how many of its
// names are kept.
const (
	maxPasswd = 1 << 20
	maxUsers  = 8192
)

// An account is a user or a group.
type account struct {
	name string
	more *event.Account // of users; nil where their line has no more
}

// root is who user and group 0 are where no file says it, as in many images.
var root = account{"root", &event.Account{Home: "/root"}}

// An accounts are those of one root file system.
type accounts struct {
	users, groups map[uint32]account
	// uids and gids translate from the host's numbers, where the root belongs to
	// another user namespace.
	uids, gids idMap
	stamp      stamp
}

// user returns who a number of the host is; the zero value is nobody that is known.
func (a *accounts) user(uid uint32) account { return find(a.users, a.uids, uid) }

func (a *accounts) group(gid uint32) account { return find(a.groups, a.gids, gid) }

func find(list map[uint32]account, ids idMap, outside uint32) account {
	id, ok := ids.inside(outside)
	if !ok {
		return account{}
	}
	if found, ok := list[id]; ok || id != 0 {
		return found
	}
	return root
}

// stamp tells whether the two files have changed.
type stamp [2]struct {
	mtime, ctime, size int64
	ino                uint64
}

// parsePasswd reads /etc/passwd or /etc/group. Lines that make no sense are left
// out, as libc does. The first line of a number counts.
func parsePasswd(data []byte) map[uint32]account {
	m := map[uint32]account{}
	for len(data) > 0 && len(m) < maxUsers {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		if len(line) == 0 || line[0] == '#' || line[0] == '+' || line[0] == '-' {
			continue // comments, and entries that refer to a directory service
		}
		f := bytes.SplitN(line, []byte(":"), 8) // name, password, number; of users group, comment, home and shell
		if len(f) < 4 || len(f[0]) == 0 || len(f[0]) > maxField {
			continue
		}
		id, err := strconv.ParseUint(string(f[2]), 10, 32)
		if err != nil {
			continue
		}
		if _, dup := m[uint32(id)]; !dup {
			m[uint32(id)] = account{string(f[0]), moreOf(f)}
		}
	}
	return m
}

// maxField bounds a name, a home and a shell, in bytes.
const maxField = 256

// moreOf returns what a line of /etc/passwd, cut into its fields, says of a user
// beside the name; nil where it says nothing.
func moreOf(f [][]byte) *event.Account {
	if len(f) < 7 || len(f[5]) > maxField || len(f[6]) > maxField || len(f[5])+len(f[6]) == 0 {
		return nil
	}
	return &event.Account{Home: string(f[5]), Shell: string(f[6])}
}

// An idMap is /proc/PID/uid_map: empty, it changes nothing.
type idMap []idRange

type idRange struct{ inside, outside, n uint32 }

// inside translates a number of the host.
func (m idMap) inside(id uint32) (uint32, bool) {
	if len(m) == 0 {
		return id, true
	}
	for _, r := range m {
		if id >= r.outside && id-r.outside < r.n {
			return r.inside + (id - r.outside), true
		}
	}
	return 0, false
}

// parseIDMap reads a uid_map or gid_map; the kernel allows 340 lines.
func parseIDMap(data []byte) (idMap, error) {
	var m idMap
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || len(m) >= 340 {
			return nil, fmt.Errorf("malformed id map line %q", line)
		}
		var v [3]uint32
		for i := range f {
			n, err := strconv.ParseUint(string(f[i]), 10, 32)
			if err != nil {
				return nil, fmt.Errorf("malformed id map line %q", line)
			}
			v[i] = uint32(n)
		}
		m = append(m, idRange{v[0], v[1], v[2]})
	}
	if len(m) == 1 && m[0].inside == 0 && m[0].outside == 0 && m[0].n == 1<<32-1 {
		return nil, nil // the identity
	}
	return m, nil
}

// readAccounts reads the files below a directory. Symbolic links are followed
// within it; a file that is not regular or too large counts as empty. Where
// nothing has changed since have was read, it returns have.
func readAccounts(root string, have *accounts) (*accounts, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	return readAccountsAt(dir, have)
}

func readAccountsAt(dir int, have *accounts) (*accounts, error) {
	var a accounts
	var fds [2]int
	for i, name := range []string{"etc/passwd", "etc/group"} {
		fd, st, err := lookBelow(dir, name)
		if fds[i] = fd; err != nil {
			continue // an image may well have none
		}
		defer unix.Close(fd)
		a.stamp[i].mtime, a.stamp[i].ctime = st.Mtim.Nano(), st.Ctim.Nano()
		a.stamp[i].size, a.stamp[i].ino = st.Size, st.Ino
	}
	if have != nil && have.stamp == a.stamp {
		return have, nil
	}
	for i, m := range []*map[uint32]account{&a.users, &a.groups} {
		if fds[i] < 0 {
			continue
		}
		data, err := readFD(fds[i])
		if err != nil {
			return nil, err
		}
		*m = parsePasswd(data)
	}
	return &a, nil
}

// lookBelow finds a regular file without leaving dir, and without opening
// anything that is not one: opening a device or a pipe can do something, or wait
// for ever. The descriptor is -1 on error; otherwise it only stands for the file.
func lookBelow(dir int, name string) (int, *unix.Stat_t, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, nil, fmt.Errorf("open %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, nil, fmt.Errorf("stat %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, nil, fmt.Errorf("open %s: not a regular file", name)
	}
	return fd, &st, nil
}

// readFD reads the file that an O_PATH descriptor stands for, up to maxPasswd.
func readFD(fd int) ([]byte, error) {
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPasswd))
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	return data, nil
}

// users are the accounts of the host and of each container's mount namespace.
type users struct {
	root    string
	host    *accounts
	checked uint64 // ktime at which the host's files were looked at
	hostNS  event.Namespaces
	byMnt   map[uint32]*mountUsers
	max     int
	queue   chan userTask // capacity 256: what does not fit is asked for at the next exec
}

// mountUsers are the accounts seen in one mount namespace.
type mountUsers struct {
	accounts *accounts // nil until read
	asked    uint64    // ktime of the last request
	busy     bool
}

type userTask struct {
	container containerID
	pid       uint32
	mntNS     uint32
	userNS    uint32 // 0 where it is the host's
	have      *accounts
}

const (
	hostCheckEvery = 1e9 // nanoseconds
	mntCheckEvery  = 5e9
	mntRetryEvery  = 20e6  // where they could not be read
	usersWait      = 100e6 // for which the events of a container wait for its users
	maxMountNS     = 1024
)

func (t *users) init(cfg Config) {
	t.root = cfg.Root
	t.byMnt = map[uint32]*mountUsers{}
	t.max = maxMountNS
	t.queue = make(chan userTask, 256)
	t.hostNS.UserNS = initUserNS
	t.hostNS.MntNS = firstNamespace(cfg.Proc, "mnt")
}

// The numbers of the kernel's first namespaces, fixed by
// include/uapi/linux/nsfs.h.
const (
	initUserNS   = 0xEFFFFFFD
	initPidNS    = 0xEFFFFFFC
	initCgroupNS = 0xEFFFFFFB
	initTimeNS   = 0xEFFFFFFA
)

// firstNamespace returns the number of the namespace that the machine's first
// process is in, as far as can be seen: where that process is out of bounds, its
// like, the first thread of the kernel, is asked. 0 is no namespace's number.
func firstNamespace(proc, name string) uint32 {
	for _, pid := range []string{"1", "2", "self"} {
		if n := namespaceOf(filepath.Join(proc, pid, "ns", name)); n != 0 {
			return n
		}
	}
	return 0
}

// namespaceOf returns the number of a namespace file of /proc, 0 if it cannot
// be read.
func namespaceOf(path string) uint32 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return uint32(st.Ino)
}

// hostAccounts returns the host's names, looked at again once a second: two
// stat calls of local files.
func (t *users) hostAccounts(now uint64) *accounts {
	if t.host == nil || now >= t.checked+hostCheckEvery {
		t.checked = now
		if a, err := readAccounts(t.root, t.host); err == nil {
			t.host = a
		} else if t.host == nil {
			t.host = &accounts{} // the root itself is unreadable: nobody has a name
		}
	}
	return t.host
}

// setUsers sets the names of a snapshot that is not yet published. from, if it
// is known, is a process whose names are the same where its numbers are.
func (i *Identity) setUsers(p *event.Process, from *entry) {
	if from != nil {
		q := from.snap.p
		if q.UID == p.UID && q.GID == p.GID && q.LoginUID == p.LoginUID && q.MntNS == p.MntNS && q.UserNS == p.UserNS && q.Container == p.Container {
			p.UserName, p.Account, p.GroupName, p.LoginName = q.UserName, q.Account, q.GroupName, q.LoginName
			if p.UserName != "" && p.Container == nil {
				return
			}
		}
	}
	host := i.users.hostAccounts(i.procs.now)
	if p.Container == nil || p.MntNS != 0 && p.MntNS == i.users.hostNS.MntNS {
		host.owners(p).set(p)
	} else if m := i.users.byMnt[p.MntNS]; m != nil && m.accounts != nil {
		m.accounts.owners(p).set(p)
	} else {
		// Not read yet, or never to be. The host's names would be wrong, but for
		// those that everybody uses.
		new(accounts).owners(p).set(p)
	}
	p.LoginName = ""
	if p.LoginUID != event.NoLogin {
		p.LoginName = host.user(uint32(p.LoginUID)).name // sessions begin on the host
	}
}

// owners are who a process's user and group are.
type owners struct {
	user    string
	account *event.Account
	group   string
}

func ownersOf(p *event.Process) owners { return owners{p.UserName, p.Account, p.GroupName} }

// owners returns who they are by these accounts.
func (a *accounts) owners(p *event.Process) owners {
	u := a.user(p.UID)
	return owners{u.name, u.more, a.group(p.GID).name}
}

// set says it in a snapshot that is not yet published.
func (o owners) set(p *event.Process) {
	p.UserName, p.Account, p.GroupName = o.user, o.account, o.group
}

// execed asks for the names of a container's own, at an exec: by then the
// process has the root that its program sees.
func (t *users) execed(p *event.Process, c *container, now uint64) {
	if c == nil || p.MntNS == 0 || p.MntNS == t.hostNS.MntNS {
		return
	}
	m := t.byMnt[p.MntNS]
	if m == nil {
		if len(t.byMnt) >= t.max {
			t.evict()
		}
		m = &mountUsers{}
		t.byMnt[p.MntNS] = m
	} else if every := uint64(mntCheckEvery); m.busy {
		return
	} else {
		if m.accounts == nil {
			every = mntRetryEvery
		}
		if now < m.asked+every {
			return
		}
	}
	task := userTask{container: c.id, pid: p.PID, mntNS: p.MntNS, have: m.accounts}
	if p.UserNS != t.hostNS.UserNS {
		task.userNS = p.UserNS
	}
	select {
	case t.queue <- task:
		m.busy, m.asked = true, now
	default:
	}
}

// evict forgets the half of the mount namespaces that was asked for least
// recently.
func (t *users) evict() {
	var sum uint64
	for _, m := range t.byMnt {
		sum += m.asked / uint64(len(t.byMnt))
	}
	for ns, m := range t.byMnt {
		if m.asked <= sum {
			delete(t.byMnt, ns)
		}
	}
}

// readMountAccounts reads the names that a process sees. It returns nil where
// the process is gone or still has the host's root: a container being made.
func (i *Identity) readMountAccounts(task userTask) (*accounts, error) {
	dir := filepath.Join(i.cfg.Proc, strconv.FormatUint(uint64(task.pid), 10))
	root, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of %d: %w", task.pid, err)
	}
	defer unix.Close(root)
	var own, host unix.Stat_t
	if err := unix.Fstat(root, &own); err != nil {
		return nil, fmt.Errorf("stat root of %d: %w", task.pid, err)
	}
	if err := unix.Stat(i.cfg.Root, &host); err == nil && own.Dev == host.Dev && own.Ino == host.Ino {
		return nil, nil
	}
	a, err := readAccountsAt(root, task.have)
	if err != nil {
		return nil, err
	}
	if task.userNS != 0 && a != task.have {
		for file, m := range map[string]*idMap{"uid_map": &a.uids, "gid_map": &a.gids} {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return nil, err
			}
			if *m, err = parseIDMap(data); err != nil {
				return nil, err
			}
		}
	}
	// The pid may have been given to another process meanwhile.
	if namespaceOf(filepath.Join(dir, "ns/mnt")) != task.mntNS {
		return nil, nil
	}
	return a, nil
}

// usersRead takes the names of a mount namespace into the snapshots of the
// processes in it.
func (i *Identity) usersRead(task userTask, a *accounts) {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer i.signal()
	m := i.users.byMnt[task.mntNS]
	if m == nil {
		return
	}
	m.busy = false
	if a == nil || a == m.accounts {
		return
	}
	m.accounts = a
	c := i.conts.byID[task.container]
	if c == nil {
		return
	}
	for en := c.members; en != nil; en = en.cnext {
		p := en.snap.p
		if p.MntNS != task.mntNS {
			continue
		}
		q := *p
		if i.setUsers(&q, nil); ownersOf(&q) != ownersOf(p) {
			i.procs.complete(en, &q, en.snap.parent)
		}
	}
}

// userTimeout is how long one root file system may take: it can be a network
// mount whose server is gone. The goroutine then stays with it until the kernel
// lets go; maxUserReads bounds how many.
const (
	userTimeout  = 2 * time.Second
	maxUserReads = 8
)
