package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/event"
	"warren/rule"
)

// ruleLearnCommand proposes exceptions.
func ruleLearnCommand(g *globals) *command {
	var about selection
	when := period{since: "1d"}
	least := 3
	return &command{
		name:    "rule learn",
		args:    "[FILE...]",
		summary: "Propose exceptions to rules, by the alerts of the history",
		about: "Of the alerts of the last day, or since another moment, those that were made again and again by the same program, with the same parent, in containers of the same image or on the host, become exceptions: a rule file to be read, changed and, if it is right, put behind the others. " +
			"What each would have silenced, and what remains, stands beside it. Nothing is applied. With the rule FILES that made the alerts, the proposal is loaded behind them, and refused where it does not fit.",
		examples: []example{
			{"warren rule learn falco_rules.yaml", "What could be silenced of the last day"},
			{"warren rule learn --since 7d --least 20 falco_rules.yaml", "Of a week, and only what was seen twenty times"},
		},
		cluster: []example{
			{"kubectl warren rule learn -A --least 20 falco_rules.yaml", "What could be silenced of the last day, on all nodes"},
		},
		flags: append([]*option{{long: "least", meta: "N", number: &least, doc: "how often something was alerted to be proposed (default 3)"}}, append(when.flags(), podFlags(g, &about)...)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			since, until, err := when.times(env.Now())
			if err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			var files []rule.File
			if len(args) > 0 {
				if files, err = readRules(env, args); err != nil {
					return err
				}
			}
			q, err := who.question(api.Question{Filter: onlyAlerts, Since: since, Until: until})
			if err != nil {
				return err
			}
			who.remembered(ctx, &q, false)
			seen, err := sightings(env, who.lines(who.Recent(ctx, q), dropRoll, ""))
			if err != nil {
				return err
			}
			who.broken(ctx)
			lessons := rule.Learn(seen, uint64(max(least, 1)))
			if len(files) > 0 {
				set, _ := rule.Load(files, rule.Config{})
				if set == nil {
					return fmt.Errorf("%s: there are errors in the rules: see warren rule check", strings.Join(args, ", "))
				}
				lessons = slices.DeleteFunc(lessons, func(l rule.Lesson) bool { _, ok := set.Rule(l.Rule); return !ok })
			}
			if len(lessons) == 0 {
				return fmt.Errorf("there is no alert of these rules in the history since %s", when.since)
			}
			text := fmt.Appendf(nil, "# Proposed by warren rule learn at %s, of alerts since %s. Read each: what is silenced is not seen again.\n", env.Now().UTC().Format(time.RFC3339), since.UTC().Format(time.RFC3339))
			text = rule.AppendLessons(text, lessons, "learned_"+env.Now().UTC().Format("20060102_1504"))
			if len(files) > 0 {
				all := append(slices.Clone(files), rule.File{Name: "proposal", Text: text})
				if set, findings := rule.Load(all, rule.Config{}); set == nil {
					findings = slices.DeleteFunc(findings, func(f rule.Finding) bool { return !f.IsError() })
					return fmt.Errorf("what would be proposed does not fit the rules: %v: %s", findings[0].Place, findings[0].Msg)
				}
			}
			_, err = env.Stdout.Write(text)
			return who.whole(err)
		},
	}
}

// sightings reads alerts of rules, and says what was lost among them.
func sightings(env *Env, lines api.Lines) (seen []rule.Sighting, err error) {
	var r record
	for line, err := range lines {
		if err == nil {
			err = r.parse(line)
		}
		if err != nil {
			return nil, err
		}
		switch r.kind() {
		case event.KindLost:
			s := env.screen(false)
			fmt.Fprintln(env.Stderr, env.program()+": "+s.lostDetail(&r))
		case event.KindAlert:
			if r.str("alert.source") != rule.SourceSyscall {
				continue
			}
			seen = append(seen, rule.Sighting{
				Rule: r.str("alert.rule"), Times: uint64(max(1, r.num("alert.count"))) * uint64(max(1, r.num("evt.count"))), Last: r.time("evt.time"),
				Exe: r.str("proc.exepath"), Parent: r.str("proc.pname"), Image: r.str("container.image.repository"), OnHost: r.str("container.id") == "host",
				Command: r.str("proc.cmdline"),
			})
		}
	}
	return seen, nil
}
