package hub

import (
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/api"
)

// errNoFlows is why a node does not answer whose agent serves no flows.
var errNoFlows = errors.New("its agent serves no flows")

// allFlows is from where on a number of flows means all there are, as it does
// to an agent.
const allFlows = math.MaxInt32

// A flowAnswer is one request for flows.
type flowAnswer struct {
	h      *hub
	req    *observerpb.GetFlowsRequest
	mask   *api.FlowMask
	see    *sight
	g      *gathering[*observerpb.GetFlowsResponse]
	nodes  nodeStates
	send   func(*observerpb.GetFlowsResponse) error
	sent   uint64
	offer  atomic.Int64 // since when the client has not taken a message, nanoseconds since 1970; 0 is no message
	masked bool         // by the agents
}

// GetFlows implements [observerpb.ObserverServer]: the flows of all nodes, in the
// order of time.
func (r *relay) GetFlows(req *observerpb.GetFlowsRequest, server grpc.ServerStreamingServer[observerpb.GetFlowsResponse]) error {
	h, ctx := r.h, server.Context()
	if err := api.CheckGetFlows(req); err != nil {
		return err
	}
	if n := req.GetNumber(); !req.GetFollow() && !req.GetFirst() && n > mostRecent && n < allFlows {
		return status.Errorf(codes.InvalidArgument, "number is %d: of a cluster's flows at most the last %d can be asked for, or all", n, mostRecent)
	}
	mask, err := api.NewFlowMask(req.GetFieldMask())
	if err != nil {
		return err
	}
	v, done, err := r.enter(ctx, "GetFlows")
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	push := pushFlows(req, v)
	o := finite
	wait := h.cfg.begin
	if req.GetFollow() {
		o, wait = live, h.cfg.Wait
	}
	a := &flowAnswer{h: h, req: req, mask: mask, see: h.sight(callerOf(ctx), "GetFlows", v), nodes: nodeStates{}, send: server.Send, masked: v.all}
	a.g = &gathering[*observerpb.GetFlowsResponse]{agents: h.agents, follow: req.GetFollow(), ask: askFlows(push), out: newMerger(flowForm, o, wait, h.cfg.StreamBytes, &h.pool, &h.flows)}
	defer a.g.out.close()
	a.g.start(ctx)
	return a.watched(ctx)
}

// pushFlows returns what agents are asked on behalf of somebody who sees v.
func pushFlows(req *observerpb.GetFlowsRequest, v *view) *observerpb.GetFlowsRequest {
	push := proto.CloneOf(req)
	var all bool
	push.Whitelist, all = v.narrowFlows(push.GetWhitelist())
	if !all && push.GetNumber() > 0 && !push.GetFollow() {
		push.Number = allFlows // which are the first, or the last, is not known before
	}
	if !v.all {
		push.FieldMask = nil // whose a flow is has to be in it
	}
	return push
}

// flowForm is that of flows, of which none is lost here: an agent that is not
// read tells what its ring overwrote meanwhile.
var flowForm = form[*observerpb.GetFlowsResponse]{
	time: func(r *observerpb.GetFlowsResponse) int64 {
		if r.GetTime() == nil {
			return 0
		}
		return r.GetTime().AsTime().UnixNano()
	},
	size: func(r *observerpb.GetFlowsResponse) int { return proto.Size(r) },
}

// askFlows returns how agents are asked for flows.
func askFlows(req *observerpb.GetFlowsRequest) func(context.Context, *agent, *source[*observerpb.GetFlowsResponse], func()) error {
	return func(ctx context.Context, g *agent, to *source[*observerpb.GetFlowsResponse], began func()) error {
		o, err := g.observe()
		if err != nil {
			return err
		}
		// The stream is there when the connection is; the first flow may be long
		// in coming.
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		patience := time.AfterFunc(g.patience(), func() { cancel(errSilent) })
		stream, err := o.GetFlows(ctx, req)
		if !patience.Stop() {
			return errSilent
		}
		if err != nil {
			return g.flowError(err)
		}
		began()
		for {
			resp, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return g.flowError(err)
			}
			if resp.GetNodeStatus() != nil {
				continue // the hub tells of nodes itself
			}
			to.push([]*observerpb.GetFlowsResponse{resp}, 0, g.clock.correction(), time.Now())
		}
	}
}

// watched writes the answer, and leaves it when the client takes nothing for too
// long: to return ends the stream, and with it a send that waits.
func (a *flowAnswer) watched(ctx context.Context) error {
	ended := make(chan error, 1) // has room for the end always
	go func() { ended <- a.run(ctx) }()
	look := time.NewTicker(max(a.h.cfg.Stall/4, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case now := <-look.C:
			if since := a.offer.Load(); since != 0 && now.UnixNano()-since > int64(a.h.cfg.Stall) {
				return status.Errorf(codes.ResourceExhausted, "the client has taken nothing for %v", a.h.cfg.Stall)
			}
		}
	}
}

