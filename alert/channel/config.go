package channel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"warren/event"
	"warren/filter"
	"warren/rule"
	"warren/settings"
)

// Config is what is set about one channel; [Options] read it. What is zero has its
// default.
type Config struct {
	Name string
	// Type says which kind of receiver it is: one of [Types].
	Type string
	// Priority is the least that is sent, Filter a condition on the alert; "" for
	// all.
	Priority, Filter string
	// Format is json or text: Falco's object, or its line.
	Format string
	// Spool is how many bytes wait on the disk at most; below zero is no disk.
	Spool int64
	// Timeout bounds one attempt. Retry is the pause after a first failure, which
	// doubles up to MaxRetry; GiveUp how long one alert is tried.
	Timeout, Retry, MaxRetry, GiveUp time.Duration

	// Path is the file to write, Size when another is begun, Keep how many old ones
	// stay.
	Path string
	Size int64
	Keep int

	// URL, or the content of the file URLFile, is whom to ask.
	URL, URLFile, Method, UserAgent, ContentType string
	// Headers have values, HeaderFiles files with them.
	Headers, HeaderFiles map[string]string
	Compress             bool
	TLS                  TLS
	// Template, or the content of the file TemplateFile, makes the body of a
	// webhook: see [View]. KeyFile has the key of a service.
	Template, TemplateFile, KeyFile string

	// Address is where a syslog daemon listens, Protocol what it reads, Facility and
	// Tag what it is told.
	Address, Protocol, Facility, Tag string

	// Servers and Subject are of NATS, Brokers and Topic of Kafka, lists by comma.
	// Credentials is NATS's own file; else User and PasswordFile, or TokenFile, say
	// who we are. SASL is how Kafka wants that.
	Servers, Subject, Brokers, Topic                 string
	Credentials, User, PasswordFile, TokenFile, SASL string

	// Program is run by a shell, once and for all where KeepAlive is true.
	Program   string
	KeepAlive bool

	keys []string // that were set
}

// TLS is how a receiver is known, and how it knows us. CA, Cert and Key are files
// in PEM.
type TLS struct {
	CA, Cert, Key, ServerName string
	Insecure                  bool
}

// A kind is a type of channels.
type kind struct {
	open  func(*Config, *Env) (sender, error)
	most  int // alerts at once
	keys  []string
	check func(*Config) error
	to    func(*Config) string // without secrets
}

// kinds are all there are.
var kinds = map[string]kind{
	"stdout": {openStdout, 256, []string{"format"}, nil, func(*Config) string { return "stdout" }},
	"file":   {openFile, 256, []string{"format", "path", "max-size", "keep"}, checkFile, func(c *Config) string { return c.Path }},
	"webhook": {openWebhook, 1, slices.Concat(httpKeys, []string{"method", "content-type", "template", "template-file"}),
		checkWebhook, httpTo},
	"slack": {openSlack, 1, httpKeys, checkHTTP, httpTo},
	"teams": {openTeams, 1, httpKeys, checkHTTP, httpTo},
	"pagerduty": {openPagerDuty, 1, slices.Concat(httpKeys, []string{"key-file"}), checkPagerDuty, func(c *Config) string {
		if c.URL == "" && c.URLFile == "" {
			return "PagerDuty"
		}
		return httpTo(c)
	}},
	"nats":    {openNATS, 64, []string{"servers", "subject", "credentials", "user", "password-file", "token-file", "tls"}, checkNATS, func(c *Config) string { return c.Subject + " at " + c.Servers }},
	"kafka":   {openKafka, 256, []string{"brokers", "topic", "user", "password-file", "sasl", "tls"}, checkKafka, func(c *Config) string { return c.Topic + " at " + c.Brokers }},
	"otlp":    {openOTLP, 128, httpKeys, checkOTLP, httpTo},
	"syslog":  {openSyslog, 64, []string{"format", "address", "protocol", "facility", "tag", "tls"}, checkSyslog, func(c *Config) string { return c.Address }},
	"program": {openProgram, 1, []string{"format", "program", "keep-alive"}, checkProgram, func(c *Config) string { return "a program" }},
}

// httpKeys are those of receivers that speak HTTP.
var httpKeys = []string{"url", "url-file", "user-agent", "headers", "header-files", "compress", "tls"}

// Types are the types of channels, sorted.
func Types() []string { return slices.Sorted(maps.Keys(kinds)) }

