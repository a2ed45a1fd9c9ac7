package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"warren/bpf"
	"warren/event"
	"warren/filter"
	"warren/pipeline"
	"warren/sensor/all"
)

// An option is one key of the configuration file: a value, or a section.
type option struct {
	key, doc string
	set      func(c *Config, v string) error
	sub      []option
	// each, for a section whose keys are not fixed, is called with every key.
	each func(c *Config, key, v string) error
	// check, for a section, says whether its values go together.
	check func(c *Config) error
}

// options are all keys there are.
func options() []option {
	return []option{
		{key: "instance", doc: "name that sets agents of one machine apart", set: setInstance},
		{key: "socket", doc: "path of the Unix socket", set: file(func(c *Config) *string { return &c.Socket })},
		{key: "state", doc: "directory of what outlives the agent", set: file(func(c *Config) *string { return &c.State })},
		{key: "http", doc: "address that answers HTTP, or off; every user of the machine can ask it", set: address(func(c *Config) *string { return &c.HTTP })},
		{key: "http-public", doc: "true allows http to be an address that is not on loopback", set: boolean(func(c *Config) *bool { return &c.HTTPPublic })},
		{key: "metrics", doc: "metrics and the agent's health for who may see no more", sub: []option{
			{key: "listen", doc: "address that answers them, on loopback or not, or off (off)", set: address(func(c *Config) *string { return &c.Metrics })},
		}},
		{key: "log-level", doc: "debug, info, warn or error", set: setLogLevel},
		{key: "node", doc: "name of the cluster's node that the machine is; without it NODE_NAME of the environment, or none", set: setNode},
		{key: "cgroup-root", doc: "subtree of the unified cgroup hierarchy that the agent is limited to (/)", set: setCgroupRoot},
		{key: "kubernetes", doc: "how the agent of a node learns of the cluster", sub: []option{
			{key: "enabled", doc: "auto asks the API server of the kubeconfig or the pod's service account, if there is one; off asks none (auto)", set: setKubernetes},
			{key: "kubeconfig", doc: "file that says where the API server is; without it the service account of the pod", set: file(func(c *Config) *string { return &c.Kubernetes.Kubeconfig })},
		}},
		{key: "hub", doc: "where the hub asks", sub: []option{
			{key: "listen", doc: "address that only the hub can ask, or off (off)", set: address(func(c *Config) *string { return &c.Hub.Listen })},
			{key: "tls", doc: "directory of tls.crt, tls.key and ca.crt, which are read again when they change", set: file(func(c *Config) *string { return &c.Hub.TLS })},
		}},
		{key: "hubble", doc: "where Hubble's clients ask for flows", sub: []option{
			{key: "socket", doc: "path of the Unix socket, or off; without it hubble.sock beside the API's socket where node is set, or off", set: setHubbleSocket},
			{key: "listen", doc: "address that only the hub can ask, or off (off)", set: address(func(c *Config) *string { return &c.Hubble.Listen })},
			{key: "flows", doc: "past flows that are kept for those who ask what just happened (4095)", set: number(1, 1<<20, func(c *Config) *int { return &c.Hubble.Flows })},
			{key: "bytes", doc: "memory that they take at most (8MiB)", set: size(64<<10, 1<<40, func(c *Config) *int64 { return &c.Hubble.Bytes })},
		}},
		{key: "network", doc: "whether and how the agent connects the pods of its node, and enforces network policy", sub: []option{
			{key: "mode", doc: "off leaves packets alone; routed and vxlan connect pods, by routes between nodes or by tunnels; chained judges and counts what another CNI plugin connects (off)", set: setNetwork},
			{key: "masquerade", doc: "pods reach what is no pod and no node by their node's address (true)", set: setMasquerade},
			{key: "keep-source", doc: "networks that pods reach by their own addresses all the same, by comma", set: setKeepSource},
			{key: "mtu", doc: "MTU of pods; without it, or 0, what the uplink has room for", set: number(0, 65535, func(c *Config) *int { return &c.Network.MTU })},
			{key: "uplink", doc: "device to other nodes; without it the one that has the node's address", set: setUplink},
			{key: "vni", doc: "number of the tunnels' network, the same on all nodes (87)", set: setVNI},
			{key: "port", doc: "UDP port of the tunnels, the same on all nodes (8472)", set: setTunnelPort},
			{key: "sysctl", doc: "where the kernel's switches are (/proc/sys)", set: file(func(c *Config) *string { return &c.Network.Sysctl })},
			{key: "bpffs", doc: "BPF file system for what outlives the agent (/sys/fs/bpf)", set: file(func(c *Config) *string { return &c.Network.BPFFS })},
			{key: "cni-state", doc: "directory of what the CNI plugin knows, the host's; without it /var/lib/cni/INSTANCE", set: file(func(c *Config) *string { return &c.Network.CNIState })},
			{key: "cni-conf", doc: "directory of the container runtime's network configuration (/etc/cni/net.d)", set: file(func(c *Config) *string { return &c.Network.CNIConf })},
			{key: "cni-bin", doc: "directory of its plugins (/opt/cni/bin)", set: file(func(c *Config) *string { return &c.Network.CNIBin })},
		}},
		{key: "rings", doc: "the rings between kernel and agent", check: checkPolls, sub: []option{
			{key: "critical", doc: "size of the ring for processes, a power of two (2MiB)", set: ring(func(c *Config) *int { return &c.Road.CriticalBytes })},
			{key: "bulk", doc: "size of the ring for the rest, a power of two (16MiB)", set: ring(func(c *Config) *int { return &c.Road.BulkBytes })},
			{key: "idle", doc: "how often the rings are looked at while nothing happens (50ms)", set: duration(time.Millisecond, time.Second, func(c *Config) *time.Duration { return &c.Road.Idle })},
			{key: "busy", doc: "how often while something does (1ms)", set: duration(time.Millisecond, time.Second, func(c *Config) *time.Duration { return &c.Road.Busy })},
		}},
		{key: "hooks", doc: "hooks that are to be attached by one kind of program and no other: socket.accept: tracepoint", each: setRung},
		{key: "tables", doc: "kinds of events that are watched though nobody subscribes, because tables are made of them: dns: false", sub: tableOptions()},
		{key: "queues", doc: "how much waits for whom", sub: []option{
			{key: "events", doc: "events that wait for a consumer before the next are lost (8192)", set: number(64, 1<<20, func(c *Config) *int { return &c.Pipeline.Queue })},
			{key: "recent", doc: "past events that are kept for those who ask what just happened (1024)", set: number(1, 1<<20, func(c *Config) *int { return &c.Pipeline.Recent })},
			{key: "streams", doc: "streams of events that are served at the same time, and of flows as many (64)", set: number(1, 4096, func(c *Config) *int { return &c.API.Streams })},
			{key: "stall", doc: "how long a client may read nothing before it is disconnected (30s)", set: duration(time.Second, time.Hour, func(c *Config) *time.Duration { return &c.API.Stall })},
		}},
		{key: "stop-grace", doc: "how long a hook stays attached after the last who needed it has gone (5s)", set: duration(time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.Pipeline.StopGrace })},
		{key: "containers", doc: "how containers get their names", sub: []option{
			{key: "wait", doc: "how long events wait for the description of a new container (500ms)", set: waitContainer},
			{key: "describe-for", doc: "how long a runtime is asked for a container that it does not know (20s)", set: duration(time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.Identity.DescribeFor })},
			{key: "docker", doc: "where Docker listens: paths of sockets, by comma, or off (/run/docker.sock,/var/run/docker.sock)", set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.Docker })},
			{key: "podman", doc: "where podman listens (/run/podman/podman.sock)", set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.Podman })},
			{key: "containerd", doc: "where containerd listens (/run/containerd/containerd.sock,/run/k3s/containerd/containerd.sock,/run/k0s/containerd.sock)", set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.Containerd })},
			{key: "cri-o", doc: "where CRI-O listens (/run/crio/crio.sock,/var/run/crio/crio.sock)", set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.CRIO })},
		}},
		{key: "memory", doc: "how much is remembered", sub: []option{
			{key: "processes", doc: "memory of the process table (32MiB)", set: size(1<<20, 1<<40, func(c *Config) *int64 { return &c.Identity.ProcessBytes })},
			{key: "connections", doc: "memory of the connection table (16MiB)", set: size(1<<20, 1<<40, func(c *Config) *int64 { return &c.Identity.ConnectionBytes })},
			{key: "exited", doc: "ended processes that are remembered (16384)", set: number(1, 1<<30, func(c *Config) *int { return &c.Identity.MaxExited })},
			{key: "exited-age", doc: "for how long (15m)", set: duration(time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.Identity.ExitedAge })},
			{key: "closed", doc: "closed connections that are remembered (8192)", set: number(1, 1<<30, func(c *Config) *int { return &c.Identity.MaxClosed })},
			{key: "names", doc: "addresses whose DNS names are remembered (16384)", set: number(1, 1<<30, func(c *Config) *int { return &c.Identity.MaxNames })},
		}},
	}
}

