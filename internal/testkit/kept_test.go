package testkit

import (
	"fmt"
	"slices"
	"testing"
)

func TestKept(t *testing.T) {
	var k Kept[string, int]
	var log []string
	n := 0
	get := func(want string) int {
		return k.Get(t, want, func(testing.TB) (int, func(testing.TB)) {
			n++
			id := n
			log = append(log, fmt.Sprintf("begin %d for %s", id, want))
			return id, func(testing.TB) { log = append(log, fmt.Sprintf("end %d", id)) }
		})
	}
	k.End(t)
	if a, b := get("x"), get("x"); a != 1 || b != 1 {
		t.Errorf("the same is wanted twice: %d, %d, want 1 twice", a, b)
	}
	get("y")
	k.End(t)
	k.End(t)
	get("y")
	want := []string{"begin 1 for x", "end 1", "begin 2 for y", "end 2", "begin 3 for y"}
	if !slices.Equal(log, want) {
		t.Errorf("what happened: %q, want %q", log, want)
	}
}
