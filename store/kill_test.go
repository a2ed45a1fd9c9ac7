package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
)

// TestMain is also the child of tests that need another process.
func TestMain(m *testing.M) {
	switch os.Getenv("WARREN_STORE_CHILD") {
	case "open":
		_, err := Open(Config{Dir: os.Getenv("WARREN_STORE_DIR")}, quiet())
		fmt.Println(err)
		return
	case "flood":
		if err := flood(os.Getenv("WARREN_STORE_DIR")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// slots is for how many milliseconds a child notes what it has appended.
const slots = 1 << 14

// notes is memory that a child shares with its parent: how many events it had
// appended when each millisecond began, counted from the first.
func notes(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(8 * slots); err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, 8*slots, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// flood appends some hundred events each millisecond, until it is killed.
func flood(dir string) error {
	said, err := notes(filepath.Join(dir, "notes"))
	if err != nil {
		return err
	}
	round, err := strconv.ParseUint(os.Getenv("WARREN_STORE_ROUND"), 10, 32)
	if err != nil {
		return err
	}
	begin, err := strconv.ParseInt(os.Getenv("WARREN_STORE_BEGIN"), 10, 64)
	if err != nil {
		return err
	}
	s, err := Open(Config{Dir: filepath.Join(dir, "history"), SegmentBytes: 512 << 10}, quiet())
	if err != nil {
		return err
	}
	go func() { _ = s.Run(context.Background()) }()
	parent := &event.Process{Key: event.Key{PID: 1, Start: 1}, Name: "init"}
	seq := uint64(0)
	each := 100
	if raceEnabled {
		each = 4 // the detector is some twenty times slower
	}
	for range time.NewTicker(time.Millisecond).C {
		now := time.Now()
		for range each {
			seq++
			p := &event.Process{Key: event.Key{PID: uint32(round), Start: seq / 50}, Name: "x", Parent: parent}
			s.Append(connection(seq, p, now, uint16(seq)))
		}
		if at := time.Now().UnixNano() - begin; at/1e6 < slots {
			binary.LittleEndian.PutUint64(said[at/1e6*8:], seq)
		}
	}
	return nil
}

// TestKilled: a process that is killed while it appends has lost nothing that was
// older than a second, and what it leaves can be read.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	said, err := notes(filepath.Join(dir, "notes"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(said) }()
	for round := 1; round <= 4; round++ {
		clear(said)
		begin := time.Now()
		c := exec.Command(exe)
		c.Env = append(os.Environ(), "WARREN_STORE_CHILD=flood", "WARREN_STORE_DIR="+dir, fmt.Sprint("WARREN_STORE_ROUND=", round), fmt.Sprint("WARREN_STORE_BEGIN=", begin.UnixNano()))
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(1000+rand.IntN(1500)) * time.Millisecond)
		killed := time.Now()
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // killed, as it should be
		// What had been appended a second before it was killed.
		var safe uint64
		for i := range min(slots, max(0, int(killed.Sub(begin).Milliseconds())-1000)) {
			safe = max(safe, binary.LittleEndian.Uint64(said[i*8:]))
		}
		s := openAt(t, Config{Dir: filepath.Join(dir, "history")})
		st := s.Status()
		if st.Torn.DamagedFrames != 0 || st.Torn.Unreadable != 0 {
			t.Fatalf("round %d: %+v", round, st.Torn)
		}
		found := map[uint64]bool{}
		var told uint64 // as lost: on a machine that is too slow for the flood
		for _, e := range all(t, s, Query{Since: begin}) {
			if l, ok := e.Data.(*event.Lost); ok {
				told += l.Count
				continue
			}
			if e.Process == nil || e.Process.PID != 0 && e.Process.Parent == nil {
				t.Fatalf("round %d: event %d has lost its process", round, e.Seq)
			}
			if e.Actor.PID == uint32(round) {
				if found[e.Seq] {
					t.Fatalf("round %d: event %d stands twice", round, e.Seq)
				}
				found[e.Seq] = true
			}
		}
		missing, first, last := uint64(0), uint64(0), uint64(0)
		for n := uint64(1); n <= safe; n++ {
			if !found[n] {
				missing++
				last = n
				if first == 0 {
					first = n
				}
			}
		}
		if missing > told {
			t.Fatalf("round %d: of %d events that were a second old %d are missing (from %d to %d), and %d are told lost; %d are there", round, safe, missing, first, last, told, len(found))
		}
		t.Logf("round %d: %d events were a second old, %d are there, %d are told lost, torn %+v", round, safe, len(found), told, st.Torn)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
