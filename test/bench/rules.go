package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"warren/alert"
	"warren/test/attack"
)

const (
	figRuleCost   = "Falco's rules: an event that reaches user space"
	figRuleAllocs = "Falco's rules: allocations for it"

	figRuleOpens = "Falco's rules: open and close of a file that none can match / the file sensor's own figure for files nobody asked for"

	figRuleBuild    = "Falco's rules: parallel build / without Warren"
	figRuleBuildCPU = "the same build: CPU of it and of the agent / without Warren"

	figRuleAttacks = "Falco's rules, flood of opens that one more rule matches a part of: attacks that alerted"
	figRulePart    = "the same flood: matches - alerts - counted as lost"
	figRuleWhole   = "flood of opens, a rule matches all: matches - alerts - counted as lost"
	figRuleSmall   = "the same flood with a ring of 64 KiB"
	figRuleLost    = "the same flood, with a ring of 64 KiB: lost, so that the above means something"
	figRuleRate    = "floods that rules look at: opens a second"
	figRuleHeap    = "Falco's rules: heap, at most, in the flood with attacks"
)

// rulesParts are those of -rules.
var rulesParts = []part{
	{"cost", (*bench).ruleCost, []string{figRuleCost, figRuleAllocs}},
	{"opens", (*bench).ruleOpens, []string{figRuleOpens}},
	{"build", (*bench).ruleBuild, []string{figRuleBuild, figRuleBuildCPU}},
	{"flood", (*bench).ruleFlood, []string{figRuleAttacks, figRulePart, figRuleWhole, figRuleSmall, figRuleLost, figRuleRate, figRuleHeap}},
}

// falcoRules is the path of Falco's stable rule file, "" where nobody says it.
func falcoRules() string {
	if dir := os.Getenv("WARREN_TEST_DATA"); dir != "" {
		return filepath.Join(dir, "falco_rules.yaml")
	}
	return ""
}

// ruleCost measures what all rules cost of an event, without what it costs to
// tell it.
func (b *bench) ruleCost(ctx context.Context) error {
	c := make(costs)
	// Short and often: the least is what it takes when nobody else computes.
	if err := c.run(ctx, "./rule", "^BenchmarkMatch$", []string{"GOGC=200"}, "-benchmem", "-cpu", "1", "-benchtime", "5ms", "-count", "200"); err != nil {
		return err
	}
	ns, err1 := c.get("BenchmarkMatch", "ns/op")
	n, err2 := c.get("BenchmarkMatch", "allocs/op")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	b.add(figRuleCost, ns < 600*b.slack, "below 600 ns", "%.0f ns, the least of 200 times", ns)
	b.add(figRuleAllocs, n == 0, "0", "%.0f", n)
	return nil
}

// An alertCheck reads the alerts of an agent.
type alertCheck struct {
	flood atomic.Int64 // matches of the flood's rule
	lost  atomic.Int64 // opens that rules would have read, as the agent says
	any   atomic.Int64

	mu     sync.Mutex
	others map[string][]string // outputs of other rules
}

// floodRule is the rule that the floods match, beside Falco's.
const floodRule = "flood"

// alertFields are what an alertCheck reads.
const alertFields = "alert.rule,alert.count,alert.output,alert.output_fields"

func (c *alertCheck) event(line []byte) {
	var a struct {
		Rule   string `json:"alert.rule"`
		Count  int64  `json:"alert.count"`
		Output string `json:"alert.output"`
		Fields string `json:"alert.output_fields"`
	}
	if json.Unmarshal(line, &a) != nil || a.Rule == "" {
		return
	}
	c.any.Add(1)
	switch a.Rule {
	case floodRule:
		c.flood.Add(max(a.Count, 1))
	case alert.LostRule:
		// Others lose processes, too.
		if bytes.Contains(text([]byte(a.Fields), "lost.kind"), []byte("open")) {
			n, _ := number([]byte(a.Fields), "lost.count")
			c.lost.Add(n)
		}
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.others == nil {
			c.others = map[string][]string{}
		}
		c.others[a.Rule] = append(c.others[a.Rule], a.Output)
	}
}

// shown is whether an alert is about an attack.
func (c *alertCheck) shown(l *attack.Lab, a attack.Attack, word string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.others[a.Rule], func(output string) bool { return l.Shows(a, word, output) })
}

// underRules starts an agent that has rules, and reads its alerts: when one has
// come that cause makes happen, it measures.
func (b *bench) underRules(ctx context.Context, files, config string, cause func() error, measure func(*agent, *alertCheck) error) (err error) {
	a, err := b.start(ctx, "rules:\n  aggregate: 0\n  path: "+files+"\n"+config)
	if err != nil {
		return err
	}
	defer a.stop()
	check := &alertCheck{}
	s, err := a.follow(ctx, "evt.kind = alert", alertFields, check.event)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := awaitMore(ctx, &check.any, 0, cause); err != nil {
		return err
	}
	// Hooks for other rules are still on their way, which costs.
	last, err := a.rest(ctx)
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); {
		was := last
		if last, err = a.rest(ctx); last-was <= 50*time.Millisecond {
			break
		}
	}
	if err != nil {
		return err
	}
	return measure(a, check)
}

