package socket

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// prefixed is messages as TCP carries them.
func prefixed(msgs ...string) []byte {
	var b []byte
	for _, m := range msgs {
		b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
		b = append(b, m...)
	}
	return b
}

// long is a message of n bytes.
func long(n int) string { return string(bytes.Repeat([]byte{'m'}, n)) }

func TestStream(t *testing.T) {
	const first, second, third = "message of 19 bytes", "another message", "and the third message"
	all := prefixed(first, second, third)
	const isn = 1<<32 - 10 // sequence numbers wrap
	at := func(i, j int) segment { return segment{seq: uint32((isn + 1 + i) & 0xffffffff), data: all[i:j]} }
	syn := segment{seq: isn, flags: tcpSYN}
	fin := segment{seq: uint32((isn + 1 + len(all)) & 0xffffffff), flags: tcpFIN}
	n := len(all)
	tests := []struct {
		name     string
		segments []segment
		want     []string
		left     bool // the stream is still known
	}{
		{"at once", []segment{syn, at(0, n), fin}, []string{first, second, third}, false},
		{"open", []segment{syn, at(0, n)}, []string{first, second, third}, true},
		{"byte by byte", append([]segment{syn}, bytewise(at, n)...), []string{first, second, third}, true},
		{"joined late", []segment{at(21, n), fin}, []string{second, third}, false},
		{"sent again", []segment{syn, at(0, 30), at(0, 30), at(10, n), at(0, n), fin}, []string{first, second, third}, false},
		{"out of order", []segment{syn, at(30, 40), at(40, n), at(10, 30), at(0, 10), fin}, []string{first, second, third}, false},
		{"backwards, the end first", []segment{syn, fin, at(40, n), at(20, 40), at(0, 20)}, []string{first, second, third}, false},
		{"a hole", []segment{syn, at(0, 25), at(30, n)}, []string{first}, true},
		{"a hole and the end", []segment{syn, at(0, 25), at(30, n), fin}, []string{first}, true},
		{"reset", []segment{syn, at(0, 25), {flags: tcpRST}, at(25, 26)}, []string{first}, true},
		{"data with SYN", []segment{{seq: isn, flags: tcpSYN, data: all}, fin}, []string{first, second, third}, false},
		{"begun again", []segment{syn, at(0, 5), {seq: 99, flags: tcpSYN}, {seq: 100, data: all}}, []string{first, second, third}, true},
		{"the end alone", []segment{fin}, nil, false},
		{"end with data", []segment{syn, {seq: at(0, 0).seq, flags: tcpFIN, data: all}}, []string{first, second, third}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ss streams
			var got []string
			for _, sg := range tt.segments {
				ss.add(streamKey{}, sg, func(m []byte) bool { got = append(got, string(m)); return true })
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if (len(ss.m) == 1) != tt.left {
				t.Errorf("%d streams left", len(ss.m))
			}
			if len(ss.m) == 0 && ss.bytes != 0 {
				t.Errorf("%d bytes of no stream", ss.bytes)
			}
		})
	}
}

func bytewise(at func(i, j int) segment, n int) (out []segment) {
	for i := range n {
		out = append(out, at(i, i+1))
	}
	return out
}

