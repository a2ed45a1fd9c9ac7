package bed

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"golang.org/x/sys/unix"
)

// The daemons of a node, in the order in which they start.
var nodeDaemons = []string{"containerd", "kubelet", "kube-proxy"}

//go:embed files
var files embed.FS

// values are what the files of a node have in braces.
type values struct {
	Name, Tools, PKI, CgroupRoot, ProxyMode string
	Pods, Services                          DualStack
	DNS                                     netip.Addr
	PodCIDRs                                []netip.Prefix
	OpenFiles                               uint64
}

// fill gives one of the files with its values.
func (c *Cluster) fill(name, node string, pods ...netip.Prefix) ([]byte, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	t, err := template.New(name).Option("missingkey=error").ParseFS(files, "files/"+name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, values{
		Name: node, Tools: c.tools.Path(""), PKI: c.path("pki"), CgroupRoot: c.CgroupRoot(node), ProxyMode: c.ProxyMode,
		Pods: c.Pods, Services: c.Services, DNS: c.Services.host(dnsService).V4, PodCIDRs: pods, OpenFiles: min(limit.Max, 1<<20),
	})
	return out.Bytes(), err
}

// nodeDaemon gives one of a node's daemons.
func (c *Cluster) nodeDaemon(node, name string) (daemon, error) {
	d := daemon{place: c.place(node), name: name}
	n, err := nodeNumber(node)
	if err != nil {
		return d, err
	}
	var args []string
	switch name {
	case "containerd":
		args = []string{"--config=" + c.path(node, "containerd.toml")}
	case "kubelet":
		args = []string{"--config=" + c.path(node, "kubelet.yaml"), "--kubeconfig=" + c.path("pki", node+".kubeconfig"),
			"--hostname-override=" + node, "--node-ip=" + c.Network.host(nodeHost+n).String(), "--v=2"}
	case "kube-proxy":
		args = []string{"--config=" + c.path(node, "kube-proxy.yaml")}
	default:
		return d, fmt.Errorf("%s has no %q; it has %v", node, name, nodeDaemons)
	}
	d.argv = append([]string{c.tools.Path(name)}, args...)
	return d, nil
}

// startNode starts one of a node's daemons and waits until it is of use.
func (c *Cluster) startNode(ctx context.Context, node, name string) error {
	d, err := c.nodeDaemon(node, name)
	if err != nil {
		return err
	}
	var ready func(context.Context) error
	switch name {
	case "containerd":
		ready = func(ctx context.Context) error {
			_, err := c.run(ctx, node, "", "ctr", "-a", containerdSocket, "version")
			return err
		}
	case "kubelet":
		ready = func(ctx context.Context) error { return c.answers(ctx, node, "http://127.0.0.1:10248/healthz") }
	default:
		ready = func(ctx context.Context) error { return c.answers(ctx, node, "http://127.0.0.1:10249/healthz") }
	}
	return c.start(ctx, d, ready)
}

const containerdSocket = "/run/containerd/containerd.sock"

// openNode makes a node up to its container runtime with the images that
// do not change. It needs no API server.
func (c *Cluster) openNode(ctx context.Context, node string) error {
	n, err := nodeNumber(node)
	if err != nil {
		return err
	}
	own := c.Network.host(nodeHost + n)
	ca, err := loadAuthority(c.path("pki"), "ca")
	if err != nil {
		return err
	}
	if err := c.user(ca, node, "system:node:"+node, "system:nodes", node, own.V4.String(), own.V6.String()); err != nil {
		return err
	}
	for _, dir := range nodeDirs {
		if err := os.MkdirAll(c.path(node, dir), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"containerd.toml", "kubelet.yaml", "kube-proxy.yaml"} {
		text, err := c.fill(name, node)
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.path(node, name), text, 0o644); err != nil {
			return err
		}
	}
	resolv := fmt.Sprintf("nameserver %s\n", c.Services.host(dnsService).V4)
	if err := os.WriteFile(c.path(node, "resolv.conf"), []byte(resolv), 0o644); err != nil {
		return err
	}
	// In every hierarchy: the kubelet looks for its root in each.
	if err := c.tools.cgroups.make(c.CgroupRoot(node), true); err != nil {
		return err
	}
	p := c.place(node)
	if err := c.open(ctx, p, node, c.path(node)); err != nil {
		return err
	}
	if err := c.connect(ctx, p, own); err != nil {
		return err
	}
	if c.networkMode() != "" {
		// As a machine is that nobody has prepared: whoever connects pods sees to it.
		_, err := c.run(ctx, node, "", "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding")
		if err != nil {
			return err
		}
	}
	if err := c.startNode(ctx, node, "containerd"); err != nil {
		return err
	}
	return c.importImages(ctx, node, []string{c.tools.baseImages()})
}