// commonKeys are those of every channel.
var commonKeys = []string{"name", "type", "priority", "filter", "spool", "timeout", "retry", "max-retry", "give-up"}

// What holds where nothing is said.
const (
	defaultSpool    = 16 << 20
	defaultTimeout  = 10 * time.Second
	defaultRetry    = time.Second
	defaultMaxRetry = time.Minute
	defaultGiveUp   = 24 * time.Hour
	defaultFileSize = 100 << 20
	defaultKeep     = 5
	defaultSyslog   = "unix:/dev/log"
)

func (c Config) withDefaults() Config {
	c.Priority = cmp.Or(c.Priority, rule.Debug.String())
	c.Spool = cmp.Or(c.Spool, defaultSpool)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.Retry = cmp.Or(c.Retry, defaultRetry)
	c.MaxRetry = max(cmp.Or(c.MaxRetry, defaultMaxRetry), c.Retry)
	c.GiveUp = cmp.Or(c.GiveUp, defaultGiveUp)
	c.Size = cmp.Or(c.Size, defaultFileSize)
	c.Keep = cmp.Or(c.Keep, defaultKeep)
	if c.Type == "syslog" {
		c.Address = cmp.Or(c.Address, defaultSyslog)
		c.Protocol = cmp.Or(c.Protocol, rfc5424)
		c.Facility = cmp.Or(c.Facility, "user")
		c.Tag = cmp.Or(c.Tag, "warren")
	}
	if c.Format == "" {
		c.Format = formatJSON
		if c.Type == "stdout" || c.Type == "syslog" {
			c.Format = formatText
		}
	}
	return c
}

const (
	formatJSON = "json"
	formatText = "text"
)

