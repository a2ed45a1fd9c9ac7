package netpol

import (
	"math/bits"

	"warren/cluster"
)

// A portKey is what the part of a Key about ports can be: all ports whose first
// bits are those of port.
type portKey struct {
	protocol uint8 // 0 is any
	port     uint16
	bits     uint8
}

// everyPort matches whatever the protocol and the port.
var everyPort = portKey{}

// portKeys returns the keys that match what the ports of a rule match, of those
// that are numbers. A range is cut where powers of two end: 80 to 90 is
// 80-87, 88-89, 90, and none needs more than 30 pieces.
func portKeys(ports []cluster.PolicyPort) []portKey {
	if len(ports) == 0 {
		return []portKey{everyPort}
	}
	var keys []portKey
	seen := make(map[portKey]bool)
	add := func(k portKey) {
		if !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	for _, p := range ports {
		protocol := numberOf(p.Protocol)
		switch {
		case p.Name != "":
		case p.Protocol == "":
			add(everyPort)
		case p.First == 0:
			add(portKey{protocol: protocol})
		default:
			for first, last := uint32(p.First), uint32(p.Last); first <= last; {
				// The largest piece that begins here and does not end too late.
				size := min(bits.TrailingZeros32(first), bits.Len32(last-first+1)-1)
				add(portKey{protocol, uint16(first), uint8(16 - size)})
				first += 1 << size
			}
		}
	}
	return keys
}

// A portName is a name of a port as a rule asks for it.
type portName struct {
	name     string
	protocol string // "" is any
}

// portNames returns the names of a rule's ports.
func portNames(ports []cluster.PolicyPort) []portName {
	var names []portName
	for _, p := range ports {
		if p.Name != "" {
			names = append(names, portName{p.Name, p.Protocol})
		}
	}
	return names
}

// resolve returns the keys that a name stands for at a pod with these ports.
func (n portName) resolve(ports []cluster.PodPort) []portKey {
	var keys []portKey
	for _, p := range ports {
		if p.Name == n.name && (n.protocol == "" || n.protocol == p.Protocol) && p.Port != 0 && numberOf(p.Protocol) != 0 {
			keys = append(keys, portKey{numberOf(p.Protocol), p.Port, 16})
		}
	}
	return keys
}
