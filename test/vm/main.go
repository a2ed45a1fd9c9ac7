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
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	cache   string
	kernels string
	run     string
	update  bool
	verbose bool
	timeout time.Duration
	memory  int
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
	flag.DurationVar(&o.timeout, "timeout", 60*time.Minute, "for each kernel")
	flag.IntVar(&o.memory, "memory", 1536, "MiB of each machine")
	flag.Parse()
	if err := vm(ctx, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		stop()
		os.Exit(1)
	}
}

func vm(ctx context.Context, o options, patterns []string) error {
	cache, err := filepath.Abs(o.cache)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "warren-vm-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()

	packages, err := packagesWithTests(ctx, patterns)
	if err != nil {
		return err
	}
	if err := compile(ctx, packages, work); err != nil {
		return err
	}

	var wanted []series
	for name := range strings.SplitSeq(o.kernels, ",") {
		i := slices.IndexFunc(allSeries, func(s series) bool { return s.name == name })
		if i < 0 {
			return fmt.Errorf("no kernel series %q", name)
		}
		wanted = append(wanted, allSeries[i])
	}
	// Kernels are fetched one after the other (apt), then run side by side.
	machines := make([]*machine, len(wanted))
	for i, s := range wanted {
		k, err := findKernel(ctx, cache, s, o.update)
		if err != nil {
			return err
		}
		machines[i] = &machine{kernel: k, options: o, dir: filepath.Join(work, s.name), packages: packages}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(machines))
	for i, m := range machines {
		wg.Go(func() { errs[i] = m.run(ctx) })
	}
	wg.Wait()

	report := newReport(os.Stdout)
	for i, m := range machines {
		report.machine(m, errs[i])
	}
	return report.finish()
}

// A testPackage is one whose tests run in the machines.
type testPackage struct {
	dir    string // below the tree's root: sensor/process
	binary string
}

var testName = regexp.MustCompile(`(?m)^func Test(BPF|Root)`)

