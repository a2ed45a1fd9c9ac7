package rule

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"warren/event"
)

// A Suite is tests of rules, as a file has them: rules, events, and the alerts
// that these are to make.
type Suite struct {
	// Rules are those that the file has itself, Paths other files of rules, which
	// are read before them.
	Rules []File
	Paths []string
	Tests []Test
}

// A Test is some events and what all rules say of them.
type Test struct {
	Name   string
	Place  Place
	Events []TestEvent
	// Alerts are all that there are to be, in the order of the events, and of the
	// rules where several say something of one.
	Alerts []Expected
}

// A TestEvent is an event, and where it stands.
type TestEvent struct {
	Event *event.Event
	Place Place
}

// An Expected alert. Output is not compared where it is "".
type Expected struct {
	Rule, Output string
	Place        Place
}

// A SuiteError says what is wrong with a file of tests, and where.
type SuiteError struct {
	Place Place
	Msg   string
}

// Error implements error.
func (e *SuiteError) Error() string { return e.Place.String() + ": " + e.Msg }

// ParseSuite reads a file of tests: a txtar archive where its name ends so, else
// YAML.
//
// Of an archive, files in .yaml and .yml are rules, and rules is a list of paths
// of others, a line each. events are events and alerts what they make, a line
// each: a rule's name, and behind a colon its output, if that is to be compared.
// Of the events in quiet no rule says anything. With a name before it,
// NAME/events, there can be several tests in an archive.
func ParseSuite(f File) (*Suite, error) {
	if path.Ext(f.Name) == ".txtar" {
		return parseArchive(f)
	}
	return parseYAMLSuite(f)
}

// A member is a file of an archive.
type member struct {
	name  string
	lines []string
	line  int // of the archive, of the first of lines
}

var memberMark = regexp.MustCompile(`^-- (.+) --\r?$`)

func members(f File) (list []member) {
	for i, line := range strings.Split(strings.TrimSuffix(string(f.Text), "\n"), "\n") {
		if m := memberMark.FindStringSubmatch(line); m != nil {
			list = append(list, member{name: strings.TrimSpace(m[1]), line: i + 2})
		} else if len(list) > 0 {
			last := &list[len(list)-1]
			last.lines = append(last.lines, strings.TrimSuffix(line, "\r"))
		}
	}
	return list
}

func (m *member) text() string { return strings.Join(m.lines, "\n") + "\n" }

func parseArchive(f File) (*Suite, error) {
	s := &Suite{}
	at := map[string]int{}
	test := func(name string, line int) *Test {
		i, ok := at[name]
		if !ok {
			i = len(s.Tests)
			at[name] = i
			s.Tests = append(s.Tests, Test{Name: name, Place: Place{f.Name, line, 0}})
		}
		return &s.Tests[i]
	}
	for _, m := range members(f) {
		place := Place{f.Name, m.line - 1, 0}
		if ext := path.Ext(m.name); ext == ".yaml" || ext == ".yml" {
			// In its place, so that what is said of it has the line of the archive.
			s.Rules = append(s.Rules, File{f.Name, []byte(strings.Repeat("\n", m.line-1) + m.text())})
			continue
		}
		if m.name == "rules" {
			for _, line := range m.lines {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					s.Paths = append(s.Paths, line)
				}
			}
			continue
		}
		dir, what := path.Split(m.name)
		name := strings.TrimSuffix(dir, "/")
		switch what {
		case "events", "quiet":
			if what == "quiet" {
				name = path.Join(name, what)
			}
			events, err := parseEvents(f.Name, m)
			if err != nil {
				return nil, err
			}
			t := test(name, m.line)
			t.Events = append(t.Events, events...)
		case "alerts":
			t := test(name, m.line)
			for i, line := range m.lines {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					t.Alerts = append(t.Alerts, Expected{Rule: line, Place: Place{f.Name, m.line + i, 0}})
				}
			}
		default:
			return nil, &SuiteError{place, fmt.Sprintf("%s is none of events, alerts, quiet, rules and files in .yaml", printable(m.name))}
		}
	}
	return s, s.whole(f)
}

