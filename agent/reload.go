package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"warren/alert"
	"warren/alert/reaction"
	"warren/api"
	"warren/rule"
	"warren/settings"
)

// configLook is how often the configuration is looked at.
const configLook = time.Second

// reloaded are the sections of the configuration that are taken over while the agent
// runs: all that have changed, or none.
var reloaded = []string{"rules", "alerts", "reactions", "kubernetes-audit"}

// users are the parts that go by these sections, in their order.
type users struct {
	engine   *alert.Engine
	channels *alerts
	reacts   *reactions
	audit    *auditLog
}

// changes takes over what has changed in the configuration while the agent runs.
// What else has changed than what is reloaded is told, by its keys.
type changes struct {
	users
	given Options
	log   *slog.Logger

	// Only run uses these.
	begun []byte      // the file when the agent started,
	text  []byte      // and when it was last looked at; nil where it could not be read
	files []rule.File // that it names
	ready *readyRules // of these, which are not at work; nil where they were not loaded
	cfg   Config      // in use, as far as it is reloaded
	heard []byte      // the file whose kubernetes-audit is

	mu        sync.Mutex
	rules     RulesConfig
	refused   error // why the changed file is not used; nil where it is
	refusedAt time.Time
	waiting   []string // keys that want a restart
}

func newChanges(cfg Config, of users, log *slog.Logger) *changes {
	return &changes{users: of, given: cfg.given, log: log, begun: cfg.text, text: cfg.text, rules: cfg.Rules, cfg: cfg, heard: cfg.text}
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

// look takes the file over where it has changed. One that was refused is tried again,
// for what it wants may be there by now; its rules are loaded again only when it or a
// rule file has changed.
func (c *changes) look(ctx context.Context) {
	text, err := os.ReadFile(c.given.Config)
	if err != nil {
		c.text, c.ready = nil, nil
		c.refuse(err)
		return
	}
	same := c.text != nil && bytes.Equal(text, c.text)
	if c.text = text; same && c.refused == nil {
		return
	}
	cfg, err := Load(c.given)
	if err != nil {
		c.ready = nil
		c.refuse(err)
		return
	}
	files, err := alert.Files(cfg.Rules.Paths, "")
	if !same || err != nil || !alert.SameFiles(files, c.files) {
		c.files, c.ready = files, nil
	}
	if err := c.use(ctx, cfg); err != nil {
		if ctx.Err() == nil { // and not the end, amid the change
			c.refuse(err)
		}
		return
	}
	c.ready = nil
	c.accept(text)
}

// readyRules are rules that can be put to work, or why they cannot.
type readyRules struct {
	change *alert.Change
	as     *reaction.Generation
	err    error
}

// load loads the rules of a configuration, once as long as their files are the same
// and could be read.
func (c *changes) load(cfg RulesConfig) (*readyRules, error) {
	if c.ready != nil {
		return c.ready, c.ready.err
	}
	r := &readyRules{as: c.reacts.Next()}
	r.change, r.err = c.engine.Prepare(cfg.engine(r.as.React))
	var bad *alert.BadRulesError
	if r.err == nil || errors.As(r.err, &bad) {
		c.ready = r
	}
	return r, r.err
}

// changedRules returns the rules where their files have changed, which else would be
// seen a second later than what the rules may have done; nil where they have not, or
// cannot be used, which the engine says, or were seen before.
func (c *changes) changedRules(cfg RulesConfig) *readyRules {
	if len(c.files) == 0 {
		return nil
	}
	if now, _ := c.engine.Files(); alert.SameFiles(now, c.files) {
		return nil
	}
	r, err := c.load(cfg)
	if err != nil {
		return nil
	}
	return r
}

// A step is all that has changed of a configuration, ready to be used; nil is what
// has not.
type step struct {
	rules  *readyRules
	alerts *AlertsConfig
	reacts *reaction.Terms
	audit  *auditWays
	waits  error // why what has changed of audit waits for the next start
}

// prepare makes what a configuration says ready, and changes nothing but what of the
// configuration has to wait for the next start: that is as it was.
func (c *changes) prepare(ctx context.Context, cfg *Config) (_ *step, err error) {
	s := &step{}
	if !reflect.DeepEqual(cfg.Rules, c.cfg.Rules) {
		if s.rules, err = c.load(cfg.Rules); err != nil {
			return nil, err
		}
	}
	if !reflect.DeepEqual(cfg.Alerts, c.cfg.Alerts) {
		s.alerts = &cfg.Alerts
	}
	if !reflect.DeepEqual(cfg.Reactions, c.cfg.Reactions) || cfg.Alerts.Falco != c.cfg.Alerts.Falco {
		if s.reacts, err = c.reacts.Prepare(cfg.Reactions, cfg.Alerts.Falco); err != nil {
			return nil, fmt.Errorf("reactions: %w", err)
		}
		if s.rules == nil {
			s.rules = c.changedRules(cfg.Rules)
		}
	}
	if !reflect.DeepEqual(cfg.Audit, c.cfg.Audit) {
		s.audit, err = c.audit.prepare(ctx, &cfg.Audit)
		if own := (*ownAddressError)(nil); errors.As(err, &own) {
			s.waits, cfg.Audit = err, c.cfg.Audit
		} else if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// use puts what has changed in a configuration to work, or changes nothing. What can
// be refused comes first: behind the channels only the agent's end is an error.
func (c *changes) use(ctx context.Context, cfg Config) error {
	s, err := c.prepare(ctx, &cfg)
	if err != nil {
		return err
	}
	if s.alerts != nil {
		if err := c.channels.use(*s.alerts); err != nil {
			s.audit.close()
			return err
		}
		c.log.Info("the channels of alerts have changed", "channels", len(cfg.Alerts.Channels))
	}
	if err := c.useRules(ctx, s, cfg.Reactions); err != nil {
		s.audit.close()
		return err
	}
	if s.audit != nil {
		if err := c.audit.use(ctx, s.audit); err != nil {
			return err
		}
		c.log.Info("from where audit events come has changed", "listen", cfg.Audit.Listen, "log", cfg.Audit.Log)
	}
	if s.waits != nil {
		c.log.Warn("kubernetes-audit in the configuration stays as it was until the next start", "err", s.waits)
	} else {
		c.heard = c.text
	}
	if s.rules != nil || s.audit != nil {
		unheard(c.engine, &cfg.Audit, c.log)
	}
	c.cfg = cfg
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = cfg.Rules
	return nil
}

// useRules puts rules to work, and what they may have done. That comes first: what
// the former rules have alerted of until they end is held to both.
func (c *changes) useRules(ctx context.Context, s *step, cfg reaction.Config) error {
	as := c.reacts.Now()
	if s.rules != nil {
		as = s.rules.as
	}
	if err := c.reacts.use(as, s.reacts, cfg); err != nil {
		return err
	}
	if s.reacts != nil {
		c.log.Info("what rules may have done has changed", "enabled", cfg.Enabled, "dryRun", cfg.DryRun)
	}
	if s.rules == nil {
		return nil
	}
	return c.engine.Use(ctx, s.rules.change)
}

// changedKeys returns the keys of some sections that two files do not have in common.
func changedKeys(before, after []byte, in func(section string) bool) []string {
	return slices.DeleteFunc(settings.Changed(before, after), func(key string) bool {
		section, _, _ := strings.Cut(key, ".")
		return !in(section)
	})
}

// accept notes that a file is in use, and what of it is not.
func (c *changes) accept(text []byte) {
	keys := changedKeys(c.begun, text, func(section string) bool { return !slices.Contains(reloaded, section) })
	keys = append(keys, changedKeys(c.heard, text, func(section string) bool { return section == "kubernetes-audit" })...)
	slices.Sort(keys)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(keys) > 0 && !slices.Equal(keys, c.waiting) {
		c.log.Warn("what has changed in the configuration takes effect with the next start: only some sections of it are taken over while the agent runs", "keys", keys, "reloaded", reloaded)
	}
	c.waiting, c.refused = keys, nil
}

// refuse notes why a changed configuration is not used, and says it once.
func (c *changes) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil || c.refused.Error() != err.Error() {
		c.log.Error("the changed configuration cannot be used: all stays as it was", "err", err)
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
