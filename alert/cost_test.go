package alert

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"warren/event"
)

// TestMeasure measures an event now and then, of more rules than are measured at once
// all in turn.
func TestMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		const rules = mostMeasured + 10
		for i := range rules {
			fmt.Fprintf(&text, "- rule: r%d\n  desc: d\n  condition: evt.type = execve and proc.name contains x%d\n  output: o\n  priority: INFO\n", i, i)
		}
		f := &files{text: text.String()}
		e, spine, stop := run(t, Config{Load: f.load, Workers: 1})
		defer stop()
		measured := func() (n uint64) {
			for range 10 { // at once
				spine.emit(exec(1, "sh"))
			}
			synctest.Wait()
			for _, r := range e.Status().Rules {
				n += r.Measured
			}
			return n
		}
		for i, want := range []uint64{mostMeasured, rules, rules + mostMeasured} {
			if got := measured(); got != want {
				t.Errorf("after %d events: %d measurements, want %d", 10*(i+1), got, want)
			}
			time.Sleep(measureEach)
		}
		for _, r := range e.Status().Rules {
			if r.Matches != 0 {
				t.Errorf("%s has matched", r.Name)
			}
		}
	})
}

// TestMeasureKinds measures rules about different kinds of events, which come in turns.
func TestMeasureKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		for i := range mostMeasured + 10 {
			fmt.Fprintf(&text, "- rule: r%d\n  desc: d\n  condition: evt.type = execve and proc.name contains x%d\n  output: o\n  priority: INFO\n", i, i)
		}
		text.WriteString("- rule: end\n  desc: d\n  condition: evt.type = procexit and proc.name contains x\n  output: o\n  priority: INFO\n")
		f := &files{text: text.String()}
		e, spine, stop := run(t, Config{Load: f.load, Workers: 1})
		defer stop()
		for range 2 {
			for _, data := range []event.Data{&event.Exec{Type: "execve"}, &event.Exit{Type: "procexit"}} {
				ev := exec(1, "sh")
				ev.Data = data
				spine.emit(ev)
				synctest.Wait()
				time.Sleep(measureEach)
			}
		}
		for _, r := range e.Status().Rules {
			if r.Measured == 0 {
				t.Errorf("%s is never measured", r.Name)
			}
		}
	})
}
