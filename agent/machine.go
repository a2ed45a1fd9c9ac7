package agent

import (
	"io"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelRelease is what uname -r says.
func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown" // cannot happen: the address is valid
	}
	return unix.ByteSliceToString(u.Release[:])
}

// lockdownState returns how far the kernel is locked down: none, integrity or
// confidentiality; unknown where it does not tell. Where its file system is not
// mounted, we look at it without mounting it anywhere, as long as we may.
func lockdownState() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		b, err = readDetached("securityfs", "lockdown")
	}
	if err != nil {
		return "unknown"
	}
	return parseLockdown(string(b))
}

// parseLockdown returns what stands in brackets: none [integrity] confidentiality.
func parseLockdown(s string) string {
	_, s, _ = strings.Cut(s, "[")
	if s, _, ok := strings.Cut(s, "]"); ok {
		return s
	}
	return "unknown"
}

func readDetached(fstype, name string) ([]byte, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}

// heapBytes is what objects on the heap take.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0 // a Go that has no such metric
	}
	return sample[0].Value.Uint64()
}

// rssAnon is the process's own memory, as the kernel counts it, in bytes.
func rssAnon() uint64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	return parseRSSAnon(string(b))
}

func parseRSSAnon(status string) uint64 {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 54)
			return n * 1024
		}
	}
	return 0
}
