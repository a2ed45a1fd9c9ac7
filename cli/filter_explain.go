package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/event"
	"warren/filter"
)

// filterExplainCommand tells what of a filter the kernel decides.
func filterExplainCommand(g *globals) *command {
	var output, countBy string
	return &command{
		name:    "filter explain",
		args:    "FILTER",
		summary: "Tell what of a filter the kernel decides, and what it costs",
		about: "Which hooks a filter attaches, what the kernel then leaves out before anything is recorded, and which of its comparisons are judged in the agent alone. " +
			"What is left out in the kernel costs next to nothing; what is recorded to be judged afterwards costs a record each. " +
			"An agent on this machine is asked for one thing only, and does not have to be there: whether its kernel lets objects be seen in the middle of calls (fentry). Without that, it does not always show which file was renamed or removed, and that is then said too.",
		examples: []example{
			{"warren filter explain 'evt.type in (open, openat, creat) and fd.name startswith /etc and evt.is_open_write = true'", "Decided in the kernel as a whole"},
			{"warren filter explain 'evt.kind = open and proc.name contains sh'", "A part that it cannot decide"},
			{"warren filter explain --count-by proc.exe,fd.directory 'evt.kind = open and fd.name startswith /usr/'", "Whether events are counted in the kernel"},
			{"warren filter explain 'evt.type = ptrace' -o json", "For a script"},
		},
		flags: []*option{
			outputFlag(&output, "", "table", "json"),
			{long: "count-by", meta: "FIELDS", text: &countBy, doc: "tell whether the kernel can count the events by these fields, as with events --count-by"},
		},
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which filter? A condition is needed")
			}
			text := filterOf(args)
			prog, err := filter.Compile(text)
			if err != nil {
				return err
			}
			x := prog.Explain()
			// What fills tables is nobody's to ask for.
			x.Kinds &^= event.StateKinds | event.NoticeKinds
			if len(x.Sighted) > 0 && !g.kubectl {
				if why := withoutFentry(ctx, env.dial(g.socket)); why != "" {
					x.Warnings = append(x.Warnings, fmt.Sprintf("on this machine programs do not see objects in the middle of calls (%s): of %s the kernel shows the file in plain cases only; all others are recorded, match no name, and are counted as lost for the filter", why, someTypes(x.Sighted)))
				}
			}
			x.Types = slices.DeleteFunc(x.Types, func(typ string) bool { return event.KindsOfType(typ)&x.Kinds == 0 })
			var counting *filter.Counting
			if countBy != "" {
				by, err := fieldsToCountBy(countBy)
				if err != nil {
					return err
				}
				c := prog.Counting(by, prog.Asked())
				counting = &c
			}
			if output == "json" {
				line, err := json.Marshal(explained(text, &x, counting))
				if err != nil {
					return fmt.Errorf("write the explanation: %w", err)
				}
				return writeObject(env, line)
			}
			v := explainView{page: page{screen: env.screen(true)}, x: &x, counting: counting}
			v.write()
			return v.print(env)
		},
	}
}

// withoutFentry returns why the kernel of an agent refuses fentry; "" where it does
// not, or nobody answers.
func withoutFentry(ctx context.Context, agent Agent) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	report, err := agent.Status(ctx)
	var st api.Status
	if err != nil || json.Unmarshal(report, &st) != nil {
		return ""
	}
	for _, s := range st.Sensors {
		for _, h := range s.Hooks {
			for _, r := range h.Refused {
				if r.Rung == "fentry" {
					return r.Reason
				}
			}
		}
	}
	return ""
}

// someTypes lists types of events, the first few of many.
func someTypes(types []string) string {
	const most = 4
	if len(types) <= most {
		return strings.Join(types, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(types[:most], ", "), len(types)-most)
}

// An explanation is what a script reads.
type explanation struct {
	Filter   string          `json:"filter"`
	Kinds    []string        `json:"kinds"`
	Left     []string        `json:"not_asked_for,omitempty"`
	Types    []string        `json:"types"`
	Kernel   []string        `json:"kernel"` // of what is judged there, one of these has to hold
	Parts    []explainedPart `json:"parts"`
	Warnings []string        `json:"warnings"`
	// Of events that are to be counted.
	Counted  []string `json:"counted_in_kernel,omitempty"`
	Recorded []string `json:"recorded_to_be_counted,omitempty"`
	Because  []string `json:"recorded_because,omitempty"`
}

type explainedPart struct {
	Text  string `json:"text"`
	Judge string `json:"judge"`
	Note  string `json:"note,omitempty"`
}

func explained(text string, x *filter.Explanation, c *filter.Counting) explanation {
	e := explanation{Filter: text, Kinds: api.KindNames(x.Kinds), Left: api.KindNames(x.Left), Types: append([]string{}, x.Types...), Kernel: []string{}, Parts: []explainedPart{}, Warnings: append([]string{}, x.Warnings...)}
	for _, t := range x.Terms {
		e.Kernel = append(e.Kernel, t.String())
	}
	for _, p := range x.Parts {
		e.Parts = append(e.Parts, explainedPart{p.Text, p.Judge.String(), p.Note})
	}
	if c != nil {
		e.Counted, e.Recorded, e.Because = api.KindNames(c.Kinds), api.KindNames(c.Told), c.Why
	}
	return e
}

// An explainView writes what becomes of a filter.
type explainView struct {
	page
	x        *filter.Explanation
	counting *filter.Counting // nil: not asked for
}

func (v *explainView) write() {
	v.heading("Events")
	if v.x.Kinds == 0 && v.x.Left == 0 {
		v.line("none", v.paint(yellow, "nothing that can happen satisfies all of this"))
		return
	}
	v.line("of kinds", v.safe(v.x.Kinds.String()))
	if v.x.Left != 0 {
		v.line("not asked for", v.safe(v.x.Left.String())+": with evt.kind, evt.type or a field of theirs they are; evt.kind exists has all")
	}
	v.line("hooked for", v.safe(strings.Join(v.x.Types, ", ")))
	v.heading("Recorded by the kernel")
	if len(v.x.Terms) == 0 {
		v.line("all", "of these events; there are few, and tables are made of them")
	}
	for _, t := range v.x.Terms {
		v.line("those with", v.safe(t.String()))
	}
	if len(v.x.Parts) > 0 {
		v.heading("Who judges")
		rows := make([][]cell, len(v.x.Parts))
		for i, p := range v.x.Parts {
			judge := cell{text: v.safe(p.Judge.String()), color: green}
			switch p.Judge {
			case filter.UserSpace:
				judge.color = yellow
			case filter.KernelInPart:
				judge.color = plain
			}
			rows[i] = []cell{judge, {text: v.safe(p.Text)}, {text: v.safe(p.Note)}}
		}
		v.rows([]column{{head: "JUDGE"}, {head: "COMPARISON"}, {head: "NOTE"}}, rows)
	}
	if c := v.counting; c != nil {
		v.heading("Counted")
		if c.Kinds != 0 {
			v.line("in the kernel", v.safe(c.Kinds.String())+": those that nobody else wants one by one")
		}
		if c.Told != 0 {
			v.line("recorded", v.safe(c.Told.String())+": the kernel cannot count by "+v.safe(strings.Join(c.Why, ", ")))
		}
		if left := v.x.Kinds &^ (c.Kinds | c.Told); left != 0 {
			v.line("in the agent", v.safe(left.String()))
		}
	}
	if len(v.x.Warnings) > 0 {
		v.heading("Costs")
		for _, w := range v.x.Warnings {
			v.line("warning", v.paint(yellow, v.safe(w)))
		}
	}
}
