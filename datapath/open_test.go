package datapath

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/internal/testkit"
	"warren/netpol"
)

// needBPF skips a test on a machine that lets us do no BPF at all.
func needBPF(t testing.TB) {
	t.Helper()
	testkit.NeedRoot(t)
	testkit.NeedKernel(t, "ring", "5.8", bpf.Probe(bpf.FeatureRing))
}

// newBPFFS mounts a BPF file system for one test.
func newBPFFS(t testing.TB) string {
	t.Helper()
	needBPF(t)
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// smallConfig is a configuration whose maps cost little.
func smallConfig(bpffs string) Config {
	return Config{BPFFS: bpffs, Instance: "test", Mode: Routed, Flows: 4096, EventBytes: 1 << 20}
}

func openTest(t testing.TB, cfg Config) *Datapath {
	t.Helper()
	d, err := Open(cfg, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// oneSet is a program in which all pods have the same set.
func oneSet(set *netpol.Set, addresses map[netip.Addr]netpol.ID, pods ...string) *netpol.Program {
	p := &netpol.Program{
		Addresses: addresses,
		Networks:  map[netip.Prefix]netpol.ID{netip.MustParsePrefix("0.0.0.0/0"): 1, netip.MustParsePrefix("::/0"): 1},
		Sets:      map[netpol.SetID]*netpol.Set{set.ID: set},
		SetOf:     make(map[string]netpol.SetID),
	}
	for _, uid := range pods {
		p.SetOf[uid] = set.ID
	}
	return p
}

func TestBPFOpenTakesOver(t *testing.T) {
	cfg := smallConfig(newBPFFS(t))
	ns := testkit.NewNetns(t)
	err := ns.Do(func() error {
		first := openTest(t, cfg)
		state := &State{Policy: oneSet(&netpol.Set{ID: 1, Isolated: [2]bool{true, false}},
			map[netip.Addr]netpol.ID{netip.MustParseAddr("10.0.0.1"): 7, netip.MustParseAddr("fd00::1"): 7})}
		report, err := first.Apply(t.Context(), state)
		if err != nil {
			return err
		}
		if report.Generation != 1 || !report.Flipped {
			t.Errorf("generation %d, flipped %v", report.Generation, report.Flipped)
		}
		if report, err = first.Apply(t.Context(), state); err != nil || report.Flipped {
			t.Errorf("the same again: flipped %v, %v", report.Flipped, err)
		}
		flows := first.kernel.maps[stateMapFlows]
		key, value := stateFlowKey{Proto: 6, PortA: 1}, stateFlow{Packets: [2]uint64{5, 6}}
		if err := flows.Put(key, value); err != nil {
			return err
		}
		if err := first.Close(); err != nil {
			return err
		}

		second := openTest(t, cfg)
		status, err := second.Status()
		if err != nil {
			return err
		}
		if status.Generation != 1 {
			t.Errorf("generation %d", status.Generation)
		}
		var have stateFlow
		if err := second.kernel.maps[stateMapFlows].Lookup(key, &have); err != nil || have.Packets != value.Packets {
			t.Errorf("flow %+v, %v", have, err)
		}
		if report, err = second.Apply(t.Context(), state); err != nil || report.Flipped {
			t.Errorf("the same by another agent: flipped %v, %v", report.Flipped, err)
		}
		if err := second.Close(); err != nil {
			return err
		}

		// Of another size, flows are copied.
		larger := cfg
		larger.Flows = 8192
		third := openTest(t, larger)
		if m := third.kernel.maps[stateMapFlows]; m.MaxEntries() != 8192 {
			t.Errorf("%d flows", m.MaxEntries())
		}
		if err := third.kernel.maps[stateMapFlows].Lookup(key, &have); err != nil || have.Packets != value.Packets {
			t.Errorf("flow %+v, %v", have, err)
		}
		if err := third.Close(); err != nil {
			return err
		}

		// Of another schema they are copied by the first Apply.
		pinned, err := bpf.OpenPins(cfg.BPFFS, cfg.Instance)
		if err != nil {
			return err
		}
		schema, err := pinned.Map(mapPins, mapSchema)
		if err != nil {
			return err
		}
		defer schema.Close()
		if err := schema.Put(uint32(0), schemaVersion+1); err != nil {
			return err
		}
		fourth := openTest(t, larger)
		if err := fourth.kernel.maps[stateMapFlows].Lookup(key, &have); err == nil {
			t.Error("the flow is there before anything was applied")
		}
		if report, err = fourth.Apply(t.Context(), state); err != nil || report.Generation != 2 {
			t.Errorf("generation %d, %v", report.Generation, err)
		}
		if err := fourth.kernel.maps[stateMapFlows].Lookup(key, &have); err != nil || have.Packets != value.Packets {
			t.Errorf("flow %+v, %v", have, err)
		}
		if err := fourth.Remove(); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(cfg.BPFFS, cfg.Instance)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something is left behind: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A flow that is taken into maps of another size comes to its end like any other.
func TestBPFMovedFlowEnds(t *testing.T) {
	r := newRig(t, smallConfig(newBPFFS(t)), 1, 2)
	r.apply()
	n := r.nodes[0]
	// It was long ago, and is between two who say nothing any more.
	server := netip.MustParseAddr("192.0.2.9")
	old := stateFlow{Began: 1, Seen: 1, Told: 1, Packets: [2]uint64{5, 6}}
	key := stateFlowKey{A: addrKey(r.pods[0].Addrs[0]), B: addrKey(server), PortA: be16(7), PortB: be16(9), Proto: unix.IPPROTO_UDP}
	if err := n.dp.kernel.maps[stateMapFlows].Put(key, old); err != nil {
		t.Fatal(err)
	}
	if err := n.dp.Close(); err != nil {
		t.Fatal(err)
	}
	n.cfg.Flows *= 2
	n.dp = r.openDatapath(n)
	if err := n.dp.Tell(true); err != nil {
		t.Fatal(err)
	}
	// Flows that begin have others looked at.
	to := netip.AddrPortFrom(r.pods[1].Addrs[0], rigPorts[0])
	if _, err := r.pods[0].askUDP(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	var told *FlowEvent
	testkit.Wait(t, "its end is told", func() bool {
		if err := n.dp.DrainFlows(func(e *FlowEvent) {
			if e.Kind == FlowClose && e.Server == server {
				seen := *e
				told = &seen
			}
		}); err != nil {
			t.Fatal(err)
		}
		return told != nil
	})
	if told.Packets != old.Packets {
		t.Errorf("it is told with %d packets", told.Packets)
	}
}

// What the kernel has no room for changes nothing, and says so.
func TestBPFFull(t *testing.T) {
	cfg := smallConfig(newBPFFS(t))
	cfg.Verdicts = 1 << 10
	d := openTest(t, cfg)
	state := func(verdicts int) *State {
		set := &netpol.Set{ID: 1, Isolated: [2]bool{true, true}, Verdicts: make(map[netpol.Key]netpol.Value)}
		for i := range verdicts {
			set.Verdicts[netpol.Key{Peer: netpol.ID(i + 1)}] = netpol.Value{Order: [2]netpol.Order{5, 0}}
		}
		return &State{
			Policy:    oneSet(set, nil, "a"),
			Endpoints: []Endpoint{{Name: "shop/a", PodUID: "a", Ifindex: 1 << 20, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		}
	}
	// The endpoint has no device, so its rows go as soon as that is known.
	if _, err := d.tables.begin(t.Context(), state(1000), nil); err != nil {
		t.Fatal(err)
	}
	before, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	var full *FullError
	if _, err := d.tables.begin(t.Context(), state(5000), nil); !errors.As(err, &full) || full.Map != stateMapVerdicts || full.Room != 1<<10 {
		t.Errorf("error is %v", err)
	}
	if after, err := d.Status(); err != nil || after.Generation != before.Generation {
		t.Errorf("generation %d, was %d; %v", after.Generation, before.Generation, err)
	}
	c, err := d.tables.begin(t.Context(), state(1), nil)
	if err == nil {
		err = d.tables.finish(c)
	}
	if err != nil {
		t.Errorf("when there is room again: %v", err)
	}
	if after, err := d.Status(); err != nil || after.Generation != before.Generation+1 {
		t.Errorf("generation %d, was %d; %v", after.Generation, before.Generation, err)
	}
}

// TestTunnelPort: programs know the port that the configuration says.
func TestTunnelPort(t *testing.T) {
	for _, c := range []struct{ port, want uint16 }{{0, DefaultPort}, {4789, 4789}} {
		s, err := loadSpecs(Config{Port: c.port})
		if err != nil {
			t.Fatal(err)
		}
		var got uint16
		if err := s.endpoint.Variables[endpointVarTunnelPort].Get(&got); err != nil || got != c.want {
			t.Errorf("port %d: programs know %d, %v", c.port, got, err)
		}
	}
}
