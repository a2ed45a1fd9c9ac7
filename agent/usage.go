package agent

import (
	"errors"
	"fmt"
	"strings"

	"warren/bpf"
)

// A UsageError is a mistake of who started the agent that shows only once it is
// tried: a file that is none, a cgroup that does not exist.
type UsageError struct{ err error }

// Error implements error.
func (u *UsageError) Error() string { return u.err.Error() }

// Unwrap returns what was tried, and how it failed.
func (u *UsageError) Unwrap() error { return u.err }

func usageError(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// wrongRoot makes a UsageError of an error that is about the cgroup root.
func wrongRoot(err error) error {
	if u := (*bpf.UnavailableError)(nil); errors.As(err, &u) && strings.HasPrefix(u.Feature, "cgroup root ") {
		return &UsageError{err}
	}
	return err
}
