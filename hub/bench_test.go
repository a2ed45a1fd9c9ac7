package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/api"
	"warren/event"
	"warren/internal/testkit"
	"warren/kube"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{"agents": simulateAgents, "reader": readStream})
}

// What the figures are promised for.
const (
	benchNodes = 50
	benchRate  = 2000 // flows a second of each node
	benchProcs = 300  // processes of each node
)

// simulateAgents is many agents in one process: args are the directory of their
// certificates, how many, and rows a second of each. It says their addresses,
// one a line, and serves until its standard input ends.
func simulateAgents(args []string) int {
	log := slog.New(slog.DiscardHandler)
	nodes, err1 := strconv.Atoi(args[1])
	rate, err2 := strconv.Atoi(args[2])
	creds, err3 := api.OpenCredentials(args[0], log)
	if err1 != nil || err2 != nil || err3 != nil {
		fmt.Fprintln(os.Stderr, err1, err2, err3)
		return 2
	}
	ctx, stop := context.WithCancel(context.Background())
	var agents sync.WaitGroup
	defer agents.Wait()
	defer stop()
	for i := range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		fmt.Println(l.Addr())
		a := &simulated{node: fmt.Sprintf("node-%02d", i), rate: rate}
		for j := range benchProcs {
			a.list = append(a.list, a.row(j, time.Now().Add(time.Duration(j)*time.Second-time.Hour)))
		}
		mux := api.NewMux([]api.Route{
			{Pattern: "/v1/events", Params: api.Params(api.PathEvents), Handle: a.events},
			{Pattern: "/v1/processes", Params: api.Params(api.PathProcesses), Handle: a.processes},
			{Pattern: "/v1/status", Handle: func(w http.ResponseWriter, _ *http.Request, _ api.Query) error {
				return api.WriteJSON(w, map[string]any{"version": "sim", "node": a.node, "ready": true})
			}},
		}, log)
		agents.Go(func() {
			_ = api.Serve(ctx, time.Minute, log, api.Door{Listener: creds.Listen(l, "http/1.1", api.HubName), Handler: mux})
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

type simulated struct {
	node string
	rate int
	list []api.Row // processes: real agents write theirs on as many machines
}

// row returns an event of the size that connections in clusters have.
func (a *simulated) row(n int, at time.Time) api.Row {
	e := &event.Event{Time: at, Seq: uint64(n), Data: &event.Connection{
		Socket: event.Socket{Local: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Remote: netip.AddrFrom4([4]byte{10, 0, 1, 2}), LocalPort: uint16(n), RemotePort: 8080, L4: event.TCP, NetNS: 4026532000, Cookie: uint64(n)},
		Type:   "close", State: event.TCPState(7), Start: at, Duration: 1e6, BytesSent: 1234, BytesReceived: 56789, PacketsSent: 12, PacketsRecv: 34, RTT: 250_000, MinRTT: 200_000,
	}}
	b := event.AppendJSON(nil, e)
	pad := map[string]string{
		"k8s.node.name": a.node, "k8s.ns.name": "shop", "k8s.pod.name": "cart-6d4cf56db6-x2z9k", "k8s.pod.uid": "0b6b5a0e-6f0c-4b60-9d6c-4c3f4e1f0f6a", "k8s.deployment.name": "cart",
		"k8s.pod.labels[app]": "cart", "k8s.remote.pod.name": "catalog-7f9c6d5b8-q8w7e", "k8s.remote.ns.name": "shop", "k8s.remote.svc.name": "catalog", "proc.name": "cart", "proc.cmdline": "/usr/local/bin/cart --listen :8080 --catalog http://catalog:8080",
		"proc.exepath": "/usr/local/bin/cart", "container.id": "4c01db0b339c", "container.image.repository": "registry.example/shop/cart", "proc.aname": "containerd-shim systemd",
	}
	more, _ := json.Marshal(pad)
	b = append(append(b[:len(b)-1], ','), more[1:]...)
	return api.Row{Time: at.UnixNano(), Kind: "connection", Namespace: "shop", JSON: b}
}

// events tells rows as an agent does: what a millisecond brought is told then.
func (a *simulated) events(w http.ResponseWriter, req *http.Request, q api.Query) error {
	out := api.NewWriter(w, req, time.Minute, nil)
	if err := out.Flush(); err != nil {
		return err
	}
	if q["filter"] == "evt.kind = lost" {
		beat := time.NewTicker(time.Second)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
			case <-req.Context().Done():
				return nil
			}
			if err := out.Beat(); err != nil {
				return err
			}
		}
	}
	row := a.row(1, time.Now())
	begin, told := time.Now(), 0
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-req.Context().Done():
			return nil
		}
		due := int(time.Since(begin).Seconds() * float64(a.rate))
		for ; told < due; told++ {
			row.Time = begin.Add(time.Duration(told) * time.Second / time.Duration(a.rate)).UnixNano()
			if err := out.Row(row); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

func (a *simulated) processes(w http.ResponseWriter, req *http.Request, _ api.Query) error {
	out := api.NewWriter(w, req, time.Minute, nil)
	for _, r := range a.list {
		if err := out.Row(r); err != nil {
			return err
		}
	}
	return out.Flush()
}

// readStream reads a stream of the hub: args are its URL and the file of the
// authority. It says how many rows came, each quarter of a second, until its
// standard input ends.
func readStream(args []string) int {
	ca, err := os.ReadFile(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	req, err := http.NewRequest(http.MethodGet, args[0], http.NoBody)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	req.Header = admin.header
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: api.HubName}}}
	resp, err := client.Do(req) //nolint:bodyclose // it is closed below
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		fmt.Fprintln(os.Stderr, resp.Status)
		return 2
	}
	var rows, size atomic.Uint64
	go func() {
		buf := make([]byte, 256<<10)
		for {
			n, err := resp.Body.Read(buf)
			rows.Add(uint64(bytes.Count(buf[:n], []byte{'\n'})))
			size.Add(uint64(n))
			if err != nil {
				return
			}
		}
	}()
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			fmt.Println(rows.Load(), size.Load())
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// start starts a helper and returns the lines that it says.
func start(b *testing.B, cmd *exec.Cmd) *bufio.Scanner {
	b.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return bufio.NewScanner(out)
}

