package identity

import (
	"context"
	"time"
)

// loadUsers reads the accounts of containers as they are asked for.
func (i *Identity) loadUsers(ctx context.Context) {
	slots := make(chan struct{}, maxUserReads) // one for each read under way
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		select {
		case <-ctx.Done():
			return
		case task := <-i.users.queue:
			done := make(chan struct{})
			go func() {
				defer func() { close(done); <-slots }()
				a, err := i.readMountAccounts(task)
				if err != nil {
					i.log.Debug("names of users not read", "pid", task.pid, "err", err)
				}
				i.usersRead(task, a)
			}()
			// One at a time, but for those that hang.
			timeout := time.NewTimer(userTimeout)
			select {
			case <-done:
			case <-timeout.C:
			case <-ctx.Done():
			}
			timeout.Stop()
		}
	}
}

// sweepEvery is how often what is too old is looked for.
const sweepEvery = 5 * time.Second

// sweep forgets what is too old, while no event comes that would do it.
func (i *Identity) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			i.sweepOnce(i.cfg.Ktime())
		}
	}
}
