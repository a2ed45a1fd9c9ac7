package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/api"
	"warren/internal/netdump"
)

// Program is the plugin's name: what configurations call its type, and its file.
const Program = "warren-cni"

// Called reports whether a command line is the plugin's: by the name of the
// program, or by its first argument.
func Called(args []string) bool {
	if len(args) == 0 {
		return false
	}
	name := filepath.Base(args[0])
	return name == Program || strings.HasPrefix(name, Program+"-") || len(args) > 1 && args[1] == "cni"
}

// Main answers the one call that the environment and standard input make, and
// returns the code to exit with.
func Main(ourVersion string) int {
	funcs := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
	err := skel.PluginMainFuncsWithError(funcs, versions(), "CNI plugin "+Program+" "+ourVersion)
	if err == nil {
		return 0
	}
	if printed := err.Print(); printed != nil {
		fmt.Fprintln(os.Stderr, err.Error()+":", printed)
	}
	return 1
}

// versions are those of the specification that the plugin speaks.
func versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// How long the agent may take: to answer when a pod's policy is in force, a
// little more than it gives itself, or to answer at all.
const (
	addTime = 25 * time.Second
	askTime = 5 * time.Second
)

// tryLater says that a call may succeed later though nobody changes it.
func tryLater(format string, args ...any) *types.Error {
	return types.NewError(types.ErrTryAgainLater, fmt.Sprintf(format, args...), "")
}

// agentError says what an agent's refusal means to the runtime.
func agentError(what string, err error) error {
	var away *api.NoAgentError
	var said *api.Error
	switch {
	case errors.As(err, &away):
		return types.NewError(types.ErrTryAgainLater, what+": Warren's agent is away", err.Error())
	case errors.As(err, &said) && said.Status < 500:
		return types.NewError(types.ErrInternal, what+": Warren's agent refuses", err.Error())
	case errors.As(err, &said) && said.Status != 503:
		return types.NewError(types.ErrInternal, what+": Warren's agent has failed", err.Error())
	}
	// Not yet, no answer in time, or it ended meanwhile.
	return types.NewError(types.ErrTryAgainLater, what+": Warren's agent is not ready", err.Error())
}

// netnsTypes gives errors of namespaces their codes.
func netnsTypes(err error) error {
	var ns *netnsError
	if !errors.As(err, &ns) {
		return err
	}
	if ns.gone {
		return types.NewError(types.ErrUnknownContainer, "the container's network namespace is not there", err.Error())
	}
	return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is no network namespace of a container", err.Error())
}

