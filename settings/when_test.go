package settings

import (
	"strings"
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"0s": 0, "7d": 7 * 24 * time.Hour,
	} {
		got, err := ParseSpan(text)
		if err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", text, got, err, want)
		}
		if again, err := ParseSpan(SpanName(got)); err != nil || again != got {
			t.Errorf("%v is written as %s, which is %v, %v", got, SpanName(got), again, err)
		}
	}
	for _, text := range []string{"", "5", "h", "-1h", "1 h", "1y", "1M", "1h-", "99999999w", "1e3s", ".5h", "١h"} {
		if got, err := ParseSpan(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestMoment(t *testing.T) {
	zone := time.FixedZone("X", 2*3600)
	now := time.Date(2026, 11, 21, 14, 0, 0, 0, zone)
	for text, want := range map[string]string{
		"now":                       "2026-11-21T14:00:00+02:00",
		"2h":                        "2026-11-21T12:00:00+02:00",
		"1d":                        "2026-11-20T14:00:00+02:00",
		"13:32":                     "2026-11-21T13:32:00+02:00",
		"14:00":                     "2026-11-21T14:00:00+02:00",
		"14:32":                     "2026-11-20T14:32:00+02:00",
		"9:05:07":                   "2026-11-21T09:05:07+02:00",
		"13:32:05.25":               "2026-11-21T13:32:05.25+02:00",
		"yesterday":                 "2026-11-20T00:00:00+02:00",
		"today":                     "2026-11-21T00:00:00+02:00",
		"2026-11-20":                "2026-11-20T00:00:00+02:00",
		"2026-11-20 10:00":          "2026-11-20T10:00:00+02:00",
		"2026-11-20T10:00:01":       "2026-11-20T10:00:01+02:00",
		"2026-11-20T10:00:00Z":      "2026-11-20T10:00:00Z",
		"2026-11-20T10:00:00+01:00": "2026-11-20T10:00:00+01:00",
	} {
		got, err := ParseMoment(text, now)
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%s is %v, %v, want %s", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"": "no moment", "25:00": "no moment", "14:60": "no moment", "-2h": "no moment", "1y": "no span", "2026-11-22": "future", "2026-13-01": "no moment",
		"1900-01-01": "no moment", "2026-11-20T10:00:00": "",
	} {
		_, err := ParseMoment(text, now)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	// The day before one on which clocks were set forward has 14:32, too.
	if at, err := ParseMoment("14:32", time.Date(2026, 3, 1, 0, 10, 0, 0, zone)); err != nil || at.Format("01-02 15:04") != "02-28 14:32" {
		t.Errorf("after midnight: %v, %v", at, err)
	}
}

func FuzzMoment(f *testing.F) {
	for _, s := range []string{"2h", "1h30m", "14:32", "2026-11-21T14:32:00Z", "2026-11-21", "now"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		at, err := ParseMoment(text, now)
		if err != nil {
			return
		}
		if at.After(now.Add(time.Minute)) || at.Before(now.Add(-longestSpan)) && at.Year() < 1970 {
			t.Errorf("%q is %v", text, at)
		}
		// What has been understood is understood the same when written in full.
		if again, err := ParseMoment(at.Format(time.RFC3339Nano), now); err != nil || !again.Equal(at) {
			t.Errorf("%q is %v, and that is %v, %v", text, at, again, err)
		}
	})
}
