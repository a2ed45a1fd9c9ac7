package rule

import (
	"strings"
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	for text, want := range map[string]Limit{
		"5/1m": {5, time.Minute}, "1/24h": {1, 24 * time.Hour}, "100000/1s": {100_000, time.Second}, "3/90s": {3, 90 * time.Second},
	} {
		l, err := ParseLimit(text)
		if err != nil || l != want {
			t.Errorf("%s: %+v, %v", text, l, err)
		}
		if again, err := ParseLimit(l.String()); err != nil || again != l {
			t.Errorf("%s: %s: %+v, %v", text, l, again, err)
		}
	}
	for _, text := range []string{"", "5", "5/", "/1m", "0/1m", "-1/1m", "100001/1m", "5/1ms", "5/25h", "5/1m/1m", "5/once\x1b", "99999999999999999999/1m"} {
		if l, err := ParseLimit(text); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
}

func TestAction(t *testing.T) {
	for _, a := range []Action{RunProgram, CallWebhook, LabelPod, DeletePod} {
		if got, ok := ParseAction(a.String()); got != a || !ok {
			t.Errorf("%v: %v", a, got)
		}
	}
	for _, name := range []string{"", "kill"} {
		if a, ok := ParseAction(name); ok {
			t.Errorf("%q: %v", name, a)
		}
	}
}
