package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"warren/api"
)

// fileWatchCommand shows what happens to a file.
func fileWatchCommand(g *globals) *command {
	var output, columns string
	var limit int
	var recursive bool
	about := selection{all: g.kubectl} // it is of a node, and all that runs there
	return &command{
		name:    "file watch",
		args:    "PATH",
		summary: "Show who opens, writes, renames or removes a file",
		about: "Who opens a file, executes it, closes it after writing, renames, links or removes it, changes its mode, owner or size: as it happens, with the name by which it was reached. " +
			"The file is known by its inode as well as by its path: hard links, bind mounts and other names of containers are seen too, and a file that is moved away is followed, to its new name too. " +
			"Where another file is put in its place, that one is followed beside it. There need be no such file yet.\n\n" +
			"Of a directory, all that lies in it is shown, with -r all below it; those files by their names alone. " +
			"PATH is one of the host; with kubectl that of --node, and it is shown to who may get pods in all namespaces. A file of the same name in a container is shown only where it is the same file. Opens that fail, and changes of which the kernel proves no names, are shown by the path that was asked for; where that is relative to a descriptor of a process that has ended, by its last name. " +
			"The agent's sensors are told of other files once a second at most: of a file that is replaced more often, uses by other names can be missing meanwhile.",
		examples: []example{
			{"warren file watch /etc/shadow", "Who reads passwords"},
			{"warren file watch -r /etc -o wide", "What happens to the configuration, with user and executable"},
			{"warren file watch /usr/bin/sudo -o json --limit 1", "The next use, for a script"},
		},
		cluster: []example{
			{"kubectl warren file watch --node node-1 /etc/kubernetes/admin.conf", "Who uses the keys of a node's cluster"},
		},
		flags: append([]*option{
			{long: "recursive", short: "r", yes: &recursive, doc: "of a directory: all below it"},
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "limit", meta: "N", number: &limit, doc: "end after N events"},
			{long: "columns", short: "c", meta: "FIELDS", text: &columns, doc: "show these fields instead, separated by commas; also of JSON"},
		}, nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which file? A path is needed")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			path, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("find the path: %w", err)
			}
			node := ""
			if g.kubectl {
				if len(about.nodes) != 1 {
					return usagef("the file of which node? --node says one")
				}
				if path, node = args[0], about.nodes[0]; !strings.HasPrefix(path, "/") {
					return usagef("a path of %s begins with a slash, not like %q", node, path)
				}
			}
			chosen, err := parseColumns(columns)
			if err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			var st streamTable = newEventTable(env, who, output == "wide")
			if chosen != nil {
				st = newFieldTable(env, chosen, output == "table")
			}
			out := newStream(env, st, who)
			q := api.FileQuestion{Path: path, Recursive: recursive, Limit: limit, Node: node}
			if output == "json" {
				q.Fields = namesOf(chosen)
			} else {
				q.Fields = st.fields()
				q.Begun = func() { _ = out.head() } // write returns the error
			}
			ctx, cancel := g.finite(ctx, true)
			defer cancel()
			lines := who.WatchFile(ctx, q)
			if output == "json" {
				err = writeJSON(env, who.lines(lines, tellRoll, ""))
			} else {
				err = out.write(who.lines(lines, keepRoll, ""))
			}
			if err == nil && limit == 0 {
				return who.left()
			}
			return err
		},
	}
}
