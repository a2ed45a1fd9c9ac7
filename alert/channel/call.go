package channel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"warren/settings"
)

// A Call is a webhook that is called for one alert at a time, now, and not by way
// of a channel: it has no queue, no spool and does not try again. Any goroutine may
// use it.
type Call struct{ w *webhook }

// NewCall makes a call of the configuration of a webhook, which CheckCall has
// found right.
func NewCall(cfg Config, version string) (*Call, error) {
	cfg = cfg.withDefaults()
	s, err := openWebhook(&cfg, &Env{Version: version})
	if err != nil {
		return nil, err
	}
	return &Call{s.(*webhook)}, nil
}

// callKeys are those of a webhook that a call has a use for.
var callKeys = slices.Concat([]string{"name", "timeout"}, kinds["webhook"].keys)

// CallOptions are the keys of one call in a configuration.
func CallOptions() []settings.Option[Config] {
	return slices.DeleteFunc(Options(), func(o settings.Option[Config]) bool { return !slices.Contains(callKeys, o.Key) })
}

// CheckCall says whether what was set of a call goes together.
func (c *Config) CheckCall() error {
	if c.Name == "" {
		return errors.New("a webhook has no name: give name")
	}
	if err := checkWebhook(c); err != nil {
		return fmt.Errorf("webhook %s: %w", c.Name, err)
	}
	return nil
}

// Send sends an alert, as Falco writes it in JSON, and returns the beginning of
// the answer, which errors say themselves. It takes no longer than the webhook's
// timeout.
func (c *Call) Send(ctx context.Context, alert []byte) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.w.cfg.Timeout)
	defer cancel()
	body, err := c.w.body(alert)
	if err != nil {
		return "", &refusedError{err}
	}
	answer, err := c.w.post(ctx, body)
	if err != nil {
		return "", err
	}
	return readable(answer[:min(len(answer), maxTail)]), nil
}

// Close ends connections that nobody uses.
func (c *Call) Close() { c.w.close() }

// Refused reports whether the receiver will never take what was sent, by the error
// of [Call.Send].
func Refused(err error) bool {
	var r *refusedError
	return errors.As(err, &r)
}

// Later is how long the receiver wants to be left alone, by the error of
// [Call.Send]; 0 where it says nothing of that.
func Later(err error) time.Duration {
	var l *laterError
	if errors.As(err, &l) {
		return l.after
	}
	return 0
}
