package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"warren/bpf"
)

// flowsGap is the least time between two sweeps that ended sockets ask for.
const flowsGap = 200 * time.Millisecond

// sweeper runs the iterators until ctx ends.
func (s *Sensor) sweeper(ctx context.Context, obj *bpf.Object) {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	ended := s.ended
	var gap <-chan time.Time // while it runs, ended is nil
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.report(ctx, "counters", s.sweep(ctx, obj))
		case <-s.again:
			s.report(ctx, "snapshot", s.snapshot(ctx, obj))
		case <-gap:
			gap, ended = nil, s.ended
		case <-ended:
			s.report(ctx, "flows", s.sweepFlows(ctx, obj))
			gap, ended = time.After(flowsGap), nil
		}
	}
}

func (s *Sensor) report(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, bpf.ErrClosed) {
		s.log.Warn("sockets could not be read", "what", what, "err", err)
	}
}

// request puts a request into a channel of one, unless one is waiting there.
func request(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Snapshot implements [sensor.Sensor].
func (s *Sensor) Snapshot(ctx context.Context) error {
	if s.obj == nil {
		return nil
	}
	return s.snapshot(ctx, s.obj)
}

// snapshot lists all sockets: those that listen first, because they tell which
// of the others were accepted.
func (s *Sensor) snapshot(ctx context.Context, obj *bpf.Object) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	if err := clearMap[socketListener, uint8](obj.Map("listeners")); err != nil {
		return fmt.Errorf("clear listeners: %w", err)
	}
	for _, mode := range []socketSweepMode{socketSweepModeSWEEP_LISTENERS, socketSweepModeSWEEP_ALL} {
		if err := s.sweepFiles(ctx, obj, mode); err != nil {
			return err
		}
	}
	return nil
}

// sweep reports the counters that have changed.
func (s *Sensor) sweep(ctx context.Context, obj *bpf.Object) error {
	s.sweeping.Lock()
	err := s.sweepFiles(ctx, obj, socketSweepModeSWEEP_CHANGED)
	s.sweeping.Unlock()
	return errors.Join(err, s.sweepFlows(ctx, obj))
}

// sweepFiles looks at the sockets of all processes. The caller holds sweeping.
func (s *Sensor) sweepFiles(ctx context.Context, obj *bpf.Object, mode socketSweepMode) error {
	s.sweepID++
	if err := obj.Variable("sweep_kind").Set(uint32(mode)); err != nil {
		return fmt.Errorf("set sweep_kind: %w", err)
	}
	if err := obj.Variable("sweep_id").Set(s.sweepID); err != nil {
		return fmt.Errorf("set sweep_id: %w", err)
	}
	return obj.Iterate(ctx, "socket_files")
}

// sweepFlows reports the UDP flows that have changed, and ends the idle ones
// and those of sockets that are gone.
func (s *Sensor) sweepFlows(ctx context.Context, obj *bpf.Object) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	released := obj.Map("released")
	var gone []uint64
	var cookie, when uint64
	it := released.Iterate()
	for it.Next(&cookie, &when) {
		gone = append(gone, cookie)
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("read released sockets: %w", err)
	}
	if err := s.iterateMap(ctx, obj, "socket_flows", "flows"); err != nil {
		return err
	}
	for _, c := range gone {
		if err := released.Delete(c); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget released socket: %w", err)
		}
	}
	return nil
}

// iterateMap runs an iterator over the elements of a map, as [bpf.Object]'s
// Iterate does over other things: it lets the reader catch up where the program
// asks for it.
func (s *Sensor) iterateMap(ctx context.Context, obj *bpf.Object, program, name string) error {
	p, err := obj.Program(program)
	if err != nil {
		return err
	}
	it, err := link.AttachIter(link.IterOptions{Program: p, Map: obj.Map(name)})
	if err != nil {
		return fmt.Errorf("attach iterator %s: %w", program, err)
	}
	defer func() { _ = it.Close() }()
	rd, err := it.Open()
	if err != nil {
		return fmt.Errorf("open iterator %s: %w", program, err)
	}
	defer func() { _ = rd.Close() }()
	var pause [1]byte
	for {
		n, err := rd.Read(pause[:])
		end := n == 0 && errors.Is(err, io.EOF)
		if err != nil && !end {
			return fmt.Errorf("read iterator %s: %w", program, err)
		}
		if err := s.road.Sync(ctx); err != nil || end {
			return err
		}
	}
}

// clearMap empties a hash.
func clearMap[K comparable, V any](m *ebpf.Map) error {
	var keys []K
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		keys = append(keys, k)
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, k := range keys {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}
