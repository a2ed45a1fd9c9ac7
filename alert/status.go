package alert

import (
	"time"

	"warren/rule"
)

// Status is how an engine is doing.
type Status struct {
	Loaded time.Time // when the rules at work were read
	Rules  []RuleStatus
	// Alerts counts what was told, Lost the events that were lost before a rule
	// could look at them.
	Alerts, Lost uint64
	// Unlike counts alerts that were told each, because there are too many different
	// or too large ones to find those that are alike.
	Unlike uint64
	// Refused says why files that have changed are not used, since when; nil where
	// all is well.
	Refused   error
	RefusedAt time.Time
}

// RuleStatus is what became of a rule.
type RuleStatus struct {
	Name, Priority, Source string
	Enabled                bool
	// Matches counts the events since the rules were loaded. Of Measured ones each took
	// Mean to judge, by this rule alone.
	Matches, Measured uint64
	Mean              time.Duration
}

// Status returns it.
func (e *Engine) Status() Status {
	r := e.now.Load()
	st := Status{Loaded: r.loaded, Alerts: e.alerts.Load(), Lost: e.lost.Load()}
	if r.noise != nil {
		st.Unlike = r.noise.overflow()
	}
	for _, x := range r.set.Rules {
		t := r.tallies[x]
		st.Rules = append(st.Rules, RuleStatus{
			Name: x.Name, Priority: x.Priority.String(), Source: x.Source, Enabled: x.Enabled, Matches: t.matches.Load(), Measured: t.measured.Load(), Mean: t.mean(),
		})
	}
	if was := e.refused.Load(); was != nil {
		st.Refused, st.RefusedAt = was.err, was.at
	}
	return st
}

// Files returns the files that the rules at work were made of, and their settings.
func (e *Engine) Files() ([]rule.File, Config) {
	now := e.now.Load()
	return now.files, now.cfg
}
