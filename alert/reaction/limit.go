package reaction

import (
	"maps"
	"math"
	"time"

	"warren/event"
	"warren/rule"
)

// maxKeys is how many workloads, each with one reaction of a rule, are told apart.
const maxKeys = 8192

// A window is how often something was done in the time of a limit.
type window struct {
	end  time.Time
	used int
}

// take reports whether it may be done once more.
func (w *window) take(l rule.Limit, now time.Time) bool {
	if !now.Before(w.end) {
		*w = window{end: now.Add(l.Per)}
	}
	if w.used >= l.Times {
		return false
	}
	w.used++
	return true
}

// windows are those of many things, by name.
type windows map[string]*window

// of returns the window of a thing, nil where there is no room for one more.
func (w windows) of(key string, now time.Time) *window {
	at := w[key]
	if at != nil {
		return at
	}
	if len(w) >= maxKeys {
		maps.DeleteFunc(w, func(_ string, at *window) bool { return !now.Before(at.end) })
	}
	if len(w) >= maxKeys {
		return nil
	}
	at = &window{}
	w[key] = at
	return at
}

// done is what was done once and for all. Of more than maxKeys the oldest are
// forgotten.
type done struct {
	at map[string]uint64
	n  uint64
}

func (d *done) has(key string) bool { _, ok := d.at[key]; return ok }

func (d *done) add(key string) {
	if d.at == nil {
		d.at = map[string]uint64{}
	}
	if len(d.at) >= maxKeys {
		oldest, first := "", uint64(math.MaxUint64)
		for k, n := range d.at {
			if n < first {
				oldest, first = k, n
			}
		}
		delete(d.at, oldest)
	}
	d.n++
	d.at[key] = d.n
}

func (d *done) remove(key string) { delete(d.at, key) }

// keyOf names a reaction of a rule, however often its file is read again, and whom
// it is about.
func keyOf(r *rule.Rule, do *rule.Reaction, whom string) string {
	return r.Name + "\x00" + do.String() + "\x00" + whom
}

// workloadOf names the workload that an event is of: what a pod was made by, so
// that the next pod in its place is the same one.
func workloadOf(e *event.Event) string {
	if p := event.PodOf(e); p != nil && p.Workload.Name != "" {
		return p.Namespace + "/" + p.Workload.Kind + "/" + p.Workload.Name
	}
	return podOf(e)
}

// podOf names the pod that an event is of, or the container, or the host.
func podOf(e *event.Event) string {
	if p := event.PodOf(e); p != nil {
		return p.UID
	}
	if p := e.Process; p != nil && p.Container != nil {
		return p.Container.FullID
	}
	return "host"
}
