package testkit

import "testing"

// A Kept is something that takes long to begin and that tests leave behind as they
// found it: BPF programs, which the kernel reads whole each time they are loaded.
// It lives from one test to the next as long as these want the same of it, and at
// most to the end of the process. The zero value keeps nothing. Tests that use it
// run one after the other.
type Kept[W comparable, V any] struct {
	want  W
	value V
	end   func(testing.TB)
}

// Get gives what the test before has used, if it wanted the same; otherwise it ends
// that, and begins anew. begin must not bind what it makes to the test.
func (k *Kept[W, V]) Get(t testing.TB, want W, begin func(testing.TB) (value V, end func(testing.TB))) V {
	t.Helper()
	if k.end != nil && k.want == want {
		return k.value
	}
	k.End(t)
	value, end := begin(t)
	k.want, k.value, k.end = want, value, end
	return value
}

// End ends what is kept, for a test that wants to be alone.
func (k *Kept[W, V]) End(t testing.TB) {
	t.Helper()
	if end := k.end; end != nil {
		*k = Kept[W, V]{}
		end(t)
	}
}
