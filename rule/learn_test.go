package rule

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/event"
)

// TestLearn proposes exceptions that load, and silence what they say and nothing
// else.
func TestLearn(t *testing.T) {
	base := File{"base.yaml", []byte(`
- list: bash
  items: [zsh]
- rule: it's a shell
  desc: a shell begins
  condition: evt.type = execve and proc.name = sh
  output: "%proc.cmdline"
  priority: NOTICE
  exceptions:
    - name: known
      fields: [proc.pname]
      values: [[init]]
`)}
	exec := func(image, exe, parent string) *event.Event {
		p := &event.Process{Name: "sh", ExePath: exe, Cmdline: "sh\n-c", Parent: &event.Process{Name: parent}}
		if image != "" {
			p.Container = &event.Container{FullID: "0123", ID: "0123", ImageRepo: image}
		}
		return &event.Event{Seq: 1, Process: p, Data: &event.Exec{Type: "execve"}}
	}
	type kind struct {
		image, exe, parent string
		times              uint64
		silenced           bool
	}
	// Beside its times, how many of them are told with others.
	together := map[string]uint64{"/bin/often": 9, "/bin/flood": 100}
	kinds := []kind{
		{"", "/bin/often", "bash", 4, true},
		{"", "/bin/flood", "bash", 2, false}, // the others may be of anybody
		{"", "/bin/sh", "bash", 5, true},     // whose name is a list's
		{"", "/bin/sh", "zsh", 2, false},     // too few
		{"docker.io/it's", "/bin/sh", `a "b" \c`, 4, true},
		{"docker.io/other", "/bin/sh", `a "b" \c`, 1, false},
		{"host", "/bin/sh", "bash", 1, false}, // an image of that name
		{"", "/bin/\x1b[2Jsh", "bash", 9, false},
		{"", "/bin/sh: #x, [y]", "{z}", 3, true},
	}
	var seen []Sighting
	var total, silenced, unknown uint64
	for _, k := range kinds {
		for i := range k.times {
			times := uint64(1)
			if i == 0 {
				times += together[k.exe]
			}
			seen = append(seen, Sighting{Rule: "it's a shell", Times: times, Last: time.Unix(int64(len(seen)), 0), Exe: k.exe, Parent: k.parent, Image: k.image, OnHost: k.image == "", Command: "sh\n- rule: x\u2028- rule: y\u0085- rule: z"})
		}
		total += k.times + together[k.exe]
		unknown += together[k.exe]
		if k.silenced {
			silenced += k.times
		}
	}
	lessons := Learn(seen, 3)
	if len(lessons) != 1 || lessons[0].Alerts != total || lessons[0].Silenced != silenced || lessons[0].Unknown != unknown {
		t.Fatalf("%+v", lessons)
	}
	text := AppendLessons(nil, lessons, "learned")
	for _, want := range []string{
		fmt.Sprintf("\n# %d of them are told only by their number", unknown),
		fmt.Sprintf("silenced at least %d of them, and up to %d would remain", silenced, total-silenced),
		"# at least 4 alerts, as of: ",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := AppendLessons(nil, Learn(slices.DeleteFunc(seen, func(s Sighting) bool { return s.Times > 1 }), 3), "learned"); strings.Contains(string(text), "at least") || strings.Contains(string(text), "known") {
		t.Errorf("alerts of processes that are all known:\n%s", text)
	}
	set, findings := Load([]File{base, {"learned.yaml", text}}, Config{})
	if set == nil {
		t.Fatalf("%+v\n%s", findings, text)
	}
	w := NewMatcher(set).NewWorker()
	for _, k := range kinds {
		if told := len(w.Match(exec(k.image, k.exe, k.parent))) == 1; told == k.silenced {
			t.Errorf("%+v: told %v\n%s", k, told, text)
		}
	}
}
