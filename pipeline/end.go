package pipeline

import (
	"math"
	"slices"
	"time"

	"warren/event"
)

// tellTime bounds how long, when the pipeline ends, those who make events of others
// may look at what is left in their queues.
const tellTime = 5 * time.Second

// closeSubscriptions lets every consumer take what is left and then see EOF. Those
// who want what others make of their events go on until these have told it.
func (p *Pipeline) closeSubscriptions() {
	p.settled.to(math.MaxUint64)
	patience := time.NewTimer(tellTime)
	defer patience.Stop()
	for !p.endThose(false) {
		select {
		case <-p.parted:
		case <-patience.C:
			p.endThose(true)
			return
		}
	}
}

// endThose ends the subscriptions whose events nobody makes any more; with late, all,
// and nobody who makes some is waited for. It reports whether all have ended: then
// Tell does nothing any more.
func (p *Pipeline) endThose(late bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ending = true
	if late {
		for _, s := range p.tellers {
			p.log.Warn("what is left in a queue at shutdown is not looked at", "subscription", s.opts.Name, "events", s.waits())
			s.end(true)
		}
		p.tellers = nil
	}
	all := true
	for _, s := range p.subs {
		if s.opts.Kinds&p.toldBeside(s) == 0 {
			s.end(false)
		} else {
			all = false
		}
	}
	p.closed = all && len(p.tellers) == 0
	return p.closed
}

// toldBeside are the kinds of events that others than s make. The caller holds p.mu.
func (p *Pipeline) toldBeside(s *Subscription) (kinds event.KindSet) {
	for _, t := range p.tellers {
		if t != s {
			kinds |= t.opts.Tells
		}
	}
	return kinds
}

// part notes that a consumer makes no more events. The caller holds p.mu.
func (p *Pipeline) part(s *Subscription) {
	i := slices.Index(p.tellers, s)
	if i < 0 {
		return
	}
	p.tellers = slices.Delete(p.tellers, i, i+1)
	select {
	case p.parted <- struct{}{}:
	default: // closeSubscriptions has not looked since the last
	}
}
