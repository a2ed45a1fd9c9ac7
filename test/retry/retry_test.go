package retry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWords(t *testing.T) {
	for _, test := range []struct {
		test  Test
		words [4]string
	}{
		{Test{Package: "warren/bpf", Name: "TestX"}, [4]string{
			"warren/bpf TestX", "^TestX$", "flaky: warren/bpf TestX failed once, passed alone", "warren/bpf TestX failed twice"}},
		{Test{On: "6.1", Package: "warren/bpf", Name: "TestX"}, [4]string{
			"6.1: warren/bpf TestX", "^TestX$", "flaky: 6.1: warren/bpf TestX failed once, passed alone", "6.1: warren/bpf TestX failed twice"}},
	} {
		got := [4]string{test.test.String(), test.test.Pattern(), test.test.Flaky(), test.test.Twice()}
		if d := cmp.Diff(test.words, got); d != "" {
			t.Errorf("words (-want +got):\n%s", d)
		}
	}
}

func TestLimit(t *testing.T) {
	failed := []Test{{"", "b", "TestA"}, {"", "a", "TestB"}, {"6.1", "a", "TestA"}, {"", "a", "TestA"}, {"", "c", "TestA"}}
	if err := Limit(failed); err != nil {
		t.Error(err)
	}
	want := []Test{{"", "a", "TestA"}, {"", "a", "TestB"}, {"", "b", "TestA"}, {"", "c", "TestA"}, {"6.1", "a", "TestA"}}
	if d := cmp.Diff(want, failed); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
	err := Limit(append(failed, Test{Package: "d", Name: "TestA"}))
	if err == nil || err.Error() != "6 tests failed, more than 5: none is tried again" {
		t.Errorf("six tests: %v", err)
	}
}
