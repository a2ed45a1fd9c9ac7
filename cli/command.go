package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"warren/filter"
)

// A command is one entry of the table in commands.go. Its name is a verb, or a
// singular noun and a verb; verbs of nouns that are only read need no more
// words. Each has at least one example, which tests run.
type command struct {
	name     string // "process list"
	args     string // what may follow, as help shows it: "[FILTER]"
	summary  string // one line, without a full stop
	about    string // paragraphs, separated by empty lines
	examples []example
	// cluster are the examples of the command as kubectl's plugin; where there
	// are none, the others are.
	cluster []example
	flags   []*option
	hidden  bool
	// run does the work with the arguments that are not flags.
	run func(ctx context.Context, env *Env, args []string) error
}

// An example is a line as it is typed and what it is for.
type example struct {
	line, says string
}

// An option is one flag of a command. Exactly one of the pointers is set.
type option struct {
	long, short string
	meta        string // what help calls the value; "" where there is none
	doc         string
	choices     []string // what the value may be, if not anything
	text        *string
	number      *int
	yes         *bool
	set         func(value string) error // its error says what the flag takes
}

// A usageError is a command line that makes no sense: exit code 2.
type usageError struct {
	msg     string
	command string // whose help to read
}

func (e *usageError) Error() string { return e.msg }

func usagef(format string, a ...string) error {
	args := make([]any, len(a))
	for i := range a {
		args[i] = a[i]
	}
	return &usageError{msg: fmt.Sprintf(format, args...)}
}

// An invocation is a command line, understood.
type invocation struct {
	command *command
	args    []string
	help    bool
	noun    string // the noun whose help is wanted: "process"
}

// parse understands a command line. Flags may stand anywhere behind the
// program's name; -- ends them. A noun alone means its list: what can be no verb
// of it, a flag that only the list has or a filter, belongs to that.
func parse(commands []*command, global []*option, line []string) (*invocation, error) {
	inv := &invocation{}
	help := false
	all := append(slices.Clone(global), &option{long: "help", short: "h", yes: &help})
	var noun *command // the list of the noun that was read, until a verb is
	var name string
	choose := func(c *command) {
		inv.command, noun = c, nil
		all = append(all, c.flags...)
	}
	for i := 0; i < len(line); i++ {
		arg := line[i]
		if len(arg) > 1 && arg[0] == '-' && arg != "--" {
			if noun != nil && !hasFlag(all, arg) {
				choose(noun)
			}
			used, err := parseFlag(all, line[i:])
			if err != nil {
				if inv.command != nil {
					err.command = inv.command.name
				}
				return nil, err
			}
			i += used - 1
			continue
		}
		if noun != nil && !isWord(arg) {
			choose(noun)
		}
		switch {
		case arg == "--" && inv.command != nil:
			inv.args = append(inv.args, line[i+1:]...)
			i = len(line)
		case inv.command != nil:
			inv.args = append(inv.args, arg)
		default:
			first := name == ""
			name = strings.TrimSpace(name + " " + arg)
			if c := find(commands, name); c != nil {
				choose(c)
			} else if !first || !isNoun(commands, name) {
				return nil, unknownCommand(commands, name)
			} else {
				noun = listOf(commands, name)
			}
		}
	}
	inv.help = help
	switch {
	case inv.command != nil:
	case noun != nil && !help:
		inv.command = noun
	default:
		inv.noun = name
	}
	return inv, nil
}

// listOf returns the command that a noun alone stands for, nil where it has no
// list.
func listOf(commands []*command, noun string) *command { return find(commands, noun+" list") }

