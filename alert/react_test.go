package alert

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/event"
	"warren/rule"
)

// TestReact hands over each alert that is told, of rules that have reactions, and
// none that is only counted.
func TestReact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &files{text: "- rule: r\n  desc: d\n  condition: evt.type = execve and proc.name = sh\n  output: '%proc.name of %proc.pname'\n  priority: NOTICE\n  reaction: {program: [/bin/true]}\n" +
			"- rule: none\n  desc: d\n  condition: evt.type = execve\n  output: '%proc.name'\n  priority: NOTICE\n"}
		var mu sync.Mutex
		var got []string
		react := func(r *rule.Rule, about, told *event.Event) {
			a := told.Data.(*event.Alert)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s %v of %d x%d", r.Name, about.Data.Kind(), about.Process.PID, a.Times))
			if a.ID == "" || len(r.Reactions) != 1 {
				t.Errorf("%+v", a)
			}
		}
		_, spine, stop := run(t, Config{Load: f.load, Aggregate: time.Minute, React: react})
		for pid := range uint32(3) {
			spine.emit(exec(pid+1, "sh"))
			synctest.Wait()
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		stop()
		want := []string{"r exec of 1 x1", "r exec of 3 x2"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if told := spine.alerts(); len(told) != 4 {
			t.Errorf("told %q", told)
		}
	})
}