// packagesWithTests finds the packages that have tests for the machines: all of
// them or, of the patterns, those that have. Those below test have programs of
// their own, which want a compiler.
func packagesWithTests(ctx context.Context, patterns []string) ([]testPackage, error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	args := append([]string{"list", "-e", "-f", `{{.Dir}}`}, patterns...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	var found []testPackage
	for line := range strings.Lines(string(out)) {
		dir := strings.TrimSpace(line)
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(rel, "test/") {
			continue
		}
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if testName.Match(source) {
				found = append(found, testPackage{dir: rel})
				break
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no package of %s has a test named TestBPF or TestRoot", strings.Join(patterns, " "))
	}
	return found, nil
}

// compile builds the packages' tests: static, for the machines have no C
// library.
func compile(ctx context.Context, packages []testPackage, dir string) error {
	for i := range packages {
		p := &packages[i]
		p.binary = filepath.Join(dir, strings.ReplaceAll(p.dir, "/", "-")+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", p.binary, "./"+p.dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("compile the tests of %s: %w", p.dir, err)
		}
	}
	return nil
}

// A machine is one kernel under qemu with the tests of all packages.
type machine struct {
	kernel   kernel
	options  options
	dir      string
	packages []testPackage
	results  results
	took     time.Duration
}

// A task is one call of a package's test binary.
type task struct {
	dir   string // the package's
	tests string // -test.run
}

// modules are what the tests may use and Debian does not build in.
var modules = []string{
	"veth", "bridge", "overlay", "vxlan", "sch_ingress", "cls_bpf",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_fib_inet", "nf_conntrack_netlink",
	"dummy", "tun", "ip_vs", "ip_vs_rr",
}

// programs of this machine are what the tests look at the network with.
var programs = []string{"ip", "nft"}

// run has the machine run the tests, and boots it once more for those that
// failed.
func (m *machine) run(ctx context.Context) error {
	start := time.Now()
	defer func() { m.took = time.Since(start) }()
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	var all []task
	for _, p := range m.packages {
		all = append(all, task{p.dir, m.options.run})
	}
	if err := m.boot(ctx, all, &m.results); err != nil {
		return err
	}
	failed := m.results.again()
	if len(failed) == 0 {
		return nil
	}
	var alone []task
	for _, f := range failed {
		alone = append(alone, task{f.dir, "^" + f.test + "$"})
	}
	var second results
	if err := m.boot(ctx, alone, &second); err != nil {
		return fmt.Errorf("tests that failed, once more: %w", err)
	}
	m.results.settle(failed, &second)
	return nil
}

// cpu is the processor of the machines: all that qemu knows, but for cmpxchg16b,
// which qemu 7.2 emulates so that 6.12 panics in its allocator, and for what makes
// emulation slow: copies by single bytes, checks at each access to user space,
// page tables of five levels, registers that are saved at each switch.
const cpu = "max,-cx16,-erms,-smap,-smep,-la57,-xsave,-avx,-avx2,-pku"

// boot packs the initramfs, runs the machine to its end and reads its results.
func (m *machine) boot(ctx context.Context, tasks []task, into *results) error {
	initramfs := filepath.Join(m.dir, "initramfs")
	if err := m.pack(ctx, initramfs, tasks); err != nil {
		return fmt.Errorf("pack initramfs: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, m.options.timeout)
	defer cancel()
	console := filepath.Join(m.dir, "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", cpu,
		"-smp", "1", "-m", fmt.Sprint(m.options.memory),
		"-kernel", m.kernel.image, "-initrd", initramfs,
		// no_timer_check: an emulated timer that is late is not one that fails.
		// rcu_expedited: grace periods end as soon as they can, not at the next tick.
		"-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off no_timer_check rcupdate.rcu_expedited=1",
		"-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none",
		"-serial", "file:"+console, "-serial", "stdio")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	var lines io.Reader = stdout
	if m.options.verbose {
		lines = io.TeeReader(stdout, &prefixer{prefix: "[" + m.kernel.series + "] ", w: os.Stdout})
	}
	readErr := into.read(lines)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("kernel %s was not done after %v", m.kernel.release, time.Since(start).Round(time.Second))
	case err != nil:
		err = fmt.Errorf("qemu: %w: %s", err, strings.TrimSpace(stderr.String()))
	case readErr != nil:
		err = fmt.Errorf("read results: %w", readErr)
	case !into.done:
		err = fmt.Errorf("kernel %s ended before the tests did", m.kernel.release)
	default:
		return nil
	}
	if log, readErr := os.ReadFile(console); readErr == nil && len(log) > 0 {
		err = fmt.Errorf("%w; its console ends:\n%s", err, tail(log, 6000))
	}
	return errors.Join(err)
}

// pack writes the machine's initramfs.
func (m *machine) pack(ctx context.Context, file string, tasks []task) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a := newArchive(f)
	loads, err := findModules(ctx, m.kernel, modules...)
	if err != nil {
		return err
	}
	for i, mod := range loads {
		if err := a.add(fmt.Sprintf("modules/%03d-%s.ko", i, mod.name), modeFile, mod.data); err != nil {
			return err
		}
	}
	if err := a.add("init", modeExec, initScript); err != nil {
		return err
	}
	if err := a.addFile("bin/busybox", modeExec, "/bin/busybox"); err != nil {
		return err
	}
	for _, name := range programs {
		if err := a.addProgram(ctx, name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "run", "root", "etc"} {
		if err := a.add(dir, modeDir, nil); err != nil {
			return err
		}
	}
	var list strings.Builder
	for _, t := range tasks {
		fmt.Fprintln(&list, t.dir, t.tests)
	}
	for _, p := range m.packages {
		if !slices.ContainsFunc(tasks, func(t task) bool { return t.dir == p.dir }) {
			continue
		}
		to := "tests/" + p.dir
		if err := a.addFile(to+"/test", modeExec, p.binary); err != nil {
			return err
		}
		if err := a.addTree(to+"/testdata", filepath.Join(p.dir, "testdata")); err != nil {
			return err
		}
	}
	// A hanging test should be named by go test's own time limit, before ours
	// ends the machine.
	limit := m.options.timeout * 3 / 4
	for name, content := range map[string]string{
		"tests/list": list.String(), "tests/timeout": limit.String(),
	} {
		if err := a.add(name, modeFile, []byte(content)); err != nil {
			return err
		}
	}
	return a.close()
}

// prefixer copies lines with a prefix.
type prefixer struct {
	prefix string
	w      io.Writer
	line   []byte
}

func (p *prefixer) Write(b []byte) (int, error) {
	for _, c := range b {
		p.line = append(p.line, c)
		if c == '\n' {
			_, _ = io.WriteString(p.w, p.prefix+string(p.line))
			p.line = p.line[:0]
		}
	}
	return len(b), nil
}

// tail is the end of a log, from a line's beginning.
func tail(log []byte, n int) string {
	s := string(log)
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	_, rest, _ := strings.Cut(s, "\n")
	return rest
}
