// Package testkit helps tests that touch the kernel: network namespaces and
// cgroups of their own, helper programs that are the test binary itself, waiting
// for a state, and skips that cannot hide a fault.
//
// Every function takes the test and ends it if it cannot do its work; whatever
// it makes is gone when the test ends. Functions may be called from any
// goroutine unless they say otherwise, but, as testing has it, those that can
// end the test only from the test's own.
package testkit

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long a state is waited for: far longer than it takes, so that
// reaching it means a fault and not a busy or emulated machine.
const Patience = 2 * time.Minute

// Wait polls until reached says yes, and ends the test with what it waited for
// if that never happens.
func Wait(t testing.TB, what string, reached func() bool) {
	t.Helper()
	WaitFor(t, what, func() (struct{}, bool) { return struct{}{}, reached() })
}

// WaitFor is Wait for a value: it gives the first that get calls good.
func WaitFor[T any](t testing.TB, what string, get func() (T, bool)) T {
	t.Helper()
	pause := time.Millisecond
	for deadline := time.Now().Add(Patience); ; {
		value, good := get()
		if good {
			return value
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s; last: %+v", Patience, what, value)
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// Rounds is how often a test tries what only chance brings about, or how much it
// makes of something: n, and fewer where a machine is emulated, whose tests are
// told to be short.
func Rounds(n, emulated int) int {
	if testing.Short() {
		return emulated
	}
	return n
}

// NeedRoot skips a test that is not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// NeedKernel ends the test because of err unless this kernel may lack the
// feature, being older than min ("6.2"): then it is skipped. min "" stands for a
// feature that every supported kernel has. With err nil the test goes on.
func NeedKernel(t testing.TB, feature, min string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	release := kernelRelease(t)
	older, parseErr := olderThan(release, min)
	switch {
	case parseErr != nil:
		t.Fatalf("%s: %v", feature, parseErr)
	case older:
		t.Skipf("%s needs Linux %s, this is %s: %v", feature, min, release, err)
	}
	t.Fatalf("%s should work on Linux %s: %v", feature, release, err)
}

func kernelRelease(t testing.TB) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatalf("uname: %v", err)
	}
	return unix.ByteSliceToString(name.Release[:])
}

// olderThan compares a release, as uname has it, with a version "6.1".
func olderThan(release, version string) (bool, error) {
	if version == "" {
		return false, nil
	}
	have, err := majorMinor(release)
	if err != nil {
		return false, err
	}
	need, err := majorMinor(version)
	if err != nil {
		return false, err
	}
	return have[0] < need[0] || have[0] == need[0] && have[1] < need[1], nil
}

func majorMinor(version string) (v [2]int, err error) {
	parts := strings.FieldsFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return v, fmt.Errorf("%q is no kernel version", version)
	}
	for i := range v {
		if v[i], err = strconv.Atoi(parts[i]); err != nil {
			return v, fmt.Errorf("%q is no kernel version: %w", version, err)
		}
	}
	return v, nil
}
