package datapath

import "fmt"

// Mode is how packets get to pods of other nodes.
type Mode uint8

// The modes. Chained connects nothing: another CNI plugin does, and packets are
// judged and counted only. With Off there is no datapath.
const (
	Off Mode = iota
	Routed
	VXLAN
	Chained
)

// String returns off, routed, vxlan or chained.
func (m Mode) String() string {
	switch m {
	case Off:
		return "off"
	case Routed:
		return "routed"
	case VXLAN:
		return "vxlan"
	case Chained:
		return "chained"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode reads what String writes; "" is off.
func ParseMode(s string) (Mode, error) {
	for m := Off; m <= Chained; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	if s == "" {
		return Off, nil
	}
	return Off, fmt.Errorf("network mode %q: want off, routed, vxlan or chained", s)
}
