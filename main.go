// Command warren is the agent, the hub of a cluster, and every command that asks
// them: the first argument says which. By the name kubectl-warren it is
// kubectl's plugin, which asks the hub; by warren-cni, or with the argument cni,
// the plugin that container runtimes call.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"warren/agent"
	"warren/api"
	"warren/cli"
	"warren/cni"
	"warren/hub"
	"warren/kube"
)

func main() {
	env := cli.NewEnv()
	if cni.Called(os.Args) {
		os.Exit(cni.Main(env.Build.Version))
	}
	env.RunAgent = func(ctx context.Context, o cli.AgentOptions) error {
		cfg, err := agent.Load(agent.Options(o))
		if err != nil {
			return cli.Misuse(err)
		}
		cfg.Version = env.Build.Version
		return agent.Run(ctx, cfg, env.Stdout, logger(env, cfg.LogLevel))
	}
	env.RunHub = func(ctx context.Context, o cli.HubOptions) error {
		cfg, err := hub.Load(hub.Options(o))
		if err != nil {
			return cli.Misuse(err)
		}
		cfg.Version = env.Build.Version
		return hub.Run(ctx, cfg, env.Stdout, logger(env, cfg.LogLevel))
	}
	env.RemoveNetwork = func(ctx context.Context, o cli.RemovalOptions, tell func(string)) error {
		client, err := kube.Connect(o.Kubeconfig, "")
		if err != nil {
			return err
		}
		return client.RemoveNetwork(ctx, kube.Removal{Namespace: o.Namespace, DaemonSet: o.Agents, Deployment: o.Hub, Flag: "--network=off"}, tell)
	}
	env.Cluster, env.Policies, env.Stdin = hubOf, kube.ParsePolicies, os.Stdin
	args := env.Called(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := cli.Main(ctx, env, args)
	stop()
	os.Exit(code)
}

func logger(env *cli.Env, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: level}))
}

// hubPath is where the cluster's API server hands on to the hub.
const hubPath = "apis/hub.warren.dev/v1"

// hubOf returns a cluster's hub, by way of its API server.
func hubOf(o cli.ClusterOptions) (cli.Agent, string, error) {
	base, rt, namespace, err := kube.Access(o.Kubeconfig, kube.Overrides{
		Context: o.Context, Cluster: o.Cluster, User: o.User, Namespace: o.Namespace, Server: o.Server, Token: o.Token,
		As: o.As, AsUID: o.AsUID, AsGroups: o.AsGroups, CAFile: o.CAFile, TLSServerName: o.TLSServerName, InsecureSkipTLSVerify: o.InsecureSkipTLSVerify,
	})
	if err != nil {
		return nil, "", err
	}
	return api.NewHTTPClient(base.JoinPath(hubPath), rt), namespace, nil
}
