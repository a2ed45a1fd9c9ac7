package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	figRoadRR    = "two pods of a node, 5,000 policies: TCP request and response / plain routing"
	figRoadCRR   = "two pods of a node, 5,000 policies: TCP connect, request and response / plain routing"
	figRoadFlat  = "the same: 5,000 policies / none"
	figRoadNft   = "the same connectivity: 5,000 rules of nftables / plain routing"
	figRoadMap   = "the same connectivity: 5,000 elements of nftables' maps / plain routing"
	figRoadTable = "the same connectivity: 5,000 rules of iptables / plain routing"

	figEgress      = "program for what a pod sends, a known flow"
	figIngress     = "program for what a pod is sent, a known flow"
	figEgressMany  = "program for what a pod sends, 50,000 flows in turn"
	figIngressMany = "program for what a pod is sent, 50,000 flows in turn"

	figPolicyNothing = "1,000 policies, 10,000 pods: from nothing to the kernel"
	figPolicyChange  = "1,000 policies, 10,000 pods: one change to the kernel"
	figChanges       = "10,000 changes of policy under traffic: verdicts that are wrong"

	figOwnerFailed = "the datapath's owner killed and upgraded under traffic: connections that fail"
	figOwnerDenied = "the same: packets that policy denies and that pass"
	figOwnerRate   = "the same: connections a second meanwhile"

	figRecords      = "100,000 flow records a second: CPU"
	figRecordsLost  = "flow records: not read and not counted as lost"
	figRecordsSmall = "flow records, ring of 4 KiB: lost, so that the above means something"
)

// networkParts are those of -network: all in network namespaces that they make.
var networkParts = []part{
	{"roads", (*bench).roads, []string{figRoadRR, figRoadCRR, figRoadFlat, figRoadNft, figRoadMap, figRoadTable}},
	{"programs", (*bench).programs, []string{figEgress, figIngress, figEgressMany, figIngressMany}},
	{"policy", (*bench).policy, []string{figPolicyNothing, figPolicyChange}},
	{"changes", (*bench).changes, []string{figChanges}},
	{"owner", (*bench).owner, []string{figOwnerFailed, figOwnerDenied, figOwnerRate}},
	{"records", (*bench).records, []string{figRecords, figRecordsLost, figRecordsSmall}},
}

// quietLoad is the most that a machine may have had to do in the last minute, if
// figures of speed are to be believed.
const quietLoad = 1.5

// tellLoad notes how busy the machine is.
func (b *bench) tellLoad() {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		fmt.Fprintf(b.log, "nobody knows how busy the machine is: %v\n", err)
		return
	}
	load, _, _ := strings.Cut(string(text), " ")
	busy := ""
	if v, err := strconv.ParseFloat(load, 64); err != nil || v > quietLoad {
		busy = fmt.Sprintf(": more than %v, speeds are not what they would be on a quiet machine", quietLoad)
	}
	fmt.Fprintf(b.log, "load at the start %s%s\n", load, busy)
}

// once has a benchmark run once: those of the network know how much to do.
const once = "1x"

// inDatapath runs benchmarks of package datapath, which is compiled once; weight
// is what they are told beside.
func (b *bench) inDatapath(ctx context.Context, c costs, pattern, times string, count int, weight ...string) error {
	program := filepath.Join(b.dir, "datapath.test")
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./datapath").CombinedOutput(); err != nil {
			return fmt.Errorf("go test -c ./datapath: %w: %s", err, out)
		}
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", times, "-test.count", strconv.Itoa(count), "-test.timeout", "1h")
	cmd.Dir = "datapath"
	cmd.Env = append(append(os.Environ(), "TMPDIR="+b.dir), weight...)
	// What it mounts ends with it, however that is.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	c.parse(string(out))
	c.dropSuffix()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", pattern, err, out)
	}
	return nil
}

// roundsAre tells benchmarks how long each side of a round is to be, and how many
// rounds.
func roundsAre(length time.Duration, rounds int) []string {
	return []string{"WARREN_BENCH_MS=" + strconv.Itoa(int(length.Milliseconds())), "WARREN_BENCH_ROUNDS=" + strconv.Itoa(rounds)}
}

// networkRound is how long a side of a round lasts: as long for all, or very
// short.
func (b *bench) networkRound() time.Duration {
	if b.rounds < fullNetworkRounds {
		return 100 * time.Millisecond
	}
	return time.Second
}

