package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/testkit"
)

// fakeRoad is a road whose rings are plain memory.
func fakeRoad(t testing.TB) (r *Road, critical, bulk *fakeRing) {
	t.Helper()
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	critical, bulk = newFakeRing(4096), newFakeRing(4096)
	w, err := newWaiter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.close() })
	return &Road{
		cfg:     cfg,
		rings:   [numLanes]*ring{critical.ring, bulk.ring},
		wait:    w,
		stopped: make(chan struct{}),
	}, critical, bulk
}

// record returns a record of a type whose body is text.
func record(id uint8, text string) []byte {
	b := make([]byte, HeaderLen, HeaderLen+len(text))
	binary.NativeEndian.PutUint32(b[8:], uint32(HeaderLen+len(text)))
	b[14] = id
	return append(b, text...)
}

func collect(r *Road, ids ...uint8) *[]string {
	got := new([]string)
	for _, id := range ids {
		r.Handle(id, "test", Critical, func(rec []byte) error {
			*got = append(*got, string(rec[HeaderLen:]))
			return nil
		})
	}
	return got
}

func TestCycleOrder(t *testing.T) {
	r, critical, bulk := fakeRoad(t)
	got := collect(r, 1, 2)
	bulk.write(record(2, "bulk"), 0)
	critical.write(record(1, "critical"), 0)
	r.cycle()
	if diff := cmp.Diff([]string{"critical", "bulk"}, *got); diff != "" {
		t.Error(diff)
	}
}

// What comes while critical is drained has to wait for the next cycle: its own
// critical records have not been decoded yet.
func TestCycleStopsAtWhatItNoted(t *testing.T) {
	r, critical, bulk := fakeRoad(t)
	var got []string
	late := true
	r.Handle(1, "test", Critical, func(rec []byte) error {
		got = append(got, string(rec[HeaderLen:]))
		if late {
			late = false
			critical.write(record(1, "late exec"), 0)
			bulk.write(record(2, "late connect"), 0)
		}
		return nil
	})
	r.Handle(2, "test", Bulk, func(rec []byte) error { got = append(got, string(rec[HeaderLen:])); return nil })
	critical.write(record(1, "exec"), 0)
	r.cycle()
	r.cycle()
	if diff := cmp.Diff([]string{"exec", "late exec", "late connect"}, got); diff != "" {
		t.Error(diff)
	}
}

// While a critical record is not submitted, those behind it are not decoded;
// so bulk, which may depend on them, has to wait too.
func TestCycleBulkWaitsForCritical(t *testing.T) {
	r, critical, bulk := fakeRoad(t)
	got := collect(r, 1, 2)
	busy := critical.write(record(1, "slow"), ringBusy)
	critical.write(record(1, "exec"), 0)
	bulk.write(record(2, "connect"), 0)
	if _, stuck := r.cycle(); !stuck || len(*got) != 0 {
		t.Errorf("stuck %v, decoded %q", stuck, *got)
	}
	critical.head(busy, uint32(HeaderLen+len("slow")))
	r.cycle()
	if diff := cmp.Diff([]string{"slow", "exec", "connect"}, *got); diff != "" {
		t.Error(diff)
	}
}

// While much waits in bulk, what comes to critical does not wait until that is done:
// it is more than there is room for.
func TestCycleLooksAtCriticalMeanwhile(t *testing.T) {
	r, critical, bulk := fakeRoad(t)
	size := uint64(critical.size())
	var made, lost, decoded, bulks int
	var lagging bool
	r.Handle(1, "test", Critical, func([]byte) error { decoded++; return nil })
	r.Handle(2, "test", Bulk, func([]byte) error {
		bulks++
		for range 2 { // the kernel writes on
			made++
			if critical.produced()-critical.consumed()+24 > size {
				lost++
				continue
			}
			critical.write(record(1, ""), 0)
		}
		lagging = lagging || made-decoded > 2*lookAfter+int(fillBusy*float64(size))/24+2
		return nil
	})
	n := int(size / 24)
	for range n {
		bulk.write(record(2, ""), 0)
	}
	r.cycle()
	r.cycle()
	if written := made - lost; written*24 <= int(size) {
		t.Fatalf("%d critical records fit into the ring: the test proves nothing", written)
	}
	if lost != 0 || lagging || bulks != n || decoded != made {
		t.Errorf("%d of %d critical records lost, %d decoded, waited too long %v; %d of %d bulk records decoded", lost, made, decoded, lagging, bulks, n)
	}
	if h := r.stats.highest[Critical].Load(); h == 0 || h > size {
		t.Errorf("at most %d bytes were waiting", h)
	}
}

// A critical record that is being written while bulk is decoded keeps nothing: bulk
// depends on none that came after its own.
func TestCycleBulkGoesOnBesideBusyCritical(t *testing.T) {
	r, critical, bulk := fakeRoad(t)
	bulks := 0
	r.Handle(1, "test", Critical, func([]byte) error { return nil })
	r.Handle(2, "test", Bulk, func([]byte) error {
		if bulks++; bulks == 1 {
			critical.write(record(1, "slow"), ringBusy)
			for range 20 {
				critical.write(record(1, "behind"), 0)
			}
		}
		return nil
	})
	for range lookAfter + 10 {
		bulk.write(record(2, ""), 0)
	}
	if _, stuck := r.cycle(); stuck || bulks != lookAfter+10 || critical.consumed() != 0 {
		t.Errorf("stuck %v, %d bulk records, %d bytes of critical decoded", stuck, bulks, critical.consumed())
	}
}

