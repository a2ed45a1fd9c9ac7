package settings

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// longestSpan bounds what ParseSpan reads: ten years of 366 days.
const longestSpan = 10 * 366 * 24 * time.Hour

// spanUnit is what can stand behind a number of a span. Months and years have no
// fixed length.
var spanUnits = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

var (
	spanText = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?[a-zµ]+)+$`)
	spanPart = regexp.MustCompile(`([0-9]+(?:\.[0-9]+)?)([a-zµ]+)`)
)

// ParseSpan reads how long something takes: numbers with their units, from weeks
// to nanoseconds, like 90s, 1h30m, 1d or 2w. A day is 24 hours.
func ParseSpan(v string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is no span of time, like 90s, 1h30m, 1d or 2w", v)
	if !spanText.MatchString(v) {
		return 0, wrong
	}
	sum := 0.0
	for _, m := range spanPart.FindAllStringSubmatch(v, -1) {
		n, err := strconv.ParseFloat(m[1], 64)
		unit, ok := spanUnits[m[2]]
		if err != nil || !ok {
			return 0, wrong
		}
		sum += n * float64(unit)
	}
	if sum > float64(longestSpan) {
		return 0, fmt.Errorf("%q is longer than ten years", v)
	}
	return time.Duration(math.Round(sum)), nil
}

// SpanName writes a span as ParseSpan reads it, in the largest units that it is
// made of: 7d, 1d12h, 90m as 1h30m.
func SpanName(d time.Duration) string {
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}, {time.Nanosecond, "ns"}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	return b.String()
}

// Span sets a time as ParseSpan reads it, both bounds included.
func Span[C any](least, most time.Duration, at func(*C) *time.Duration) func(*C, string) error {
	return func(c *C, v string) error {
		d, err := ParseSpan(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("%q is no time from %s to %s, like 12h or 7d", v, SpanName(least), SpanName(most))
		}
		*at(c) = d
		return nil
	}
}

// errMoment says what ParseMoment reads.
var errMoment = errors.New("want a span to look back like 2h, 1h30m or 1d, a time of day like 14:32, a day like 2026-11-21 or yesterday, or both with a zone: 2026-11-21T14:32:00Z")

// dayLayouts are moments that have a day and no zone: they are in now's.
var dayLayouts = []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"}

// ParseMoment reads a moment of the past as people say it at the time now, in
// now's zone: how long ago it was (2h, 1h30m, 1d), the time of day (14:32,
// 14:32:05), which is yesterday's where it is later than now, a day (2026-11-21,
// today or yesterday: its begin), or both; with a zone in RFC 3339; or now. A moment after now is an
// error where it is one of a given day.
func ParseMoment(v string, now time.Time) (time.Time, error) {
	wrong := fmt.Errorf("%q is no moment: %w", v, errMoment)
	switch v {
	case "now":
		return now, nil
	case "today":
		return time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location()), nil
	case "yesterday":
		return time.Date(now.Year(), now.Month(), now.Day()-1, 0, 0, 0, 0, now.Location()), nil
	}
	if d, err := ParseSpan(v); err == nil {
		return now.Add(-d), nil
	} else if spanText.MatchString(v) {
		return time.Time{}, err
	}
	for _, layout := range []string{"15:04", "15:04:05"} { // fractions of a second may follow
		t, err := time.Parse(layout, v)
		if err != nil {
			continue
		}
		at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location())
		if at.After(now) {
			at = time.Date(now.Year(), now.Month(), now.Day()-1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location())
		}
		return at, nil
	}
	at, err := time.Parse(time.RFC3339, v)
	for _, layout := range dayLayouts {
		if err != nil {
			at, err = time.ParseInLocation(layout, v, now.Location())
		}
	}
	switch {
	case err != nil, at.Year() < 1970, at.Year() > 2261: // what nanoseconds since 1970 can say
		return time.Time{}, wrong
	case at.After(now.Add(time.Minute)): // clocks of two machines may differ
		return time.Time{}, fmt.Errorf("%q lies in the future: it is %s now", v, now.Format(time.RFC3339))
	}
	return at, nil
}