// fullNetworkRounds are as many as a figure wants.
const fullNetworkRounds = 7

// roads compares how two pods of a node talk.
func (b *bench) roads(ctx context.Context) error {
	c := make(costs)
	err := b.inDatapath(ctx, c, "^BenchmarkRoads$", once, 1, roundsAre(b.networkRound(), b.rounds)...)
	m := c["BenchmarkRoads"]
	if m == nil {
		return err
	}
	spreadOf := func(name string) spread { return spread{m[name], m[name+"-low"], m[name+"-high"]} }
	detail := func(what string) string {
		return fmt.Sprintf("without policies %v, 1,000 %v; %.0f against %.0f a second", spreadOf(what+"/warren-0"), spreadOf(what+"/warren-1000"),
			m[what+"/warren-5000/s"], m[what+"/plain/s"])
	}
	for what, name := range map[string]string{"rr": figRoadRR, "crr": figRoadCRR} {
		ratio := spreadOf(what + "/warren-5000")
		aim := ""
		if ratio.median >= 1.1 {
			aim = ", which is reached"
		}
		b.add(name, ratio.median >= 0.95/b.slack && m["failed"] == 0, "at least 0.95; the aim is 1.1"+aim, "%v in %d rounds; %s", ratio, b.rounds, detail(what))
	}
	// Two runs of the same differ by as much.
	const noise = 0.97
	b.add(figRoadFlat, min(m["rr/flat"], m["crr/flat"]) >= noise/b.slack, "1 (±3 % is noise)", "%v, with connecting %v", spreadOf("rr/flat"), spreadOf("crr/flat"))
	for side, name := range map[string]string{"nft": figRoadNft, "nft-map": figRoadMap, "iptables": figRoadTable} {
		b.add(name, true, "for comparison", "%v, with connecting %v", spreadOf("rr/"+side), spreadOf("crr/"+side))
	}
	how := "SCHED_FIFO"
	if m["fifo"] == 0 {
		how = "without SCHED_FIFO, which was refused"
	}
	fmt.Fprintf(b.log, "roads: both ends on one processor, %s; %.0f flow events read meanwhile, %.0f lost; %.0f connections failed\n", how, m["events"], m["events-lost"], m["failed"])
	return err
}

// programs is what the programs cost by themselves, with 5,000 policies.
func (b *bench) programs(ctx context.Context) error {
	c := make(costs)
	err := b.inDatapath(ctx, c, "^BenchmarkBPFPacket$/^IPv[46]$/^(out-pod|in-stack|in-node)$", once, max(b.rounds/3, 1))
	for _, f := range []struct {
		name  string
		paths []string
		limit float64 // ns, 0 for none
		flows int
	}{
		{figEgress, []string{"out-pod"}, 220, 1}, {figIngress, []string{"in-stack", "in-node"}, 130, 1},
		{figEgressMany, []string{"out-pod"}, 0, 50_000}, {figIngressMany, []string{"in-stack", "in-node"}, 0, 50_000},
	} {
		var said []string
		most, floor := 0.0, 0.0
		for _, path := range f.paths {
			for _, version := range []string{"IPv4", "IPv6"} {
				name := fmt.Sprintf("BenchmarkBPFPacket/%s/%s/flows=%d", version, path, f.flows)
				ns, missing := c.get(name, "ns/packet")
				if missing != nil {
					return errors.Join(err, missing)
				}
				most, floor = max(most, ns), max(floor, c[name]["floor-ns"])
				said = append(said, fmt.Sprintf("%s %s %.0f", path, version, ns))
			}
		}
		limit := "for comparison"
		if f.limit > 0 {
			limit = fmt.Sprintf("at most %.0f ns", f.limit)
		}
		b.add(f.name, f.limit == 0 || most <= f.limit*b.slack, limit, "%.0f ns (%s), of which an empty program's run is %.0f", most, strings.Join(said, ", "), floor)
	}
	return err
}

// policy is how long policy takes to the kernel.
func (b *bench) policy(ctx context.Context) error {
	c := make(costs)
	err := b.inDatapath(ctx, c, "^BenchmarkApplyChange$", strconv.Itoa(20*b.rounds)+"x", 1)
	m := c["BenchmarkApplyChange"]
	if m == nil {
		return err
	}
	b.add(figPolicyNothing, m["ms-nothing"] < 2000*b.slack, "below 2 s", "%.2f s, 100 of the pods on the node", m["ms-nothing"]/1000)
	mean := m["ms-compile/op"] + m["ms-in-force/op"]
	b.add(figPolicyChange, mean < 50*b.slack, "below 50 ms", "%.1f ms, %.1f at most (compiled in %.1f, in force %.1f later, all tidied up after %.1f)", mean, m["ms-worst"],
		m["ms-compile/op"], m["ms-in-force/op"], m["ms-apply/op"])
	return err
}

