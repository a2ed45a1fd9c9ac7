package reaction

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/alert"
	"warren/alert/channel"
	"warren/cluster"
	"warren/event"
	"warren/rule"
)

// A stage is what surrounds a reactor of a test.
type stage struct {
	*Reactor
	told chan *event.Event
}

func open(t *testing.T, cfg Config, pods Pods) *stage {
	t.Helper()
	s := &stage{told: make(chan *event.Event, 10_000)}
	x, err := New(cfg, alert.Falco{}, Env{Hostname: "host", Version: "v1", Node: "node-1", Namespace: "warren", Pods: pods, Tell: func(e *event.Event) { s.told <- e }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Reactor = x
	t.Cleanup(x.Close)
	return s
}

// next returns what is told next, in a line.
func (s *stage) next(t *testing.T) string {
	t.Helper()
	select {
	case e := <-s.told:
		return line(e.Data.(*event.Reaction))
	case <-time.After(time.Minute):
		t.Fatal("nothing is told")
	}
	return ""
}

// wants waits until nothing is under way, and wants this told.
func (s *stage) wants(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// use has the reactor go by another configuration.
func (s *stage) use(t *testing.T, cfg Config) {
	t.Helper()
	terms, err := s.Prepare(cfg, alert.Falco{})
	if err != nil {
		t.Fatal(err)
	}
	s.Use(s.Now(), terms)
}

// all returns what was told so far.
func (s *stage) all() (list []string) {
	for {
		select {
		case e := <-s.told:
			list = append(list, line(e.Data.(*event.Reaction)))
		default:
			return list
		}
	}
}

func line(r *event.Reaction) string {
	text := fmt.Sprintf("%s %s %s %s", r.Alert, r.Action, r.Target, r.Outcome)
	if r.DryRun {
		text += " dry"
	}
	if r.Attempts > 1 {
		text += fmt.Sprintf(" by %d attempts", r.Attempts)
	}
	if r.Times > 0 {
		text += fmt.Sprintf(" times %d", r.Times)
	}
	for _, more := range []string{r.Reason, r.Output} {
		if more != "" {
			text += ": " + more
		}
	}
	return text
}

// ruleOf reads one rule that has reactions.
func ruleOf(t *testing.T, name, reaction string) *rule.Rule {
	t.Helper()
	text := "- rule: " + name + "\n  desc: d\n  condition: evt.type = openat\n  output: o\n  priority: WARNING\n  reaction: " + reaction + "\n"
	set, findings := rule.Load([]rule.File{{Name: "a.yaml", Text: []byte(text)}}, rule.Config{})
	if set == nil {
		t.Fatal(findings)
	}
	return set.Rules[0]
}

// podNamed is one of a deployment of the namespace shop.
func podNamed(name string) *cluster.Pod {
	deployment, _, _ := strings.Cut(name, "-")
	return &cluster.Pod{UID: "uid of " + name, Name: name, Namespace: "shop", Node: "node-1", Workload: cluster.Workload{Kind: "Deployment", Name: deployment}}
}

// alertOf hands over an alert about a pod, or about the host.
func (s *stage) alertOf(r *rule.Rule, id string, pod *cluster.Pod) {
	s.alertBy(s.Now(), r, id, pod)
}

// alertBy is alertOf a rule of some generation.
func (s *stage) alertBy(g *Generation, r *rule.Rule, id string, pod *cluster.Pod) {
	p := &event.Process{Name: "cat"}
	if pod != nil {
		p.Container = &event.Container{FullID: "c", Pod: pod}
	}
	about := &event.Event{Time: time.Unix(1e9, 0), Process: p, Data: &event.Open{Type: "openat"}}
	g.React(r, about, &event.Event{Time: about.Time, Process: p, Data: &event.Alert{Type: "alert", Rule: r.Name, Priority: "Warning", Output: "o", Fields: "{}", ID: id}})
}

// fakePods notes what is to be done, and answers as a test wants it.
type fakePods struct {
	mu     sync.Mutex
	asked  []string
	answer func(ctx context.Context) error // nil does it
}

func (f *fakePods) ask(ctx context.Context, format string, args ...any) error {
	f.mu.Lock()
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	answer := f.answer
	f.mu.Unlock()
	if answer != nil {
		return answer(ctx)
	}
	return nil
}

func (f *fakePods) Label(ctx context.Context, pod *cluster.Pod, labels map[string]string, dry bool) error {
	return f.ask(ctx, "label %s %v dry %t", pod.UID, labels, dry)
}

func (f *fakePods) Delete(ctx context.Context, pod *cluster.Pod, grace time.Duration, dry bool) error {
	return f.ask(ctx, "delete %s within %v dry %t", pod.UID, grace, dry)
}

func (f *fakePods) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

var podsAllowed = Config{Enabled: true, Pods: []rule.Action{rule.LabelPod, rule.DeletePod}}

// failing answers with errors, one after the other, and then with none.
func failing(errs ...error) func(context.Context) error {
	return func(context.Context) error {
		if len(errs) == 0 {
			return nil
		}
		err := errs[0]
		errs = errs[1:]
		return err
	}
}

// TestPods does with the pod of an event what its rule wants, in its order.
func TestPods(t *testing.T) {
	away := errors.New("connection refused")
	for _, test := range []struct {
		name, reaction string
		cfg            Config
		answer         func(context.Context) error
		asked, told    []string
	}{
		{"in order", "[{pod: {label: {q: a}}}, {pod: delete, grace: 30s}]", podsAllowed, nil,
			[]string{"label uid of web-1 map[q:a] dry false", "delete uid of web-1 within 30s dry false"},
			[]string{"a label shop/web-1 done", "a delete shop/web-1 done"}},
		{"a dry run of one", "[{pod: delete, dry-run: true}, {pod: {label: {q: a}}}]", podsAllowed, nil,
			[]string{"delete uid of web-1 within -1ns dry true", "label uid of web-1 map[q:a] dry false"},
			[]string{"a delete shop/web-1 done dry", "a label shop/web-1 done"}},
		{"a dry run of all", "{pod: delete}", Config{Enabled: true, DryRun: true, Pods: podsAllowed.Pods}, nil,
			[]string{"delete uid of web-1 within -1ns dry true"}, []string{"a delete shop/web-1 done dry"}},
		{"gone", "[{pod: {label: {q: a}}}, {pod: delete}]", podsAllowed, failing(ErrGone, ErrGone),
			[]string{"label uid of web-1 map[q:a] dry false", "delete uid of web-1 within -1ns dry false"},
			[]string{"a label shop/web-1 failed: the pod is gone", "a delete shop/web-1 done: it was gone"}},
		{"away for a while", "{pod: {label: {q: a}}}", podsAllowed, failing(away, away),
			slices.Repeat([]string{"label uid of web-1 map[q:a] dry false"}, 3), []string{"a label shop/web-1 done by 3 attempts"}},
		{"away", "{pod: {label: {q: a}}}", podsAllowed, failing(away, away, away, away),
			slices.Repeat([]string{"label uid of web-1 map[q:a] dry false"}, 3), []string{"a label shop/web-1 failed by 3 attempts: connection refused"}},
		{"no right", "{pod: delete}", podsAllowed, failing(&RefusedError{errors.New("forbidden")}),
			[]string{"delete uid of web-1 within -1ns dry false"}, []string{"a delete shop/web-1 failed: forbidden"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pods := &fakePods{answer: test.answer}
				s := open(t, test.cfg, pods)
				s.alertOf(ruleOf(t, "r", test.reaction), "a", podNamed("web-1"))
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := pods.list(); !slices.Equal(got, test.asked) {
					t.Errorf("asked %q, want %q", got, test.asked)
				}
				if got := s.all(); !slices.Equal(got, test.told) {
					t.Errorf("told %q, want %q", got, test.told)
				}
				s.Close()
			})
		})
	}
}

// TestAllowed refuses what the configuration does not allow.
func TestAllowed(t *testing.T) {
	all := Config{
		Enabled: true, Programs: []string{"/bin/true"}, Pods: podsAllowed.Pods,
	}
	with := func(change func(*Config)) Config {
		c := all
		change(&c)
		return c
	}
	in := func(change func(*cluster.Pod)) *cluster.Pod {
		p := podNamed("web-1")
		change(p)
		return p
	}
	for _, test := range []struct {
		reaction string
		cfg      Config
		pod      *cluster.Pod
		want     string // "" for none
	}{
		{"{pod: delete}", Config{Pods: all.Pods}, podNamed("web-1"), "refused: reactions are not enabled in the agent's configuration"},
		{"{program: [/bin/true]}", all, nil, ""},
		{"{program: [/bin/false]}", all, nil, "refused: the program is not among reactions: programs in the agent's configuration"},
		{"{webhook: x}", all, nil, "refused: no webhook of that name is among reactions: webhooks in the agent's configuration"},
		{"{pod: delete}", with(func(c *Config) { c.Pods = c.Pods[:1] }), podNamed("web-1"), "refused: delete is not among reactions: pods in the agent's configuration"},
		{"{pod: delete}", all, podNamed("web-1"), ""},
		{"{pod: delete}", all, nil, "refused: the event is of no pod of this node"},
		{"{pod: delete}", all, in(func(p *cluster.Pod) { p.Node = "node-2" }), "refused: the pod is not on this node"},
		{"{pod: delete}", all, &cluster.Pod{UID: "x"}, "failed: the cluster has not told which pod it is"},
		{"{pod: delete}", all, in(func(p *cluster.Pod) { p.Namespace = "kube-system" }), "refused: namespace kube-system is protected"},
		{"{pod: delete}", all, in(func(p *cluster.Pod) { p.Namespace = "warren" }), "refused: namespace warren is protected"},
		{"{pod: delete}", with(func(c *Config) { c.Protected = []string{} }), in(func(p *cluster.Pod) { p.Namespace = "kube-system" }), ""},
		{"{pod: delete}", with(func(c *Config) { c.Namespaces = []string{"kube-system"} }), in(func(p *cluster.Pod) { p.Namespace = "kube-system" }), ""},
		{"{pod: delete}", with(func(c *Config) { c.Namespaces = []string{"dev"} }), podNamed("web-1"), "refused: namespace shop is not among reactions: namespaces in the agent's configuration"},
		{"{pod: delete}", all, in(func(p *cluster.Pod) { p.StaticUID = "y" }), "refused: the pod is a static one, which its kubelet would start again"},
		{"{pod: {label: {a: b, x.y/z: c}}}", with(func(c *Config) { c.Labels = []string{"a", "x.y/z"} }), podNamed("web-1"), ""},
		{"{pod: {label: {c: d, b: b, a: b}}}", with(func(c *Config) { c.Labels = []string{"a"} }), podNamed("web-1"), "refused: label b is not among reactions: labels in the agent's configuration"},
		{"{pod: delete}", with(func(c *Config) { c.Labels = []string{"a"} }), podNamed("web-1"), ""},
		{"{pod: {label: {a: b}}}", all, in(func(p *cluster.Pod) { p.StaticUID = "y" }), ""},
	} {
		s := open(t, test.cfg, &fakePods{})
		about := &event.Event{Process: &event.Process{}, Data: &event.Open{}}
		if test.pod != nil {
			about.Process.Container = &event.Container{Pod: test.pod}
		}
		v := s.Now().terms.allowed(&ruleOf(t, "r", test.reaction).Reactions[0], about, &s.env)
		if got := strings.TrimPrefix(v.outcome+": "+v.why, ": "); got != test.want {
			t.Errorf("%s of %+v: %q, want %q", test.reaction, test.pod, got, test.want)
		}
	}
	s := open(t, all, nil)
	s.alertOf(ruleOf(t, "r", "{pod: delete}"), "a", podNamed("web-1"))
	if got, want := s.next(t), "a delete shop/web-1 refused: the agent knows no cluster"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestLimits counts by workload what is limited, and tells it.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, podsAllowed, &fakePods{})
		r := ruleOf(t, "r", "{pod: {label: {q: a}}, limit: 2/1m}")
		for i := range 5 {
			s.alertOf(r, fmt.Sprint("web", i), podNamed(fmt.Sprint("web-", i)))
			s.alertOf(r, fmt.Sprint("db", i), podNamed(fmt.Sprint("db-", i)))
		}
		synctest.Wait()
		want := []string{"web0 label shop/web-0 done", "db0 label shop/db-0 done", "web1 label shop/web-1 done", "db1 label shop/db-1 done"}
		if got := s.all(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		got := s.all()
		slices.Sort(got)
		want = []string{"db4 label shop/db-4 limited times 3: at most 2/1m for each workload", "web4 label shop/web-4 limited times 3: at most 2/1m for each workload"}
		if !slices.Equal(got, want) {
			t.Errorf("a minute later %q, want %q", got, want)
		}
		// The file was read again: that is no new beginning.
		for i := range 3 {
			s.alertOf(ruleOf(t, "r", "{pod: {label: {q: a}}, limit: 2/1m}"), fmt.Sprint("more", i), podNamed("web-9"))
		}
		synctest.Wait()
		s.Close()
		want = []string{"more0 label shop/web-9 done", "more1 label shop/web-9 done", "more2 label shop/web-9 limited times 1: at most 2/1m for each workload"}
		if got := s.all(); !slices.Equal(got, want) {
			t.Errorf("at the end %q, want %q", got, want)
		}
		if c := s.Status().Counts[0]; c.Limited != 7 {
			t.Errorf("%+v", c)
		}
	})
}

