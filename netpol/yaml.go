package netpol

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/cluster"
)

// WriteYAML writes a NetworkPolicy as kubectl applies it, with what its rules
// come from in comments.
func (s Suggestion) WriteYAML(w io.Writer) error {
	y := &yaml{}
	p := s.Policy
	y.line(0, "apiVersion: networking.k8s.io/v1")
	y.line(0, "kind: NetworkPolicy")
	y.line(0, "metadata:")
	y.line(1, "name: %s", scalar(p.Name))
	y.line(1, "namespace: %s", scalar(p.Namespace))
	y.line(0, "spec:")
	y.selector(1, "podSelector:", &p.Subject.Pods)
	y.line(1, "policyTypes: [Ingress, Egress]")
	y.rules("ingress", "from", p.Ingress, s.Evidence[Ingress])
	y.rules("egress", "to", p.Egress, s.Evidence[Egress])
	_, err := io.WriteString(w, y.text.String())
	return err
}

type yaml struct{ text strings.Builder }

func (y *yaml) line(depth int, format string, args ...any) {
	y.text.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(&y.text, format, args...)
	y.text.WriteByte('\n')
}

func (y *yaml) rules(name, peers string, rules []cluster.PolicyRule, evidence []Evidence) {
	if len(rules) == 0 {
		y.line(1, "%s: [] # nothing was seen", name)
		return
	}
	y.line(1, "%s:", name)
	for i, r := range rules {
		for _, text := range evidence[i].lines() {
			y.line(1, "# %s", comment(text))
		}
		y.line(1, "- %s:", peers)
		for _, p := range r.Peers {
			switch {
			case len(p.Networks) > 0:
				y.line(2, "- ipBlock: {cidr: %s}", scalar(p.Networks[0].String()))
			case p.Namespaces != nil:
				y.selector(2, "- namespaceSelector:", p.Namespaces)
				y.selector(2, "  podSelector:", p.Pods)
			default:
				y.selector(2, "- podSelector:", p.Pods)
			}
		}
		y.line(2, "ports:")
		for _, port := range r.Ports {
			number := scalar(port.Name)
			if port.Name == "" {
				number = strconv.Itoa(int(port.First))
			}
			y.line(2, "- {protocol: %s, port: %s}", strings.ToUpper(port.Protocol), number)
		}
	}
}

func (y *yaml) selector(depth int, key string, s *cluster.Selector) {
	if len(s.Equal) == 0 && len(s.Rules) == 0 {
		y.line(depth, "%s {}", key)
		return
	}
	y.line(depth, "%s", key)
	depth++
	if strings.HasPrefix(key, "-") || strings.HasPrefix(key, " ") {
		depth++
	}
	if len(s.Equal) > 0 {
		y.line(depth, "matchLabels:")
		for _, k := range slices.Sorted(maps.Keys(s.Equal)) {
			y.line(depth+1, "%s: %s", scalar(k), scalar(s.Equal[k]))
		}
	}
	if len(s.Rules) > 0 {
		y.line(depth, "matchExpressions:")
		for _, r := range s.Rules {
			y.line(depth, "- {key: %s, operator: DoesNotExist}", scalar(r.Key))
		}
	}
}

// plain are texts that YAML reads as themselves: no number, no boolean, no date.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/-]*[A-Za-z0-9]$`)

// words are those that some readers of YAML take for something else.
var words = map[string]bool{"true": true, "false": true, "yes": true, "no": true, "on": true, "off": true, "null": true}

func scalar(text string) string {
	if plain.MatchString(text) && !words[strings.ToLower(text)] {
		return text
	}
	return strconv.QuoteToASCII(text)
}

// comment is a text that ends no comment, and means nothing to a terminal.
func comment(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

func (e Evidence) lines() []string {
	first := fmt.Sprintf("%d flows", e.Count)
	if e.Count == 1 {
		first = "1 flow"
	}
	if !e.First.IsZero() {
		first += fmt.Sprintf(" from %s to %s", e.First.UTC().Format(time.RFC3339), e.Last.UTC().Format(time.RFC3339))
	}
	lines := []string{first + ": " + strings.Join(e.Examples, ", ")}
	for _, w := range e.Warnings {
		lines = append(lines, "note: "+w)
	}
	return lines
}
