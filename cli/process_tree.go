package cli

import (
	"context"
	"fmt"
	"slices"

	"warren/api"
)

// processTreeCommand draws who started whom.
func processTreeCommand(g *globals) *command {
	var living, kernel, exited bool
	exited = true
	var about selection
	var when string
	return &command{
		name:    "process tree",
		args:    "[PID|EXEC-ID]",
		summary: "Draw who started whom",
		about: "All processes that run, and those that have ended and are still remembered, with how they ended; or those that one process started, below its ancestors. " +
			"A process stands below the one that started it, also after that one has ended and the kernel has handed it to another.\n\n" +
			"With --at, those that ran at that moment, as they were then: by the history.",
		examples: []example{
			{"warren process tree", "The whole machine"},
			{"warren process tree 1", "What init started"},
			{"warren process tree --living", "Without those that have ended"},
			{"warren process tree --at 14:32", "As it was then"},
		},
		cluster: []example{
			{"kubectl warren process tree -n shop -l app=cart", "Who started whom in the pods of an application"},
			{"kubectl warren process tree 1 -A --node node-1", "A whole node"},
		},
		flags: append([]*option{
			{long: "exited", yes: &exited, doc: "also processes that have ended (default true)"},
			{long: "living", yes: &living, doc: "the same as --exited=false"},
			{long: "kernel", yes: &kernel, doc: "also threads of the kernel"},
			{long: "at", meta: "WHEN", text: &when, doc: "as it was at this moment: " + whenDoc},
		}, podFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(1, args); err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if err := who.oneProcess(args[0]); err != nil {
					return err
				}
			}
			at, err := moment("--at", when, env.Now())
			if err != nil {
				return err
			}
			pt := processTable{screen: env.screen(true), exited: exited && !living && at.IsZero(), now: env.Now(), at: at}
			pt.place = who.place(pt.screen, false)
			q, err := who.question(api.Question{Exited: pt.exited, At: at, Fields: append(pt.fields(), "proc.parent_exec_id")})
			if err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			who.unseen(ctx, at)
			procs, err := readProcesses(who.lines(who.Processes(ctx, q), dropRoll, ""), kernel)
			if err != nil {
				return err
			}
			pt.place = pt.place.withPods(procs)
			f := newForest(procs)
			if len(args) == 1 {
				if f, err = f.below(args[0]); err != nil {
					return err
				}
			}
			out := &lazyWriter{out: env.Stdout}
			if err := f.draw(newTable(out, pt.screen, pt.treeColumns()), &pt); err != nil {
				return err
			}
			return who.whole(out.Flush())
		},
	}
}

// A forest is processes by the one that started them.
type forest struct {
	procs    []*record // in the order of their starts
	children map[string][]*record
	roots    []*record
}

func newForest(procs []*record) *forest {
	f := &forest{procs: procs, children: map[string][]*record{}}
	known := make(map[string]bool, len(procs))
	for _, p := range procs {
		known[p.str("proc.exec_id")] = true
	}
	for _, p := range procs {
		if parent := p.str("proc.parent_exec_id"); parent != p.str("proc.exec_id") && known[parent] {
			f.children[parent] = append(f.children[parent], p)
		} else {
			f.roots = append(f.roots, p)
		}
	}
	return f
}

// below returns the part of f that one process roots, with the line of its
// ancestors above. Of several processes that had a pid it is the latest.
func (f *forest) below(id string) (*forest, error) {
	var found *record
	byID := make(map[string]*record, len(f.procs))
	for _, p := range f.procs {
		byID[p.str("proc.exec_id")] = p
		if id == p.str("proc.exec_id") || isPID(id) && id == p.str("proc.pid") {
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no process %s: it neither runs nor is it remembered", id)
	}
	part := &forest{procs: f.procs, children: map[string][]*record{}}
	var keep func(p *record)
	keep = func(p *record) {
		key := p.str("proc.exec_id")
		if _, done := part.children[key]; done {
			return
		}
		part.children[key] = f.children[key]
		for _, c := range f.children[key] {
			keep(c)
		}
	}
	keep(found)
	for {
		key := found.str("proc.parent_exec_id")
		parent := byID[key]
		if _, done := part.children[key]; parent == nil || done {
			break
		}
		part.children[key] = []*record{found}
		found = parent
	}
	part.roots = []*record{found}
	return part, nil
}

func (pt *processTable) treeColumns() []column {
	cols := []column{{head: "PID", right: true}, {head: "USER", max: 16}, {head: "STARTED"}, {head: "DURATION", right: true}}
	cols = pt.place.columns(cols, column{head: "CONTAINER", max: 24, spare: 1}, treeContainer, false)
	if pt.exited {
		cols = append(cols, column{head: "ENDED", max: 24})
	}
	return append(cols, column{head: "COMMAND"})
}

func (f *forest) draw(t *table, pt *processTable) error {
	s := pt.screen
	branch, last, down := "├─ ", "└─ ", "│  "
	if !s.utf8 {
		branch, last, down = "|- ", "`- ", "|  "
	}
	var rows [][]cell
	seen := make(map[*record]bool, len(f.procs))
	var add func(p *record, lead, below string)
	add = func(p *record, lead, below string) {
		if seen[p] {
			return // two processes cannot be each other's parent, but a list could say so
		}
		seen[p] = true
		row := []cell{{text: s.safe(p.str("proc.pid"))}, {text: s.user(p)}, {text: pt.started(p), color: dim}, {text: pt.duration(p)}}
		row = pt.place.cells(row, p, treeContainer, false)
		if pt.exited {
			row = append(row, pt.ended(p))
		}
		c := pt.command(p)
		c.text = lead + c.text
		rows = append(rows, append(row, c))
		children := f.children[p.str("proc.exec_id")]
		for i, child := range children {
			if i < len(children)-1 {
				add(child, below+branch, below+down)
			} else {
				add(child, below+last, below+"   ")
			}
		}
	}
	roots := slices.Clone(f.roots)
	for _, p := range roots {
		add(p, "", "")
	}
	return t.rows(rows)
}