// TestLimitOfAll limits what all rules want together.
func TestLimitOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := podsAllowed
		cfg.Limit = rule.Limit{Times: 3, Per: time.Hour}
		s := open(t, cfg, &fakePods{})
		for i := range 5 {
			s.alertOf(ruleOf(t, fmt.Sprint("r", i), "{pod: {label: {q: a}}}"), fmt.Sprint(i), podNamed("web-1"))
		}
		synctest.Wait()
		if got := s.all(); len(got) != 3 {
			t.Errorf("told %q", got)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		want := []string{"3 label shop/web-1 limited times 1: at most 3/1h by the agent's configuration", "4 label shop/web-1 limited times 1: at most 3/1h by the agent's configuration"}
		if got := s.all(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		s.Close()
	})
}

// TestLimitOfOthers has a workload's limit not used up by what was not begun: there
// was too much else, or nobody knew yet which pod it is.
func TestLimitOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := podsAllowed
		cfg.Limit = rule.Limit{Times: 1, Per: time.Minute}
		s := open(t, cfg, &fakePods{})
		r := ruleOf(t, "r", "{pod: delete, limit: 1/1h}")
		unknown := podNamed("web-1")
		unknown.Node = ""
		s.alertOf(r, "early", unknown)
		s.alertOf(ruleOf(t, "other", "{pod: {label: {q: a}}}"), "first", podNamed("db-1"))
		s.alertOf(r, "second", podNamed("web-1"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s.alertOf(r, "third", podNamed("web-1"))
		synctest.Wait()
		want := []string{
			"early delete shop/web-1 failed: the cluster has not told which pod it is", "first label shop/db-1 done",
			"second delete shop/web-1 limited times 1: at most 1/1m by the agent's configuration", "third delete shop/web-1 done",
		}
		if got := s.all(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		s.Close()
	})
}

