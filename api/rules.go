package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// PathRules answers which rule files are at work, below the root of the API.
const PathRules = "/rules"

// RuleFiles are the rule files that the rules at work were made of. Its JSON is
// part of the API.
type RuleFiles struct {
	// Files are in the order in which they were read.
	Files []RuleFile `json:"files"`
	// Settings are those of the agent.
	Settings RuleSettings `json:"settings"`
}

// The values of [RuleSettings.Matching].
const (
	MatchingAll   = "all"   // all rules that an event matches alert
	MatchingFirst = "first" // only the first of them, which is Falco's way
)

// RuleSettings say which matches alert, and what is said behind a rule's output.
type RuleSettings struct {
	Matching string         `json:"matching"` // MatchingAll, or MatchingFirst
	Priority string         `json:"priority"` // the least that alerts
	Output   string         `json:"output"`   // behind every output; "" for nothing
	Append   []RuleAddition `json:"append"`   // to the rules that each is for, in their order
}

// DefaultRuleSettings are those of an agent without a configuration.
func DefaultRuleSettings() RuleSettings {
	return RuleSettings{Matching: MatchingAll, Priority: "Debug", Append: []RuleAddition{{Suggested: true}}}
}

// A RuleAddition is said with what some rules say; "" and none are for all rules,
// and nothing.
type RuleAddition struct {
	Rule      string       `json:"rule,omitempty"`
	Source    string       `json:"source,omitempty"`
	Tags      []string     `json:"tags,omitempty"`
	Output    string       `json:"output,omitempty"`
	Fields    []AddedField `json:"fields,omitempty"`
	Suggested bool         `json:"suggested,omitempty"` // which container and pod
}

// An AddedField is a value by a name; without a format it is the field's of that
// name.
type AddedField struct {
	Name   string `json:"name"`
	Format string `json:"format,omitempty"`
}

// A RuleFile is one of them.
type RuleFile struct {
	Name string `json:"name"` // its path
	Text string `json:"text"`
}

func (s *Server) serveRules(w http.ResponseWriter, _ *http.Request, q Query) error {
	if err := s.here(q); err != nil {
		return err
	}
	out := RuleFiles{Files: []RuleFile{}, Settings: DefaultRuleSettings()}
	if s.cfg.Rules != nil {
		out = s.cfg.Rules()
	}
	return WriteJSON(w, out)
}

// Rules returns the rule files that are at work.
func (c *Client) Rules(ctx context.Context) (RuleFiles, error) {
	var out RuleFiles
	b, err := c.object(ctx, PathRules, nil)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("read the agent's rules: %w", err)
	}
	return out, nil
}
