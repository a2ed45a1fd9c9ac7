package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"warren/api"
	"warren/filter"
)

// The codes that the program exits with.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 + SIGINT, as shells count
)

// Main runs the command line args, without the program's name, and returns the
// program's exit code. That ctx ends means that somebody interrupted it.
func Main(ctx context.Context, env *Env, args []string) int {
	g := globals{kubectl: env.Kubectl}
	commands, global := commandTable(&g)
	err := run(ctx, env, commands, global, args)
	return report(ctx, env, g.hint(err))
}

// globals are the values of flags that every command has.
type globals struct {
	socket string
	// kubectl says that a cluster's hub is asked, by these.
	kubectl bool
	cluster ClusterOptions
	timeout time.Duration // 0: none
}

// program is what the program is called by who types it.
func program(kubectl bool) string {
	if kubectl {
		return "kubectl warren"
	}
	return "warren"
}

func (env *Env) program() string { return program(env.Kubectl) }

func run(ctx context.Context, env *Env, commands []*command, global []*option, args []string) error {
	if len(args) > 0 && args[0] == completeWord {
		return writeCompletion(env, commands, global, args[1:])
	}
	inv, err := parse(commands, global, args)
	if err != nil {
		return err
	}
	switch {
	case inv.command == nil && inv.noun == "" && !inv.help:
		overview(env.Stderr, env.program(), commands, global, "")
		return &usageError{}
	case inv.command == nil && !inv.help:
		overview(env.Stderr, env.program(), commands, global, inv.noun)
		return &usageError{}
	case inv.command == nil:
		overview(env.Stdout, env.program(), commands, global, inv.noun)
		return nil
	case inv.help:
		inv.command.help(env.Stdout, env.program(), global)
		return nil
	}
	err = inv.command.run(ctx, env, inv.args)
	if u := (*usageError)(nil); errors.As(err, &u) && u.command == "" {
		u.command = inv.command.name
	}
	return err
}

// Misuse marks an error as a mistake of the one who typed the command: exit
// code 2.
func Misuse(err error) error { return &misuse{err} }

type misuse struct{ error }

func (m *misuse) Unwrap() error { return m.error }

// report tells what went wrong, if anything, and returns the exit code.
func report(ctx context.Context, env *Env, err error) int {
	say := screen{utf8: env.utf8()}
	prog := env.program()
	var usage *usageError
	var wrong *filter.Error
	var answer *api.Error
	var theirs *misuse
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errQuiet), errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return exitOK
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.Is(err, errIncomplete), errors.Is(err, errDenied), errors.Is(err, errRules):
		return exitFailed
	case errors.As(err, &usage):
		if usage.msg != "" {
			fmt.Fprintf(env.Stderr, "%s: %s\n", prog, say.safe(usage.msg))
			fmt.Fprintf(env.Stderr, "Try \"%s --help\".\n", strings.TrimSpace(prog+" "+usage.command))
		}
		return exitUsage
	case errors.As(err, &wrong):
		fmt.Fprintf(env.Stderr, "%s: %s\n", prog, say.safe(wrong.Error()))
		line, mark := say.caret(wrong.Expr, wrong.Pos, wrong.End)
		fmt.Fprintf(env.Stderr, "  %s\n  %s\n", line, mark)
		return exitUsage
	}
	// Several errors that were joined are a line each.
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(env.Stderr, "%s: %s\n", prog, say.safe(line))
	}
	if errors.As(err, &theirs) || errors.As(err, &answer) && answer.Status == http.StatusBadRequest {
		return exitUsage
	}
	return exitFailed
}

// caret returns an expression and a line that marks its bytes from pos to end.
// Of an expression of several lines it returns the one that pos is in.
func (s screen) caret(expr string, pos, end int) (line, mark string) {
	pos = min(max(pos, 0), len(expr))
	end = min(max(end, pos), len(expr))
	start := strings.LastIndexByte(expr[:pos], '\n') + 1
	stop := len(expr)
	if i := strings.IndexByte(expr[pos:], '\n'); i >= 0 {
		stop = pos + i
	}
	end = min(end, stop)
	line = s.safe(expr[start:stop])
	mark = strings.Repeat(" ", width(s.safe(expr[start:pos]))) + strings.Repeat("^", max(1, width(s.safe(expr[pos:end]))))
	return line, mark
}