// readSecret does what one of Falco's rules is about.
func readSecret() error { return touch("/etc/shadow") }

// ruleOpens compares what opening a file costs that no rule is about with what it
// costs where a client has asked for a hundred other paths.
func (b *bench) ruleOpens(ctx context.Context) error {
	dir, err := b.folder("opens")
	if err != nil {
		return err
	}
	seen := filepath.Join(dir, "seen")
	if err := os.WriteFile(seen, nil, 0o600); err != nil {
		return err
	}
	plain := func() (float64, error) { return b.openClose(ctx, openedFile) }
	sides := []func() (float64, error){
		plain,
		func() (float64, error) {
			return b.withFilter(ctx, hundredPaths(seen), func() error { return touch(seen) }, plain)
		},
		func() (ns float64, err error) {
			err = b.underRules(ctx, falcoRules(), "", readSecret, func(*agent, *alertCheck) error {
				ns, err = plain()
				return err
			})
			return ns, err
		},
	}
	values := make([][]float64, len(sides))
	rounds := b.fileRounds()
	for round := range rounds {
		once, err := inTurns(round, sides)
		if err != nil {
			return err
		}
		for side, ns := range once {
			values[side] = append(values[side], ns)
		}
	}
	var ratios []float64
	for i, ns := range values[2] {
		ratios = append(ratios, ns/values[1][i])
	}
	ratio := spreadOf(ratios)
	b.add(figRuleOpens, b.fast(ratio.median <= callNoise), "at most 1 (±3 % is noise)", "%v in %d rounds: %.0f against %.0f ns; nothing attached %.0f",
		ratio, rounds, spreadOf(values[2]).median, spreadOf(values[1]).median, spreadOf(values[0]).median)
	return nil
}

// ruleBuild compares a build beside an agent that has all rules with one without
// an agent.
func (b *bench) ruleBuild(ctx context.Context) error {
	r, err := b.compareBuilds(ctx, func(measure func() (buildCost, error)) (c buildCost, err error) {
		err = b.underRules(ctx, falcoRules(), "", readSecret, func(a *agent, _ *alertCheck) error {
			c, err = a.beside(measure)
			return err
		})
		return c, err
	})
	if err != nil {
		return err
	}
	b.add(figRuleBuild, b.fast(r.times.median <= 1.03), "at most 1.03", "%v in %d rounds; %s", r.times, r.rounds, r.seconds())
	b.add(figRuleBuildCPU, true, "for comparison", "%s", r.cpu())
	return nil
}

// A ruleFloodResult is what a flood was and what became of it.
type ruleFloodResult struct {
	opens, matching int64 // of the flood; those that its rule is about
	alerted, lost   int64
	attacks, alerts int      // made; of these, alerted
	silent          []string // the others
	took            time.Duration
	heap            int64
}

func (r ruleFloodResult) sum() string {
	return fmt.Sprintf("%d - %d - %d = %d", r.matching, r.alerted, r.lost, r.matching-r.alerted-r.lost)
}

func (r ruleFloodResult) exact() bool { return r.matching-r.alerted-r.lost == 0 }

// rate is how many opens a second there were.
func (r ruleFloodResult) rate() float64 { return float64(r.opens) / r.took.Seconds() }

// floodRate is how many opens a second a flood has at least.
const floodRate = 600_000

// matchingEvery is of how many opens of the flood one matches its rule.
const matchingEvery = 100

