package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"warren/event"
)

// completeWord is the first word of a command line that asks what could be
// typed next: the words behind it are those typed so far, the last one of them
// up to the cursor. The answer is one candidate a line, with its description
// behind a tab, and a last line that says what a shell may add: what kubectl and
// the scripts of completionCommand understand.
const completeWord = "__complete"

// What a shell may add to the candidates, as kubectl counts.
const (
	addFiles   = 0
	addNothing = 4
	addDirs    = 16
)

// A candidate is what could be typed next.
type candidate struct {
	word, says string
}

func writeCompletion(env *Env, commands []*command, global []*option, words []string) error {
	if len(words) == 0 {
		words = []string{""}
	}
	list, add := complete(commands, global, words)
	var b strings.Builder
	for _, c := range list {
		b.WriteString(c.word)
		if c.says != "" {
			b.WriteString("\t" + c.says)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, ":%d\n", add)
	_, err := env.Stdout.Write([]byte(b.String()))
	return err
}

// complete returns what the last of words could become.
func complete(commands []*command, global []*option, words []string) (list []candidate, add int) {
	before, last := words[:len(words)-1], words[len(words)-1]
	always := append(slices.Clone(global), &option{long: "help", short: "h", doc: "tell how the command is used", yes: new(bool)})
	all := slices.Clone(always)
	var c *command
	var pending *option // whose value comes next
	name, literal := "", false
	for _, w := range before {
		switch {
		case pending != nil && w == "=": // how bash takes --flag=value apart
		case pending != nil:
			pending = nil
		case literal:
		case w == "--" && c != nil:
			literal = true
		case len(w) > 1 && w[0] == '-':
			pending = valueOf(all, w)
		case c == nil:
			name = strings.TrimSpace(name + " " + w)
			all = slices.Clone(always)
			if c = find(commands, name); c != nil {
				all = append(all, c.flags...)
			} else if list := listOf(commands, name); list != nil {
				all = append(all, list.flags...) // until there is a verb
			}
		}
	}
	flag, value, attached := strings.Cut(last, "=")
	switch {
	case pending != nil:
		return pending.values(strings.TrimPrefix(last, "="), "")
	case !literal && attached && strings.HasPrefix(flag, "--"):
		if f := findFlag(all, func(f *option) bool { return f.long == flag[2:] }); f != nil {
			return f.values(value, flag+"=")
		}
		return nil, addNothing
	case !literal && strings.HasPrefix(last, "-"):
		for _, f := range all {
			list = append(list, candidate{"--" + f.long, firstPart(f.doc)})
		}
	case c != nil:
		list = c.arguments(commands)
	default:
		list = nextWords(commands, name)
	}
	return beginning(list, last), addNothing
}

// valueOf returns the flag of a word whose value is the next word, nil if there
// is none.
func valueOf(flags []*option, word string) *option {
	if long, ok := strings.CutPrefix(word, "--"); ok {
		f := findFlag(flags, func(f *option) bool { return f.long == long })
		if f == nil || f.yes != nil {
			return nil
		}
		return f
	}
	for i := range word[1:] {
		f := findFlag(flags, func(f *option) bool { return f.short == word[i+1:i+2] })
		switch {
		case f == nil || f.yes == nil && i+2 < len(word): // the value is attached
			return nil
		case f.yes == nil:
			return f
		}
	}
	return nil
}

// values returns what the value of a flag could be. Each has lead before it.
func (f *option) values(begin, lead string) ([]candidate, int) {
	var list []candidate
	switch {
	case f.choices != nil:
		for _, c := range f.choices {
			list = append(list, candidate{word: c})
		}
	case f.meta == "FIELDS":
		// The last of several, separated by commas.
		i := strings.LastIndexByte(begin, ',') + 1
		lead += begin[:i]
		begin = begin[i:]
		list = fieldCandidates()
	case f.meta == "FILE" || f.meta == "PATH":
		return nil, addFiles
	case f.meta == "DIR":
		return nil, addDirs
	}
	list = beginning(list, begin)
	for i := range list {
		list[i].word = lead + list[i].word
	}
	return list, addNothing
}

// arguments returns what the arguments of a command could be.
func (c *command) arguments(commands []*command) []candidate {
	var list []candidate
	switch c.args {
	case "[FILTER]":
		list = fieldCandidates()
	case "[KIND]":
		for _, k := range event.AllKinds.List() {
			list = append(list, candidate{k.String(), k.Doc()})
		}
	case "[COMMAND]":
		list = nextWords(commands, "")
	case shells:
		for s := range strings.SplitSeq(shells, "|") {
			list = append(list, candidate{word: s})
		}
	}
	return list
}

func fieldCandidates() []candidate {
	fields := event.Fields()
	list := make([]candidate, len(fields))
	for i, f := range fields {
		list[i] = candidate{f.Name, f.Doc}
	}
	return list
}

// nextWords returns the words that may follow on the beginning of a command's
// name.
func nextWords(commands []*command, name string) []candidate {
	var list []candidate
	if name != "" {
		name += " "
	}
	for _, c := range commands {
		rest, ok := strings.CutPrefix(c.name, name)
		if !ok || c.hidden {
			continue
		}
		word, _, noun := strings.Cut(rest, " ")
		says := c.summary
		if noun {
			says = ""
		}
		if !slices.ContainsFunc(list, func(c candidate) bool { return c.word == word }) {
			list = append(list, candidate{word, says})
		}
	}
	return list
}

func beginning(list []candidate, with string) []candidate {
	return slices.DeleteFunc(list, func(c candidate) bool { return !strings.HasPrefix(c.word, with) })
}

// firstPart returns a description up to what only a person who reads on needs.
func firstPart(doc string) string {
	if i := strings.IndexAny(doc, "(:;"); i > 0 {
		doc = doc[:i]
	}
	return strings.TrimSpace(doc)
}

// shells are those that there are scripts for.
const shells = "bash|zsh|fish"

// completionCommand writes the script that makes a shell complete our command
// lines.
func completionCommand() *command {
	return &command{
		name:    "completion",
		args:    shells,
		summary: "Write a script that completes command lines in a shell",
		about: "Commands, flags and their values, and the fields of filters. Read it where your shell starts: " +
			"`source <(warren completion bash)` in ~/.bashrc, `source <(warren completion zsh)` in ~/.zshrc behind compinit, `warren completion fish | source` in ~/.config/fish/config.fish.\n\n" +
			"kubectl completes `kubectl warren` by itself if this program is also in PATH by the name " + PluginCompletion + ".",
		examples: []example{
			{"warren completion bash > /etc/bash_completion.d/warren", "For all users of this machine"},
			{"warren completion fish > ~/.config/fish/completions/warren.fish", "For one user of fish"},
		},
		run: func(_ context.Context, env *Env, args []string) error {
			if len(args) != 1 {
				return usagef("completion wants the name of one shell: %s", orList(strings.Split(shells, "|")))
			}
			script, ok := completionScripts[args[0]]
			if !ok {
				return usagef("there is no script for %q: there are %s", args[0], orList(strings.Split(shells, "|")))
			}
			_, err := env.Stdout.Write([]byte(script))
			return err
		},
	}
}

// completionScripts ask the program itself, see completeWord.
var completionScripts = map[string]string{
	"bash": `# warren completes itself: this asks it.
_warren() {
	local line add=4 current="${COMP_WORDS[COMP_CWORD]}"
	COMPREPLY=()
	while IFS= read -r line; do
		case "$line" in
		:*) add="${line#:}" ;;
		*) COMPREPLY+=("${line%%$'\t'*}") ;;
		esac
	done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
	case "$add" in
	0) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "${current#=}") ;;
	16) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "${current#=}") ;;
	esac
}
complete -F _warren warren
`,
	"zsh": `#compdef warren
# warren completes itself: this asks it.
_warren() {
	local line add=4 word
	local -a found
	while IFS= read -r line; do
		case "$line" in
		:*) add="${line#:}" ;;
		*)
			word="${line%%$'\t'*}"
			if [[ "$line" == *$'\t'* ]]; then
				found+=("${word//:/\\:}:${line#*$'\t'}")
			else
				found+=("${word//:/\\:}")
			fi
			;;
		esac
	done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
	(( ${#found} )) && _describe warren found
	case "$add" in
	0) _files ;;
	16) _files -/ ;;
	esac
}
compdef _warren warren
`,
	"fish": `# warren completes itself: this asks it.
function __warren_complete
	set -l words (commandline -opc)
	set -l current (commandline -ct)
	for line in ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
		switch $line
			case ':0'
				__fish_complete_path "$current"
			case ':16'
				__fish_complete_directories "$current"
			case ':*'
			case '*'
				echo $line
		end
	end
end
complete -c warren -f -a '(__warren_complete)'
`,
}
