package rule

import (
	"fmt"
	"strings"
	"time"

	"warren/filter"
)

// A Said is what a rule said of an event.
type Said struct {
	Rule, Output string
	Event        TestEvent
}

// A Difference is one line of what was expected and what came: exactly one of Want
// and Got is nil, unless they are the same.
type Difference struct {
	Want *Expected
	Got  *Said
}

// A Result is what became of a test.
type Result struct {
	Test *Test
	// Differences are all alerts, expected and said, where they are not the same;
	// none where the test passed.
	Differences []Difference
}

// Passed reports whether rules said what was expected.
func (r *Result) Passed() bool { return len(r.Differences) == 0 }

// Run puts the tests to rules. The error is a *[SuiteError]: an alert of a rule
// that there is not, or that is not enabled.
func (s *Suite) Run(set *Set) ([]Result, error) {
	w := NewMatcher(set).NewWorker()
	var results []Result
	for i := range s.Tests {
		t := &s.Tests[i]
		for j := range t.Alerts {
			if err := t.Alerts[j].resolve(set); err != nil {
				return nil, err
			}
		}
		var said []Said
		for j, e := range t.Events {
			if e.Event.Seq == 0 { // what happens has a number
				e.Event.Seq = uint64(j) + 1
			}
			if e.Event.Time.IsZero() {
				e.Event.Time = time.Unix(0, 0).UTC()
			}
			for _, r := range w.Match(e.Event) {
				said = append(said, Said{r.Name, string(r.Format.Append(nil, e.Event)), e})
			}
		}
		results = append(results, Result{t, differences(t.Alerts, said)})
	}
	return results, nil
}

// resolve takes rule and output apart, where they are one text.
func (x *Expected) resolve(set *Set) error {
	r, ok := set.Rule(x.Rule)
	if !ok && x.Output == "" {
		for i, c := range x.Rule {
			if c != ':' {
				continue
			}
			if r, ok = set.Rule(strings.TrimSpace(x.Rule[:i])); ok {
				x.Rule, x.Output = r.Name, strings.TrimSpace(x.Rule[i+1:])
				break
			}
		}
	}
	if !ok {
		msg := fmt.Sprintf("no rule is called %s", printable(x.Rule))
		names := make([]string, len(set.Rules))
		for i, r := range set.Rules {
			names[i] = r.Name
		}
		if near := nearest(x.Rule, names); near != "" {
			msg += "; did you mean " + near + "?"
		}
		return &SuiteError{x.Place, msg}
	}
	if !r.Enabled {
		return &SuiteError{x.Place, fmt.Sprintf("rule %s is not enabled", printable(r.Name))}
	}
	return nil
}

func (x *Expected) is(s *Said) bool {
	return x.Rule == s.Rule && (x.Output == "" || x.Output == s.Output)
}

// maxCompared bounds how many pairs of alerts are compared for the shortest
// difference; beyond that, those at the same place are.
const maxCompared = 4 << 20

// differences lays expected alerts beside those that came, none where they are the
// same.
func differences(want []Expected, got []Said) (list []Difference) {
	n, m := len(want), len(got)
	same := n == m
	for i := 0; same && i < n; i++ {
		same = want[i].is(&got[i])
	}
	if same {
		return nil
	}
	if n*m > maxCompared {
		for i := range max(n, m) {
			if i < n && i < m && want[i].is(&got[i]) {
				continue
			}
			if i < n {
				list = append(list, Difference{Want: &want[i]})
			}
			if i < m {
				list = append(list, Difference{Got: &got[i]})
			}
		}
		return list
	}
	// common[i][j] is how many of want[i:] and got[j:] can stand side by side.
	common := make([][]int32, n+1)
	for i := range common {
		common[i] = make([]int32, m+1)
	}
	for i := n - 1; i >= 0; i-- {
		for j := m - 1; j >= 0; j-- {
			if want[i].is(&got[j]) {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < n || j < m {
		switch {
		case i < n && j < m && want[i].is(&got[j]):
			list = append(list, Difference{&want[i], &got[j]})
			i, j = i+1, j+1
		case i < n && (j == m || common[i+1][j] >= common[i][j+1]):
			list = append(list, Difference{Want: &want[i]})
			i++
		default:
			list = append(list, Difference{Got: &got[j]})
			j++
		}
	}
	return list
}

// unknownFieldMsg says that there is no such field.
func unknownFieldMsg(name string) string {
	name, _, _ = strings.Cut(name, "[")
	msg := "no field " + printable(name)
	if hint := filter.SuggestField(name); hint != "" {
		msg += "; " + hint
	}
	return msg
}
