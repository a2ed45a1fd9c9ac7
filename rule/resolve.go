package rule

import (
	"errors"
	"slices"
	"strings"

	"warren/event"
	"warren/filter"
)

// resolve makes rules of what was read.
func (l *loader) resolve() *Set {
	for name, m := range l.macros.all {
		m.expr = l.parse(m.it, m.cond, nil)
		if m.expr != nil {
			l.see(m, name)
		}
	}
	l.cycles()
	set := &Set{}
	for _, r := range l.rules.all {
		if rule := l.compile(r); rule != nil {
			set.Rules = append(set.Rules, rule)
		}
	}
	return set
}

// parse reads a condition, nil where it has a mistake, which is reported.
func (l *loader) parse(it *item, cond prose, x *exception) filter.Expr {
	text := cond.String()
	l.texts[text] = origin{it, cond, x}
	expr, err := filter.Parse(text)
	if err != nil {
		l.mistake(it, ErrCompileCondition, err)
		return nil
	}
	return expr
}

// cycles reports macros and lists that stand for themselves by way of others.
func (l *loader) cycles() {
	// 1: being visited, 2: done
	macros, lists := map[string]int{}, map[string]int{}
	var macro func(name string) bool
	macro = func(name string) (ok bool) {
		m := l.macros.at(name)
		if m == nil || m.expr == nil || macros[name] == 2 {
			return true
		}
		macros[name] = 1
		ok = true
		walk(m.expr, func(x filter.Expr) {
			use, is := x.(*filter.Macro)
			if !is || !ok {
				return
			}
			if macros[use.Name] == 1 {
				l.at(m.it, ErrValidate, use.Span, "", "macro %s stands for itself by way of %s", use.Name, name)
				ok = false
			} else if !macro(use.Name) {
				ok = false
			}
		})
		if macros[name] = 2; !ok {
			m.expr = nil
		}
		return ok
	}
	for name := range l.macros.all {
		macro(name)
	}
	var list func(name string) bool
	list = func(name string) bool {
		d := l.lists.at(name)
		if d == nil || lists[name] == 2 {
			return true
		}
		lists[name] = 1
		for i, v := range d.values {
			if v.Quoted {
				continue
			}
			if lists[v.Text] == 1 {
				d.it.say(d.items[i].node, ErrValidate, "", "list %s stands for itself by way of %s", printable(v.Text), printable(name))
				d.values = nil
				break
			}
			list(v.Text)
		}
		lists[name] = 2
		return true
	}
	for name := range l.lists.all {
		list(name)
	}
}

// see reports a macro of which the macro speaks, and which it does not see: only
// what stands before it in the files does it see, unless it is changed later.
func (l *loader) see(m *macroDef, name string) {
	walk(m.expr, func(x filter.Expr) {
		use, ok := x.(*filter.Macro)
		if !ok || m.expr == nil {
			return
		}
		other := l.macros.at(use.Name)
		switch {
		case use.Name == name:
			l.at(m.it, ErrValidate, use.Span, "", "the macro stands for itself")
			m.expr = nil
		case other == nil:
			l.at(m.it, ErrValidate, use.Span, didYouMean(use.Name, l.macros.names), "no macro is called %s", use.Name)
			m.expr = nil
		case other.index > m.seen:
			l.at(m.it, ErrValidate, use.Span, "define it before", "macro %s is defined behind this one", use.Name)
			m.expr = nil
		}
	})
}

