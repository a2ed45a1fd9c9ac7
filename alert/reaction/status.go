package reaction

import (
	"maps"
	"slices"
	"time"
)

// Status is how a reactor is doing.
type Status struct {
	Enabled, DryRun bool
	// Waiting are alerts that are to be reacted to yet, Running those that are.
	Waiting, Running int
	// Counts are what became of reactions, by action.
	Counts []Count
	// Failed is the last one that has; the zero value where none has.
	Failed Failure
}

// A Count is what became of the reactions of one kind. DryRun were not to be done;
// Limited are too many.
type Count struct {
	Action                                 string
	Done, DryRun, Failed, Refused, Limited uint64
}

// A Failure is a reaction that failed.
type Failure struct {
	At                time.Time
	Rule, Action, Why string
}

// Status returns it. What was limited is counted when it is told.
func (x *Reactor) Status() Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := Status{Enabled: x.now.terms.cfg.Enabled, DryRun: x.now.terms.cfg.DryRun, Waiting: len(x.waiting), Running: len(x.busy), Failed: x.failed}
	for _, a := range slices.Sorted(maps.Keys(x.counts)) {
		st.Counts = append(st.Counts, *x.counts[a])
	}
	return st
}