// add makes a container's interface, and has its pod's policy in force before
// anything can pass.
func add(args *skel.CmdArgs) (err error) {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	who, err := parseArgs(args.Args)
	if err != nil {
		return err
	}
	if c.prev != nil {
		return wrongConfig("%s makes the interface: no plugin can come before it in the list", Program)
	}
	w, err := openWire(c.Name, attachmentOf(args), args.Netns)
	if err != nil {
		return netnsTypes(err)
	}
	defer w.close()
	node, err := ReadNode(c.StateDir)
	if errors.Is(err, os.ErrNotExist) {
		return tryLater("Warren's agent has not said yet which addresses this node's pods have: there is no %s", filepath.Join(c.StateDir, nodeFile))
	}
	if err != nil {
		return err
	}
	if c.MTU > 0 {
		node.MTU = c.MTU
		if err := node.Check(); err != nil {
			return wrongConfig("%v", err)
		}
	}
	s, err := openState(c.StateDir)
	if err != nil {
		return err
	}
	l, err := s.lockAttachment(w.a)
	if err != nil {
		return err
	}
	defer l.Close()

	whole, err := w.find()
	if err != nil {
		return err
	}
	if w.peer != nil && !w.isOurs(w.peer) {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_IFNAME is taken",
			fmt.Sprintf("the container has an interface %s already, and %s did not make it", args.IfName, Program))
	}
	elsewhere, err := w.routed()
	if err != nil {
		return err
	}
	r := record{
		Attachment: w.a, Netns: args.Netns, PodUID: who.uid, PodNamespace: who.namespace, PodName: who.name,
		Host: hostName(c.Name, w.a), Ports: c.RuntimeConfig.PortMappings,
	}
	kept, again, err := s.reserve(r, node, elsewhere)
	if isFull(err) && s.reclaim(w.host, c.Name) {
		kept, again, err = s.reserve(r, node, elsewhere)
	}
	if isFull(err) {
		return tryLater("no address for the pod: %v", err)
	}
	if err != nil {
		return err
	}
	// What has other addresses than the record is of an attachment that was lost.
	whole = whole && again
	agent := api.NewClient(c.socketOf(node))
	defer func() {
		if err != nil {
			err = withUndo(err, undo(s, w, c, agent, kept))
		}
	}()
	w.addrs, w.mtu = kept.Addrs, node.MTU
	if !whole {
		// What is left of an earlier call is of no use: it may be another
		// namespace's.
		if err := w.remove(); err != nil {
			return err
		}
		if err := w.make(); err != nil {
			return err
		}
	}
	if err := w.setPod(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), addTime)
	defer cancel()
	if err := agent.AddEndpoint(ctx, w.endpoint(kept)); err != nil {
		return agentError("add pod "+podName(kept), err)
	}
	if err := w.setHost(len(kept.Ports) > 0); err != nil {
		return err
	}
	if err := mapPorts(s, c.Name, kept); err != nil {
		return err
	}
	return types.PrintResult(w.result(args.Netns), c.CNIVersion)
}

// withUndo is an error, and what could not be undone beside it.
func withUndo(err, left error) error {
	if left == nil {
		return err
	}
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	details := "what was made could not be removed, DEL and GC will: " + left.Error()
	if e.Details != "" {
		details = e.Details + "; " + details
	}
	return types.NewError(e.Code, e.Msg, details)
}

// undo takes back a call of ADD that failed, the record last.
func undo(s *state, w *wire, c *config, agent *api.Client, r *record) error {
	if _, err := w.find(); err != nil {
		return err
	}
	if err := errors.Join(w.remove(), unmapPorts(s, c.Name, key(r.Attachment), r)); err != nil {
		return err
	}
	forget(agent, r.Attachment)
	return s.release(r.Attachment)
}

// forget tells the agent that an attachment is gone. One that is away sees for
// itself that the interface is.
func forget(agent *api.Client, a api.Attachment) {
	if agent == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	var away *api.NoAgentError
	if err := agent.DeleteEndpoint(ctx, a); err != nil && !errors.As(err, &away) {
		fmt.Fprintf(os.Stderr, "%s: the agent was told that %s is gone: %v\n", Program, a, err)
	}
}

func podName(r *record) string {
	if r.PodName == "" {
		return r.ContainerID
	}
	return r.PodNamespace + "/" + r.PodName
}

// endpoint is what the agent is told of an attachment.
func (w *wire) endpoint(r *record) api.Endpoint {
	pod, host := hardware(w.network, w.a)
	return api.Endpoint{
		Attachment: w.a, Netns: r.Netns, PodUID: r.PodUID, PodNamespace: r.PodNamespace, PodName: r.PodName,
		HostInterface: w.link.Attrs().Name, HostIndex: w.link.Attrs().Index, Addrs: r.Addrs, MAC: pod, HostMAC: host,
	}
}

// result is what the runtime is told.
func (w *wire) result(netns string) *current.Result {
	pod, host := hardware(w.network, w.a)
	r := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: w.link.Attrs().Name, Mac: host.String(), Mtu: w.mtu},
			{Name: w.a.Interface, Mac: pod.String(), Mtu: w.mtu, Sandbox: netns},
		},
	}
	for _, a := range w.addrs {
		gateway := net.IP(gateways[a.Is6()].AsSlice())
		r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(1), Address: *ipNet(a), Gateway: gateway})
		for _, route := range podRoutes(0, a) {
			r.Routes = append(r.Routes, &types.Route{Dst: *route.Dst, GW: route.Gw})
		}
	}
	return r
}

