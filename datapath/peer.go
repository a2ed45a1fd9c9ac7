package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"warren/internal/netdump"
)

// A Sighting is what is known of a pod whose device another plugin has made.
type Sighting struct {
	PIDs  []int // some of its processes
	Addrs []netip.Addr
}

// A HostEnd is the host's end of a pod's pair of devices.
type HostEnd struct {
	Ifindex int
	Name    string
	// Addrs are the pod's own, as its device has them: of pods alone for which none
	// was given, and nil where they cannot be read.
	Addrs []netip.Addr
}

// HostEnds finds the host's ends of pods' pairs, by the key that they are given
// with: by the network namespace of a pod's processes, or else by where the host
// sends what is for its address. Pods without a pair of their own, of ipvlan or
// macvlan, are not found. What fails for one pod fails for no other. It looks in the network namespace of the calling
// thread.
func HostEnds[K comparable](pods map[K]Sighting) (map[K]HostEnd, error) {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	byIndex := make(map[int]netlink.Link)
	behind := make(map[int][]netlink.Link) // by the number of the namespace at the other end
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		a := l.Attrs()
		byIndex[a.Index] = l
		if a.NetNsID >= 0 {
			behind[a.NetNsID] = append(behind[a.NetNsID], l)
		}
	}
	found := make(map[K]HostEnd)
	for key, pod := range pods {
		if l := pod.hostEnd(behind, byIndex); l != nil {
			end := HostEnd{Ifindex: l.Attrs().Index, Name: l.Attrs().Name}
			if len(pod.Addrs) == 0 {
				var unread error
				if end.Addrs, unread = farAddrs(l); unread != nil {
					err = errors.Join(err, unread)
				}
			}
			found[key] = end
		}
	}
	return found, err
}

func (s *Sighting) hostEnd(behind map[int][]netlink.Link, byIndex map[int]netlink.Link) netlink.Link {
	routed := func() netlink.Link {
		for _, a := range s.Addrs {
			// A route for this address alone; others lead to somebody else's device.
			routes, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
			if err != nil || len(routes) == 0 || routes[0].Dst == nil {
				continue
			}
			if ones, bits := routes[0].Dst.Mask.Size(); ones == bits && byIndex[routes[0].LinkIndex] != nil {
				return byIndex[routes[0].LinkIndex]
			}
		}
		return nil
	}
	for _, pid := range s.PIDs {
		// A process that has ended, and one in a namespace of its own within the
		// pod, tell nothing.
		id, err := netlink.GetNetNsIdByPid(pid)
		if err != nil || id < 0 {
			continue
		}
		switch ends := behind[id]; len(ends) {
		case 0:
		case 1:
			return ends[0]
		default:
			// A pod with several: the one that its address is behind.
			if l := routed(); l != nil && l.Attrs().NetNsID == id {
				return l
			}
			if len(s.Addrs) == 0 {
				return nil // its address will tell
			}
			return ends[0]
		}
	}
	return routed()
}