// Options are the keys of one channel in a configuration.
func Options() []settings.Option[Config] {
	type option = settings.Option[Config]
	text := func(at func(*Config) *string) func(*Config, string) error { return nonempty(settings.Text(at)) }
	list := []option{
		{Key: "name", Doc: "what it is called, and its directory below that of the state", Set: setName},
		{Key: "type", Doc: "which kind of receiver it is: " + strings.Join(Types(), ", "), Set: setType},
		{Key: "priority", Doc: "least priority that is sent (debug)", Set: setPriority},
		{Key: "filter", Doc: "which alerts are sent: alert.tags intersects (shell) and k8s.ns.name = shop (all)", Set: setFilter},
		{Key: "spool", Doc: "what waits for it on the disk at most, before the oldest is given up; or off (16MiB)", Set: setSpool},
		{Key: "timeout", Doc: "how long one attempt may take (10s)", Set: settings.Duration(10*time.Millisecond, 10*time.Minute, func(c *Config) *time.Duration { return &c.Timeout })},
		{Key: "retry", Doc: "pause after a first failure; it doubles (1s)", Set: settings.Duration(10*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.Retry })},
		{Key: "max-retry", Doc: "how far (1m)", Set: settings.Duration(10*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.MaxRetry })},
		{Key: "give-up", Doc: "how long one alert is tried before the next one is (1d)", Set: settings.Span(time.Second, 366*24*time.Hour, func(c *Config) *time.Duration { return &c.GiveUp })},
		{Key: "format", Doc: "json or text: Falco's object, or its line", Set: oneOf(func(c *Config) *string { return &c.Format }, formatJSON, formatText)},
		{Key: "path", Doc: "file: which", Set: path(func(c *Config) *string { return &c.Path })},
		{Key: "max-size", Doc: "file: how large it grows before it is renamed to PATH.1 (100MiB)", Set: settings.Size(64<<10, 1<<40, func(c *Config) *int64 { return &c.Size })},
		{Key: "keep", Doc: "file: how many old ones stay (5)", Set: settings.Number(1, 1000, func(c *Config) *int { return &c.Keep })},
		{Key: "url", Doc: "webhook: http://HOST:PORT/PATH or https://", Set: setURL},
		{Key: "url-file", Doc: "the same, of a file: some URLs are secrets", Set: path(func(c *Config) *string { return &c.URLFile })},
		{Key: "method", Doc: "webhook: POST or PUT (POST)", Set: oneOf(func(c *Config) *string { return &c.Method }, http.MethodPost, http.MethodPut)},
		{Key: "content-type", Doc: "webhook: what is said of the body (application/json)", Set: text(func(c *Config) *string { return &c.ContentType })},
		{Key: "template", Doc: "webhook: a template of Go that makes the body", Set: setTemplate},
		{Key: "template-file", Doc: "the same, of a file", Set: path(func(c *Config) *string { return &c.TemplateFile })},
		{Key: "key-file", Doc: "pagerduty: file with the key of the integration", Set: path(func(c *Config) *string { return &c.KeyFile })},
		{Key: "servers", Doc: "nats: nats://HOST:PORT or tls://HOST:PORT, by comma", Set: setServers},
		{Key: "subject", Doc: "nats: a subject that a stream takes", Set: setWord(func(c *Config) *string { return &c.Subject })},
		{Key: "credentials", Doc: "nats: file of credentials", Set: path(func(c *Config) *string { return &c.Credentials })},
		{Key: "token-file", Doc: "nats: file with a token", Set: path(func(c *Config) *string { return &c.TokenFile })},
		{Key: "brokers", Doc: "kafka: HOST:PORT, by comma", Set: setBrokers},
		{Key: "topic", Doc: "kafka: which", Set: setWord(func(c *Config) *string { return &c.Topic })},
		{Key: "user", Doc: "nats, kafka: who we are", Set: text(func(c *Config) *string { return &c.User })},
		{Key: "password-file", Doc: "nats, kafka: file with the password", Set: path(func(c *Config) *string { return &c.PasswordFile })},
		{Key: "sasl", Doc: "kafka: plain, scram-sha-256 or scram-sha-512 (plain)", Set: oneOf(func(c *Config) *string { return &c.SASL }, "plain", "scram-sha-256", "scram-sha-512")},
		{Key: "address", Doc: "syslog: unix:/PATH, udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT (unix:/dev/log)", Set: setSyslog},
		{Key: "protocol", Doc: "syslog: rfc5424, or falco: what syslog(3) writes (rfc5424)", Set: oneOf(func(c *Config) *string { return &c.Protocol }, rfc5424, asFalco)},
		{Key: "facility", Doc: "syslog: which (user)", Set: oneOf(func(c *Config) *string { return &c.Facility }, facilities...)},
		{Key: "tag", Doc: "syslog: name of the program (warren)", Set: setTag},
		{Key: "program", Doc: "program: command for /bin/sh, which reads alerts from its standard input, a line each", Set: setProgram},
		{Key: "keep-alive", Doc: "program: true starts it once, and not for each alert (false)", Set: settings.Bool(func(c *Config) *bool { return &c.KeepAlive })},
		{Key: "user-agent", Doc: "webhook: who asks (warren/VERSION)", Set: text(func(c *Config) *string { return &c.UserAgent })},
		{Key: "headers", Doc: "webhook: headers and their values", Each: header(func(c *Config) *map[string]string { return &c.Headers }, false)},
		{Key: "header-files", Doc: "webhook: headers and files with their values, which are read each time: Authorization: /etc/warren/token", Each: header(func(c *Config) *map[string]string { return &c.HeaderFiles }, true)},
		{Key: "compress", Doc: "webhook: true sends the body compressed by gzip (false)", Set: settings.Bool(func(c *Config) *bool { return &c.Compress })},
		{Key: "tls", Doc: "how the receiver is known, and knows us", Check: checkTLS, Sub: []option{
			{Key: "ca", Doc: "file of the authorities that are believed, in PEM (the machine's)", Set: path(func(c *Config) *string { return &c.TLS.CA })},
			{Key: "cert", Doc: "file of our certificate", Set: path(func(c *Config) *string { return &c.TLS.Cert })},
			{Key: "key", Doc: "file of its key", Set: path(func(c *Config) *string { return &c.TLS.Key })},
			{Key: "server-name", Doc: "name that the receiver's certificate must have (the host's)", Set: text(func(c *Config) *string { return &c.TLS.ServerName })},
			{Key: "insecure", Doc: "true believes any certificate (false)", Set: settings.Bool(func(c *Config) *bool { return &c.TLS.Insecure })},
		}},
	}
	for i := range list {
		noting(&list[i], list[i].Key)
	}
	return list
}

// noting lets an option note that it was set.
func noting(o *settings.Option[Config], key string) {
	note := func(c *Config) {
		if !slices.Contains(c.keys, key) {
			c.keys = append(c.keys, key)
		}
	}
	if set := o.Set; set != nil {
		o.Set = func(c *Config, v string) error { note(c); return set(c, v) }
	}
	if each := o.Each; each != nil {
		o.Each = func(c *Config, k, v string) error { note(c); return each(c, k, v) }
	}
	for i := range o.Sub {
		noting(&o.Sub[i], key)
	}
}

