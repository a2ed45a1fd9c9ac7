package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bridge is the network of the nodes, a device in the control plane's namespace.
const bridge = "br0"

// ip runs commands of iproute2 in a place, all by one process.
func (c *Cluster) ip(ctx context.Context, where string, commands ...string) error {
	_, err := c.run(ctx, where, strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// openControl makes the control plane's namespace with the bridge.
func (c *Cluster) openControl(ctx context.Context) error {
	if err := c.open(ctx, c.place(controlPlace)); err != nil {
		return err
	}
	return c.ip(ctx, controlPlace,
		"link set lo up",
		"link add "+bridge+" type bridge",
		"link set "+bridge+" up",
		fmt.Sprintf("addr add %s/%d dev %s", c.controlAddresses().V4, c.Network.V4.Bits(), bridge),
		fmt.Sprintf("addr add %s/%d dev %s nodad", c.controlAddresses().V6, c.Network.V6.Bits(), bridge))
}

func (c *Cluster) controlAddresses() addresses { return c.Network.host(controlHost) }

// connect ties a place to the bridge. Everything it knows no route for goes to
// the control plane, which forwards nothing: services have addresses that only
// need some route to be caught on.
func (c *Cluster) connect(ctx context.Context, p place, own addresses) error {
	pid, err := c.holder(p)
	if err != nil {
		return err
	}
	err = c.ip(ctx, controlPlace,
		"link add "+p.name+" type veth peer name eth0 netns "+strconv.Itoa(pid),
		"link set "+p.name+" master "+bridge+" up")
	if err != nil {
		return err
	}
	gateway := c.controlAddresses()
	return c.ip(ctx, p.name,
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev eth0", own.V4, c.Network.V4.Bits()),
		fmt.Sprintf("addr add %s/%d dev eth0 nodad", own.V6, c.Network.V6.Bits()),
		"link set eth0 up",
		"route add default via "+gateway.V4.String(),
		"route add default via "+gateway.V6.String())
}

// route tells other places the way to a node's pods.
func (c *Cluster) route(ctx context.Context, node string, pods []netip.Prefix, to []string) error {
	n, err := nodeNumber(node)
	if err != nil {
		return err
	}
	own := c.Network.host(nodeHost + n)
	var add []string
	for _, p := range pods {
		via := own.V4
		if p.Addr().Is6() {
			via = own.V6
		}
		add = append(add, fmt.Sprintf("route replace %s via %s", p, via))
	}
	for _, where := range to {
		if where == node || len(add) == 0 {
			continue
		}
		if err := c.ip(ctx, where, add...); err != nil {
			return fmt.Errorf("route from %s to the pods of %s: %w", where, node, err)
		}
	}
	return nil
}

// unroute takes the way to a node back.
func (c *Cluster) unroute(ctx context.Context, node string, from []string) error {
	n, err := nodeNumber(node)
	if err != nil {
		return err
	}
	own := c.Network.host(nodeHost + n)
	for _, where := range from {
		_, err4 := c.run(ctx, where, "", "ip", "-4", "route", "flush", "via", own.V4.String())
		_, err6 := c.run(ctx, where, "", "ip", "-6", "route", "flush", "via", own.V6.String())
		if err := errors.Join(err4, err6); err != nil {
			return err
		}
	}
	return nil
}

// Dial connects from within a place's network, as [net.Dialer.DialContext] does
// from the machine's. The address is one, not a name.
func (c *Cluster) Dial(ctx context.Context, where, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("connect from %s: %w", where, err)
	}
	pid, err := c.holder(c.place(where))
	if err != nil {
		return nil, err
	}
	type answer struct {
		conn net.Conn
		err  error
	}
	done := make(chan answer, 1)
	// A socket belongs to the namespace of the thread that made it, for ever:
	// an address, unlike a name, is connected to by the goroutine that asked.
	go func() {
		conn, err := inNetwork(pid, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, address) })
		done <- answer{conn, err}
	}()
	a := <-done
	return a.conn, a.err
}

// Inside calls a function on a thread in the network of a place: the sockets that
// it opens belong there.
func (c *Cluster) Inside(where string, do func() error) error {
	pid, err := c.holder(c.place(where))
	if err != nil {
		return err
	}
	return InsideProcess(pid, do)
}

// PodProcess gives a process of a pod of a node, by the pod's uid.
func (c *Cluster) PodProcess(node, uid string) (int, error) {
	pid := 0
	// Names of groups have the uid as it is, or with lines below.
	root := c.tools.cgroups.unified + c.CgroupRoot(node)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || pid != 0 || !d.IsDir() || !strings.Contains(strings.ReplaceAll(name, "_", "-"), uid) {
			return err
		}
		if pids := c.tools.cgroups.processes(strings.TrimPrefix(name, c.tools.cgroups.unified)); len(pids) > 0 {
			pid = pids[0]
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if pid == 0 {
		return 0, fmt.Errorf("pod %s has no process on %s", uid, node)
	}
	return pid, nil
}

// InsideProcess is Inside for the network of a process.
func InsideProcess(pid int, do func() error) error {
	done := make(chan error, 1)
	go func() {
		_, err := inNetwork(pid, func() (struct{}, error) { return struct{}{}, do() })
		done <- err
	}()
	return <-done
}

// dialer gives Dial of a place for a transport.
func (c *Cluster) dialer(where string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return c.Dial(ctx, where, network, address)
	}
}

// inNetwork calls a function with this goroutine's thread in the network
// namespace of a process.
func inNetwork[T any](pid int, do func() (T, error)) (T, error) {
	var none T
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return none, err
	}
	defer func() { _ = there.Close() }()
	// Never unlocked unless the thread is back: one that ends with its
	// goroutine takes the wrong namespace with it.
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return none, err
	}
	defer func() { _ = here.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return none, fmt.Errorf("enter the network of process %d: %w", pid, err)
	}
	result, err := do()
	if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return result, err
}
