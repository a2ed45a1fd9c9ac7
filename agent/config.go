package agent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"warren/alert/reaction"
	"warren/api"
	"warren/archive"
	"warren/bpf"
	"warren/datapath"
	"warren/event"
	"warren/filter"
	"warren/identity"
	"warren/pipeline"
	"warren/sensor/all"
	"warren/settings"
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
	// Metrics is an address, on loopback or not, of metrics and the agent's
	// health and nothing else; "" for none.
	Metrics  string
	LogLevel slog.Level
	// Version is what the agent says it is.
	Version string

	// Node is the name of the cluster's node that this machine is; "" for none.
	Node       string
	Kubernetes KubernetesConfig
	Hub        HubConfig
	Hubble     HubbleConfig
	Network    NetworkConfig
	Rules      RulesConfig
	Alerts     AlertsConfig
	Reactions  reaction.Config
	Audit      AuditConfig
	History    HistoryConfig

	Road     bpf.Config
	Sensors  all.Config
	Identity identity.Config
	Pipeline pipeline.Config
	API      api.Config

	given Options // what was loaded,
	text  []byte  // and the file's
}

// KubernetesConfig is how the agent learns of the cluster.
type KubernetesConfig struct {
	// Off says not to ask the cluster's API server.
	Off bool
	// Kubeconfig is the file that says where it is; "" stands for the service
	// account of the pod that the agent runs in, if it does.
	Kubeconfig string
}

// HubConfig is where the hub asks.
type HubConfig struct {
	// Listen is an address that only the hub can ask; "" for none.
	Listen string
	// TLS is the directory of tls.crt, tls.key and ca.crt: see [api.Credentials].
	TLS string
}

// HubbleConfig is where Hubble's clients ask.
type HubbleConfig struct {
	// Socket is the path of a Unix socket; "" for none.
	Socket string
	// Listen is an address that only the hub can ask; "" for none.
	Listen string
	// Flows and Bytes bound the log of flows; 0 stands for the default of
	// [api.HubbleConfig].
	Flows int
	Bytes int64
}

// NetworkConfig is whether, and how, the agent connects the pods of its node and
// enforces network policy.
type NetworkConfig struct {
	// Mode is Off for an agent that leaves packets alone.
	Mode datapath.Mode
	// NoMasquerade lets pods reach the outside with their own addresses;
	// KeepSource are networks that they reach so in any case.
	NoMasquerade bool
	KeepSource   []netip.Prefix
	// MTU is that of pods; 0 is what the uplink has room for. Uplink is the
	// device to other nodes, "" for the one of the node's address.
	MTU    int
	Uplink string
	// VNI and Port are those of the tunnel, 0 for the defaults.
	VNI  uint32
	Port uint16
	// Verdicts is how many of them there is room for in the kernel, 0 for the
	// default.
	Verdicts int
	// Sysctl, BPFFS, CNIState, CNIConf and CNIBin are directories, "" for the
	// usual ones: where the kernel's switches are, where programs and maps are
	// pinned, and what the container runtime and its plugin read.
	Sysctl, BPFFS, CNIState, CNIConf, CNIBin string
}

// On says whether there is a network at all.
func (c *NetworkConfig) On() bool { return c.Mode != datapath.Off }

// Options are what was given on the command line; "" was not given.
type Options struct {
	Socket   string // path of the Unix socket
	HTTP     string // address for HTTP, or off
	State    string // directory of what outlives the agent
	Config   string // YAML file
	Instance string
	LogLevel string // debug, info, warn or error

	Node          string // name of the cluster's node that this is
	CgroupRoot    string // subtree that the agent is limited to
	Kubernetes    string // auto or off
	Kubeconfig    string // file
	TLSDir        string // directory of tls.crt, tls.key and ca.crt
	HubListen     string // address for the hub, or off
	HubbleListen  string // address for Hubble's gRPC with TLS, or off
	HubbleSocket  string // path of the socket for Hubble's gRPC, or off
	MetricsListen string // address for metrics and health, or off
	Network       string // how pods are connected: off, routed, vxlan or chained
	Rules         string // rule files and directories of them, by comma
	History       string // directory of the history, or off
}

// The defaults that derive from nothing else. Instances of other names than the
// default listen on a port of loopback that the kernel chooses, so that they
// can run beside each other; the start-up report and status name it.
const (
	defaultInstance = "warren"
	defaultHTTP     = "127.0.0.1:7117"
	otherHTTP       = "127.0.0.1:0"
	off             = "off"
	auto            = "auto"
)

// What is kept of the past unless somebody says otherwise.
const (
	defaultHistorySize = 1 << 30
	defaultHistoryAge  = 7 * 24 * time.Hour
	defaultSegmentAge  = time.Hour
	defaultSpare       = 1 << 30
)

// nodeVariable names the node where nothing else does: a pod has it from the
// downward API.
const nodeVariable = "NODE_NAME"

