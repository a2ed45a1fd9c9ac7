package socket

import (
	"encoding/binary"
	"net/netip"
)

// Limits of the streams that are put together from segments.
const (
	maxStreams      = 256
	maxStreamBytes  = 4 << 20  // of all streams together
	maxPendingBytes = 64 << 10 // of one stream, beyond a hole
	maxPending      = 64       // segments of one stream, beyond a hole
	lengthPrefix    = 2        // bytes before a DNS message over TCP (RFC 1035, 4.2.2)
	maxDNSMessage   = 1<<16 - 1
	minDNSMessage   = 12 // its header
)

// TCP flags, as they are sent.
const (
	tcpFIN = 1
	tcpSYN = 2
	tcpRST = 4
)

// A streamKey names one direction of a TCP connection.
type streamKey struct {
	local, remote netip.AddrPort
	netns         uint32
	egress        bool
}

// A segment is what one record carries of a stream.
type segment struct {
	seq   uint32 // of the first byte of data, or of SYN
	flags uint8
	data  []byte
}

// A stream is one direction of a connection that carries DNS messages, each
// after its length.
type stream struct {
	buf     []byte    // contiguous, from the beginning of a message
	pending []segment // beyond a hole; the data is ours
	waiting int       // bytes of pending
	next    uint32    // sequence number after buf
	began   bool      // next is known
	fin     bool      // nothing comes beyond finAt
	finAt   uint32
	dead    bool // no DNS, or out of step: nothing until the next SYN
	used    uint64
}

// streams puts DNS messages over TCP together. Segments come in the order in
// which they were sent or received: with repetitions, out of order, and with
// holes where a record was lost or a segment was too long. Its memory is
// bounded: the stream that was not used for longest goes first.
type streams struct {
	m     map[streamKey]*stream
	bytes int
	clock uint64
	// dropped counts streams that were given up before their end.
	dropped uint64
}

// add takes a segment and calls message with each message that it completes,
// valid during the call only. message returns false for what is no DNS: the
// rest of the stream is then passed over. The data is copied if it is kept.
func (ss *streams) add(key streamKey, sg segment, message func(msg []byte) bool) {
	ss.clock++
	st := ss.m[key]
	if sg.flags&tcpSYN != 0 {
		if st != nil {
			ss.remove(key, st)
		}
		st = ss.open(key)
		st.next, st.began = sg.seq+1, true
		sg.seq++
	}
	if st == nil {
		if len(sg.data) == 0 {
			return // the end of a stream that nothing is known of
		}
		st = ss.open(key)
	}
	st.used = ss.clock
	if sg.flags&tcpRST != 0 {
		ss.remove(key, st)
		return
	}
	if !st.began {
		// Joined late: take this for the beginning of a message; if it is not,
		// message will tell.
		st.next, st.began = sg.seq, true
	}
	if sg.flags&tcpFIN != 0 && !st.fin {
		st.fin, st.finAt = true, sg.seq+uint32(len(sg.data))
	}
	if !st.dead {
		ss.take(st, sg, message)
	}
	if st.fin && (st.dead || st.next == st.finAt) {
		ss.remove(key, st)
	}
}

// take adds a segment to a living stream, and those that it joins.
func (ss *streams) take(st *stream, sg segment, message func([]byte) bool) {
	if ahead := int32(sg.seq - st.next); ahead > 0 {
		ss.postpone(st, sg)
		return
	}
	ss.append(st, sg, message)
	for joined := true; joined && !st.dead; {
		joined = false
		for i, p := range st.pending {
			if int32(p.seq-st.next) > 0 {
				continue
			}
			last := len(st.pending) - 1
			st.pending[i] = st.pending[last]
			st.pending[last] = segment{}
			st.pending = st.pending[:last]
			st.waiting -= len(p.data)
			ss.bytes -= len(p.data)
			ss.append(st, p, message)
			joined = true
			break
		}
	}
}

// postpone keeps a segment that lies beyond a hole.
func (ss *streams) postpone(st *stream, sg segment) {
	if len(sg.data) == 0 {
		return
	}
	for _, p := range st.pending {
		if p.seq == sg.seq && len(p.data) >= len(sg.data) {
			return // sent again
		}
	}
	if len(st.pending) == maxPending || st.waiting+len(sg.data) > maxPendingBytes {
		ss.kill(st) // the hole will not be filled
		return
	}
	st.pending = append(st.pending, segment{seq: sg.seq, data: append([]byte(nil), sg.data...)})
	st.waiting += len(sg.data)
	ss.bytes += len(sg.data)
	ss.bound(st)
}

// append adds the part of a segment that is new, and delivers whole messages.
func (ss *streams) append(st *stream, sg segment, message func([]byte) bool) {
	old := st.next - sg.seq
	if old >= uint32(len(sg.data)) {
		return // nothing but repetition
	}
	data := sg.data[old:]
	st.next += uint32(len(data))
	st.buf = append(st.buf, data...)
	ss.bytes += len(data)
	off := 0
	for {
		n := messageLen(st.buf[off:])
		if n < 0 || n >= minDNSMessage && len(st.buf)-off < lengthPrefix+n {
			break // the rest is to come
		}
		if n < minDNSMessage || !message(st.buf[off+lengthPrefix:off+lengthPrefix+n]) {
			ss.kill(st)
			return
		}
		off += lengthPrefix + n
	}
	if off == len(st.buf) {
		st.buf = nil // streams mostly carry one message
	} else {
		st.buf = st.buf[:copy(st.buf, st.buf[off:])]
	}
	ss.bytes -= off
	ss.bound(st)
}

// messageLen is the length that stands before a message, -1 if it is not there.
func messageLen(b []byte) int {
	if len(b) < lengthPrefix {
		return -1
	}
	return int(binary.BigEndian.Uint16(b))
}

func (ss *streams) open(key streamKey) *stream {
	if ss.m == nil {
		ss.m = map[streamKey]*stream{}
	}
	if len(ss.m) >= maxStreams {
		ss.evict(nil)
	}
	st := &stream{used: ss.clock}
	ss.m[key] = st
	return st
}

// bound keeps all streams together below their limit; st is in use.
func (ss *streams) bound(st *stream) {
	for ss.bytes > maxStreamBytes && len(ss.m) > 1 {
		ss.evict(st)
	}
}

// evict gives up the stream that was not used for longest, except one.
func (ss *streams) evict(except *stream) {
	var oldest streamKey
	var found *stream
	for k, st := range ss.m {
		if st != except && (found == nil || st.used < found.used) {
			oldest, found = k, st
		}
	}
	if found != nil {
		if len(found.buf)+found.waiting > 0 {
			ss.dropped++
		}
		ss.remove(oldest, found)
	}
}

// kill frees what a stream holds and passes over the rest of it.
func (ss *streams) kill(st *stream) {
	ss.free(st)
	st.dead = true
	ss.dropped++
}

func (ss *streams) free(st *stream) {
	ss.bytes -= len(st.buf) + st.waiting
	st.buf, st.pending, st.waiting = nil, nil, 0
}

func (ss *streams) remove(key streamKey, st *stream) {
	ss.free(st)
	delete(ss.m, key)
}