// checkPolls checks what bpf.NewRoad wants of the intervals together.
func checkPolls(c *Config) error {
	idle, busy := cmp.Or(c.Road.Idle, 50*time.Millisecond), cmp.Or(c.Road.Busy, time.Millisecond)
	if busy > idle {
		return fmt.Errorf("busy (%v) is longer than idle (%v)", busy, idle)
	}
	return nil
}

// tableOptions has one switch for each kind that the tables are made of.
func tableOptions() []option {
	var list []option
	for _, k := range pipeline.TableKinds.List() {
		list = append(list, option{key: k.String(), doc: k.Doc(), set: func(c *Config, v string) error {
			on, err := parseBool(v)
			if err != nil {
				return err
			}
			kinds := pipeline.TableKinds
			if c.Pipeline.Tables != nil {
				kinds = *c.Pipeline.Tables
			}
			if on {
				kinds |= event.Kinds(k)
			} else {
				kinds &^= event.Kinds(k)
			}
			c.Pipeline.Tables = &kinds
			return nil
		}})
	}
	return list
}

// setRung forces a hook to one of its rungs.
func setRung(c *Config, hook, rung string) error {
	hooks := all.Hooks()
	at := slices.IndexFunc(hooks, func(h bpf.Hook) bool { return h.Name == hook })
	if at < 0 {
		var names []string
		for _, h := range hooks {
			names = append(names, h.Name)
		}
		if near := filter.Nearest(hook, names); near != "" {
			return fmt.Errorf("there is no such hook; did you mean %s?", near)
		}
		return fmt.Errorf("there is no such hook; hooks are %s", strings.Join(names, ", "))
	}
	var kinds []string
	for _, r := range hooks[at].Rungs {
		if !slices.Contains(kinds, r.Kind) {
			kinds = append(kinds, r.Kind)
		}
	}
	if !slices.Contains(kinds, rung) {
		return fmt.Errorf("this hook is never attached by %q: want one of %s", rung, strings.Join(kinds, ", "))
	}
	if c.Road.Rungs == nil {
		c.Road.Rungs = map[string]string{}
	}
	c.Road.Rungs[hook] = rung
	return nil
}