// run writes flows until all that were asked for are written.
func (a *flowAnswer) run(ctx context.Context) error {
	req, g := a.req, a.g
	g.tally.wait(ctx.Done(), a.h.cfg.begin)
	if err := a.tellNodes(); err != nil {
		return err
	}
	last := tail[*observerpb.GetFlowsResponse]{notice: func(r *observerpb.GetFlowsResponse) bool { return r.GetFlow() == nil }}
	keep := 0
	if n := req.GetNumber(); !req.GetFollow() && !req.GetFirst() && n < allFlows {
		keep = int(n)
	}
	var expire <-chan time.Time
	if req.GetFollow() && req.GetUntil() != nil {
		t := time.NewTimer(time.Until(req.GetUntil().AsTime()) + a.h.cfg.Wait)
		defer t.Stop()
		expire = t.C
	}
	var buf []*observerpb.GetFlowsResponse
	for ended := false; ; {
		select {
		case <-g.done:
			ended = true // and all that came is there to be taken
		default:
		}
		now := time.Now()
		if err := a.see.keep(ctx, now); err != nil {
			return revoked(ctx, err)
		}
		flows, again := g.out.take(buf[:0], takeRows, now)
		buf = flows
		for _, f := range flows {
			switch {
			case f.GetFlow() != nil && !a.see.view.seesFlow(f.GetFlow()):
				a.h.withheld.Add(1)
			case keep > 0:
				last.add(f, keep)
			default:
				switch err := a.deliver(f); {
				case errors.Is(err, io.EOF):
					return nil
				case err != nil:
					return err
				}
			}
		}
		clear(buf)
		if len(flows) > 0 {
			if req.GetFollow() && !sleep(ctx, pace) {
				return status.FromContextError(ctx.Err()).Err()
			}
			continue
		}
		if ended {
			break
		}
		wake := a.see.next
		if !again.IsZero() {
			wake = earlier(wake, again)
		}
		switch err := a.await(ctx, wake.Sub(now), expire); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	for _, f := range last.list() {
		if err := a.deliver(f); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return a.tellNodes()
}

// await returns when there may be something to write, after at most d. io.EOF is
// the end.
func (a *flowAnswer) await(ctx context.Context, d time.Duration, expire <-chan time.Time) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-a.g.out.wake:
	case <-a.g.done:
	case <-a.g.tally.changed:
		return a.tellNodes()
	case <-t.C:
	case <-expire:
		return io.EOF
	case <-a.h.stopping:
		return status.Error(codes.Unavailable, errStopping.Error())
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

// revoked says to a client why its stream ends.
func revoked(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, errRevoked):
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return status.Error(codes.Unavailable, "the cluster cannot be asked what you may see")
}

// deliver sends one answer. io.EOF says that these are all that were asked for.
func (a *flowAnswer) deliver(r *observerpb.GetFlowsResponse) error {
	if f := r.GetFlow(); f != nil {
		if n := a.req.GetNumber(); n > 0 && !a.req.GetFollow() && a.sent >= n {
			return io.EOF
		}
		a.sent++
		if !a.masked {
			a.mask.Prune(f)
		}
	}
	a.offer.Store(time.Now().UnixNano())
	defer a.offer.Store(0)
	return a.send(r)
}

// tellNodes tells the client what is new of who answers.
func (a *flowAnswer) tellNodes() error {
	select {
	case <-a.g.tally.changed: // it is told now
	default:
	}
	for _, r := range a.nodes.changes(a.g.tally, time.Now()) {
		if err := a.deliver(r); err != nil {
			return err
		}
	}
	return nil
}

// nodeEvents returns what Hubble's clients are told of nodes: news has those that
// answer under "", and others under why they do not.
func nodeEvents(news map[string][]string, gone []string, now time.Time) (list []*observerpb.GetFlowsResponse) {
	add := func(state relaypb.NodeState, nodes []string, why string) {
		list = append(list, &observerpb.GetFlowsResponse{Time: timestamppb.New(now), ResponseTypes: &observerpb.GetFlowsResponse_NodeStatus{
			NodeStatus: &relaypb.NodeStatusEvent{StateChange: state, NodeNames: nodes, Message: why},
		}})
	}
	for _, why := range slices.Sorted(maps.Keys(news)) {
		if why == "" {
			add(relaypb.NodeState_NODE_CONNECTED, news[why], "")
		} else {
			add(relaypb.NodeState_NODE_UNAVAILABLE, news[why], why)
		}
	}
	if len(gone) > 0 {
		add(relaypb.NodeState_NODE_GONE, gone, "")
	}
	return list
}
