package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Up starts the cluster: when it returns, its nodes are Ready and names resolve.
// Where Warren connects the pods it is installed for that, bare or not.
// A cluster that runs as configured is left as it is; what is left of one that
// came up by half is removed first. After an error what has been started still
// runs, to be looked at: Down removes it. A bare cluster is one without Warren,
// whose tree need not build then.
func (c *Cluster) Up(ctx context.Context, bare bool) error {
	if !c.tools.Built() {
		return errors.New("the programs have not been built")
	}
	whole, err := c.whole()
	if err != nil || whole {
		return err
	}
	if err := c.Down(ctx); err != nil {
		return err
	}
	if err := c.need(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if err := c.makePKI(); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	if err := c.openControl(ctx); err != nil {
		return fmt.Errorf("make the control plane's network: %w", err)
	}
	var nodes []string
	for n := 1; n <= c.Nodes; n++ {
		nodes = append(nodes, NodeName(n))
	}
	// Three things take time, and happen at once: the API server, the nodes as far
	// as they get without it, and the compiler.
	opened := make(chan struct{})
	err = together(ctx,
		func(ctx context.Context) error {
			err := together(ctx, c.upControl, func(ctx context.Context) error {
				if err := each(ctx, nodes, c.openNode); err != nil {
					return err
				}
				c.say("nodes run containerd")
				close(opened)
				return nil
			})
			if err != nil {
				return err
			}
			return together(ctx,
				func(ctx context.Context) error {
					return each(ctx, nodes, func(ctx context.Context, name string) error {
						if err := c.joinNode(ctx, name); err != nil || c.networkMode() != "" {
							return err
						}
						return c.settleNode(ctx, name)
					})
				},
				func(ctx context.Context) error { return c.applyFile(ctx, "coredns.yaml") })
		},
		func(ctx context.Context) error {
			if err := c.buildShop(ctx); err != nil {
				return err
			}
			if !bare || c.networkMode() != "" {
				if err := c.buildWarren(ctx); err != nil {
					return err
				}
			}
			own, err := c.ownImages()
			if err != nil {
				return err
			}
			select {
			case <-opened:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := c.loadOwn(ctx, own...); err != nil {
				return err
			}
			c.say("nodes have their images")
			return nil
		})
	if err != nil {
		return err
	}
	if c.networkMode() != "" {
		// Whoever gives up first says why: a rollout, or a node that will never be Ready.
		err := together(ctx, func(ctx context.Context) error { return c.Warren(ctx) },
			func(ctx context.Context) error { return each(ctx, nodes, c.settleNode) })
		if err != nil {
			return err
		}
	}
	if err := c.Rollout(ctx, "kube-system", "deployment/coredns"); err != nil {
		return err
	}
	c.say("names resolve")
	return c.save()
}

// need says which programs of the machine's own are missing.
func (c *Cluster) need() error {
	if unix.Geteuid() != 0 {
		return errors.New("a cluster needs root: namespaces, mounts and control groups")
	}
	programs := []string{"ip", "nsenter", "nft"}
	if c.ProxyMode == "iptables" {
		programs = append(programs, "iptables", "ip6tables")
	}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			if _, err := os.Stat("/usr/sbin/" + name); err != nil {
				return fmt.Errorf("%s is missing: build/need iproute2 util-linux nftables iptables", name)
			}
		}
	}
	return nil
}