// Check says whether what was set goes together.
func (c *Config) Check() error {
	if c.Name == "" {
		return errors.New("a channel has no name: give name")
	}
	if c.Type == "" {
		return fmt.Errorf("channel %s has no type: give one of %s", c.Name, strings.Join(Types(), ", "))
	}
	k := kinds[c.Type]
	for _, key := range c.keys {
		if !slices.Contains(commonKeys, key) && !slices.Contains(k.keys, key) {
			return fmt.Errorf("channel %s: key %s is of no use to type %s; it has %s", c.Name, key, c.Type, strings.Join(k.keys, ", "))
		}
	}
	if c.MaxRetry > 0 && c.MaxRetry < cmp.Or(c.Retry, defaultRetry) {
		return fmt.Errorf("channel %s: max-retry is shorter than retry", c.Name)
	}
	if k.check != nil {
		if err := k.check(c); err != nil {
			return fmt.Errorf("channel %s: %w", c.Name, err)
		}
	}
	return nil
}

// channelName is what can be a directory's name, and is easily typed.
var channelName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

func setName(c *Config, v string) error {
	if !channelName.MatchString(v) {
		return fmt.Errorf("%q cannot be a channel's name: want small letters, digits, - and _, at most 32", v)
	}
	c.Name = v
	return nil
}

func setType(c *Config, v string) error {
	if _, ok := kinds[v]; !ok {
		if near := filter.Nearest(v, Types()); near != "" {
			return fmt.Errorf("no type %q; did you mean %s?", v, near)
		}
		return fmt.Errorf("no type %q; types are %s", v, strings.Join(Types(), ", "))
	}
	c.Type = v
	return nil
}

func setPriority(c *Config, v string) error {
	p, ok := rule.ParsePriority(v)
	if !ok {
		return fmt.Errorf("%q is no priority: want one from emergency to debug", v)
	}
	c.Priority = p.String()
	return nil
}

func setFilter(c *Config, v string) error {
	prog, err := filter.Compile(v)
	if err != nil {
		return err
	}
	if !prog.Kinds().Has(event.KindAlert) {
		return errors.New("no alert can match")
	}
	c.Filter = v
	return nil
}

func setSpool(c *Config, v string) error {
	if v == settings.Off {
		c.Spool = -1
		return nil
	}
	return settings.Size(1<<20, 1<<40, func(c *Config) *int64 { return &c.Spool })(c, v)
}

func setURL(c *Config, v string) error {
	if _, err := parseURL(v); err != nil {
		return err
	}
	c.URL = v
	return nil
}

// parseURL reads where HTTP is spoken. Its errors do not say the URL: that may be a
// secret.
func parseURL(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "" {
		return nil, errors.New("this is no URL like https://HOST:PORT/PATH")
	}
	return u, nil
}

// path sets a file's path.
func path(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) (err error) {
		if v == "" || strings.ContainsRune(v, 0) {
			return fmt.Errorf("%q cannot be a path", v)
		}
		*at(c), err = filepath.Abs(v)
		return err
	}
}

func nonempty(set func(*Config, string) error) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" || strings.ContainsAny(v, "\r\n\x00") {
			return fmt.Errorf("want one line of text, not %q", v)
		}
		return set(c, v)
	}
}

func oneOf(at func(*Config) *string, values ...string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(values, ", "))
		}
		*at(c) = v
		return nil
	}
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_|~-]+$")

// header sets a header, or the file of one.
func header(at func(*Config) *map[string]string, file bool) func(c *Config, key, v string) error {
	return func(c *Config, key, v string) (err error) {
		key = http.CanonicalHeaderKey(key)
		switch {
		case !headerName.MatchString(key) || v == "" || strings.ContainsFunc(v, unicode.IsControl):
			return errors.New("this cannot be a header")
		case slices.Contains([]string{"Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection"}, key):
			return errors.New("this header is made of the body")
		case file:
			if v, err = filepath.Abs(v); err != nil {
				return err
			}
		}
		if *at(c) == nil {
			*at(c) = map[string]string{}
		}
		(*at(c))[key] = v
		return nil
	}
}

func checkTLS(c *Config) error {
	switch {
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return errors.New("cert and key belong together")
	case c.TLS.Insecure && c.TLS.CA != "":
		return errors.New("insecure believes any certificate: leave it out, or ca")
	}
	return nil
}

