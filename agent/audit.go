package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

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

// auditLog is what takes in audit events, by ways that may change.
type auditLog struct {
	in    *audit.Intake
	state string // file of how far a log was read
	log   *slog.Logger
	next  chan *auditWays // taken by run

	mu   sync.Mutex
	ways *auditWays
}

// auditWays are the ways by which events come, of one configuration.
type auditWays struct {
	cfg     AuditConfig
	webhook *audit.Webhook // nil for none
	l       net.Listener   // the webhook's
	log     *audit.Log     // nil for none
	used    chan struct{}  // closed by put
}

// openAudit listens, and returns what takes in audit events.
func openAudit(ctx context.Context, cfg Config, spine *pipeline.Pipeline, log *slog.Logger) (*auditLog, error) {
	a := &auditLog{in: audit.NewIntake(spine, log), state: filepath.Join(cfg.State, "kubernetes-audit.json"), log: log, next: make(chan *auditWays), ways: &auditWays{}}
	w, err := a.prepare(ctx, &cfg.Audit)
	if err != nil {
		return nil, err
	}
	a.put(w)
	return a, nil
}

// prepare opens the ways of a configuration, and changes none of those there are. An
// *[ownAddressError] says that they have to wait for the next start.
func (a *auditLog) prepare(ctx context.Context, c *AuditConfig) (_ *auditWays, err error) {
	w := &auditWays{cfg: *c, used: make(chan struct{})}
	if c.Log != "" {
		path, err := filepath.Abs(c.Log)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", c.Log, err)
		}
		w.log = audit.NewLog(a.in, audit.LogConfig{Path: path, State: a.state}, a.log)
	}
	if c.Listen == "" {
		return w, nil
	}
	if w.webhook, err = audit.NewWebhook(a.in, c.Webhook, a.log); err != nil {
		return nil, usageError("kubernetes-audit: webhook: %w", err)
	}
	if w.l, err = a.now().listen(ctx, c); err != nil {
		return nil, err
	}
	return w, nil
}

// listen listens where a configuration says. At the address where these ways listen
// already it has a part in that, which ends with the one that closes last.
func (w *auditWays) listen(ctx context.Context, c *AuditConfig) (net.Listener, error) {
	if l, ok := w.l.(*net.TCPListener); ok && w.cfg.Listen == c.Listen {
		f, err := l.File()
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", c.Listen, err)
		}
		defer f.Close()
		return net.FileListener(f)
	}
	listen := api.ListenTCP
	if c.Webhook.Cert == "" {
		listen = api.ListenLoopback
	}
	l, err := listen(ctx, c.Listen, auditListenKey)
	if errors.Is(err, api.ErrInUse) && w.has(c.Listen) {
		return nil, &ownAddressError{c.Listen, w.address()}
	}
	return l, err
}

// has reports whether nobody can listen at an address because these ways do: at the
// same port, of all addresses or of the same one by another name. All addresses of
// IPv4 have room beside one of IPv6.
func (w *auditWays) has(addr string) bool {
	if w.l == nil {
		return false
	}
	own, ok := w.l.Addr().(*net.TCPAddr)
	asked, err := net.ResolveTCPAddr("tcp", addr)
	if !ok || err != nil || asked.Port != own.Port {
		return false
	}
	if asked.IP.To4() != nil && own.IP.To4() == nil && !own.IP.IsUnspecified() {
		return false
	}
	return asked.IP == nil || asked.IP.IsUnspecified() || own.IP.IsUnspecified() || asked.IP.Equal(own.IP)
}

// An ownAddressError says that only another agent can listen at an address, because
// this one has its port.
type ownAddressError struct{ asked, own string }

// Error implements error.
func (e *ownAddressError) Error() string {
	return fmt.Sprintf("listen on %s: this agent has the port itself, at %s, until it ends", e.asked, e.own)
}

// now returns the ways that there are.
func (a *auditLog) now() *auditWays {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ways
}

// put has ways take the place of those there are.
func (a *auditLog) put(w *auditWays) {
	a.in.SetMaxEvent(w.cfg.MaxEvent)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ways = w
	close(w.used)
}

// use has run go on by other ways, and returns when it does: what is prepared then has
// these beside it. The error is that of ctx.
func (a *auditLog) use(ctx context.Context, w *auditWays) error {
	select {
	case a.next <- w:
	case <-ctx.Done():
		w.close()
		return ctx.Err()
	}
	select {
	case <-w.used:
		return nil
	case <-ctx.Done(): // run closes them
		return ctx.Err()
	}
}

// address is where API servers tell events, "" for nowhere.
func (w *auditWays) address() string {
	if w.l == nil {
		return ""
	}
	return w.l.Addr().String()
}

func (w *auditWays) close() {
	if w != nil && w.l != nil {
		w.l.Close()
	}
}

func (a *auditLog) close() { a.now().close() }

// run takes in events until ctx ends; it begins when rules see them.
func (a *auditLog) run(ctx context.Context, rules *alert.Engine) error {
	select {
	case <-rules.Began():
	case <-ctx.Done():
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.in.Run(ctx) })
	g.Go(func() error {
		for {
			next, err := a.now().run(ctx, a.next)
			if next == nil {
				return err
			}
			a.put(next)
		}
	})
	return g.Wait()
}

// run has events come until ctx ends, or other ways are to be gone by, which it
// returns: a log is followed by one at a time.
func (w *auditWays) run(ctx context.Context, change <-chan *auditWays) (next *auditWays, err error) {
	g, ctx := errgroup.WithContext(ctx)
	read, stop := context.WithCancel(ctx)
	defer stop()
	if w.webhook != nil {
		g.Go(func() error { return w.webhook.Run(ctx, w.l, read.Done()) })
	}
	if w.log != nil {
		g.Go(func() error { return w.log.Run(read) })
	}
	select {
	case next = <-change:
		stop() // requests that are being read come to their end
	case <-ctx.Done():
	}
	if err := g.Wait(); err != nil {
		next.close()
		return nil, err
	}
	return next, nil
}

// status describes it, nil where no API server tells anything.
func (a *auditLog) status() *api.AuditState {
	w := a.now()
	if !w.cfg.On() {
		return nil
	}
	s := a.in.Stats()
	st := &api.AuditState{Listen: w.address(), TLS: w.cfg.Webhook.Cert != "", Events: s.Events, Repeated: s.Repeated, Bad: s.Bad, TooLarge: s.TooLarge, Refused: s.Refused, Last: s.Last, Error: s.Error, ErrorAt: s.ErrorAt}
	if w.log != nil {
		l := w.log.State()
		st.Log, st.LogFile, st.LogOffset, st.LogGaps, st.LogError = w.cfg.Log, l.File, l.Offset, l.Gaps, l.Error
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
