package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"warren/internal/wholefile"
)

// nodeFile is in the state directory.
const nodeFile = "node.json"

// A Node is what the plugin must know of the node that it runs on. The agent
// writes it; the plugin finds it in its state directory.
type Node struct {
	// PodCIDRs are the networks of the node's pods, those of Kubernetes' Node.
	// A pod gets one address of each family that is among them.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// Reserved are addresses in them that no pod may have.
	Reserved []netip.Addr `json:"reserved,omitempty"`
	// MTU is that of pods' interfaces. What does not fit into the network below,
	// a tunnel's header for one, is taken off already.
	MTU int `json:"mtu"`
	// Mode is how pods of other nodes are reached, for people who look here.
	Mode string `json:"mode,omitempty"`
	// Socket is the agent's, where the configuration names none.
	Socket string `json:"socket,omitempty"`
	// Boot is the boot during which this was written. WriteNode fills it in.
	Boot string `json:"boot,omitempty"`
}

// The bounds of an MTU: IPv6 needs 1280, and no veth can have more than the
// other.
const (
	minMTU  = 576
	minMTU6 = 1280
	maxMTU  = 65535
)

// Check says what is wrong with a node.
func (n *Node) Check() error {
	if len(n.PodCIDRs) == 0 {
		return errors.New("the node has no network for pods (podCIDRs)")
	}
	least := minMTU
	for i, p := range n.PodCIDRs {
		switch {
		case !p.IsValid():
			return errors.New("a network of pods is missing its value")
		case p != p.Masked():
			return fmt.Errorf("%s is no network: bits behind its prefix are set", p)
		case p.Addr().Is4In6() || p.Addr().Zone() != "":
			return fmt.Errorf("%s cannot be a network of pods", p)
		case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Bits() == 0:
			return fmt.Errorf("%s cannot be a network of pods", p)
		}
		if p.Addr().Is6() {
			least = minMTU6
		}
		for _, q := range n.PodCIDRs[:i] {
			if p.Overlaps(q) {
				return fmt.Errorf("the networks of pods %s and %s overlap", q, p)
			}
		}
	}
	if n.MTU < least || n.MTU > maxMTU {
		return fmt.Errorf("the MTU of pods cannot be %d: want %d to %d", n.MTU, least, maxMTU)
	}
	return nil
}

// WriteNode writes what the plugin must know into a state directory, which it
// makes. Who reads at the same time sees the file as it was before or after.
func WriteNode(dir string, n Node) error {
	if err := n.Check(); err != nil {
		return fmt.Errorf("write %s: %w", nodeFile, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	n.Boot = bootID()
	b, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, nodeFile), append(b, '\n'), 0o600)
}

// RemoveNode takes back what WriteNode wrote: no pod is added any more.
func RemoveNode(dir string) error {
	err := os.Remove(filepath.Join(dir, nodeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadNode reads what an agent wrote; fs.ErrNotExist says that none did yet.
func ReadNode(dir string) (Node, error) {
	b, err := os.ReadFile(filepath.Join(dir, nodeFile))
	if err != nil {
		return Node{}, err
	}
	n, err := parseNode(b)
	if err != nil {
		return Node{}, fmt.Errorf("read %s: %w", filepath.Join(dir, nodeFile), err)
	}
	return n, nil
}

func parseNode(b []byte) (Node, error) {
	var n Node
	if err := json.Unmarshal(b, &n); err != nil {
		return n, err
	}
	return n, n.Check()
}

// bootID tells one boot of the machine from another, "" where that is unknown.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // "" compares as an unknown boot
	return strings.TrimSpace(string(b))
}

// writeFile replaces a file by a new one, which is complete and on disk before
// it has the name.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	if err := wholefile.WriteSynced(path, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// tempPrefix begins names of files that are not complete: who is killed leaves
// them, and GC removes them, or the next Install.
const tempPrefix = wholefile.TempPrefix
