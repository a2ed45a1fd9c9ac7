package cli

// commandTable returns every command in the order of the help, and the flags
// that each of them has. The values of flags live in the commands: a table
// serves one command line.
func commandTable(g *globals) ([]*command, []*option) {
	commands := []*command{
		agentCommand(g),
		eventsCommand(g),
		fieldsCommand(),
		processListCommand(g),
		processTreeCommand(g),
		processShowCommand(g),
		connectionListCommand(g),
		statusCommand(g),
		versionCommand(),
	}
	global := []*option{
		{long: "socket", meta: "PATH", text: &g.socket, doc: "socket of the agent (default: the variable WARREN_SOCKET, else " + defaultSocket + ")"},
	}
	// help lists the others, so it comes last.
	help := &command{}
	commands = append(commands, help)
	*help = helpCommand(commands, global)
	return commands, global
}

// defaultSocket is where an agent of the default instance listens.
const defaultSocket = "/run/warren/warren.sock"
