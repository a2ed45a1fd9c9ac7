package api

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"sync/atomic"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// CheckGetFlows checks a request for flows as a whole: what makes no sense is
// an InvalidArgument, what is not supported Unimplemented.
func CheckGetFlows(req *observerpb.GetFlowsRequest) error {
	_, err := newFlowsQuery(req)
	return err
}

// flowsQuery is a request for flows.
type flowsQuery struct {
	number       uint64 // 0 is no limit
	first        bool   // the oldest, not the newest
	follow       bool
	since, until time.Time // zero where there is none
	filter       *FlowFilter
	mask         *FlowMask
}

func newFlowsQuery(req *observerpb.GetFlowsRequest) (*flowsQuery, error) {
	q := &flowsQuery{number: req.GetNumber(), first: req.GetFirst(), follow: req.GetFollow()}
	if q.first && q.follow {
		return nil, invalid("first", "not together with follow")
	}
	for _, t := range []struct {
		name string
		from *timestamppb.Timestamp
		to   *time.Time
	}{{"since", req.GetSince(), &q.since}, {"until", req.GetUntil(), &q.until}} {
		if t.from == nil {
			continue
		}
		if err := t.from.CheckValid(); err != nil {
			return nil, invalid(t.name, "%v", err)
		}
		*t.to = t.from.AsTime()
	}
	var err error
	if q.filter, err = NewFlowFilter(req.GetWhitelist(), req.GetBlacklist()); err != nil {
		return nil, err
	}
	q.mask, err = NewFlowMask(req.GetFieldMask())
	return q, err
}

// within reports whether a time is in the span that is asked for.
func (q *flowsQuery) within(t time.Time) bool {
	return !t.Before(q.since) && (q.until.IsZero() || !t.After(q.until))
}

// GetFlows implements [observerpb.ObserverServer].
func (h *Hubble) GetFlows(req *observerpb.GetFlowsRequest, server grpc.ServerStreamingServer[observerpb.GetFlowsResponse]) error {
	q, err := newFlowsQuery(req)
	if err != nil {
		return err
	}
	select {
	case h.streams <- struct{}{}:
	default:
		return status.Errorf(codes.ResourceExhausted, "%d requests for flows are served already: no more at the same time", cap(h.streams))
	}
	defer func() { <-h.streams }()
	ctx, cancel := context.WithCancel(server.Context())
	defer cancel()
	r := &flowsReader{h: h, q: q, send: server.Send}
	return r.watched(ctx)
}

// flowBatch is how many records are taken out of the ring at once.
const flowBatch = 64

// A flowsReader answers one request.
type flowsReader struct {
	h    *Hubble
	q    *flowsQuery
	send func(*observerpb.GetFlowsResponse) error
	sent uint64
	// Of the first record some flows may not be wanted.
	begin *flowRecord
	skip  int
	buf   []*flowpb.Flow
	// sending is when the message that the client has not taken yet was
	// given: nanoseconds since 1970, 0 for none.
	sending atomic.Int64
}

// watched runs the reader and leaves it when the client takes nothing for too
// long: returning ends the stream, and with it a Send that waits.
func (r *flowsReader) watched(ctx context.Context) error {
	done := make(chan error, 1) // the reader's end has room always
	go func() { done <- r.run(ctx) }()
	look := time.NewTicker(max(r.h.cfg.Stall/4, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case err := <-done:
			return err
		case now := <-look.C:
			if since := r.sending.Load(); since != 0 && now.UnixNano()-since > int64(r.h.cfg.Stall) {
				r.h.stalled.Add(1)
				return status.Errorf(codes.ResourceExhausted, "the client has taken nothing for %v", r.h.cfg.Stall)
			}
		}
	}
}

