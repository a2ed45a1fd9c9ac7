// Package bed makes a real Kubernetes on one machine: etcd, API server,
// controllers and scheduler in a network namespace of their own, and nodes that
// are a set of namespaces each, with a containerd, a kubelet and a kube-proxy.
//
// What keeps a cluster alive is processes in its control groups and nothing
// else. No namespace has a name, nothing is mounted outside the nodes, and
// nothing is added to the machine's own network: whoever kills the groups and
// removes one directory has removed the cluster.
//
// Pods, services and nodes have IPv4 and IPv6 addresses. Several clusters of
// different names run beside each other, with the same addresses if need be:
// their networks do not meet.
//
// The functions of a [Cluster] may be called at the same time, but for Up, Down
// and the two that add and remove nodes.
package bed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// A Config says what a cluster is to be. Its zero value is the cluster that
// `make cluster` starts.
type Config struct {
	// Name sets clusters of one machine apart; "k8s" if empty. Its nodes are
	// the control groups /NAME/node1, /NAME/node2 and so on.
	Name string
	// Nodes is how many there are to begin with; 2 if 0.
	Nodes int
	// ProxyMode is kube-proxy's: "nftables" if empty, or "iptables".
	ProxyMode string
	// CNI is who connects pods: "bridge" if empty, the plain plugin with routes
	// that the bed makes, or Warren alone, with routes ("warren") or with tunnels
	// ("warren-vxlan"): then the nodes are Ready only once it is installed.
	CNI string
	// Network has the nodes' addresses, Pods and Services those of pods and
	// services, IPv4 and IPv6 each.
	Network, Pods, Services DualStack
}

// A DualStack is an address range of each family.
type DualStack struct{ V4, V6 netip.Prefix }

func (d DualStack) String() string { return d.V4.String() + "," + d.V6.String() }

// host gives the addresses with number n in the ranges.
func (d DualStack) host(n int) addresses {
	return addresses{nth(d.V4, n), nth(d.V6, n)}
}

// addresses are what a machine has of each family.
type addresses struct{ V4, V6 netip.Addr }

func (a addresses) String() string { return a.V4.String() + "," + a.V6.String() }

func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Patience is how long a state is waited for that has to come, here and in tests: far
// longer than it takes, for a machine that others keep busy. What shows that it will
// never come, such as a daemon that has ended, is told at once.
const Patience = 5 * time.Minute

// Numbers of hosts in the nodes' network and in that of the services.
const (
	controlHost = 1
	nodeHost    = 10 // node1 is 11
	outsideHost = 200
	maxNodes    = outsideHost - nodeHost - 1

	apiService = 1
	dnsService = 10
)

