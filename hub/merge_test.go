package hub

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/api"
)

// at is a moment of the tests in this file: milliseconds after some begin.
func at(ms int) time.Time {
	return time.Unix(900_000_000, 0).Add(time.Duration(ms) * time.Millisecond)
}

// rowsAt returns rows that happened then; what they say is when.
func rowsAt(times ...int) (rows []api.Row) {
	for _, ms := range times {
		rows = append(rows, api.Row{Time: at(ms).UnixNano(), Kind: "exec", JSON: fmt.Appendf(nil, "%d", ms)})
	}
	return rows
}

func said(rows []api.Row) string {
	var words []string
	for _, r := range rows {
		words = append(words, string(r.JSON))
	}
	return strings.Join(words, " ")
}

const testWait = 250 * time.Millisecond

func bigPool() *pool { return &pool{most: 1 << 40} }

func liveMerger(most int) *merger[api.Row] {
	return newMerger(rowForm(live), live, testWait, most, bigPool(), &mergeCount{})
}

// wantTake takes everything whose turn has come and checks what it says.
func wantTake(t *testing.T, m *merger[api.Row], now time.Time, want string) (again time.Time) {
	t.Helper()
	rows, again := m.take(nil, 1<<20, now)
	if got := said(rows); got != want {
		t.Errorf("at %v taken %q, want %q", now.Sub(at(0)), got, want)
	}
	return again
}

func TestMergeOrder(t *testing.T) {
	m := liveMerger(1 << 20)
	a, b := m.source(at(0)), m.source(at(0))
	a.push(rowsAt(10, 40), 0, 0, at(50))
	again := wantTake(t, m, at(50), "") // b may still tell of what was before
	if want := at(50).Add(testWait); !again.Equal(want) {
		t.Errorf("asked again after %v, want %v", again.Sub(at(0)), want.Sub(at(0)))
	}
	b.push(rowsAt(20, 30), 0, 0, at(60))
	wantTake(t, m, at(60), "10 20 30") // 40 waits for b, which is at 30
	b.push(rowsAt(50), 0, 0, at(65))
	wantTake(t, m, at(65), "40")
	a.end()
	wantTake(t, m, at(66), "50")
}

func TestMergeIdleNodeHoldsNobodyForLong(t *testing.T) {
	m := liveMerger(1 << 20)
	a := m.source(at(0))
	m.source(at(0)) // never tells anything
	a.push(rowsAt(10), 0, 0, at(12))
	wantTake(t, m, at(12), "")
	wantTake(t, m, at(12).Add(testWait-1), "")
	wantTake(t, m, at(12).Add(testWait), "10")
	// What is old when it comes, as the past that a stream begins with, waits as
	// long for what is older.
	c := m.source(at(300))
	a.push(rowsAt(20), 0, 0, at(300))
	c.push(rowsAt(15), 0, 0, at(320))
	wantTake(t, m, at(300).Add(testWait), "15 20")
}

func TestMergeClockLetsGo(t *testing.T) {
	m := liveMerger(1 << 20)
	a, b := m.source(at(0)), m.source(at(0))
	a.push(rowsAt(10), 0, 0, at(12))
	b.push(nil, at(100).UnixNano(), 0, at(101)) // a sign of life: nothing happened until its reader last looked
	wantTake(t, m, at(101), "")
	b.push(nil, at(111).UnixNano(), 0, at(112))
	wantTake(t, m, at(112), "10")
}

func TestMergePausedNodeHoldsNobody(t *testing.T) {
	m := liveMerger(1 << 20)
	a, b := m.source(at(0)), m.source(at(0))
	b.pause()
	a.push(rowsAt(10), 0, 0, at(12))
	wantTake(t, m, at(12), "10")
	b.push(rowsAt(11), 0, 0, at(13)) // it is back: late, and told
	wantTake(t, m, at(13).Add(testWait), "11")
	if n := m.count.late.Load(); n != 0 {
		t.Errorf("%d rows were late, want none", n)
	}
}

