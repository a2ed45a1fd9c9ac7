package datapath

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// farAddrs are the addresses that the device at the other end of a pair has, at
// most one of each family, the first: those that it may be reached by from
// elsewhere.
func farAddrs(link netlink.Link) ([]netip.Addr, error) {
	attrs := link.Attrs()
	if attrs.NetNsID < 0 || attrs.ParentIndex == 0 {
		return nil, nil
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer socket.Close()
	// Or a namespace that is asked about is not looked at.
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	request.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFA_TARGET_NETNSID, nl.Uint32Attr(uint32(attrs.NetNsID))))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("list addresses behind %s: %w", attrs.Name, err)
	}
	var found []netip.Addr
	var have [2]bool
	for _, m := range messages {
		if len(m) < unix.SizeofIfAddrmsg {
			continue
		}
		msg := nl.DeserializeIfAddrmsg(m)
		if int(msg.Index) != attrs.ParentIndex || msg.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		list, err := nl.ParseRouteAttr(m[msg.Len():])
		if err != nil {
			continue
		}
		for _, a := range list {
			addr, ok := netip.AddrFromSlice(a.Value)
			six := 0
			if addr.Is6() {
				six = 1
			}
			// An address is its own peer, but for those of IPv4 that have another.
			if a.Attr.Type != unix.IFA_LOCAL && (a.Attr.Type != unix.IFA_ADDRESS || six == 0) || !ok || have[six] {
				continue
			}
			have[six] = true
			found = append(found, addr)
		}
	}
	return found, nil
}

// WatchDevices sends a signal for devices that are added or change, one or more
// for each, until ctx ends; then, or when too much happens at once, the channel
// is closed. It is about the network namespace of the calling thread.
func WatchDevices(ctx context.Context) (<-chan struct{}, error) {
	updates := make(chan netlink.LinkUpdate, 64)
	options := netlink.LinkSubscribeOptions{ReceiveBufferSize: 1 << 20}
	if err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), options); err != nil {
		return nil, fmt.Errorf("watch devices: %w", err)
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		for u := range updates {
			if u.Header.Type != unix.RTM_NEWLINK {
				continue
			}
			select {
			case changed <- struct{}{}:
			default: // one signal waits already
			}
		}
	}()
	return changed, nil
}
