package rule

import (
	"slices"
)

// override changes what is said under override of a rule that is there.
func (l *loader) override(it *item, prev *ruleDef, ops map[string]string) {
	for _, key := range append(slices.Clone(ruleReplace), "source") {
		if n := value(it.node, key); n != nil && ops[key] == "" && key != "source" {
			it.fail(n, ErrYAMLValidate, "say "+key+": replace under override, or leave it out", "override says nothing of %s", key)
			return
		}
	}
	if prev == nil {
		it.fail(it.node, ErrValidate, "define it before", "no rule is called %s: nothing of it can be changed", printable(it.name))
		return
	}
	// On a copy, so that of an item with a mistake nothing counts.
	r := *prev
	r.exceptions = slices.Clone(prev.exceptions)
	if !l.appendInto(it, &r, ops) {
		return
	}
	for key, op := range ops {
		if op != opReplace {
			continue
		}
		switch key {
		case "condition":
			cond, _ := it.scalar(it.node, key, true)
			r.cond = prose{cond}
		case "output":
			out, _ := it.scalar(it.node, key, true)
			r.output = prose{out}
		case "desc":
			r.desc = it.text(it.node, key, true)
		case "priority":
			r.priority = it.priority()
		case "capture":
			r.capture = it.flag(key, false)
		case "capture_duration":
			it.number(key)
		case "tags":
			r.tags = it.tags()
		case "reaction":
			r.reactions = it.reactions()
		case "enabled":
			r.enabled = it.flag(key, true)
		case "warn_evttypes":
			r.warnTypes = it.flag(key, true)
		case "skip-if-unknown-filter":
			r.skipUnknown = it.flag(key, false)
		case "exceptions":
			r.exceptions = it.exceptions(false)
			for _, x := range r.exceptions {
				if !x.complete(it, r.source) {
					return
				}
			}
		}
	}
	if it.bad {
		return
	}
	r.seen = l.tick()
	*prev = r
}

// appendTo adds to a rule that is there what the item has of some keys.
func (l *loader) appendTo(it *item, prev *ruleDef, ops map[string]string) {
	if it.overridesReaction(); it.bad {
		return
	}
	if prev == nil {
		it.fail(it.node, ErrValidate, "define it before", "no rule is called %s: nothing can be appended to it", printable(it.name))
		return
	}
	if value(it.node, "condition") == nil && value(it.node, "exceptions") == nil {
		it.fail(it.node, ErrValidate, "", "there is neither a condition nor an exception to append")
		return
	}
	r := *prev
	r.exceptions = slices.Clone(prev.exceptions)
	if l.appendInto(it, &r, ops) {
		r.seen = l.tick()
		*prev = r
	}
}

// appendInto does to r what ops say is to be appended.
func (l *loader) appendInto(it *item, r *ruleDef, ops map[string]string) bool {
	if ops["condition"] == opAppend {
		if p, ok := it.scalar(it.node, "condition", false); ok {
			r.cond = append(slices.Clip(r.cond), p)
		}
	}
	if ops["output"] == opAppend {
		if p, ok := it.scalar(it.node, "output", true); ok {
			r.output = append(slices.Clip(r.output), p)
		}
	}
	if ops["desc"] == opAppend {
		r.desc += " " + it.text(it.node, "desc", true)
	}
	if ops["tags"] == opAppend {
		r.tags = append(slices.Clip(r.tags), it.tags()...)
		slices.Sort(r.tags)
		r.tags = slices.Compact(r.tags)
	}
	if ops["reaction"] == opAppend {
		if r.reactions = append(slices.Clip(r.reactions), it.reactions()...); len(r.reactions) > maxReaction && !it.bad {
			it.tooManyReactions(value(it.node, "reaction"))
		}
	}
	if ops["exceptions"] == opAppend {
		for _, x := range it.exceptions(true) {
			i := slices.IndexFunc(r.exceptions, func(y *exception) bool { return y.name == x.name })
			switch {
			case i < 0 && x.fields == nil:
				it.fail(x.node, ErrValidate, "", "exception %s has no fields, and the rule has none of that name", printable(x.name))
			case i < 0 && len(x.values) == 0:
				it.fail(x.node, ErrValidate, "", "exception %s has no values", printable(x.name))
			case i < 0:
				if !x.complete(it, r.source) {
					return false
				}
				r.exceptions = append(r.exceptions, x)
			case x.fields != nil || x.comps != nil:
				it.fail(x.node, ErrValidate, "leave fields and comps out", "exception %s is there already: only values can be appended to it", printable(x.name))
			default:
				y := *r.exceptions[i]
				y.values = append(slices.Clip(y.values), x.values...)
				r.exceptions[i] = &y
			}
		}
	}
	return !it.bad
}