// TestMergeGivesBack: nothing that comes when nobody takes any more has a part of the
// memory that all mergers share.
func TestMergeGivesBack(t *testing.T) {
	m := liveMerger(1 << 20)
	a := m.source(at(0))
	a.push(rowsAt(10), at(11).UnixNano(), 0, at(12))
	a.pause()
	m.close()
	a.push(rowsAt(20), at(21).UnixNano(), 0, at(22))
	if held := m.pool.held.Load(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
}

func TestMergeClocksMinutesApart(t *testing.T) {
	m := liveMerger(1 << 20)
	ahead, behind := m.source(at(0)), m.source(at(0))
	const minutes = 7 * time.Minute
	tell := func(s *source[api.Row], off time.Duration, ms int) {
		r := rowsAt(ms)
		r[0].Time += int64(off)
		s.push(r, 0, off, at(ms+1))
	}
	for i := range 10 {
		tell(ahead, minutes, 20*i)
		tell(behind, -minutes, 20*i+10)
	}
	ahead.end()
	behind.end()
	rows, _ := m.take(nil, 100, at(1000))
	if got, want := said(rows), "0 10 20 30 40 50 60 70 80 90 100 110 120 130 140 150 160 170 180 190"; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
	if got, want := rows[0].Time, at(0).Add(minutes).UnixNano(); got != want {
		t.Errorf("the time of a row became %d, want it as its node said it, %d", got, want)
	}
}

func TestMergeTimeFromTheFuture(t *testing.T) {
	// A clock that jumped, and is not measured yet: the row is not held until
	// that time comes.
	m := liveMerger(1 << 20)
	a := m.source(at(0))
	m.source(at(0))
	r := rowsAt(10)
	r[0].Time = at(0).Add(time.Hour).UnixNano()
	a.push(r, 0, 0, at(20))
	wantTake(t, m, at(20).Add(testWait), "10")
}

func TestMergeNodeKeepsItsOrder(t *testing.T) {
	m := liveMerger(1 << 20)
	a, b := m.source(at(0)), m.source(at(0))
	a.push(rowsAt(30, 10, 20, 40), 0, 0, at(50)) // 10 and 20 had to wait for their container
	b.push(rowsAt(35), 0, 0, at(50))
	a.end()
	b.end()
	wantTake(t, m, at(51), "30 10 20 35 40")
}

func TestMergeLoss(t *testing.T) {
	m := liveMerger(10 * (rowCost + 2))
	a := m.source(at(0))
	var times []int
	for i := range 14 {
		times = append(times, 10+i)
	}
	rows := rowsAt(times...)
	rows[12].Kind = "exit"
	a.push(rows, 0, 0, at(50))
	taken, _ := m.take(nil, 100, at(1000))
	a.push(rowsAt(60), 0, 0, at(1001))
	more, _ := m.take(nil, 100, at(2000))
	taken = append(taken, more...)
	if got, want := said(taken[:10]), "10 11 12 13 14 15 16 17 18 19"; got != want {
		t.Errorf("before the loss %q, want %q", got, want)
	}
	var lost []string
	for _, r := range taken[10:12] {
		var e map[string]any
		if err := json.Unmarshal(r.JSON, &e); err != nil || r.Kind != "lost" {
			t.Fatalf("after what was lost comes %s %s, want that it was", r.Kind, r.JSON)
		}
		lost = append(lost, fmt.Sprint(e["lost.kind"], " ", e["lost.count"], " ", e["lost.lane"], " ", e["lost.consumer"]))
	}
	if want := []string{"exec 3 queue hub", "exit 1 queue hub"}; !slices.Equal(lost, want) {
		t.Errorf("lost %q, want %q", lost, want)
	}
	if got := string(taken[12].JSON); got != "60" {
		t.Errorf("after the loss comes %s, want 60", got)
	}
	if n := m.count.lost.Load(); n != 4 {
		t.Errorf("%d rows are counted as lost, want 4", n)
	}
}

// TestMergeLossOfManyKinds holds that who makes up kinds takes no memory by it.
func TestMergeLossOfManyKinds(t *testing.T) {
	m := liveMerger(rowCost + 2)
	a := m.source(at(0))
	a.push(rowsAt(10), 0, 0, at(50))
	for i := range 2 * mostLost {
		rows := rowsAt(20)
		rows[0].Kind = fmt.Sprint("kind-", i)
		a.push(rows, 0, 0, at(60))
	}
	sum := uint64(0)
	for _, l := range a.lost {
		sum += l.count
	}
	if len(a.lost) != mostLost || sum != 2*mostLost {
		t.Errorf("%d losses of %d kinds are told, want %d of %d", sum, len(a.lost), 2*mostLost, mostLost)
	}
}

func TestMergeLossAtTheEndIsTold(t *testing.T) {
	m := liveMerger(2 * (rowCost + 2))
	a := m.source(at(0))
	a.push(rowsAt(10, 11, 12), 0, 0, at(20))
	rows, again := m.take(nil, 100, at(1000))
	if !again.Equal(at(1000)) {
		t.Errorf("asked again at %v, want at once", again)
	}
	more, _ := m.take(nil, 100, at(2000))
	if rows = append(rows, more...); len(rows) != 3 || rows[2].Kind != "lost" {
		t.Errorf("taken %q, want two rows and what was lost", said(rows))
	}
}

func TestMergeFullGoesOnOutOfOrder(t *testing.T) {
	// A client that reads fast loses nothing because a node is quiet.
	m := liveMerger(10 * (rowCost + 2))
	a := m.source(at(0))
	m.source(at(0))
	a.push(rowsAt(10, 11, 12, 13, 14, 15, 16, 17), 0, 0, at(20))
	wantTake(t, m, at(20), "10 11 12")
}

func TestMergeFiniteWaitsForHeads(t *testing.T) {
	m := newMerger(rowForm(finite), finite, testWait, 1<<20, bigPool(), &mergeCount{})
	a, b := m.source(at(0)), m.source(at(0))
	old := rowsAt(1, 5) // of last year, for all the merger knows
	a.push(old, 0, 0, at(10))
	again := wantTake(t, m, at(10), "")
	if want := at(0).Add(testWait); !again.Equal(want) {
		t.Errorf("asked again after %v, want %v", again.Sub(at(0)), testWait)
	}
	b.push(rowsAt(3), 0, 0, at(20))
	b.end()
	wantTake(t, m, at(20), "1 3 5")
	// A node that takes too long: others' rows go on.
	c := m.source(at(20))
	a.push(rowsAt(7), 0, 0, at(30))
	wantTake(t, m, at(30), "")
	wantTake(t, m, at(20).Add(testWait), "7")
	c.push(rowsAt(6), 0, 0, at(600))
	c.end()
	a.end()
	wantTake(t, m, at(600), "6")
	if n := m.count.late.Load(); n != 1 {
		t.Errorf("%d rows were late, want 1", n)
	}
}

func TestMergeFiniteLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerger(rowForm(finite), finite, testWait, 4*(rowCost+5), bigPool(), &mergeCount{})
		var times []int
		var feeds sync.WaitGroup
		for i := range 3 {
			s := m.source(time.Now())
			feeds.Go(func() {
				defer s.end()
				for j := range 200 {
					s.push(rowsAt(10*j+i), 0, 0, time.Now())
				}
			})
		}
		for j := range 200 {
			times = append(times, 10*j, 10*j+1, 10*j+2)
		}
		var got []api.Row
		for len(got) < len(times) {
			rows, _ := m.take(nil, 7, time.Now())
			if got = append(got, rows...); len(rows) == 0 {
				<-m.wake
			}
		}
		feeds.Wait()
		if got, want := said(got), said(rowsAt(times...)); got != want {
			t.Errorf("taken\n%s\nwant\n%s", got, want)
		}
	})
}

func TestMergeCloseFreesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerger(rowForm(finite), finite, testWait, 1, bigPool(), &mergeCount{})
		s := m.source(time.Now())
		gone := make(chan struct{})
		go func() {
			s.push(rowsAt(1, 2, 3), 0, 0, time.Now())
			close(gone)
		}()
		synctest.Wait()
		select {
		case <-gone:
			t.Fatal("rows for which there is no room were taken in")
		default:
		}
		m.close()
		<-gone
	})
}

func TestMergePoolIsShared(t *testing.T) {
	p := &pool{most: 4 << 20}
	mergers := make([]*merger[api.Row], 4)
	big := func() []api.Row {
		return []api.Row{{Time: at(10).UnixNano(), Kind: "exec", JSON: make([]byte, 64<<10)}}
	}
	for i := range mergers {
		mergers[i] = newMerger(rowForm(live), live, testWait, 1<<30, p, &mergeCount{})
		s := mergers[i].source(at(0))
		for range 100 {
			s.push(big(), 0, 0, at(20))
		}
	}
	if held := p.held.Load(); held > p.most+int64(len(mergers))*fairBytes {
		t.Errorf("%d bytes wait, of at most %d", held, p.most)
	}
	for i, m := range mergers {
		rows, _ := m.take(nil, 1000, at(1000))
		if size := len(rows) * 64 << 10; size < fairBytes-(64<<10) {
			t.Errorf("client %d found room for %d bytes, %d are everybody's", i, size, fairBytes)
		}
		m.close()
	}
	if held := p.held.Load(); held != 0 {
		t.Errorf("%d bytes are held by nobody", held)
	}
}

