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
	out := RuleFiles{Files: []RuleFile{}}
	if s.cfg.Rules != nil {
		out.Files = append(out.Files, s.cfg.Rules()...)
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