// run sends what is asked for.
func (r *flowsReader) run(ctx context.Context) error {
	oldest, end := r.h.ring.bounds()
	cursor, err := r.start(oldest, end)
	if err != nil {
		return err
	}
	var expire <-chan time.Time
	if r.q.follow && !r.q.until.IsZero() {
		t := time.NewTimer(time.Until(r.q.until))
		defer t.Stop()
		expire = t.C
	}
	if done, err := r.told(ctx, &cursor, end); done || err != nil {
		return err
	}
	order := flowOrder{step: followStep}
	records, ready := make([]*flowRecord, flowBatch), make([]*flowRecord, 0, flowBatch)
	quiet := time.NewTimer(followStep) // since the last record came
	defer quiet.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		n, lost := r.h.ring.read(&cursor, records)
		if lost > 0 {
			if err := r.overtaken(lost); err != nil {
				return err
			}
		}
		for _, rec := range records[:n] {
			order.add(rec)
		}
		if n > 0 {
			quiet.Reset(followStep)
		}
		if done, err := r.records(order.ready(ready[:0])); done || err != nil {
			return err
		}
		over := n == 0 && r.h.ring.over(cursor.pos)
		if n > 0 {
			continue
		}
		ended := false
		if !over {
			select {
			case <-r.h.ring.changed(cursor.pos):
				continue
			case <-quiet.C:
			case <-expire:
				ended = true
			case <-ctx.Done():
			}
		}
		switch done, err := r.records(order.rest(ready[:0])); {
		case done, ended, err != nil:
			return err
		case over:
			return status.Error(codes.Unavailable, "no event comes any more: the agent is ending")
		}
	}
}

// told sends what the ring holds from the cursor to end, in the order of time,
// and reports whether the answer is then complete.
func (r *flowsReader) told(ctx context.Context, cursor *flowCursor, end flowCursor) (done bool, err error) {
	order := flowOrder{step: flowStep}
	records, ready := make([]*flowRecord, flowBatch), make([]*flowRecord, 0, flowBatch)
	for cursor.pos < end.pos {
		if err := ctx.Err(); err != nil {
			return true, status.FromContextError(err).Err()
		}
		n, lost := r.h.ring.read(cursor, records[:min(flowBatch, end.pos-cursor.pos)])
		if lost > 0 {
			if err := r.overtaken(lost); err != nil {
				return true, err
			}
		}
		for _, rec := range records[:n] {
			order.add(rec)
		}
		ready = order.ready(ready[:0])
		if done, err := r.records(ready); done || err != nil {
			return true, err
		}
	}
	done, err = r.records(order.rest(ready[:0]))
	return done || !r.q.follow, err
}

// records sends what is wanted of some records, forgets them, and reports
// whether the answer is complete.
func (r *flowsReader) records(list []*flowRecord) (done bool, err error) {
	for i, rec := range list {
		list[i] = nil
		switch err := r.record(rec); {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil:
			return true, err
		}
	}
	return false, nil
}

// start returns where to begin. It tells a client that asks for a time which
// the ring does not reach how much is missing.
func (r *flowsReader) start(oldest, end flowCursor) (flowCursor, error) {
	q := r.q
	switch {
	case !q.since.IsZero():
		if lost, from, to := r.h.ring.overwritten(q.since); lost > 0 {
			return oldest, r.lost(&flowpb.LostEvent{Source: flowpb.LostEventSource_HUBBLE_RING_BUFFER, NumEventsLost: lost,
				First: timestamppb.New(from), Last: timestamppb.New(to)}, to)
		}
		return oldest, nil
	case q.first:
		return oldest, nil
	case q.follow && q.number == 0:
		return end, nil
	case q.number == 0, q.number > math.MaxInt32:
		return oldest, nil
	}
	return r.last(oldest, end), nil
}

// last returns where the last flows begin, as many as are asked for.
func (r *flowsReader) last(oldest, end flowCursor) flowCursor {
	left := int(r.q.number)
	records := make([]*flowRecord, flowBatch)
	for pos := end.pos; ; {
		n := r.h.ring.readBack(pos, records)
		if n == 0 {
			return oldest
		}
		for _, rec := range records[:n] {
			pos--
			left -= r.count(rec)
			if left > 0 {
				continue
			}
			r.begin, r.skip = rec, -left
			return flowCursor{pos, rec.before}
		}
	}
}

// count returns how many flows of a record are wanted.
func (r *flowsReader) count(rec *flowRecord) int {
	switch {
	case rec.lost != nil || !r.q.within(rec.time):
		return 0
	case r.q.filter.all():
		return rec.flows
	}
	return len(r.flows(rec))
}

// flows returns the flows of a record that are wanted, until the next call.
func (r *flowsReader) flows(rec *flowRecord) []*flowpb.Flow {
	r.buf = r.h.teller.append(r.buf[:0], rec)
	return slices.DeleteFunc(r.buf, func(f *flowpb.Flow) bool { return !r.q.filter.Match(f) })
}

