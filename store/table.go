package store

import (
	"encoding/binary"

	"warren/event"
)

// RememberLiving writes down which processes live now, for [Store.Processes]: an
// agent that has come to know them calls it, because what it knew when its history
// began was nothing. Any goroutine may call it.
func (s *Store) RememberLiving() {
	s.encoding.Lock()
	defer s.encoding.Unlock()
	if g := s.active(); g != nil && s.cfg.Living != nil {
		s.appendTable(g)
	}
}

// appendTable writes which processes live: the snapshots, and a frame that names
// them. The caller holds s.encoding.
func (s *Store) appendTable(g *segment) {
	now := s.cfg.Now().UnixNano()
	var numbers []int64
	for p := range s.cfg.Living() {
		if p != nil && p.Exited == nil {
			numbers = append(numbers, s.snaps.number(p, now).number)
		}
		if len(s.snaps.rows) >= maxProcesses {
			s.appendProcesses(g)
		}
	}
	s.appendProcesses(g)
	body := binary.AppendVarint(nil, now)
	body = binary.AppendUvarint(body, uint64(len(numbers)))
	last := int64(0)
	for _, n := range numbers {
		body = binary.AppendVarint(body, n-last)
		last = n
	}
	data := appendPacked(make([]byte, headSize), body)
	sealFrame(data, 0, frameTable, event.KindProcess)
	g.add(frame{typ: frameTable, kind: event.KindProcess}, data)
	s.build.clear()
}

// readTable returns the numbers of the snapshots that a table names, and its time.
func readTable(payload []byte) (at int64, numbers []int64, err error) {
	body, err := unpack(payload)
	if err != nil {
		return 0, nil, err
	}
	r := &reader{b: body}
	at = r.varint()
	n := r.count()
	numbers = make([]int64, 0, n)
	last := int64(0)
	for range n {
		last += r.varint()
		numbers = append(numbers, last)
	}
	if r.failed {
		return 0, nil, errFrame
	}
	return at, numbers, nil
}
