package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"warren/alert"
	"warren/api"
	"warren/event"
	"warren/pipeline"
	"warren/rule"
	"warren/settings"
)

// RulesConfig is which rules alert.
type RulesConfig struct {
	// Paths are rule files, and directories of them, in their order; none for no
	// rules.
	Paths []string
	// First is Falco's way: of several rules that an event matches, the first
	// alerts.
	First bool
	// Aggregate is for how long alerts like one that was told are counted and not
	// told; 0 stands for defaultAggregate, and less: each is told.
	Aggregate time.Duration
	// Least is the least priority that alerts; nil for all.
	Least *rule.Priority
	// Output is appended to what every rule says: %container.id and the like.
	Output string
	// NoSuggested leaves out [rule.Suggested], which is added to what every rule
	// says.
	NoSuggested bool
	// Append is what is added to some rules.
	Append []rule.Addition
}

// rules returns how rules are read.
func (c RulesConfig) rules() rule.Config {
	cfg := rule.Config{Extra: c.Output, Add: c.Append}
	if !c.NoSuggested {
		cfg.Add = append([]rule.Addition{{Suggested: true}}, c.Append...)
	}
	return cfg
}

// defaultAggregate is long enough for what happens with each request or in each
// loop of a script to be told once, and short enough to learn soon that it goes on.
const defaultAggregate = time.Minute

// engine returns what rules are put to work with, and who hears what they want done.
func (c RulesConfig) engine(react reactFunc) alert.Config {
	return alert.Config{
		React: react,
		Load:  func() ([]rule.File, error) { return alert.Files(c.Paths, "") },
		Rules: c.rules(), First: c.First, Least: c.Least, Aggregate: max(0, c.Aggregate),
	}
}

// A reactFunc is [alert.Config.React].
type reactFunc = func(r *rule.Rule, about, alert *event.Event)

// openRules returns what makes alerts, though there may be no rules yet.
func openRules(cfg RulesConfig, react reactFunc, spine *pipeline.Pipeline, log *slog.Logger) (*alert.Engine, error) {
	e, err := alert.New(cfg.engine(react), ruleSpine{spine}, log)
	if err != nil {
		return nil, fmt.Errorf("load rules: %w", err)
	}
	if files, _ := e.Files(); len(files) == 0 && len(cfg.Paths) > 0 {
		log.Warn("nothing alerts until there is a rule file, which ends in .yaml or .yml", "rules", cfg.Paths)
	}
	return e, nil
}

// ruleSpine is the pipeline as rules see it.
type ruleSpine struct{ *pipeline.Pipeline }

// Replace implements [alert.Spine].
func (s ruleSpine) Replace(old []alert.Stream, with []alert.Want) ([]alert.Stream, error) {
	subs := make([]*pipeline.Subscription, len(old))
	for i, o := range old {
		subs[i] = o.(*pipeline.Subscription)
	}
	options := make([]pipeline.Options, len(with))
	for i, w := range with {
		options[i] = pipeline.Options{Name: w.Name, Filter: "rules", Kinds: w.Kinds, Interest: w.Interest, Match: w.Match, Tells: event.Kinds(event.KindAlert), Queue: ruleQueue}
	}
	subs, err := s.Pipeline.Replace(subs, options...)
	switch {
	case errors.Is(err, pipeline.ErrClosed):
		return nil, io.EOF
	case err != nil:
		return nil, err
	}
	streams := make([]alert.Stream, len(subs))
	for i, sub := range subs {
		streams[i] = sub
	}
	return streams, nil
}

// ruleQueue is how many events wait for a worker: at the most that sensors tell in
// a second on one core, some tens of milliseconds.
const ruleQueue = 1 << 15

func setLeast(c *Config, v string) error {
	p, ok := rule.ParsePriority(v)
	if !ok {
		return fmt.Errorf("%q is no priority: want one from emergency to debug", v)
	}
	c.Rules.Least = &p
	return nil
}

// setAggregate takes how long alerts that are alike are counted; 0 tells each.
func setAggregate(c *Config, v string) error {
	if v == "0" || v == "0s" {
		c.Rules.Aggregate = -1
		return nil
	}
	return settings.Span(time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.Rules.Aggregate })(c, v)
}

func setMatching(c *Config, v string) error {
	if v != api.MatchingAll && v != api.MatchingFirst {
		return fmt.Errorf("%q is neither %s nor %s", v, api.MatchingAll, api.MatchingFirst)
	}
	c.Rules.First = v == api.MatchingFirst
	return nil
}

