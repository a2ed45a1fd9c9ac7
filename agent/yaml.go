package agent

import (
	"cmp"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/alert/reaction"
	"warren/bpf"
	"warren/event"
	"warren/filter"
	"warren/pipeline"
	"warren/rule"
	"warren/sensor/all"
	"warren/settings"
)

// An option is one key of the configuration file.
type option = settings.Option[Config]

// options are all keys there are.
func options() []option {
	return []option{
		{Key: "instance", Doc: "name that sets agents of one machine apart", Set: setInstance},
		{Key: "socket", Doc: "path of the Unix socket", Set: file(func(c *Config) *string { return &c.Socket })},
		{Key: "state", Doc: "directory of what outlives the agent", Set: file(func(c *Config) *string { return &c.State })},
		{Key: "http", Doc: "address that answers HTTP, or off; every user of the machine can ask it", Set: settings.AddressOrOff(func(c *Config) *string { return &c.HTTP })},
		{Key: "http-public", Doc: "true allows http to be an address that is not on loopback", Set: settings.Bool(func(c *Config) *bool { return &c.HTTPPublic })},
		{Key: "metrics", Doc: "metrics and the agent's health for who may see no more", Sub: []option{
			{Key: "listen", Doc: "address that answers them, on loopback or not, or off (off)", Set: settings.AddressOrOff(func(c *Config) *string { return &c.Metrics })},
		}},
		{Key: "log-level", Doc: "debug, info, warn or error", Set: setLogLevel},
		{Key: "node", Doc: "name of the cluster's node that the machine is; without it NODE_NAME of the environment, or none", Set: setNode},
		{Key: "cgroup-root", Doc: "subtree of the unified cgroup hierarchy that the agent is limited to (/)", Set: setCgroupRoot},
		{Key: "kubernetes", Doc: "how the agent of a node learns of the cluster", Sub: []option{
			{Key: "enabled", Doc: "auto asks the API server of the kubeconfig or the pod's service account, if there is one; off asks none (auto)", Set: setKubernetes},
			{Key: "kubeconfig", Doc: "file that says where the API server is; without it the service account of the pod", Set: file(func(c *Config) *string { return &c.Kubernetes.Kubeconfig })},
		}},
		{Key: "hub", Doc: "where the hub asks", Sub: []option{
			{Key: "listen", Doc: "address that only the hub can ask, or off (off)", Set: settings.AddressOrOff(func(c *Config) *string { return &c.Hub.Listen })},
			{Key: "tls", Doc: "directory of tls.crt, tls.key and ca.crt, which are read again when they change", Set: file(func(c *Config) *string { return &c.Hub.TLS })},
		}},
		{Key: "hubble", Doc: "where Hubble's clients ask for flows", Sub: []option{
			{Key: "socket", Doc: "path of the Unix socket, or off; without it hubble.sock beside the API's socket where node is set, or off", Set: setHubbleSocket},
			{Key: "listen", Doc: "address that the hub and relays can ask, or off (off)", Set: settings.AddressOrOff(func(c *Config) *string { return &c.Hubble.Listen })},
			{Key: "flows", Doc: "past flows that are kept for those who ask what just happened (4095)", Set: settings.Number(1, 1<<20, func(c *Config) *int { return &c.Hubble.Flows })},
			{Key: "bytes", Doc: "memory that they take at most (8MiB)", Set: settings.Size(64<<10, 1<<40, func(c *Config) *int64 { return &c.Hubble.Bytes })},
		}},
		{Key: "network", Doc: "whether and how the agent connects the pods of its node, and enforces network policy", Sub: []option{
			{Key: "mode", Doc: "off leaves packets alone; routed and vxlan connect pods, by routes between nodes or by tunnels; chained judges and counts what another CNI plugin connects (off)", Set: setNetwork},
			{Key: "masquerade", Doc: "pods reach what is no pod and no node by their node's address (true)", Set: setMasquerade},
			{Key: "keep-source", Doc: "networks that pods reach by their own addresses all the same, by comma", Set: setKeepSource},
			{Key: "mtu", Doc: "MTU of pods; without it, or 0, what the uplink has room for", Set: settings.Number(0, 65535, func(c *Config) *int { return &c.Network.MTU })},
			{Key: "uplink", Doc: "device to other nodes; without it the one that has the node's address", Set: setUplink},
			{Key: "vni", Doc: "number of the tunnels' network, the same on all nodes (87)", Set: setVNI},
			{Key: "port", Doc: "UDP port of the tunnels, the same on all nodes (8472)", Set: setTunnelPort},
			{Key: "verdicts", Doc: "how many verdicts of network policy the kernel has room for: 16 bytes each, and 100 more for those there are (1048576)", Set: settings.Number(1<<14, 1<<26, func(c *Config) *int { return &c.Network.Verdicts })},
			{Key: "sysctl", Doc: "where the kernel's switches are (/proc/sys)", Set: file(func(c *Config) *string { return &c.Network.Sysctl })},
			{Key: "bpffs", Doc: "BPF file system for what outlives the agent (/sys/fs/bpf)", Set: file(func(c *Config) *string { return &c.Network.BPFFS })},
			{Key: "cni-state", Doc: "directory of what the CNI plugin knows, the host's; without it /var/lib/cni/INSTANCE", Set: file(func(c *Config) *string { return &c.Network.CNIState })},
			{Key: "cni-conf", Doc: "directory of the container runtime's network configuration (/etc/cni/net.d)", Set: file(func(c *Config) *string { return &c.Network.CNIConf })},
			{Key: "cni-bin", Doc: "directory of its plugins (/opt/cni/bin)", Set: file(func(c *Config) *string { return &c.Network.CNIBin })},
		}},
		{Key: "rules", Doc: "rules that alert: Falco's rule files", Sub: []option{
			{Key: "path", Doc: "rule files and directories of them, by comma, in the order in which they are read; they are looked at each second", Set: setRules},
			{Key: "matching", Doc: "all rules that an event matches alert, or the first, which is Falco's way (all)", Set: setMatching},
			{Key: "priority", Doc: "least priority that alerts (debug)", Set: setLeast},
			{Key: "aggregate", Doc: "for how long alerts like one that was told are counted, and told as one with their number when it ends: of the same rule, workload and values; 0 tells each (1m)", Set: setAggregate},
			{Key: "output", Doc: "what is said behind every rule's output: \"container=%container.id\"", Set: setRuleOutput},
			{Key: "suggested", Doc: "container and pod are said behind every rule's output, as Falco does (true)", Set: setSuggested},
			{Key: "append", Doc: "what is said with the outputs of some rules: Falco's append_output", Item: func(c *Config) { c.Rules.Append = append(c.Rules.Append, rule.Addition{}) },
				Check: func(c *Config) error { return c.Rules.Append[len(c.Rules.Append)-1].Check() }, Sub: appendOptions()},
		}},
		{Key: "alerts", Doc: "where alerts go", Sub: alertsOptions()},
		{Key: "reactions", Doc: "what rules may have done when they alert; without enabled: true nothing", Check: func(c *Config) error { return c.Reactions.Check() },
			Sub: settings.Within(reaction.Options(), func(c *Config) *reaction.Config { return &c.Reactions })},
		{Key: "kubernetes-audit", Doc: "from where audit events of Kubernetes API servers come, for rules of the source k8s_audit: docs/kubernetes-audit.md", Sub: auditOptions()},
		{Key: "history", Doc: "what is kept of the past, on disk", Sub: []option{
			{Key: "enabled", Doc: "false keeps nothing (true)", Set: setHistoryEnabled},
			{Key: "dir", Doc: "directory; without it history below that of the state", Set: file(func(c *Config) *string { return &c.History.Dir })},
			{Key: "size", Doc: "what it takes at most, before the oldest goes (1GiB)", Set: settings.Size(8<<20, 1<<40, func(c *Config) *int64 { return &c.History.Size })},
			{Key: "age", Doc: "for how long events are kept (7d)", Set: settings.Span(time.Minute, 5*366*24*time.Hour, func(c *Config) *time.Duration { return &c.History.Age })},
			{Key: "filter", Doc: "which events are kept (" + defaultHistory + ")", Set: setHistoryFilter},
			{Key: "segment-size", Doc: "how large what is written grows before it becomes a file for others; without it 64MiB, or a quarter of size where that is less", Set: settings.Size(64<<10, 1<<30, func(c *Config) *int64 { return &c.History.SegmentSize })},
			{Key: "segment-age", Doc: "how old it becomes (1h)", Set: settings.Span(time.Second, 30*24*time.Hour, func(c *Config) *time.Duration { return &c.History.SegmentAge })},
			{Key: "archive", Doc: "where these files are copied to", Check: checkArchive, Sub: []option{
				{Key: "url", Doc: "a directory that exists, file:///PATH, or a bucket, s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION; without it nothing is copied", Set: setArchive},
				{Key: "credentials", Doc: "file with the keys of the bucket, as AWS has it; without it they are of the environment", Set: file(func(c *Config) *string { return &c.History.Archive.Credentials })},
				{Key: "spare", Doc: "what the history may take beyond its size while the archive is away, before it goes without being copied (1GiB)", Set: settings.Size(1<<20, 1<<40, func(c *Config) *int64 { return &c.History.Archive.Spare })},
			}},
		}},
		{Key: "rings", Doc: "the rings between kernel and agent", Check: checkPolls, Sub: []option{
			{Key: "critical", Doc: "size of the ring for processes, a power of two (8MiB)", Set: ring(func(c *Config) *int { return &c.Road.CriticalBytes })},
			{Key: "bulk", Doc: "size of the ring for the rest, a power of two (16MiB)", Set: ring(func(c *Config) *int { return &c.Road.BulkBytes })},
			{Key: "idle", Doc: "how often the rings are looked at while nothing happens (50ms)", Set: settings.Duration(time.Millisecond, time.Second, func(c *Config) *time.Duration { return &c.Road.Idle })},
			{Key: "busy", Doc: "how often while something does (1ms)", Set: settings.Duration(time.Millisecond, time.Second, func(c *Config) *time.Duration { return &c.Road.Busy })},
		}},
		{Key: "file", Doc: "what is observed of files", Sub: []option{
			{Key: "calls", Doc: "calls that change or close files and are on their way at the same time, before what is known of more is lost, and counted: 1.2KiB each, a power of two (1024)", Set: setFileCalls},
		}},
		{Key: "hooks", Doc: "hooks that are to be attached by one kind of program and no other: socket.accept: tracepoint", Each: setRung},
		{Key: "tables", Doc: "kinds of events that are watched though nobody subscribes, because tables are made of them: dns: false", Sub: tableOptions()},
		{Key: "queues", Doc: "how much waits for whom", Sub: []option{
			{Key: "events", Doc: "events that wait for a consumer before the next are lost (8192)", Set: settings.Number(64, 1<<20, func(c *Config) *int { return &c.Pipeline.Queue })},
			{Key: "recent", Doc: "past events that are kept for those who ask what just happened (1024)", Set: settings.Number(1, 1<<20, func(c *Config) *int { return &c.Pipeline.Recent })},
			{Key: "streams", Doc: "streams of events that are served at the same time, and of flows as many (64)", Set: settings.Number(1, 4096, func(c *Config) *int { return &c.API.Streams })},
			{Key: "stall", Doc: "how long a client may read nothing before it is disconnected (30s)", Set: settings.Duration(time.Second, time.Hour, func(c *Config) *time.Duration { return &c.API.Stall })},
		}},
		{Key: "stop-grace", Doc: "how long a hook stays attached after the last who needed it has gone (5s)", Set: settings.Duration(time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.Pipeline.StopGrace })},
		{Key: "containers", Doc: "how containers get their names", Sub: []option{
			{Key: "wait", Doc: "how long events wait for the description of a new container (500ms)", Set: waitContainer},
			{Key: "describe-for", Doc: "how long a runtime is asked for a container that it does not know (20s)", Set: settings.Duration(time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.Identity.DescribeFor })},
			{Key: "docker", Doc: "where Docker listens: paths of sockets, by comma, or off (/run/docker.sock,/var/run/docker.sock)", Set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.Docker })},
			{Key: "podman", Doc: "where podman listens (/run/podman/podman.sock)", Set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.Podman })},
			{Key: "containerd", Doc: "where containerd listens (/run/containerd/containerd.sock,/run/k3s/containerd/containerd.sock,/run/k0s/containerd.sock)", Set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.Containerd })},
			{Key: "cri-o", Doc: "where CRI-O listens (/run/crio/crio.sock,/var/run/crio/crio.sock)", Set: sockets(func(c *Config) *[]string { return &c.Identity.Sockets.CRIO })},
		}},
		{Key: "memory", Doc: "how much is remembered", Sub: []option{
			{Key: "processes", Doc: "memory of the process table (32MiB)", Set: settings.Size(1<<20, 1<<40, func(c *Config) *int64 { return &c.Identity.ProcessBytes })},
			{Key: "connections", Doc: "memory of the connection table (16MiB)", Set: settings.Size(1<<20, 1<<40, func(c *Config) *int64 { return &c.Identity.ConnectionBytes })},
			{Key: "exited", Doc: "ended processes that are remembered (16384)", Set: settings.Number(1, 1<<30, func(c *Config) *int { return &c.Identity.MaxExited })},
			{Key: "exited-age", Doc: "for how long (15m)", Set: settings.Duration(time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.Identity.ExitedAge })},
			{Key: "closed", Doc: "closed connections that are remembered (8192)", Set: settings.Number(1, 1<<30, func(c *Config) *int { return &c.Identity.MaxClosed })},
			{Key: "names", Doc: "addresses whose DNS names are remembered (16384)", Set: settings.Number(1, 1<<30, func(c *Config) *int { return &c.Identity.MaxNames })},
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
		list = append(list, option{Key: k.String(), Doc: k.Doc(), Set: func(c *Config, v string) error {
			on, err := settings.ParseBool(v)
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
	if err := settings.Duration(time.Millisecond, time.Minute, func(c *Config) *time.Duration { return &c.Identity.WaitContainer })(c, v); err != nil {
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

func setFileCalls(c *Config, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is no number of calls", v)
	}
	c.Sensors.File.Calls = n
	return c.Sensors.File.Validate()
}

func ring(at func(*Config) *int) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := settings.ParseSize(v)
		if err != nil {
			return err
		}
		if n < int64(os.Getpagesize()) || n > 1<<30 || bits.OnesCount64(uint64(n)) != 1 {
			return fmt.Errorf("%q is no power of two from %s to 1GiB", v, settings.SizeName(int64(os.Getpagesize())))
		}
		*at(c) = int(n)
		return nil
	}
}
