package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"warren/alert"
	"warren/alert/channel"
	"warren/api"
	"warren/event"
	"warren/pipeline"
	"warren/settings"
)

// AlertsConfig is where alerts go.
type AlertsConfig struct {
	Channels []channel.Config
	Falco    alert.Falco // how they are written
}

// alertsOptions are the keys of where alerts go.
func alertsOptions() []option {
	last := func(c *Config) *channel.Config { return &c.Alerts.Channels[len(c.Alerts.Channels)-1] }
	// unless makes a switch of one that leaves out.
	unless := func(at func(*Config) *bool) func(*Config, string) error {
		return func(c *Config, v string) error {
			on, err := settings.ParseBool(v)
			*at(c) = !on
			return err
		}
	}
	return []option{
		{Key: "json-output", Doc: "alerts in Falco's JSON have output (true)", Set: unless(func(c *Config) *bool { return &c.Alerts.Falco.NoOutput })},
		{Key: "json-fields", Doc: "they have output_fields (true)", Set: unless(func(c *Config) *bool { return &c.Alerts.Falco.NoFields })},
		{Key: "json-tags", Doc: "they have tags (true)", Set: unless(func(c *Config) *bool { return &c.Alerts.Falco.NoTags })},
		{Key: "json-message", Doc: "they have message: output without time and priority (false)", Set: settings.Bool(func(c *Config) *bool { return &c.Alerts.Falco.Message })},
		{Key: "iso-time", Doc: "time before an output is ISO 8601's, in UTC, and not the time of the day (false)", Set: settings.Bool(func(c *Config) *bool { return &c.Alerts.Falco.ISOTime })},
		{Key: "channels", Doc: "ways to who takes alerts, in docs/alerts.md", Check: func(c *Config) error {
			if err := last(c).Check(); err != nil {
				return err
			}
			all := c.Alerts.Channels[:len(c.Alerts.Channels)-1]
			if name := last(c).Name; slices.ContainsFunc(all, func(o channel.Config) bool { return o.Name == name }) {
				return fmt.Errorf("two channels have the name %s", name)
			}
			return nil
		}, Item: func(c *Config) { c.Alerts.Channels = append(c.Alerts.Channels, channel.Config{}) }, Sub: settings.Within(channel.Options(), last)},
	}
}

const (
	// alertQueue is how many alerts wait to be handed to channels: which takes
	// them some microseconds each.
	alertQueue = 1 << 13
	// endGrace is how long, when the agent ends, consumers wait for the end of what
	// they are told: the sensors stop, the rings are read, rules look at what that was.
	endGrace = 15 * time.Second
)

// alerts takes what rules say to those who wait for it.
type alerts struct {
	set   *channel.Set
	spine *pipeline.Pipeline
	sub   *pipeline.Subscription // once begun is closed
	begun chan struct{}          // closed when there is a channel
}

// openAlerts opens the channels. Receivers are not asked.
func openAlerts(cfg Config, spine *pipeline.Pipeline, stdout io.Writer, log *slog.Logger) (*alerts, error) {
	set, err := channel.Open(cfg.Alerts.Channels, channel.Env{
		Dir: filepath.Join(cfg.State, "alerts"), Hostname: event.Hostname(), Version: cfg.Version, Falco: cfg.Alerts.Falco, Stdout: stdout, Log: log,
	})
	if err != nil {
		return nil, err
	}
	a := &alerts{set: set, spine: spine, begun: make(chan struct{})}
	if err := a.subscribe(cfg.Alerts); err != nil {
		set.Close()
		return nil, err
	}
	return a, nil
}

// subscribe asks the pipeline for alerts, once there is a channel.
func (a *alerts) subscribe(cfg AlertsConfig) (err error) {
	if a.sub != nil || len(cfg.Channels) == 0 {
		return nil
	}
	a.sub, err = a.spine.Subscribe(pipeline.Options{Name: "alerts", Filter: "evt.kind = alert", Kinds: event.Kinds(event.KindAlert), Queue: alertQueue})
	if err == nil {
		close(a.begun)
	}
	return err
}

// use puts other channels in the place of those there are, or changes nothing. One
// goroutine calls it.
func (a *alerts) use(cfg AlertsConfig) error {
	if err := a.set.Replace(cfg.Channels, cfg.Falco); err != nil {
		return err
	}
	return a.subscribe(cfg)
}

// run hands alerts to channels until the pipeline ends, which ctx makes it do.
func (a *alerts) run(ctx context.Context) error {
	defer a.set.Close()
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(endGrace, cancel) })
	select {
	case <-ctx.Done():
	case <-a.begun:
	}
	select {
	case <-a.begun:
	default:
		return nil // no channel has ever been
	}
	for {
		e, err := a.sub.Next(over)
		if err != nil {
			return nil //nolint:nilerr // the end, or nobody waits for it any longer
		}
		if l, ok := e.Data.(*event.Lost); ok && l.Lane != "queue" {
			continue // somebody else's
		}
		a.set.Offer(e)
	}
}

// close ends the channels, as run does.
func (a *alerts) close() { a.set.Close() }

// status describes the channels, nil where there are none.
func (a *alerts) status() *api.Alerts {
	list, lost := a.set.Status()
	if len(list) == 0 {
		return nil
	}
	out := &api.Alerts{Lost: lost, Channels: []api.AlertChannel{}}
	for _, c := range list {
		out.Channels = append(out.Channels, api.AlertChannel{
			Name: c.Name, Type: c.Type, To: c.To, Waiting: c.Waiting, Bytes: c.Bytes, MaxBytes: c.Room,
			Sent: c.Sent, Retried: c.Retried, Dead: c.Dead, DeadFile: c.DeadFile, GivenUp: c.GivenUp, Lost: c.Lost, Damaged: c.Damaged,
			LastSent: c.LastSent, Error: c.Error, FailingSince: c.Failing, DiskError: c.Disk,
		})
	}
	return out
}

// test sends a test by a channel.
func (a *alerts) test(ctx context.Context, name string) error {
	err := a.set.Test(ctx, name)
	if !errors.Is(err, channel.ErrNoChannel) {
		return err
	}
	var names []string
	list, _ := a.set.Status()
	for _, c := range list {
		names = append(names, c.Name)
	}
	if len(names) == 0 {
		return api.NotFound("this agent has no channels: alerts in its configuration says where alerts go")
	}
	return api.NotFound("there is no channel %s; channels are %s", name, strings.Join(names, ", "))
}
