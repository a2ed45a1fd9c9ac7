package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"warren/api"
	"warren/event"
	"warren/filter"
)

//go:generate sh -c "go run warren fields -o markdown > ../docs/events.md.new && mv ../docs/events.md.new ../docs/events.md"
//go:generate sh -c "go run warren fields -o calls > ../docs/syscalls.md.new && mv ../docs/syscalls.md.new ../docs/syscalls.md"
//go:generate sh -c "go run warren fields -o falco > ../docs/falco.md.new && mv ../docs/falco.md.new ../docs/falco.md"
//go:generate sh -c "go run warren help -o markdown > ../docs/cli.md.new && mv ../docs/cli.md.new ../docs/cli.md"

// fieldsCommand lists the fields of events. It asks no agent.
func fieldsCommand() *command {
	var output string
	f := outputFlag(&output, "", "table", "json", "markdown", "calls", "falco")
	f.doc = "table or json (default table)" // markdown is for docs/events.md, calls for docs/syscalls.md, falco for docs/falco.md
	return &command{
		name:    "fields",
		args:    "[KIND]",
		summary: "List the fields that filters, columns and JSON are made of",
		about: "Of one KIND of event, or of all, then with the kinds that carry each. " +
			"The same names are filter fields, keys of JSON and columns.\n\n" +
			"Kinds: " + strings.Join(kindNames(), ", ") + ".",
		examples: []example{
			{"warren fields", "Everything there is"},
			{"warren fields connection", "What an event of a connection tells"},
			{"warren fields exit -o json", "For a script"},
		},
		flags: []*option{f},
		run: func(_ context.Context, env *Env, args []string) error {
			if err := atMost(1, args); err != nil {
				return err
			}
			kinds := event.AllKinds
			if len(args) == 1 {
				k, ok := event.LookupKind(args[0])
				if !ok {
					return unknownKind(args[0])
				}
				kinds = event.Kinds(k)
			}
			switch output {
			case "json":
				return fieldsJSON(env, kinds)
			case "markdown":
				return fieldsMarkdown(env.Stdout)
			case "calls":
				return callsMarkdown(env.Stdout)
			case "falco":
				return falcoMarkdown(env.Stdout)
			}
			return fieldsTable(env, kinds, len(args) == 1)
		},
	}
}

func kindNames() []string {
	var names []string
	for _, k := range event.AllKinds.List() {
		names = append(names, k.String())
	}
	return names
}

func unknownKind(name string) error {
	msg := fmt.Sprintf("no kind of event %q", name)
	switch ks := event.KindsOfType(name); len(ks.List()) {
	case 0:
	case 1:
		return usagef("%s; %s is a type of the kind %s", msg, name, ks.String())
	default:
		return usagef("%s; %s is a type of the kinds %s", msg, name, ks.String())
	}
	if near := filter.Nearest(name, kindNames()); near != "" {
		return usagef("%s; did you mean %s?", msg, near)
	}
	return usagef("%s; there are %s", msg, strings.Join(kindNames(), ", "))
}

// fieldsOf returns the fields that events of any of the kinds can have.
func fieldsOf(kinds event.KindSet) []*event.Field {
	var l []*event.Field
	for _, f := range event.Fields() {
		if f.Kinds()&kinds != 0 {
			l = append(l, f)
		}
	}
	return l
}

// spelling returns a field's name with what may stand behind it.
func fieldSpelling(f *event.Field) string {
	switch f.Arg {
	case event.IndexArg:
		return f.Name + "[n]"
	case event.KeyArg:
		return f.Name + "[key]"
	}
	return f.Name
}

func fieldType(f *event.Field) string {
	if f.Many == event.List {
		return f.Type.String() + " list"
	}
	return f.Type.String()
}

func fieldKinds(f *event.Field) string {
	if f.Kinds() == event.AllKinds {
		return "all"
	}
	return strings.ReplaceAll(f.Kinds().String(), ",", " ")
}

func fieldsTable(env *Env, kinds event.KindSet, one bool) error {
	s := env.screen(true)
	cols := []column{{head: "FIELD"}, {head: "TYPE"}}
	if !one {
		cols = append(cols, column{head: "KINDS", max: 28})
	}
	cols = append(cols, column{head: "MEANING"})
	var rows [][]cell
	for _, f := range fieldsOf(kinds) {
		row := []cell{{text: fieldSpelling(f), color: cyan}, {text: fieldType(f), color: dim}}
		if !one {
			row = append(row, cell{text: fieldKinds(f), color: dim})
		}
		rows = append(rows, append(row, cell{text: f.Doc}))
	}
	out := &lazyWriter{out: env.Stdout}
	if err := newTable(out, s, cols).rows(rows); err != nil {
		return err
	}
	return out.Flush()
}

