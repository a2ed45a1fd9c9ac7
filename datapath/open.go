package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"warren/bpf"
	"warren/reconcile"
)

// mapPins is the set of an instance's maps. Each device has a set of its own,
// with its links.
const mapPins = "datapath"

// The maps that only user space has.
const (
	mapSchema      = "schema"      // what the others are: schemaVersion
	mapAttachments = "attachments" // devices that programs are attached to
)

// schemaVersion says how the maps are laid out and what is in them. Agents that
// have the same one take over each other's maps. What another one has left is
// read once: see migrate.
const schemaVersion = uint32(stateSchemaVersionSCHEMA_VERSION)

func (cfg Config) instance() string {
	if cfg.Instance == "" {
		return "warren"
	}
	return cfg.Instance
}

// specs are the objects that there are, with maps of the sizes that a
// configuration wants.
type specs struct {
	state, endpoint, host *ebpf.CollectionSpec
}

func loadSpecs(cfg Config) (s specs, err error) {
	for _, o := range []struct {
		spec **ebpf.CollectionSpec
		load func() (*ebpf.CollectionSpec, error)
	}{{&s.state, loadState}, {&s.endpoint, loadEndpoint}, {&s.host, loadHost}} {
		if *o.spec, err = o.load(); err != nil {
			return s, err
		}
		for name, size := range map[string]int{
			stateMapFlows: cfg.Flows, stateMapSweeps: 2 * cfg.Flows, stateMapVerdicts: cfg.Verdicts,
			stateMapAddresses: cfg.Addresses, stateMapEvents: cfg.EventBytes,
		} {
			if m := (*o.spec).Maps[name]; m != nil && size > 0 {
				m.MaxEntries = uint32(size)
			}
		}
	}
	if cfg.Port != 0 {
		for _, spec := range []*ebpf.CollectionSpec{s.endpoint, s.host} {
			if err := spec.Variables[endpointVarTunnelPort].Set(cfg.Port); err != nil {
				return s, fmt.Errorf("set the tunnel's port: %w", err)
			}
		}
	}
	s.state.Variables = nil
	s.state.Maps[mapSchema] = &ebpf.MapSpec{Name: mapSchema, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: schemaVersion}}}
	s.state.Maps[mapAttachments] = &ebpf.MapSpec{Name: mapAttachments, Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 15}
	for name, m := range s.state.Maps {
		// Variables of the object, that nobody uses.
		if name == "" || name[0] == '.' {
			delete(s.state.Maps, name)
			continue
		}
		m.Pinning = ebpf.PinNone
	}
	return s, nil
}

// kernel is what we hold in the kernel: maps and programs.
type kernel struct {
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	// old are maps of an earlier agent that have no place among ours: what they
	// know is to be moved.
	old map[string]*ebpf.Map
	// other says that the earlier agent's maps were of another schema, so that
	// its programs must go on with them until ours know as much.
	other bool
}

// openKernel takes over the maps that an earlier agent has left, makes those
// that are missing, and loads our programs on them.
func openKernel(pins *bpf.Pins, s specs) (_ *kernel, err error) {
	k := &kernel{maps: make(map[string]*ebpf.Map), programs: make(map[string]*ebpf.Program), old: make(map[string]*ebpf.Map)}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if err := k.adopt(pins, s.state); err != nil {
		return nil, err
	}
	if err := k.make(s.state); err != nil {
		return nil, err
	}
	for _, o := range []*ebpf.CollectionSpec{s.endpoint, s.host} {
		if err := k.load(o); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// adopt opens what is pinned, and sorts it.
func (k *kernel) adopt(pins *bpf.Pins, spec *ebpf.CollectionSpec) error {
	names, err := pins.Names(mapPins)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	there := make(map[string]*ebpf.Map)
	for _, name := range names {
		m, err := pins.Map(mapPins, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open map %s: %w", name, err)
		}
		there[name] = m
	}
	var version uint32
	if m := there[mapSchema]; m != nil {
		_ = m.Lookup(uint32(0), &version) // what cannot be read is not ours: 0
	}
	k.other = version != schemaVersion
	for name, m := range there {
		ms := spec.Maps[name]
		// Where programs are attached is told in one way for all times.
		fits := ms != nil && ms.Compatible(m) == nil && (!k.other || name == mapAttachments)
		if fits {
			k.maps[name] = m
		} else {
			k.old[name] = m
		}
	}
	return nil
}

// make makes the maps that are missing.
func (k *kernel) make(spec *ebpf.CollectionSpec) error {
	missing := &ebpf.CollectionSpec{Maps: make(map[string]*ebpf.MapSpec), Types: spec.Types, ByteOrder: spec.ByteOrder}
	for name, ms := range spec.Maps {
		if k.maps[name] == nil {
			missing.Maps[name] = ms
		}
	}
	if len(missing.Maps) == 0 {
		return nil
	}
	coll, err := ebpf.NewCollection(missing)
	if err != nil {
		return fmt.Errorf("create maps: %w", err)
	}
	for name, m := range coll.Maps {
		k.maps[name] = m
	}
	coll.Maps = nil
	coll.Close()
	return nil
}

// load loads the programs of an object on our maps.
func (k *kernel) load(spec *ebpf.CollectionSpec) error {
	ours := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m := k.maps[name]; m != nil {
			ours[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: ours})
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			return fmt.Errorf("load programs: %w", v)
		}
		return fmt.Errorf("load programs: %w", err)
	}
	for name, p := range coll.Programs {
		k.programs[name] = p
	}
	coll.Programs = nil
	coll.Close()
	return nil
}