func checkFile(c *Config) error {
	if c.Path == "" {
		return errors.New("give path")
	}
	return nil
}

func checkHTTP(c *Config) error {
	if (c.URL == "") == (c.URLFile == "") {
		return errors.New("give url, or url-file")
	}
	return c.checkURL(c.URL)
}

// checkURL says whether there is something for tls to be about. Like [parseURL], it
// does not say the URL.
func (c *Config) checkURL(v string) error {
	if u, err := parseURL(v); err == nil && u.Scheme != "https" && c.TLS != (TLS{}) {
		return errors.New("tls is of no use: http:// is not encrypted; give https://")
	}
	return nil
}

func checkSyslog(c *Config) error {
	address := cmp.Or(c.Address, defaultSyslog)
	if network, _, err := parseSyslog(address); err == nil && network != "tls" && c.TLS != (TLS{}) {
		return fmt.Errorf("tls is of no use: address %s is not encrypted; give tls://HOST:PORT", address)
	}
	return nil
}

func checkWebhook(c *Config) error {
	if c.Template != "" && c.TemplateFile != "" {
		return errors.New("give template, or template-file")
	}
	return checkHTTP(c)
}

func checkPagerDuty(c *Config) error {
	switch {
	case c.KeyFile == "":
		return errors.New("give key-file")
	case c.URL != "" && c.URLFile != "":
		return errors.New("give url, or url-file")
	}
	return c.checkURL(c.URL)
}

func checkProgram(c *Config) error {
	if c.Program == "" {
		return errors.New("give program")
	}
	return nil
}

func checkNATS(c *Config) error {
	switch {
	case c.Servers == "" || c.Subject == "":
		return errors.New("give servers and subject")
	case strings.ContainsAny(c.Subject, "*>"):
		return errors.New("subject is one, without * and >")
	}
	return checkUser(c)
}

func checkKafka(c *Config) error {
	if c.Brokers == "" || c.Topic == "" {
		return errors.New("give brokers and topic")
	}
	return checkUser(c)
}

func checkUser(c *Config) error {
	if (c.User == "") != (c.PasswordFile == "") {
		return errors.New("user and password-file belong together")
	}
	return nil
}

func setServers(c *Config, v string) error {
	for _, s := range splitList(v) {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || u.User != nil || u.Path != "" {
			return errors.New("want nats://HOST:PORT or tls://HOST:PORT, by comma, and secrets in files")
		}
	}
	c.Servers = v
	return nil
}

func setBrokers(c *Config, v string) error {
	for _, s := range splitList(v) {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return fmt.Errorf("%q is no HOST:PORT", s)
		}
	}
	c.Brokers = v
	return nil
}

func setWord(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("want one word, not %q", v)
		}
		*at(c) = v
		return nil
	}
}

func setTemplate(c *Config, v string) error {
	if _, err := parseTemplate(v); err != nil {
		return err
	}
	c.Template = v
	return nil
}

func setSyslog(c *Config, v string) error {
	if _, _, err := parseSyslog(v); err != nil {
		return err
	}
	c.Address = v
	return nil
}

// syslogTag is what daemons take as the name of a program.
var syslogTag = regexp.MustCompile(`^[A-Za-z0-9_./-]{1,32}$`)

func setTag(c *Config, v string) error {
	if !syslogTag.MatchString(v) {
		return fmt.Errorf("%q cannot be a program's name", v)
	}
	c.Tag = v
	return nil
}

func setProgram(c *Config, v string) error {
	if strings.TrimSpace(v) == "" || strings.ContainsRune(v, 0) {
		return errors.New("want a command")
	}
	c.Program = v
	return nil
}

// httpTo is a URL without what may be a secret.
func httpTo(c *Config) string {
	if c.URLFile != "" {
		return "the URL in " + c.URLFile
	}
	u, err := parseURL(c.URL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 64 << 10

// secret reads a file that holds one, without white space around it.
func secret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, maxSecret+1)
	n := 0
	for n < len(b) {
		k, err := f.Read(b[n:])
		if n += k; err != nil || k == 0 {
			break
		}
	}
	text := strings.TrimSpace(string(b[:n]))
	if n > maxSecret || text == "" {
		return "", fmt.Errorf("%s has no secret: it is empty, or too large", path)
	}
	return text, nil
}

// room is how many bytes can wait.
func (c *Config) room() int64 {
	if c.Spool < 0 {
		return maxMemory
	}
	return c.Spool
}
