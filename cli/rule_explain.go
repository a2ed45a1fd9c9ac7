package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/rule"
)

// ruleExplainCommand shows what a rule watches and what becomes of it.
func ruleExplainCommand(g *globals) *command {
	var output string
	return &command{
		name:    "rule explain",
		args:    "RULE [FILE...]",
		summary: "Tell what a rule watches, what the kernel decides of it, and what it costs",
		about: "The rule as it is in the end, with its macros, lists and exceptions in it: which hooks it attaches, what the kernel then leaves out before anything is recorded, and which of its comparisons are judged in the agent alone. " +
			"RULE is a rule's name, in quotes. Without FILES it is one of the agent's. What it costs an agent that has a rule of that name at work is said too, as it has measured it: to judge an event by this rule alone, and a run of each hook, which other rules and questions can need as well. With FILES the agent does not have to be there.",
		examples: []example{
			{"warren rule explain 'Read sensitive file untrusted' falco_rules.yaml", "One rule of a file"},
			{"warren rule explain 'Read sensitive file untrusted'", "One of the agent's"},
		},
		flags: []*option{outputFlag(&output, "", "table", "json")},
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which rule? Its name is needed, and files, unless the agent has it")
			}
			how, files, err := explainedFiles(ctx, env, g, args[1:])
			if err != nil {
				return err
			}
			if len(files) == 0 {
				return usagef("which rule of which files? The agent has none")
			}
			set, findings := rule.Load(files, how.cfg)
			if set == nil {
				findings = slices.DeleteFunc(findings, func(f rule.Finding) bool { return !f.IsError() })
				if err := printFindings(env, files, nil, findings); err != nil {
					return err
				}
				return errRules
			}
			r, ok := set.Rule(args[0])
			if !ok {
				return noRule(args[0], set)
			}
			var cost *ruleCost
			if !g.kubectl {
				cost = measured(ctx, env.dial(g.socket), r)
			}
			return explainRule(env, r, cost, output)
		},
	}
}

func explainRule(env *Env, r *rule.Rule, cost *ruleCost, output string) error {
	x := r.Program.Explain()
	if output == "json" {
		line, err := json.Marshal(struct {
			Rule      string      `json:"rule"`
			File      string      `json:"file"`
			Line      int         `json:"line"`
			Priority  string      `json:"priority"`
			Source    string      `json:"source"`
			Tags      []string    `json:"tags"`
			Enabled   bool        `json:"enabled"`
			Desc      string      `json:"description"`
			Output    string      `json:"output"`
			Fields    []string    `json:"output_fields"`
			Reactions []string    `json:"reactions,omitempty"`
			Condition explanation `json:"condition"`
			Cost      *ruleCost   `json:"cost,omitempty"`
		}{r.Name, r.Place.File, r.Place.Line, r.Priority.String(), r.Source, append([]string{}, r.Tags...), r.Enabled, r.Desc, r.Output, r.Format.Fields(), reactionsOf(r), explained(r.Condition.String(), &x, nil), cost})
		if err != nil {
			return fmt.Errorf("write the explanation: %w", err)
		}
		return writeObject(env, line)
	}
	v := explainView{page: page{screen: env.screen(true)}, x: &x}
	v.heading("Rule")
	v.line("name", v.safe(r.Name))
	v.line("file", v.safe(r.Place.String()))
	v.line("priority", v.safe(r.Priority.String()))
	v.line("tags", v.safe(strings.Join(r.Tags, ", ")))
	if !r.Enabled {
		v.line("enabled", v.paint(yellow, "no"))
	}
	v.line("about", v.safe(strings.Join(strings.Fields(r.Desc), " ")))
	v.line("says", v.safe(strings.Join(strings.Fields(r.Output), " ")))
	for _, text := range reactionsOf(r) {
		v.line("reaction", v.safe(text))
	}
	v.write()
	if cost != nil {
		v.cost(cost)
	}
	return v.print(env)
}

// explainedFiles reads rule files, or, where none are given, those of the agent.
func explainedFiles(ctx context.Context, env *Env, g *globals, names []string) (how ruling, files []rule.File, err error) {
	if len(names) > 0 {
		files, err = readRules(env, names)
		return how, files, err
	}
	who, err := g.answerer(env, &selection{})
	if err != nil {
		return how, nil, err
	}
	files, err = how.base(ctx, env, who, "")
	return how, files, err
}

// A ruleCost is what an agent has measured of a rule since it was loaded.
type ruleCost struct {
	Matches  uint64        `json:"matches"`
	Measured uint64        `json:"measured"` // events
	Mean     time.Duration `json:"mean_ns"`  // that one takes to judge, by this rule alone
	Hooks    []hookCost    `json:"hooks"`    // that watch the rule's events
}

type hookCost struct {
	Name string        `json:"name"`
	Mean time.Duration `json:"mean_ns"` // of a run
	Core float64       `json:"core"`    // share of one CPU
}

// measured returns what a rule costs the agent, nil where nobody answers or the agent
// has no rule of that name at work.
func measured(ctx context.Context, agent Agent, r *rule.Rule) *ruleCost {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	report, err := agent.Status(ctx)
	var st api.Status
	if err != nil || json.Unmarshal(report, &st) != nil || st.Rules == nil {
		return nil
	}
	i := slices.IndexFunc(st.Rules.Rules, func(s api.RuleState) bool { return s.Name == r.Name && s.Enabled })
	if i < 0 {
		return nil
	}
	s := &st.Rules.Rules[i]
	return &ruleCost{Matches: s.Matches, Measured: s.Measured, Mean: s.Mean, Hooks: hooksOf(&st, r)}
}

// hooksOf returns what the hooks cost that rules have attached, of the sensors that
// tell of a rule's events; of system calls those of the rule's types.
func hooksOf(st *api.Status, r *rule.Rule) []hookCost {
	x := r.Program.Explain()
	kinds := api.KindNames(r.Kinds())
	list := []hookCost{}
	for _, s := range st.Sensors {
		if !slices.ContainsFunc(s.Kinds, func(k string) bool { return slices.Contains(kinds, k) }) {
			continue
		}
		for _, h := range s.Hooks {
			_, typ, _ := strings.Cut(h.Name, ".")
			mine := s.Name != "syscall" || slices.Contains(x.Types, typ)
			if mine && h.Cost != nil && h.Cost.Sampled > 0 && slices.ContainsFunc(h.For, func(who string) bool { return strings.HasPrefix(who, "rules") }) {
				list = append(list, hookCost{h.Name, h.Cost.Mean, h.Cost.Core})
			}
		}
	}
	return list
}

// cost writes what a rule has been measured to cost.
func (v *explainView) cost(c *ruleCost) {
	v.heading("Measured by the agent")
	v.line("matches", fmt.Sprint(c.Matches))
	if c.Measured > 0 {
		v.line("an event", nanos(c.Mean)+" to judge by this rule alone, of "+fmt.Sprint(c.Measured)+" measured")
	} else {
		v.line("an event", "none was to be judged yet")
	}
	rows := make([][]cell, len(c.Hooks))
	for i, h := range c.Hooks {
		rows[i] = []cell{{text: v.safe(h.Name)}, {text: nanos(h.Mean)}, {text: percent(h.Core)}}
	}
	if len(rows) > 0 {
		v.rows([]column{{head: "HOOK", min: 16}, {head: "A RUN", right: true}, {head: "CORE", right: true}}, rows)
	}
}