func TestMergeClosedHoldsNothing(t *testing.T) {
	p := bigPool()
	m := newMerger(rowForm(live), live, testWait, 1<<20, p, &mergeCount{})
	s := m.source(at(0))
	s.push(rowsAt(10), 0, 0, at(20))
	m.close()
	s.push(rowsAt(11), 0, 0, at(21))
	if held := p.held.Load(); held != 0 {
		t.Errorf("%d bytes are held by a client that has gone", held)
	}
}

func TestMergeNotices(t *testing.T) {
	m := liveMerger(1 << 20)
	a := m.source(at(0))
	m.source(at(0))
	a.push(rowsAt(10), 0, 0, at(11))
	m.notice(api.Row{Kind: "nodes", JSON: []byte("nodes")})
	wantTake(t, m, at(12), "nodes")
}

// TestMergeRandom holds the merger against sorting: rows that come in time are
// passed on in order, whatever the nodes do, and all of them.
func TestMergeRandom(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m := liveMerger(1 << 30)
		var nodes []*source[api.Row]
		for range 1 + rnd.IntN(6) {
			nodes = append(nodes, m.source(at(0)))
		}
		type row struct{ node, time, came int }
		var coming []row
		last := make([]int, len(nodes)) // a connection delivers in order
		for i := range 300 {
			n := rnd.IntN(len(nodes))
			came := max(last[n], i+rnd.IntN(200))
			last[n] = came
			coming = append(coming, row{n, i, came})
		}
		slices.SortStableFunc(coming, func(a, b row) int { return a.came - b.came })
		var got []api.Row
		next := 0
		for now := range 1000 {
			for ; next < len(coming) && coming[next].came == now; next++ {
				nodes[coming[next].node].push(rowsAt(coming[next].time), 0, 0, at(now))
			}
			rows, _ := m.take(nil, 1+rnd.IntN(50), at(now))
			got = append(got, rows...)
		}
		if len(got) != 300 {
			t.Fatalf("seed %d: %d rows of 300 were passed on", seed, len(got))
		}
		if !slices.IsSortedFunc(got, func(a, b api.Row) int { return int(a.Time - b.Time) }) {
			t.Fatalf("seed %d: not in order: %s", seed, said(got))
		}
	}
}

func TestSkew(t *testing.T) {
	var s skew
	if _, ok := s.offset(); ok {
		t.Error("an offset is known before it was measured")
	}
	for i := range 20 {
		// Ten seconds ahead; on the way for 3 to 22 ms.
		s.measure(at(10_000+100*i).UnixNano(), at(100*i+3+(i*7)%20))
	}
	if d, ok := s.offset(); !ok || d < 9_990*time.Millisecond || d > 9_997*time.Millisecond {
		t.Errorf("offset %v, want that of the fastest way", d)
	}
	if s.correction() == 0 {
		t.Error("ten seconds are not corrected")
	}
	var ntp skew
	ntp.measure(at(0).UnixNano(), at(20))
	if d := ntp.correction(); d != 0 {
		t.Errorf("a clock that agrees is corrected by %v", d)
	}
	ntp.measure(0, at(30))
	if d, _ := ntp.offset(); d != -20*time.Millisecond {
		t.Errorf("an agent without a clock moved the offset to %v", d)
	}
}