func TestDispatch(t *testing.T) {
	tests := map[string]struct {
		rec                          []byte
		decoded, malformed, unusable uint64
		want                         string
	}{
		"good":                    {rec: record(1, "text"), decoded: 1, want: "text"},
		"more room than it needs": {rec: append(record(1, "text"), "garbage"...), decoded: 1, want: "text"},
		"empty":                   {rec: nil, unusable: 1},
		"shorter than a header":   {rec: record(1, "")[:15], unusable: 1},
		"longer than its ring":    {rec: record(1, "text")[:18], unusable: 1},
		"claims less than header": {rec: append(make([]byte, 8), 15, 0, 0, 0, 0, 0, 1, 0), unusable: 1},
		"type without decoder":    {rec: record(9, "text"), unusable: 1},
		"no such type":            {rec: record(200, "text"), unusable: 1},
		"refused by its decoder":  {rec: record(2, "text"), malformed: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, _, _ := fakeRoad(t)
			got := collect(r, 1)
			r.Handle(2, "test.picky", Bulk, func([]byte) error { return errors.New("no") })
			r.dispatch(tt.rec)
			if d := r.handlers[1].decoded.Load(); d != tt.decoded {
				t.Errorf("decoded %d, want %d", d, tt.decoded)
			}
			if m := r.handlers[2].malformed.Load(); m != tt.malformed {
				t.Errorf("malformed %d, want %d", m, tt.malformed)
			}
			s := r.Stats()
			if s.Malformed != tt.unusable {
				t.Errorf("unusable %d, want %d", s.Malformed, tt.unusable)
			}
			if want := map[bool]string{true: "test.picky: no"}[tt.malformed == 1]; s.LastError != want {
				t.Errorf("last error %q, want %q", s.LastError, want)
			}
			if tt.want != "" && (len(*got) != 1 || (*got)[0] != tt.want) {
				t.Errorf("decoded %q, want %q", *got, tt.want)
			}
		})
	}
}

func FuzzDispatch(f *testing.F) {
	f.Add(record(1, "text"))
	f.Add(record(200, ""))
	f.Add([]byte{0, 1, 2})
	r, _, _ := fakeRoad(f)
	r.Handle(1, "test", Critical, func(rec []byte) error {
		h, ok := ParseHeader(rec)
		if !ok || int(h.Len) != len(rec) {
			f.Errorf("decoder got %d bytes with header %+v", len(rec), h)
		}
		_, err := View[roadRecord](rec)
		return err
	})
	f.Fuzz(func(t *testing.T, rec []byte) {
		h := &r.handlers[1]
		before := h.decoded.Load() + h.malformed.Load() + r.stats.malformed.Load()
		r.dispatch(rec)
		if after := h.decoded.Load() + h.malformed.Load() + r.stats.malformed.Load(); after != before+1 {
			t.Errorf("%d records were counted, want 1", after-before)
		}
	})
}

func TestHandleKeepsCounts(t *testing.T) {
	r, _, _ := fakeRoad(t)
	collect(r, 1)
	r.dispatch(record(1, "a"))
	collect(r, 1)
	r.dispatch(record(1, "b"))
	if n := r.handlers[1].decoded.Load(); n != 2 {
		t.Errorf("decoded %d, want 2", n)
	}
}

func TestRunDrainsAndEnds(t *testing.T) {
	r, critical, bulk := fakeRoad(t)
	got := collect(r, 1, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	bulk.write(record(2, "bulk"), 0)
	critical.write(record(1, "critical"), 0)
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"critical", "bulk"}, *got); diff != "" {
		t.Error(diff)
	}
	if err := r.Sync(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("sync after the end: %v", err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a second Run: %v", err)
	}
	if len(r.syncs) != 0 {
		t.Errorf("%d syncs are remembered that nobody waits for", len(r.syncs))
	}
}

// A record that is never submitted does not keep Run from ending.
func TestRunEndsWithBusyRecord(t *testing.T) {
	r, critical, _ := fakeRoad(t)
	critical.write(record(1, "never"), ringBusy)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestSyncWaits(t *testing.T) {
	r, critical, _ := fakeRoad(t)
	got := collect(r, 1)
	busy := critical.write(record(1, "slow"), ringBusy)
	synced := make(chan error, 1)
	run(t, r)
	go func() { synced <- r.Sync(context.Background()) }()
	testkit.Wait(t, "the sync to be asked for", func() bool {
		r.syncMu.Lock()
		defer r.syncMu.Unlock()
		return len(r.syncs) == 1
	})
	select {
	case err := <-synced:
		t.Fatalf("synced with a record not submitted: %v", err)
	default:
	}
	critical.submit(busy)
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"slow"}, *got); diff != "" {
		t.Error(diff)
	}
}

func TestSyncEndsWithItsContext(t *testing.T) {
	r, critical, _ := fakeRoad(t)
	critical.write(record(1, "never"), ringBusy)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("sync: %v", err)
	}
	if len(r.syncs) != 0 {
		t.Errorf("%d syncs are remembered that nobody waits for", len(r.syncs))
	}
}

func TestConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Config
		fine bool
	}{
		"zero":                {Config{}, true},
		"small":               {Config{CriticalBytes: 4096, BulkBytes: 65536}, true},
		"no power of two":     {Config{CriticalBytes: 3 << 20}, false},
		"less than a page":    {Config{BulkBytes: 1024}, false},
		"negative":            {Config{BulkBytes: -4096}, false},
		"huge":                {Config{BulkBytes: 1 << 31}, false},
		"busy above idle":     {Config{Busy: 1e9, Idle: 1e6}, false},
		"below a millisecond": {Config{Busy: 1e3}, false},
	} {
		if _, err := tt.cfg.withDefaults(); (err == nil) != tt.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}