// waitContainer is how long identity keeps the events of a container pending;
// the pipeline's own bound stays above it, for the case that nobody says more.
func waitContainer(c *Config, v string) error {
	if err := duration(time.Millisecond, time.Minute, func(c *Config) *time.Duration { return &c.Identity.WaitContainer })(c, v); err != nil {
		return err
	}
	c.Pipeline.WaitContainer = 2 * c.Identity.WaitContainer
	return nil
}

// sockets sets where a container runtime may listen; off is nowhere.
func sockets(to func(*Config) *[]string) func(*Config, string) error {
	return func(c *Config, v string) error {
		paths := []string{}
		if v != off {
			paths = strings.Split(v, ",")
		}
		for i, p := range paths {
			paths[i] = strings.TrimSpace(p)
			if !filepath.IsAbs(paths[i]) {
				return fmt.Errorf("%q is no absolute path of a socket", paths[i])
			}
		}
		*to(c) = paths
		return nil
	}
}

// address sets an address to listen on, after a look at its form; whether it may
// be listened on is seen when it is tried.
func address(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v != off {
			_, port, err := net.SplitHostPort(v)
			if err != nil {
				return fmt.Errorf("%q is no address: want HOST:PORT, like 127.0.0.1:7117, or off", v)
			}
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return fmt.Errorf("%q has no port from 0 to 65535", v)
			}
		}
		*at(c) = v
		return nil
	}
}

func boolean(at func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, v string) (err error) {
		*at(c), err = parseBool(v)
		return err
	}
}

func parseBool(v string) (bool, error) {
	switch v {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", v)
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

func duration(least, most time.Duration, at func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("%q is no time from %v to %v, like 50ms or 2s", v, least, most)
		}
		*at(c) = d
		return nil
	}
}

// sizeText is a number with a unit, or without.
var sizeText = regexp.MustCompile(`^([0-9]+) ?(|B|KiB|MiB|GiB)$`)

func parseSize(v string) (int64, error) {
	m := sizeText.FindStringSubmatch(v)
	if m == nil {
		return 0, fmt.Errorf("%q is no size, like 64KiB, 16MiB or 1GiB", v)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if err != nil || n > 1<<40>>shift {
		return 0, fmt.Errorf("%q is too large", v)
	}
	return n << shift, nil
}

// sizeName writes a size as parseSize reads it.
func sizeName(n int64) string {
	for _, u := range []struct {
		shift int
		name  string
	}{{30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n >= 1<<u.shift && n%(1<<u.shift) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func size(least, most int64, at func(*Config) *int64) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := parseSize(v)
		if err != nil {
			return err
		}
		if n < least || n > most {
			return fmt.Errorf("%q is not from %s to %s", v, sizeName(least), sizeName(most))
		}
		*at(c) = n
		return nil
	}
}

func ring(at func(*Config) *int) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := parseSize(v)
		if err != nil {
			return err
		}
		if n < int64(os.Getpagesize()) || n > 1<<30 || bits.OnesCount64(uint64(n)) != 1 {
			return fmt.Errorf("%q is no power of two from %s to 1GiB", v, sizeName(int64(os.Getpagesize())))
		}
		*at(c) = int(n)
		return nil
	}
}

