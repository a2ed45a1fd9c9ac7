package netdump

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	other := errors.New("no permission")
	changed := fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
	for _, s := range []struct {
		answers []error // the last one again and again
		calls   int
		err     error
	}{
		{[]error{nil}, 1, nil},
		{[]error{changed, changed, nil}, 3, nil},
		{[]error{other}, 1, other},
		{[]error{changed, other}, 2, other},
		{[]error{changed}, tries, netlink.ErrDumpInterrupted},
	} {
		calls := 0
		all, err := Whole(func() ([]int, error) {
			calls++
			return []int{calls}, s.answers[min(calls, len(s.answers))-1]
		})
		if calls != s.calls || !errors.Is(err, s.err) || len(all) != 1 || all[0] != calls {
			t.Errorf("%v: %d calls, %v, %v", s.answers, calls, all, err)
		}
	}
}