func didYouMean(word string, names []string) string {
	if near := nearest(word, names); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

// says reads what a rule says, and reports whether it can.
func (l *loader) says(d *ruleDef, r *Rule) bool {
	unknown := ErrCompileOutput
	if d.skipUnknown {
		unknown = WarnUnknownFilter
	}
	if l.cfg.Extra != "" {
		r.Output += " " + l.cfg.Extra
	}
	r.Output = l.cfg.added(r)
	var err *FormatError
	if r.Format, err = ParseFormat(r.Output); err != nil {
		code := ErrCompileOutput
		if err.Unknown {
			code = unknown
		}
		src, at, columns := d.output.find(err.Pos, err.End)
		l.findings = append(l.findings, Finding{Code: code, Place: at, Item: d.it.kind, Name: d.it.name, Msg: err.Msg, Hint: err.Hint, Excerpt: src.excerpt(at, columns)})
		return false
	}
	l.cfg.addFields(r)
	return l.saysOwn(d, unknown)
}

// asks reads what a rule is about, and reports whether there can be such events.
func (l *loader) asks(d *ruleDef, r *Rule) bool {
	it := d.it
	cond := l.parse(it, d.cond, nil)
	if cond == nil {
		return false
	}
	if cond = l.except(d, r, cond); cond == nil {
		return false
	}
	full, ex := filter.Expand(cond, l)
	if ex != nil {
		l.mistake(it, ErrValidate, ex)
		return false
	}
	if !l.resolved(it, full) {
		return false
	}
	r.Condition = full
	l.suspicious(it, full)
	var fail error
	if r.Program, fail = filter.CompileExpr(full); fail != nil {
		code := ErrCompileCondition
		if d.skipUnknown && unknownField(fail) {
			code = WarnUnknownFilter
		}
		l.mistake(it, code, fail)
		return false
	}
	if !l.looksAtOwn(d, full) {
		return false
	}
	if d.source == SourceSyscall && d.warnTypes && manyTypes(full) {
		l.warn(it, WarnNoEvtType, "name the types of events that it is about: evt.type in (...)", "the rule looks at more than %d types of events", maxTypes)
	}
	return true
}

// compile makes a rule of what was read of it, nil where it is left out.
func (l *loader) compile(d *ruleDef) *Rule {
	it := d.it
	if d.unknownSource {
		return nil
	}
	r := &Rule{
		Name: it.name, Desc: d.desc, Output: d.output.String(), Priority: d.priority, Source: d.source, Tags: d.tags, Enabled: d.enabled,
		Reactions: d.reactions, Place: it.src.place(it.node),
	}
	says, asks := l.says(d, r), l.asks(d, r)
	if !says || !asks {
		return nil
	}
	for _, field := range append([]string{containerInfo}, deprecated...) {
		if i := strings.Index(r.Output, "%"+field); i >= 0 && !strings.HasPrefix(r.Output[i+1+len(field):], ".") {
			src, at, columns := d.output.find(i, i+1+len(field))
			l.findings = append(l.findings, Finding{Code: WarnDeprecated, Place: at, Item: it.kind, Name: it.name, Msg: field + " is deprecated", Excerpt: src.excerpt(at, columns)})
		}
	}
	if d.capture {
		l.warn(it, WarnCost, "what history keeps around each alert can be asked for", "capture has no effect: Warren writes no capture files")
	}
	return r
}

// saysOwn reports whether a rule's output has only fields of the rule's source. What
// else is added to it may have others: they are missing there.
func (l *loader) saysOwn(d *ruleDef, code Code) bool {
	text := d.output.String()
	f, err := ParseFormat(text)
	if err != nil {
		return true // what was added ends a field, or else it has been said
	}
	for _, p := range f.fields {
		for _, name := range p.value.Fields() {
			if hasField(d.source, name) {
				continue
			}
			at := strings.Index(text, name)
			msg, hint := otherSource(d.source, name)
			src, place, columns := d.output.find(at, at+len(name))
			l.findings = append(l.findings, Finding{Code: code, Place: place, Item: d.it.kind, Name: d.it.name, Msg: msg, Hint: hint, Excerpt: src.excerpt(place, columns)})
			return false
		}
	}
	return true
}

// looksAtOwn reports whether a rule's condition looks only at fields of the rule's
// source.
func (l *loader) looksAtOwn(d *ruleDef, cond filter.Expr) bool {
	var foreign *filter.Field
	filter.VisitFields(cond, func(f *filter.Field) {
		if foreign == nil && !hasField(d.source, f.Name) {
			foreign = f
		}
	})
	if foreign == nil {
		return true
	}
	code := ErrCompileCondition
	if d.skipUnknown {
		code = WarnUnknownFilter
	}
	msg, hint := otherSource(d.source, foreign.Name)
	l.at(d.it, code, foreign.Span, hint, "%s", msg)
	return false
}

// except takes the rule's exceptions away from its condition.
func (l *loader) except(d *ruleDef, r *Rule, cond filter.Expr) filter.Expr {
	for _, x := range d.exceptions {
		r.fields = append(r.fields, x.fields...)
		text := x.condition(d.it)
		if d.it.bad {
			return nil
		}
		if text == "" {
			continue
		}
		expr := l.parse(d.it, prose{{text, x.src, x.node}}, x)
		if expr == nil {
			return nil
		}
		if and, ok := cond.(*filter.And); ok {
			cond = &filter.And{Span: and.Span, X: append(slices.Clip(and.X), &filter.Not{X: expr})}
		} else {
			cond = &filter.And{X: []filter.Expr{cond, &filter.Not{X: expr}}}
		}
	}
	return cond
}

// resolved reports whether no name is left in an expression.
func (l *loader) resolved(it *item, x filter.Expr) bool {
	ok := true
	walk(x, func(x filter.Expr) {
		if !ok {
			return
		}
		switch x := x.(type) {
		case *filter.Macro:
			if ok = false; l.macros.at(x.Name) != nil {
				return // what is wrong with it has been said
			}
			l.at(it, ErrValidate, x.Span, didYouMean(x.Name, l.macros.names), "no macro is called %s", x.Name)
		case *filter.Check:
			if name, is := x.Right.(*filter.ListName); is {
				ok = false
				l.at(it, ErrValidate, name.Span, didYouMean(name.Name, l.lists.names), "no list is called %s", name.Name)
			}
		}
	})
	return ok
}

// Macro implements [filter.Resolver].
func (l *loader) Macro(name string) (filter.Expr, bool) {
	m := l.macros.at(name)
	if m == nil || m.expr == nil {
		return nil, false
	}
	m.used = true
	return m.expr, true
}

// List implements [filter.Resolver].
func (l *loader) List(name string) ([]*filter.Value, bool) {
	d := l.lists.at(name)
	if d == nil {
		return nil, false
	}
	d.used = true
	return d.values, true
}

// unused warns of macros and lists of which nobody speaks.
func (l *loader) unused() {
	for _, m := range l.macros.all {
		// What an unused macro speaks of is used by it.
		if !m.used {
			l.warn(m.it, WarnUnusedMacro, "", "no rule and no other macro speaks of it")
		}
	}
	for _, d := range l.lists.all {
		if !d.used {
			l.warn(d.it, WarnUnusedList, "", "no rule, no macro and no other list speaks of it")
		}
	}
}

// mistake reports what package filter says of a condition.
func (l *loader) mistake(it *item, code Code, err error) {
	var fe *filter.Error
	if !errors.As(err, &fe) {
		it.bad = true
		l.warn(it, code, "", "%v", err)
		return
	}
	l.findings = append(l.findings, l.finding(it, code, fe.Expr, fe.Pos, fe.End, fe.Msg, fe.Hint))
}

// finding says something about a place in a text that was parsed.
func (l *loader) finding(it *item, code Code, text string, pos, end int, msg, hint string) Finding {
	f := Finding{Code: code, Item: it.kind, Name: it.name, Msg: msg, Hint: hint}
	o, ok := l.texts[text]
	switch {
	case !ok:
		f.Place = it.src.place(it.node)
		f.Excerpt = it.src.excerpt(f.Place, 1)
	case o.exception != nil:
		f.Place = o.exception.src.place(o.exception.node)
		f.Excerpt = (&filter.Error{Expr: text, Pos: pos, End: end}).Caret()
	default:
		var src *source
		var columns int
		src, f.Place, columns = o.text.find(pos, end)
		f.Excerpt = src.excerpt(f.Place, columns)
	}
	return f
}

// warn reports something about a whole item.
func (l *loader) warn(it *item, code Code, hint, format string, args ...any) {
	key := it.node
	if n := value(it.node, it.kind); n != nil {
		key = n
	}
	it.say(key, code, hint, format, args...)
}

// unknownField reports whether a condition fails for a field or a type of
// events that is not known here.
func unknownField(err error) bool {
	var fe *filter.Error
	return errors.As(err, &fe) && (strings.HasPrefix(fe.Msg, "no field ") || strings.HasPrefix(fe.Msg, "no type of event "))
}

// walk visits an expression and all that is in it, from left to right.
func walk(x filter.Expr, visit func(filter.Expr)) {
	visit(x)
	switch x := x.(type) {
	case *filter.And:
		for _, y := range x.X {
			walk(y, visit)
		}
	case *filter.Or:
		for _, y := range x.X {
			walk(y, visit)
		}
	case *filter.Not:
		walk(x.X, visit)
	}
}

// isField reports whether a text names a field.
func isField(text string) bool {
	name, _, _ := strings.Cut(text, "[")
	_, ok := event.Lookup(name)
	return ok
}
