package settings

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

type config struct {
	addr  string
	on    bool
	n     int
	d     time.Duration
	bytes int64
	level slog.Level
}

func TestValues(t *testing.T) {
	addr := func(c *config) *string { return &c.addr }
	size := Size(1<<10, 1<<30, func(c *config) *int64 { return &c.bytes })
	number := Number(1, 5, func(c *config) *int { return &c.n })
	span := Duration(time.Millisecond, time.Second, func(c *config) *time.Duration { return &c.d })
	for _, test := range []struct {
		set  func(*config, string) error
		text string
		want string // of a config, or of the error
	}{
		{Address(addr), ":1", "{addr::1"},
		{Address(addr), "off", `"off" is no address: want HOST:PORT, like 127.0.0.1:7117`},
		{Address(addr), "[::1]:65535", "{addr:[::1]:65535"},
		{Address(addr), "host:65536", "has no port from 0 to 65535"},
		{Address(addr), "::1", "is no address"},
		{Address(addr), "", "is no address"},
		{AddressOrOff(addr), "off", "{addr:off"},
		{AddressOrOff(addr), "x", ", or off"},
		{Text(addr), "", "{addr: "},
		{Bool(func(c *config) *bool { return &c.on }), "true", "on:true"},
		{Bool(func(c *config) *bool { return &c.on }), "yes", `"yes" is neither true nor false`},
		{number, "5", "n:5"},
		{number, "0", `"0" is no number from 1 to 5`},
		{number, "6", "is no number"},
		{number, "1e0", "is no number"},
		{number, "99999999999999999999", "is no number"},
		{span, "1ms", "d:1000000 "},
		{span, "1s", "d:1000000000 "},
		{span, "0s", `"0s" is no time from 1ms to 1s`},
		{span, "-1ms", "is no time"},
		{span, "5", "is no time"},
		{size, "1024", "bytes:1024"},
		{size, "1 GiB", "bytes:1073741824"},
		{size, "1GB", "is no size"},
		{size, "-1", "is no size"},
		{size, "1023B", `"1023B" is not from 1KiB to 1GiB`},
		{size, "2GiB", "is not from"},
		{size, "9999GiB", "is too large"},
		{size, "99999999999999999999", "is too large"},
		{Level(func(c *config) *slog.Level { return &c.level }), "warn", "level:4"},
		{Level(func(c *config) *slog.Level { return &c.level }), "WARN", "is no level: want debug, info, warn or error"},
	} {
		var c config
		got := ""
		if err := test.set(&c, test.text); err != nil {
			got = err.Error()
			if c != (config{}) {
				t.Errorf("%q is refused, and sets %+v", test.text, c)
			}
		} else {
			got = fmt.Sprintf("%+v", c)
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%q: %s, want %s", test.text, got, test.want)
		}
	}
	for _, n := range []int64{0, 1, 1 << 10, 3 << 20, 1 << 30, 1<<40 - 1, 1 << 40} {
		if got, err := ParseSize(SizeName(n)); got != n || err != nil {
			t.Errorf("%d is written %s and read %d, %v", n, SizeName(n), got, err)
		}
	}
}

func TestChanged(t *testing.T) {
	before := "a: 1\nb: {c: x, d: [1, {e: 2}]}\nf:\ng: y\n"
	for _, c := range []struct {
		after string
		want  []string
	}{
		{before, nil},
		{"# the same\ng: 'y'\nb:\n  d:\n    - 1\n    - e: 2\n  c: \"x\"\na: 1\n", nil},
		{"a: 2\nb: {c: x, d: [1, {e: 3}]}\nh: {i: {j: 1}}\n", []string{"a", "b.d", "g", "h.i.j"}},
		{"", []string{"a", "b.c", "b.d", "g"}},
		{"{", []string{"a", "b.c", "b.d", "g"}},
		{"- 1\n", []string{"", "a", "b.c", "b.d", "g"}},
	} {
		if got := Changed([]byte(before), []byte(c.after)); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.after, got, c.want)
		}
	}
}
