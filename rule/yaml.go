package rule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFile bounds the text of one file, in bytes.
	maxFile = 64 << 20
	// maxNodes bounds what a file consists of once its aliases are followed: a
	// few lines of aliases can stand for more than any machine holds.
	maxNodes = 4 << 20
)

// syntaxError is how the YAML library says where it stopped.
var syntaxError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(?s:(.*))$`)

// documents reads the documents of a file.
func documents(f File) (docs []*yaml.Node, at Place, err error) {
	if len(f.Text) > maxFile {
		return nil, Place{File: f.Name}, fmt.Errorf("%d bytes are too much for a rule file", len(f.Text))
	}
	dec := yaml.NewDecoder(bytes.NewReader(f.Text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return docs, Place{}, nil
		case err != nil:
			at := Place{File: f.Name}
			msg := err.Error()
			if m := syntaxError.FindStringSubmatch(msg); m != nil {
				at.Line, _ = strconv.Atoi(m[1])
				msg = m[2]
			}
			return nil, at, errors.New(msg)
		}
		if err := follow(&doc); err != nil {
			return nil, Place{f.Name, doc.Line, 0}, err
		}
		if len(doc.Content) > 0 {
			docs = append(docs, doc.Content[0])
		}
	}
}

// follow puts what they stand for in the place of aliases, and merges mappings
// (<<), so that nobody behind it has to know of either.
func follow(doc *yaml.Node) error {
	left := maxNodes
	var walk func(n *yaml.Node, depth int) (*yaml.Node, error)
	walk = func(n *yaml.Node, depth int) (*yaml.Node, error) {
		if left--; left < 0 {
			return nil, fmt.Errorf("the aliases stand for more than %d values", maxNodes)
		}
		if depth > 100 {
			return nil, errors.New("more than 100 values inside each other")
		}
		if n.Kind == yaml.AliasNode {
			if n.Alias == nil {
				return nil, errors.New("an alias of nothing")
			}
			return walk(n.Alias, depth+1)
		}
		if len(n.Content) == 0 {
			return n, nil
		}
		m := *n
		m.Content = make([]*yaml.Node, 0, len(n.Content))
		for i, c := range n.Content {
			c, err := walk(c, depth+1)
			if err != nil {
				return nil, err
			}
			if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Tag == "!!merge" {
				m.Content = m.Content[:len(m.Content)-1]
				for _, from := range merged(c) {
					for j := 0; j+1 < len(from.Content); j += 2 {
						if value(&m, from.Content[j].Value) == nil && value(n, from.Content[j].Value) == nil {
							m.Content = append(m.Content, from.Content[j], from.Content[j+1])
						}
					}
				}
				continue
			}
			m.Content = append(m.Content, c)
		}
		return &m, nil
	}
	n, err := walk(doc, 0)
	if err == nil {
		*doc = *n
	}
	return err
}

// merged returns the mappings that << names.
func merged(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.SequenceNode {
		return slices.DeleteFunc(slices.Clone(n.Content), func(c *yaml.Node) bool { return c.Kind != yaml.MappingNode })
	}
	if n.Kind == yaml.MappingNode {
		return []*yaml.Node{n}
	}
	return nil
}

// value returns what stands behind a key of a mapping, nil where there is none.
// Of a key that stands twice it is the first.
func value(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// parseBool reads what YAML 1.1 and Falco take for true and false.
func parseBool(s string) (value, ok bool) {
	if s != strings.ToLower(s) && s != strings.ToUpper(s) && s[1:] != strings.ToLower(s[1:]) {
		return false, false
	}
	switch strings.ToLower(s) {
	case "y", "yes", "true", "on":
		return true, true
	case "n", "no", "false", "off":
		return false, true
	}
	return false, false
}
