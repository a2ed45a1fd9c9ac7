package hub

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"warren/settings"
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
	look  time.Duration // lookTime; less in tests
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
	c.begin, c.look = cmp.Or(c.begin, beginTime), cmp.Or(c.look, lookTime)
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
		if err := settings.Parse(o.Config, src, options, &c); err != nil {
			return c, err
		}
	}
	given := map[string]string{
		"listen": o.Listen, "hubble-listen": o.HubbleListen, "metrics-listen": o.MetricsListen, "tls-dir": o.TLSDir, "namespace": o.Namespace,
		"agents": o.Agents, "kubeconfig": o.Kubeconfig, "log-level": o.LogLevel,
	}
	for _, s := range options {
		if v := given[s.Key]; v != "" {
			if err := s.Set(&c, v); err != nil {
				return c, fmt.Errorf("--%s: %w", s.Key, err)
			}
		}
	}
	for _, addr := range []*string{&c.HubbleListen, &c.MetricsListen} {
		if *addr == settings.Off {
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
type setting = settings.Option[Config]

// options are all keys there are.
var options = []setting{
	{Key: "listen", Doc: "address that answers HTTPS (:7443)", Set: settings.Address(func(c *Config) *string { return &c.Listen })},
	{Key: "hubble-listen", Doc: "address of Hubble's gRPC with TLS, or off (:4245)", Set: settings.AddressOrOff(func(c *Config) *string { return &c.HubbleListen })},
	{Key: "metrics-listen", Doc: "address of plain HTTP with metrics and health only, or off (127.0.0.1:9117)", Set: settings.AddressOrOff(func(c *Config) *string { return &c.MetricsListen })},
	{Key: "tls-dir", Doc: "directory of tls.crt, tls.key and ca.crt", Set: settings.Text(func(c *Config) *string { return &c.TLSDir })},
	{Key: "namespace", Doc: "Kubernetes namespace of the installation (warren)", Set: name(func(c *Config) *string { return &c.Namespace })},
	{Key: "agents", Doc: "headless service of the agents (warren-agent)", Set: name(func(c *Config) *string { return &c.Agents })},
	{Key: "nodes", Doc: "labels of nodes on which an agent is to be, KEY=VALUE by comma; empty for all (kubernetes.io/os=linux)", Set: func(c *Config, v string) (err error) { c.Nodes, err = parseLabels(v); return err }},
	{Key: "kubeconfig", Doc: "the way to the cluster (the service account of the pod)", Set: settings.Text(func(c *Config) *string { return &c.Kubeconfig })},
	{Key: "log-level", Doc: "debug, info, warn or error", Set: settings.Level(func(c *Config) *slog.Level { return &c.LogLevel })},
	{Key: "wait", Doc: "how long a node's events are held back for earlier ones of other nodes (250ms)", Set: settings.Duration(time.Millisecond, 500*time.Millisecond, func(c *Config) *time.Duration { return &c.Wait })},
	{Key: "review", Doc: "how long an answer about rights counts (30s)", Set: settings.Duration(time.Second, 5*time.Minute, func(c *Config) *time.Duration { return &c.Review })},
	{Key: "streams", Doc: "answers that are written at the same time (256), a quarter of them to one user", Set: settings.Number(1, 1<<16, func(c *Config) *int { return &c.Streams })},
	{Key: "memory", Doc: "bytes that wait for all clients together; a MiB each in any case (134217728)", Set: settings.Size(1<<20, 1<<40, func(c *Config) *int { return &c.Memory })},
	{Key: "stream-bytes", Doc: "bytes that wait for one client (67108864)", Set: settings.Size(1<<20, 1<<30, func(c *Config) *int { return &c.StreamBytes })},
	{Key: "stall", Doc: "how long a client may read nothing before it is disconnected (30s)", Set: settings.Duration(time.Second, time.Hour, func(c *Config) *time.Duration { return &c.Stall })},
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
