package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

const helpWidth = 78

const clusterSynopsis = "Warren shows what runs in this cluster and what talks to what: every process and " +
	"every connection, with its pod, its labels and its whole ancestry. Each command asks all nodes at once."

const synopsis = "Warren shows what runs on this machine and whom it talks to: every process and " +
	"every connection, with its whole ancestry and its container."

// overview writes the help of the program, or of one noun.
func overview(w io.Writer, prog string, commands []*command, global []*option, noun string) {
	var b strings.Builder
	if noun == "" {
		text := synopsis
		if prog == program(true) {
			text = clusterSynopsis
		}
		for _, l := range wrap(text, helpWidth) {
			b.WriteString(l + "\n")
		}
		fmt.Fprintf(&b, "\nUsage: %s COMMAND [ARGUMENTS] [FLAGS]\n", prog)
	} else {
		fmt.Fprintf(&b, "Usage: %s %s VERB [ARGUMENTS] [FLAGS]\n", prog, noun)
		if c := listOf(commands, noun); c != nil {
			fmt.Fprintf(&b, "       %s   (is %s)\n", strings.TrimSuffix(strings.Replace(c.usage(prog), c.name, noun, 1), " "), c.name)
		}
	}
	b.WriteString("\nCommands:\n")
	longest := 0
	shown := slices.DeleteFunc(slices.Clone(commands), func(c *command) bool {
		return c.hidden || noun != "" && !strings.HasPrefix(c.name, noun+" ")
	})
	for _, c := range shown {
		longest = max(longest, len(c.name))
	}
	for _, c := range shown {
		fmt.Fprintf(&b, "  %-*s  %s\n", longest, c.name, c.summary)
	}
	b.WriteString("\nFlags of every command:\n")
	writeFlags(&b, global)
	if noun == "" {
		noun = "COMMAND"
	} else {
		noun += " VERB"
	}
	fmt.Fprintf(&b, "\n\"%s %s --help\" tells more, with examples.\n", prog, noun)
	io.WriteString(w, b.String())
}

// usage returns the first line of a command's help.
func (c *command) usage(prog string) string {
	u := prog + " " + c.name
	if c.args != "" {
		u += " " + c.args
	}
	if len(c.flags) > 0 {
		u += " [FLAGS]"
	}
	return u
}

// help writes all there is to say about a command.
func (c *command) help(w io.Writer, prog string, global []*option) {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s\n\n", c.usage(prog))
	for _, l := range wrap(c.summary+".", helpWidth) {
		b.WriteString(l + "\n")
	}
	if c.about != "" {
		b.WriteString("\n")
		for _, l := range wrap(c.about, helpWidth) {
			b.WriteString(l + "\n")
		}
	}
	if len(c.flags) > 0 {
		b.WriteString("\nFlags:\n")
		writeFlags(&b, c.flags)
	}
	b.WriteString("\nFlags of every command:\n")
	writeFlags(&b, global)
	b.WriteString("\nExamples:\n")
	for i, e := range c.examplesOf(prog) {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "  # %s\n  %s\n", e.says, e.line)
	}
	io.WriteString(w, b.String())
}

// examplesOf returns the examples of a command by the name that the program has.
func (c *command) examplesOf(prog string) []example {
	if prog != program(true) {
		return c.examples
	}
	if c.cluster != nil {
		return c.cluster
	}
	list := slices.Clone(c.examples)
	for i := range list {
		list[i].line = prog + strings.TrimPrefix(list[i].line, program(false))
	}
	return list
}

func (f *option) spelling() string {
	s := "    --" + f.long
	if f.short != "" {
		s = "-" + f.short + ", --" + f.long
	}
	if f.meta != "" {
		s += " " + f.meta
	}
	return s
}

func writeFlags(b *strings.Builder, flags []*option) {
	longest := 0
	for _, f := range flags {
		longest = max(longest, len(f.spelling()))
	}
	for _, f := range flags {
		for i, l := range wrap(f.doc, helpWidth-longest-4) {
			left := ""
			if i == 0 {
				left = f.spelling()
			}
			fmt.Fprintf(b, "  %-*s  %s\n", longest, left, l)
		}
	}
}

