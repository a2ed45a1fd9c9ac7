package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"warren/api"
	"warren/bpf"
	"warren/cni"
	"warren/datapath"
	"warren/netpol"
)

// openNetwork takes over the node's network from an earlier agent, or begins one.
// Nothing of what the kernel does changes yet. Where the network is off it takes
// away what an earlier agent of this instance has left, and returns nil.
func openNetwork(cfg Config, m *membership, alone string, log *slog.Logger) (_ *network, err error) {
	c := cfg.Network
	store := &networkStore{path: filepath.Join(cfg.State, networkFile), mode: c.Mode.String()}
	if !c.On() {
		return nil, clearNetwork(cfg, store, log)
	}
	if m == nil {
		return nil, usageError("a network of pods needs the cluster's API server: %s", alone)
	}
	if !bpf.Effective().Has(int(cap.NET_ADMIN)) {
		return nil, errors.New("capabilities are missing: CAP_NET_ADMIN (connect pods): start the agent as root, or with it")
	}
	runtime := &cniRuntime{cfg: cfg, log: log}
	left, _, err := store.load()
	if err != nil {
		log.Warn("what is known of the pods of this node cannot be read: they are learnt again", "err", err)
	}
	left = append(left, runtime.attachments(left)...)
	// Before anything is made, it is written that there may be something.
	if err := store.save(left); err != nil {
		return nil, err
	}
	n := newNetwork(c, m, store, left, log)
	host, err := datapath.NewHost(hostConfig(cfg), log)
	if err != nil {
		return nil, err
	}
	n.host, n.runtime = host, runtime
	kernel, err := datapath.Open(kernelConfig(cfg), log)
	if err != nil {
		return nil, fmt.Errorf("connect pods: %w", err)
	}
	n.kernel = kernel
	return n, nil
}

// newNetwork returns a network that knows the endpoints that an earlier agent
// has left.
func newNetwork(c NetworkConfig, m *membership, store *networkStore, left []*endpoint, log *slog.Logger) *network {
	n := &network{
		cfg: c, node: m.node, state: m.state, log: log, store: store,
		devices: netDevices, addresses: netAddresses,
		kick: make(chan struct{}, 1), again: time.NewTimer(0), compiler: netpol.NewCompiler(), endpoints: make(map[api.Attachment]*endpoint),
	}
	for _, e := range left {
		n.endpoints[e.Attachment] = e
	}
	n.await("all of the cluster to be known")
	return n
}

func kernelConfig(cfg Config) datapath.Config {
	return datapath.Config{
		BPFFS: cfg.Network.BPFFS, Instance: cfg.Instance, Mode: cfg.Network.Mode, Verdicts: cfg.Network.Verdicts, PodDevices: cni.DevicePrefix,
		VNI: cfg.Network.VNI, Port: cfg.Network.Port,
	}
}

func hostConfig(cfg Config) datapath.HostConfig {
	c := cfg.Network
	return datapath.HostConfig{
		Instance: cfg.Instance, State: cfg.State, Sysctl: c.Sysctl, Uplink: c.Uplink, MTU: c.MTU,
		NoMasquerade: c.NoMasquerade, KeepSource: c.KeepSource, VNI: c.VNI, Port: c.Port,
	}
}

// clearNetwork takes away the network that an earlier agent of this instance has
// made, if one has.
func clearNetwork(cfg Config, store *networkStore, log *slog.Logger) error {
	_, ok, err := store.load()
	if !ok {
		return err
	}
	log.Info("the network is off: what an earlier agent has made of it is taken away")
	runtime := &cniRuntime{cfg: cfg, log: log}
	err = runtime.remove(store.was) // first: nobody adds pods any more
	if e := datapath.Remove(kernelConfig(cfg)); e != nil {
		err = errors.Join(err, fmt.Errorf("detach from pods: %w", e))
	}
	host, e := datapath.NewHost(hostConfig(cfg), log)
	if e == nil {
		e = host.Remove()
	}
	if err = errors.Join(err, e); err != nil {
		return fmt.Errorf("take away the network of an earlier agent: %w", err)
	}
	return store.remove()
}

// close lets go of the kernel, which goes on.
func (n *network) close() error {
	if n == nil {
		return nil
	}
	return n.kernel.Close()
}

// cniRuntime tells the container runtime, by files, that pods can be added.
type cniRuntime struct {
	cfg Config
	log *slog.Logger
}

func (r *cniRuntime) stateDir() string {
	if dir := r.cfg.Network.CNIState; dir != "" {
		return dir
	}
	return filepath.Join("/var/lib/cni", r.cfg.Instance)
}

// Ready implements networkRuntime.
func (r *cniRuntime) Ready(n cni.Node) error {
	n.Socket = r.cfg.Socket
	if err := cni.WriteNode(r.stateDir(), n); err != nil {
		return err
	}
	// The last: with it the runtime says that the node has a network.
	return cni.Install(r.install())
}

func (r *cniRuntime) install() cni.InstallConfig {
	c := r.cfg.Network
	return cni.InstallConfig{Instance: r.cfg.Instance, Socket: r.cfg.Socket, StateDir: r.stateDir(), ConfDir: c.CNIConf, BinDir: c.CNIBin}
}

// attachments are the endpoints that the plugin knows of and the agent does not:
// they were being made when the last one ended.
func (r *cniRuntime) attachments(known []*endpoint) (more []*endpoint) {
	list, err := cni.Attachments(r.cfg.Instance, r.stateDir())
	if err != nil {
		r.log.Warn("some of what the CNI plugin knows cannot be read", "err", err)
	}
	for _, a := range list {
		if !slices.ContainsFunc(known, func(e *endpoint) bool { return e.Attachment == a.Attachment }) {
			more = append(more, &endpoint{Endpoint: a, waits: "its turn"})
		}
	}
	return more
}

// remove takes away all that the plugin is and has made. On top of another plugin's
// network it was never installed: who has removed only what was made there need not
// be able to write where it would have been.
func (r *cniRuntime) remove(was string) error {
	err := errors.Join(cni.Uninstall(r.install()), cni.RemoveNode(r.stateDir()))
	if _, e := os.Stat(r.stateDir()); was != datapath.Chained.String() || !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, cni.Purge(r.cfg.Instance, r.stateDir()))
	}
	if err != nil {
		return fmt.Errorf("take away the CNI plugin: %w", err)
	}
	return nil
}

// netDevices lists the network devices of this node.
func netDevices() (map[int]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	out := make(map[int]string, len(list))
	for _, one := range list {
		out[one.Index] = one.Name
	}
	return out, nil
}

// servicesDevice is where kube-proxy puts the addresses of services in its mode
// IPVS: they are no node's.
const servicesDevice = "kube-ipvs0"

// netAddresses lists the addresses that this node has and may send from.
func netAddresses() ([]netip.Addr, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, device := range devices {
		if device.Name == servicesDevice {
			continue
		}
		list, err := device.Addrs()
		if err != nil {
			continue // it is gone
		}
		for _, one := range list {
			ipnet, ok := one.(*net.IPNet)
			if !ok {
				continue
			}
			a, ok := netip.AddrFromSlice(ipnet.IP)
			if a = a.Unmap(); ok && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
				out = append(out, a)
			}
		}
	}
	return out, nil
}
