// Command bench measures every figure that docs/performance.md promises, beside
// what each is compared with, in one run.
//
//	go run ./test/bench [-files | -network | -history | -rules | -cluster [-ceiling]] [-short] [-seconds N] [-rounds N] [-only PART,...]
//
// It prints one line for each figure and exits 1 if one of them is not reached,
// could not be measured, or is promised and not among them. It needs root, the
// built bin/warren, gcc and libbpf-tools; it touches nothing but processes,
// folders and a loopback port of its own. -short is for CI: less weight, the same
// paths, and comparisons of speed only as far as a busy machine allows.
//
// With -network the figures are those of pods' connections, the third table of the
// page: measured in network namespaces of its own, with nft and iptables.
//
// With -files the figures are those of files and system calls, the fourth table.
// They need make and opensnoop; where WARREN_TEST_DATA names a folder with
// falco_rules.yaml, its rules are among those that are asked for.
//
// With -history the figures are those of the history, the fifth table: events made
// up by package traffic, kept by processes of this program's own.
//
// With -rules the figures are those of rules and alerts, the sixth table: Falco's
// stable rules, which WARREN_TEST_DATA says the folder of, and the attacks of
// package attack. They need make, podman and runc.
//
// With -cluster the figures are those of a Kubernetes cluster, the second table
// of the page. They need root and the programs of package bed, and are measured
// in clusters of their own, bench-scale and bench-demo, which are taken down; with
// -ceiling also what such a cluster does without Warren.
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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"warren/test/cluster/bed"
)

// weight is how long things are measured.
type weight struct {
	storm       time.Duration // the storm that must lose nothing
	smallRing   time.Duration // the storm that must lose
	flood       time.Duration // of opens and processes; a third of it where opens must be lost
	round       time.Duration // each side of a round
	rounds      int
	churn       int // processes started before the heap is read
	connections int
	idle        time.Duration // before the idle heap is read
	nodes, pods int           // simulated ones of the cluster
	comeAndGo   time.Duration // pods, when all are there
	ceiling     bool          // how fast they can is measured without Warren, too
	// slack widens limits that compare speeds, for machines with other work.
	slack float64
}

var (
	fullWeight = weight{
		storm: time.Minute, smallRing: 20 * time.Second, flood: time.Minute, round: 6 * time.Second, rounds: 10,
		churn: 1_000_000, connections: 1000, idle: 30 * time.Second, nodes: 1000, pods: 20_000, comeAndGo: 3 * time.Minute, slack: 1,
	}
	shortWeight = weight{
		storm: 5 * time.Second, smallRing: 3 * time.Second, flood: 3 * time.Second, round: time.Second, rounds: 3,
		churn: 30_000, connections: 1000, idle: 2 * time.Second, nodes: 50, pods: 800, comeAndGo: 20 * time.Second, slack: 2,
	}
)

// bench is what the parts share.
type bench struct {
	weight
	dir     string // of this run, removed at its end
	warren  string // the program
	load    string // load.c, compiled
	agents  int
	figures []figure
	log     io.Writer // progress
	table   io.Writer // what is no figure, but measured
}

// A part measures some figures.
type part struct {
	name    string
	measure func(*bench, context.Context) error
	figures []string // what it must give
}

var parts = []part{
	{"start", (*bench).firstEvent, []string{figFirstEvent}},
	{"storm", (*bench).storm, []string{figStormLost, figStormWrong, figStormRate}},
	{"peers", (*bench).peers, []string{figPeersCPU, figPeersSlowdown}},
	{"ring", (*bench).smallRing, []string{figRingExact, figRingLost}},
	{"connections", (*bench).shortConnections, []string{figConnections}},
	{"calls", (*bench).calls, []string{figCalls}},
	{"code", (*bench).code, []string{figThroughput, figFilter, figFilterAllocs}},
	{"heap", (*bench).heap, []string{figHeapIdle, figHeapChurn}},
}

// clusterParts are those of -cluster.
var clusterParts = []part{
	{"hub", (*bench).hub, []string{figHubCPU, figHubFirst}},
	{"emit", (*bench).emitInCluster, []string{figEmit}},
	{"feed", (*bench).feed, []string{figFeedHeap, figFeedStart, figFeedCPU, figFeedLag, figFeedWrong, figFeedHub, figFeedRate}},
	{"demo", (*bench).demo, []string{figDemo}},
	{"scale", (*bench).scale, []string{figScaleHeap, figScaleStart, figScaleCPU, figScaleWatch, figScaleHubHeap, figScaleHubCPU, figScaleChurn, figScaleKnown}},
}

