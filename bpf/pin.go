package bpf

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Pins keeps maps, programs and links in the kernel while no agent runs, in
// sets that are replaced as a whole.
//
// A set is a directory BPFFS/INSTANCE/SET. Its successor is built in a directory
// beside it and then the two change names in one step: at every moment, also
// after a crash, the set is the old one or the new one, complete. Methods may be
// called from any goroutine and any process.
type Pins struct {
	dir string // BPFFS/INSTANCE
}

// defaultBPFFS is where BPF file systems are mounted by convention.
const defaultBPFFS = "/sys/fs/bpf"

// OpenPins opens the pins of an instance in the BPF file system at bpffs; ""
// means /sys/fs/bpf, or wherever else one is mounted. If there is none, it is
// mounted there, which needs CAP_SYS_ADMIN, and stays: pins outlive us.
func OpenPins(bpffs, instance string) (*Pins, error) {
	if err := checkPinName(instance); err != nil {
		return nil, fmt.Errorf("open pins: %w", err)
	}
	root, err := findBPFFS(bpffs)
	if err != nil {
		return nil, fmt.Errorf("open pins: %w", err)
	}
	p := &Pins{dir: filepath.Join(root, instance)}
	if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("open pins: %w", err)
	}
	return p, nil
}

func findBPFFS(path string) (string, error) {
	at := path
	if at == "" {
		at = defaultBPFFS
	}
	f, err := os.Open(at)
	if err == nil {
		defer f.Close()
		if isFS(f, "bpf") {
			return at, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if path == "" {
		if other, _ := mounted("bpf"); other != nil { // unreadable mounts are as good as none
			defer other.Close()
			return other.Name(), nil
		}
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("bpf", at, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		u := &UnavailableError{Feature: "pinning", Reason: "no BPF file system is mounted, and mounting one at " + at + " fails: " + err.Error(), Err: err}
		if errors.Is(err, unix.EPERM) {
			u.Reason = "no BPF file system is mounted at " + at + ", and mounting one needs CAP_SYS_ADMIN"
		}
		return "", u
	}
	return at, nil
}

// checkPinName accepts what a BPF file system accepts, and keeps names that
// begin with an underscore for directories that are being built.
func checkPinName(name string) error {
	ok := name != "" && name[0] != '_' && len(name) <= 128
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return fmt.Errorf("name %q: want letters, digits, - and _, not beginning with _", name)
	}
	return nil
}

// A PinDir is a set of pins that is being built.
type PinDir struct {
	dir string
}

// Pin adds a map, program or link under a name. It stays pinned, and alive, as
// long as the set does, whatever becomes of the Go value.
func (d *PinDir) Pin(name string, object interface{ FD() int }) error {
	if err := checkPinName(name); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	path, err := unix.BytePtrFromString(filepath.Join(d.dir, name))
	if err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	// BPF_OBJ_PIN itself: the library's would move the pin that a map has in
	// the old set.
	attr := struct {
		path  *byte // a pointer also to Go: were it a number, what it names could move
		fd    uint32
		flags uint32
	}{path: path, fd: uint32(object.FD())}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_PIN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(path)
	runtime.KeepAlive(object)
	if errno == unix.EPERM {
		if m := missing("", unix.CAP_BPF); m != "" {
			return &UnavailableError{Feature: "pinning", Reason: m, Err: errno}
		}
	}
	if errno != 0 {
		return fmt.Errorf("pin %s: %w", name, errno)
	}
	return nil
}

// Replace builds a set with build and puts it in the place of the one of that
// name, if there is one, in one step. If build fails nothing changes. Replaces
// of one instance wait for each other.
func (p *Pins) Replace(set string, build func(*PinDir) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace pins %s: %w", set, err)
		}
	}()
	if err := checkPinName(set); err != nil {
		return err
	}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	// Whoever left a directory behind has crashed: we have the lock.
	if err := p.removeLeftovers(); err != nil {
		return err
	}

	next := filepath.Join(p.dir, "_"+strings.ToLower(rand.Text()))
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	// After the exchange, next is the old set.
	defer func() { err = errors.Join(err, os.RemoveAll(next)) }()
	if err := build(&PinDir{dir: next}); err != nil {
		return err
	}
	final := filepath.Join(p.dir, set)
	err = unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, final, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(next, final)
	}
	return err
}

// Remove removes a set; the kernel frees what nothing else holds. Removing what
// is not there does nothing.
func (p *Pins) Remove(set string) error {
	if err := checkPinName(set); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	unlock, err := p.lock()
	if err != nil {
		return fmt.Errorf("remove pins %s: %w", set, err)
	}
	defer unlock()
	// First out of sight, in one step.
	gone := filepath.Join(p.dir, "_"+strings.ToLower(rand.Text()))
	err = os.Rename(filepath.Join(p.dir, set), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("remove pins %s: %w", set, err)
	}
	return nil
}

// Names returns the names of the pins in a set, sorted; none if there is no
// such set.
func (p *Pins) Names(set string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, set))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins %s: %w", set, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Sets returns the names of the sets there are, sorted.
func (p *Pins) Sets() ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && checkPinName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// RemoveDir removes the instance's directory if there is no set in it any more.
// The Pins are of no use then.
func (p *Pins) RemoveDir() error {
	unlock, err := p.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	defer unlock()
	if err := p.removeLeftovers(); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	if sets, err := p.Sets(); err != nil || len(sets) > 0 {
		return err
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// Map returns a pinned map, for the caller to close. The error is
// fs.ErrNotExist if there is none.
func (p *Pins) Map(set, name string) (*ebpf.Map, error) {
	return loadPin(p, set, name, func(path string) (*ebpf.Map, error) { return ebpf.LoadPinnedMap(path, nil) })
}

// Program returns a pinned program, for the caller to close.
func (p *Pins) Program(set, name string) (*ebpf.Program, error) {
	return loadPin(p, set, name, func(path string) (*ebpf.Program, error) { return ebpf.LoadPinnedProgram(path, nil) })
}

// Link returns a pinned link, for the caller to close: that leaves it attached.
func (p *Pins) Link(set, name string) (link.Link, error) {
	return loadPin(p, set, name, func(path string) (link.Link, error) { return link.LoadPinnedLink(path, nil) })
}

// loadPin opens a pin. The kernel resolves set and name one after the other: if
// the set is replaced in between, its old directory is emptied under the name
// that was not found, so the new one has to be asked.
func loadPin[T any](p *Pins, set, name string, load func(path string) (T, error)) (T, error) {
	dir := filepath.Join(p.dir, set)
	for {
		before := inode(dir)
		v, err := load(filepath.Join(dir, name))
		if !errors.Is(err, fs.ErrNotExist) || inode(dir) == before {
			return v, err
		}
	}
}

// inode returns the number of a directory, 0 if there is none.
func inode(dir string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0
	}
	return st.Ino
}

func (p *Pins) lock() (unlock func(), err error) {
	f, err := os.Open(p.dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", p.dir, err)
	}
	return func() { f.Close() }, nil
}

func (p *Pins) removeLeftovers() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "_") {
			if err := os.RemoveAll(filepath.Join(p.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
