package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"

	"warren/api"
	"warren/bpf"
	"warren/identity"
	"warren/pipeline"
	"warren/sensor/all"
)

// Config is everything that can be set about an agent: each package's own
// settings, and where it lives on the machine.
type Config struct {
	// Instance sets several agents of one machine apart.
	Instance string
	// Socket is the path of the Unix socket, State the directory of what
	// outlives the agent.
	Socket, State string
	// HTTP is the address that answers HTTP; "" for none.
	HTTP string
	// HTTPPublic allows an address that is not on loopback.
	HTTPPublic bool
	LogLevel   slog.Level
	// Version is what the agent says it is.
	Version string

	Road     bpf.Config
	Sensors  all.Config
	Identity identity.Config
	Pipeline pipeline.Config
	API      api.Config
}

// Options are what was given on the command line; "" was not given.
type Options struct {
	Socket   string // path of the Unix socket
	HTTP     string // address for HTTP, or off
	State    string // directory of what outlives the agent
	Config   string // YAML file
	Instance string
	LogLevel string // debug, info, warn or error
}

// The defaults that derive from nothing else. Instances of other names than the
// default listen on a port of loopback that the kernel chooses, so that they
// can run beside each other; the start-up report and status name it.
const (
	defaultInstance = "warren"
	defaultHTTP     = "127.0.0.1:7117"
	otherHTTP       = "127.0.0.1:0"
	off             = "off"
)

// Load returns the settings: what is on the command line goes before what is in
// the file, and the file before the defaults.
func Load(o Options) (Config, error) {
	var c Config
	http := ""
	if o.Config != "" {
		src, err := os.ReadFile(o.Config)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if err := parseConfig(o.Config, src, &c); err != nil {
			return c, err
		}
		http = c.HTTP
	}
	for _, f := range []struct {
		flag, value string
		set         func(*Config, string) error
	}{
		{"--instance", o.Instance, setInstance},
		{"--socket", o.Socket, setSocket},
		{"--state", o.State, setState},
		{"--log-level", o.LogLevel, setLogLevel},
		{"--http", o.HTTP, func(_ *Config, v string) error { http = v; return checkHTTP(v) }},
	} {
		if f.value == "" {
			continue
		}
		if err := f.set(&c, f.value); err != nil {
			return c, fmt.Errorf("%s: %w", f.flag, err)
		}
	}
	if c.Instance == "" {
		c.Instance = defaultInstance
	}
	switch {
	case http == off:
		c.HTTP = ""
	case http != "":
		c.HTTP = http
	case c.Instance == defaultInstance:
		c.HTTP = defaultHTTP
	default:
		c.HTTP = otherHTTP
	}
	if c.Socket == "" {
		c.Socket = filepath.Join("/run", c.Instance, "warren.sock")
	}
	if c.State == "" {
		c.State = filepath.Join("/var/lib", c.Instance)
	}
	c.Sensors.Process.CriticalBytes = c.Road.CriticalBytes
	var err error
	for _, p := range []*string{&c.Socket, &c.State} {
		if *p, err = filepath.Abs(*p); err != nil {
			return c, fmt.Errorf("find %s: %w", *p, err)
		}
	}
	return c, nil
}

// instanceName is what can be a directory's name everywhere, BPF file systems
// included, which allow no dots.
var instanceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}$`)

func setInstance(c *Config, v string) error {
	if !instanceName.MatchString(v) {
		return fmt.Errorf("%q cannot be an instance's name: want letters, digits, - and _, at most 32", v)
	}
	c.Instance = v
	return nil
}

func setSocket(c *Config, v string) error {
	c.Socket = v
	return nil
}

func setState(c *Config, v string) error {
	c.State = v
	return nil
}

func setLogLevel(c *Config, v string) error {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if levelName(l) == v {
			c.LogLevel = l
			return nil
		}
	}
	return fmt.Errorf("%q is no level: want debug, info, warn or error", v)
}

func levelName(l slog.Level) string {
	switch l {
	case slog.LevelDebug:
		return "debug"
	case slog.LevelInfo:
		return "info"
	case slog.LevelWarn:
		return "warn"
	}
	return "error"
}