// TestOnce does something once for each pod, unless it fails.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := &fakePods{answer: failing(&RefusedError{errors.New("forbidden")})}
		s := open(t, podsAllowed, pods)
		r := ruleOf(t, "r", "{pod: {label: {q: a}}, once: true}")
		for i, name := range []string{"web-1", "web-1", "web-2", "web-1", "web-2"} {
			s.alertOf(r, fmt.Sprint(i), podNamed(name))
			synctest.Wait()
		}
		want := []string{"0 label shop/web-1 failed: forbidden", "1 label shop/web-1 done", "2 label shop/web-2 done"}
		if got := s.all(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		s.Close()
		want = []string{"4 label shop/web-2 limited times 2: it is done once for each pod"}
		if got := s.all(); !slices.Equal(got, want) {
			t.Errorf("at the end %q, want %q", got, want)
		}
	})
}

// TestHanging has a rule whose reaction hangs: others' are not delayed, and what
// waits is bounded.
func TestHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := podsAllowed
		cfg.Limit = rule.Limit{Times: 1000, Per: time.Minute}
		pods := &fakePods{answer: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		s := open(t, cfg, pods)
		r := ruleOf(t, "hangs", "{pod: delete}")
		for i := range 1 + queueOfRule + 10 {
			s.alertOf(r, fmt.Sprint(i), podNamed(fmt.Sprintf("w%d-1", i)))
			synctest.Wait() // so that the first is under way
		}
		got := s.all()
		if len(got) != 10 || !strings.HasSuffix(got[0], "w65-1 failed: too many others wait") {
			t.Errorf("told %q", got)
		}
		pods.mu.Lock()
		pods.answer = nil
		pods.mu.Unlock()
		s.alertOf(ruleOf(t, "other", "{pod: {label: {q: a}}}"), "x", podNamed("web-1"))
		synctest.Wait()
		if got := s.all(); !slices.Equal(got, []string{"x label shop/web-1 done"}) {
			t.Errorf("told %q", got)
		}
		if st := s.Status(); st.Waiting != queueOfRule || st.Running != 1 {
			t.Errorf("%+v", st)
		}
		// The end does not wait for long: what is under way is ended, and what waits
		// is not begun.
		begun := time.Now()
		s.Close()
		if took := time.Since(begun); took != endGrace {
			t.Errorf("it took %v to end", took)
		}
		got = s.all()
		if len(got) != 1+queueOfRule {
			t.Fatalf("%d outcomes at the end", len(got))
		}
		for _, line := range got {
			if !strings.HasSuffix(line, " failed: the agent ends") {
				t.Errorf("told %q", line)
			}
		}
		s.alertOf(r, "late", podNamed("web-1"))
		if got := s.all(); !slices.Equal(got, []string{"late delete shop/web-1 failed: the agent ends"}) {
			t.Errorf("told %q", got)
		}
	})
}

