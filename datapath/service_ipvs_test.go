package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What include/uapi/linux/ip_vs.h says to IPVS.
const (
	ipvsNewService     = 1
	ipvsNewBackend     = 5
	ipvsFlush          = 17
	ipvsService        = 1
	ipvsBackend        = 2
	ipvsServiceFamily  = 1
	ipvsServiceProto   = 2
	ipvsServiceAddr    = 3
	ipvsServicePort    = 4
	ipvsServiceSched   = 6
	ipvsServiceFlags   = 7
	ipvsServiceTimeout = 8
	ipvsServiceNetmask = 9
	ipvsBackendAddr    = 1
	ipvsBackendPort    = 2
	ipvsBackendMethod  = 3 // 0 is translation
	ipvsBackendWeight  = 4
	ipvsBackendUpper   = 5
	ipvsBackendLower   = 6
	ipvsBackendFamily  = 11
)

// needIPVS skips where the kernel has none.
func needIPVS(t *testing.T) {
	t.Helper()
	needBPF(t)
	switch _, err := netlink.GenlFamilyGet("IPVS"); {
	case errors.Is(err, unix.ENOENT):
		t.Skip("this kernel has no IPVS")
	case err != nil:
		t.Fatal(err)
	}
}

// tellIPVS sends a command with nested attributes.
func tellIPVS(command uint8, attributes ...*nl.RtAttr) error {
	family, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: 1})
	for _, a := range attributes {
		req.AddData(a)
	}
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// byIPVS translates as kube-proxy does in its mode ipvs: services' addresses are on
// a device of the node, and who asks is hidden by rules.
func byIPVS(n *rigNode, service, backend netip.AddrPort, masquerade bool) error {
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	addr := func(a netip.Addr) []byte { return append(a.AsSlice(), make([]byte, 16-a.BitLen()/8)...) }
	family, mask := uint16(unix.AF_INET), u32(0xffffffff)
	if service.Addr().Is6() {
		family, mask = unix.AF_INET6, u32(128)
	}
	one := func() *nl.RtAttr {
		s := nl.NewRtAttr(ipvsService|unix.NLA_F_NESTED, nil)
		s.AddRtAttr(ipvsServiceFamily, binary.NativeEndian.AppendUint16(nil, family))
		s.AddRtAttr(ipvsServiceProto, binary.NativeEndian.AppendUint16(nil, unix.IPPROTO_TCP))
		s.AddRtAttr(ipvsServiceAddr, addr(service.Addr()))
		s.AddRtAttr(ipvsServicePort, port(service.Port()))
		return s
	}
	made := one()
	made.AddRtAttr(ipvsServiceSched, nl.ZeroTerminated("rr"))
	made.AddRtAttr(ipvsServiceFlags, append(u32(0), u32(0)...))
	made.AddRtAttr(ipvsServiceTimeout, u32(0))
	made.AddRtAttr(ipvsServiceNetmask, mask)
	to := nl.NewRtAttr(ipvsBackend|unix.NLA_F_NESTED, nil)
	to.AddRtAttr(ipvsBackendAddr, addr(backend.Addr()))
	to.AddRtAttr(ipvsBackendPort, port(backend.Port()))
	to.AddRtAttr(ipvsBackendMethod, u32(0))
	to.AddRtAttr(ipvsBackendWeight, u32(1))
	to.AddRtAttr(ipvsBackendUpper, u32(0))
	to.AddRtAttr(ipvsBackendLower, u32(0))
	to.AddRtAttr(ipvsBackendFamily, binary.NativeEndian.AppendUint16(nil, family))
	err := n.ns.Do(func() error {
		return errors.Join(tellIPVS(ipvsFlush), tellIPVS(ipvsNewService, made), tellIPVS(ipvsNewBackend, one(), to))
	})
	return errors.Join(err, n.rules(backend.Addr(), masquerade, func(*nftables.Conn, *nftables.Table) {}))
}

// TestRootServicesIPVS holds for IPVS what TestRootServices does for rules.
func TestRootServicesIPVS(t *testing.T) {
	needIPVS(t)
	r := newRig(t, smallConfig(newBPFFS(t)), 2, 2)
	n := r.nodes[0]
	r.in(n.ns, func() error {
		dev := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "kube-ipvs0"}}
		if err := netlink.LinkAdd(dev); err != nil {
			return err
		}
		var errs []error
		for _, a := range serviceAddrs() {
			errs = append(errs, netlink.AddrAdd(dev, rigAddr(netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))))
		}
		errs = append(errs, netlink.LinkSetUp(dev),
			os.WriteFile("/proc/sys/net/ipv4/vs/conntrack", []byte("1"), 0))
		return errors.Join(errs...)
	})
	testServices(r, byIPVS)
}
