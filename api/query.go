package api

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
	"warren/settings"
)

// Query is the parameters of a request, each given at most once.
type Query map[string]string

// parseQuery reads the parameters of a request. All but the known ones are
// refused.
func parseQuery(req *http.Request, known []string) (Query, error) {
	values, err := parseValues(req.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	q := Query{}
	for name, v := range values {
		if !slices.Contains(known, name) {
			e := BadRequest("unknown parameter %s", printable(name))
			switch near := filter.Nearest(name, known); {
			case near != "":
				e.Hint = "did you mean " + near + "?"
			case len(known) == 0:
				e.Hint = req.URL.Path + " takes no parameters"
			default:
				e.Hint = "known are " + strings.Join(known, ", ")
			}
			return nil, e
		}
		if len(v) > 1 {
			return nil, BadRequest("parameter %s is given %d times", name, len(v))
		}
		q[name] = v[0]
	}
	return q, nil
}

func parseValues(raw string) (url.Values, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, BadRequest("malformed query: %v", err)
	}
	return v, nil
}

// Filter compiles the parameter named filter; without one everything matches.
func (q Query) Filter() (*filter.Program, error) {
	prog, err := filter.Compile(q["filter"])
	if err == nil {
		return prog, nil
	}
	e := BadRequest("%v", err)
	if f := (*filter.Error)(nil); errors.As(err, &f) {
		e.Message, e.Hint = f.Msg, f.Hint
		e.Expr, e.Pos, e.End = &f.Expr, &f.Pos, &f.End
	}
	return nil, e
}

// Fields returns the fields that are asked for, nil for all.
func (q Query) Fields() (*event.Selection, error) {
	list, ok := q["fields"]
	if !ok {
		return nil, nil
	}
	sel, err := event.Select(strings.Split(list, ",")...)
	if unknown := (*event.UnknownFieldError)(nil); errors.As(err, &unknown) {
		e := BadRequest("no field %s", printable(unknown.Name))
		e.Hint = filter.SuggestField(unknown.Name)
		return nil, e
	}
	return sel, err
}

// Bool returns a parameter that is true or false; def where it is missing.
func (q Query) Bool(name string, def bool) (bool, error) {
	switch v, ok := q[name]; {
	case !ok:
		return def, nil
	case v == "true" || v == "1" || v == "":
		return true, nil
	case v == "false" || v == "0":
		return false, nil
	default:
		return false, BadRequest("parameter %s is %s, want true or false", name, printable(v))
	}
}

// Count returns a number of at least 1; 0 stands for no limit, where the
// parameter is missing.
func (q Query) Count(name string) (int, error) {
	v, ok := q[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, BadRequest("parameter %s is %s, want a number of at least 1", name, printable(v))
	}
	return n, nil
}

// Moment returns a moment of the past, as [settings.ParseMoment] reads it at the
// time now; the zero time, where the parameter is missing.
func (q Query) Moment(name string, now time.Time) (time.Time, error) {
	v, ok := q[name]
	if !ok {
		return time.Time{}, nil
	}
	at, err := settings.ParseMoment(v, now)
	if err != nil {
		return at, BadRequest("parameter %s: %v", name, err)
	}
	return at, nil
}

// Span returns the parameters since and until; the zero time for one that is
// missing.
func (q Query) Span(now time.Time) (since, until time.Time, err error) {
	if since, err = q.Moment("since", now); err != nil {
		return since, until, err
	}
	if until, err = q.Moment("until", now); err != nil {
		return since, until, err
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return since, until, BadRequest("since (%s) is not before until (%s)", since.Format(time.RFC3339), until.Format(time.RFC3339))
	}
	return since, until, nil
}

// List returns the elements, separated by commas, of a parameter; nil where it
// is missing. None of them is empty.
func (q Query) List(name string) ([]string, error) {
	v, ok := q[name]
	if !ok {
		return nil, nil
	}
	list := strings.Split(v, ",")
	if slices.Contains(list, "") {
		return nil, BadRequest("parameter %s is %s, want names separated by commas", name, printable(v))
	}
	return list, nil
}

// printable quotes what a client sent, for a message.
func printable(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToASCII(s)
}