// whole reports tests without events.
func (s *Suite) whole(f File) error {
	if len(s.Tests) == 0 {
		return &SuiteError{Place{File: f.Name}, "there are no tests in it"}
	}
	for _, t := range s.Tests {
		if len(t.Events) == 0 {
			return &SuiteError{t.Place, "the test has no events"}
		}
	}
	return nil
}

// parseEvents reads events: a line each, as JSON or a mapping in braces, or as
// YAML, a list of mappings or a document each.
func parseEvents(file string, m member) (list []TestEvent, err error) {
	text := m.text()
	first := slices.IndexFunc(m.lines, func(line string) bool { line = strings.TrimSpace(line); return line != "" && line[0] != '#' })
	if first >= 0 && strings.TrimSpace(m.lines[first])[0] == '{' {
		for i, line := range m.lines {
			if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
				continue
			}
			e, err := parseEventLine(line, Place{file, m.line + i, 0})
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		return list, nil
	}
	docs, at, err := documents(File{file, []byte(text)})
	if err != nil {
		return nil, &SuiteError{Place{file, m.line - 1 + at.Line, 0}, err.Error()}
	}
	for _, doc := range docs {
		nodes := []*yaml.Node{doc}
		if doc.Kind == yaml.SequenceNode {
			nodes = doc.Content
		}
		for _, n := range nodes {
			e, err := parseEventNode(file, n, m.line-1)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
	}
	return list, nil
}

func parseEventLine(line string, at Place) (TestEvent, error) {
	values, err := ParseEvent([]byte(line))
	if err != nil {
		docs, _, fail := documents(File{at.File, []byte(line)})
		if fail != nil || len(docs) != 1 || docs[0].Kind != yaml.MappingNode {
			return TestEvent{}, &SuiteError{at, err.Error()}
		}
		return parseEventNode(at.File, docs[0], at.Line-1)
	}
	return makeEvent(values, at)
}

func makeEvent(values map[string]event.Value, at Place) (TestEvent, error) {
	e, err := event.Make(values)
	if err != nil {
		msg := err.Error()
		var ge *event.GivenError
		if errors.As(err, &ge) && strings.HasPrefix(msg, "no field ") {
			msg = unknownFieldMsg(ge.Field)
		}
		return TestEvent{}, &SuiteError{at, msg}
	}
	return TestEvent{e, at}, nil
}

// parseEventNode reads an event of a YAML file whose lines are shifted.
func parseEventNode(file string, n *yaml.Node, shift int) (TestEvent, error) {
	at := Place{file, n.Line + shift, 0}
	if n.Kind == yaml.ScalarNode && strings.HasPrefix(strings.TrimSpace(n.Value), "{") {
		return parseEventLine(n.Value, at)
	}
	if n.Kind != yaml.MappingNode {
		return TestEvent{}, &SuiteError{at, "an event is a mapping of fields to values, and not " + kindName(n)}
	}
	values := map[string]event.Value{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		switch v.Kind {
		case yaml.ScalarNode:
			if !isNull(v) {
				values[key.Value] = event.Value{Text: v.Value}
			}
		case yaml.SequenceNode:
			val := event.Value{Many: true, List: []string{}}
			for _, x := range v.Content {
				if x.Kind != yaml.ScalarNode {
					return TestEvent{}, &SuiteError{Place{file, x.Line + shift, 0}, key.Value + " is a list of texts"}
				}
				text := x.Value
				if isNull(x) {
					text = ""
				}
				val.List = append(val.List, text)
			}
			values[key.Value] = val
		default:
			return TestEvent{}, &SuiteError{Place{file, v.Line + shift, 0}, key.Value + " is a text or a list of them"}
		}
	}
	return makeEvent(values, at)
}

func parseYAMLSuite(f File) (*Suite, error) {
	docs, at, err := documents(f)
	if err != nil {
		return nil, &SuiteError{at, err.Error()}
	}
	s := &Suite{}
	for _, doc := range docs {
		if err := s.document(f.Name, doc); err != nil {
			return nil, err
		}
	}
	return s, s.whole(f)
}

func (s *Suite) document(file string, doc *yaml.Node) error {
	wrong := func(n *yaml.Node, format string, args ...any) error {
		return &SuiteError{Place{file, n.Line, n.Column}, fmt.Sprintf(format, args...)}
	}
	if doc.Kind != yaml.MappingNode {
		return wrong(doc, "a file of tests is a mapping with the keys rules and tests, and not %s", kindName(doc))
	}
	for i := 0; i+1 < len(doc.Content); i += 2 {
		key, v := doc.Content[i], doc.Content[i+1]
		switch key.Value {
		case "rules":
			if err := s.rules(file, v); err != nil {
				return err
			}
		case "tests":
			if v.Kind != yaml.SequenceNode {
				return wrong(v, "tests are a list, and not %s", kindName(v))
			}
			for _, n := range v.Content {
				t, err := parseTest(file, n)
				if err != nil {
					return err
				}
				s.Tests = append(s.Tests, t)
			}
		default:
			return wrong(key, "there is no key %s: want rules and tests", printable(key.Value))
		}
	}
	return nil
}

// rules reads paths, and rules as they stand in a rule file.
func (s *Suite) rules(file string, n *yaml.Node) error {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	var own []*yaml.Node
	for _, n := range nodes {
		switch n.Kind {
		case yaml.ScalarNode:
			s.Paths = append(s.Paths, n.Value)
		case yaml.MappingNode:
			own = append(own, n)
		default:
			return &SuiteError{Place{file, n.Line, n.Column}, "rules are paths, or rules, macros and lists"}
		}
	}
	if len(own) > 0 {
		var b bytes.Buffer
		if err := yaml.NewEncoder(&b).Encode(&yaml.Node{Kind: yaml.SequenceNode, Content: own}); err != nil {
			return &SuiteError{Place{file, n.Line, n.Column}, err.Error()}
		}
		s.Rules = append(s.Rules, File{file + " (rules)", b.Bytes()})
	}
	return nil
}

func parseTest(file string, n *yaml.Node) (Test, error) {
	wrong := func(n *yaml.Node, format string, args ...any) (Test, error) {
		return Test{}, &SuiteError{Place{file, n.Line, n.Column}, fmt.Sprintf(format, args...)}
	}
	if n.Kind != yaml.MappingNode {
		return wrong(n, "a test is a mapping, and not %s", kindName(n))
	}
	t := Test{Place: Place{file, n.Line, 0}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		if key.Value == "name" {
			t.Name = v.Value
			continue
		}
		if key.Value != "events" && key.Value != "alerts" {
			return wrong(key, "there is no key %s: want name, events and alerts", printable(key.Value))
		}
		if v.Kind != yaml.SequenceNode {
			return wrong(v, "%s are a list, and not %s", key.Value, kindName(v))
		}
		for _, x := range v.Content {
			if key.Value == "events" {
				e, err := parseEventNode(file, x, 0)
				if err != nil {
					return Test{}, err
				}
				t.Events = append(t.Events, e)
				continue
			}
			want := Expected{Rule: x.Value, Place: Place{file, x.Line, 0}}
			if x.Kind == yaml.MappingNode {
				if name := value(x, "rule"); name != nil {
					want.Rule = name.Value
					for i := 0; i+1 < len(x.Content); i += 2 {
						switch key, v := x.Content[i], x.Content[i+1]; {
						case key.Value != "rule" && key.Value != "output":
							return wrong(key, "an alert has no key %s: want rule and output", printable(key.Value))
						case v.Kind != yaml.ScalarNode:
							return wrong(v, "%s is a text, and not %s", key.Value, kindName(v))
						case key.Value == "output":
							want.Output = v.Value
						}
					}
				} else if len(x.Content) == 2 { // RULE: OUTPUT
					want.Rule, want.Output = x.Content[0].Value, x.Content[1].Value
				}
			}
			if want.Rule == "" {
				return wrong(x, "an alert is a rule's name, or a mapping with rule and output")
			}
			t.Alerts = append(t.Alerts, want)
		}
	}
	return t, nil
}
