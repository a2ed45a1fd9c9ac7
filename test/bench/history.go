package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// The figures of the history, the fifth table of docs/performance.md.
const (
	figKeepCPU      = "history: CPU for each connection event at 100,000 a second, sealing included"
	figKeepBytes    = "history: bytes for each connection event, hardly two alike"
	figKeepMixed    = "history: bytes and rows for each connection event, of processes that repeat themselves"
	figKeepHeap     = "history: heap at 100,000 connection events a second"
	figKeepRate     = "history: events a second that were taken in, so that the above means something"
	figKeepSQLite   = "history: CPU and bytes for each event / SQLite"
	figKeepJSON     = "history: CPU and bytes for each event / zstd JSON lines"
	figAskScan      = "history: a question about every event, cold"
	figAskNeedle    = "history: a question that statistics answer for nearly all, cold"
	figAskSQLite    = "history: both questions / SQLite, for each event that is kept"
	figAskJSON      = "history: both questions / zstd JSON lines, for each event that is kept"
	figCrashLost    = "history: kill -9: events lost that were older than a second"
	figCrashOldest  = "history: kill -9: age of the oldest event that was lost"
	figCrashDoubled = "history: kill -9: events twice or wrong, segments unreadable"
)

var historyParts = []part{
	{"keep", (*bench).keepHistory, []string{figKeepCPU, figKeepBytes, figKeepMixed, figKeepHeap, figKeepRate, figKeepSQLite, figKeepJSON}},
	{"ask", (*bench).askHistory, []string{figAskScan, figAskNeedle, figAskSQLite, figAskJSON}},
	{"crash", (*bench).crashHistory, []string{figCrashLost, figCrashOldest, figCrashDoubled}},
}

// offered is how many connection events a second come.
const offered = 100_000

// historyWeight is how much is kept and asked.
func (b *bench) historyWeight() (seconds, sqlite, lines, asked, rounds, crashes int64) {
	if b.light() {
		return 3, 50_000, 20_000, 500_000, 1, 8
	}
	return 20, 500_000, 100_000, 10_000_000, int64(min(b.rounds, 5)), 200
}

// keepEventsIn runs a keeper in a process of its own.
func (b *bench) keepEventsIn(ctx context.Context, name, dir string, events, rate int64, distinct bool) (kept, error) {
	var k kept
	err := runChild(ctx, &k, childKeep, name, dir, strconv.FormatInt(events, 10), strconv.FormatInt(rate, 10), strconv.FormatBool(distinct))
	return k, err
}

