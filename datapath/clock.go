package datapath

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is nanoseconds since boot, suspend included.
func bootTime() uint64 { return clockNow(unix.CLOCK_BOOTTIME) }

func clockNow(id int32) uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0 // the kernel cannot refuse these
	}
	return uint64(ts.Nano())
}

// coarseToBoot is how far the boot clock is ahead of the one that flows' times
// are of: the monotonic clock, as of the last tick.
func coarseToBoot() time.Duration {
	return time.Duration(bootTime() - clockNow(unix.CLOCK_MONOTONIC))
}