var (
	nameRule        = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)
	defaultNetwork  = DualStack{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")}
	defaultPods     = DualStack{netip.MustParsePrefix("10.240.0.0/12"), netip.MustParsePrefix("fd00:240::/48")}
	defaultServices = DualStack{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/108")}
)

// complete fills in defaults and says what cannot be.
func (c Config) complete() (Config, error) {
	def := func(d *DualStack, by DualStack) {
		if !d.V4.IsValid() {
			d.V4 = by.V4
		}
		if !d.V6.IsValid() {
			d.V6 = by.V6
		}
	}
	if c.Name == "" {
		c.Name = "k8s"
	}
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if c.ProxyMode == "" {
		c.ProxyMode = "nftables"
	}
	if c.CNI == "" {
		c.CNI = bridgeCNI
	}
	def(&c.Network, defaultNetwork)
	def(&c.Pods, defaultPods)
	def(&c.Services, defaultServices)
	switch {
	case !nameRule.MatchString(c.Name):
		return c, fmt.Errorf("cluster name %q: lower-case letters, digits and dashes, at most 32, a letter first", c.Name)
	case c.Nodes < 0 || c.Nodes > maxNodes:
		return c, fmt.Errorf("%d nodes: from 1 to %d", c.Nodes, maxNodes)
	case c.ProxyMode != "nftables" && c.ProxyMode != "iptables":
		return c, fmt.Errorf("mode of kube-proxy %q: nftables or iptables", c.ProxyMode)
	case c.CNI != bridgeCNI && c.networkMode() == "":
		return c, fmt.Errorf("who connects pods %q: bridge, warren or warren-vxlan", c.CNI)
	}
	for _, r := range []struct {
		what         string
		d            DualStack
		max4, max6   int // bits of the longest prefix that has room for what is needed
		min6         int
		hint4, hint6 string
	}{
		{"nodes", c.Network, 24, 120, 1, "/24", "/120"},
		{"pods", c.Pods, 20, 60, 48, "/20: each node gets a /24", "/48 to /60: each node gets a /64"},
		{"services", c.Services, 24, 112, 108, "/24", "/108 to /112"},
	} {
		if !r.d.V4.Addr().Is4() || r.d.V4.Bits() > r.max4 {
			return c, fmt.Errorf("IPv4 range of %s %s: at least a %s", r.what, r.d.V4, r.hint4)
		}
		if !r.d.V6.Addr().Is6() || r.d.V6.Bits() > r.max6 || r.d.V6.Bits() < r.min6 {
			return c, fmt.Errorf("IPv6 range of %s %s: a %s", r.what, r.d.V6, r.hint6)
		}
	}
	ranges := []netip.Prefix{c.Network.V4, c.Pods.V4, c.Services.V4, c.Network.V6, c.Pods.V6, c.Services.V6}
	for i, a := range ranges {
		for _, b := range ranges[:i] {
			if a.Overlaps(b) {
				return c, fmt.Errorf("address ranges %s and %s overlap", b, a)
			}
		}
	}
	return c, nil
}

const bridgeCNI = "bridge"

// networkMode is Warren's where it connects the pods, "" where it does not.
func (c Config) networkMode() string {
	switch c.CNI {
	case "warren":
		return "routed"
	case "warren-vxlan":
		return "vxlan"
	}
	return ""
}

// A Cluster is one on this machine, whether it runs or not.
type Cluster struct {
	Config
	tools Tools
	dir   string // of what belongs to this cluster alone
	say   func(string)

	mu     sync.Mutex
	client *http.Client // made when it is first asked for
}

// New gives the cluster of a configuration. It starts nothing. Progress is told
// to say, a line with its time at once, by whatever goroutine has some.
func New(config Config, tools Tools, say func(string)) (*Cluster, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	timed := func(what string) { say(fmt.Sprintf("%5.1f s  %s", time.Since(start).Seconds(), what)) }
	return &Cluster{Config: config, tools: tools, dir: filepath.Join(tools.cache, "run", config.Name), say: timed}, nil
}

// ErrDown is the answer about a cluster that does not run.
var ErrDown = errors.New("no such cluster runs: make cluster")

// Open gives a cluster that runs, as it was configured, or ErrDown.
func Open(name string, tools Tools, say func(string)) (*Cluster, error) {
	c, err := New(Config{Name: name}, tools, say)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(c.path("cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrDown
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &c.Config); err != nil {
		return nil, fmt.Errorf("%s: %w", c.path("cluster.json"), err)
	}
	return c, nil
}

// save keeps the configuration for Open. It is written last: a cluster that has
// it is whole.
func (c *Cluster) save() error {
	text, err := json.MarshalIndent(c.Config, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("cluster.json"), append(text, '\n'), 0o600)
}

// path is that of a file of the cluster's own.
func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// Kubeconfig is the path of the administrator's. Its server can be reached from
// within the cluster's network only: see [Cluster.Command].
func (c *Cluster) Kubeconfig() string { return c.path("pki", "admin.kubeconfig") }

// NodeName is that of the node with number n, from 1.
func NodeName(n int) string { return fmt.Sprintf("node%d", n) }

// nodeNumber is its reverse.
func nodeNumber(name string) (int, error) {
	var n int
	if _, err := fmt.Sscanf(name, "node%d", &n); err != nil || NodeName(n) != name || n < 1 || n > maxNodes {
		return 0, fmt.Errorf("node %q: node1 to %s", name, NodeName(maxNodes))
	}
	return n, nil
}

// CgroupRoot is the control group of everything on a node, as a path below the
// mount of the unified hierarchy: /k8s/node1.
func (c *Cluster) CgroupRoot(node string) string { return "/" + c.Name + "/" + node }
