package agent

import (
	"fmt"
	"io"
	"slices"
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
	if st.CgroupRoot != "" {
		fmt.Fprintf(&b, "sees only cgroup %s\n", st.CgroupRoot)
	}
	if k := st.Kubernetes; k != nil {
		fmt.Fprintf(&b, "node %s, %s\n", st.Node, clusterText(k))
	}
	var reasons notes
	for _, s := range st.Sensors {
		reportSensor(&b, s, &reasons)
	}
	if len(reasons) > 0 {
		b.WriteString("\nwhy not better\n")
	}
	for i, reason := range reasons {
		fmt.Fprintf(&b, "  [%d] %s\n", i+1, reason)
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

func clusterText(k *api.Kubernetes) string {
	switch {
	case k.Off != "":
		return "without Kubernetes: " + k.Off
	case !k.Connected:
		return "Kubernetes at " + k.Server + " does not answer yet"
	}
	return "Kubernetes at " + k.Server
}

func lockdownText(mode string) string {
	switch mode {
	case "none", "unknown", "":
		return ""
	}
	return ", locked down for " + mode
}

func reportSensor(b *strings.Builder, s api.Sensor, notes *notes) {
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
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, h := range s.Hooks {
		how := h.Rung
		if how == "" {
			how = "off"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s", h.Name, how, h.Purpose)
		var not []string
		for _, r := range h.Refused {
			if n := fmt.Sprintf("%s [%d]", r.Rung, notes.number(r.Reason)); !slices.Contains(not, n) {
				not = append(not, n)
			}
		}
		switch {
		case len(not) > 0:
			fmt.Fprintf(t, "; no %s", strings.Join(not, ", "))
		case h.Rung == "" && h.Error != "":
			fmt.Fprintf(t, "; %s", h.Error)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	if s.Error != "" {
		fmt.Fprintf(b, "  incomplete: %s\n", s.Error)
	}
}

// notes are reasons that hold for several hooks: each is told once.
type notes []string

func (n *notes) number(reason string) int {
	i := slices.Index(*n, reason)
	if i < 0 {
		i = len(*n)
		*n = append(*n, reason)
	}
	return i + 1
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
