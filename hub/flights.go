package hub

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flights lets who asks the same at the same time share one answer, and bounds
// how much is asked at a time. Any goroutine may use it.
type flights[K comparable, V any] struct {
	slots chan struct{} // holds one element for each question that is being asked

	mu     sync.Mutex
	flying map[K]*flight[V]
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

const (
	// flightSlots is how many questions are asked at a time.
	flightSlots = 32
	// mostFlights is how many may wait for their turn.
	mostFlights = 1 << 14
	// flightTime bounds how long one takes, once it is its turn.
	flightTime = 10 * time.Second
)

// errBusy is the answer when too many questions wait.
var errBusy = errors.New("too many questions to the cluster wait already")

func newFlights[K comparable, V any]() *flights[K, V] {
	return &flights[K, V]{slots: make(chan struct{}, flightSlots), flying: map[K]*flight[V]{}}
}

// do returns what ask answers to key. ask goes on when ctx ends, for others may
// wait for it too; over, if there is one, is called when it has ended, or will
// not be called at all because somebody asks already.
func (f *flights[K, V]) do(ctx context.Context, key K, ask func(context.Context) (V, error), over func()) (V, error) {
	if over == nil {
		over = func() {}
	}
	var none V
	f.mu.Lock()
	fl := f.flying[key]
	switch {
	case fl != nil:
		over()
	case len(f.flying) >= mostFlights:
		f.mu.Unlock()
		over()
		return none, errBusy
	default:
		fl = &flight[V]{done: make(chan struct{})}
		f.flying[key] = fl
		go func() {
			defer over()
			f.fly(context.WithoutCancel(ctx), key, fl, ask)
		}()
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.value, fl.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (f *flights[K, V]) fly(ctx context.Context, key K, fl *flight[V], ask func(context.Context) (V, error)) {
	f.slots <- struct{}{} // each who has one gives it back in time
	ctx, cancel := context.WithTimeout(ctx, flightTime)
	fl.value, fl.err = ask(ctx)
	cancel()
	<-f.slots
	f.mu.Lock()
	delete(f.flying, key)
	f.mu.Unlock()
	close(fl.done)
}
