package cli

import "slices"

// commandTable returns every command in the order of the help, and the flags
// that each of them has. The values of flags live in the commands: a table
// serves one command line.
//
// kubectl's plugin has the commands that ask, and kubectl's own flags.
func commandTable(g *globals) ([]*command, []*option) {
	commands := []*command{
		agentCommand(g),
		hubCommand(),
		networkRemoveCommand(),
		eventsCommand(g),
		fieldsCommand(),
		filterExplainCommand(g),
		ruleCheckCommand(),
		ruleExplainCommand(g),
		ruleTestCommand(),
		ruleReplayCommand(g),
		ruleLearnCommand(g),
		alertListCommand(g),
		alertShowCommand(g),
		alertTestCommand(g),
		processListCommand(g),
		processTreeCommand(g),
		processShowCommand(g),
		connectionListCommand(g),
		whoCommand(g),
		fileWatchCommand(g),
		flowsCommand(g),
		mapCommand(g),
		historyStatusCommand(g),
		historyExportCommand(g),
		historyPruneCommand(g),
		policyStatusCommand(g),
		policySuggestCommand(g),
		policyTestCommand(g),
		policyExplainCommand(g),
		policyDiffCommand(g),
		statusCommand(g),
		versionCommand(),
	}
	var global []*option
	if g.kubectl {
		local := []string{"agent", "hub", "network remove", "alert test", "history status", "history export", "history prune"} // of one machine
		commands = slices.DeleteFunc(commands, func(c *command) bool { return slices.Contains(local, c.name) })
		global = clusterFlags(g)
	} else {
		global = append(global, &option{long: "socket", meta: "PATH", text: &g.socket, doc: "socket of the agent (default: the variable WARREN_SOCKET, else " + defaultSocket + ")"})
		commands = append(commands, completionCommand())
	}
	// help lists the others, so it comes last.
	help := &command{}
	commands = append(commands, help)
	*help = helpCommand(g.kubectl, commands, global)
	return commands, global
}

// defaultSocket is where an agent of the default instance listens.
const defaultSocket = "/run/warren/warren.sock"
