package hub

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"warren/filter"
)

// maxConfig bounds the file: what is larger is something else.
const maxConfig = 1 << 20

// parseConfig reads YAML, one mapping of keys to values, into c. Errors begin
// with file and line, as compilers write them.
func parseConfig(file string, src []byte, c *Config) error {
	if len(src) > maxConfig {
		return fmt.Errorf("%s: %d bytes are too much for a configuration", file, len(src))
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil // nothing is set
	case err != nil:
		return fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		return fmt.Errorf("%s:%d: a second document: a configuration is one", file, more.Line)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: want keys with values", file, root.Line)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		at := slices.IndexFunc(settings, func(s setting) bool { return key.Kind == yaml.ScalarNode && s.key == key.Value })
		switch {
		case at < 0:
			return fmt.Errorf("%s:%d: no key %q; %s", file, key.Line, key.Value, nearKey(key.Value))
		case seen[key.Value]:
			return fmt.Errorf("%s:%d: key %q is there twice", file, key.Line, key.Value)
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			return fmt.Errorf("%s:%d: %s: want a value", file, value.Line, key.Value)
		}
		seen[key.Value] = true
		if err := settings[at].set(c, value.Value); err != nil {
			return fmt.Errorf("%s:%d: %s: %w", file, value.Line, key.Value, err)
		}
	}
	return nil
}

func nearKey(key string) string {
	var keys []string
	for _, s := range settings {
		keys = append(keys, s.key)
	}
	if near := filter.Nearest(key, keys); near != "" {
		return "did you mean " + near + "?"
	}
	return "keys are " + strings.Join(keys, ", ")
}