// TestUse changes what is allowed while something is under way and something waits.
func TestUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		pods := &fakePods{answer: func(context.Context) error { <-goOn; return nil }}
		s := open(t, podsAllowed, pods)
		r := ruleOf(t, "r", "{pod: {label: {q: a}}, once: true}")
		s.alertOf(r, "0", podNamed("web-1"))
		synctest.Wait()
		s.alertOf(r, "1", podNamed("web-2"))

		// What has begun ends as it began; what waits is not begun.
		nothing := Config{Enabled: true, DryRun: true}
		s.use(t, nothing)
		close(goOn)
		s.wants(t, "0 label shop/web-1 done", "1 label shop/web-2 refused dry: label is not among reactions: pods in the agent's configuration")

		// A dry run is not what is done once, and what was refused is not either.
		dry := podsAllowed
		dry.DryRun = true
		s.use(t, dry)
		s.alertOf(r, "2", podNamed("web-2"))
		s.wants(t, "2 label shop/web-2 done dry")
		s.use(t, podsAllowed)
		s.alertOf(r, "3", podNamed("web-2"))
		s.wants(t, "3 label shop/web-2 done")

		// What cannot be used changes nothing.
		bad := podsAllowed
		bad.Webhooks = []channel.Config{{Name: "w", Type: "webhook", URL: "https://127.0.0.1/", TLS: channel.TLS{CA: "missing.pem"}}}
		if _, err := s.Prepare(bad, alert.Falco{}); err == nil || !strings.Contains(err.Error(), "missing.pem") {
			t.Errorf("%v", err)
		}
		if st := s.Status(); !st.Enabled || st.DryRun {
			t.Errorf("%+v", st)
		}
		s.Close()
	})
}