// del takes away what add has made, as much of it as there is, the record last.
// It needs neither the namespace nor the agent.
func del(args *skel.CmdArgs) error {
	c, err := parsePlace(args.StdinData)
	if err != nil {
		return err
	}
	a := attachmentOf(args)
	s, err := openState(c.StateDir)
	if err != nil {
		return err
	}
	l, err := s.lockAttachment(a)
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := s.load(a)
	if err != nil {
		// It is one that nobody can read: what the names say is removed, and then
		// it.
		fmt.Fprintf(os.Stderr, "%s: %v\n", Program, err)
		r = nil
	}
	node, err := ReadNode(c.StateDir)
	if err != nil {
		node = Node{} // the socket has a default
	}
	h, err := netdump.Handle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if err := detach(s, h, c.Name, a, r); err != nil {
		return err
	}
	removeOrphan(c.Name, a, args.Netns)
	forget(api.NewClient(c.socketOf(node)), a)
	return s.release(a)
}

// detach removes an attachment's interface, and its ports of the node. r is its
// record, nil if there is none that can be read.
func detach(s *state, h *netlink.Handle, network string, a api.Attachment, r *record) error {
	// The interface goes first: with it the pod, what the datapath has attached
	// to it, routes and neighbours.
	return errors.Join(removeLink(h, hostName(network, a)), unmapPorts(s, network, key(a), r))
}

// removeOrphan removes the container's end if somebody has taken the host's end
// another name.
func removeOrphan(network string, a api.Attachment, path string) {
	if path == "" {
		return
	}
	w, err := openWire(network, a, path)
	if err != nil {
		return // it is gone, and the interface with it
	}
	defer w.close()
	if _, err := w.find(); err == nil && w.peer != nil && w.isOurs(w.peer) {
		if err := w.pod.LinkDel(w.peer); err != nil {
			fmt.Fprintf(os.Stderr, "%s: remove interface %s in the container: %v\n", Program, a.Interface, err)
		}
	}
}

// gc removes what belongs to no attachment that the runtime still has.
func gc(args *skel.CmdArgs) error {
	c, err := parsePlace(args.StdinData)
	if err != nil {
		return err
	}
	valid, err := c.valid()
	if err != nil {
		return err
	}
	s, err := openState(c.StateDir)
	if err != nil {
		return err
	}
	node, err := ReadNode(c.StateDir)
	if err != nil {
		node = Node{} // the socket has a default
	}
	return collect(s, c.Name, api.NewClient(c.socketOf(node)), valid)
}

// collect removes everything of a network but valid attachments. It goes on
// after errors, and returns them.
func collect(s *state, network string, agent *api.Client, valid map[api.Attachment]bool) error {
	h, err := netdump.Handle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	list, broken, err := s.records()
	errs := []error{err}
	for _, r := range list {
		if valid[r.Attachment] {
			continue
		}
		errs = append(errs, func() error {
			l, err := s.lockAttachment(r.Attachment)
			if err != nil {
				return err
			}
			defer l.Close()
			if err := detach(s, h, network, r.Attachment, r); err != nil {
				return err
			}
			forget(agent, r.Attachment)
			return s.release(r.Attachment)
		}())
	}
	kept := map[string]bool{}
	for a := range valid {
		kept[key(a)] = true
	}
	for path := range broken {
		if !kept[strings.TrimSuffix(filepath.Base(path), recordSuffix)] {
			errs = append(errs, os.Remove(path))
		}
	}
	errs = append(errs, collectLinks(h, network, valid), collectPorts(s, network, kept), s.sweep())
	return errors.Join(errs...)
}

