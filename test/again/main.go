// Command again runs go test and prints what it does; tests that failed it runs
// once more, each alone. One that passes then is told as flaky, and the run
// passes.
//
//	go run ./test/again [FLAG...] -- PACKAGE...
//
// A second try is for chance: a machine that was busy, a state that was waited
// for too short. There is none where more than five tests failed, where a
// package ended before all its tests had run (it did not compile, a test
// panicked or hung), or where the race detector spoke.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"warren/test/retry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	i := slices.Index(os.Args, "--")
	if i < 0 {
		fmt.Fprintln(os.Stderr, "usage: again [FLAG...] -- PACKAGE...")
		stop()
		os.Exit(2)
	}
	if err := again(ctx, os.Stdout, goTest, os.Args[1:i], os.Args[i+1:]); err != nil {
		fmt.Fprintln(os.Stderr, "again:", err)
		stop()
		os.Exit(1)
	}
}

// goTest runs go test, which writes events to w.
func goTest(ctx context.Context, w io.Writer, args []string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	return cmd.Run()
}

// again tests packages, and what fails once more. Its error says what has
// failed for good.
func again(ctx context.Context, w io.Writer, test func(ctx context.Context, w io.Writer, args []string) error, flags, packages []string) error {
	verbose := slices.Contains(flags, "-v")
	first := newRun(w, verbose)
	err := test(ctx, first, slices.Concat(flags, packages))
	if err == nil || ctx.Err() != nil {
		return err
	}
	failed, err := first.chance(err)
	if err != nil {
		return err
	}
	var twice []error
	var flaky []retry.Test
	for _, t := range failed {
		fmt.Fprintf(w, "\n%s failed; once more, alone:\n", t)
		second := newRun(w, verbose)
		// Of two flags that say the same the last counts.
		err := test(ctx, second, slices.Concat(flags, []string{"-count=1", "-run", t.Pattern(), t.Package}))
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s, once more: %w", t, ctx.Err())
		case err != nil || !second.passed(t):
			twice = append(twice, errors.New(t.Twice()))
		default:
			flaky = append(flaky, t)
		}
	}
	fmt.Fprintln(w)
	for _, t := range flaky {
		fmt.Fprintln(w, t.Flaky())
	}
	return errors.Join(twice...)
}
