package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"warren/alert"
	"warren/api"
	"warren/audit"
	"warren/pipeline"
	"warren/rule"
	"warren/settings"
)

// AuditConfig is from where API servers' audit events come.
type AuditConfig struct {
	// Listen is an address at which API servers tell them; "" for none.
	Listen  string
	Webhook audit.WebhookConfig
	// Log is a file that an API server writes them to; "" for none.
	Log string
	// MaxEvent is how large an event may be; 0 stands for [audit.DefaultMaxEvent].
	MaxEvent int
}

// On says whether there are any.
func (c *AuditConfig) On() bool { return c.Listen != "" || c.Log != "" }

const auditListenKey = "kubernetes-audit: webhook: listen"

// auditOptions are the keys of from where audit events come.
func auditOptions() []option {
	return []option{
		{Key: "webhook", Doc: "an address at which API servers tell them, by HTTPS at " + audit.Path, Check: func(c *Config) error { return c.Audit.checkWebhook() }, Sub: []option{
			{Key: "listen", Doc: "address, or off (off)", Set: settings.AddressOrOff(func(c *Config) *string { return &c.Audit.Listen })},
			{Key: "certificate", Doc: "file of our certificate; without it HTTP, which is for loopback alone", Set: file(func(c *Config) *string { return &c.Audit.Webhook.Cert })},
			{Key: "key", Doc: "file of its key", Set: file(func(c *Config) *string { return &c.Audit.Webhook.Key })},
			{Key: "client-ca", Doc: "file of the authorities of API servers' certificates; without it none is asked for", Set: file(func(c *Config) *string { return &c.Audit.Webhook.ClientCA })},
			{Key: "token-file", Doc: "file of the bearer token that API servers show; without it none is asked for", Set: file(func(c *Config) *string { return &c.Audit.Webhook.TokenFile })},
			{Key: "max-body", Doc: "how large a request may be (12MiB)", Set: settings.Size(64<<10, 256<<20, func(c *Config) *int64 { return &c.Audit.Webhook.MaxBody })},
		}},
		{Key: "log", Doc: "file that an API server writes them to, which is followed", Set: file(func(c *Config) *string { return &c.Audit.Log })},
		{Key: "max-event", Doc: "how large an event may be; larger ones are lost, and counted (256KiB)", Set: settings.Size(4<<10, 8<<20, func(c *Config) *int { return &c.Audit.MaxEvent })},
	}
}

// checkWebhook says whether whoever reaches the address may tell what nobody did.
func (c *AuditConfig) checkWebhook() error {
	if c.Listen == off {
		c.Listen = ""
	}
	w := &c.Webhook
	switch {
	case c.Listen == "" && (w.Cert != "" || w.Key != "" || w.ClientCA != "" || w.TokenFile != ""):
		return errors.New("want listen: an address")
	case (w.Cert == "") != (w.Key == ""):
		return errors.New("a certificate and its key go together")
	case w.Cert == "" && w.ClientCA != "":
		return errors.New("clients show a certificate by TLS alone: give certificate and key")
	case c.Listen == "" || loopback(c.Listen):
		return nil
	case w.Cert == "":
		return fmt.Errorf("%s is not on loopback: there it is HTTPS alone: give certificate and key", c.Listen)
	case w.ClientCA == "" && w.TokenFile == "":
		return fmt.Errorf("%s is not on loopback: whoever reaches it could tell what nobody asked for: give client-ca or token-file", c.Listen)
	}
	return nil
}

// loopback reports whether an address is one of this machine's loopback.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && api.IsLoopback(host)
}

// auditLog is what takes in audit events.
type auditLog struct {
	in      *audit.Intake
	webhook *audit.Webhook // nil for none
	l       net.Listener   // the webhook's
	log     *audit.Log     // nil for none
}

// openAudit listens, and returns what takes in audit events; nil where there are none.
func openAudit(ctx context.Context, cfg Config, spine *pipeline.Pipeline, log *slog.Logger) (_ *auditLog, err error) {
	c := cfg.Audit
	if !c.On() {
		return nil, nil
	}
	a := &auditLog{in: audit.NewIntake(spine, c.MaxEvent, log)}
	if c.Log != "" {
		path, err := filepath.Abs(c.Log)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", c.Log, err)
		}
		a.log = audit.NewLog(a.in, audit.LogConfig{Path: path, State: filepath.Join(cfg.State, "kubernetes-audit.json")}, log)
	}
	if c.Listen == "" {
		return a, nil
	}
	if a.webhook, err = audit.NewWebhook(a.in, c.Webhook, log); err != nil {
		return nil, usageError("kubernetes-audit: webhook: %w", err)
	}
	listen := api.ListenTCP
	if c.Webhook.Cert == "" {
		listen = api.ListenLoopback
	}
	if a.l, err = listen(ctx, c.Listen, auditListenKey); err != nil {
		return nil, err
	}
	return a, nil
}

// address is where API servers tell events, "" for nowhere.
func (a *auditLog) address() string {
	if a == nil || a.l == nil {
		return ""
	}
	return a.l.Addr().String()
}

func (a *auditLog) close() {
	if a != nil && a.l != nil {
		a.l.Close()
	}
}

// run takes in events until ctx ends; it begins when rules see them.
func (a *auditLog) run(ctx context.Context, rules *alert.Engine) error {
	select {
	case <-rules.Began():
	case <-ctx.Done():
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.in.Run(ctx) })
	if a.webhook != nil {
		g.Go(func() error { return a.webhook.Run(ctx, a.l) })
	}
	if a.log != nil {
		g.Go(func() error { return a.log.Run(ctx) })
	}
	return g.Wait()
}

// state describes it, nil where there is none.
func (a *auditLog) state(cfg *AuditConfig) *api.AuditState {
	if a == nil {
		return nil
	}
	s := a.in.Stats()
	st := &api.AuditState{Listen: a.address(), TLS: cfg.Webhook.Cert != "", Events: s.Events, Repeated: s.Repeated, Bad: s.Bad, TooLarge: s.TooLarge, Refused: s.Refused, Last: s.Last, Error: s.Error, ErrorAt: s.ErrorAt}
	if a.log != nil {
		l := a.log.State()
		st.Log, st.LogFile, st.LogOffset, st.LogGaps, st.LogError = cfg.Log, l.File, l.Offset, l.Gaps, l.Error
	}
	return st
}

// unheard warns of rules whose events come from nowhere.
func unheard(rules *alert.Engine, cfg *AuditConfig, log *slog.Logger) {
	if cfg.On() {
		return
	}
	n := 0
	for _, r := range rules.Status().Rules {
		if r.Enabled && r.Source == rule.SourceAudit {
			n++
		}
	}
	if n > 0 {
		log.Warn("rules of the source k8s_audit see nothing: kubernetes-audit in the configuration says from where its events come", "rules", n)
	}
}
