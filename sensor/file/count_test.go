package file

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

// counted is who wants to know how many opens there are, and by what.
func counted(by interest.Counted, paths ...interest.Path) interest.Holder {
	return interest.Holder{Name: "counter", Interest: interest.Interest{Terms: []interest.Term{{Kinds: opens, Counted: by, Paths: paths}}}}
}

// A tally counts opens by process, directory and result.
type tally struct {
	mu       sync.Mutex
	opens    map[string]uint64
	recorded uint64
	counted  uint64
}

func (y *tally) add(e *event.Event) {
	o, ok := e.Data.(*event.Open)
	if !ok {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	dir := ""
	if o.Name != "" {
		dir = filepath.Dir(o.Name)
	}
	y.opens[fmt.Sprintf("%d %s %s", e.Actor.PID, dir, o.Res)] += e.Times()
	if e.Counted == nil {
		y.recorded++
	} else {
		y.counted += e.Counted.Count
	}
}

// records returns how many opens the kernel has recorded and lost.
func records(t testing.TB, road *bpf.Road) (submitted, lost uint64) {
	t.Helper()
	for _, c := range road.Counters() {
		if c.ID == bpf.RecOpen {
			return c.Submitted, c.Lost
		}
	}
	return 0, 0
}

// flood has processes open, each rounds times, a file in each directory and one
// that is not there. It returns their pids.
func flood(t testing.TB, dirs []string, processes, rounds int) []int {
	t.Helper()
	var script strings.Builder
	fmt.Fprintf(&script, "i=0; while [ $i -lt %d ]; do i=$((i+1))\n", rounds)
	for _, dir := range dirs {
		fmt.Fprintf(&script, ": <%s/f$((i%%7))\n", dir)
	}
	script.WriteString("read x <" + dirs[0] + "/none\ndone\nexit 0")
	var pids []int
	var running []*exec.Cmd
	for range processes {
		c := exec.Command("/bin/sh", "-c", script.String())
		if err := c.Start(); err != nil { // its complaints go nowhere
			t.Fatal(err)
		}
		running, pids = append(running, c), append(pids, c.Process.Pid)
	}
	for _, c := range running {
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return pids
}

// folders makes directories with seven files in each.
func folders(t testing.TB, n int) []string {
	t.Helper()
	var dirs []string
	for i := range n {
		dir := filepath.Join(t.TempDir(), "d"+strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range 7 {
			if err := os.WriteFile(filepath.Join(dir, "f"+strconv.Itoa(f)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

// TestBPFCount: of a flood of opens that are only counted few records leave the
// kernel, and the numbers are those of the opens that were made.
func TestBPFCount(t *testing.T) {
	for _, ring := range []int{16 << 20, 64 << 10} {
		t.Run(strconv.Itoa(ring>>10)+"KiB", func(t *testing.T) {
			w := start(t, bpf.Config{BulkBytes: ring}, opens)
			if err := w.sensor.Stop(); err != nil {
				t.Fatal(err)
			}
			before, lostBefore := records(t, w.road)
			y := &tally{opens: map[string]uint64{}}
			if err := w.sensor.Start(interest.Union(counted(interest.CountedByProcess|interest.CountedByDirectory)), y.add); err != nil {
				t.Fatal(err)
			}
			const processes = 3
			rounds := testkit.Rounds(5000, 2000)
			dirs := folders(t, 4)
			pids := flood(t, dirs, processes, rounds)
			if err := w.sensor.Stop(); err != nil { // what is counted is told by then
				t.Fatal(err)
			}
			made := uint64(processes * rounds * (len(dirs) + 1))
			submitted, lost := records(t, w.road)
			submitted, lost = submitted-before, lost-lostBefore
			if lost == 0 {
				for _, pid := range pids {
					for _, dir := range dirs {
						if n := y.opens[fmt.Sprintf("%d %s SUCCESS", pid, dir)]; n != uint64(rounds) {
							t.Errorf("process %d opened %d files in %s, want %d", pid, n, dir, rounds)
						}
					}
					if n := y.opens[fmt.Sprintf("%d  ENOENT", pid)]; n < uint64(rounds) {
						t.Errorf("%d opens of process %d failed, want %d", n, pid, rounds)
					}
				}
			}
			if y.recorded+y.counted+lost < made {
				t.Errorf("%d opens were recorded, %d counted and %d lost, of %d", y.recorded, y.counted, lost, made)
			}
			if submitted != y.recorded {
				t.Errorf("%d records left the kernel, %d arrived", submitted, y.recorded)
			}
			if submitted*20 > made {
				t.Errorf("%d records left the kernel of %d opens", submitted, made)
			}
			t.Logf("RATIO %d records of %d opens counted: 1 of %d; lost %d", submitted, y.recorded+y.counted, (y.recorded+y.counted)/max(1, submitted), lost)
		})
	}
}
