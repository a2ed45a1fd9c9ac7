package agent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"warren/event"
	"warren/internal/testkit"
	"warren/pipeline"
	"warren/rule"
)

// A changing is the part of an agent between its configuration and the files that
// alerts are written to.
type changing struct {
	*testing.T
	dir    string
	spine  *pipeline.Pipeline
	wait   func() // until the configuration has been looked at, and all is said
	logged *testkit.Log
	*changes
}

// reload has a test make changes by a fake clock, beginning with a configuration in
// which $DIR is its directory.
func reload(t *testing.T, config string, test func(c *changing)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		all := &testkit.Log{}
		log := slog.New(slog.NewTextHandler(all, nil))
		c := &changing{T: t, dir: t.TempDir(), logged: all, spine: pipeline.New(pipeline.Config{}, nil, nil, nil, log), wait: func() {
			time.Sleep(2 * configLook)
			synctest.Wait()
		}}
		c.write("config.yaml", config)
		c.write("rules.yaml", canary("canary"))
		cfg, err := Load(Options{Config: filepath.Join(c.dir, "config.yaml"), State: filepath.Join(c.dir, "state")})
		if err != nil {
			t.Fatal(err)
		}
		reacts, err := openReactions(cfg, nil, c.spine, log)
		if err != nil {
			t.Fatal(err)
		}
		defer reacts.close()
		engine, err := openRules(cfg.Rules, reacts.Now().React, c.spine, log)
		if err != nil {
			t.Fatal(err)
		}
		audit, err := openAudit(t.Context(), cfg, c.spine, log)
		if err != nil {
			t.Fatal(err)
		}
		channels, err := openAlerts(cfg, c.spine, io.Discard, log)
		if err != nil {
			t.Fatal(err)
		}
		c.changes = newChanges(cfg, users{engine, channels, reacts, audit}, log)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		parts := []func(context.Context) error{engine.Run, channels.run, c.run, func(ctx context.Context) error { return audit.run(ctx, engine) }}
		for _, run := range parts {
			go func() { ended <- run(ctx) }()
		}
		defer func() {
			cancel()
			for range parts {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		test(c)
	})
}

// canary is a rule file with one rule, about a program.
func canary(program string) string {
	return "[{rule: r, desc: d, condition: 'evt.type = execve and proc.name = " + program + "', output: 'saw %proc.name', priority: NOTICE, tags: [t]}]"
}

func (c *changing) write(name, text string) {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(strings.ReplaceAll(text, "$DIR", c.dir)), 0o600); err != nil {
		c.Fatal(err)
	}
}

// change writes a file, and waits until somebody has looked at it.
func (c *changing) change(name, text string) {
	c.Helper()
	c.write(name, text)
	c.wait()
}

// said runs a program, and returns what is written of it: the alerts' outputs behind the
// names of the files, with the number of their tags.
func (c *changing) said(program string) (list []string) {
	c.Helper()
	files := func() []string {
		names, err := filepath.Glob(filepath.Join(c.dir, "*.json"))
		if err != nil {
			c.Fatal(err)
		}
		return names
	}
	for _, name := range files() {
		if err := os.Truncate(name, 0); err != nil {
			c.Fatal(err)
		}
	}
	p := &event.Process{Key: event.Key{PID: 7, Start: 1}, PID: 7, Name: program}
	c.spine.Tell(&event.Event{Time: time.Now(), Actor: p.Key, Process: p, Data: &event.Exec{Type: "execve"}})
	c.wait()
	for _, name := range files() {
		text, err := os.ReadFile(name)
		if err != nil {
			c.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var a struct {
				Output string
				Tags   *[]string
			}
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				c.Fatalf("%v: %s", err, line)
			}
			_, output, _ := strings.Cut(a.Output, ": ")
			if a.Tags == nil {
				output += " without tags"
			}
			list = append(list, strings.TrimSuffix(filepath.Base(name), ".json")+": "+output)
		}
	}
	return list
}

func (c *changing) want(program string, want ...string) {
	c.Helper()
	if got := c.said(program); !slices.Equal(got, want) {
		c.Errorf("%q, want %q", got, want)
	}
}

