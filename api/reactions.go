package api

import "time"

// Reactions is what rules have wanted done when they alerted. Numbers are since the
// agent started.
type Reactions struct {
	Enabled bool `json:"enabled"`
	// DryRun says that all are dry runs.
	DryRun bool `json:"dry_run"`
	// Waiting are alerts that are to be reacted to yet, Running those that are.
	Waiting int `json:"waiting"`
	Running int `json:"running"`

	Actions []ReactionCount `json:"actions"`
	// Failure is the last one that failed.
	Failure *ReactionFailure `json:"failure,omitempty"`
}

// ReactionCount is what became of the reactions of one kind. DryRun could have been
// done, Refused the configuration does not allow, Limited were too many.
type ReactionCount struct {
	Action  string `json:"action"`
	Done    uint64 `json:"done"`
	DryRun  uint64 `json:"dry_run"`
	Failed  uint64 `json:"failed"`
	Refused uint64 `json:"refused"`
	Limited uint64 `json:"limited"`
}

// ReactionFailure is a reaction that failed.
type ReactionFailure struct {
	At     time.Time `json:"at"`
	Rule   string    `json:"rule"`
	Action string    `json:"action"`
	Error  string    `json:"error"`
}
