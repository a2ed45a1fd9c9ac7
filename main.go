// Command warren is the agent and every command that asks it: the first
// argument says which.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"warren/agent"
	"warren/cli"
)

func main() {
	env := cli.NewEnv()
	env.RunAgent = func(ctx context.Context, o cli.AgentOptions) error {
		cfg, err := agent.Load(agent.Options(o))
		if err != nil {
			return cli.Misuse(err)
		}
		cfg.Version = env.Build.Version
		log := slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
		err = agent.Run(ctx, cfg, env.Stdout, log)
		if wrong := (*agent.UsageError)(nil); errors.As(err, &wrong) {
			return cli.Misuse(err)
		}
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := cli.Main(ctx, env, os.Args[1:])
	stop()
	os.Exit(code)
}
