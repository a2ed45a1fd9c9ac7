package prefilter

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// membarrierGlobal waits until every CPU has been through a quiescent state: the
// end of all programs that run now.
const membarrierGlobal = 1

// waitForPrograms returns when all programs that run now have ended.
func waitForPrograms() error {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	return waitUnless(errno)
}

// waitUnless waits by other means where membarrier(2) did not: the kernel refuses
// it where it was built without, and on processors that nohz_full keeps free of
// interrupts.
func waitUnless(membarrier unix.Errno) error {
	switch membarrier {
	case 0:
		return nil
	case unix.ENOSYS, unix.EINVAL, unix.EPERM:
		return waitByMaps()
	}
	return membarrier
}

// waitByMaps has the kernel wait until no program can use a map that another one
// has taken the place of in a map of maps: that is when all that run now have
// ended.
func waitByMaps() (err error) {
	inner := &ebpf.MapSpec{Name: "wait_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Name: "wait_outer", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return fmt.Errorf("make a map of maps: %w", err)
	}
	defer func() { err = errors.Join(err, outer.Close()) }()
	in, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("make a map: %w", err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if err := outer.Put(uint32(0), in); err != nil {
		return fmt.Errorf("put a map into another: %w", err)
	}
	return nil
}