// TestGenerations replaces rules along with what they may have done: what the former
// ones alert of yet is held to both.
func TestGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dry, none := podsAllowed, podsAllowed
		dry.DryRun, none.Pods = true, nil
		s := open(t, dry, &fakePods{})
		r := ruleOf(t, "r", "{pod: delete, limit: 100/1m}")
		replace := func(cfg Config) (former *Generation) {
			t.Helper()
			terms, err := s.Prepare(cfg, alert.Falco{})
			if err != nil {
				t.Fatal(err)
			}
			former = s.Now()
			s.Use(s.Next(), terms)
			return former
		}
		both := func(former *Generation, want ...string) {
			t.Helper()
			s.alertBy(former, r, "former", podNamed("web-1"))
			synctest.Wait()
			s.alertBy(s.Now(), r, "new", podNamed("web-1"))
			s.wants(t, want...)
		}
		const refused = " delete shop/web-1 refused: delete is not among reactions: pods in the agent's configuration"
		both(replace(podsAllowed), "former delete shop/web-1 done dry", "new delete shop/web-1 done")
		both(replace(none), "former"+refused, "new"+refused)
		former := replace(podsAllowed)
		both(former, "former"+refused, "new delete shop/web-1 done")
		both(replace(dry), "former delete shop/web-1 done dry", "new delete shop/web-1 done dry")

		// Those that stay go by what they may have done now.
		s.use(t, podsAllowed)
		both(former, "former"+refused, "new delete shop/web-1 done")
		s.Use(s.Next(), nil)
		both(former, "former"+refused, "new delete shop/web-1 done")
	})
}

