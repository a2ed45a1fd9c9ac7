package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"warren/event"
)

// openAPI is written by hand, but for the fields of events: those it takes
// from event, where they are described once.
//
//go:embed openapi.json
var openAPI []byte

// document is the whole description of the API.
var document = sync.OnceValues(func() ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	schema, err := at(doc, "components", "schemas", "Event")
	if err != nil {
		return nil, err
	}
	properties := map[string]any{}
	for _, f := range event.Fields() {
		if f.Virtual {
			continue
		}
		p := fieldSchema(f)
		p["description"] = f.Doc
		properties[f.Name] = p
		if f.Type == event.String && f.Many == event.One {
			properties[f.Name+";base64"] = map[string]any{"type": "string", "format": "byte", "description": "the bytes of " + f.Name + ", where they are not UTF-8"}
		}
		if f.Arg == event.KeyArg {
			// OpenAPI 3.0 cannot say which names a map of prefixed keys has.
			delete(properties, f.Name)
			schema["additionalProperties"] = map[string]any{"type": "string", "description": f.Name + "[key]: " + f.Doc}
		}
	}
	schema["properties"] = properties
	b, err := json.Marshal(doc)
	return append(b, '\n'), err
})

func at(doc map[string]any, path ...string) (map[string]any, error) {
	for _, p := range path {
		next, ok := doc[p].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("openapi.json has no %v", path)
		}
		doc = next
	}
	return doc, nil
}

// fieldSchema describes the JSON that [event.AppendJSON] writes for a field.
func fieldSchema(f *event.Field) map[string]any {
	var one map[string]any
	switch f.Type {
	case event.Int, event.Duration:
		one = map[string]any{"type": "integer", "format": "int64"}
	case event.Uint:
		one = map[string]any{"type": "integer", "minimum": 0}
	case event.Bool:
		one = map[string]any{"type": "boolean"}
	case event.Time:
		one = map[string]any{"type": "string", "format": "date-time"}
	default:
		one = map[string]any{"type": "string"}
	}
	switch f.Many {
	case event.List:
		return map[string]any{"type": "array", "items": one}
	case event.Ancestors:
		one["nullable"] = true // an ancestor of which this is not known
		return map[string]any{"type": "array", "items": one}
	}
	return one
}

func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *http.Request, _ query) error {
	b, err := document()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(b); err != nil {
		return &clientGone{err}
	}
	return nil
}
