package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A hypervisor boots machines under qemu.
type hypervisor struct {
	options options
	dir     string            // for files
	images  map[string]string // initramfs of each kernel, by release
}

// modules are what the tests may use and Debian does not build in.
var modules = []string{
	"veth", "bridge", "overlay", "vxlan", "sch_ingress", "cls_bpf",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_fib_inet", "nf_conntrack_netlink",
	"dummy", "tun", "ip_vs", "ip_vs_rr",
}

// programs of this machine are what the tests look at the network with.
var programs = []string{"ip", "nft"}

// cpu is the processor of the machines: all that qemu knows, but for cmpxchg16b,
// which qemu 7.2 emulates so that 6.12 panics in its allocator, and for what makes
// emulation slow: copies by single bytes, checks at each access to user space,
// page tables of five levels, registers that are saved at each switch.
const cpu = "max,-cx16,-erms,-smap,-smep,-la57,-xsave,-avx,-avx2,-pku"

// commandLine is the kernels'. no_timer_check: an emulated timer that is late is
// not one that fails. rcu_expedited: grace periods end as soon as they can, not at
// the next tick.
const commandLine = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off no_timer_check rcupdate.rcu_expedited=1"

// run is a [runMachine].
func (h *hypervisor) run(ctx context.Context, k kernel, number int, next func() (task, bool)) (r results, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.options.timeout)
	defer cancel()
	console := filepath.Join(h.dir, fmt.Sprintf("console-%s-%d", k.release, number))
	cmd := h.command(ctx, k, console)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return r, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return r, fmt.Errorf("start qemu: %w", err)
	}
	var lines io.Reader = stdout
	if h.options.verbose {
		lines = io.TeeReader(stdout, &prefixer{prefix: fmt.Sprintf("[%s#%d] ", k.series, number), w: os.Stdout})
	}
	readErr := r.read(lines, func() error { return tell(stdin, next) })
	if readErr != nil {
		cancel() // nobody reads on, and the machine would wait for that
	}
	err = cmd.Wait()
	switch {
	case readErr != nil:
		err = fmt.Errorf("kernel %s: read results: %w", k.release, readErr)
	case ctx.Err() != nil:
		err = fmt.Errorf("kernel %s was not done after %v", k.release, time.Since(start).Round(time.Second))
	case err != nil:
		err = fmt.Errorf("kernel %s: qemu: %w: %s", k.release, err, strings.TrimSpace(stderr.String()))
	default:
		err = r.check(k.release)
	}
	if err == nil {
		return r, nil
	}
	if log, readErr := os.ReadFile(console); readErr == nil && len(log) > 0 {
		err = fmt.Errorf("%w; its console ends:\n%s", err, tail(log, 6000))
	}
	return r, err
}

// command is qemu with a machine whose second serial line is its standard input
// and output.
func (h *hypervisor) command(ctx context.Context, k kernel, console string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", cpu,
		"-smp", "1", "-m", fmt.Sprint(h.options.memory),
		"-kernel", k.image, "-initrd", h.images[k.release], "-append", commandLine,
		"-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none",
		"-serial", "file:"+console, "-serial", "stdio")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// tell answers a machine that asks for work: a folder and its tests, or nothing.
func tell(w io.Writer, next func() (task, bool)) error {
	line := ""
	if t, ok := next(); ok {
		line = t.dir + " " + t.tests
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// pack writes the initramfs of a kernel's machines.
func (h *hypervisor) pack(ctx context.Context, k kernel, packages []testPackage) (err error) {
	file := filepath.Join(h.dir, "initramfs-"+k.release)
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h.images[k.release] = file
	a := newArchive(f)
	return errors.Join(packSystem(ctx, a, k), h.packTests(a, packages), a.close())
}

// packSystem writes what tests run on.
func packSystem(ctx context.Context, a *archive, k kernel) error {
	loads, err := findModules(ctx, k, modules...)
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
	return nil
}

// packTests writes the tests' programs and what they read.
func (h *hypervisor) packTests(a *archive, packages []testPackage) error {
	for _, p := range packages {
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
	limit := h.options.timeout * 3 / 4
	return a.add("tests/timeout", modeFile, []byte(limit.String()))
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
