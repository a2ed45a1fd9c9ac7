package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
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
	// Falco is how they are written; a change takes effect with the next start.
	Falco alert.Falco
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
		{Key: "channels", Doc: "ways to who takes alerts, in docs/alerts.md; they are taken over when the file changes", Check: func(c *Config) error {
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
	// configLook is how often the configuration is looked at.
	configLook = time.Second
)

// alerts takes what rules say to those who wait for it.
type alerts struct {
	cfg   AlertsConfig
	given Options // of which cfg was made
	set   *channel.Set
	spine *pipeline.Pipeline
	log   *slog.Logger
	going sync.WaitGroup

	mu        sync.Mutex
	sub       *pipeline.Subscription // nil as long as there was no channel
	refused   error                  // why the changed configuration is not used
	refusedAt time.Time
}

// openAlerts opens the channels. Receivers are not asked.
func openAlerts(cfg Config, spine *pipeline.Pipeline, stdout io.Writer, log *slog.Logger) (*alerts, error) {
	set, err := channel.Open(cfg.Alerts.Channels, channel.Env{
		Dir: filepath.Join(cfg.State, "alerts"), Hostname: event.Hostname(), Version: cfg.Version, Falco: cfg.Alerts.Falco, Stdout: stdout, Log: log,
	})
	if err != nil {
		return nil, err
	}
	a := &alerts{cfg: cfg.Alerts, given: cfg.given, set: set, spine: spine, log: log}
	if err := a.subscribe(); err != nil {
		set.Close()
		return nil, err
	}
	return a, nil
}

// subscribe asks the pipeline for alerts, once there is a channel.
func (a *alerts) subscribe() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sub != nil || len(a.cfg.Channels) == 0 {
		return nil
	}
	sub, err := a.spine.Subscribe(pipeline.Options{Name: "alerts", Filter: "evt.kind = alert", Kinds: event.Kinds(event.KindAlert), Queue: alertQueue})
	if err != nil {
		return err
	}
	a.sub = sub
	return nil
}

// run hands alerts to channels until the pipeline ends, which ctx makes it do.
func (a *alerts) run(ctx context.Context) error {
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(endGrace, cancel) })
	defer a.set.Close()
	defer a.going.Wait()
	a.begin(over)
	if a.given.Config == "" {
		<-ctx.Done()
		return nil
	}
	// What cfg was made of is not known any more: the first look reads it again.
	var text []byte
	tick := time.NewTicker(configLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := os.ReadFile(a.given.Config)
		if err == nil && text != nil && bytes.Equal(now, text) {
			continue
		}
		text = now // nil where it cannot be read: then it is new once it can
		if err == nil {
			err = a.reload(over)
		}
		a.refuse(err)
	}
}

// begin begins to hand alerts over, unless that is so.
func (a *alerts) begin(ctx context.Context) {
	if a.sub != nil {
		a.going.Go(func() {
			for {
				e, err := a.sub.Next(ctx)
				if err != nil {
					return // the end, or nobody waits for it any longer
				}
				if l, ok := e.Data.(*event.Lost); ok && l.Lane != "queue" {
					continue // somebody else's
				}
				a.set.Offer(e)
			}
		})
	}
}

// reload takes over the channels of the changed configuration. Everything else in
// it wants a restart.
func (a *alerts) reload(ctx context.Context) error {
	c, err := Load(a.given)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(c.Alerts, a.cfg) {
		return nil
	}
	if err := a.set.Replace(c.Alerts.Channels); err != nil {
		return err
	}
	a.cfg = c.Alerts
	a.log.Info("the channels of alerts have changed; other changes of the configuration take effect with the next start", "channels", len(a.cfg.Channels))
	begun := a.sub != nil
	if err := a.subscribe(); err != nil {
		return err
	}
	if !begun {
		a.begin(ctx)
	}
	return nil
}

// refuse notes why a changed configuration is not used, and says it once.
func (a *alerts) refuse(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.refused = nil
		return
	}
	if a.refused == nil || a.refused.Error() != err.Error() {
		a.log.Error("the changed configuration cannot be used: the channels of alerts stay as they were", "err", err)
		a.refusedAt = time.Now()
	}
	a.refused = err
}

// close ends the channels, as run does.
func (a *alerts) close() { a.set.Close() }

// status describes the channels, nil where there are none.
func (a *alerts) status() *api.Alerts {
	list, lost := a.set.Status()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(list) == 0 && a.refused == nil {
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
	if a.refused != nil {
		out.Refused, out.RefusedAt = a.refused.Error(), a.refusedAt
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
