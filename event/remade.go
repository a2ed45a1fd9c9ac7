package event

// notRemade are the fields that can say something else of an event that [Make]
// has made of its JSON: of ancestors that has pid, name, executable and command
// line, of the parent also what tells it from others.
var notRemade = map[string]bool{
	"evt.cpu": true, "user.homedir": true, "user.shell": true, // no JSON has them
	"proc.aargs": true, "proc.pvpid": true, "proc.ppid.ts": true,
	// The first process of a namespace is known by its number there.
	"proc.pidns_init_start_ts": true, "proc.exe_ino.ctime_duration_pidns_start": true,
	// Where no ancestor is the leader, it is the oldest of the same session or group.
	"proc.sname": true, "proc.sid.exe": true, "proc.sid.exepath": true,
	"proc.pgid.name": true, "proc.pgid.exe": true, "proc.pgid.exepath": true,
	"proc.vpgid.name": true, "proc.vpgid.exe": true, "proc.vpgid.exepath": true,
	// Outside pods the machine's first process is asked for its network.
	"container.host_network": true,
}

// Remade reports whether a field, by its name, says of an event that [Make] has
// made of its JSON what it said of the event itself.
func Remade(name string) bool { return !notRemade[name] }
