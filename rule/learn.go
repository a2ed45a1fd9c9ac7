package rule

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Sighting is an alert that was made: of which rule, how often, and by whom. Of
// those that are told as one, whose Times is more than 1, that is the last: who
// the others were is not known.
type Sighting struct {
	Rule    string
	Times   uint64 // 1 or more
	Last    time.Time
	Exe     string // proc.exepath
	Parent  string // proc.pname
	Image   string // container.image.repository, "" outside containers
	OnHost  bool
	Command string // for the reader
}

// A Lesson is what exceptions of a rule would silence.
type Lesson struct {
	Rule     string
	Alerts   uint64 // that there were
	Silenced uint64 // of those whose process is known
	Unknown  uint64 // alerts whose process is not known
	Latest   time.Time
	groups   []lessonGroup
}

type lessonGroup struct {
	of    Sighting // the last of them
	times uint64
}

// key is what the exceptions compare: an image, or the host, a program and who
// started it.
func (s *Sighting) key() ([3]string, bool) {
	image := s.Image
	if s.OnHost {
		image = "host"
	}
	key := [3]string{image, s.Exe, s.Parent}
	for _, text := range key {
		if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return key, false
		}
	}
	return key, true
}

// Learn sorts alerts by rule, and finds those that were made at least so many
// times by the same program, with the same parent, in the same image. What is told
// as one counts once for its program.
func Learn(seen []Sighting, least uint64) []Lesson {
	type slot struct {
		rule, host string
		key        [3]string
	}
	var lessons []Lesson
	at := map[string]int{}
	groups := map[slot]*lessonGroup{}
	for _, s := range seen {
		i, ok := at[s.Rule]
		if !ok {
			i = len(lessons)
			at[s.Rule] = i
			lessons = append(lessons, Lesson{Rule: s.Rule})
		}
		l := &lessons[i]
		l.Alerts += s.Times
		l.Unknown += s.Times - 1
		if s.Last.After(l.Latest) {
			l.Latest = s.Last
		}
		key, ok := s.key()
		if !ok {
			continue
		}
		k := slot{s.Rule, fmt.Sprint(s.OnHost), key}
		g := groups[k]
		if g == nil {
			g = &lessonGroup{}
			groups[k] = g
		}
		if g.times++; !s.Last.Before(g.of.Last) {
			g.of = s
		}
	}
	for k, g := range groups {
		if g.times >= least {
			l := &lessons[at[k.rule]]
			l.Silenced += g.times
			l.groups = append(l.groups, *g)
		}
	}
	for i := range lessons {
		slices.SortFunc(lessons[i].groups, func(a, b lessonGroup) int {
			x, _ := a.of.key()
			y, _ := b.of.key()
			return cmp.Or(cmp.Compare(b.times, a.times), slices.Compare(x[:], y[:]))
		})
	}
	slices.SortStableFunc(lessons, func(a, b Lesson) int {
		return cmp.Or(cmp.Compare(b.Silenced, a.Silenced), cmp.Compare(b.Alerts, a.Alerts), strings.Compare(a.Rule, b.Rule))
	})
	return lessons
}

// AppendLessons appends a rule file that appends exceptions to the rules, for
// somebody to read and change. Their names begin with name.
func AppendLessons(b []byte, lessons []Lesson, name string) []byte {
	for _, l := range lessons {
		b = fmt.Appendf(b, "\n# %s: %d alerts, the last at %s.\n", comment(l.Rule), l.Alerts, l.Latest.UTC().Format(time.RFC3339))
		if l.Unknown > 0 {
			b = fmt.Appendf(b, "# %d of them are told only by their number, with others: whose they are is not known.\n", l.Unknown)
		}
		b = fmt.Appendf(b, "# These exceptions would have silenced %s%d of them, and %s%d would remain.\n", atLeast(l.Unknown), l.Silenced, upTo(l.Unknown), l.Alerts-l.Silenced)
		if len(l.groups) == 0 {
			b = append(b, "# None is proposed: too few are alike.\n"...)
			continue
		}
		b = fmt.Appendf(b, "- rule: %s\n  exceptions:\n", yamlText(l.Rule))
		for _, host := range []bool{true, false} {
			begun := false
			for _, g := range l.groups {
				if g.of.OnHost != host {
					continue
				}
				if !begun {
					begun = true
					where, field := "host", "container.id"
					if !host {
						where, field = "images", "container.image.repository"
					}
					b = fmt.Appendf(b, "    - name: %s_%s\n      fields: [%s, proc.exepath, proc.pname]\n      comps: [=, =, =]\n      values:\n", name, where, field)
				}
				key, _ := g.of.key()
				b = fmt.Appendf(b, "        # %s%d alerts, as of: %s\n        - [%s, %s, %s]\n", atLeast(l.Unknown), g.times, comment(g.of.Command), yamlValue(key[0]), yamlValue(key[1]), yamlValue(key[2]))
			}
		}
		b = append(b, "  override: {exceptions: append}\n"...)
	}
	return b
}

// atLeast and upTo stand before numbers that are bounds, where some alerts' process
// is not known.
func atLeast(unknown uint64) string {
	if unknown == 0 {
		return ""
	}
	return "at least "
}

func upTo(unknown uint64) string {
	if unknown == 0 {
		return ""
	}
	return "up to "
}

// comment is a text that ends no line of a file, in any way that YAML knows.
func comment(s string) string {
	return printable(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s))
}

// yamlText writes a text as YAML in single quotes.
func yamlText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// yamlValue writes a value of an exception with quotes of its own, so that it is
// no list's name.
func yamlValue(s string) string { return yamlText(`"` + escape(s) + `"`) }