// setRules takes paths, by comma.
func setRules(c *Config, v string) error {
	var paths []string
	for p := range strings.SplitSeq(v, ",") {
		if p == "" {
			return errors.New("want paths of rule files or directories, by comma")
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return fmt.Errorf("find %s: %w", p, err)
		}
		paths = append(paths, abs)
	}
	c.Rules.Paths = paths
	return nil
}

func setSuggested(c *Config, v string) error {
	on, err := settings.ParseBool(v)
	c.Rules.NoSuggested = !on
	return err
}

func setRuleOutput(c *Config, v string) error {
	if _, err := rule.ParseFormat(v); err != nil {
		return err
	}
	c.Rules.Output = v
	return nil
}

// appendOptions are the keys of what is added to rules' outputs: Falco's
// append_output.
func appendOptions() []option {
	last := func(c *Config) *rule.Addition { return &c.Rules.Append[len(c.Rules.Append)-1] }
	text := func(at func(*rule.Addition) *string) func(*Config, string) error {
		return func(c *Config, v string) error { *at(last(c)) = v; return nil }
	}
	return []option{
		{Key: "rule", Doc: "name of the rule that it is for; without it all", Set: text(func(a *rule.Addition) *string { return &a.Rule })},
		{Key: "source", Doc: "source of the rules that it is for: syscall", Set: text(func(a *rule.Addition) *string { return &a.Source })},
		{Key: "tags", Doc: "tags that the rules have, by comma, all of them", Set: func(c *Config, v string) error {
			for tag := range strings.SplitSeq(v, ",") {
				if tag == "" {
					return errors.New("want tags, by comma")
				}
				last(c).Tags = append(last(c).Tags, tag)
			}
			return nil
		}},
		{Key: "output", Doc: "what is said behind the output", Set: text(func(a *rule.Addition) *string { return &a.Output })},
		{Key: "fields", Doc: "values that are among output_fields, and not in the output, by name: home: \"%proc.cwd\"; of the name's own field: evt.hostname: \"\"", Each: func(c *Config, name, v string) error {
			if v == "%"+name {
				v = ""
			}
			last(c).Fields = append(last(c).Fields, rule.ExtraField{Name: name, Format: v})
			return nil
		}},
	}
}

// rules describes what makes alerts, nil where there are none.
func (s *self) rules() *api.Rules {
	if !s.changes.hasRules() {
		return nil
	}
	st := s.alerts.Status()
	out := &api.Rules{Loaded: st.Loaded, Alerts: st.Alerts, Lost: st.Lost, Unlike: st.Unlike, Rules: []api.RuleState{}}
	for _, r := range st.Rules {
		out.Rules = append(out.Rules, api.RuleState{Name: r.Name, Priority: r.Priority, Enabled: r.Enabled, Matches: r.Matches, Measured: r.Measured, Mean: r.Mean})
	}
	if st.Refused != nil {
		out.Refused, out.RefusedAt = st.Refused.Error(), &st.RefusedAt
	}
	return out
}

// ruleFiles returns the rule files at work, and how they are, as the API has them.
func (s *self) ruleFiles() api.RuleFiles {
	files, cfg := s.alerts.Files()
	out := api.RuleFiles{Files: make([]api.RuleFile, len(files)), Settings: settingsOf(cfg)}
	for i, f := range files {
		out.Files[i] = api.RuleFile{Name: f.Name, Text: string(f.Text)}
	}
	return out
}

// settingsOf returns how rules are put to work as the API has it.
func settingsOf(cfg alert.Config) api.RuleSettings {
	s := api.RuleSettings{Matching: api.MatchingAll, Priority: rule.Debug.String(), Output: cfg.Rules.Extra, Append: []api.RuleAddition{}}
	if cfg.First {
		s.Matching = api.MatchingFirst
	}
	if cfg.Least != nil {
		s.Priority = cfg.Least.String()
	}
	for _, a := range cfg.Rules.Add {
		add := api.RuleAddition{Rule: a.Rule, Source: a.Source, Tags: a.Tags, Output: a.Output, Suggested: a.Suggested}
		for _, f := range a.Fields {
			add.Fields = append(add.Fields, api.AddedField(f))
		}
		s.Append = append(s.Append, add)
	}
	return s
}