// whole tells whether the cluster has come up and runs. One of the same name
// that was configured otherwise is an error.
func (c *Cluster) whole() (bool, error) {
	running, err := Open(c.Name, c.tools, c.say)
	if errors.Is(err, ErrDown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, d := range running.daemons() {
		if running.pid(d) == 0 {
			return false, nil
		}
	}
	was, is := running.Config, c.Config
	was.Nodes, is.Nodes = 0, 0
	if was != is {
		return false, fmt.Errorf("cluster %s runs with other settings: take it down first", c.Name)
	}
	return true, nil
}

// A Daemon is a program of the cluster that should run.
type Daemon struct {
	Place, Name string
	PID         int // 0 where it does not run
}

// Daemons are those of a cluster with the nodes that it has now.
func (c *Cluster) Daemons() []Daemon {
	var all []Daemon
	for _, d := range c.daemons() {
		all = append(all, Daemon{d.place.name, d.name, c.pid(d)})
	}
	return all
}

// daemons are all that a cluster with the nodes that it has now should run.
func (c *Cluster) daemons() []daemon {
	var all []daemon
	for _, name := range controlDaemons {
		all = append(all, daemon{place: c.place(controlPlace), name: name})
	}
	for _, node := range c.RunningNodes() {
		for _, name := range nodeDaemons {
			all = append(all, daemon{place: c.place(node), name: name})
		}
	}
	return all
}

// Down removes the cluster: its processes, groups, namespaces and files,
// whatever of it there is.
func (c *Cluster) Down(ctx context.Context) error {
	group := "/" + c.Name
	// The nodes first: nothing of theirs then misses the API server.
	for _, node := range c.RunningNodes() {
		if err := c.tools.cgroups.remove(ctx, c.CgroupRoot(node)); err != nil {
			return err
		}
	}
	if err := c.tools.cgroups.remove(ctx, group); err != nil {
		return err
	}
	c.mu.Lock()
	c.client = nil
	c.mu.Unlock()
	// A mount of a node that a stranger's namespace has copied may hold a file.
	if err := Poll(ctx, Patience, func() error { return os.RemoveAll(c.dir) }); err != nil {
		return fmt.Errorf("remove the cluster's files: %w", err)
	}
	// Another cluster's are there where this fails.
	if err := os.Remove(filepath.Dir(c.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// Start starts a daemon that was stopped: where is "control" or a node.
func (c *Cluster) Start(ctx context.Context, where, name string) error {
	if where == controlPlace {
		return c.startControl(ctx, name)
	}
	return c.startNode(ctx, where, name)
}

// Stop kills a daemon, without warning. What it has started goes on.
func (c *Cluster) Stop(ctx context.Context, where, name string) error {
	get := func() (daemon, error) { return c.nodeDaemon(where, name) }
	if where == controlPlace {
		get = func() (daemon, error) { return c.controlDaemon(name) }
	}
	d, err := get()
	if err != nil {
		return err
	}
	return c.stop(ctx, d)
}

// Kubectl runs kubectl as the administrator and gives what it printed.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, controlPlace, "", append([]string{"kubectl"}, args...)...)
}

// Apply applies manifests.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.run(ctx, controlPlace, manifests, "kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// applyFile applies one of the files, with its values.
func (c *Cluster) applyFile(ctx context.Context, name string) error {
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		return err
	}
	dns := c.Services.host(dnsService)
	manifests := strings.NewReplacer("{dns4}", dns.V4.String(), "{dns6}", dns.V6.String()).Replace(string(text))
	if err := c.Apply(ctx, manifests); err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	return nil
}

// Rollout waits until what kubectl calls deployment/NAME or daemonset/NAME is
// complete. Its error has what its pods, their events and their logs say.
func (c *Cluster) Rollout(ctx context.Context, namespace, object string) error {
	_, err := c.Kubectl(ctx, "-n", namespace, "rollout", "status", object, "--timeout="+Patience.String())
	if err == nil {
		return nil
	}
	pods, _ := c.Kubectl(ctx, "-n", namespace, "get", "pods", "-o", "wide")
	events, _ := c.Kubectl(ctx, "-n", namespace, "get", "events", "--sort-by=.lastTimestamp")
	logs, _ := c.Kubectl(ctx, "-n", namespace, "logs", object, "--all-pods", "--all-containers", "--prefix", "--tail=8")
	return fmt.Errorf("wait for %s: %w\n%s\n%s\n%s", object, err, tail(pods, 20), tail(events, 15), tail(logs, 20))
}
