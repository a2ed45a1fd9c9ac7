package hub

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Config is everything that can be set about a hub. A zero value stands for the
// default; [Load] fills all of them in.
type Config struct {
	// Listen is the address that answers HTTPS. Default :7443.
	Listen string
	// HubbleListen is the address of Hubble's gRPC with TLS, "" for none.
	// Default :4245.
	HubbleListen string
	// MetricsListen is the address of plain HTTP with metrics and health and nothing
	// else, "" for none. Default 127.0.0.1:9117.
	MetricsListen string
	// TLSDir holds tls.crt, tls.key and ca.crt, which are read again when they
	// change.
	TLSDir string
	// Namespace and Agents name the headless service of the agents. Default
	// warren and warren-agent.
	Namespace, Agents string
	// Nodes are labels of the nodes on which an agent is to be; those that have
	// none are told as missing. Default kubernetes.io/os=linux.
	Nodes map[string]string
	// Kubeconfig is the way to the cluster; "" is the service account of the
	// pod that the hub runs in.
	Kubeconfig string
	LogLevel   slog.Level
	// Version is what the hub says it is.
	Version string

	// Wait bounds how long what one node tells is held back for what another
	// may still tell of an earlier time. Default 250 ms.
	Wait time.Duration
	// Review is how long an answer about rights counts, and how often those of
	// running streams are asked again. Default 30 s.
	Review time.Duration
	// Streams is how many answers can be written at the same time, a quarter of
	// them to one user. Default 256.
	Streams int
	// StreamBytes bounds what waits for one client, Memory what waits for all of
	// them; each may have a MiB. Default 64 and 128 MiB.
	StreamBytes, Memory int
	// Stall is how long a client may read nothing before it is disconnected.
	// Default 30 s.
	Stall time.Duration

	begin time.Duration // beginTime; more in tests
}

// Options are what was given on the command line; "" was not given.
type Options struct {
	Listen        string // address that answers HTTPS
	HubbleListen  string // address of Hubble's gRPC, or off
	TLSDir        string // directory of tls.crt, tls.key and ca.crt
	Namespace     string // Kubernetes namespace of the installation
	Agents        string // headless service of the agents
	Kubeconfig    string // way to the cluster; the pod's service account without
	MetricsListen string // address of metrics and health, or off
	Config        string // YAML file
	LogLevel      string // debug, info, warn or error
}

const (
	defaultListen       = ":7443"
	defaultHubbleListen = ":4245"
	defaultMetrics      = "127.0.0.1:9117"
	defaultNamespace    = "warren"
	defaultAgents       = "warren-agent"
	off                 = "off"
)

// withDefaults fills in what is zero. It leaves addresses alone: there "" is a
// value.
func (c Config) withDefaults() Config {
	c.Namespace = cmp.Or(c.Namespace, defaultNamespace)
	c.Agents = cmp.Or(c.Agents, defaultAgents)
	c.Version = cmp.Or(c.Version, "unknown")
	if c.Nodes == nil {
		c.Nodes = map[string]string{"kubernetes.io/os": "linux"}
	}
	c.Wait = cmp.Or(c.Wait, 250*time.Millisecond)
	c.Review = cmp.Or(c.Review, 30*time.Second)
	c.Streams = cmp.Or(c.Streams, 256)
	c.StreamBytes = cmp.Or(c.StreamBytes, 64<<20)
	c.Memory = cmp.Or(c.Memory, 128<<20)
	c.Stall = cmp.Or(c.Stall, 30*time.Second)
	c.begin = cmp.Or(c.begin, beginTime)
	return c
}

// Load returns the settings: what is on the command line goes before what is in
// the file, and the file before the defaults.
func Load(o Options) (Config, error) {
	// An address is written as it was said, off included, until the end.
	c := Config{Listen: defaultListen, HubbleListen: defaultHubbleListen, MetricsListen: defaultMetrics}
	if o.Config != "" {
		src, err := os.ReadFile(o.Config)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if err := parseConfig(o.Config, src, &c); err != nil {
			return c, err
		}
	}
	given := map[string]string{
		"listen": o.Listen, "hubble-listen": o.HubbleListen, "metrics-listen": o.MetricsListen, "tls-dir": o.TLSDir, "namespace": o.Namespace,
		"agents": o.Agents, "kubeconfig": o.Kubeconfig, "log-level": o.LogLevel,
	}
	for _, s := range settings {
		if v := given[s.key]; v != "" {
			if err := s.set(&c, v); err != nil {
				return c, fmt.Errorf("--%s: %w", s.key, err)
			}
		}
	}
	for _, addr := range []*string{&c.HubbleListen, &c.MetricsListen} {
		if *addr == off {
			*addr = ""
		}
	}
	if c.TLSDir == "" {
		return c, fmt.Errorf("--tls-dir is missing: a hub speaks TLS only, and needs tls.crt, tls.key and ca.crt")
	}
	for _, p := range []*string{&c.TLSDir, &c.Kubeconfig} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, fmt.Errorf("find %s: %w", *p, err)
		}
		*p = abs
	}
	return c.withDefaults(), nil
}

