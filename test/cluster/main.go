// Command cluster runs a Kubernetes on this machine, for tests and to try Warren
// on: see package bed for what it is.
//
//	cluster build [-check]           the programs and images; minutes, once
//	cluster up [-bare] [-nodes N] [-cni WHO] [-proxy MODE] [-nodes-cidr V4,V6] [-pods-cidr V4,V6] [-services-cidr V4,V6]
//	cluster down
//	cluster status
//	cluster kubectl ARG...           with the administrator's kubeconfig
//	cluster run PROGRAM ARG...       any other program beside the API server: helm, hubble
//	cluster sh NODE [PROGRAM ARG...] a shell or program on a node
//	cluster load [ARCHIVE...]        images to all nodes; without any, Warren's, built again
//	cluster node add|remove N
//	cluster start|stop|log NODE DAEMON  NODE is control for the control plane's
//
// The environment's WARREN_CLUSTER names the cluster, "k8s" if unset: clusters of
// several names run beside each other. WARREN_CACHE is where programs and
// running clusters have their files, ~/.cache/warren if unset.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"warren/test/cluster/bed"
)

func main() {
	bed.Child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	stop()
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.code)
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// An exitError is that of a program that was asked for, which has said why.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// A usageError is a command line that means nothing.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

const usage = "one of build, up, down, status, kubectl, run, sh, load, node, start, stop, log; `go doc ./test/cluster` has them all"

// say tells what happens, on standard error: standard output is for answers.
func say(line string) { fmt.Fprintln(os.Stderr, line) }

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usageError{usage}
	}
	tools, err := bed.FindTools()
	if err != nil {
		return err
	}
	name := os.Getenv("WARREN_CLUSTER")
	command, args := args[0], args[1:]
	switch command {
	case "build":
		return build(ctx, tools, args)
	case "up":
		return up(ctx, name, tools, args)
	case "down":
		c, err := bed.New(bed.Config{Name: name}, tools, say)
		if err != nil {
			return err
		}
		return c.Down(ctx)
	}
	c, err := bed.Open(name, tools, say)
	if err != nil {
		return err
	}
	switch command {
	case "status":
		return status(ctx, c)
	case "kubectl":
		return in(ctx, c, "control", append([]string{"kubectl"}, args...))
	case "run":
		if len(args) == 0 {
			return usageError{"run PROGRAM ARG..."}
		}
		return in(ctx, c, "control", args)
	case "sh":
		if len(args) == 0 {
			return usageError{"sh NODE [PROGRAM ARG...]"}
		}
		if len(args) == 1 {
			args = append(args, "/bin/sh")
		}
		return in(ctx, c, args[0], args[1:])
	case "load":
		if len(args) == 0 {
			return c.LoadWarren(ctx)
		}
		for _, archive := range args {
			if err := c.Load(ctx, archive); err != nil {
				return err
			}
		}
		return nil
	case "node":
		return node(ctx, c, args)
	case "start", "stop", "log":
		if len(args) != 2 {
			return usageError{command + " NODE DAEMON"}
		}
		switch command {
		case "start":
			return c.Start(ctx, args[0], args[1])
		case "stop":
			return c.Stop(ctx, args[0], args[1])
		}
		text, err := os.ReadFile(c.Log(args[0], args[1]))
		_, _ = os.Stdout.Write(text)
		return err
	}
	return usageError{command + " is no command: " + usage}
}

func build(ctx context.Context, tools bed.Tools, args []string) error {
	flags := flag.NewFlagSet("build", flag.ExitOnError)
	check := flags.Bool("check", false, "build nothing: fail where something is missing")
	_ = flags.Parse(args)
	if *check && !tools.Built() {
		return fmt.Errorf("the programs are not in %s: make cluster builds them", tools.Dir())
	}
	return tools.Build(ctx, say)
}

func up(ctx context.Context, name string, tools bed.Tools, args []string) error {
	config := bed.Config{Name: name}
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	bare := flags.Bool("bare", false, "Kubernetes alone: neither Warren nor the shop")
	flags.IntVar(&config.Nodes, "nodes", 2, "how many nodes")
	flags.StringVar(&config.CNI, "cni", "bridge", "who connects pods: bridge, warren or warren-vxlan")
	flags.StringVar(&config.ProxyMode, "proxy", "nftables", "mode of kube-proxy: nftables or iptables")
	flags.Func("nodes-cidr", "addresses of nodes, IPv4,IPv6", dualStack(&config.Network))
	flags.Func("pods-cidr", "addresses of pods, IPv4,IPv6", dualStack(&config.Pods))
	flags.Func("services-cidr", "addresses of services, IPv4,IPv6", dualStack(&config.Services))
	_ = flags.Parse(args)
	if flags.NArg() > 0 {
		return usageError{"up takes flags only, not " + flags.Arg(0)}
	}
	if err := tools.Build(ctx, say); err != nil {
		return err
	}
	c, err := bed.New(config, tools, say)
	if err != nil {
		return err
	}
	if err := c.Up(ctx, *bare); err != nil {
		return err
	}
	if *bare {
		return nil
	}
	return demo(ctx, c)
}

// dualStack reads an address range of each family.
func dualStack(into *bed.DualStack) func(string) error {
	return func(text string) error {
		four, six, found := strings.Cut(text, ",")
		if !found {
			return errors.New("two ranges with a comma between: 10.0.0.0/8,fd00::/48")
		}
		var err [2]error
		into.V4, err[0] = netip.ParsePrefix(four)
		into.V6, err[1] = netip.ParsePrefix(six)
		return errors.Join(err[:]...)
	}
}

// in runs a program in a place of the cluster as if it were this one.
func in(ctx context.Context, c *bed.Cluster, where string, argv []string) error {
	cmd, err := c.In(ctx, where, argv...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// An interrupt reaches the program itself: it decides when to end.
	cmd.Cancel = func() error { return nil }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitError{exit.ExitCode()}
	}
	return err
}

func node(ctx context.Context, c *bed.Cluster, args []string) error {
	if len(args) != 2 || !slices.Contains([]string{"add", "remove"}, args[0]) {
		return usageError{"node add|remove N"}
	}
	n, err := strconv.Atoi(strings.TrimPrefix(args[1], "node"))
	if err != nil {
		return usageError{"node add|remove N, where N is a number from 1"}
	}
	if args[0] == "remove" {
		return c.RemoveNode(ctx, n)
	}
	return c.AddNode(ctx, n)
}

func status(ctx context.Context, c *bed.Cluster) error {
	fmt.Printf("cluster     %s\nkubeconfig  %s\n", c.Name, c.Kubeconfig())
	for _, d := range c.Daemons() {
		state := "ended; its log is " + c.Log(d.Place, d.Name)
		if d.PID > 0 {
			state = fmt.Sprintf("process %d", d.PID)
		}
		fmt.Printf("%-11s %-24s %s\n", d.Place, d.Name, state)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return in(ctx, c, "control", []string{"kubectl", "get", "nodes,pods", "-A", "-o", "wide"})
}
