package settings

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"time"
)

// Off is what stands for nothing where an address can be.
const Off = "off"

// Text sets any text.
func Text[C any](at func(*C) *string) func(*C, string) error {
	return func(c *C, v string) error {
		*at(c) = v
		return nil
	}
}

// Address sets HOST:PORT, after a look at its form; whether it may be listened on
// is seen when it is tried.
func Address[C any](at func(*C) *string) func(*C, string) error {
	return func(c *C, v string) error {
		if err := checkAddress(v, ""); err != nil {
			return err
		}
		*at(c) = v
		return nil
	}
}

// AddressOrOff sets HOST:PORT, or off as it stands there.
func AddressOrOff[C any](at func(*C) *string) func(*C, string) error {
	return func(c *C, v string) error {
		if v != Off {
			if err := checkAddress(v, ", or off"); err != nil {
				return err
			}
		}
		*at(c) = v
		return nil
	}
}

func checkAddress(v, or string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("%q is no address: want HOST:PORT, like 127.0.0.1:7117%s", v, or)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port from 0 to 65535", v)
	}
	return nil
}

// Bool sets true or false.
func Bool[C any](at func(*C) *bool) func(*C, string) error {
	return func(c *C, v string) (err error) {
		*at(c), err = ParseBool(v)
		return err
	}
}

// ParseBool reads true or false.
func ParseBool(v string) (bool, error) {
	switch v {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", v)
}

// Number sets a whole number, both bounds included.
func Number[C any](least, most int, at func(*C) *int) func(*C, string) error {
	return func(c *C, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is no number from %d to %d", v, least, most)
		}
		*at(c) = n
		return nil
	}
}

// Duration sets a time with its unit, both bounds included.
func Duration[C any](least, most time.Duration, at func(*C) *time.Duration) func(*C, string) error {
	return func(c *C, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("%q is no time from %v to %v, like 50ms or 2s", v, least, most)
		}
		*at(c) = d
		return nil
	}
}

// Size sets bytes, with a unit or without, both bounds included.
func Size[C any, N int | int64](least, most int64, at func(*C) *N) func(*C, string) error {
	return func(c *C, v string) error {
		n, err := ParseSize(v)
		if err != nil {
			return err
		}
		if n < least || n > most {
			return fmt.Errorf("%q is not from %s to %s", v, SizeName(least), SizeName(most))
		}
		*at(c) = N(n)
		return nil
	}
}

// sizeText is a number with a unit, or without.
var sizeText = regexp.MustCompile(`^([0-9]+) ?(|B|KiB|MiB|GiB)$`)

// ParseSize reads bytes, like 64KiB; at most a TiB.
func ParseSize(v string) (int64, error) {
	m := sizeText.FindStringSubmatch(v)
	if m == nil {
		return 0, fmt.Errorf("%q is no size, like 64KiB, 16MiB or 1GiB", v)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if err != nil || n > 1<<40>>shift {
		return 0, fmt.Errorf("%q is too large", v)
	}
	return n << shift, nil
}

// SizeName writes a size as ParseSize reads it.
func SizeName(n int64) string {
	for _, u := range []struct {
		shift int
		name  string
	}{{30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n >= 1<<u.shift && n%(1<<u.shift) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// levels are the names of log levels.
var levels = []struct {
	name  string
	level slog.Level
}{{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}}

// Level sets the level of a log by its name.
func Level[C any](at func(*C) *slog.Level) func(*C, string) error {
	return func(c *C, v string) error {
		for _, l := range levels {
			if l.name == v {
				*at(c) = l.level
				return nil
			}
		}
		return fmt.Errorf("%q is no level: want debug, info, warn or error", v)
	}
}