// why is why the changed configuration is not used.
func (c *changing) why() string {
	if st := c.state(); st != nil {
		return st.Refused
	}
	return ""
}

const someConfig = "rules: {path: $DIR/rules.yaml, suggested: false, aggregate: 0}\nalerts: {channels: [{name: a, type: file, path: $DIR/a.json}]}\n"

func TestReload(t *testing.T) {
	reload(t, someConfig, func(c *changing) {
		c.want("canary", "a: Notice saw canary")

		c.change("config.yaml", "rules: {path: $DIR/rules.yaml, suggested: false, output: pid=%proc.pid, aggregate: 1m}\n"+
			"alerts: {json-tags: false, channels: [{name: a, type: file, path: $DIR/a.json}, {name: b, type: file, path: $DIR/b.json}]}\n"+
			"rings: {bulk: 32MiB, critical: 16MiB}\nlog-level: info\n")
		c.want("canary", "a: Notice saw canary pid=7 without tags", "b: Notice saw canary pid=7 without tags")
		c.want("canary") // is counted
		if st := c.state(); st == nil || st.Refused != "" || !slices.Equal(st.Restart, []string{"log-level", "rings.bulk", "rings.critical"}) {
			c.Errorf("state %+v", st)
		}

		c.change("config.yaml", someConfig)
		if st := c.state(); st != nil {
			c.Errorf("back as it was: %+v", st)
		}
		c.want("canary", "a: Notice saw canary")

		c.change("config.yaml", "rules: {path: $DIR/rules.yaml, priority: error}\n")
		c.want("canary")
		c.change("config.yaml", "alerts: {channels: [{name: a, type: file, path: $DIR/a.json}]}\n")
		c.want("canary")
		if c.hasRules() {
			c.Error("there are rules still")
		}
		c.change("config.yaml", someConfig)
		c.want("canary", "a: Notice saw canary")
	})
}

// TestReloadReactions changes what rules may have done, and from where events of API
// servers come.
func TestReloadReactions(t *testing.T) {
	const rest = "rules: {path: $DIR/react.yaml, suggested: false, aggregate: 0}\nalerts: {channels: [{name: a, type: file, path: $DIR/a.json}]}\n"
	reload(t, someConfig, func(c *changing) {
		c.write("react.yaml", strings.Replace(canary("canary"), "tags: [t]", "reaction: {program: [/bin/true]}", 1))
		c.change("config.yaml", rest)
		outcomes := func() (n [3]uint64) {
			c.Helper()
			c.said("canary")
			for _, a := range c.reacts.Status().Counts {
				n = [3]uint64{a.Refused, a.DryRun, a.Done}
			}
			return n
		}
		if got, want := outcomes(), [3]uint64{1, 0, 0}; got != want {
			c.Errorf("not enabled: %v", got)
		}
		c.change("config.yaml", rest+"reactions: {enabled: true, dry-run: true, programs: /bin/true}\n")
		if got, want := outcomes(), [3]uint64{1, 1, 0}; got != want {
			c.Errorf("a dry run: %v", got)
		}
		// What is broken elsewhere changes nothing.
		for _, bad := range []string{
			"alerts: {channels: [{name: a, type: syslog, address: unix:/none}]}\nrules: {path: $DIR/none.yaml}\n",
			rest + "kubernetes-audit: {webhook: {listen: '127.0.0.1:0', token-file: $DIR/none}}\n",
			rest + "kubernetes-audit: {log: audit.log}\nreactions: {enabled: true, webhooks: [{name: w, url: 'https://127.0.0.1/', tls: {ca: $DIR/none}}]}\n",
		} {
			c.change("config.yaml", bad)
			if c.why() == "" {
				c.Errorf("%s is taken", bad)
			}
			if got := c.reacts.Status(); !got.Enabled || !got.DryRun || c.audit.status() != nil {
				c.Errorf("%s changes something", bad)
			}
		}
		c.change("config.yaml", rest+"reactions: {enabled: true, programs: /bin/true}\nkubernetes-audit: {log: $DIR/audit.log}\n")
		if got, want := outcomes(), [3]uint64{1, 1, 1}; got != want {
			c.Errorf("enabled: %v", got)
		}
		if st := c.audit.status(); st == nil || st.Log != filepath.Join(c.dir, "audit.log") {
			c.Errorf("audit: %+v", st)
		}
		if st := c.state(); st != nil {
			c.Errorf("state %+v", st)
		}
		c.change("config.yaml", rest)
		if got, want := outcomes(), [3]uint64{2, 1, 1}; got != want || c.audit.status() != nil {
			c.Errorf("as it was: %v", got)
		}
	})
}

