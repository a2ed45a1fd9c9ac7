package cli

import (
	"testing"
	"time"
)

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10187: "9.9 KiB", 10240: "10 KiB", 1048575: "1.0 MiB", 5 << 30: "5.0 GiB", 1<<64 - 1: "16 EiB",
	} {
		if got := byteCount(n); got != want {
			t.Errorf("byteCount(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 12345: "0.012ms", 3400 * time.Microsecond: "3.4ms", 9990 * time.Microsecond: "9.9ms", 120 * time.Millisecond: "120ms", 999999999: "999ms", 1290 * time.Millisecond: "1.2s",
		59 * time.Second: "59s", 62 * time.Second: "1m02s", 3*time.Hour + 4*time.Minute: "3h04m", 126 * time.Hour: "5d06h", -2 * time.Second: "-2.0s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%d) = %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0ns", 85: "85ns", 3490: "3.4µs", 120500: "120µs", 4100 * time.Microsecond: "4.1ms"} {
		if got := nanos(d); got != want {
			t.Errorf("nanos(%d) = %s, want %s", d, got, want)
		}
	}
	for share, want := range map[float64]string{0: "0%", 0.00001: "<0.01%", 0.0034: "0.34%", 0.0123: "1.2%", 0.123: "12%", 1.5: "150%"} {
		if got := percent(share); got != want {
			t.Errorf("percent(%v) = %s, want %s", share, got, want)
		}
	}
	for r, want := range map[float64]string{0: "0/s", 0.21: "0.2/s", 12: "12/s", 12345: "12.3k/s", 2.5e6: "2.50M/s"} {
		if got := rate(r); got != want {
			t.Errorf("rate(%v) = %s, want %s", r, got, want)
		}
	}
	now := time.Date(2026, 11, 20, 21, 0, 0, 0, time.UTC)
	for at, want := range map[time.Time]string{
		now.Add(-time.Hour): "20:00:00", now.AddDate(0, 0, -1): "Nov 19 21:00", now.AddDate(-1, 0, 0): "Nov 20  2025",
	} {
		if got := day(at, now); got != want {
			t.Errorf("day(%v) = %s, want %s", at, got, want)
		}
	}
}
