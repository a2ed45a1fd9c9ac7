package identity

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"warren/event"
)

// population is a machine with as many processes, in a tree.
func population(b *testing.B, n int) (*machine, []event.Key) {
	m := newMachine(b, nil)
	keys := []event.Key{m.task(1, event.Key{}, "init")}
	place := m.cgroup(1, "/system.slice/work.service")
	for i := range n {
		k, _ := m.fork(keys[i/4], uint32(i+2), place)
		m.exec(k, nil, fmt.Sprintf("/usr/bin/program%d", i%50), "--flag", "value")
		keys = append(keys, k)
	}
	return m, keys
}

// What the sensors allocate is made beforehand in batches, outside the clock.
const batch = 4096

func BenchmarkApplyConnection(b *testing.B) {
	for _, tt := range []struct {
		name    string
		types   []string
		named   bool
		cookies uint64
	}{
		{"new", []string{"connect"}, true, 0},
		{"life", []string{"connect", "update", "close"}, true, 0},
		{"update", []string{"update"}, true, 1000},
	} {
		b.Run(tt.name, func(b *testing.B) {
			m, keys := population(b, 1000)
			a, _ := addr("2.2.2.2:443")
			m.names.learn(1, a, "shop.example", 1<<20, 1)
			events := make([]*event.Event, batch)
			cookie, n := uint64(0), 0
			b.ReportAllocs()
			for b.Loop() {
				if n == 0 {
					b.StopTimer()
					for i := range events {
						typ := tt.types[i%len(tt.types)]
						if typ == tt.types[0] {
							cookie++
						}
						c := cookie
						if tt.cookies != 0 {
							c %= tt.cookies
						}
						m.ktime += 10000
						events[i] = &event.Event{Time: m.now(), Ktime: m.ktime, Actor: keys[cookie%1000], Data: conn(typ, c+1, "10.0.0.1:4000", "2.2.2.2:443")}
					}
					n = batch
					b.StartTimer()
				}
				m.Apply(events[batch-n]) // in their order
				n--
			}
		})
	}
}

// BenchmarkApplyProcess measures the events of a process's life, each alone and
// all together.
func BenchmarkApplyProcess(b *testing.B) {
	for _, phase := range []string{"fork", "exec", "exit", "life"} {
		b.Run(phase, func(b *testing.B) {
			m, keys := population(b, 1000)
			type life struct{ fork, exec, exit *event.Event }
			lives := make([]life, batch)
			pid := uint32(5000)
			prepare := func() {
				for i := range lives {
					pid = 5000 + (pid-4999)%30000
					m.ktime += 10000
					parent := keys[int(pid)%1000]
					k := event.Key{PID: pid, Start: m.ktime}
					f := &event.Process{Key: k, PID: pid, ParentKey: parent, Name: "sh"}
					x := &event.Process{Key: k, PID: pid, ParentKey: parent, Name: "true", ExePath: fmt.Sprintf("/usr/bin/p%d", pid%50), Cwd: "/home/x"}
					f.Cgroup.CgroupKey.ID, x.Cgroup.CgroupKey.ID = 1, 1
					x.SetArgs([]string{"true", "--some", fmt.Sprint(pid)})
					lives[i] = life{
						&event.Event{Ktime: m.ktime, Actor: k, Process: f, Data: &event.Fork{}},
						&event.Event{Ktime: m.ktime, Actor: k, Process: x, Data: &event.Exec{}},
						&event.Event{Ktime: m.ktime, Actor: k, Data: &event.Exit{}},
					}
				}
				if phase == "exec" || phase == "exit" {
					for _, l := range lives {
						m.Apply(l.fork)
					}
				}
				if phase == "exit" {
					for _, l := range lives {
						m.Apply(l.exec)
					}
				}
			}
			n := batch
			b.ReportAllocs()
			for b.Loop() {
				if n == batch {
					b.StopTimer()
					if phase == "fork" || phase == "exec" {
						for _, l := range lives {
							if l.exit != nil {
								m.Apply(l.exit)
							}
						}
					}
					prepare()
					n = 0
					b.StartTimer()
				}
				l := &lives[n]
				n++
				switch phase {
				case "fork":
					m.Apply(l.fork)
				case "exec":
					m.Apply(l.exec)
				case "exit":
					m.Apply(l.exit)
				case "life":
					m.Apply(l.fork)
					m.Apply(l.exec)
					m.Apply(l.exit)
				}
			}
		})
	}
}

// BenchmarkRead measures readers beside a writer.
func BenchmarkRead(b *testing.B) {
	m, keys := population(b, 20000)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := uint64(0); ; n++ {
			select {
			case <-stop:
				return
			default:
				m.Apply(&event.Event{Ktime: 1, Actor: keys[n%1000], Data: conn("update", n%100+1, "10.0.0.1:4000", "2.2.2.2:443")})
			}
		}
	})
	b.Run("Process", func(b *testing.B) {
		n := 0
		for b.Loop() {
			m.Process(keys[n%len(keys)])
			n++
		}
	})
	b.Run("Processes20000", func(b *testing.B) {
		for b.Loop() {
			m.Processes(func(*event.Process) bool { return false })
		}
	})
	close(stop)
	wg.Wait()
}

// TestHeapUnderChurn holds the heap against what is promised: at most 128 MiB
// for the whole agent while processes come and go; with WARREN_CHURN set, a
// million of them.
func TestHeapUnderChurn(t *testing.T) {
	// More than the table of ended processes and the ring of recent snapshots
	// hold, several times over: then the heap no longer depends on how many came.
	lives := 100_000
	if os.Getenv("WARREN_CHURN") != "" {
		lives = 1_000_000
	}
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	place := m.cgroup(1, "/system.slice/work.service")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peak uint64
	start := time.Now()
	for n := range lives {
		k, _ := m.fork(init, uint32(n%30000+2), place)
		m.exec(k, place, "/usr/bin/true", "--number", fmt.Sprint(n))
		m.exit(k, 0)
		if n%5000 == 0 {
			runtime.ReadMemStats(&after)
			peak = max(peak, after.HeapInuse)
		}
	}
	took := time.Since(start).Round(time.Millisecond)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d processes in %v; heap in use: peak %d MiB; live %d MiB, of it counted %d MiB for %d processes",
		lives, took, (peak-before.HeapInuse)>>20, (after.HeapAlloc-before.HeapAlloc)>>20, m.Stats().ProcessBytes>>20, m.Stats().Exited)
	if got := peak - min(peak, before.HeapInuse); got > 80<<20 {
		t.Errorf("heap of %d MiB", got>>20)
	}
	if s := m.Stats(); s.ProcessBytes > s.ProcessBudget {
		t.Errorf("%d bytes, the budget is %d", s.ProcessBytes, s.ProcessBudget)
	}
}
