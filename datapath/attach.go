package datapath

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/internal/netdump"
	"warren/reconcile"
)

// device is what a device is, which decides what is attached to it.
type device uint8

const (
	endpointDevice device = iota + 1
	uplinkDevice
	tunnelDevice
	otherDevice // any other of the node
	lastDevice  = otherDevice

	// bareDevice is said besides of those whose packets begin with the IP header.
	bareDevice device = 0x80
)

// String returns endpoint, uplink, tunnel or other.
func (d device) String() string {
	switch d &^ bareDevice {
	case endpointDevice:
		return "endpoint"
	case uplinkDevice:
		return "uplink"
	case tunnelDevice:
		return "tunnel"
	case otherDevice:
		return "other"
	}
	return fmt.Sprintf("device(%d)", uint8(d))
}

// programs are the names of what is attached to ingress and egress of a device:
// what it receives, and what it sends.
func (d device) programs() [2]string {
	switch {
	case d == endpointDevice:
		return [2]string{"endpoint_from", "endpoint_to"}
	case d&bareDevice != 0:
		return [2]string{"host_from_bare", "host_to_bare"}
	}
	return [2]string{"host_from", "host_to"}
}

// The ways to attach, best first.
const (
	rungTCX    = "tcx"
	rungClsact = "clsact"
)

// sides are the two places of a device.
var sides = [2]struct {
	name   string
	attach ebpf.AttachType
	parent uint32
}{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// attached is what the kernel keeps for us, in the map attachments, of a device
// that programs are attached to: an agent that comes later reads it.
type attached struct {
	Device device
	Rung   uint8 // 1 tcx, 2 clsact
	// Qdisc says that we made its clsact.
	Qdisc uint8
	Pad   uint8
}

const (
	byTCX    = 1
	byClsact = 2
)

// rung is its name.
func (a attached) rung() string {
	switch a.Rung {
	case byTCX:
		return rungTCX
	case byClsact:
		return rungClsact
	}
	return ""
}

// An attacher attaches programs to devices. It is the operations of a table of
// devices by their numbers.
type attacher struct {
	home     *home
	pins     *bpf.Pins
	instance string
	forced   string // rung, or ""
	there    *reconcile.Mirror[uint32, attached]

	mu       sync.Mutex
	programs map[string]*ebpf.Program
	refused  string // why not tcx, "" if it works or was not tried
}

var _ reconcile.Operations[uint32, device] = (*attacher)(nil)

// pinSet is the name of the set of a device's links.
func pinSet(index uint32) string { return devicePins + strconv.FormatUint(uint64(index), 10) }

const devicePins = "device-"

// Update attaches the programs of a device, or puts these in the place of
// others, in one step for each.
func (a *attacher) Update(_ context.Context, index uint32, d device) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.home.do(func() error { return a.attach(index, d) })
}

func (a *attacher) attach(index uint32, d device) error {
	have, ok := a.there.Get(index)
	if ok && have.Device != d && have.Device.programs() == d.programs() {
		have.Device = d // nothing is to be attached
		if _, err := a.there.Put(one(index, have)); err != nil {
			return err
		}
	}
	if ok && have.Device != d {
		if err := a.detach(index); err != nil {
			return err
		}
		ok = false
	}
	if ok && have.Rung == byClsact {
		return a.attachClsact(index, have)
	}
	if a.forced == rungClsact {
		if ok {
			if err := a.detach(index); err != nil {
				return err
			}
		}
		return a.attachClsact(index, attached{Device: d})
	}
	err := a.attachTCX(index, d)
	if err == nil {
		_, err = a.there.Put(one(index, attached{Device: d, Rung: byTCX}))
		return err
	}
	if a.forced == rungTCX || gone(err) || !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	a.refused = "this kernel has no TCX (Linux 6.6 has it)"
	return a.attachClsact(index, attached{Device: d})
}

// one is a row.
func one[K, V any](key K, value V) func(yield func(K, V) bool) {
	return func(yield func(K, V) bool) { yield(key, value) }
}

// attachTCX attaches by links, that are pinned together.
func (a *attacher) attachTCX(index uint32, d device) (err error) {
	var links [2]link.Link
	defer func() {
		for _, l := range links {
			if l != nil {
				l.Close() // what is pinned stays
			}
		}
	}()
	names, whole := d.programs(), true
	for i, side := range sides {
		l, err := a.pins.Link(pinSet(index), side.name)
		if errors.Is(err, fs.ErrNotExist) {
			whole = false
			continue
		}
		if err != nil {
			return fmt.Errorf("open link of %s: %w", side.name, err)
		}
		if linkedTo(l) != index {
			l.Close() // its device is gone, or somebody has detached it
			whole = false
			continue
		}
		links[i] = l
		if err := l.Update(a.programs[names[i]]); err != nil {
			return fmt.Errorf("replace %s: %w", names[i], err)
		}
	}
	if whole {
		return nil
	}
	for i, side := range sides {
		if links[i] != nil {
			continue
		}
		links[i], err = link.AttachTCX(link.TCXOptions{Interface: int(index),
			Program: a.programs[names[i]], Attach: side.attach, Anchor: link.Head()})
		if err != nil {
			return fmt.Errorf("attach %s: %w", names[i], err)
		}
	}
	return a.pins.Replace(pinSet(index), func(dir *bpf.PinDir) error {
		var errs []error
		for i, side := range sides {
			errs = append(errs, dir.Pin(side.name, links[i].(interface{ FD() int })))
		}
		return errors.Join(errs...)
	})
}

// linkedTo is the number of the device that a link is attached to, 0 if there is
// none any more.
func linkedTo(l link.Link) uint32 {
	info, err := l.Info()
	if err != nil || info.TCX() == nil {
		return 0
	}
	return info.TCX().Ifindex
}