func main() {
	bed.Child()
	historyChild()
	// What is started here, agents above all, is to end with the thread that has started
	// it: with this one, which no goroutine that binds its own and lets it go can have.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ofNetwork := flag.Bool("network", false, "the figures of pods' connections")
	ofFiles := flag.Bool("files", false, "the figures of files and system calls")
	ofEvents := flag.Bool("history", false, "the figures of the history")
	ofAlerts := flag.Bool("rules", false, "the figures of rules and alerts")
	inCluster := flag.Bool("cluster", false, "the figures of a Kubernetes cluster")
	short := flag.Bool("short", false, "little weight, for CI")
	ceiling := flag.Bool("ceiling", false, "with -cluster: how fast pods can come and go without Warren, too, where the machine is too slow for what is promised")
	seconds := flag.Int("seconds", 0, "length of the long loads instead of the default")
	rounds := flag.Int("rounds", 0, "interleaved rounds instead of the default")
	only := flag.String("only", "", "parts to run, by comma")
	warren := flag.String("warren", "bin/warren", "the program")
	flag.Parse()
	w := fullWeight
	if *short {
		w = shortWeight
	}
	if *seconds > 0 {
		w.storm = time.Duration(*seconds) * time.Second
		w.flood = w.storm
		w.smallRing = max(w.storm/3, 2*time.Second)
		w.round = max(w.storm/10, time.Second)
		w.comeAndGo = 3 * w.storm
	}
	w.ceiling = *ceiling
	if *rounds > 0 {
		w.rounds = *rounds
	}
	if err := run(ctx, w, *warren, *only, setOf(*ofNetwork, *inCluster, *ofFiles, *ofEvents, *ofAlerts), *short); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// The sets of figures are numbered as the tables of docs/performance.md.
const (
	ofMachine = 1 + iota
	ofCluster
	ofNetwork
	ofFiles
	ofHistory
	ofRules
)

func setOf(network, cluster, files, history, rules bool) int {
	switch {
	case rules:
		return ofRules
	case history:
		return ofHistory
	case files:
		return ofFiles
	case network:
		return ofNetwork
	case cluster:
		return ofCluster
	}
	return ofMachine
}

func run(ctx context.Context, w weight, warren, only string, table int, short bool) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	// One switch for the machine, which makes every program dearer.
	stats, err := os.ReadFile("/proc/sys/kernel/bpf_stats_enabled")
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(stats)) != "0" {
		return errors.New("kernel.bpf_stats_enabled is on: figures would be wrong")
	}
	dir, err := os.MkdirTemp("", "warren-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{weight: w, dir: dir, load: filepath.Join(dir, "load"), log: os.Stderr, table: os.Stdout}
	if b.warren, err = filepath.Abs(warren); err != nil {
		return err
	}
	all := parts
	switch table {
	case ofCluster:
		all = clusterParts
	case ofNetwork:
		all = networkParts
		b.tellLoad()
	case ofFiles:
		all = filesParts
		b.tellLoad()
	case ofHistory:
		all = historyParts
		b.tellLoad()
	case ofRules:
		all = rulesParts
		b.tellLoad()
		if falcoRules() == "" {
			fmt.Fprintln(os.Stdout, "not measured: WARREN_TEST_DATA does not say where falco_rules.yaml is")
			return nil
		}
	}
	if table == ofMachine || table == ofFiles || table == ofRules {
		if err := compileLoad(ctx, b.load); err != nil {
			return err
		}
	}

	wanted := all
	if only != "" {
		names := strings.Split(only, ",")
		wanted = slices.DeleteFunc(slices.Clone(all), func(p part) bool { return !slices.Contains(names, p.name) })
		if len(wanted) != len(names) {
			return fmt.Errorf("no such part in %q", only)
		}
	}
	var promised []string
	if only == "" {
		text, err := os.ReadFile("docs/performance.md")
		if err != nil {
			return err
		}
		promised = promises(string(text), table)
	}
	for _, p := range wanted {
		start := time.Now()
		err := p.measure(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(b.log, "%s: %v\n", p.name, time.Since(start).Round(100*time.Millisecond))
		if err != nil {
			fmt.Fprintf(b.log, "%s: %v\n", p.name, err)
		}
		for _, name := range p.figures {
			if !slices.ContainsFunc(b.figures, func(f figure) bool { return f.name == name }) {
				if err == nil {
					err = errors.New("not measured")
				}
				why, _, _ := strings.Cut(err.Error(), "\n")
				b.figures = append(b.figures, figure{name: name, value: fmt.Sprintf("missing: %.100s", why)})
			}
		}
	}
	for _, name := range promised {
		if !slices.ContainsFunc(b.figures, func(f figure) bool { return f.name == name }) {
			b.figures = append(b.figures, figure{name: name, value: "missing: docs/performance.md promises it, nothing measures it"})
		}
	}
	return report(os.Stdout, b.figures, short)
}

// compileLoad makes the load program.
func compileLoad(ctx context.Context, to string) error {
	cmd := exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib",
		"-ffreestanding", "-fno-stack-protector", "-o", to, "test/bench/load/load.c")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile load.c: %w: %s", err, out)
	}
	return nil
}

// A figure is one promise and what became of it.
type figure struct {
	name  string // as in docs/performance.md
	value string // measured
	limit string
	ok    bool
}

// add notes a figure.
func (b *bench) add(name string, ok bool, limit, format string, args ...any) {
	b.figures = append(b.figures, figure{name: name, value: fmt.Sprintf(format, args...), limit: limit, ok: ok})
}

// report prints the figures and gives an error if one is not as promised.
func report(w io.Writer, figures []figure, short bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tMEASURED\tPROMISED\t")
	bad := 0
	for _, f := range figures {
		verdict := "ok"
		if !f.ok {
			verdict = "NOT REACHED"
			bad++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.name, f.value, f.limit, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if short {
		fmt.Fprintln(w, "short: limits on speed are wider than promised; make bench measures for real")
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", len(figures)-bad, bad)
	if bad > 0 {
		return fmt.Errorf("%d figures are not as promised", bad)
	}
	return nil
}

// promises reads the names of the figures that docs/performance.md promises:
// the first column of its nth table, from 1, of those whose first column is
// headed "figure".
func promises(markdown string, nth int) []string {
	var names []string
	table, within := 0, false
	for line := range strings.Lines(markdown) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 3 {
			within = false
			continue
		}
		switch name := strings.TrimSpace(cells[1]); {
		case name == "figure":
			table++
			within = table == nth
		case within && !strings.HasPrefix(name, "-"):
			names = append(names, name)
		}
	}
	return names
}

// spread is the median of values with their range.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{median: m, low: v[0], high: v[len(v)-1]}
}

func (s spread) String() string { return fmt.Sprintf("%.3g (%.3g to %.3g)", s.median, s.low, s.high) }
