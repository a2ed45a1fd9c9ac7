package cli

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"warren/api"
	"warren/internal/testkit"
)

// late is an agent that takes its time to answer.
type late struct {
	judge
	answer func(q api.Question, yield func([]byte, error) bool)
}

func (l late) Events(_ context.Context, q api.Question) api.Lines {
	return func(yield func([]byte, error) bool) { l.answer(q, yield) }
}

func (l late) FollowConnections(ctx context.Context, q api.Question) api.Lines {
	return l.Events(ctx, q)
}

func (l late) FollowFlows(ctx context.Context, q api.Question) api.Lines { return l.Events(ctx, q) }

// TestHead holds that a stream has its head when the answer begins, however long
// the first row is in coming, and that what is refused has none, however late.
func TestHead(t *testing.T) {
	for _, line := range []string{"events", "connection list --follow", "events --columns evt.time,proc.name", "flows --follow"} {
		t.Run(line, func(t *testing.T) {
			var out, errs testkit.Log
			run := func(answer func(api.Question, func([]byte, error) bool)) int {
				return Main(t.Context(), &Env{
					Stdout: &out, Stderr: &errs, Now: time.Now, Getenv: func(string) string { return "" },
					Dial: func(string) Agent { return late{answer: answer} },
				}, strings.Fields(line))
			}
			code := run(func(_ api.Question, yield func([]byte, error) bool) { yield(nil, errors.New("not for you")) })
			if code != 1 || out.String() != "" || !strings.Contains(errs.String(), "not for you") {
				t.Errorf("refused: exit code %d, %q, %q", code, out.String(), errs.String())
			}
			run(func(q api.Question, yield func([]byte, error) bool) {
				q.Begun()
				testkit.Wait(t, "the head", func() bool { return strings.Count(out.String(), "\n") == 1 })
				yield(nil, errors.New("gone"))
			})
			if n := strings.Count(out.String(), "\n"); n != 1 || !strings.HasPrefix(out.String(), "TIME") && !strings.HasPrefix(out.String(), "evt.time") {
				t.Errorf("begun: %q", out.String())
			}
		})
	}
}
