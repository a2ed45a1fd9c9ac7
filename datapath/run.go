package datapath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/reconcile"
)

// checkEvery is how often it is looked whether programs are still attached:
// nobody tells when somebody detaches them.
const checkEvery = 10 * time.Second

// Run keeps programs attached: it sees devices go, attaches again what somebody
// has detached, and tries again what has failed. It ends with ctx.
func (d *Datapath) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- d.devices.Run(ctx) }()

	updates := make(chan netlink.LinkUpdate, 64)
	if err := d.subscribe(ctx, updates); err != nil {
		cancel()
		return errors.Join(err, <-failed)
	}
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return <-failed
		case u, ok := <-updates:
			if !ok {
				// The kernel had more to say than there was room for.
				updates = make(chan netlink.LinkUpdate, 64)
				if err := d.subscribe(ctx, updates); err != nil {
					cancel()
					return errors.Join(err, <-failed)
				}
				d.check(ctx)
				continue
			}
			switch u.Header.Type {
			case unix.RTM_DELLINK:
				d.deviceGone(ctx, int(u.Index))
			case unix.RTM_NEWLINK:
				d.deviceThere(ctx, u.Link)
			}
		case <-ticker.C:
			d.check(ctx)
		}
	}
}

// subscribe has the kernel tell of devices until ctx ends; then updates is
// closed.
func (d *Datapath) subscribe(ctx context.Context, updates chan netlink.LinkUpdate) error {
	err := d.home.do(func() error { return netlink.LinkSubscribe(updates, ctx.Done()) })
	if err != nil {
		return fmt.Errorf("watch devices: %w", err)
	}
	return nil
}

// deviceGone forgets what was kept of a device that is no more.
func (d *Datapath) deviceGone(ctx context.Context, index int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if _, ok := d.devices.Status(uint32(index)); !ok || d.exists(index) {
		return
	}
	if _, ok := d.others[uint32(index)]; ok {
		delete(d.others, uint32(index))
		if have := d.devices.Wanted()[uint32(index)]; have&^bareDevice == otherDevice {
			d.devices.Unwant(uint32(index))
			d.devices.Reconcile(ctx)
			return
		}
	}
	for part := range d.parts {
		if d.parts[part] == uint32(index) {
			d.parts[part] = 0
		}
	}
	if err := d.setParts(); err != nil {
		d.log.Warn("packets are still sent to a device that is gone", "ifindex", index, "err", err)
	}
	d.missing[index] = true
	if d.last == nil {
		return
	}
	if _, err := d.apply(ctx, d.last); err != nil && ctx.Err() == nil {
		d.log.Warn("what was kept of a device that is gone could not be removed", "ifindex", index, "err", err)
	}
}

// exists says whether there is a device: events of another time may come late.
func (d *Datapath) exists(index int) bool {
	err := d.home.do(func() error {
		_, err := netlink.LinkByIndex(index)
		return err
	})
	return !gone(err)
}

// check attaches again what is not attached though it should be.
func (d *Datapath) check(ctx context.Context) {
	d.checkOthers(ctx)
	for index, kind := range d.devices.Wanted() {
		if ctx.Err() != nil {
			return
		}
		if st, ok := d.devices.Status(index); !ok || st.State != reconcile.Done {
			continue
		}
		whole, err := d.attacher.whole(index, kind)
		switch {
		case gone(err) || err == nil && !whole && !d.exists(int(index)):
			d.deviceGone(ctx, int(index))
		case err != nil:
			d.log.Warn("nobody knows whether programs are attached", "ifindex", index, "err", err)
		case !whole:
			d.log.Warn("programs were detached by somebody, and are attached again", "device", kind.String(), "ifindex", index)
			d.devices.Want(index, kind)
		}
	}
}

// Remove takes everything away that an instance put into the kernel, also if no
// agent runs. What there is nothing of is fine.
func Remove(cfg Config) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("remove datapath: %w", err)
		}
	}()
	pins, err := bpf.OpenPins(cfg.BPFFS, cfg.instance())
	if err != nil {
		return err
	}
	home, err := openHome()
	if err != nil {
		return err
	}
	defer home.close()
	if err := removeAttachments(cfg, pins, home); err != nil {
		return err
	}
	sets, err := pins.Sets()
	if err != nil {
		return err
	}
	for _, set := range sets {
		if strings.HasPrefix(set, devicePins) || set == mapPins {
			if err := pins.Remove(set); err != nil {
				return err
			}
		}
	}
	return pins.RemoveDir()
}

func removeAttachments(cfg Config, pins *bpf.Pins, home *home) error {
	m, err := pins.Map(mapPins, mapAttachments)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer m.Close()
	a := &attacher{home: home, pins: pins, instance: cfg.instance(),
		there: reconcile.NewMirror(NewMap[uint32, attached](m, false))}
	if err := a.there.Load(); err != nil {
		return err
	}
	return a.Prune(context.Background(), nil)
}

// Status returns the state of the datapath.
func (d *Datapath) Status() (Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Status{}, fmt.Errorf("datapath's status: %w", ErrClosed)
	}
	config, err := d.settings.Get(0)
	if err != nil {
		return Status{}, fmt.Errorf("read settings: %w", err)
	}
	s := Status{
		Mode:       d.cfg.Mode.String(),
		Schema:     schemaVersion,
		Generation: config.Generation,
		Hooks:      d.attacher.status(d.devices.Wanted()),
		Failed:     make(map[string]string),
	}
	for index, st := range d.devices.Statuses() {
		if st.Err != nil {
			s.Failed[fmt.Sprintf("interface %d", index)] = st.Err.Error()
		}
	}
	if s.Counters, err = d.Counters(); err != nil {
		return s, err
	}
	s.Maps = []MapStatus{
		{Name: stateMapAddresses, Used: d.tables.places.mirror.Len()},
		{Name: stateMapNetworks, Used: d.tables.networks.mirror.Len()},
		{Name: stateMapEndpoints, Used: d.tables.endpoints.mirror.Len()},
		{Name: stateMapSets, Used: d.tables.sets.Len()},
		{Name: stateMapVerdicts, Used: d.tables.verdictsUsed()},
		{Name: stateMapFlows, Used: d.flowsUsed()},
	}
	for i := range s.Maps {
		m := &s.Maps[i]
		m.Capacity = int(d.kernel.maps[m.Name].MaxEntries())
	}
	return s, nil
}

// status says for each kind of device how it is attached.
func (a *attacher) status(wanted map[uint32]device) []HookStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []HookStatus
	for kind := endpointDevice; kind <= lastDevice; kind++ {
		h := HookStatus{Hook: kind.String()}
		for index := range maps.Keys(wanted) {
			have, ok := a.there.Get(index)
			if !ok || have.Device&^bareDevice != kind {
				continue
			}
			h.Rung = have.rung()
			h.Devices++
		}
		if h.Rung == rungClsact && a.refused != "" {
			h.Refused = map[string]string{rungTCX: a.refused}
		}
		all = append(all, h)
	}
	return all
}
