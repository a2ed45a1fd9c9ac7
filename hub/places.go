package hub

import (
	"sync"

	"warren/api"
)

// places are those for answers that are being written: each costs a connection to
// every agent. Any goroutine may use them.
type places struct {
	most  int // for all
	share int // for one user

	mu    sync.Mutex
	taken int
	by    map[string]int // by user
}

// newPlaces returns room for most answers. One user gets a quarter of it at most,
// so that nobody who asks without end keeps all others out.
func newPlaces(most int) *places {
	return &places{most: most, share: (most + 3) / 4, by: map[string]int{}}
}

// now returns how many are taken.
func (p *places) now() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// begin takes one. What it returns gives it back. A part of the installation, as
// a relay, asks for many people: it has no share. Users go by their names, for one
// can have any number of tokens.
func (p *places) begin(c *caller) (done func(), refused *api.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most {
		return nil, api.Unavailable("%d answers are being written already: no more are at the same time", p.most)
	}
	if !c.trusted {
		if p.by[c.user.Name] >= p.share {
			return nil, api.Unavailable("%d answers to %s are being written already: no more are for one user at the same time", p.share, nameOf(c.user))
		}
		p.by[c.user.Name]++
	}
	p.taken++
	return func() { p.end(c) }, nil
}

func (p *places) end(c *caller) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if c.trusted {
		return
	}
	if p.by[c.user.Name]--; p.by[c.user.Name] == 0 {
		delete(p.by, c.user.Name)
	}
}
