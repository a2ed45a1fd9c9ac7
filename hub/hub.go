// Package hub is the view of a whole cluster: it finds the agents of its nodes,
// asks all of them, and answers with what they told, merged in the order of
// time.
package hub

import (
	"context"
	"errors"
	"io"
	"log/slog"
)

// Run runs a hub until ctx ends, and then returns nil. When a part fails, the
// others are stopped too and the error names it. What it listens on is told on
// stdout.
func Run(ctx context.Context, cfg Config, stdout io.Writer, log *slog.Logger) error {
	return errors.ErrUnsupported
}
