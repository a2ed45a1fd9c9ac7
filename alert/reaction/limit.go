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

// room reports whether it may be done once more.
func (w *window) room(l rule.Limit, now time.Time) bool {
	return !now.Before(w.end) || w.used < l.Times
}

// take notes that it is done once more.
func (w *window) take(l rule.Limit, now time.Time) {
	if !now.Before(w.end) {
		*w = window{end: now.Add(l.Per)}
	}
	w.used++
}

// windows are those of many things, by name.
type windows struct {
	at    map[string]*window
	swept time.Time // when those that have ended were forgotten
}

// sweepEvery is how often windows that have ended are looked for, at most: that is a
// look at all of them, while somebody waits who alerts.
const sweepEvery = time.Second

// of returns the window of a thing, nil where there is no room for one more.
func (w *windows) of(key string, now time.Time) *window {
	at := w.at[key]
	if at != nil {
		return at
	}
	if len(w.at) >= maxKeys && now.Sub(w.swept) >= sweepEvery {
		maps.DeleteFunc(w.at, func(_ string, at *window) bool { return !now.Before(at.end) })
		w.swept = now
	}
	if len(w.at) >= maxKeys {
		return nil
	}
	if w.at == nil {
		w.at = map[string]*window{}
	}
	at = &window{}
	w.at[key] = at
	return at
}

// done is what was done once and for all, or is to be. Of more than maxKeys the
// oldest are forgotten.
type done struct {
	at map[string]doneOnce
	n  uint64
}

// doneOnce is one of them: when it was noted, as a number that grows, and whether it
// was but a dry run.
type doneOnce struct {
	n   uint64
	dry bool
}

// has reports whether something has been done; where it is to be done for real, a
// dry run of it does not count.
func (d *done) has(key string, dry bool) bool {
	once, ok := d.at[key]
	return ok && (dry || !once.dry)
}

func (d *done) add(key string, dry bool) {
	if d.at == nil {
		d.at = map[string]doneOnce{}
	}
	if _, again := d.at[key]; !again && len(d.at) >= maxKeys {
		oldest, first := "", uint64(math.MaxUint64)
		for k, once := range d.at {
			if once.n < first {
				oldest, first = k, once.n
			}
		}
		delete(d.at, oldest)
	}
	d.n++
	d.at[key] = doneOnce{d.n, dry}
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