// writeManual writes the reference of all commands in Markdown: docs/cli.md.
func writeManual(w io.Writer, commands []*command, global []*option) error {
	var b strings.Builder
	b.WriteString("<!-- Generated from the table of commands by `make generate`. Do not edit. -->\n")
	b.WriteString("# The command line\n\n")
	b.WriteString(manualIntro)
	for _, c := range commands {
		if c.hidden {
			continue
		}
		fmt.Fprintf(&b, "\n## warren %s\n\n%s.\n\n    %s\n", c.name, c.summary, c.usage(program(false)))
		if c.about != "" {
			b.WriteString("\n" + c.about + "\n")
		}
		writeFlagTable(&b, c.flags)
		b.WriteString("\n```sh\n")
		for i, e := range c.examples {
			if i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "# %s\n%s\n", e.says, e.line)
		}
		b.WriteString("```\n")
	}
	b.WriteString("\n## Flags of every command\n")
	writeFlagTable(&b, global)
	writeClusterManual(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeClusterManual writes what is different about kubectl's plugin.
func writeClusterManual(b *strings.Builder) {
	g := globals{kubectl: true}
	commands, global := commandTable(&g)
	prog := program(true)
	b.WriteString("\n# kubectl warren\n\n" + clusterIntro)
	b.WriteString("\n## Flags that choose\n")
	writeFlagTable(b, podFlags(&g, &selection{}))
	b.WriteString("\n## Flags of kubectl\n")
	writeFlagTable(b, global)
	b.WriteString("\n## Examples of kubectl warren\n\n```sh\n")
	first := true
	for _, c := range commands {
		if c.hidden || c.cluster == nil {
			continue
		}
		for _, e := range c.examplesOf(prog) {
			if !first {
				b.WriteString("\n")
			}
			first = false
			fmt.Fprintf(b, "# %s\n%s\n", e.says, e.line)
		}
	}
	b.WriteString("```\n")
}

func writeFlagTable(b *strings.Builder, flags []*option) {
	if len(flags) == 0 {
		return
	}
	b.WriteString("\n| flag | meaning |\n|---|---|\n")
	for _, f := range flags {
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.TrimSpace(f.spelling()), strings.ReplaceAll(f.doc, "|", `\|`))
	}
}

const clusterIntro = "The same commands over a whole cluster: the program by the name `kubectl-warren`, in a directory of `PATH` (a link will do), is what kubectl runs for " +
	"`kubectl warren`. It asks Warren's hub by way of the API server, with your own kubeconfig and credentials of any kind, and shows you the namespaces in which you may `get pods`. " +
	"There is no `agent` and no `hub` among its commands, and no `--socket`.\n\n" +
	"- **Which pods.** Those of the context's namespace, unless `-n` or `-A` says otherwise, as in kubectl; with `-A` also what is in no pod, for those who may see all pods. `-l` selects by labels and `--node` by node. " +
	"What is selected is joined with the filter: `-n shop` is `k8s.ns.name = shop`, `-l 'tier!=db'` is `not k8s.pod.labels[tier] = db`.\n" +
	"- **Tables** have the columns NODE and POD instead of CONTAINER, and NAMESPACE with `-A`. `-o wide` has the container too. `-o json` is the same rows as on one machine.\n" +
	"- **Nodes that do not answer** are told on standard error: `3 of 4 nodes answered; node-2: connection refused`. What the others know is shown all the same; " +
	"an answer that ends by itself and lacks nodes makes the exit code 1. In `-o json` there is a row of kind `nodes` as well. A stream goes on without them, and tells when they are back.\n" +
	"- **Counts.** `events --count-by` adds up what the nodes tell every two seconds; with `--limit` it ends once they have told of so many, or more. It counts in your namespaces; what is missing from the counts is told at the end, and makes the exit code 1.\n" +
	"- **Files.** `file watch` is of one node, which `--node` names, and of a path as that node has it: for those who may see all pods.\n" +
	"- **Rules.** `rule replay` and `rule learn` ask the histories of all nodes for what you may see. What the nodes keep, and since when, is said to those who may see all pods.\n" +
	"- **Processes.** An exec id names one process of the whole cluster; a pid wants `--node`.\n" +
	"- **Completion.** By the name `kubectl_complete-warren` in `PATH`, the program completes what kubectl asks it to.\n"

const manualIntro = "One program is the agent and every command that asks it. Nouns are singular, and one alone means its list: `warren process` is `warren process list`; " +
	"`warren COMMAND --help` prints what stands here.\n\n" +
	"- **Where the agent is.** `--socket PATH`, else the variable `WARREN_SOCKET`, else `/run/warren/warren.sock`.\n" +
	"- **Filters** are conditions in Falco's language: [filter.md](filter.md) tells the language, [events.md](events.md) the " +
	"fields. Several words make one filter; quote what the shell would take for itself (`<`, `>`, `(`, `*`).\n" +
	"- **Output.** `-o table` fits the terminal: long values are cut, with `…` where. `-o wide` has more columns and cuts " +
	"nothing, nor does anything that is written to a pipe. `-o json` is one JSON object a line, as the agent sent it; the keys are names of fields.\n" +
	"- **Colour** only on a terminal, and not if `NO_COLOR` is set.\n" +
	"- **Names are hostile.** Programs choose their names and arguments. Control characters, escape sequences, characters that reverse or hide text, and " +
	"bytes that are not UTF-8 are shown as escapes (`\\n`, `\\x1b`, `\\u202e`, `\\xff`), never sent to the terminal.\n" +
	"- **Exit codes.** 0: done. 1: it failed. 2: the command line or the filter is wrong. 130: interrupted.\n" +
	"- **Pods.** On a node of a cluster `-n`, `-A` and `-l` select by namespace and labels, and tables have the columns of pods. For the whole cluster there is [kubectl warren](#kubectl-warren).\n"
