package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

const helpWidth = 78

const synopsis = "Warren shows what runs on this machine and whom it talks to: every process and " +
	"every connection, with its whole ancestry and its container."

// overview writes the help of the program, or of one noun.
func overview(w io.Writer, commands []*command, global []*option, noun string) {
	var b strings.Builder
	if noun == "" {
		for _, l := range wrap(synopsis, helpWidth) {
			b.WriteString(l + "\n")
		}
		b.WriteString("\nUsage: warren COMMAND [ARGUMENTS] [FLAGS]\n")
	} else {
		fmt.Fprintf(&b, "Usage: warren %s VERB [ARGUMENTS] [FLAGS]\n", noun)
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
	fmt.Fprintf(&b, "\n\"warren %s --help\" tells more, with examples.\n", noun)
	io.WriteString(w, b.String())
}

// usage returns the first line of a command's help.
func (c *command) usage() string {
	u := "warren " + c.name
	if c.args != "" {
		u += " " + c.args
	}
	if len(c.flags) > 0 {
		u += " [FLAGS]"
	}
	return u
}

// help writes all there is to say about a command.
func (c *command) help(w io.Writer, global []*option) {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s\n\n", c.usage())
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
	for i, e := range c.examples {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "  # %s\n  %s\n", e.says, e.line)
	}
	io.WriteString(w, b.String())
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
		fmt.Fprintf(&b, "\n## warren %s\n\n%s.\n\n    %s\n", c.name, c.summary, c.usage())
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
	_, err := io.WriteString(w, b.String())
	return err
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

const manualIntro = "One program is the agent and every command that asks it. Nouns are singular; " +
	"`warren COMMAND --help` prints what stands here.\n\n" +
	"- **Where the agent is.** `--socket PATH`, else the variable `WARREN_SOCKET`, else `/run/warren/warren.sock`.\n" +
	"- **Filters** are conditions in Falco's language: [filter.md](filter.md) tells the language, [events.md](events.md) the " +
	"fields. Several words make one filter; quote what the shell would take for itself (`<`, `>`, `(`, `*`).\n" +
	"- **Output.** `-o table` fits the terminal: long values are cut, with `…` where. `-o wide` has more columns and cuts " +
	"nothing, nor does anything that is written to a pipe. `-o json` is one JSON object a line, as the agent sent it; the keys are names of fields.\n" +
	"- **Colour** only on a terminal, and not if `NO_COLOR` is set.\n" +
	"- **Names are hostile.** Programs choose their names and arguments. Control characters, escape sequences, characters that reverse or hide text, and " +
	"bytes that are not UTF-8 are shown as escapes (`\\n`, `\\x1b`, `\\u202e`, `\\xff`), never sent to the terminal.\n" +
	"- **Exit codes.** 0: done. 1: it failed. 2: the command line or the filter is wrong. 130: interrupted.\n"
