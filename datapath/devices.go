package datapath

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"

	"warren/internal/netdump"
	"warren/reconcile"
)

// Programs are on every device of the node that is no pod's: what comes in there has
// neither a pod's address nor the node's own, and a pod's packet that the node's
// stack has sent to a service's backend may leave by any of them. Those of loopback
// leave for nobody, and those of a port of a bridge or a bond are seen where these
// are.

// bareHeaders are the kinds of devices whose packets begin with the IP header.
var bareHeaders = map[string]bool{
	"none": true, "ipip": true, "tunnel6": true, "sit": true, "gre": true, "ppp": true, "rawip": true,
	"unknown519": true, // ARPHRD_RAWIP
	"unknown823": true, // ARPHRD_IP6GRE
}

// kindOf says how packets of a device that has a part begin, or why they cannot be
// read.
func kindOf(link netlink.Link, part device) (device, error) {
	a := link.Attrs()
	switch {
	case a.EncapType == "ether":
		return part, nil
	case bareHeaders[a.EncapType]:
		return part | bareDevice, nil
	}
	return 0, fmt.Errorf("packets of %s, a device of kind %q, cannot be read: they begin neither with an Ethernet header nor with that of IP", a.Name, a.EncapType)
}

// partDevice says what a device with a part is. It has to be there.
func (d *Datapath) partDevice(index uint32, part HostPart) (kind device, err error) {
	err = d.home.do(func() error {
		link, err := netlink.LinkByIndex(int(index))
		if err != nil {
			return err
		}
		kind, err = kindOf(link, part.device())
		return err
	})
	return kind, err
}

// isOther says whether a device is one of the node's others; find finds a device.
func (d *Datapath) isOther(link netlink.Link, find func(index int) netlink.Link) bool {
	a := link.Attrs()
	if a.Flags&net.FlagLoopback != 0 || d.cfg.PodDevices != "" && strings.HasPrefix(a.Name, d.cfg.PodDevices) {
		return false
	}
	if a.MasterIndex == 0 {
		return true
	}
	// Packets of a VRF's devices are seen at these.
	master := find(a.MasterIndex)
	return master != nil && master.Type() == "vrf"
}

// lookAround lists the devices of the node that are no pods', as far as that is known
// here: those of endpoints are among them. mu is held.
func (d *Datapath) lookAround() error {
	var links []netlink.Link
	err := d.home.do(func() (err error) {
		links, err = netdump.Whole(netlink.LinkList)
		return err
	})
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	others := make(map[uint32]device)
	for index, l := range byIndex {
		if !d.isOther(l, func(index int) netlink.Link { return byIndex[index] }) {
			continue
		}
		kind, err := kindOf(l, otherDevice)
		if err != nil {
			if !d.unread[l.Attrs().Name] {
				d.unread[l.Attrs().Name] = true
				d.log.Warn("a device of the node is not watched: policy does not see what pods send by it to services", "err", err)
			}
			continue
		}
		others[uint32(index)] = kind
	}
	d.others = others
	return nil
}

// wantDevices are the devices that programs belong on. mu is held.
func (d *Datapath) wantDevices(endpoints map[uint32]stateEndpoint) map[uint32]device {
	want := make(map[uint32]device, len(endpoints)+len(d.others)+len(d.parts))
	for index, kind := range d.others {
		want[index] = kind
	}
	for index := range endpoints {
		want[index] = endpointDevice
	}
	for part, index := range d.parts {
		if index != 0 {
			want[index] = d.kinds[part]
		}
	}
	return want
}

// deviceThere attaches to a device that is new, or has become something else.
func (d *Datapath) deviceThere(ctx context.Context, link netlink.Link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	index := uint32(link.Attrs().Index)
	if d.closed || d.others == nil {
		return // the first Apply looks around
	}
	kind := device(0)
	other := d.isOther(link, func(index int) (found netlink.Link) {
		_ = d.home.do(func() (err error) {
			found, err = netlink.LinkByIndex(index)
			return err
		})
		return found
	})
	if other {
		var err error
		if kind, err = kindOf(link, otherDevice); err != nil {
			d.log.Warn("a device of the node is not watched: policy does not see what pods send by it to services", "err", err)
		}
	}
	if d.others[index] == kind {
		return
	}
	if kind == 0 {
		delete(d.others, index)
	} else {
		d.others[index] = kind
	}
	d.setOther(index)
	d.devices.Reconcile(ctx)
}

// setOther has a device that is neither an endpoint's nor has a part be attached to,
// or not. mu is held.
func (d *Datapath) setOther(index uint32) {
	if d.parts[Uplink] == index || d.parts[Tunnel] == index {
		return
	}
	if have, ok := d.devices.Wanted()[index]; ok && have == endpointDevice {
		return
	}
	if kind, ok := d.others[index]; ok {
		d.devices.Want(index, kind)
	} else if st, ok := d.devices.Status(index); ok && st.State != reconcile.Deleting {
		d.devices.Unwant(index)
	}
}

// checkOthers looks around again: what was told of devices may have been lost. mu is
// not held.
func (d *Datapath) checkOthers(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.last == nil || d.others == nil {
		return
	}
	before := d.others
	if err := d.lookAround(); err != nil {
		d.log.Warn("nobody knows which devices the node has", "err", err)
		return
	}
	for index, kind := range d.others {
		if before[index] != kind {
			d.setOther(index)
		}
	}
	for index := range before {
		if _, ok := d.others[index]; !ok {
			d.setOther(index)
		}
	}
	d.devices.Reconcile(ctx)
}
