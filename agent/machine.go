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
// process, whose folder of /proc is given, where the agent is in a container
// and may look there; else "/".
func hostRoot(first string) string {
	theirs, err1 := os.Stat(filepath.Join(first, "ns/mnt"))
	ours, err2 := os.Stat("/proc/self/ns/mnt")
	root := filepath.Join(first, "root")
	if err1 != nil || err2 != nil || os.SameFile(theirs, ours) {
		return "/"
	}
	if _, err := os.Stat(filepath.Join(root, "etc")); err != nil {
		return "/"
	}
	return root
}
