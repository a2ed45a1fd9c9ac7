package agent

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"warren/alert"
	"warren/api"
	"warren/rule"
	"warren/settings"
)

// configLook is how often the configuration is looked at.
const configLook = time.Second

// changes takes over what has changed in the configuration while the agent runs:
// rules and alerts, both or neither. What else has changed is told, by its keys.
type changes struct {
	given    Options
	engine   *alert.Engine
	channels *alerts
	log      *slog.Logger

	// Only run uses these.
	begun  []byte      // the file when the agent started,
	text   []byte      // and when it was last looked at; nil where it could not be read
	judged bool        // whether it was refused for what it says
	files  []rule.File // together with these
	alerts AlertsConfig

	mu        sync.Mutex
	rules     RulesConfig
	refused   error // why the changed file is not used; nil where it is
	refusedAt time.Time
	waiting   []string // keys that want a restart
}

func newChanges(cfg Config, engine *alert.Engine, channels *alerts, log *slog.Logger) *changes {
	return &changes{given: cfg.given, engine: engine, channels: channels, log: log, begun: cfg.text, text: cfg.text, rules: cfg.Rules, alerts: cfg.Alerts}
}

// run looks at the file until ctx ends.
func (c *changes) run(ctx context.Context) error {
	if c.given.Config == "" {
		return nil
	}
	tick := time.NewTicker(configLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.look(ctx)
		}
	}
}

// look takes the file over where it has changed. One that was refused is tried again
// when it or a rule file has changed since.
func (c *changes) look(ctx context.Context) {
	text, err := os.ReadFile(c.given.Config)
	if err != nil {
		c.text, c.judged = nil, false
		c.refuse(err)
		return
	}
	same := c.text != nil && bytes.Equal(text, c.text)
	if c.text = text; same && c.refused == nil {
		return
	}
	cfg, err := Load(c.given)
	if err != nil {
		c.judged = false
		c.refuse(err)
		return
	}
	files, err := alert.Files(cfg.Rules.Paths, "")
	if err == nil && same && c.judged && alert.SameFiles(files, c.files) {
		return
	}
	c.judged, c.files = err == nil, files
	if err := c.use(ctx, cfg); err != nil {
		c.refuse(err)
		return
	}
	c.accept(text)
}

// use puts rules and alerts of a configuration to work, or changes nothing.
func (c *changes) use(ctx context.Context, cfg Config) error {
	var rules *alert.Change
	if !reflect.DeepEqual(cfg.Rules, c.rules) {
		var err error
		if rules, err = c.engine.Prepare(cfg.Rules.engine()); err != nil {
			return err
		}
	}
	if !reflect.DeepEqual(cfg.Alerts, c.alerts) {
		if err := c.channels.use(cfg.Alerts); err != nil {
			return err
		}
		c.alerts = cfg.Alerts
		c.log.Info("the channels of alerts have changed", "channels", len(cfg.Alerts.Channels))
	}
	if rules == nil {
		return nil
	}
	if err := c.engine.Use(ctx, rules); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = cfg.Rules
	return nil
}

// accept notes that a file is in use, and what of it is not.
func (c *changes) accept(text []byte) {
	keys := slices.DeleteFunc(settings.Changed(c.begun, text), func(key string) bool {
		section, _, _ := strings.Cut(key, ".")
		return section == "rules" || section == "alerts"
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(keys) > 0 && !slices.Equal(keys, c.waiting) {
		c.log.Warn("what has changed in the configuration takes effect with the next start, but for rules and alerts", "keys", keys)
	}
	c.waiting, c.refused = keys, nil
}

// refuse notes why a changed configuration is not used, and says it once.
func (c *changes) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil || c.refused.Error() != err.Error() {
		c.log.Error("the changed configuration cannot be used: rules and alerts stay as they were", "err", err)
		c.refusedAt = time.Now()
	}
	c.refused = err
}

// hasRules reports whether the rules at work are of any file.
func (c *changes) hasRules() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.rules.Paths) > 0
}

// state describes what became of changes, nil where there is nothing to say.
func (c *changes) state() *api.Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.refused != nil:
		return &api.Changes{File: c.given.Config, Refused: c.refused.Error(), RefusedAt: c.refusedAt, Restart: c.waiting}
	case len(c.waiting) > 0:
		return &api.Changes{File: c.given.Config, Restart: c.waiting}
	}
	return nil
}