// joinNode makes a node of the cluster out of what openNode left: it needs the
// API server. The node has a network when it returns, unless that is for Warren
// to make.
func (c *Cluster) joinNode(ctx context.Context, name string) error {
	err := each(ctx, nodeDaemons[1:], func(ctx context.Context, d string) error { return c.startNode(ctx, name, d) })
	if err != nil {
		return err
	}
	registered, err := c.awaitNode(ctx, name, func(n node) string {
		if len(n.Spec.PodCIDRs) < 2 {
			return "the controller manager has given it no addresses for pods"
		}
		return ""
	})
	if err != nil {
		return c.waitError(name, "to register", err)
	}
	pods := registered.Spec.PodCIDRs
	if c.networkMode() != "" {
		return c.route(ctx, name, pods, []string{controlPlace})
	}
	conflist, err := c.fill("cni.conflist", name, pods...)
	if err != nil {
		return err
	}
	if err := writeFile(c.path(name, "cni", "10-cluster.conflist"), conflist); err != nil {
		return err
	}
	return c.meet(ctx, name, pods)
}

// settleNode waits until a node that has joined is Ready.
func (c *Cluster) settleNode(ctx context.Context, name string) error {
	if _, err := c.awaitNode(ctx, name, node.ready); err != nil {
		return c.waitError(name, "to be Ready", err)
	}
	c.say(name + " is Ready")
	return nil
}

func (c *Cluster) waitError(name, what string, err error) error {
	return &LogError{Step: "wait for " + name + " " + what, Log: c.Log(name, "kubelet"), Err: err}
}

// meet routes between a new node's pods and everybody else's. Of two nodes that
// come at once, the one that is later does it for both.
func (c *Cluster) meet(ctx context.Context, name string, pods []netip.Prefix) error {
	others := c.RunningNodes()
	if err := c.route(ctx, name, pods, append(others, controlPlace)); err != nil {
		return err
	}
	for _, other := range others {
		var o node
		var status *StatusError
		err := c.API(ctx, http.MethodGet, "/api/v1/nodes/"+other, nil, &o)
		switch {
		case errors.As(err, &status) && status.Code == http.StatusNotFound:
			continue // it has not registered yet
		case err != nil:
			return err
		}
		if err := c.route(ctx, other, o.Spec.PodCIDRs, []string{name}); err != nil {
			return err
		}
	}
	return nil
}

// RunningNodes are the names of the nodes that have been started and not taken
// away, Ready or not.
func (c *Cluster) RunningNodes() []string {
	var names []string
	for n := 1; n <= maxNodes; n++ {
		if c.tools.cgroups.exists(c.CgroupRoot(NodeName(n))) {
			names = append(names, NodeName(n))
		}
	}
	return names
}

// AddNode adds the node with a number to a cluster that runs.
func (c *Cluster) AddNode(ctx context.Context, n int) error {
	name := NodeName(n)
	if _, err := nodeNumber(name); err != nil {
		return err
	}
	if slices.Contains(c.RunningNodes(), name) {
		return fmt.Errorf("%s runs already", name)
	}
	if err := c.openNode(ctx, name); err != nil {
		return err
	}
	own, err := c.ownImages()
	if err != nil {
		return err
	}
	if err := c.importImages(ctx, name, own); err != nil {
		return err
	}
	if err := c.joinNode(ctx, name); err != nil {
		return err
	}
	return c.settleNode(ctx, name)
}

// RemoveNode kills a node as if its machine lost power, and takes it out of the
// cluster.
func (c *Cluster) RemoveNode(ctx context.Context, n int) error {
	name := NodeName(n)
	if !slices.Contains(c.RunningNodes(), name) {
		return fmt.Errorf("%s does not run", name)
	}
	if err := c.tools.cgroups.remove(ctx, c.CgroupRoot(name)); err != nil {
		return err
	}
	from := []string{controlPlace}
	if c.networkMode() == "" {
		from = append(from, c.RunningNodes()...)
	}
	if err := c.unroute(ctx, name, from); err != nil {
		return err
	}
	var status *StatusError
	if err := c.API(ctx, http.MethodDelete, "/api/v1/nodes/"+name, nil, nil); err != nil && !(errors.As(err, &status) && status.Code == http.StatusNotFound) {
		return err
	}
	return os.RemoveAll(c.path(name))
}

// writeFile writes a file that appears whole: who watches its folder reads it
// at once.
func writeFile(path string, text []byte) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// together calls functions at once and gives what failed, as each does.
func together(ctx context.Context, do ...func(context.Context) error) error {
	return each(ctx, do, func(ctx context.Context, do func(context.Context) error) error { return do(ctx) })
}

// each calls a function for all items at once and gives what failed. When one
// fails the others' context ends.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make(chan error, len(items))
	for _, item := range items {
		go func() { errs <- do(ctx, item) }()
	}
	var first error
	for range items {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel(err)
		}
	}
	return first
}