// attachClsact attaches by filters of a queueing discipline that does nothing
// else.
func (a *attacher) attachClsact(index uint32, have attached) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	switch err := netlink.QdiscAdd(qdisc); {
	case err == nil:
		have.Qdisc = 1
	case errors.Is(err, unix.EEXIST):
	case errors.Is(err, unix.ENOENT):
		return &bpf.UnavailableError{Feature: rungClsact, Reason: "this kernel has no queueing discipline clsact", Err: err}
	default:
		return fmt.Errorf("make clsact: %w", err)
	}
	// Noted before it is done: what is noted is removed some day.
	have.Rung = byClsact
	if _, err := a.there.Put(one(index, have)); err != nil {
		return err
	}
	names := have.Device.programs()
	for i, side := range sides {
		f := a.filter(index, side.parent)
		f.Fd, f.Name, f.DirectAction = a.programs[names[i]].FD(), a.filterName(names[i]), true
		if err := netlink.FilterReplace(f); err != nil {
			return fmt.Errorf("attach %s: %w", names[i], err)
		}
	}
	return nil
}

// filter is ours at one parent of a device. Instances differ by their handle.
func (a *attacher) filter(index, parent uint32) *netlink.BpfFilter {
	h := fnv.New32a()
	_, _ = h.Write([]byte(a.instance)) // never fails
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: int(index), Parent: parent, Priority: 1, Protocol: unix.ETH_P_ALL, Handle: h.Sum32()>>4 | 1}}
}

func (a *attacher) filterName(program string) string { return a.instance + ":" + program }

// Delete detaches what is attached to a device. If the device is gone, what was
// kept of it goes.
func (a *attacher) Delete(_ context.Context, index uint32) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.home.do(func() error { return a.detach(index) })
}

func (a *attacher) detach(index uint32) error {
	have, ok := a.there.Get(index)
	if !ok {
		return nil
	}
	// Without its pin a link goes too, but some time later.
	for _, side := range sides {
		if l, err := a.pins.Link(pinSet(index), side.name); err == nil {
			_ = l.Detach() // its device may be gone
			l.Close()
		}
	}
	if err := a.pins.Remove(pinSet(index)); err != nil {
		return err
	}
	if have.Rung == byClsact {
		if err := a.detachClsact(index, have); err != nil && !gone(err) {
			return fmt.Errorf("detach from interface %d: %w", index, err)
		}
	}
	_, err := a.there.Delete(func(yield func(uint32) bool) { yield(index) })
	return err
}

func (a *attacher) detachClsact(index uint32, have attached) error {
	dev, err := netlink.LinkByIndex(int(index))
	if err != nil {
		return err
	}
	others := 0
	for _, side := range sides {
		filters, err := netdump.Filters(dev, side.parent)
		if err != nil {
			return err
		}
		for _, f := range filters {
			b, ok := f.(*netlink.BpfFilter)
			if !ok || !strings.HasPrefix(b.Name, a.filterName("")) {
				others++
				continue
			}
			if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	if have.Qdisc == 0 || others > 0 {
		return nil
	}
	err = netlink.QdiscDel(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil // somebody was faster
	}
	return err
}

// gone says that an error means that a device is.
func gone(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.Is(err, unix.ENODEV) || errors.As(err, &none)
}

// Prune detaches from every device that nobody wants to be attached to.
func (a *attacher) Prune(_ context.Context, wanted map[uint32]device) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.home.do(func() error {
		var errs []error
		for _, index := range a.known() {
			if _, ok := wanted[index]; !ok {
				errs = append(errs, a.detach(index))
			}
		}
		return errors.Join(errs...)
	})
}

// known are the devices that something is attached to.
func (a *attacher) known() (all []uint32) {
	for index := range a.there.All() {
		all = append(all, index)
	}
	return all
}

// whole says whether a device still has the programs that were attached to it:
// a person or a program with the rights may have taken them away.
func (a *attacher) whole(index uint32, d device) (whole bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.there.Get(index)
	if !ok || have.Device != d {
		return false, nil
	}
	err = a.home.do(func() error {
		if have.Rung == byTCX {
			whole = a.wholeTCX(index)
			return nil
		}
		whole, err = a.wholeClsact(index, d)
		return err
	})
	return whole, err
}

func (a *attacher) wholeTCX(index uint32) bool {
	for _, side := range sides {
		l, err := a.pins.Link(pinSet(index), side.name)
		if err != nil {
			return false
		}
		to := linkedTo(l)
		l.Close()
		if to != index {
			return false
		}
	}
	return true
}

func (a *attacher) wholeClsact(index uint32, d device) (bool, error) {
	dev, err := netlink.LinkByIndex(int(index))
	if err != nil {
		return false, err
	}
	for i, side := range sides {
		filters, err := netdump.Filters(dev, side.parent)
		if err != nil {
			return false, err
		}
		found := false
		for _, f := range filters {
			b, ok := f.(*netlink.BpfFilter)
			found = found || ok && b.Name == a.filterName(d.programs()[i])
		}
		if !found {
			return false, nil
		}
	}
	return true, nil
}

// rung is how a device's programs are attached, "" if they are not.
func (a *attacher) rung(index uint32) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, _ := a.there.Get(index)
	return have.rung()
}

// replace puts programs in the place of those that are attached everywhere.
func (a *attacher) replace(programs map[string]*ebpf.Program) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.programs = programs
	return a.home.do(func() error {
		var errs []error
		for _, index := range a.known() {
			have, _ := a.there.Get(index)
			err := a.attach(index, have.Device)
			if gone(err) {
				err = a.detach(index)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("interface %d: %w", index, err))
			}
		}
		return errors.Join(errs...)
	})
}
