package event

import (
	"fmt"
	"slices"
)

// A Selection is the fields that somebody wants of each event. Most of what
// telling an event costs is writing it, and few readers look at a tenth of it.
// It can be used by several goroutines at a time.
type Selection struct {
	byKind [numKinds][]*Field
}

// Select makes a selection of fields by name. It returns an *UnknownFieldError
// for the first that does not exist.
func Select(names ...string) (*Selection, error) {
	s := &Selection{}
	for _, name := range names {
		f, ok := Lookup(name)
		if !ok {
			return nil, &UnknownFieldError{Name: name}
		}
		for k := Kind(1); k < numKinds; k++ {
			if f.Has(k) && !slices.Contains(s.byKind[k], f) {
				s.byKind[k] = append(s.byKind[k], f)
			}
		}
	}
	// Whoever selects must not lose sight of what is missing.
	for _, k := range NoticeKinds.List() {
		s.byKind[k] = catalog.byKind[k]
	}
	return s, nil
}

// AppendJSON appends the selected fields of e as [AppendJSON] would. An event
// that tells what is missing is complete: see [NoticeKinds]. A nil Selection selects everything.
func (s *Selection) AppendJSON(b []byte, e *Event) []byte {
	if s == nil {
		return AppendJSON(b, e)
	}
	return appendJSON(b, e, s.byKind[kindOf(e)])
}

// An UnknownFieldError names a field that does not exist.
type UnknownFieldError struct{ Name string }

// Error implements error.
func (e *UnknownFieldError) Error() string { return fmt.Sprintf("no field %s", e.Name) }
