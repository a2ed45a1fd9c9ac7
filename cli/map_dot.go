package cli

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"warren/api"
)

// dot returns a map in Graphviz's language: a box for each namespace, red where
// something failed. Names are quoted, and nothing in them means anything to
// Graphviz or to a terminal.
func (s screen) dot(m *api.Map) []byte {
	var b bytes.Buffer
	b.WriteString("digraph warren {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n")
	byNamespace := map[string][]*api.MapNode{}
	known := map[string]bool{}
	var namespaces []string
	for i := range m.Nodes {
		n := &m.Nodes[i]
		known[n.ID] = true
		if byNamespace[n.Namespace] == nil {
			namespaces = append(namespaces, n.Namespace) // in the order of ids
		}
		byNamespace[n.Namespace] = append(byNamespace[n.Namespace], n)
	}
	for i, ns := range namespaces {
		indent := "  "
		if ns != "" {
			fmt.Fprintf(&b, "  subgraph cluster_%d {\n    label=%s;\n", i, s.dotQuote(ns))
			indent = "    "
		}
		for _, n := range byNamespace[ns] {
			s.dotNode(&b, indent, n)
		}
		if ns != "" {
			b.WriteString("  }\n")
		}
	}
	for i := range m.Nodes {
		for _, id := range m.Nodes[i].Backends {
			if known[id] {
				fmt.Fprintf(&b, "  %s -> %s [style=dashed, arrowhead=none];\n", s.dotQuote(m.Nodes[i].ID), s.dotQuote(id))
			}
		}
	}
	for i := range m.Edges {
		s.dotEdge(&b, &m.Edges[i])
	}
	b.WriteString("}\n")
	return b.Bytes()
}

func (s screen) dotNode(b *bytes.Buffer, indent string, n *api.MapNode) {
	label := n.Name
	if label == "" {
		label = "(unknown)"
	}
	shape := ""
	switch n.Kind {
	case api.MapService:
		shape = ", shape=component"
	case api.MapProcess, api.MapContainer:
		shape = ", style=solid"
	case api.MapHost:
		shape = ", shape=box3d"
	case api.MapName, api.MapAddress, api.MapWorld:
		shape = ", shape=ellipse, style=dashed"
	}
	fmt.Fprintf(b, "%s%s [label=%s%s];\n", indent, s.dotQuote(n.ID), s.dotQuote(label), shape)
}

func (s screen) dotEdge(b *bytes.Buffer, e *api.MapEdge) {
	label := fmt.Sprintf(":%d", e.Port)
	if e.Protocol != "tcp" {
		label += "/" + e.Protocol
	}
	lines := []string{label, fmt.Sprintf("%s / %s", byteCount(e.BytesSent), byteCount(e.BytesReceived))}
	if e.RTT != nil {
		lines = append(lines, "rtt "+span(time.Duration(e.RTT.Mean)))
	}
	color := ""
	if e.Failed > 0 {
		lines = append(lines, fmt.Sprintf("%d failed", e.Failed))
		color = ", color=red, fontcolor=red"
	}
	for i := range lines {
		lines[i] = s.dotEscape(lines[i])
	}
	fmt.Fprintf(b, "  %s -> %s [label=\"%s\"%s];\n", s.dotQuote(e.From), s.dotQuote(e.To), strings.Join(lines, `\n`), color)
}

// dotQuote returns text as a string of Graphviz that stands for itself.
func (s screen) dotQuote(text string) string { return `"` + s.dotEscape(text) + `"` }

// dotEscape returns text as it stands within quotes. A backslash would begin an
// escape of labels (\N is the node's name), and & an entity of HTML.
func (s screen) dotEscape(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, `&amp;`).Replace(s.safe(text))
}
