// Package agent is one agent, wired: [Run] is the drawing of the road, in the
// order in which an event travels it.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/api"
	"warren/bpf"
	"warren/event"
	"warren/identity"
	"warren/pipeline"
	"warren/prefilter"
	"warren/sensor/all"
	"warren/sensor/process"
)

// Run runs an agent until ctx ends or a signal asks it to (SIGINT, SIGTERM,
// SIGHUP), and then returns nil with nothing left attached. When a part fails,
// the others are stopped too and the error names it. The start-up report goes
// to stdout.
//
// Run limits the capabilities of the whole process for good: see [needs].
func Run(ctx context.Context, cfg Config, stdout io.Writer, log *slog.Logger) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	me := &self{cfg: cfg, started: time.Now(), kernel: kernelRelease(), lockdown: cmp.Or(bpf.Lockdown(), "unknown")}

	// We may do what our work needs, ...
	rights, err := checkRights()
	if err != nil {
		return err
	}
	me.rights.Store(&rights)

	// ... nobody else has this state and this socket, ...
	ours, err := lockInstance(cfg)
	if err != nil {
		return err
	}
	defer ours.release()

	// ... and from here on we may do nothing else.
	if err := limit(rights); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}

	// The cluster -> names of pods, services and nodes.
	if me.member, me.alone, err = join(cfg); err != nil {
		return err
	}
	if me.member != nil {
		cfg.Identity.Cluster = me.member.state
	}

	// The cluster -> packets: pods connected, policy enforced.
	if me.net, err = openNetwork(cfg, me.member, me.alone, log); err != nil {
		return err
	}
	if me.net != nil {
		defer func() { err = errors.Join(err, me.net.close()) }()
		cfg.API.Endpoints = me.net
	}

	// Kernel -> records.
	if me.road, err = bpf.NewRoad(cfg.Road); err != nil {
		return wrongRoot(fmt.Errorf("start the road: %w", err))
	}
	defer func() { err = errors.Join(err, me.road.Close()) }()

	// Which container a cgroup is of -> what the kernel leaves out.
	workloads := &prefilter.Workloads{}
	cfg.Identity.Workloads, cfg.Sensors.File.Workloads, cfg.Sensors.Syscall.Workloads = workloads, workloads, workloads

	// Records -> events.
	cfg.Sensors.Flow = me.net.watchFlows()
	sensors := all.Sensors(me.road, cfg.Sensors, log)

	// Events -> who did it.
	if cfg.Identity.Root, err = hostRoot("/proc/1"); err != nil {
		log.Warn("names of users and watched files are looked for in the agent's own root, which is another than the machine's if it runs in a container", "reason", err)
	}
	me.who = identity.New(cfg.Identity, log)
	me.net.sees(me.who)
	tuneCollector(me.who.Stats(), me.member != nil)

	// Events that know who -> those who asked.
	me.spine = pipeline.New(cfg.Pipeline, me.road, me.who, sensors, log)

	// Events that match rules -> alerts, which are events again.
	if me.reacts, err = openReactions(cfg, me.member, me.spine, log); err != nil {
		return err
	}
	defer me.reacts.close()
	if me.alerts, err = openRules(cfg.Rules, me.reacts.Now().React, me.spine, log); err != nil {
		return err
	}

	// API servers -> events of their audit logs.
	if me.audit, err = openAudit(ctx, cfg, me.spine, log); err != nil {
		return err
	}
	defer me.audit.close()
	unheard(me.alerts, &cfg.Audit, log)

	// Alerts -> who waits for them.
	if me.channels, err = openAlerts(cfg, me.spine, stdout, log); err != nil {
		return err
	}
	defer me.channels.close()
	me.changes = newChanges(cfg, users{me.alerts, me.channels, me.reacts, me.audit}, log)
	cfg.API.TestAlert, cfg.API.Rules = me.channels.test, me.ruleFiles

	// Events that know who -> what is kept of them.
	if me.history, err = openHistory(cfg, me.spine, func() iter.Seq[*event.Process] { return me.who.Processes }, log); err != nil {
		return err
	}
	cfg.API.History = me.history.past()

	// Those who ask -> people and programs.
	if me.talk = me.mapOfTalk(); me.talk != nil {
		cfg.API.Map = me.talk.Answer
	}
	talked := me.whoTalked()
	if talked != nil {
		cfg.API.Policy = talked.Answer
	}
	if me.member != nil {
		cfg.API.PolicyStatus = me.net.policyStatus
	}
	if me.seen = newFlowWatch(me.net); me.seen != nil {
		cfg.API.Flows = me.seen.memory
	}
	files := process.NewFiles(me.road)
	cfg.API.Files, cfg.API.Locate = openFiles(files), locate(cfg.Identity.Root, files, me.process)
	server := api.New(cfg.API, events{me.spine}, me.who, me, log)
	doors, err := me.open(ctx, server, log)
	if err != nil {
		return err
	}
	me.hubble = me.flows(doors, log)

	g, ctx := errgroup.WithContext(ctx)
	part := func(name string, run func(context.Context) error) {
		g.Go(func() error {
			err := run(ctx)
			if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil
			}
			err = fmt.Errorf("%s: %w", name, err)
			me.failed(err)
			return err
		})
	}
	part("identity", me.who.Run)
	part("pipeline", me.spine.Run)
	if me.history != nil {
		part("history", me.history.run)
	}
	if me.member != nil {
		part("kubernetes", func(ctx context.Context) error { return me.member.run(ctx, log) })
	}
	if me.net != nil {
		part("datapath", me.net.kernel.Run)
		part("network", me.net.run)
	}
	part("rules", me.alerts.Run)
	part("kubernetes audit", func(ctx context.Context) error { return me.audit.run(ctx, me.alerts) })
	part("alerts", me.channels.run)
	part("configuration", me.changes.run)
	if me.talk != nil {
		part("map", func(ctx context.Context) error { return me.talk.Run(ctx, events{me.spine}) })
	}
	if talked != nil {
		part("policy", func(ctx context.Context) error { return talked.Run(ctx, events{me.spine}) })
	}
	if me.seen != nil {
		part("flow memory", func(ctx context.Context) error { return me.seen.memory.Run(ctx, events{me.spine}) })
	}
	if me.hubble != nil {
		part("flows", me.hubble.Run)
		part("hubble", func(ctx context.Context) error { return api.ServeHubble(ctx, me.hubble, doors.hubble...) })
	}
	part("api", func(ctx context.Context) error { return server.ServeAt(ctx, doors.api...) })
	part("start", func(ctx context.Context) error { return me.announce(ctx, stdout, log) })
	return g.Wait()
}

// announce waits until everything runs, gives back what only the start needed
// and tells the person who waits for it.
func (s *self) announce(ctx context.Context, stdout io.Writer, log *slog.Logger) error {
	select {
	case <-s.spine.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	s.history.settled()
	st := s.Status()
	log.Debug("ready", "after", time.Since(s.started))
	if err := report(stdout, st); err != nil {
		log.Warn("the start-up report could not be written", "err", err)
	}
	return nil
}

// settle gives back what only the start needed. Sensors that nobody needs yet find
// open, later, what they would need it for.
func (s *self) settle() error {
	s.road.Reach()
	rights, err := settle(*s.rights.Load())
	if err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	s.rights.Store(&rights)
	return nil
}
