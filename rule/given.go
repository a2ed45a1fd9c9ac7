package rule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"warren/event"
)

// ParseEvent reads an event as warren events -o json prints it: an object of
// fields and their values.
func ParseEvent(line []byte) (map[string]event.Value, error) {
	var object map[string]any
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	if err := dec.Decode(&object); err != nil {
		return nil, fmt.Errorf("that is no JSON object: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the JSON object")
	}
	values := make(map[string]event.Value, len(object))
	for name, v := range object {
		val, ok := valueOf(v)
		if !ok {
			return nil, fmt.Errorf("%s is an object", printable(name))
		}
		values[name] = val
	}
	return values, nil
}

func valueOf(v any) (event.Value, bool) {
	list, ok := v.([]any)
	if !ok {
		text, ok := scalarOf(v)
		return event.Value{Text: text}, ok
	}
	val := event.Value{Many: true, List: make([]string, len(list))}
	for i, x := range list {
		if val.List[i], ok = scalarOf(x); !ok {
			return val, false
		}
	}
	return val, true
}

func scalarOf(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case json.Number, bool:
		return fmt.Sprint(v), true
	}
	return "", false
}