// A ConfigError is a mistake in the configuration file.
type ConfigError struct {
	File         string
	Line, Column int // from 1; 0 where it is not known
	Msg          string
}

// Error returns file, line, column and message, as compilers do.
func (e *ConfigError) Error() string {
	at := e.File
	if e.Line > 0 {
		at += ":" + strconv.Itoa(e.Line)
	}
	if e.Column > 0 {
		at += ":" + strconv.Itoa(e.Column)
	}
	return at + ": " + e.Msg
}

// maxConfig bounds the file: what is larger is something else.
const maxConfig = 1 << 20

// syntaxError is how the YAML library says where it stopped.
var syntaxError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(?s:(.*))$`)

// parseConfig reads YAML into c. Its error is a *ConfigError.
func parseConfig(file string, src []byte, c *Config) error {
	fail := func(n *yaml.Node, format string, args ...any) error {
		e := &ConfigError{File: file, Msg: fmt.Sprintf(format, args...)}
		if n != nil {
			e.Line, e.Column = n.Line, n.Column
		}
		return e
	}
	if len(src) > maxConfig {
		return fail(nil, "%d bytes are too much for a configuration", len(src))
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // nothing is set
	}
	if err == nil {
		if err = dec.Decode(&more); err == nil {
			return fail(&more, "a second document: a configuration is one")
		}
	}
	if !errors.Is(err, io.EOF) {
		e := &ConfigError{File: file, Msg: err.Error()}
		if m := syntaxError.FindStringSubmatch(err.Error()); m != nil {
			e.Line, _ = strconv.Atoi(m[1]) // 0 where there is none
			e.Msg = m[2]
		}
		if line, column, bad := notText(src); bad {
			e.Line, e.Column = line, column
		} else if e.Line == 0 && !strings.HasPrefix(e.Msg, "unknown anchor") {
			e.Line = 1 // the library leaves out the first, and the line of an anchor
		}
		return e
	}
	if len(doc.Content) != 1 {
		return nil
	}
	return section(doc.Content[0], option{sub: options()}, c, fail)
}

// notText finds the first byte that no YAML file can have.
func notText(src []byte) (line, column int, bad bool) {
	line, column = 1, 1
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		switch {
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return line, column, true
		case r == '\n':
			line, column = line+1, 0
		}
		column++
		src = src[n:]
	}
	return 0, 0, false
}

// section reads a mapping.
func section(n *yaml.Node, o option, c *Config, fail func(*yaml.Node, string, ...any) error) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // a section without content
	}
	if n.Kind != yaml.MappingNode {
		return fail(n, "want keys with values%s, not %s", under(o), kindName(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return fail(key, "a key must be a word, not %s", kindName(key))
		}
		if seen[key.Value] {
			return fail(key, "key %q is there twice", key.Value)
		}
		seen[key.Value] = true
		if o.each != nil {
			if v.Kind != yaml.ScalarNode {
				return fail(v, "%s: want a value, not %s", key.Value, kindName(v))
			}
			if err := o.each(c, key.Value, v.Value); err != nil {
				return fail(v, "%s: %v", key.Value, err)
			}
			continue
		}
		at := slices.IndexFunc(o.sub, func(s option) bool { return s.key == key.Value })
		if at < 0 {
			return fail(key, "%s", unknown(key.Value, o))
		}
		sub := o.sub[at]
		if sub.set == nil {
			if err := section(v, sub, c, fail); err != nil {
				return err
			}
			continue
		}
		if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
			return fail(v, "%s: want a value, not %s", sub.key, kindName(v))
		}
		if err := sub.set(c, v.Value); err != nil {
			return fail(v, "%s: %v", sub.key, err)
		}
	}
	if o.check != nil {
		if err := o.check(c); err != nil {
			return fail(n, "%s: %v", o.key, err)
		}
	}
	return nil
}

func under(o option) string {
	if o.key == "" {
		return ""
	}
	return " under " + o.key
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return "a value"
	}
	return "this"
}

// unknown says that there is no such key, and which may have been meant: a
// similar one, or one of the same name in another section.
func unknown(key string, o option) string {
	msg := fmt.Sprintf("no key %q%s", key, under(o))
	var here []string
	for _, s := range o.sub {
		here = append(here, s.key)
	}
	if near := filter.Nearest(key, here); near != "" {
		return msg + "; did you mean " + near + "?"
	}
	for _, s := range options() {
		if o.key != "" && s.key == key {
			return msg + "; " + key + " stands at the top"
		}
		for _, t := range s.sub {
			if t.key == key {
				return msg + "; " + key + " stands under " + s.key
			}
		}
	}
	return msg + "; keys are " + strings.Join(here, ", ")
}
