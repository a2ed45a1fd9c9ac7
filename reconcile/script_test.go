package reconcile_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"warren/bpf"
	"warren/datapath"
	"warren/internal/testkit"
	"warren/reconcile"
)

var update = flag.Bool("update", false, "write what the scripts say into them")

type table = reconcile.Map[uint32, uint32]

// Scripts in testdata/all mean the same on every map, also on one that fails
// now and then; those in testdata/faults tell it how to fail.
func TestScriptsMemory(t *testing.T) {
	runScripts(t, "all", func(testing.TB) table { return reconcile.NewMemory[uint32, uint32]() })
}

func TestScriptsFaulty(t *testing.T) {
	if *update {
		t.Skip("it has nothing to say of its own")
	}
	for seed := range uint64(20) {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d,%v", seed, late), func(t *testing.T) {
				runScripts(t, "all", func(testing.TB) table {
					f := reconcile.NewFaulty(reconcile.NewMemory[uint32, uint32](), seed)
					f.Fail(reconcile.Faults{Err: syscall.ENOMEM, Probability: 0.4, Late: late, Reads: true})
					return f
				})
			})
		}
	}
}

func TestScriptsFaults(t *testing.T) {
	runScripts(t, "faults", func(testing.TB) table {
		return reconcile.NewFaulty(reconcile.NewMemory[uint32, uint32](), 1)
	})
}

func TestBPFScripts(t *testing.T) {
	testkit.NeedRoot(t)
	testkit.NeedKernel(t, "ring", "5.8", bpf.Probe(bpf.FeatureRing))
	runScripts(t, "all", func(t testing.TB) table {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "reconcile_test", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 64})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return datapath.NewMap[uint32, uint32](m, false)
	})
}

// runScripts runs all scripts of a folder, each on a map of its own.
func runScripts(t *testing.T, folder string, newMap func(testing.TB) table) {
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", folder, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) {
				r := newRunner(t, newMap(t))
				got = r.run(string(want))
			})
			if got == string(want) {
				return
			}
			if !*update {
				t.Fatalf("(-want +got):\n%s", cmp.Diff(string(want), got))
			}
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A runner runs one script. A line that begins with > is what the command
// before it says.
type runner struct {
	t     testing.TB
	m     table
	table *reconcile.Table[uint32, uint32]
	// mirror is of the same map; a script uses the one or the other.
	mirror *reconcile.Mirror[uint32, uint32]
}

func newRunner(t testing.TB, m table) *runner {
	return &runner{t: t, m: m,
		table:  reconcile.NewTable(reconcile.MapOperations(m), reconcile.Options{}),
		mirror: reconcile.NewMirror(m)}
}

func (r *runner) run(script string) string {
	var out strings.Builder
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		out.WriteString(line)
		args := strings.Fields(line)
		if len(args) == 0 || args[0] == "#" {
			continue
		}
		for _, said := range r.command(args[0], args[1:]) {
			fmt.Fprintf(&out, "> %s\n", said)
		}
	}
	return out.String()
}

func (r *runner) command(name string, args []string) []string {
	switch name {
	case "want":
		r.each(args, r.table.Want)
	case "unwant":
		r.each(args, func(k, _ uint32) { r.table.Unwant(k) })
	case "replace":
		r.table.Replace(r.rows(args), func(a, b uint32) bool { return a == b })
	case "foreign": // somebody else writes
		r.each(args, func(k, v uint32) { r.certainly(func() error { return r.m.Put(k, v) }) })
	case "vanish": // somebody else deletes
		r.each(args, func(k, _ uint32) { r.certainly(func() error { return r.m.Delete(k) }) })
	case "prune":
		r.table.Prune()
	case "once":
		r.table.Reconcile(context.Background())
	case "settle":
		for next := r.table.Reconcile(context.Background()); !next.IsZero(); next = r.table.Reconcile(context.Background()) {
			<-time.After(time.Until(next)) // by the clock of the bubble
		}
	case "run": // what the table does by itself, for a time
		ctx, cancel := context.WithTimeout(context.Background(), r.duration(args[0]))
		defer cancel()
		if err := r.table.Run(ctx); err != nil {
			r.t.Fatal(err)
		}
	case "status":
		return r.status()
	case "map":
		return r.contents()
	case "load":
		r.certainly(r.mirror.Load)
	case "mirror":
		return r.sorted(r.mirror.All())
	case "put":
		rows := r.rows(args)
		r.certainly(func() error {
			_, err := r.mirror.Put(func(yield func(uint32, uint32) bool) {
				for _, k := range slices.Sorted(keys(rows)) {
					if !yield(k, rows[k]) {
						return
					}
				}
			})
			return err
		})
	case "try-put":
		n, err := r.mirror.Put(func(yield func(uint32, uint32) bool) {
			for k, v := range r.rows(args) {
				if !yield(k, v) {
					return
				}
			}
		})
		return []string{fmt.Sprintf("%d, %v", n, err)}
	case "del":
		r.certainly(func() error {
			_, err := r.mirror.Delete(keys(r.rows(args)))
			return err
		})
	case "fail":
		r.m.(*reconcile.Faulty[uint32, uint32]).Fail(reconcile.Faults{Err: errnos[args[0]], Probability: 1,
			Late: slices.Contains(args, "late"), Reads: slices.Contains(args, "reads")})
	case "mend":
		r.m.(*reconcile.Faulty[uint32, uint32]).Fail(reconcile.Faults{})
	default:
		r.t.Fatalf("no command %q", name)
	}
	return nil
}