// pin makes our maps those that the next agent finds.
func (k *kernel) pin(pins *bpf.Pins) error {
	return pins.Replace(mapPins, func(dir *bpf.PinDir) error {
		for name, m := range k.maps {
			if err := dir.Pin(name, m); err != nil {
				return err
			}
		}
		return nil
	})
}

func (k *kernel) close() error {
	var errs []error
	for _, ms := range []map[string]*ebpf.Map{k.maps, k.old} {
		for _, m := range ms {
			errs = append(errs, m.Close())
		}
	}
	for _, p := range k.programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Open loads the programs, on the maps that an earlier agent of the instance has
// left, and puts them in the place of that agent's: connections, policy and
// everything that was counted live on. It changes nothing else that the kernel
// does: only [Datapath.Apply] does that.
//
// If the earlier agent's maps are of another schema, its programs go on with
// them until the first Apply; then flows are copied and the programs replaced.
func Open(cfg Config, log *slog.Logger) (_ *Datapath, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open datapath: %w", err)
		}
	}()
	switch {
	case cfg.Mode != Routed && cfg.Mode != VXLAN && cfg.Mode != Chained:
		return nil, fmt.Errorf("no datapath is for mode %v", cfg.Mode)
	case cfg.Rung != "" && cfg.Rung != rungTCX && cfg.Rung != rungClsact:
		return nil, fmt.Errorf("programs are attached by tcx or clsact, not by %q", cfg.Rung)
	}
	s, err := loadSpecs(cfg)
	if err != nil {
		return nil, err
	}
	pins, err := bpf.OpenPins(cfg.BPFFS, cfg.instance())
	if err != nil {
		return nil, err
	}
	d := &Datapath{cfg: cfg, log: log, pins: pins, missing: make(map[int]bool), unread: make(map[string]bool)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.home, err = openHome(); err != nil {
		return nil, err
	}
	if d.kernel, err = openKernel(pins, s); err != nil {
		return nil, err
	}
	if d.grace, err = newGrace(); err != nil {
		return nil, err
	}
	d.useMaps()
	ring, err := ringbuf.NewReader(d.kernel.maps[stateMapEvents])
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	d.events = &eventReader{ring: ring}
	if err := d.attacher.there.Load(); err != nil {
		return nil, fmt.Errorf("read attachments: %w", err)
	}
	for index, have := range d.attacher.there.All() {
		switch have.Device &^ bareDevice {
		case uplinkDevice:
			d.parts[Uplink], d.kinds[Uplink] = index, have.Device
		case tunnelDevice:
			d.parts[Tunnel], d.kinds[Tunnel] = index, have.Device
		}
	}
	if err := d.configure(nil); err != nil {
		return nil, err
	}
	if d.kernel.other {
		// The first Apply takes over. Flows that are copied then remember a
		// generation, which must not be ours.
		return d, d.change(func(c *stateConfig) { c.Generation = lastGeneration(d.kernel) })
	}
	return d, d.takeOver()
}

// useMaps makes the tables that the maps are written through.
func (d *Datapath) useMaps() {
	m := d.kernel.maps
	d.settings = NewMap[uint32, stateConfig](m[stateMapSettings], false)
	d.tables = newTables(tableMaps{
		settings:  d.settings,
		setting:   &d.settingsMu,
		places:    NewMap[stateAddr, statePlaceEntry](m[stateMapAddresses], true),
		networks:  NewMap[stateNetwork, stateNetworkEntry](m[stateMapNetworks], false),
		endpoints: NewMap[uint32, stateEndpoint](m[stateMapEndpoints], true),
		numbers:   NewMap[uint32, uint32](m[stateMapNumbers], false),
		sets:      NewMap[uint32, stateSet](m[stateMapSets], false),
		verdicts:  NewMap[stateVerdictKey, stateVerdict](m[stateMapVerdicts], false),
	}, d.grace.wait)
	d.attacher = &attacher{
		home:     d.home,
		pins:     d.pins,
		instance: d.cfg.instance(),
		forced:   d.cfg.Rung,
		programs: d.kernel.programs,
		there:    reconcile.NewMirror(NewMap[uint32, attached](m[mapAttachments], false)),
	}
	d.devices = reconcile.NewTable(reconcile.Operations[uint32, device](d.attacher), reconcile.Options{})
}

// takeOver puts our programs in the place of an earlier agent's, and makes our
// maps those that are found by the next one. What cannot be replaced is tried
// again by Apply and Run.
func (d *Datapath) takeOver() error {
	move := func() error { return nil }
	if len(d.kernel.old) > 0 {
		move = func() error { return moveMaps(d.kernel, d.log) }
	}
	if err := move(); err != nil {
		return err
	}
	if err := d.kernel.pin(d.pins); err != nil {
		return err
	}
	if err := d.attacher.replace(d.kernel.programs); err != nil {
		d.log.Warn("an earlier agent's programs could not be replaced everywhere", "err", err)
	}
	// Those whose timer this was until now are gone, or soon.
	if err := d.kernel.maps[stateMapSweeper].Put(uint32(0), stateSweepTimer{}); err != nil {
		return fmt.Errorf("write sweeper: %w", err)
	}
	// What has changed in the old maps until nobody wrote them any more.
	if err := move(); err != nil {
		return err
	}
	var errs []error
	for name, m := range d.kernel.old {
		errs = append(errs, m.Close())
		delete(d.kernel.old, name)
	}
	d.kernel.other = false
	return errors.Join(errs...)
}