// record sends what is wanted of a record. It returns io.EOF when the answer is
// complete.
func (r *flowsReader) record(rec *flowRecord) error {
	switch {
	case !r.q.within(rec.time):
		if r.q.follow && !r.q.until.IsZero() && rec.time.After(r.q.until) {
			return io.EOF
		}
		return nil
	case rec.lost != nil:
		return r.lost(lostEvent(rec.lost, rec.time), rec.time)
	}
	flows := r.flows(rec)
	if rec == r.begin {
		flows = flows[min(r.skip, len(flows)):]
		r.begin = nil
	}
	for _, f := range flows {
		if !r.q.follow && r.q.number > 0 && r.sent >= r.q.number {
			return io.EOF
		}
		r.sent++
		if r.q.mask.Wants("extensions") {
			f.Extensions = flowExtras(rec)
		}
		resp := &observerpb.GetFlowsResponse{NodeName: f.GetNodeName(), Time: f.GetTime(), ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: f}}
		r.q.mask.Prune(f)
		if err := r.deliver(resp); err != nil {
			return err
		}
	}
	return nil
}

// overtaken tells of flows that were overwritten before they could be sent.
func (r *flowsReader) overtaken(n uint64) error {
	return r.lost(&flowpb.LostEvent{Source: flowpb.LostEventSource_HUBBLE_RING_BUFFER, NumEventsLost: n}, time.Now())
}

func (r *flowsReader) lost(l *flowpb.LostEvent, at time.Time) error {
	return r.deliver(&observerpb.GetFlowsResponse{NodeName: r.h.teller.node, Time: timestamppb.New(at),
		ResponseTypes: &observerpb.GetFlowsResponse_LostEvents{LostEvents: l}})
}

func (r *flowsReader) deliver(resp *observerpb.GetFlowsResponse) error {
	r.sending.Store(time.Now().UnixNano())
	defer r.sending.Store(0)
	return r.send(resp)
}

// GetAgentEvents implements [observerpb.ObserverServer]: there are none.
func (h *Hubble) GetAgentEvents(*observerpb.GetAgentEventsRequest, grpc.ServerStreamingServer[observerpb.GetAgentEventsResponse]) error {
	return status.Error(codes.Unimplemented, "there are no events of a Cilium agent: this is Warren, whose own are told by \"warren events\"")
}

// GetDebugEvents implements [observerpb.ObserverServer]: there are none.
func (h *Hubble) GetDebugEvents(*observerpb.GetDebugEventsRequest, grpc.ServerStreamingServer[observerpb.GetDebugEventsResponse]) error {
	return status.Error(codes.Unimplemented, "there are no debug events of Cilium's datapath: this is Warren")
}

// GetNodes implements [observerpb.ObserverServer]: this node.
func (h *Hubble) GetNodes(context.Context, *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	s := h.Stats()
	n := &observerpb.Node{
		Name:      h.teller.node,
		Version:   h.cfg.Version,
		Address:   h.address(),
		State:     relaypb.NodeState_NODE_CONNECTED,
		Tls:       &observerpb.TLS{Enabled: h.cfg.TLSName != "", ServerName: h.cfg.TLSName},
		UptimeNs:  uint64(time.Since(h.begun)),
		NumFlows:  uint64(s.Flows),
		MaxFlows:  uint64(s.MaxFlows),
		SeenFlows: s.Seen,
	}
	return &observerpb.GetNodesResponse{Nodes: []*observerpb.Node{n}}, nil
}

// GetNamespaces implements [observerpb.ObserverServer]: those of flows of the
// last hour.
func (h *Hubble) GetNamespaces(context.Context, *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	names := h.namespaces.names(time.Now())
	slices.Sort(names)
	resp := &observerpb.GetNamespacesResponse{}
	for _, name := range names {
		resp.Namespaces = append(resp.Namespaces, &observerpb.Namespace{Cluster: h.cfg.Cluster, Namespace: name})
	}
	return resp, nil
}

// ServerStatus implements [observerpb.ObserverServer].
func (h *Hubble) ServerStatus(context.Context, *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	s := h.Stats()
	now := time.Now()
	return &observerpb.ServerStatusResponse{
		NumFlows:            uint64(s.Flows),
		MaxFlows:            uint64(s.MaxFlows),
		SeenFlows:           s.Seen,
		UptimeNs:            uint64(now.Sub(h.begun)),
		NumConnectedNodes:   wrapperspb.UInt32(1),
		NumUnavailableNodes: wrapperspb.UInt32(0),
		Version:             h.cfg.Version,
		FlowsRate:           h.ring.rate(now),
	}, nil
}
