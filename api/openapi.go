package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"warren/event"
)

// openAPI is written by hand, but for the fields of events: those it takes
// from event, where they are described once. It describes what agents and hubs
// answer; a server shows the part that it serves.
//
//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the description of routes: OpenAPI 3.0, in JSON. Title and
// description say what it is that answers. A route, or a parameter of one, that
// openapi.json does not have is an error.
func OpenAPI(title, description string, routes []Route) ([]byte, error) {
	return describeRoutes(title, description, routes, nil)
}

// describeRoutes is OpenAPI with operations, method and path, that are no routes.
func describeRoutes(title, description string, routes []Route, operations [][2]string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	info, err := at(doc, "info")
	if err != nil {
		return nil, err
	}
	info["title"], info["description"] = title, description
	served := map[string]any{}
	for _, r := range routes {
		get, err := at(doc, "paths", r.Pattern, "get")
		if err != nil {
			return nil, err
		}
		if err := keepParams(doc, get, r); err != nil {
			return nil, err
		}
		served[r.Pattern] = map[string]any{"get": get}
	}
	for _, o := range operations {
		op, err := at(doc, "paths", o[1], strings.ToLower(o[0]))
		if err != nil {
			return nil, err
		}
		if served[o[1]] == nil {
			served[o[1]] = map[string]any{}
		}
		served[o[1]].(map[string]any)[strings.ToLower(o[0])] = op
	}
	doc["paths"] = served
	schema, err := at(doc, "components", "schemas", "Event")
	if err != nil {
		return nil, err
	}
	describeFields(schema)
	b, err := json.Marshal(doc)
	return append(b, '\n'), err
}

// keepParams leaves only those query parameters of an operation that the route
// takes.
func keepParams(doc, get map[string]any, r Route) error {
	list, _ := get["parameters"].([]any)
	var keep []any
	left := slices.Clone(r.Params)
	for _, p := range list {
		param, _ := p.(map[string]any)
		if ref, ok := param["$ref"].(string); ok {
			var err error
			if param, err = at(doc, "components", "parameters", path.Base(ref)); err != nil {
				return err
			}
		}
		name, _ := param["name"].(string)
		i := slices.Index(left, name)
		if param["in"] == "query" && i < 0 {
			continue
		}
		if i >= 0 {
			left = slices.Delete(left, i, i+1)
		}
		keep = append(keep, p)
	}
	if len(left) > 0 {
		return fmt.Errorf("openapi.json does not describe parameter %s of %s", left[0], r.Pattern)
	}
	if list != nil {
		get["parameters"] = keep
	}
	return nil
}

// describeFields makes the schema of events of the fields that they have.
func describeFields(schema map[string]any) {
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
}

func at(doc map[string]any, keys ...string) (map[string]any, error) {
	for _, key := range keys {
		next, ok := doc[key].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("openapi.json has no %v", keys)
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

func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *http.Request, _ Query) error {
	b, err := s.document()
	if err != nil {
		return err
	}
	return writeObject(w, b)
}

// document is the description of what an agent answers.
func (s *Server) document() ([]byte, error) {
	var operations [][2]string
	if s.cfg.Endpoints != nil {
		operations = (*endpoints)(nil).operations()
	}
	if s.cfg.History != nil {
		operations = append(operations, [2]string{http.MethodPost, pruneRoute})
	}
	if s.cfg.TestAlert != nil {
		operations = append(operations, [2]string{http.MethodPost, alertTestRoute})
	}
	return describeRoutes("Warren agent", "What runs on this machine and whom it talks to. The agent answers on a Unix socket (by default /run/warren/warren.sock) and on loopback. "+documentOfLists, s.routes(), operations)
}

// documentOfLists is what the descriptions of agents and hubs have in common.
const documentOfLists = "Lists and streams are NDJSON: one JSON object a line, whose keys are the names of fields. Empty lines, which a stream sends when it has nothing else to say, mean nothing."
