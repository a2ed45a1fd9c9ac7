package event

import (
	"bytes"
	"os"
	"strings"
)

// host is what every event of this machine shares. It is read once, when the
// program starts, from the kernel, but for the node, which only the cluster
// knows; tests replace it.
var host = readHost()

type hostInfo struct {
	name      string
	node      string
	bootID    string
	bootShort string // 12 hexadecimal digits of bootID
}

func readHost() hostInfo {
	name, _ := os.Hostname() // an unnamed machine has no evt.hostname
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return newHost(name, string(bytes.TrimSpace(id)))
}

func newHost(name, bootID string) hostInfo {
	short := strings.ReplaceAll(bootID, "-", "")
	return hostInfo{name: name, bootID: bootID, bootShort: short[:min(12, len(short))]}
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
