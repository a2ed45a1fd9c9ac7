package rule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// An Addition is said with what some rules say: Falco's append_output.
type Addition struct {
	// Rule, Source and Tags are of the rules that it is for, and "" or none for
	// all: a rule has to have all the tags.
	Rule, Source string
	Tags         []string
	// Output follows a rule's own, behind a blank.
	Output string
	// Fields are told with the fields of the output, and not in its text.
	Fields []ExtraField
	// Suggested adds [Suggested] to the output of rules of [SourceSyscall].
	Suggested bool
}

// An ExtraField is a value by a name.
type ExtraField struct {
	Name string
	// Format is what its value says, as an output does; "" for the value of the
	// field that Name is.
	Format string
}

// Suggested is what Falco adds to outputs by default: which container and pod.
const Suggested = "container_id=%container.id container_name=%container.name container_image_repository=%container.image.repository" +
	" container_image_tag=%container.image.tag k8s_pod_name=%k8s.pod.name k8s_ns_name=%k8s.ns.name"

// Check says what is wrong with an addition. [Load] takes only such with which
// nothing is.
func (a *Addition) Check() error {
	if a.Output == "" && len(a.Fields) == 0 && !a.Suggested {
		return errors.New("nothing is to be added: want output or fields")
	}
	if _, err := ParseFormat(a.Output); err != nil {
		return err
	}
	for _, x := range a.Fields {
		if _, err := x.part(); err != nil {
			return err
		}
	}
	return nil
}

// of reports whether an addition is for a rule.
func (a *Addition) of(r *Rule) bool {
	if a.Rule != "" && a.Rule != r.Name || a.Source != "" && a.Source != r.Source {
		return false
	}
	return !slices.ContainsFunc(a.Tags, func(t string) bool { return !slices.Contains(r.Tags, t) })
}

// part is the field as one of a format's.
func (x ExtraField) part() (part, error) {
	if x.Name == "" || strings.ContainsFunc(x.Name, func(r rune) bool { return r <= ' ' || r == '"' }) {
		return part{}, fmt.Errorf("%q is no name of a field", x.Name)
	}
	if x.Format != "" {
		f, err := ParseFormat(x.Format)
		if err != nil {
			return part{}, fmt.Errorf("%s: %w", x.Name, err)
		}
		return part{name: x.Name, said: f}, nil
	}
	f, err := ParseFormat("%" + x.Name)
	switch {
	case err != nil:
		return part{}, err
	case len(f.fields) != 1 || len(f.parts) != 1:
		return part{}, fmt.Errorf("%s is not one field", x.Name)
	}
	return f.fields[0], nil
}

// added returns the output of a rule with what is added to it.
func (c *Config) added(r *Rule) string {
	out := r.Output
	for i := range c.Add {
		a := &c.Add[i]
		if !a.of(r) {
			continue
		}
		if a.Output != "" {
			out += " " + a.Output
		}
		if a.Suggested && r.Source == SourceSyscall {
			out += " " + Suggested
		}
	}
	return out
}

// addFields gives a rule's format the fields that are added to it.
func (c *Config) addFields(r *Rule) {
	for i := range c.Add {
		if !c.Add[i].of(r) {
			continue
		}
		for _, x := range c.Add[i].Fields {
			p, err := x.part()
			if err != nil {
				continue // see Check
			}
			r.Format.fields = slices.DeleteFunc(r.Format.fields, func(q part) bool { return q.name == p.name })
			r.Format.fields = append(r.Format.fields, p)
		}
	}
	slices.SortFunc(r.Format.fields, func(a, b part) int { return strings.Compare(a.name, b.name) })
}
