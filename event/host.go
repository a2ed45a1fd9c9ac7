package event

import (
	"bytes"
	"os"
	"strings"
)

// host is what every event of this machine and boot shares. It is read once, when the
// program starts, from the kernel, but for the node, which only the cluster
// knows; tests replace it.
var host = readHost()

// A Host is a machine between two boots.
type Host struct {
	name      string
	node      string
	bootID    string
	bootShort string // 12 hexadecimal digits of bootID
}

// NewHost returns a machine by its name, its name as a node of its cluster, ""
// for none, and the id of its boot.
func NewHost(name, node, bootID string) *Host {
	h := newHost(name, bootID)
	h.node = node
	return &h
}

// ThisHost returns the machine that the program runs on, as it is known now.
func ThisHost() *Host {
	h := host
	return &h
}

// Name returns the machine's name.
func (h *Host) Name() string { return h.name }

// Node returns its name as a node of its cluster.
func (h *Host) Node() string { return h.node }

// BootID returns the id of its boot.
func (h *Host) BootID() string { return h.bootID }

// ExecID is [Key.ExecID] for a process of this host.
func (h *Host) ExecID(k Key) string { return string(h.appendExecID(make([]byte, 0, 40), k)) }

// hostOf returns the machine that an event is of.
func hostOf(e *Event) *Host {
	if e.Past != nil && e.Past.Host != nil {
		return e.Past.Host
	}
	return &host
}

func readHost() Host {
	name, _ := os.Hostname() // an unnamed machine has no evt.hostname
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return newHost(name, string(bytes.TrimSpace(id)))
}

func newHost(name, bootID string) Host {
	short := strings.ReplaceAll(bootID, "-", "")
	return Host{name: name, bootID: bootID, bootShort: short[:min(12, len(short))]}
}

// BootID returns the id of the machine's current boot.
func BootID() string { return host.bootID }

// SetNode says which node of a cluster this machine is; "" is none. It is called
// once, before there are events.
func SetNode(name string) { host.node = name }

// Node returns what [SetNode] has been told.
func Node() string { return host.node }

// Hostname returns the machine's name.
func Hostname() string { return host.name }
