package cluster

// A queue has what has ended, oldest first, until it is forgotten.
type queue struct {
	items []ended
	head  int // items before it are forgotten
}

// ended is one thing of the past.
type ended struct {
	at   int64 // when it was told
	what memory
}

// A memory can be forgotten. It says how many addresses went with it; stale
// ones, that came back since at or are forgotten already, do nothing.
type memory interface {
	forget(s *State, at int64) uint64
}

// forgetting is a memory of its own: a function that forgets.
type forgetting func() uint64

func (f forgetting) forget(*State, int64) uint64 { return f() }

func (q *queue) push(at int64, what memory) {
	q.items = append(q.items, ended{at, what})
}

func (q *queue) len() int { return len(q.items) - q.head }

// pop takes the oldest out.
func (q *queue) pop() ended {
	item := q.items[q.head]
	q.items[q.head] = ended{}
	q.head++
	if q.head >= 1024 && q.head*2 >= len(q.items) {
		q.items = append(make([]ended, 0, q.len()+q.len()/4), q.items[q.head:]...)
		q.head = 0
	}
	return item
}

// forget forgets what is too old now, and what is too much.
func (s *State) forget(now int64) {
	for s.past.len() > 0 {
		oldest := s.past.items[s.past.head]
		if s.past.len() <= s.config.MaxEnded && now-oldest.at < int64(s.config.Remember) {
			return
		}
		s.past.pop()
		s.forgotten.addresses += oldest.what.forget(s, oldest.at)
	}
}
