package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"warren/api"
	"warren/event"
)

// countEvents shows how many events there are by the values of fields, until the
// stream ends: on a terminal always what is so far, elsewhere what it was in the
// end.
func countEvents(ctx context.Context, env *Env, who *answerer, q api.CountQuestion, output string) error {
	var last *api.Counts
	lines := func(yield func([]byte, error) bool) {
		for line, err := range who.CountEvents(ctx, q) {
			if err == nil {
				last = &api.Counts{}
				if err = json.Unmarshal(line, last); err != nil {
					err = fmt.Errorf("read counts: %w", err)
				}
			}
			if !yield(line, err) {
				return
			}
		}
	}
	// What is missing is said once, at the end, where no picture says it.
	missing := func(err error) error {
		if err != nil || last == nil {
			return err
		}
		say := screen{utf8: env.utf8()}
		for _, gap := range last.Gaps {
			who.missing = true
			fmt.Fprintln(env.Stderr, env.program()+": "+say.safe(gap))
		}
		who.missingNodes(last.Nodes, last.Missing)
		return who.whole(nil)
	}
	if output == "json" {
		return missing(writeJSON(env, lines))
	}
	for _, err := range lines {
		if err != nil {
			if last == nil || ctx.Err() == nil {
				return err
			}
			break // somebody has seen enough
		}
		if env.Terminal && !last.Last {
			if err := writeCounts(env, last, true); err != nil {
				return err
			}
		}
	}
	if last == nil {
		return nil
	}
	return missing(writeCounts(env, last, env.Terminal))
}

// fieldsToCountBy returns the fields of a list.
func fieldsToCountBy(list string) ([]string, error) {
	by := strings.Split(strings.ReplaceAll(list, " ", ""), ",")
	for _, name := range by {
		if _, known := event.Lookup(name); !known {
			return nil, usagef("no field %q to count by: warren fields lists them", name)
		}
	}
	return by, nil
}

// clearScreen puts what follows on an empty screen.
const clearScreen = "\x1b[H\x1b[2J"

func writeCounts(env *Env, c *api.Counts, anew bool) error {
	v := page{screen: env.screen(true)}
	if anew {
		v.b.WriteString(clearScreen)
	}
	cols := []column{{head: "COUNT", right: true}}
	for _, name := range c.By {
		cols = append(cols, column{head: v.safe(name), max: 80})
	}
	var rows [][]cell
	for _, r := range c.Rows {
		row := []cell{count(r.Count)}
		for _, value := range r.Values {
			if value == nil {
				row = append(row, cell{text: "-", color: dim})
			} else {
				row = append(row, cell{text: v.safe(*value)})
			}
		}
		for len(row) < len(cols) {
			row = append(row, cell{})
		}
		rows = append(rows, row[:len(cols)])
	}
	v.rows(cols, rows)
	notes := []string{strconv.FormatUint(c.Total, 10) + " events"}
	if n := c.Other + c.Unshown; n > 0 {
		notes = append(notes, fmt.Sprintf("%d of them others than these", n))
	}
	if c.Lost > 0 {
		notes = append(notes, v.paint(red, fmt.Sprintf("%d were lost before they were counted", c.Lost)))
	}
	if n := len(c.Missing); n > 0 && !c.Last {
		notes = append(notes, v.paint(red, fmt.Sprintf("%d of %d nodes answer", c.Nodes-n, c.Nodes)))
	}
	v.b.WriteString("  " + strings.Join(notes, ", ") + "\n")
	return v.print(env)
}