// benchFixture is a hub of this process with simulated agents of another one.
func benchFixture(b *testing.B) *fixture {
	ca := newAuthority(b, "warren")
	lines := start(b, testkit.Command(b, "agents", ca.Directory(b, agentLeaf.names...), strconv.Itoa(benchNodes), strconv.Itoa(benchRate)))
	var pods []kube.Agent
	for i := range benchNodes {
		if !lines.Scan() {
			b.Fatal("the agents do not listen")
		}
		at := netip.MustParseAddrPort(lines.Text())
		pods = append(pods, kube.Agent{Node: fmt.Sprintf("node-%02d", i), Pod: fmt.Sprintf("agent-%02d", i), Addr: at.Addr(), HubPort: at.Port(), Ready: true})
	}
	f := newFixture(b, ca, Config{Wait: Config{}.withDefaults().Wait, begin: beginTime})
	f.cluster.change(func(c *fakeCluster) {
		c.agents = pods
		c.tell()
	})
	testkit.Wait(b, "all agents answer", func() bool {
		r := f.hub.agents.now()
		return len(r.members) == benchNodes && !slices.ContainsFunc(r.members, func(m member) bool { return !m.agent.line().up })
	})
	return f
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMerge is a hub that merges what 50 nodes tell at 2,000 flows a second
// each, over real connections, for one reader. Agents and reader are other
// processes: what is measured is the hub. An iteration is a second's flows.
// Promised is less than one core: the processor's time by time. Where the
// machine has no time for all that, the hub is measured by what it did get: the
// time for each row, times the rows of a second.
func BenchmarkMerge(b *testing.B) {
	f := benchFixture(b)
	file := filepath.Join(b.TempDir(), "ca.crt")
	if err := os.WriteFile(file, f.ca.PEM, 0o600); err != nil {
		b.Fatal(err)
	}
	lines := start(b, testkit.Command(b, "reader", f.url+"/v1/events", file))
	var rows, size uint64
	read := func(until uint64) {
		for rows < until && lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &rows, &size); err != nil {
				b.Fatal(err)
			}
		}
		if rows < until {
			b.Fatal("the reader ended")
		}
	}
	read(benchNodes * benchRate) // all of them flow
	c := &f.hub.merged
	in := func() float64 { return float64(c.rows.Load() + c.lost.Load()) }
	begin, cpu, was, wasSize, wasIn := time.Now(), cpuTime(b), rows, size, in()
	for b.Loop() {
		read(rows + benchNodes*benchRate)
	}
	wall := time.Since(begin)
	spent := (cpuTime(b) - cpu).Seconds()
	cores := spent / (in() - wasIn) * benchNodes * benchRate
	b.ReportMetric(cores, "cores")
	b.ReportMetric(spent/wall.Seconds(), "cpu-s/s")
	b.ReportMetric((in()-wasIn)/wall.Seconds(), "rows-in/s")
	b.ReportMetric(float64(rows-was)/wall.Seconds(), "rows/s")
	b.ReportMetric(float64(size-wasSize)/float64(rows-was), "B/row")
	b.ReportMetric(float64(c.lost.Load()), "lost")
	b.ReportMetric(float64(c.late.Load()), "late")
	b.ReportMetric(float64(c.delay.Load())/float64(c.rows.Load())/1e6, "ms-merge")
	if cores >= 1 {
		b.Errorf("the hub takes %.2f cores, promised are less than 1", cores)
	}
}

// BenchmarkFirstAnswer is how long it takes until the first row comes of a list
// of the processes of 50 nodes, of which half a second is promised, and until
// all of them have come.
func BenchmarkFirstAnswer(b *testing.B) {
	f := benchFixture(b)
	client := f.client(admin)
	var first, whole []time.Duration
	for b.Loop() {
		begin := time.Now()
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, f.url+"/v1/processes", http.NoBody)
		if err != nil {
			b.Fatal(err)
		}
		req.Header = admin.header
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		in := bufio.NewScanner(resp.Body)
		rows := 0
		for ; in.Scan(); rows++ {
			if rows == 0 {
				first = append(first, time.Since(begin))
			}
		}
		resp.Body.Close()
		whole = append(whole, time.Since(begin))
		if rows != benchNodes*benchProcs+1 {
			b.Fatalf("%d rows came", rows)
		}
	}
	median := func(list []time.Duration) time.Duration { return slices.Sorted(slices.Values(list))[len(list)/2] }
	b.ReportMetric(median(first).Seconds()*1e3, "ms-first")
	b.ReportMetric(median(whole).Seconds()*1e3, "ms-whole")
	if m := median(first); m > 500*time.Millisecond {
		b.Errorf("the first row came after %v, promised is half a second", m)
	}
}
