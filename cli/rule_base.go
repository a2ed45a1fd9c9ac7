package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"warren/api"
	"warren/rule"
)

// noBase is for --rules: FILES are all rules there are.
const noBase = "none"

// A ruling is how rules are put to events: the agent's settings, and in their place
// what was given.
type ruling struct {
	matching, priority string // "" for the agent's

	cfg   rule.Config
	least *rule.Priority // nil for all
}

// base takes over the agent's settings, and returns the rule files that others
// change: those of paths, by comma, or the agent's. An agent that does not tell them,
// or a hub, has none, and the settings that an agent has without a configuration.
func (h *ruling) base(ctx context.Context, env *Env, who *answerer, paths string) ([]rule.File, error) {
	theirs, err := who.Rules(ctx)
	var answer *api.Error
	switch {
	case errors.As(err, &answer) && answer.Status == http.StatusNotFound:
		theirs.Settings = api.DefaultRuleSettings()
	case err != nil:
		return nil, err
	}
	if err := h.take(&theirs.Settings); err != nil {
		return nil, err
	}
	switch paths {
	case noBase:
		return nil, nil
	case "":
	default:
		return readRules(env, strings.Split(paths, ","))
	}
	files := make([]rule.File, len(theirs.Files))
	for i, f := range theirs.Files {
		files[i] = rule.File{Name: f.Name, Text: []byte(f.Text)}
	}
	return files, nil
}

// take takes over an agent's settings where none were given.
func (h *ruling) take(s *api.RuleSettings) error {
	h.matching = cmp.Or(h.matching, s.Matching, api.MatchingAll)
	if name := cmp.Or(h.priority, s.Priority); name != "" {
		p, ok := rule.ParsePriority(name)
		if !ok {
			return usagef("%s is no priority: want one from emergency to debug", strconv.Quote(name))
		}
		h.least = &p
	}
	h.cfg.Extra = s.Output
	for _, a := range s.Append {
		add := rule.Addition{Rule: a.Rule, Source: a.Source, Tags: a.Tags, Output: a.Output, Suggested: a.Suggested}
		for _, f := range a.Fields {
			add.Fields = append(add.Fields, rule.ExtraField(f))
		}
		if err := add.Check(); err != nil {
			return fmt.Errorf("the agent's settings of rules: %w", err)
		}
		h.cfg.Add = append(h.cfg.Add, add)
	}
	return nil
}

// behind returns base with files behind them; one that is of base already, by its
// path, stands there.
func behind(dir string, base, files []rule.File) []rule.File {
	path := func(f rule.File) string {
		if filepath.IsAbs(f.Name) {
			return f.Name
		}
		return filepath.Join(dir, f.Name)
	}
	all := slices.Clone(base)
	for _, f := range files {
		at := slices.IndexFunc(base, func(b rule.File) bool { return path(b) == path(f) })
		if at < 0 {
			all = append(all, f)
			continue
		}
		all[at] = f
	}
	return all
}

// replayed returns the enabled rules that files define behind base, and those of base
// that they change; without files those of base. With only it is the rule of that
// name, enabled or not. Where the first rule that matches alerts alone, rivals are all
// rules that could, in their order.
func (h *ruling) replayed(env *Env, base, files []rule.File, only string) (set, rivals *rule.Set, err error) {
	all := behind(env.Dir, base, files)
	whole, findings := rule.Load(all, h.cfg)
	if whole == nil {
		findings = slices.DeleteFunc(findings, func(f rule.Finding) bool { return !f.IsError() })
		if err := printFindings(env, all, nil, findings); err != nil {
			return nil, nil, err
		}
		return nil, nil, errRules
	}
	if only != "" {
		r, ok := whole.Rule(only)
		if !ok {
			return nil, nil, noRule(only, whole)
		}
		r.Enabled = true
		set = &rule.Set{Rules: []*rule.Rule{r}}
	} else if set, err = h.about(whole, base, files); err != nil {
		return nil, nil, err
	}
	if h.matching != api.MatchingFirst {
		return set, nil, nil
	}
	rivals = whole.AtLeast(h.least)
	return set, &rule.Set{Rules: slices.DeleteFunc(slices.Clone(rivals.Rules), func(r *rule.Rule) bool { return !r.Enabled || r.Kinds()&ofRules == 0 })}, nil
}

// about returns the rules of a set that files are about: see replayed.
func (h *ruling) about(whole *rule.Set, base, files []rule.File) (*rule.Set, error) {
	was, _ := rule.Load(base, h.cfg)
	var on []*rule.Rule
	for _, r := range whole.Rules {
		about := len(files) == 0 || slices.ContainsFunc(files, func(f rule.File) bool { return f.Name == r.Place.File }) || changed(was, r)
		if about && r.Enabled && r.Kinds() != 0 {
			on = append(on, r)
		}
	}
	switch {
	case len(on) > 0:
		return &rule.Set{Rules: on}, nil
	case len(base)+len(files) == 0:
		return nil, usagef("which rule files? The agent has none")
	case len(files) == 0:
		return nil, errors.New("no rule of these files is enabled")
	}
	return nil, errors.New("these files define no rule that is enabled, and change none")
}

// changed reports whether a rule is not as a set has it, nil for none.
func changed(was *rule.Set, r *rule.Rule) bool {
	if was == nil {
		return true
	}
	b, ok := was.Rule(r.Name)
	return !ok || b.Enabled != r.Enabled || b.Priority != r.Priority || b.Output != r.Output || b.Condition.String() != r.Condition.String()
}
