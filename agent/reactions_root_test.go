package agent

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"warren/bpf"
	"warren/identity"
	"warren/pipeline"
	"warren/rule"
)

// TestBPFReactionsRoadFails ends the pipeline while rules and reactions go on: neither
// keeps it from telling why.
func TestBPFReactionsRoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		road, err := bpf.NewRoad(bpf.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := road.Close(); err != nil {
			t.Fatal(err)
		}
		spine := pipeline.New(pipeline.Config{}, road, identity.New(identity.Config{}, log), nil, log)
		var cfg Config
		cfg.Reactions.Enabled, cfg.Reactions.Limit = true, rule.Limit{Times: 1, Per: time.Minute}
		reacts, err := openReactions(cfg, nil, spine, log)
		if err != nil {
			t.Fatal(err)
		}
		engine, err := openRules(cfg.Rules, reacts.Now().React, spine, log)
		if err != nil {
			t.Fatal(err)
		}
		rules := make(chan error, 1) // nobody waits for its end
		go func() { rules <- engine.Run(t.Context()) }()
		<-engine.Began()
		begun := time.Now()
		if err := spine.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "read rings") {
			t.Errorf("%v", err)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %v to end", took)
		}
	})
}