// TestOnceAfterDryRuns does for real what only a dry run was done of, and nothing else
// once more, however often the configuration changes.
func TestOnceAfterDryRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dry := podsAllowed
		dry.DryRun = true
		goOn := make(chan struct{})
		pods := &fakePods{}
		s := open(t, podsAllowed, pods)
		r := ruleOf(t, "r", "{pod: {label: {q: a}}, once: true}")
		s.alertOf(r, "0", podNamed("web-1"))
		s.wants(t, "0 label shop/web-1 done")
		s.use(t, dry)
		s.alertOf(r, "1", podNamed("web-1"))
		s.alertOf(r, "2", podNamed("web-3"))
		s.alertOf(r, "3", podNamed("web-3"))
		s.wants(t, "2 label shop/web-3 done dry")

		// One waits while the configuration changes.
		pods.mu.Lock()
		pods.answer = func(context.Context) error { <-goOn; return nil }
		pods.mu.Unlock()
		s.alertOf(r, "4", podNamed("web-4"))
		synctest.Wait()
		s.alertOf(r, "5", podNamed("web-2"))
		s.use(t, podsAllowed)
		s.alertOf(r, "6", podNamed("web-2"))
		s.alertOf(r, "7", podNamed("web-1"))
		s.alertOf(r, "8", podNamed("web-3"))
		close(goOn)
		s.wants(t, "4 label shop/web-4 done dry", "5 label shop/web-2 done", "8 label shop/web-3 done")
	})
}

// TestRoomForKeys forgets the oldest of what was done once, and counts for no more
// workloads than there is room for.
func TestRoomForKeys(t *testing.T) {
	var d done
	for i := range maxKeys + 1 {
		d.add(fmt.Sprint(i), false)
	}
	if d.has("0", true) || !d.has("1", false) || !d.has(fmt.Sprint(maxKeys), false) || len(d.at) != maxKeys {
		t.Errorf("%d keys", len(d.at))
	}
	w, now := new(windows), time.Unix(1e9, 0)
	l := rule.Limit{Times: 1, Per: time.Minute}
	for i := range maxKeys {
		w.of(fmt.Sprint(i), now).take(l, now.Add(time.Duration(i%2)*time.Hour))
	}
	if w.of("more", now) != nil {
		t.Error("there is room for one more")
	}
	if w.of("0", now) == nil {
		t.Error("one that is there is gone")
	}
	if w.of("more", now.Add(time.Minute)) == nil || len(w.at) != maxKeys/2+1 {
		t.Errorf("%d windows after some have ended", len(w.at))
	}
}

// TestText hands over alerts as Falco writes them.
func TestText(t *testing.T) {
	s := open(t, Config{}, nil)
	var got struct{ Rule, UUID, Hostname string }
	e := &event.Event{Data: &event.Alert{Rule: "r", ID: "id", Fields: "{}"}}
	if err := json.Unmarshal(s.text(s.Now().terms, e), &got); err != nil || got.Rule != "r" || got.UUID != "id" || got.Hostname != "host" {
		t.Errorf("%s: %v", s.text(s.Now().terms, e), err)
	}
}