func TestStreamLimits(t *testing.T) {
	accept := func([]byte) bool { return true }
	t.Run("no DNS", func(t *testing.T) {
		var ss streams
		calls := 0
		refuse := func([]byte) bool { calls++; return false }
		ss.add(streamKey{}, segment{seq: 1, data: prefixed(long(50), long(50))}, refuse)
		ss.add(streamKey{}, segment{seq: 105, data: prefixed(long(50))}, refuse)
		if calls != 1 || ss.bytes != 0 || ss.dropped != 1 {
			t.Errorf("%d messages, %d bytes, %d dropped", calls, ss.bytes, ss.dropped)
		}
		ss.add(streamKey{}, segment{seq: 157, flags: tcpFIN}, refuse)
		if len(ss.m) != 0 {
			t.Error("the stream is kept")
		}
	})
	t.Run("too short for a header", func(t *testing.T) {
		var ss streams
		ss.add(streamKey{}, segment{seq: 1, data: prefixed("short")}, func([]byte) bool { t.Error("message"); return true })
		if ss.dropped != 1 {
			t.Error("not dropped")
		}
	})
	t.Run("longest message", func(t *testing.T) {
		var ss streams
		msg, got := prefixed(long(65535)), 0
		for i := 0; i < len(msg); i += 1000 {
			ss.add(streamKey{}, segment{seq: uint32(i), data: msg[i:min(i+1000, len(msg))]}, func(m []byte) bool { got = len(m); return true })
		}
		if got != 65535 || ss.bytes != 0 {
			t.Errorf("%d bytes, %d held", got, ss.bytes)
		}
	})
	t.Run("a hole that is never filled", func(t *testing.T) {
		var ss streams
		ss.add(streamKey{}, segment{seq: 0, flags: tcpSYN}, accept)
		for i := range 100 {
			ss.add(streamKey{}, segment{seq: uint32(10 + 1000*i), data: make([]byte, 1000)}, accept)
			if ss.bytes > maxPendingBytes {
				t.Fatalf("%d bytes", ss.bytes)
			}
		}
		if ss.dropped != 1 || ss.bytes != 0 {
			t.Errorf("%d dropped, %d bytes", ss.dropped, ss.bytes)
		}
	})
	t.Run("many streams", func(t *testing.T) {
		var ss streams
		for i := range 3 * maxStreams {
			// Each wants more than it gets.
			ss.add(streamKey{netns: uint32(i)}, segment{seq: 1, data: append([]byte{255, 255}, make([]byte, 60000)...)}, accept)
			if ss.bytes > maxStreamBytes+61000 || len(ss.m) > maxStreams {
				t.Fatalf("%d bytes in %d streams", ss.bytes, len(ss.m))
			}
		}
		if _, ok := ss.m[streamKey{netns: 3*maxStreams - 1}]; !ok {
			t.Error("the newest is gone")
		}
		if ss.dropped == 0 {
			t.Error("none was dropped")
		}
	})
}

// TestStreamShuffled cuts and shuffles at random within what is kept.
func TestStreamShuffled(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var msgs []string
		for range 1 + rnd.IntN(5) {
			msgs = append(msgs, long(minDNSMessage+rnd.IntN(3000)))
		}
		all := prefixed(msgs...)
		var segments []segment
		for i := 0; i < len(all); {
			n := min(1+rnd.IntN(1500), len(all)-i)
			segments = append(segments, segment{seq: uint32(i + 1), data: all[i : i+n]})
			if rnd.IntN(4) == 0 { // overlaps
				segments = append(segments, segment{seq: uint32(max(i-100, 0) + 1), data: all[max(i-100, 0) : i+n]})
			}
			i += n
		}
		rnd.Shuffle(len(segments), func(i, j int) { segments[i], segments[j] = segments[j], segments[i] })
		var ss streams
		var got []string
		message := func(m []byte) bool { got = append(got, string(m)); return true }
		ss.add(streamKey{}, segment{seq: 0, flags: tcpSYN}, message)
		for _, sg := range segments {
			ss.add(streamKey{}, sg, message)
		}
		if !slices.Equal(got, msgs) {
			t.Fatalf("seed %d: %d messages of %d, %d dropped", seed, len(got), len(msgs), ss.dropped)
		}
		held := 0
		for _, st := range ss.m {
			held += len(st.buf) + st.waiting
		}
		if held != ss.bytes {
			t.Fatalf("seed %d: %d bytes held, %d counted", seed, held, ss.bytes)
		}
	}
}

func FuzzStream(f *testing.F) {
	f.Add(prefixed("message of 19 bytes"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var ss streams
		for len(b) >= 8 {
			n := min(int(b[5]), len(b)-8)
			sg := segment{seq: uint32(binary.BigEndian.Uint16(b[1:])), flags: b[3] & 7, data: b[8 : 8+n]}
			ss.add(streamKey{netns: uint32(b[0] & 1)}, sg, func(m []byte) bool {
				if len(m) < minDNSMessage {
					t.Fatalf("message of %d bytes", len(m))
				}
				return b[4]&1 == 0
			})
			b = b[8+n:]
		}
		held := 0
		for _, st := range ss.m {
			held += len(st.buf) + st.waiting
		}
		if held != ss.bytes {
			t.Fatalf("%d bytes held, %d counted", held, ss.bytes)
		}
	})
}
