package cli

import (
	"fmt"
	"io"
	"strings"

	"warren/event"
)

const falcoIntro = `<!-- Generated from the table in event/falco.go by ` + "`make generate`" + `. Do not edit. -->
# Falco's fields

Every field that Falco documents for the source ` + "`syscall`" + `, its deprecated ones included, in Falco's order, and those of its plugins for the source ` + "`k8s_audit`" + `. Where there is no remark it is what it is in Falco, with the same text in outputs. [events.md](events.md)
describes the fields, and has many more; [syscalls.md](syscalls.md) has the arguments of system calls.

What an event does not have is ` + "`<NA>`" + ` in outputs and null in ` + "`output_fields`" + `; a comparison with it does not hold. A rule that names a field that is *not* there is refused with the reason that stands here, or left out
with a warning where it says ` + "`skip-if-unknown-filter`" + `.
`

// falcoMarkdown writes docs/falco.md.
func falcoMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(falcoIntro)
	there, all := 0, 0
	var tables strings.Builder
	for _, c := range event.FalcoFields() {
		fmt.Fprintf(&tables, "\n## %s\n\n| field | supported | remark |\n|---|---|---|\n", c.Title)
		for _, f := range c.Fields {
			name := "`" + f.Name + "`"
			if f.Form != "" {
				name += " " + code(strings.Split(f.Form, ", "))
			}
			all++
			if f.Why != "" {
				fmt.Fprintf(&tables, "| %s | *not* | %s |\n", name, f.Why)
				continue
			}
			there++
			fmt.Fprintf(&tables, "| %s | yes | %s |\n", name, f.Note)
		}
	}
	fmt.Fprintf(&b, "\n%d of %d are there.\n", there, all)
	b.WriteString(tables.String())
	_, err := io.WriteString(w, b.String())
	return err
}