// TestReloadTogether replaces rules along with what they may have done: what the
// former ones alert of yet is held to what was in force when they were.
func TestReloadTogether(t *testing.T) {
	const first = "rules: {path: $DIR/react.yaml}\nreactions: {enabled: true, dry-run: true, programs: /bin/true}\n"
	reload(t, someConfig, func(c *changing) {
		text := strings.Replace(canary("canary"), "tags: [t]", "reaction: {program: [/bin/true]}", 1)
		set, findings := rule.Load([]rule.File{{Name: "react.yaml", Text: []byte(text)}}, rule.Config{})
		if set == nil {
			c.Fatal(findings)
		}
		c.write("react.yaml", text)
		c.change("config.yaml", first)
		former := c.reacts.Now()
		c.change("config.yaml", "rules: {path: $DIR/rules.yaml}\nreactions: {enabled: true, programs: /bin/true}\n")
		if why := c.why(); why != "" {
			c.Fatal(why)
		}
		about := &event.Event{Time: time.Now(), Process: &event.Process{Name: "canary"}, Data: &event.Exec{Type: "execve"}}
		alert := &event.Event{Time: about.Time, Process: about.Process, Data: &event.Alert{Type: "alert", Fields: "{}"}}
		former.React(set.Rules[0], about, alert)
		synctest.Wait()
		c.reacts.Now().React(set.Rules[0], about, alert)
		c.wait()
		counts := c.reacts.Status().Counts
		if len(counts) != 1 {
			c.Errorf("reactions: %+v", counts)
		}
		for _, n := range counts {
			if n.DryRun != 1 || n.Done != 1 {
				c.Errorf("%+v", n)
			}
		}
	})
}

// TestReloadUnread loads rules again that could not be read.
func TestReloadUnread(t *testing.T) {
	reload(t, someConfig, func(c *changing) {
		cfg := RulesConfig{Paths: []string{filepath.Join(c.dir, "later.yaml")}}
		if _, err := c.load(cfg); err == nil {
			c.Error("a file that there is not is read")
		}
		c.write("later.yaml", canary("later"))
		if _, err := c.load(cfg); err != nil {
			c.Error(err)
		}
	})
}

// TestReloadFiles takes over a rule file that has changed along with what rules may
// have done in the same moment, unless it is wrong.
func TestReloadFiles(t *testing.T) {
	reload(t, someConfig, func(c *changing) {
		former := c.reacts.Now()
		c.write("rules.yaml", "[{rule: r}]")
		c.write("config.yaml", someConfig+"reactions: {enabled: true, dry-run: true}\n")
		c.look(c.Context())
		if why := c.why(); why != "" || c.reacts.Now() != former || !c.reacts.Status().DryRun {
			c.Errorf("a rule file is wrong: refused for %q", why)
		}
		c.write("rules.yaml", canary("other"))
		c.write("config.yaml", someConfig+"reactions: {enabled: true}\n")
		c.look(c.Context())
		if why := c.why(); why != "" || c.reacts.Now() == former {
			c.Errorf("a rule file has changed: refused for %q", why)
		}
		if files, _ := c.engine.Files(); len(files) != 1 || string(files[0].Text) != canary("other") {
			c.Errorf("at work are %q", files)
		}
	})
}