// runRuleFlood opens files on one processor. Each so manieth open is one that a
// rule is about. With a lab, attacks are made meanwhile, and Falco's rules are there.
func (b *bench) runRuleFlood(ctx context.Context, l *attack.Lab, config string, length time.Duration, every int) (r ruleFloodResult, err error) {
	dir, err := b.folder("ruleflood")
	if err != nil {
		return r, err
	}
	matching := filepath.Join(dir, "matching")
	rules := filepath.Join(dir, "rules.yaml")
	text := fmt.Sprintf("- rule: %s\n  desc: opens of the flood\n  condition: %s and fd.name = %s\n  output: '%%fd.name'\n  priority: NOTICE\n", floodRule, openTypes, matching)
	if err := errors.Join(os.WriteFile(matching, nil, 0o600), os.WriteFile(rules, []byte(text), 0o600)); err != nil {
		return r, err
	}
	if l != nil {
		rules = falcoRules() + "," + rules
		config += l.Config()
	}
	touched := int64(0)
	cause := func() error { touched++; return touch(matching) }
	err = b.underRules(ctx, rules, config, cause, func(a *agent, check *alertCheck) error {
		if l != nil {
			heard := func(a attack.Attack, word string) bool { return check.shown(l, a, word) }
			if err := l.Settle(ctx, attack.PossibleAttacks(), heard); err != nil {
				return err
			}
		}
		before := quiet(check.flood.Load, touched, time.Second)
		_, cpu, err := twoProcessors()
		if err != nil {
			return err
		}
		var out bytes.Buffer
		flood := exec.CommandContext(ctx, b.load, "flood", strconv.Itoa(int(length.Round(time.Second)/time.Second)), openedFile, matching, strconv.Itoa(every))
		flood.Stdout = &out
		flood.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		flooding, stop := context.WithCancel(ctx)
		flooded := make(chan error, 1)
		began := time.Now()
		go func() {
			defer stop()
			err := onProcessor(cpu, flood.Run)
			r.took = time.Since(began)
			flooded <- err
		}()
		peak := b.sampleHeap(flooding, a.pid())
		if l != nil {
			err = r.attack(ctx, flooding, l, check)
		}
		if err := errors.Join(err, <-flooded); err != nil {
			return err
		}
		r.heap = <-peak
		var rest int64
		if _, err := fmt.Sscan(out.String(), &rest, &r.matching); err != nil {
			return fmt.Errorf("the flood printed %q: %w", out.String(), err)
		}
		r.opens = rest + r.matching
		sum := func() int64 { return check.flood.Load() + check.lost.Load() }
		quiet(sum, before+r.matching, 10*time.Second)
		// Nothing may come twice, and summaries come once a second.
		time.Sleep(2 * time.Second)
		r.alerted, r.lost = check.flood.Load()-before, check.lost.Load()
		return nil
	})
	return r, err
}

// attack makes all attacks while a flood lasts, once at least, and waits for what
// is said of them.
func (r *ruleFloodResult) attack(ctx, flooding context.Context, l *attack.Lab, check *alertCheck) error {
	type made struct {
		attack.Attack
		word string
	}
	var all []made
	for more := true; more; more = flooding.Err() == nil {
		for _, a := range attack.PossibleAttacks() {
			m := made{a, l.Word()}
			if err := a.Do(ctx, l, m.word); err != nil {
				return fmt.Errorf("%s: %w", a.Rule, err)
			}
			all = append(all, m)
		}
	}
	r.attacks = len(all)
	attack.Await(20*time.Second, func() bool {
		r.silent = nil
		for _, m := range all {
			if !check.shown(l, m.Attack, m.word) {
				r.silent = append(r.silent, m.Rule)
			}
		}
		return len(r.silent) == 0
	})
	r.alerts = r.attacks - len(r.silent)
	return nil
}

// sampleHeap gives the most that a process's heap was until ctx ended.
func (b *bench) sampleHeap(ctx context.Context, pid int) <-chan int64 {
	most := make(chan int64, 1)
	go func() {
		peak := int64(0)
		for ctx.Err() == nil {
			if now, err := heap(pid); err == nil {
				peak = max(peak, now)
			}
			time.Sleep(20 * time.Millisecond)
		}
		most <- peak
	}()
	return most
}

// ruleFlood is the promise that whatever happens beside it, each attack is told,
// and that what rules could not see is counted.
func (b *bench) ruleFlood(ctx context.Context) error {
	l, err := attack.Open(ctx)
	if err != nil {
		return err
	}
	part, err := b.runRuleFlood(ctx, l, "", b.weight.flood, matchingEvery)
	if err = errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("with attacks: %w", err)
	}
	short := max(b.weight.flood/3, 2*time.Second)
	whole, err := b.runRuleFlood(ctx, nil, "", short, 1)
	if err != nil {
		return fmt.Errorf("all match: %w", err)
	}
	small, err := b.runRuleFlood(ctx, nil, "rings:\n  bulk: 64KiB\n", short, 1)
	if err != nil {
		return fmt.Errorf("small ring: %w", err)
	}
	missing := ""
	if len(part.silent) > 0 {
		slices.Sort(part.silent)
		missing = "; silent: " + strings.Join(slices.Compact(part.silent), ", ")
	}
	b.add(figRuleAttacks, part.attacks > 0 && part.alerts == part.attacks, "all", "%d of %d%s", part.alerts, part.attacks, missing)
	b.add(figRulePart, part.exact(), "0", "%s", part.sum())
	b.add(figRuleWhole, whole.exact(), "0", "%s", whole.sum())
	b.add(figRuleSmall, small.exact(), "0", "%s", small.sum())
	b.add(figRuleLost, small.lost > 0, "some", "%.0f %% of %d", 100*float64(small.lost)/float64(small.matching), small.matching)
	b.add(figRuleRate, b.fast(min(part.rate(), whole.rate(), small.rate()) >= floodRate), fmt.Sprintf("at least %d", floodRate),
		"%.0f; %.0f; %.0f", part.rate(), whole.rate(), small.rate())
	b.add(figRuleHeap, part.heap <= 96*mebi, "at most 96 MiB", "%.1f MiB", float64(part.heap)/mebi)
	return nil
}
