package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// helperEnv names the helper that a test binary is to be.
const helperEnv = "WARREN_TEST_HELPER"

// Main is a package's TestMain for tests that need other processes: the test
// binary, started by Command with a helper's name, is that helper. It is there
// wherever the test is, also in a machine that has nothing else.
//
//	func TestMain(m *testing.M) {
//		testkit.Main(m, map[string]func(args []string) int{"listen": listen})
//	}
func Main(m *testing.M, helpers map[string]func(args []string) int) {
	name, ok := os.LookupEnv(helperEnv)
	if !ok {
		os.Exit(m.Run())
	}
	helper := helpers[name]
	if helper == nil {
		fmt.Fprintf(os.Stderr, "no helper %q\n", name)
		os.Exit(2)
	}
	os.Exit(helper(os.Args[1:]))
}

// Command is the test binary as a helper of Main's. It is killed when the test
// ends, if it has not by then.
func Command(t testing.TB, helper string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+helper)
	cmd.Stderr = os.Stderr
	return cmd
}

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}
