package channel

import "time"

// Status is how a channel is doing. Numbers are of alerts, since the agent
// started.
type Status struct {
	Name, Type string
	// To is where it goes, without secrets.
	To string
	// Waiting are to be sent yet, and take Bytes of Room. A file that cannot be read
	// now counts as one: there may be more in it.
	Waiting     int64
	Bytes, Room int64
	// Sent were taken, Retried are attempts that failed, Dead were refused for good
	// and are in the file DeadFile.
	Sent, Retried, Dead int64
	DeadFile            string
	// GivenUp had no room to wait any longer, Lost none to be written down.
	GivenUp, Lost int64
	// Damaged are bytes on the disk that could not be read.
	Damaged int64
	// LastSent is when something was last taken.
	LastSent time.Time
	// Error is why nothing is taken, since Failing; where Failing is zero, why the
	// last dead letter was refused. Disk is why nothing can be written down, or
	// why what was cannot be read.
	Error   string
	Failing time.Time
	Disk    string
}

// Status returns it for each channel, and how many alerts were lost on the way to
// all of them.
func (s *Set) Status() (list []Status, lost uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range s.list {
		list = append(list, c.status())
	}
	return list, s.lost.Load()
}

func (c *channel) status() Status {
	n := c.counters
	n.mu.Lock()
	defer n.mu.Unlock()
	st := Status{
		Name: c.cfg.Name, Type: c.cfg.Type, To: c.to, Room: c.cfg.room(), Waiting: int64(len(c.queue)),
		Sent: n.sent.Load(), Retried: n.retried.Load(), Dead: n.dead.Load(), DeadFile: c.dead.path, GivenUp: n.givenUp.Load(), Lost: n.lost.Load(), Damaged: n.damaged.Load(),
		LastSent: n.last, Error: n.err, Failing: n.failed,
	}
	if sp := c.spool.Load(); sp != nil {
		st.Waiting += sp.waiting.Load() + sp.unread.Load()
		st.Bytes = sp.bytes.Load()
		if why := sp.failure.Load(); why != nil {
			st.Disk = *why
		}
	}
	return st
}