// isWord reports whether an argument looks like a verb, or one misspelt: a filter
// begins with something else.
func isWord(arg string) bool {
	return arg != "" && arg[0] != '-' && !strings.ContainsFunc(arg, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' })
}

// hasFlag reports whether the flag that arg begins with is one of some; of
// letters in one argument, whether each is.
func hasFlag(flags []*option, arg string) bool {
	if name, ok := strings.CutPrefix(arg, "--"); ok {
		name, _, _ = strings.Cut(name, "=")
		return findFlag(flags, func(f *option) bool { return f.long == name }) != nil
	}
	for i := 1; i < len(arg); i++ {
		f := findFlag(flags, func(f *option) bool { return f.short == arg[i:i+1] })
		if f == nil {
			return false
		}
		if f.yes == nil {
			break // the rest is its value
		}
	}
	return true
}

// parseFlag sets the flag that args begin with and returns how many of args it
// took.
func parseFlag(flags []*option, args []string) (int, *usageError) {
	arg := args[0]
	var f *option
	var value string
	attached := false
	if strings.HasPrefix(arg, "--") {
		name, v, ok := strings.Cut(arg[2:], "=")
		if f = findFlag(flags, func(f *option) bool { return f.long == name }); f == nil {
			e := &usageError{msg: "no flag --" + name}
			var known []string
			for _, f := range flags {
				known = append(known, f.long)
			}
			if near := filter.Nearest(name, known); near != "" {
				e.msg += "; did you mean --" + near + "?"
			}
			return 0, e
		}
		value, attached = v, ok
	} else {
		if f = findFlag(flags, func(f *option) bool { return f.short == arg[1:2] }); f == nil {
			return 0, &usageError{msg: "no flag -" + arg[1:2]}
		}
		if len(arg) > 2 {
			if f.yes != nil {
				// -fo json: each letter is a flag of its own.
				*f.yes = true
				rest := append([]string{"-" + arg[2:]}, args[1:]...)
				return parseFlag(flags, rest)
			}
			value, attached = strings.TrimPrefix(arg[2:], "="), true
		}
	}
	name := "--" + f.long
	if f.yes != nil {
		*f.yes = true
		if attached {
			v, err := strconv.ParseBool(value)
			if err != nil {
				return 0, &usageError{msg: fmt.Sprintf("%s takes true or false, not %q", name, value)}
			}
			*f.yes = v
		}
		return 1, nil
	}
	used := 1
	if !attached {
		if len(args) < 2 {
			return 0, &usageError{msg: name + " needs a value: " + f.meta}
		}
		value, used = args[1], 2
	}
	if f.number != nil {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return 0, &usageError{msg: fmt.Sprintf("%s takes a number, not %q", name, value)}
		}
		*f.number = n
		return used, nil
	}
	if f.set != nil {
		if err := f.set(value); err != nil {
			return 0, &usageError{msg: name + " " + err.Error()}
		}
		return used, nil
	}
	if f.choices != nil && !slices.Contains(f.choices, value) {
		return 0, &usageError{msg: fmt.Sprintf("%s takes %s, not %q", name, orList(f.choices), value)}
	}
	*f.text = value
	return used, nil
}

func findFlag(flags []*option, is func(*option) bool) *option {
	if i := slices.IndexFunc(flags, is); i >= 0 {
		return flags[i]
	}
	return nil
}

func find(commands []*command, name string) *command {
	if i := slices.IndexFunc(commands, func(c *command) bool { return c.name == name }); i >= 0 {
		return commands[i]
	}
	return nil
}

// isNoun reports whether commands begin with name as a word.
func isNoun(commands []*command, name string) bool {
	return slices.ContainsFunc(commands, func(c *command) bool { return strings.HasPrefix(c.name, name+" ") })
}

func unknownCommand(commands []*command, name string) error {
	var known []string
	noun, _, two := strings.Cut(name, " ")
	for _, c := range commands {
		if c.hidden {
			continue
		}
		known = append(known, c.name)
		if first, _, ok := strings.Cut(c.name, " "); ok && !two {
			known = append(known, first)
		}
	}
	e := &usageError{msg: fmt.Sprintf("no command %q", name)}
	if two {
		e.command = noun
	}
	if near := filter.Nearest(name, known); near != "" {
		e.msg += "; did you mean " + near + "?"
	}
	return e
}

// orList writes words as "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// outputFlag is the -o of most commands.
func outputFlag(p *string, doc string, choices ...string) *option {
	*p = choices[0]
	return &option{long: "output", short: "o", meta: "FORMAT", choices: choices, text: p,
		doc: fmt.Sprintf("%s (default %s)%s", orList(choices), choices[0], doc)}
}

// filterOf makes one filter of the arguments: quoting it is only needed where
// the shell would take a part of it for itself.
func filterOf(args []string) string { return strings.Join(args, " ") }

// atMost refuses more than n arguments.
func atMost(n int, args []string) error {
	if len(args) > n {
		return usagef("too many arguments: %s", strings.Join(args[n:], " "))
	}
	return nil
}

// errQuiet ends a command at once, with nothing to say: nobody reads on.
var errQuiet = errors.New("nobody reads the output")
