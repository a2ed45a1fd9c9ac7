package cli

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// harmless reports the first character of text that could do something to a
// terminal, "" if there is none.
func harmless(text string) string {
	for i, r := range text {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				return "an invalid byte"
			}
		}
		if !strconv.IsPrint(r) {
			return strconv.QuoteRuneToASCII(r)
		}
	}
	return ""
}

func TestSafe(t *testing.T) {
	s := screen{utf8: true}
	ascii := screen{}
	for _, tt := range []struct {
		in, want, ascii string
	}{
		{"plain", "plain", "plain"},
		{"", "", ""},
		{"two\nlines\r\n\tx", `two\nlines\r\n\tx`, `two\nlines\r\n\tx`},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`, `\x1b[31mred\x1b[0m`},
		{"\x1b]0;title\a", `\x1b]0;title\x07`, `\x1b]0;title\x07`},
		{"del\x7f", `del\x7f`, `del\x7f`},
		{"c1\u009b31m", `c1\u009b31m`, `c1\u009b31m`},
		{"raw c1\x9b31m", `raw c1\x9b31m`, `raw c1\x9b31m`},
		{"gpj.\u202eexe", `gpj.\u202eexe`, `gpj.\u202eexe`},
		{"iso\u2066late\u2069", `iso\u2066late\u2069`, `iso\u2066late\u2069`},
		{"zero\u200bwidth\ufeff", `zero\u200bwidth\ufeff`, `zero\u200bwidth\ufeff`},
		{"tag\U000e0041", `tag\U000e0041`, `tag\U000e0041`},
		{"nbsp\u00a0", `nbsp\u00a0`, `nbsp\u00a0`},
		{"latin1 \xe9", `latin1 \xe9`, `latin1 \xe9`},
		{"é漢😀", "é漢😀", `\u00e9\u6f22\U0001f600`},
		{"\ufffd", "\ufffd", `\ufffd`},
		{`back\slash`, `back\slash`, `back\slash`},
	} {
		if got := s.safe(tt.in); got != tt.want {
			t.Errorf("safe(%q) = %q, want %q", tt.in, got, tt.want)
		}
		if got := ascii.safe(tt.in); got != tt.ascii {
			t.Errorf("in a locale that is not UTF-8, safe(%q) = %q, want %q", tt.in, got, tt.ascii)
		}
	}
}

func TestCommandLine(t *testing.T) {
	s := screen{utf8: true}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"ls", "-l", "--color=auto", "/tmp"}, "ls -l --color=auto /tmp"},
		{[]string{"sh", "-c", "echo hi; sleep 1"}, "sh -c 'echo hi; sleep 1'"},
		{[]string{"echo", ""}, "echo ''"},
		{[]string{"echo", "it's"}, `echo $'it\'s'`},
		{[]string{"echo", "a\nb"}, `echo $'a\nb'`},
		{[]string{"echo", `a\nb`}, `echo 'a\nb'`},
		{[]string{"echo", "\x1b[2J\\"}, `echo $'\x1b[2J\\'`},
		{[]string{"printf", "\xff"}, `printf $'\xff'`},
		{[]string{"touch", "né"}, "touch 'né'"},
		{[]string{"x", "~", "*", "$HOME", "!", "#", "&"}, `x '~' '*' '$HOME' '!' '#' '&'`},
	} {
		if got := s.commandLine(tt.args); got != tt.want {
			t.Errorf("commandLine(%q) = %s, want %s", tt.args, got, tt.want)
		}
	}
}

func TestTruncate(t *testing.T) {
	for _, tt := range []struct {
		utf8 bool
		in   string
		w    int
		want string
	}{
		{true, "short", 5, "short"},
		{true, "longer", 5, "long…"},
		{false, "longer", 5, "long~"},
		{true, "漢字漢字", 8, "漢字漢字"},
		{true, "漢字漢字", 7, "漢字漢…"},
		{true, "漢字漢字", 6, "漢字…"},
		{true, "x", 0, ""},
	} {
		got := screen{utf8: tt.utf8}.truncate(tt.in, tt.w)
		if got != tt.want || width(got) > tt.w {
			t.Errorf("truncate(%q, %d) = %q (%d columns), want %q", tt.in, tt.w, got, width(got), tt.want)
		}
	}
}

func FuzzSafe(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b[31m", "\u202e", "\xff\xfe", "\u009b", "é漢😀", "'\\\n", "\U000e0001"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, in string, isUTF8 bool) {
		s := screen{utf8: isUTF8}
		for name, out := range map[string]string{"safe": s.safe(in), "quoteArg": s.quoteArg(in), "truncated": s.truncate(s.safe(in), 7)} {
			if bad := harmless(out); bad != "" {
				t.Errorf("%s(%q) = %q has %s", name, in, out, bad)
			}
			if !isUTF8 && !isPlain(out) {
				t.Errorf("%s(%q) = %q is not ASCII", name, in, out)
			}
		}
		if again := s.safe(s.safe(in)); again != s.safe(in) {
			t.Errorf("safe(%q) is not stable: %q", in, again)
		}
		if w := width(s.truncate(s.safe(in), 7)); w > 7 {
			t.Errorf("truncate(%q) has %d columns", in, w)
		}
		if !strings.ContainsAny(in, "\\'") && isPlain(in) && s.safe(in) != in {
			t.Errorf("safe changed %q", in)
		}
	})
}

func FuzzSafeJSON(f *testing.F) {
	for _, s := range []string{"", "a\u009b", "\u202e", "\U000e0001x", "é漢😀", "\u2028", "\x7f", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		line, err := json.Marshal(map[string]string{"k": in})
		if err != nil {
			t.Skip()
		}
		// What encoding/json escapes by itself, another writer may not.
		line = []byte(strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029", `\u007f`, "\x7f").Replace(string(line)))
		if !json.Valid(line) {
			t.Skip()
		}
		out := safeJSON(line)
		if bad := harmless(string(out)); bad != "" {
			t.Fatalf("safeJSON(%q) = %q has %s", line, out, bad)
		}
		var before, after map[string]string
		if json.Unmarshal(line, &before) != nil || json.Unmarshal(out, &after) != nil || before["k"] != after["k"] {
			t.Fatalf("safeJSON(%q) = %q means something else", line, out)
		}
	})
}