// A setting is one key of the configuration file; some are flags too.
type setting struct {
	key, doc string
	set      func(c *Config, v string) error
}

// settings are all keys there are.
var settings = []setting{
	{"listen", "address that answers HTTPS (:7443)", func(c *Config, v string) error { c.Listen = v; return checkAddr(v) }},
	{"hubble-listen", "address of Hubble's gRPC with TLS, or off (:4245)", optionalAddr(func(c *Config) *string { return &c.HubbleListen })},
	{"metrics-listen", "address of plain HTTP with metrics and health only, or off (127.0.0.1:9117)", optionalAddr(func(c *Config) *string { return &c.MetricsListen })},
	{"tls-dir", "directory of tls.crt, tls.key and ca.crt", text(func(c *Config) *string { return &c.TLSDir })},
	{"namespace", "Kubernetes namespace of the installation (warren)", name(func(c *Config) *string { return &c.Namespace })},
	{"agents", "headless service of the agents (warren-agent)", name(func(c *Config) *string { return &c.Agents })},
	{"nodes", "labels of nodes on which an agent is to be, KEY=VALUE by comma; empty for all (kubernetes.io/os=linux)", func(c *Config, v string) (err error) { c.Nodes, err = parseLabels(v); return err }},
	{"kubeconfig", "the way to the cluster (the service account of the pod)", text(func(c *Config) *string { return &c.Kubeconfig })},
	{"log-level", "debug, info, warn or error", setLogLevel},
	{"wait", "how long a node's events are held back for earlier ones of other nodes (250ms)", span(0, 500*time.Millisecond, func(c *Config) *time.Duration { return &c.Wait })},
	{"review", "how long an answer about rights counts (30s)", span(time.Second, 5*time.Minute, func(c *Config) *time.Duration { return &c.Review })},
	{"streams", "answers that are written at the same time (256), a quarter of them to one user", number(1, 1<<16, func(c *Config) *int { return &c.Streams })},
	{"memory", "bytes that wait for all clients together; a MiB each in any case (134217728)", number(1<<20, 1<<40, func(c *Config) *int { return &c.Memory })},
	{"stream-bytes", "bytes that wait for one client (67108864)", number(1<<20, 1<<30, func(c *Config) *int { return &c.StreamBytes })},
	{"stall", "how long a client may read nothing before it is disconnected (30s)", span(time.Second, time.Hour, func(c *Config) *time.Duration { return &c.Stall })},
}

func text(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*at(c) = v
		return nil
	}
}

// name is for names of Kubernetes' objects: DNS labels.
func name(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if !isLabel(v) {
			return fmt.Errorf("%q is no name of an object: want at most 63 lower case letters, digits and -", v)
		}
		*at(c) = v
		return nil
	}
}

// isLabel reports whether v is a DNS label as RFC 1123 has them, which names of
// namespaces and services are.
func isLabel(v string) bool {
	if v == "" || len(v) > 63 || v[0] == '-' || v[len(v)-1] == '-' {
		return false
	}
	for i := range len(v) {
		if b := v[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return true
}

func optionalAddr(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*at(c) = v
		if v == off {
			return nil
		}
		return checkAddr(v)
	}
}

// checkAddr checks the form of an address; whether it may be listened on is
// seen when it is tried.
func checkAddr(v string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("%q is no address: want HOST:PORT or :PORT", v)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port from 0 to 65535", v)
	}
	return nil
}

func number(least, most int, at func(*Config) *int) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is no number from %d to %d", v, least, most)
		}
		*at(c) = n
		return nil
	}
}

// span is a time above least, least included unless it is zero, which would
// stand for the default.
func span(least, most time.Duration, at func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 || d < least || d > most {
			return fmt.Errorf("%q is no time from %v to %v, like 50ms or 2s", v, max(least, time.Millisecond), most)
		}
		*at(c) = d
		return nil
	}
}

// parseLabels reads KEY=VALUE,KEY=VALUE.
func parseLabels(v string) (map[string]string, error) {
	labels := map[string]string{}
	if strings.TrimSpace(v) == "" {
		return labels, nil
	}
	for pair := range strings.SplitSeq(v, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is no label: want KEY=VALUE", pair)
		}
		if old, twice := labels[key]; twice && old != value {
			return nil, fmt.Errorf("label %s is %q and %q: no node has both", key, old, value)
		}
		labels[key] = value
	}
	return labels, nil
}

func setLogLevel(c *Config, v string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[v]
	if !ok {
		return fmt.Errorf("%q is no level: want debug, info, warn or error", v)
	}
	c.LogLevel = level
	return nil
}
