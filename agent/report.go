package agent

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"warren/api"
)

// report tells the person who started the agent what it does, and what it
// cannot do here. Everything in it is also in `warren status`.
func report(w io.Writer, st api.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "warren %s, instance %s, pid %d\n", st.Version, st.Instance, st.PID)
	fmt.Fprintf(&b, "kernel %s%s\n", st.Kernel, lockdownText(st.Lockdown))
	for _, s := range st.Sensors {
		reportSensor(&b, s)
	}

	b.WriteString("\ncapabilities\n")
	var held, returned []string
	for _, c := range st.Capabilities {
		switch {
		case c.Held:
			held = append(held, c.Name)
		case c.Returned:
			returned = append(returned, c.Name)
		}
	}
	fmt.Fprintf(&b, "  has %s, and no others\n", strings.Join(held, ", "))
	if len(returned) > 0 {
		fmt.Fprintf(&b, "  had %s while it started\n", strings.Join(returned, ", "))
	}
	for _, c := range st.Capabilities {
		if !c.Held && !c.Returned {
			fmt.Fprintf(&b, "  lacks %s: %s\n", c.Name, c.For)
		}
	}

	b.WriteString("\n")
	for _, l := range st.Listen {
		fmt.Fprintf(&b, "listening on %s\n", l)
	}
	fmt.Fprintf(&b, "state in %s\n", st.StateDir)
	fmt.Fprintf(&b, "\ntry: %s\n", strings.Join(try(st), "\n     "))
	_, err := io.WriteString(w, b.String())
	return err
}

func lockdownText(mode string) string {
	switch mode {
	case "none", "unknown", "":
		return ""
	}
	return ", locked down for " + mode
}

func reportSensor(b *strings.Builder, s api.Sensor) {
	if !s.Running {
		fmt.Fprintf(b, "\nsensor %s: not running", s.Name)
		if s.Error != "" {
			fmt.Fprintf(b, ": %s", s.Error)
		} else {
			b.WriteString(", until somebody wants its events")
		}
		b.WriteString("\n")
		return
	}
	fmt.Fprintf(b, "\nsensor %s\n", s.Name)
	// The same reason holds for many hooks: it is told once.
	notes := map[string]int{}
	var order []string
	note := func(reason string) int {
		if notes[reason] == 0 {
			order = append(order, reason)
			notes[reason] = len(order)
		}
		return notes[reason]
	}
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, h := range s.Hooks {
		how := h.Rung
		if how == "" {
			how = "off"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s", h.Name, how, h.Purpose)
		var not []string
		for _, r := range h.Refused {
			not = append(not, fmt.Sprintf("%s [%d]", r.Rung, note(r.Reason)))
		}
		if h.Error != "" && h.Rung == "" && len(h.Refused) == 0 {
			fmt.Fprintf(t, " [%d]", note(h.Error))
		}
		if len(not) > 0 {
			fmt.Fprintf(t, "; no %s", strings.Join(not, ", "))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	for i, reason := range order {
		fmt.Fprintf(b, "  [%d] %s\n", i+1, reason)
	}
}

// try are commands that work now: they name the socket where it is not the
// default.
func try(st api.Status) []string {
	at := ""
	for _, l := range st.Listen {
		if path, ok := strings.CutPrefix(l, "unix:"); ok && path != "/run/warren/warren.sock" {
			at = " --socket " + path
		}
	}
	return []string{
		"warren" + at + " events",
		"warren" + at + " process tree",
		"warren" + at + " connection list",
		"warren" + at + " status",
	}
}
