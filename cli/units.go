package cli

import (
	"fmt"
	"strconv"
	"time"
)

// byteCount writes a number of bytes: 512 B, 1.2 KiB, 34 MiB.
func byteCount(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1023.5 && unit < 5 {
		v /= 1024
		unit++
	}
	format := "%.0f %ciB"
	if v < 9.95 {
		format = "%.1f %ciB"
	}
	return fmt.Sprintf(format, v, "KMGTPE"[unit])
}

// span writes a duration, rounded down: 0.012ms, 3.4ms, 120ms, 1.2s, 1m02s, 3h04m, 5d06h.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d == 0:
		return "0s"
	case d < time.Millisecond:
		return fmt.Sprintf("%.3fms", float64(d)/1e6)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d.Truncate(100*time.Microsecond))/1e6)
	case d < time.Second:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// nanos writes how long something short takes: 85ns, 3.4µs, 120µs, 4.1ms.
func nanos(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return fmt.Sprintf("%dns", d.Nanoseconds())
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.1fµs", float64(d.Truncate(100*time.Nanosecond))/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	}
	return span(d)
}

// percent writes a share: 0%, <0.01%, 0.34%, 12%.
func percent(share float64) string {
	switch p := share * 100; {
	case p == 0:
		return "0%"
	case p < 0.01:
		return "<0.01%"
	case p < 0.995:
		return fmt.Sprintf("%.2f%%", p)
	case p < 9.95:
		return fmt.Sprintf("%.1f%%", p)
	default:
		return fmt.Sprintf("%.0f%%", p)
	}
}

// rate writes a number per second: 0.2/s, 12/s, 3.4k/s.
func rate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0/s"
	case perSecond < 9.95:
		return fmt.Sprintf("%.1f/s", perSecond)
	case perSecond < 9995:
		return fmt.Sprintf("%.0f/s", perSecond)
	case perSecond < 999500:
		return fmt.Sprintf("%.1fk/s", perSecond/1e3)
	}
	return fmt.Sprintf("%.2fM/s", perSecond/1e6)
}

// day writes a moment of the past, shorter the nearer it is: the time of
// today, else the date too.
func day(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05")
	}
	if t.Year() == now.Year() {
		return t.Format("Jan _2 15:04")
	}
	return t.Format("Jan _2  2006")
}

// moments writes the begin and the end of a time, to the second: with the day where it
// is not today's, and finer where it is short.
func moments(from, to, now time.Time) (string, string) {
	clock := "15:04:05"
	if to.Sub(from) < 2*time.Second {
		clock = "15:04:05.000"
	}
	write := func(t time.Time) string {
		t = t.In(now.Location())
		switch {
		case t.Year() != now.Year():
			return t.Format("2006-01-02 " + clock)
		case t.YearDay() != now.YearDay():
			return t.Format("Jan _2 " + clock)
		}
		return t.Format(clock)
	}
	return write(from), write(to)
}