// changes changes policy under traffic.
func (b *bench) changes(ctx context.Context) error {
	want := 10_000
	if b.rounds < fullNetworkRounds {
		want = 30
	}
	c := make(costs)
	err := b.inDatapath(ctx, c, "^BenchmarkChanges$", once, 1, "WARREN_BENCH_CHANGES="+strconv.Itoa(want))
	m := c["BenchmarkChanges"]
	if m == nil {
		return err
	}
	b.add(figChanges, err == nil && m["wrong"] == 0 && m["verdicts"] > m["changes"], "0", "%.0f of %.0f (%.0f to deny) in %.0f changes and %.0f packets; %.0f too old to say",
		m["wrong"], m["verdicts"], m["verdicts-deny"], m["changes"], m["packets"], m["unknown"])
	return err
}

// owner ends the datapath's owner again and again.
func (b *bench) owner(ctx context.Context) error {
	c := make(costs)
	err := b.inDatapath(ctx, c, "^BenchmarkOwner$", once, 1, roundsAre(b.networkRound(), b.rounds)...)
	m := c["BenchmarkOwner"]
	if m == nil {
		return err
	}
	b.add(figOwnerFailed, err == nil && m["failed"] == 0 && m["connections"] > 0 && m["kills"] > 0 && m["upgrades"] > 0, "0",
		"%.0f of %.0f; %.0f packets sent twice, the slowest took %.1f ms; %.0f times killed, %.0f times upgraded", m["failed"], m["connections"], m["resent"], m["ms-slowest"], m["kills"], m["upgrades"])
	b.add(figOwnerDenied, err == nil && m["denied-passed"] == 0 && m["denied"] > 0, "0", "%.0f of %.0f", m["denied-passed"], m["denied"])
	b.add(figOwnerRate, m["connections/s"] >= 10_000/b.slack, "at least 10,000", "%.0f", m["connections/s"])
	return err
}

// records is what it costs to read flows, and whether all come.
func (b *bench) records(ctx context.Context) error {
	c := make(costs)
	err := errors.Join(
		b.inDatapath(ctx, c, "^BenchmarkRecords$", once, 1, roundsAre(b.networkRound(), b.rounds)...),
		b.goBench(ctx, c, "./sensor/flow", "^BenchmarkTell$/^both_ends$"),
		b.goBench(ctx, c, "./pipeline", "^BenchmarkMatch$/^before-the-queue$"),
	)
	m, small := c["BenchmarkRecords/default"], c["BenchmarkRecords/small"]
	if m == nil || small == nil {
		return err
	}
	unaccounted := func(m map[string]float64) float64 {
		return math.Abs(m["unread"]) + math.Abs(m["begun-missing"]) + m["ended-missing"]
	}
	b.add(figRecordsLost, unaccounted(m) == 0 && unaccounted(small) == 0, "0", "%.0f of %.0f of %.0f connections, %.0f counted as lost, %.0f ends as not noticed; small ring %.0f of %.0f",
		unaccounted(m), m["told"]+m["lost"], m["connections"], m["lost"], m["ended-unnoticed"], unaccounted(small), small["told"]+small["lost"])
	b.add(figRecordsSmall, small["lost"] > 0, "some", "%.0f", small["lost"])
	tell, err1 := c.get("BenchmarkTell/both_ends", "ns/op")
	deliver, err2 := c.get("BenchmarkMatch/before-the-queue", "ns/op")
	if missing := errors.Join(err1, err2); missing != nil {
		return errors.Join(err, missing)
	}
	// A record makes two events where both pods are here.
	sum := m["cpu-ns/record"] + tell + 2*deliver
	b.add(figRecords, sum <= 5000*b.slack && m["records/s"] >= 100_000/b.slack, "below half a core", "%.3f of a core (%.0f ns each: ring %.0f, at %.0f a second; two events of it %.0f, filter %.0f)",
		sum/10_000, sum, m["cpu-ns/record"], m["records/s"], tell, 2*deliver)
	return err
}
