package rule

import (
	"fmt"
	"slices"
	"strings"

	"warren/event"
	"warren/filter"
)

// maxTypes is how many types of events a rule may look at before it is warned
// of: Falco's limit.
const maxTypes = 100

// deprecated are fields that Falco warns of.
var deprecated = []string{"evt.dir", "evt.latency", "evt.latency.s", "evt.latency.ns", "evt.latency.human", "evt.wait_latency"}

// at reports something about a part of a condition.
func (l *loader) at(it *item, code Code, at filter.Span, hint, format string, args ...any) {
	fe := at.Mistake(fmt.Sprintf(format, args...), hint)
	l.findings = append(l.findings, l.finding(it, code, fe.Expr, fe.Pos, fe.End, fe.Msg, fe.Hint))
}

// suspicious warns of what a condition says and hardly means.
func (l *loader) suspicious(it *item, x filter.Expr) {
	told := map[string]bool{}
	once := func(key string) bool {
		if told[key] {
			return false
		}
		told[key] = true
		return true
	}
	walk(x, func(x filter.Expr) {
		c, ok := x.(*filter.Check)
		if !ok {
			return
		}
		if f, ok := c.Left.(*filter.Field); ok {
			if slices.Contains(deprecated, f.Name) && once(f.Name) {
				l.at(it, WarnDeprecated, f.Span, "leave it out: there are no events of calls that begin, so that < always holds and > never does", "%s is deprecated", f.Name)
			}
			if strings.HasPrefix(f.Name, "ka.") || strings.HasPrefix(f.Name, "jevt.") {
				for _, v := range values(c) {
					if v.Text == Missing && once(Missing) {
						l.at(it, WarnUnsafeNA, v.Span, "write exists, or not and exists", "%s is compared with what stands for a missing value", f.Name)
					}
				}
			}
		}
		for _, v := range values(c) {
			if (isField(v.Text) || call.MatchString(v.Text) && isField(strings.TrimRight(v.Text[strings.IndexByte(v.Text, '(')+1:], ") "))) && once(v.Text) {
				l.at(it, WarnCondition, v.Span, "write val("+v.Text+") to compare with the field", "%s is a text here, and no field", v.Text)
			}
		}
	})
}

// values returns what stands on the right of a comparison.
func values(c *filter.Check) (vs []*filter.Value) {
	switch r := c.Right.(type) {
	case *filter.Value:
		return []*filter.Value{r}
	case *filter.List:
		for _, item := range r.Items {
			if v, ok := item.(*filter.Value); ok {
				vs = append(vs, v)
			}
		}
	}
	return vs
}

// lint looks for what is no mistake in the text, but in what it means.
func (l *loader) lint(set *Set) {
	for _, r := range set.Rules {
		d := l.rules.at(r.Name)
		if r.Kinds() == 0 || len(r.Program.Interest().Terms) == 0 {
			l.warn(d.it, WarnNeverMatches, "", "no event that Warren sees can match the rule%s", because(r))
		}
	}
	l.shadows(set)
}

// because says why a rule can never match, where that is plain.
func because(r *Rule) string {
	types, all := typesOf(r.Condition)
	if all || len(types) == 0 {
		return ""
	}
	if !slices.ContainsFunc(types, func(t string) bool { return event.KindsOfType(t) != 0 }) {
		return ": " + strings.Join(types[:min(len(types), 4)], ", ") + " are types of events that it does not observe"
	}
	return ""
}

// shadows warns of rules whose condition says all that another's says, and
// more: where the first rule that matches is the only one that tells, they are
// never heard.
func (l *loader) shadows(set *Set) {
	conjuncts := make([][]string, len(set.Rules))
	with := map[string]int{} // how many rules have a conjunct
	for i, r := range set.Rules {
		if !r.Enabled {
			continue
		}
		conjuncts[i] = conjunctsOf(r.Condition)
		for _, c := range conjuncts[i] {
			with[c]++
		}
	}
	// Rules by the conjunct that they share with the fewest: whoever is below
	// them has it too.
	by := map[string][]int{}
	for i, cs := range conjuncts {
		if len(cs) > 0 {
			rarest := slices.MinFunc(cs, func(a, b string) int { return with[a] - with[b] })
			by[rarest] = append(by[rarest], i)
		}
	}
	for i, cs := range conjuncts {
		for _, c := range cs {
			for _, j := range by[c] {
				if j >= i || set.Rules[j].Source != set.Rules[i].Source || !subset(conjuncts[j], cs) {
					continue
				}
				word := "a part"
				if len(conjuncts[j]) == len(cs) {
					word = "all"
				}
				l.warn(l.rules.at(set.Rules[i].Name).it, WarnShadowed, "", "what rule %s wants is %s of what this one wants: each event that matches this matches that", printable(set.Rules[j].Name), word)
			}
		}
	}
}

// conjunctsOf returns what has to hold for x to hold, as text, sorted.
func conjunctsOf(x filter.Expr) (list []string) {
	if and, ok := x.(*filter.And); ok {
		for _, y := range and.X {
			list = append(list, conjunctsOf(y)...)
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	return []string{x.String()}
}

// subset reports whether all of a, sorted, is in b, sorted.
func subset(a, b []string) bool {
	for _, s := range a {
		if _, ok := slices.BinarySearch(b, s); !ok {
			return false
		}
	}
	return true
}

// manyTypes reports whether a condition looks at more types of events than is
// good.
func manyTypes(x filter.Expr) bool {
	types, all := typesOf(x)
	return all || len(types) > maxTypes
}

// typesOf returns the values of evt.type that the condition can hold for, sorted;
// all is true where it does not restrict them.
func typesOf(x filter.Expr) (types []string, all bool) {
	known := filter.EventTypes()
	set := typeSet(x, known, false)
	for i, in := range set {
		if in {
			types = append(types, known[i])
		}
	}
	return types, len(types) == len(known)
}

// typeSet tells for each type whether x, or its negation, can hold.
func typeSet(x filter.Expr, known []string, negated bool) []bool {
	set := make([]bool, len(known))
	switch x := x.(type) {
	case *filter.Not:
		return typeSet(x.X, known, !negated)
	case *filter.And:
		return combine(x.X, known, negated, !negated)
	case *filter.Or:
		return combine(x.X, known, negated, negated)
	case *filter.Check:
		f, ok := x.Left.(*filter.Field)
		var holds func(t string) bool
		if ok && f.Name == "evt.type" && x.Mod == filter.NoMod {
			vs := values(x)
			switch x.Op {
			case filter.Eq, filter.In, filter.Intersects:
				holds = func(t string) bool { return slices.ContainsFunc(vs, func(v *filter.Value) bool { return v.Text == t }) }
			case filter.Ne:
				holds = func(t string) bool {
					return !slices.ContainsFunc(vs, func(v *filter.Value) bool { return v.Text == t })
				}
			case filter.StartsWith:
				holds = func(t string) bool { return len(vs) == 1 && strings.HasPrefix(t, vs[0].Text) }
			}
		}
		for i, t := range known {
			set[i] = holds == nil || holds(t) != negated
		}
		return set
	}
	for i := range set {
		set[i] = true
	}
	return set
}

// combine returns the types of all, or of any, of some conditions.
func combine(xs []filter.Expr, known []string, negated, every bool) []bool {
	set := make([]bool, len(known))
	for i := range set {
		set[i] = every
	}
	for _, x := range xs {
		for i, in := range typeSet(x, known, negated) {
			if every {
				set[i] = set[i] && in
			} else {
				set[i] = set[i] || in
			}
		}
	}
	return set
}
