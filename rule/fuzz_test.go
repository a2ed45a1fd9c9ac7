package rule

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"warren/event"
)

// FuzzLoad loads any text as a rule file: it may be refused, with a place that
// is in the file, but nothing else.
func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		a, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			if file.Name != "want" {
				f.Add(string(file.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, findings := Load([]File{{"a.yaml", []byte(text)}}, Config{})
		if (set == nil) != HasErrors(findings) {
			t.Fatalf("a set, or errors: %v, %v", set, findings)
		}
		lines := strings.Count(text, "\n") + 1
		for _, f := range findings {
			if f.Code.Text() == "" || f.Msg == "" || f.Place.File != "a.yaml" || f.Place.Line > lines || strings.ContainsAny(f.Msg+f.Hint, "\x1b\x00") || strings.Contains(f.Excerpt, "\x1b") {
				t.Errorf("%+v", f)
			}
		}
		if set == nil {
			return
		}
		e := &event.Event{Time: time.Unix(0, 0), Data: &event.Open{Type: "open"}}
		for _, r := range set.Rules {
			r.Program.Match(e)
			r.Format.Append(nil, e)
		}
	})
}

// FuzzFormat parses any text as an output.
func FuzzFormat(f *testing.F) {
	for _, s := range []string{"%proc.name", "*%evt.time: %20proc.cmdline %%", "%toupper(proc.name)", "%proc.aname[2]x", "%container.info"} {
		f.Add(s)
	}
	e := &event.Event{Time: time.Unix(0, 0), Data: &event.Open{Type: "open"}}
	f.Fuzz(func(t *testing.T, text string) {
		format, err := ParseFormat(text)
		if err != nil {
			if err.Pos < 0 || err.End < err.Pos || err.End > len(text) {
				t.Fatalf("%q: %+v", text, err)
			}
			return
		}
		format.Append(nil, e)
		format.AppendFields(nil, e)
	})
}

// TestLarge loads what is large, or grows beyond all bounds.
func TestLarge(t *testing.T) {
	rule := "- rule: r\n  desc: d\n  condition: evt.type = open and proc.name in (l%s)\n  output: o\n  priority: INFO\n"
	var many strings.Builder
	for i := range 20_000 {
		many.WriteString(strings.ReplaceAll("- rule: r@\n  desc: d\n  condition: evt.type = open and proc.name = p@\n  output: \"%proc.name @\"\n  priority: INFO\n", "@", string(rune('a'+i%26))+strings.Repeat("x", i/2000)+strconv.Itoa(i)))
	}
	macros := "- macro: m0\n  condition: evt.type = open or evt.type = creat\n"
	for i := range 40 {
		macros += strings.NewReplacer("@", strconv.Itoa(i+1), "#", strconv.Itoa(i)).Replace("- macro: m@\n  condition: m# or m#\n")
	}
	lists := "- list: l0\n  items: [" + strings.Repeat("a, ", 1000) + "a]\n"
	for i := range 10 {
		lists += strings.NewReplacer("@", strconv.Itoa(i+1), "#", strconv.Itoa(i)).Replace("- list: l@\n  items: [") + strings.Repeat("l"+strconv.Itoa(i)+", ", 10) + "b]\n"
	}
	bomb := "- &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 12 {
		bomb += "- &a" + strconv.Itoa(i+1) + " [" + strings.TrimSuffix(strings.Repeat("*a"+strconv.Itoa(i)+", ", 10), ", ") + "]\n"
	}
	for _, test := range []struct {
		name, text string
		rules      int
		want       Code
	}{
		{"100,000 lines", many.String(), 20_000, ""},
		{"a list of 100,000 items", "- list: l\n  items: [" + strings.Repeat("a, ", 100_000) + "a]\n" + strings.Replace(rule, "%s", "", 1), 1, ""},
		{"macros that double", macros + "- rule: r\n  desc: d\n  condition: m40\n  output: o\n  priority: INFO\n", 0, ErrValidate},
		{"lists of lists", lists + strings.Replace(rule, "%s", "10", 1), 0, ErrValidate},
		{"aliases of aliases", bomb, 0, ErrYAMLParse},
		{"an anchor in itself", "- &a [*a]\n", 0, ErrYAMLParse},
		{"values inside each other", strings.Repeat("[", 5000), 0, ErrYAMLParse},
		{"a regular expression that others need years for", "- rule: r\n  desc: d\n  condition: evt.type = open and proc.name regex '(a+)+$'\n  output: o\n  priority: INFO\n", 1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			set, findings := Load([]File{{"a.yaml", []byte(test.text)}}, Config{})
			switch {
			case test.want == "" && (set == nil || len(set.Rules) != test.rules):
				t.Errorf("not all is loaded: %+v", findings[:min(len(findings), 3)])
			case test.want != "" && (set != nil || len(findings) == 0 || findings[0].Code != test.want):
				t.Errorf("%+v, want %s", findings[:min(len(findings), 3)], test.want)
			}
			if set != nil && test.rules == 1 {
				set.Rules[0].Program.Match(&event.Event{Process: &event.Process{Name: strings.Repeat("a", 100) + "b"}, Data: &event.Open{Type: "open"}})
			}
		})
	}
}

func TestFileTooLarge(t *testing.T) {
	set, findings := Load([]File{{"a.yaml", make([]byte, maxFile+1)}}, Config{})
	if set != nil || len(findings) != 1 || findings[0].Code != ErrYAMLParse {
		t.Errorf("%+v", findings)
	}
}

// FuzzParseSuite runs what it can read.
func FuzzParseSuite(f *testing.F) {
	f.Add("a.txtar", "-- r.yaml --\n- rule: r\n  desc: d\n  condition: evt.type = execve\n  output: o\n  priority: INFO\n-- x/events --\n{evt.type: execve}\n{\"evt.type\":\"openat\",\"fd.name\":\"/x\"}\n-- x/alerts --\nr: o\n-- quiet --\n- evt.type: clone\n")
	f.Add("a.yaml", "rules:\n- rule: r\n  desc: d\n  condition: evt.type = execve\n  output: o\n  priority: INFO\ntests:\n- name: x\n  events: [{evt.type: execve, proc.aname: [a, null]}]\n  alerts: [{rule: r, output: o}, r: x]\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		s, err := ParseSuite(File{name, []byte(text)})
		if err != nil {
			return
		}
		if set, _ := Load(s.Rules, Config{}); set != nil {
			s.Run(set)
		}
	})
}