func fieldsJSON(env *Env, kinds event.KindSet) error {
	out := &lazyWriter{out: env.Stdout}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, f := range fieldsOf(kinds) {
		j := api.Field{Name: f.Name, Type: f.Type.String(), Doc: f.Doc, Virtual: f.Virtual, Kinds: api.KindNames(f.Kinds())}
		j.Arg = [...]string{event.IndexArg: "index", event.KeyArg: "key"}[f.Arg]
		j.Many = [...]string{event.Ancestors: "ancestors", event.Either: "either", event.List: "list"}[f.Many]
		if err := enc.Encode(j); err != nil {
			return err
		}
	}
	return out.Flush()
}

// fieldGroups are the parts that every event has.
var fieldGroups = []struct{ title, prefix, intro string }{
	{"Every event", "evt.", "Who reads an event knows when it happened and on which machine."},
	{"The process", "", "The process that acted, as it was at that moment: absent where no process acted or none is known. " +
		"Names, credentials and executable of the parent and of all ancestors are fields too."},
	{"The container", "container.", "Processes outside containers have `host` as id, type and name."},
	{"The pod", "k8s.", "What Kubernetes tells of the pod that the container belongs to, as it was at that moment; absent outside pods. " +
		"Where the API server is away, container runtimes still tell namespace, names and uid."},
}

// groupOf returns the prefix of the group that a field belongs to.
func groupOf(f *event.Field) string {
	if f.Name == "k8s.node.name" {
		return "evt." // of events outside pods too
	}
	for _, g := range fieldGroups {
		if g.prefix != "" && strings.HasPrefix(f.Name, g.prefix) {
			return g.prefix
		}
	}
	return ""
}

// fieldsMarkdown writes docs/events.md: first what all kinds share, then each.
func fieldsMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("<!-- Generated from the structs of event/ by `make generate`. Do not edit. -->\n" +
		"# Events and their fields\n\n" + eventsIntro +
		"\n## Kinds\n\n| kind | what happened | evt.type |\n|---|---|---|\n")
	for _, k := range event.AllKinds.List() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", k, k, k.Doc(), code(k.Types()))
	}
	for _, g := range fieldGroups {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", g.title, g.intro)
		var mine []*event.Field
		for _, f := range fieldsOf(event.AllKinds) {
			if f.Kinds() == event.AllKinds && groupOf(f) == g.prefix {
				mine = append(mine, f)
			}
		}
		writeFieldTable(&b, mine)
	}
	for _, k := range event.AllKinds.List() {
		fmt.Fprintf(&b, "\n## %s\n\n%s. Types: %s.\n", k, strings.ToUpper(k.Doc()[:1])+k.Doc()[1:], code(k.Types()))
		var mine []*event.Field
		for _, f := range event.Fields() {
			if f.Has(k) && (f.Kinds() != event.AllKinds || f.Name == "evt.type") {
				mine = append(mine, f)
			}
		}
		writeFieldTable(&b, mine)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const eventsIntro = "A field has one name everywhere: in filters, as key of JSON, as column. Where Falco has a field, the name and the meaning are Falco's. " +
	"A missing value has no key in JSON and makes every comparison with it false. Durations are nanoseconds, times RFC 3339 with nanoseconds.\n\n" +
	"A text that is not UTF-8 has U+FFFD in place of the bytes that are not, and a second key, the name followed by `;base64`, with the exact bytes. " +
	"Fields in *italics* can be filtered on but are no keys of JSON: they repeat what others say. " +
	"`[n]` chooses one of several values, `[key]` an entry of a map.\n"

func writeFieldTable(b *strings.Builder, fields []*event.Field) {
	b.WriteString("\n| field | type | meaning |\n|---|---|---|\n")
	for _, f := range fields {
		name := "`" + fieldSpelling(f) + "`"
		if f.Virtual {
			name = "*" + name + "*"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, fieldType(f), strings.ReplaceAll(f.Doc, "|", `\|`))
	}
}

func code(words []string) string {
	return "`" + strings.Join(words, "`, `") + "`"
}