// Load returns the settings: what is on the command line goes before what is in
// the file, the file before the environment, and that before the defaults.
func Load(o Options) (Config, error) {
	c := Config{given: o}
	if o.Config != "" {
		src, err := os.ReadFile(o.Config)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		c.text = src
		if err := settings.Parse(o.Config, src, options(), &c); err != nil {
			return c, err
		}
	}
	for _, f := range []struct {
		flag, value string
		set         func(*Config, string) error
	}{
		{"--instance", o.Instance, setInstance},
		{"--socket", o.Socket, file(func(c *Config) *string { return &c.Socket })},
		{"--state", o.State, file(func(c *Config) *string { return &c.State })},
		{"--log-level", o.LogLevel, setLogLevel},
		{"--http", o.HTTP, settings.AddressOrOff(func(c *Config) *string { return &c.HTTP })},
		{"--metrics-listen", o.MetricsListen, settings.AddressOrOff(func(c *Config) *string { return &c.Metrics })},
		{"--node", o.Node, setNode},
		{"--cgroup-root", o.CgroupRoot, setCgroupRoot},
		{"--kubernetes", o.Kubernetes, setKubernetes},
		{"--kubeconfig", o.Kubeconfig, file(func(c *Config) *string { return &c.Kubernetes.Kubeconfig })},
		{"--tls-dir", o.TLSDir, file(func(c *Config) *string { return &c.Hub.TLS })},
		{"--hub-listen", o.HubListen, settings.AddressOrOff(func(c *Config) *string { return &c.Hub.Listen })},
		{"--hubble-listen", o.HubbleListen, settings.AddressOrOff(func(c *Config) *string { return &c.Hubble.Listen })},
		{"--hubble-socket", o.HubbleSocket, setHubbleSocket},
		{"--network", o.Network, setNetwork},
		{"--rules", o.Rules, setRules},
		{"--history", o.History, setHistory},
	} {
		if f.value == "" {
			continue
		}
		if err := f.set(&c, f.value); err != nil {
			return c, fmt.Errorf("%s: %w", f.flag, err)
		}
	}
	if v := os.Getenv(nodeVariable); c.Node == "" && v != "" {
		if err := setNode(&c, v); err != nil {
			return c, fmt.Errorf("%s in the environment: %w", nodeVariable, err)
		}
	}
	if err := c.complete(); err != nil {
		return c, err
	}
	return c, c.check()
}

// complete fills in the defaults.
func (c *Config) complete() error {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	def(&c.Instance, defaultInstance)
	if c.Instance == defaultInstance {
		def(&c.HTTP, defaultHTTP)
	}
	def(&c.HTTP, otherHTTP)
	def(&c.Socket, filepath.Join("/run", c.Instance, "warren.sock"))
	def(&c.State, filepath.Join("/var/lib", c.Instance))
	if c.Node != "" {
		// Elsewhere nobody has to pay for flows that he does not ask for.
		def(&c.Hubble.Socket, filepath.Join(filepath.Dir(c.Socket), "hubble.sock"))
	}
	def(&c.History.Dir, filepath.Join(c.State, "history"))
	def(&c.History.Filter, defaultHistory)
	if c.History.Size == 0 {
		c.History.Size = defaultHistorySize
	}
	if c.History.Age == 0 {
		c.History.Age = defaultHistoryAge
	}
	if c.Rules.Aggregate == 0 {
		c.Rules.Aggregate = defaultAggregate
	}
	if c.History.SegmentAge == 0 {
		c.History.SegmentAge = defaultSegmentAge
	}
	if c.History.Archive.Spare == 0 {
		c.History.Archive.Spare = defaultSpare
	}
	for _, p := range []*string{&c.HTTP, &c.Metrics, &c.Hub.Listen, &c.Hubble.Listen, &c.Hubble.Socket} {
		if *p == off {
			*p = ""
		}
	}
	c.Sensors.Process.CriticalBytes = c.Road.CriticalBytes
	c.API.Node = c.Node
	for _, p := range []*string{&c.Socket, &c.State, &c.Hubble.Socket, &c.Kubernetes.Kubeconfig, &c.Hub.TLS, &c.History.Dir, &c.History.Archive.Credentials} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("find %s: %w", *p, err)
		}
		*p = abs
	}
	return nil
}

// check says whether the settings go together.
func (c *Config) check() error {
	switch {
	case c.Hub.TLS == "" && c.Hub.Listen != "":
		return errors.New("a listener for the hub needs certificates: give --tls-dir (hub: tls in the configuration)")
	case c.Hub.TLS == "" && c.Hubble.Listen != "":
		return errors.New("a listener for Hubble needs certificates: give --tls-dir (hub: tls in the configuration)")
	case c.Kubernetes.Kubeconfig != "" && !c.Kubernetes.Off && c.Node == "":
		return fmt.Errorf("a kubeconfig is of use only to who knows which node he is: give --node, or %s in the environment", nodeVariable)
	case c.Network.On() && c.Node == "":
		return fmt.Errorf("a network of pods needs the name of the node: give --node, or %s in the environment", nodeVariable)
	case c.Network.On() && c.Kubernetes.Off:
		return errors.New("a network of pods needs the cluster's API server, and kubernetes is off")
	case c.Hubble.Socket == c.Socket:
		return fmt.Errorf("%s cannot be the API's socket and Hubble's", c.Socket)
	case c.History.Archive.Target.Inside(c.History.Dir):
		return fmt.Errorf("the history cannot be archived to %s: that is inside of %s, where it is", c.History.Archive.Target, c.History.Dir)
	}
	return nil
}