// collectLinks removes pairs of the network's that no valid attachment has: what
// is left where records were lost.
func collectLinks(h *netlink.Handle, network string, valid map[api.Attachment]bool) error {
	keep := map[string]bool{}
	for a := range valid {
		keep[hostName(network, a)] = true
	}
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		n := l.Attrs().Name
		if strings.HasPrefix(n, hostPrefix) && !keep[n] && strings.HasPrefix(l.Attrs().Alias, "warren "+network+" ") {
			errs = append(errs, removeLink(h, n))
		}
	}
	return errors.Join(errs...)
}

// status says whether a pod could be added now.
func status(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	unavailable := func(msg string, err error) error {
		return types.NewError(types.ErrPluginNotAvailable, msg, err.Error())
	}
	node, err := ReadNode(c.StateDir)
	if err != nil {
		return unavailable("Warren's agent has not said yet which addresses this node's pods have", err)
	}
	s, err := openState(c.StateDir)
	if err != nil {
		return unavailable("Warren's state directory cannot be used", err)
	}
	if err := s.free(node, c.Name); err != nil {
		return unavailable("no pod can have an address", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	_, err = api.NewClient(c.socketOf(node)).ListEndpoints(ctx)
	if err == nil {
		return s.back()
	}
	var said *api.Error
	if errors.As(err, &said) && said.Status == 503 && node.Boot == bootID() {
		return s.patient(c, types.NewError(types.ErrPluginNotAvailable, "Warren's agent is not ready", err.Error()))
	}
	if errors.As(err, &said) {
		// It runs, and what pods may do and reach is not what it should be.
		return types.NewError(types.ErrLimitedConnectivity, "Warren's agent does not connect pods", err.Error())
	}
	if node.Boot != bootID() {
		return unavailable("Warren's agent has not come up since the node did", err)
	}
	return s.patient(c, types.NewError(types.ErrPluginNotAvailable, "Warren's agent is away", err.Error()))
}

// patient keeps what it is told to itself while the agent is away for less long
// than the configuration allows.
func (s *state) patient(c *config, e *types.Error) error {
	if c.grace() == 0 {
		return e
	}
	since, err := s.away()
	if err != nil {
		return types.NewError(e.Code, e.Msg, e.Details+"; "+err.Error())
	}
	if time.Since(since) < c.grace() {
		return nil
	}
	return e
}

// check says what of an attachment is not as add has left it.
func check(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if c.prev == nil {
		return wrongConfig("CHECK without the result of ADD (prevResult)")
	}
	w, err := openWire(c.Name, attachmentOf(args), args.Netns)
	if err != nil {
		return netnsTypes(err)
	}
	defer w.close()
	s, err := openState(c.StateDir)
	if err != nil {
		return err
	}
	l, err := s.lockAttachment(w.a)
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := s.load(w.a)
	if err != nil {
		return err
	}
	if r == nil {
		return types.NewError(types.ErrUnknownContainer, "the container was not added", "there is no record of "+w.a.String())
	}
	w.addrs = r.Addrs
	if whole, err := w.find(); err != nil || !whole {
		return errors.Join(fmt.Errorf("interfaces %s and, in the container, %s are not each other's ends any more", r.Host, args.IfName), err)
	}
	if err := errors.Join(w.checkResult(c.prev), w.checkPod(c.prev), w.checkHost(), checkPorts(c.Name, r)); err != nil {
		return err
	}
	node, err := ReadNode(c.StateDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	e, err := api.NewClient(c.socketOf(node)).CheckEndpoint(ctx, w.a)
	if err != nil {
		return agentError("check pod "+podName(r), err)
	}
	if e.HostIndex != w.link.Attrs().Index || !slices.Equal(e.Addrs, r.Addrs) {
		return fmt.Errorf("the datapath has %s with %v, and it is %s with %v", e.HostInterface, e.Addrs, r.Host, r.Addrs)
	}
	return nil
}
