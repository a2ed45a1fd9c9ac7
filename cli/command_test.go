package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		args       string // joined by |
		command    string // the command that it is, where that is to be looked at
		noun       string // whose help is wanted
		err        string // the error, if one is expected
		check      func(g *globals) bool
	}{
		{name: "one word", line: "events", args: ""},
		{name: "two words", line: "process list", args: ""},
		{name: "flags anywhere", line: "--socket /s events -o json a b --limit 3", args: "a|b", check: func(g *globals) bool { return g.socket == "/s" }},
		{name: "attached values", line: "events --socket=/s -ojson -n=shop", check: func(g *globals) bool { return g.socket == "/s" }},
		{name: "flag between noun and verb", line: "process --socket /s list", check: func(g *globals) bool { return g.socket == "/s" }},
		{name: "letters together", line: "connection list -fo wide"},
		{name: "end of flags", line: "events -- -x --y", args: "-x|--y"},
		{name: "lone dash", line: "events -", args: "-"},
		{name: "noun alone", line: "process", command: "process list"},
		{name: "noun with flags of its list", line: "connection -fo wide", command: "connection list"},
		{name: "noun with a flag of all", line: "connection --socket /s", command: "connection list", check: func(g *globals) bool { return g.socket == "/s" }},
		{name: "noun with a filter", line: "process proc.pid = 1", command: "process list", args: "proc.pid|=|1"},
		{name: "noun with flag and filter", line: "process --exited -- -x", command: "process list", args: "-x"},
		{name: "noun and end of flags", line: "process -- list", command: "process list", args: "list"},
		{name: "noun and help", line: "process --help", noun: "process"},
		{name: "noun, help and flag of its list", line: "process -h --exited", command: "process list"},
		{name: "verb behind a flag of all", line: "process --socket /s tree 1", command: "process tree", args: "1"},
		{name: "filter in words", line: "events proc.pid = 1", args: "proc.pid|=|1"},
		{name: "yes with value", line: "process list --exited=false"},

		{name: "misspelt command", line: "evnts", err: `no command "evnts"; did you mean events?`},
		{name: "misspelt noun", line: "proces list", err: `no command "proces"; did you mean process?`},
		{name: "misspelt verb", line: "process lst", err: `no command "process lst"; did you mean process list?`},
		{name: "strange command", line: "frobnicate", err: `no command "frobnicate"`},
		{name: "misspelt flag", line: "events --limt 3", err: "no flag --limt; did you mean --limit?"},
		{name: "flag of another command", line: "events --kernel", err: "no flag --kernel"},
		{name: "short flag", line: "events -z", err: "no flag -z"},
		{name: "no value", line: "events --limit", err: "--limit needs a value: N"},
		{name: "no number", line: "events --limit x", err: `--limit takes a number, not "x"`},
		{name: "negative", line: "events --limit -3", err: `--limit takes a number, not "-3"`},
		{name: "no time", line: "map --since soon", err: `--since takes a time like 10m, not "soon"`},
		{name: "too far back", line: "map --since=2h", err: "--since reaches back 1h00m at most, not 2h00m"},
		{name: "no choice", line: "events -o yaml", err: `--output takes table, wide or json, not "yaml"`},
		{name: "no truth", line: "process list --exited=perhaps", err: `--exited takes true or false, not "perhaps"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var g globals
			commands, global := commandTable(&g)
			inv, err := parse(commands, global, strings.Fields(tt.line))
			if tt.err != "" {
				if u := (*usageError)(nil); !errors.As(err, &u) || u.msg != tt.err {
					t.Fatalf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := inv.command; tt.command != "" && (got == nil || got.name != tt.command) || inv.noun != tt.noun {
				t.Errorf("command %+v of noun %q, want %s of %q", got, inv.noun, tt.command, tt.noun)
			}
			if got := strings.Join(inv.args, "|"); got != tt.args {
				t.Errorf("arguments %s, want %s", got, tt.args)
			}
			if tt.check != nil && !tt.check(&g) {
				t.Errorf("flags are not as they were given: %+v", g)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"events", "process list -o wide", "-h", "--", "-", "--=", "-=x", "events -o", "process", "\x00", "events -fo json", "--socket"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, line string) {
		var g globals
		commands, global := commandTable(&g)
		_, _ = parse(commands, global, strings.Split(line, " ")) // it must come back
	})
}

func TestCaret(t *testing.T) {
	s := screen{utf8: true}
	for _, tt := range []struct {
		expr       string
		pos, end   int
		line, mark string
	}{
		{"fd.nmae = x", 0, 7, "fd.nmae = x", "^^^^^^^"},
		{"a = 1 and b", 10, 11, "a = 1 and b", "          ^"},
		{"a =", 3, 3, "a =", "   ^"},
		{"漢 = x", 6, 7, "漢 = x", "     ^"},
		{"a\x1b = x", 5, 6, `a\x1b = x`, "        ^"},
		{"one\ntwo bad\nthree", 8, 11, "two bad", "    ^^^"},
		{"short", 99, 200, "short", "     ^"},
		{"short", -5, -1, "short", "^"},
	} {
		line, mark := s.caret(tt.expr, tt.pos, tt.end)
		if line != tt.line || mark != tt.mark {
			t.Errorf("caret(%q, %d, %d):\n%s\n%s\nwant\n%s\n%s", tt.expr, tt.pos, tt.end, line, mark, tt.line, tt.mark)
		}
	}
}

// TestCommandTable holds each command to the rules of the table.
func TestCommandTable(t *testing.T) {
	for _, kubectl := range []bool{false, true} {
		g := globals{kubectl: kubectl}
		commands, global := commandTable(&g)
		checkCommands(t, program(kubectl), commands, global)
	}
}

func checkCommands(t *testing.T, prog string, commands []*command, global []*option) {
	t.Helper()
	for _, c := range commands {
		if c.summary == "" || strings.HasSuffix(c.summary, ".") {
			t.Errorf("%s: summary %q", c.name, c.summary)
		}
		if len(c.examplesOf(prog)) == 0 {
			t.Errorf("%s has no example", c.name)
		}
		for _, e := range c.examplesOf(prog) {
			if !strings.HasPrefix(e.line, prog+" "+c.name) {
				t.Errorf("%s: the example %q is of another program", c.name, e.line)
			}
		}
		seen := map[string]bool{"help": true, "h": true}
		for _, f := range slices.Concat(global, c.flags) {
			set := 0
			for _, is := range []bool{f.text != nil, f.number != nil, f.yes != nil, f.set != nil} {
				if is {
					set++
				}
			}
			if set != 1 || f.doc == "" || (f.meta == "") != (f.yes != nil) {
				t.Errorf("%s --%s: %d values, doc %q, meta %q", c.name, f.long, set, f.doc, f.meta)
			}
			for _, name := range []string{f.long, f.short} {
				if name != "" && seen[name] {
					t.Errorf("%s: flag %s twice", c.name, name)
				}
				seen[name] = true
			}
		}
		var b strings.Builder
		c.help(&b, prog, global)
		for line := range strings.Lines(b.String()) {
			if width(strings.TrimSuffix(line, "\n")) > 80 && !strings.HasPrefix(line, "  "+prog+" ") {
				t.Errorf("%s: a line of its help has %d columns: %s", c.name, width(line), line)
			}
		}
	}
}