// keepHistory measures what it costs to keep events: what a process costs more
// that keeps them than one that only makes them, at the same rate.
func (b *bench) keepHistory(ctx context.Context) error {
	seconds, sqlite, lines, _, rounds, _ := b.historyWeight()
	var cpu, bytes, mixed, rows, heaps, rates, sqliteCPU, sqliteBytes, jsonCPU, jsonBytes []float64
	for round := range rounds {
		dir, err := b.folder("keep", strconv.FormatInt(round, 10))
		if err != nil {
			return err
		}
		measure := func(name string, events, rate int64, distinct bool) (kept, float64, error) {
			bare, err := b.keepEventsIn(ctx, "none", filepath.Join(dir, "none"), events, rate, distinct)
			if err != nil {
				return kept{}, 0, err
			}
			k, err := b.keepEventsIn(ctx, name, filepath.Join(dir, name+strconv.FormatBool(distinct)), events, rate, distinct)
			return k, float64(k.CPU-bare.CPU) / float64(max(events-k.Lost, 1)), err
		}
		all, each, err := measure("history", seconds*offered, offered, true)
		if err != nil {
			return err
		}
		own := float64(all.Bytes) / float64(all.Events-all.Lost)
		cpu, bytes = append(cpu, each), append(bytes, own)
		heaps = append(heaps, float64(all.Heap)/mebi)
		rates = append(rates, float64(all.Events-all.Lost)/all.Wall.Seconds())
		some, _, err := measure("history", seconds*offered, offered, false)
		if err != nil {
			return err
		}
		mixed = append(mixed, float64(some.Bytes)/float64(some.Events-some.Lost))
		rows = append(rows, float64(some.Rows)/float64(some.Events-some.Lost))
		k, other, err := measure("sqlite", sqlite, 0, true)
		if err != nil {
			return err
		}
		sqliteCPU, sqliteBytes = append(sqliteCPU, each/other), append(sqliteBytes, own/(float64(k.Bytes)/float64(k.Events)))
		fmt.Fprintf(b.log, "keep: history %.0f ns and %.1f bytes, SQLite %.0f ns and %.1f bytes\n", each, own, other, float64(k.Bytes)/float64(k.Events))
		if k, other, err = measure("json", lines, 0, true); err != nil {
			return err
		}
		jsonCPU, jsonBytes = append(jsonCPU, each/other), append(jsonBytes, own/(float64(k.Bytes)/float64(k.Events)))
		fmt.Fprintf(b.log, "keep: zstd JSON lines %.0f ns and %.1f bytes\n", other, float64(k.Bytes)/float64(k.Events))
	}
	ns, size, most, rate := spreadOf(cpu), spreadOf(bytes), spreadOf(heaps), spreadOf(rates)
	b.add(figKeepCPU, b.fast(ns.median <= 1000), "at most 1,000 ns", "%v ns in %d rounds of %d s", ns, rounds, seconds)
	b.add(figKeepBytes, size.median <= 40, "at most 40", "%v", size)
	b.add(figKeepMixed, true, "for comparison", "%v bytes, %v rows", spreadOf(mixed), spreadOf(rows))
	b.add(figKeepHeap, most.high <= 128*b.slack, "at most 128 MiB", "%v MiB at most", most)
	b.add(figKeepRate, b.fast(rate.low >= 0.95*offered), "100,000", "%.0f (%.0f to %.0f)", rate.median, rate.low, rate.high)
	b.add(figKeepSQLite, b.fast(spreadOf(sqliteCPU).median < 1) && spreadOf(sqliteBytes).median < 1, "below 1", "CPU %v, bytes %v; %d events", spreadOf(sqliteCPU), spreadOf(sqliteBytes), sqlite)
	b.add(figKeepJSON, b.fast(spreadOf(jsonCPU).median < 1) && spreadOf(jsonBytes).median < 1, "below 1", "CPU %v, bytes %v; %d events", spreadOf(jsonCPU), spreadOf(jsonBytes), lines)
	return nil
}

// askHistory asks of millions of events, in new processes and with no page of
// the files in memory.
func (b *bench) askHistory(ctx context.Context) error {
	_, sqlite, lines, asked, rounds, _ := b.historyWeight()
	sizes := map[string]int64{"history": asked, "sqlite": sqlite, "json": lines}
	took := map[string][]float64{} // keeper and question: seconds
	per := func(name, q string, round int) float64 { return took[name+q][round] / float64(sizes[name]) }
	for _, name := range []string{"history", "sqlite", "json"} {
		dir, err := b.folder("ask", name)
		if err != nil {
			return err
		}
		k, err := b.keepEventsIn(ctx, name, dir, sizes[name], 0, true)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.log, "ask: %s keeps %d events in %.1f MiB\n", name, k.Events, float64(k.Bytes)/mebi)
		for range rounds {
			for _, q := range questions {
				var a answer
				if err := runChild(ctx, &a, childAsk, name, dir, q.name); err != nil {
					return err
				}
				if a.Count != k.Answers[q.name] {
					return fmt.Errorf("%s answers %s with %d events, there are %d", name, q.name, a.Count, k.Answers[q.name])
				}
				took[name+q.name] = append(took[name+q.name], a.Took.Seconds())
				fmt.Fprintf(b.log, "ask: %s %s: %d events in %v\n", name, q.name, a.Count, a.Took.Round(time.Millisecond))
			}
		}
	}
	scan, needle := spreadOf(took["historyscan"]), spreadOf(took["historyneedle"])
	b.add(figAskScan, b.fast(scan.median < 1), "below 1 s of 10 million", "%v s of %d events", scan, asked)
	b.add(figAskNeedle, b.fast(needle.median < 0.2), "below 0.2 s of 10 million", "%v s of %d events", needle, asked)
	for _, peer := range []struct{ name, fig string }{{"sqlite", figAskSQLite}, {"json", figAskJSON}} {
		ratio := map[string]spread{}
		for _, q := range questions {
			var r []float64
			for round := range int(rounds) {
				r = append(r, per("history", q.name, round)/per(peer.name, q.name, round))
			}
			ratio[q.name] = spreadOf(r)
		}
		b.add(peer.fig, b.fast(ratio["scan"].median < 1), "below 1 for the first", "%v and %v; it keeps %d events", ratio["scan"], ratio["needle"], sizes[peer.name])
	}
	return nil
}