var errnos = map[string]error{"ENOMEM": syscall.ENOMEM, "EBUSY": syscall.EBUSY, "E2BIG": syscall.E2BIG}

// certainly repeats what may fail.
func (r *runner) certainly(f func() error) {
	var err error
	for range 1000 {
		if err = f(); err == nil {
			return
		}
	}
	r.t.Fatal(err)
}

func (r *runner) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *runner) rows(args []string) map[uint32]uint32 {
	rows := make(map[uint32]uint32)
	r.each(args, func(k, v uint32) { rows[k] = v })
	return rows
}

// each reads K=V or K.
func (r *runner) each(args []string, do func(k, v uint32)) {
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		k, err := strconv.ParseUint(key, 10, 32)
		if err != nil {
			r.t.Fatal(err)
		}
		v, err := strconv.ParseUint("0"+value, 10, 32)
		if err != nil {
			r.t.Fatal(err)
		}
		do(uint32(k), uint32(v))
	}
}

func (r *runner) contents() []string {
	var rows map[uint32]uint32
	r.certainly(func() (err error) {
		rows, err = reconcile.Contents(r.m)
		return err
	})
	for k, v := range rows {
		r.certainly(func() error {
			got, err := r.m.Get(k)
			if err == nil && got != v {
				r.t.Errorf("key %d is %d, and %d", k, v, got)
			}
			return err
		})
	}
	return r.sorted(func(yield func(uint32, uint32) bool) {
		for k, v := range rows {
			if !yield(k, v) {
				return
			}
		}
	})
}

func (r *runner) sorted(rows func(func(uint32, uint32) bool)) []string {
	var out []string
	rows(func(k, v uint32) bool {
		out = append(out, fmt.Sprintf("%d=%d", k, v))
		return true
	})
	slices.Sort(out)
	return out
}

func (r *runner) status() []string {
	var out []string
	for k, st := range r.table.Statuses() {
		s := fmt.Sprintf("%d %v", k, st.State)
		if st.Err != nil {
			s += fmt.Sprintf(", %d tries, again in %v: %v", st.Tries, time.Until(st.Next), st.Err)
		}
		out = append(out, s)
	}
	slices.Sort(out)
	if p := r.table.Pruned(); p.State != 0 {
		out = append(out, fmt.Sprintf("pruning %v", p.State))
	}
	return out
}

func keys(m map[uint32]uint32) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestMapsSayWhatIsAbsent(t *testing.T) {
	m := reconcile.NewMemory[uint32, uint32]()
	if _, err := m.Get(1); !errors.Is(err, reconcile.ErrAbsent) {
		t.Errorf("get: %v", err)
	}
	m.Room, m.ErrFull = 2, syscall.E2BIG
	if n, err := m.PutMany([]uint32{1, 2, 3}, []uint32{1, 2, 3}); n != 2 || !errors.Is(err, syscall.E2BIG) {
		t.Errorf("%d, %v", n, err)
	}
	if err := m.Put(1, 5); err != nil {
		t.Errorf("a key that is there: %v", err)
	}
	stop := errors.New("stop")
	if err := m.Each(func(uint32, uint32) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("each: %v", err)
	}
}

// Rows that change while they are worked on are worked on again.
func TestTableChangesItsMind(t *testing.T) {
	m := reconcile.NewMemory[uint32, uint32]()
	ops := &meddler{Operations: reconcile.MapOperations[uint32, uint32](m)}
	table := reconcile.NewTable[uint32, uint32](ops, reconcile.Options{})
	table.Want(1, 10)
	ops.during = func() { table.Want(1, 11) }
	if next := table.Reconcile(t.Context()); next.IsZero() {
		t.Error("nothing is left to do")
	}
	ops.during = func() { table.Unwant(1) }
	table.Reconcile(t.Context())
	if next := table.Reconcile(t.Context()); !next.IsZero() {
		t.Errorf("still something to do: %v", table.Statuses())
	}
	if rows, _ := reconcile.Contents(m); len(rows) != 0 {
		t.Errorf("left: %v", rows)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	table.Want(2, 20)
	if next := table.Reconcile(ctx); next.IsZero() {
		t.Error("done, though its time was over")
	}
}

type meddler struct {
	reconcile.Operations[uint32, uint32]
	during func()
}

func (m *meddler) Update(ctx context.Context, k, v uint32) error {
	if during := m.during; during != nil {
		m.during = nil
		during()
	}
	return m.Operations.Update(ctx, k, v)
}
