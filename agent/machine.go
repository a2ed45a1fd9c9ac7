package agent

import (
	"os"
	"path/filepath"
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

// hostRoot is where the files of the machine are seen: the root of its first
// process, whose folder of /proc is given, where the agent is in a container;
// else "/". An error says why it is "/" although the agent may be in one.
func hostRoot(first string) (string, error) {
	theirs, err := os.Stat(filepath.Join(first, "ns/mnt"))
	if err != nil {
		return "/", err
	}
	ours, err := os.Stat("/proc/self/ns/mnt")
	if err != nil {
		return "/", err
	}
	if os.SameFile(theirs, ours) {
		return "/", nil
	}
	root := filepath.Join(first, "root")
	if _, err := os.Stat(filepath.Join(root, "etc")); err != nil {
		return "/", err
	}
	return root, nil
}
