package api

import (
	"errors"
	"net/url"
	"strconv"
	"strings"

	"warren/event"
	"warren/filter"
)

func parseValues(raw string) (url.Values, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badRequest("malformed query: %v", err)
	}
	return v, nil
}

// filter compiles the parameter named filter; without one everything matches.
func (q query) filter() (*filter.Program, error) {
	prog, err := filter.Compile(q["filter"])
	if err == nil {
		return prog, nil
	}
	e := badRequest("%v", err)
	if f := (*filter.Error)(nil); errors.As(err, &f) {
		e.Message, e.Hint = f.Msg, f.Hint
		e.Expr, e.Pos, e.End = &f.Expr, &f.Pos, &f.End
	}
	return nil, e
}

// fields returns the fields that are asked for, nil for all.
func (q query) fields() (*event.Selection, error) {
	list, ok := q["fields"]
	if !ok {
		return nil, nil
	}
	sel, err := event.Select(strings.Split(list, ",")...)
	if unknown := (*event.UnknownFieldError)(nil); errors.As(err, &unknown) {
		e := badRequest("no field %s", printable(unknown.Name))
		e.Hint = filter.SuggestField(unknown.Name)
		return nil, e
	}
	return sel, err
}

func (q query) bool(name string, def bool) (bool, error) {
	switch v, ok := q[name]; {
	case !ok:
		return def, nil
	case v == "true" || v == "1" || v == "":
		return true, nil
	case v == "false" || v == "0":
		return false, nil
	default:
		return false, badRequest("parameter %s is %s, want true or false", name, printable(v))
	}
}

// count returns a number of at least 1; 0 stands for no limit, where the
// parameter is missing.
func (q query) count(name string) (int, error) {
	v, ok := q[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, badRequest("parameter %s is %s, want a number of at least 1", name, printable(v))
	}
	return n, nil
}

// printable quotes what a client sent, for a message.
func printable(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToASCII(s)
}
