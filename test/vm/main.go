// Command vm runs the tests that need root, and a kernel of their choice, on
// Debian's kernels 6.1 and 6.12 under qemu's emulation: every test named TestBPF
// or TestRoot of every package that has one, as a static binary in an initramfs.
//
//	go run ./test/vm [-kernels 6.1,6.12] [-run REGEXP] [-v] [PACKAGE...]
//
// It fails if a test fails twice or is skipped there without being listed in
// allowed.go, if a package has no such test, or if a sensor did not use the best
// way that it has to attach a hook.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	cache    string
	kernels  string
	run      string
	update   bool
	verbose  bool
	timeout  time.Duration
	memory   int
	machines int
}

// defaultRun are the tests that are made for the machines.
const defaultRun = "^Test(BPF|Root)"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.cache, "cache", ".cache/vm", "folder that keeps fetched kernels")
	flag.StringVar(&o.kernels, "kernels", "6.1,6.12", "series to run on")
	flag.StringVar(&o.run, "run", defaultRun, "which tests")
	flag.BoolVar(&o.update, "update", false, "look for newer kernels than the cached")
	flag.BoolVar(&o.verbose, "v", false, "print everything the tests print as it comes")
	flag.DurationVar(&o.timeout, "timeout", 60*time.Minute, "for each machine")
	flag.IntVar(&o.memory, "memory", 1536, "MiB of each machine")
	flag.IntVar(&o.machines, "machines", runtime.NumCPU(), "how many run side by side")
	flag.Parse()
	if err := vm(ctx, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		stop()
		os.Exit(1)
	}
}

func vm(ctx context.Context, o options, patterns []string) (err error) {
	wanted, err := parseKernels(o.kernels)
	if err != nil {
		return err
	}
	if o.machines < 1 {
		return fmt.Errorf("-machines %d: at least one must run", o.machines)
	}
	cache, err := filepath.Abs(o.cache)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "warren-vm-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	packages, err := packagesWithTests(ctx, patterns)
	if err != nil {
		return err
	}
	var plans []*plan
	for _, s := range wanted {
		k, err := findKernel(ctx, cache, s, o.update)
		if err != nil {
			return err
		}
		plans = append(plans, newPlan(k, packages, o.run))
	}
	if err := compile(ctx, packages, work); err != nil {
		return err
	}
	h := &hypervisor{options: o, dir: work, images: make(map[string]string)}
	for _, p := range plans {
		if err := h.pack(ctx, p.kernel, packages); err != nil {
			return fmt.Errorf("pack the initramfs of %s: %w", p.kernel.release, err)
		}
	}
	s := schedule{plans: plans, machine: h.run}
	s.work(ctx, o.machines)
	again(ctx, plans, h.run, o.machines)

	report := newReport(os.Stdout, o.run == defaultRun)
	for _, p := range plans {
		report.plan(p)
	}
	return report.finish()
}

// parseKernels reads names of series with commas between.
func parseKernels(names string) (wanted []series, err error) {
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(allSeries, func(s series) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-kernels: there is no series %q", name)
		}
		wanted = append(wanted, allSeries[i])
	}
	return wanted, nil
}