// TestReloadUnheard warns of rules whose events come from nowhere: those that are
// taken over, not those there were.
func TestReloadUnheard(t *testing.T) {
	const warning = "rules of the source k8s_audit see nothing"
	reload(t, someConfig, func(c *changing) {
		c.write("k8s.yaml", "[{rule: k, desc: d, condition: ka.verb = get, output: o, priority: NOTICE, source: k8s_audit}]")
		c.change("config.yaml", "rules: {path: $DIR/k8s.yaml}\n")
		if n := strings.Count(c.logged.String(), warning); n != 1 {
			c.Errorf("warned %d times", n)
		}
		c.change("config.yaml", someConfig)
		if n := strings.Count(c.logged.String(), warning); n != 1 {
			c.Errorf("warned %d times, and there are no such rules any more", n)
		}
	})
}

// TestReloadAgain tries again what was refused for what may come to be, without
// loading the same rules again.
func TestReloadAgain(t *testing.T) {
	reload(t, someConfig, func(c *changing) {
		c.write("other.yaml", canary("other"))
		c.change("config.yaml", "rules: {path: $DIR/other.yaml, suggested: false}\nalerts: {channels: [{name: a, type: file, path: $DIR/a.json}]}\n"+
			"reactions: {enabled: true, webhooks: [{name: w, url: 'https://127.0.0.1/', header-files: {Authorization: $DIR/token}, tls: {ca: $DIR/none}}]}\n")
		ready := c.ready
		if why := c.why(); ready == nil || !strings.Contains(why, "none") {
			c.Fatalf("refused for %q", why)
		}
		c.wait()
		if c.ready != ready {
			c.Error("rules were loaded again that are the same")
		}
		c.change("other.yaml", canary("others"))
		if c.ready == ready {
			c.Error("rules were not loaded that are others")
		}
		c.want("canary", "a: Notice saw canary")
		c.write("none", string(testkit.NewAuthority(c.T, "ca").PEM))
		c.write("token", "t")
		c.wait()
		if why := c.why(); why != "" || c.ready != nil {
			c.Errorf("refused for %q", why)
		}
		c.want("canary")
		c.want("others", "a: Notice saw others")
	})
}

// TestReloadBroken changes nothing where anything is wrong, and says what.
func TestReloadBroken(t *testing.T) {
	reload(t, someConfig, func(c *changing) {
		for _, bad := range []struct{ config, why string }{
			{"rules: {path: $DIR/rules.yaml, output: more}\nalerts: {channels: [{name: b}]}\n", "channel b has no type"},
			{"rules: {path: $DIR/none.yaml}\nalerts: {channels: [{name: b, type: file, path: $DIR/b.json}]}\n", "none.yaml: no such file"},
			{"rules: {path: $DIR/bad.yaml}\nalerts: {channels: [{name: b, type: file, path: $DIR/b.json}]}\n", "bad.yaml:1:2: the rule has no"},
			{"rules: {", "config.yaml:1"},
		} {
			c.write("bad.yaml", "[{rule: r}]")
			c.change("config.yaml", bad.config)
			if why := c.why(); !strings.Contains(why, bad.why) {
				c.Errorf("%s: refused for %q", bad.config, why)
			}
			c.want("canary", "a: Notice saw canary")
		}
		if err := os.Remove(filepath.Join(c.dir, "config.yaml")); err != nil {
			c.Fatal(err)
		}
		c.wait()
		if why := c.why(); !strings.Contains(why, "no such file") {
			c.Errorf("without a file: refused for %q", why)
		}
		// What was refused for a rule file is taken once that is mended.
		c.change("config.yaml", "rules: {path: $DIR/bad.yaml, suggested: false}\nalerts: {channels: [{name: b, type: file, path: $DIR/b.json}]}\n")
		c.change("bad.yaml", canary("other"))
		if why := c.why(); why != "" {
			c.Errorf("mended: refused for %q", why)
		}
		c.want("canary")
		c.want("other", "b: Notice saw other")
	})
}

// TestReloadEarly notices a configuration that has changed since it was read for
// the start.
func TestReloadEarly(t *testing.T) {
	reload(t, "{}\n", func(c *changing) {
		c.change("config.yaml", "alerts:\n  channels:\n    - name: one\n")
		if why := c.why(); !strings.Contains(why, "channel one has no type") {
			c.Errorf("refused: %q", why)
		}
	})
}