// watchesConnections says whether connections are watched though nobody asks.
func (c *Config) watchesConnections() bool {
	tables := pipeline.TableKinds
	if c.Pipeline.Tables != nil {
		tables = *c.Pipeline.Tables
	}
	return tables.Has(event.KindConnection)
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

// file sets the path of a file or directory.
func file(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		switch {
		case v == "":
			return errors.New("want a path, not nothing: leave it out for the default")
		case strings.ContainsRune(v, 0):
			return fmt.Errorf("%q cannot be a path", v)
		}
		*at(c) = v
		return nil
	}
}

func setHubbleSocket(c *Config, v string) error {
	return file(func(c *Config) *string { return &c.Hubble.Socket })(c, v)
}

// nodeName is what Kubernetes takes as the name of a node.
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func setNode(c *Config, v string) error {
	if len(v) > 253 || !nodeName.MatchString(v) {
		return fmt.Errorf("%q cannot be a node's name: want small letters, digits, - and dots, at most 253", v)
	}
	c.Node = v
	return nil
}

// setCgroupRoot checks the form of a path below the unified hierarchy; whether
// it exists is seen at start.
func setCgroupRoot(c *Config, v string) error {
	if !path.IsAbs(v) || path.Clean(v) != v || strings.ContainsRune(v, 0) {
		return fmt.Errorf("%q is no path of a cgroup: want it from the root of the hierarchy, like /kubepods", v)
	}
	c.Road.CgroupRoot, c.Identity.CgroupRoot = v, v
	return nil
}

func setKubernetes(c *Config, v string) error {
	if v != auto && v != off {
		return fmt.Errorf("%q is neither auto nor off", v)
	}
	c.Kubernetes.Off = v == off
	return nil
}

func setNetwork(c *Config, v string) (err error) {
	if v == "" {
		return errors.New("want off, routed, vxlan or chained")
	}
	c.Network.Mode, err = datapath.ParseMode(v)
	return err
}

func setMasquerade(c *Config, v string) error {
	on, err := settings.ParseBool(v)
	c.Network.NoMasquerade = err == nil && !on
	return err
}

func setVNI(c *Config, v string) error {
	n, err := strconv.ParseUint(v, 10, 24)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is no number from 1 to %d", v, 1<<24-1)
	}
	c.Network.VNI = uint32(n)
	return nil
}

func setTunnelPort(c *Config, v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is no port from 1 to 65535", v)
	}
	c.Network.Port = uint16(n)
	return nil
}

// setKeepSource reads networks, by comma.
func setKeepSource(c *Config, v string) error {
	var list []netip.Prefix
	for text := range strings.SplitSeq(v, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4In6() {
			return fmt.Errorf("%q is no network, like 10.0.0.0/8", text)
		}
		list = append(list, p.Masked())
	}
	c.Network.KeepSource = list
	return nil
}

// setUplink checks what can be a device's name.
func setUplink(c *Config, v string) error {
	if v == "" || len(v) >= unix.IFNAMSIZ || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == ':' }) {
		return fmt.Errorf("%q cannot be a device's name", v)
	}
	c.Network.Uplink = v
	return nil
}

// setHistory is the flag: where the history is, or off.
func setHistory(c *Config, v string) error {
	if c.History.Off = v == off; c.History.Off {
		return nil
	}
	return file(func(c *Config) *string { return &c.History.Dir })(c, v)
}

func setHistoryEnabled(c *Config, v string) error {
	on, err := settings.ParseBool(v)
	c.History.Off = err == nil && !on
	return err
}

// setHistoryFilter checks that something can be kept.
func setHistoryFilter(c *Config, v string) error {
	prog, err := filter.Compile(v)
	if err != nil {
		return err
	}
	if prog.Asked()&^event.StateKinds == 0 {
		return fmt.Errorf("no event can match: the filter wants %s", cmp.Or((prog.Kinds()&event.AllKinds).String(), "what cannot be at the same time"))
	}
	c.History.Filter = v
	return nil
}

func setArchive(c *Config, v string) (err error) {
	c.History.Archive.Target, err = archive.ParseURL(v)
	return err
}

func checkArchive(c *Config) error {
	if a := &c.History.Archive; a.Credentials != "" && (!a.On() || a.Target.Path != "") {
		return errors.New("credentials are of use only for a bucket: give url: s3://BUCKET/PREFIX")
	}
	return nil
}

func setLogLevel(c *Config, v string) error {
	return settings.Level(func(c *Config) *slog.Level { return &c.LogLevel })(c, v)
}
