package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"warren/api"
	"warren/internal/netdump"
	"warren/internal/wholefile"
)

// InstallConfig is where on the node the plugin goes. All paths are those that
// the container runtime sees; where the agent sees them elsewhere, Root is what
// it puts before those of ConfDir and BinDir.
type InstallConfig struct {
	// Instance is the agent's, and the network's name.
	Instance string
	// Socket is the agent's, StateDir the directory of [WriteNode].
	Socket, StateDir string
	// ConfDir and BinDir are the runtime's. Default /etc/cni/net.d and
	// /opt/cni/bin.
	ConfDir, BinDir string
	Root            string
	// Program is the file that becomes the plugin. Default: this program.
	Program string
	// StatusGrace is for how many seconds the agent may be away before the node
	// is not ready; then its pods are no endpoints of services any more, and are
	// evicted later, though their network goes on. Default two hours; below 0 for
	// no grace.
	StatusGrace int
}

const (
	defaultConfDir = "/etc/cni/net.d"
	defaultBinDir  = "/opt/cni/bin"
	defaultGrace   = 2 * 60 * 60
	// defaultInstance has the names without an instance in them.
	defaultInstance = "warren"
	// confOrder comes before those of other plugins: a runtime takes the first
	// file by name.
	confOrder = "05-"
	confMode  = 0o644
)

func (c InstallConfig) complete() (InstallConfig, error) {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	def(&c.Instance, defaultInstance)
	def(&c.ConfDir, defaultConfDir)
	def(&c.BinDir, defaultBinDir)
	def(&c.StateDir, DefaultStateDir(c.Instance))
	def(&c.Socket, filepath.Join(defaultRunRoot, c.Instance, "warren.sock"))
	def(&c.Program, "/proc/self/exe")
	switch {
	case c.StatusGrace == 0:
		c.StatusGrace = defaultGrace
	case c.StatusGrace < 0:
		c.StatusGrace = 0
	}
	if err := validName(c.Instance); err != nil {
		return c, err
	}
	for _, p := range []string{c.ConfDir, c.BinDir, c.StateDir, c.Socket} {
		if !filepath.IsAbs(p) {
			return c, fmt.Errorf("%s is no absolute path", p)
		}
	}
	return c, nil
}

// kind is the name of the instance's program, which configurations call its type.
func (c InstallConfig) kind() string {
	if c.Instance == defaultInstance {
		return Program
	}
	return Program + "-" + c.Instance
}

func (c InstallConfig) conf() string {
	return filepath.Join(c.Root, c.ConfDir, confOrder+c.Instance+".conflist")
}

func (c InstallConfig) program() string { return filepath.Join(c.Root, c.BinDir, c.kind()) }

// A confList is the configuration that a runtime reads. Old runtimes know
// cniVersion only, and newer ones take the highest of cniVersions that they
// know.
type confList struct {
	CNIVersion  string       `json:"cniVersion"`
	CNIVersions []string     `json:"cniVersions"`
	Name        string       `json:"name"`
	Plugins     []confPlugin `json:"plugins"`
}

type confPlugin struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	Socket       string          `json:"socket,omitempty"`
	StateDir     string          `json:"stateDir,omitempty"`
	StatusGrace  int             `json:"statusGrace,omitempty"`
}

// Install makes the plugin the node's network: its program first, and then the
// configuration, by which the node becomes ready; so [WriteNode] comes before.
// Each file is whole when it gets its name, and is left alone where it is right
// already. Files of other plugins are not touched.
func Install(c InstallConfig) error {
	c, err := c.complete()
	if err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	list := confList{
		CNIVersion: "1.0.0", CNIVersions: []string{"1.0.0", "1.1.0"}, Name: c.Instance,
		Plugins: []confPlugin{{Type: c.kind(), Capabilities: map[string]bool{"portMappings": true}, Socket: c.Socket, StateDir: c.StateDir, StatusGrace: c.StatusGrace}},
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if err := c.free(); err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	for _, dir := range []string{filepath.Dir(c.program()), filepath.Dir(c.conf())} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("install the CNI plugin: %w", err)
		}
	}
	if err := errors.Join(c.sweep(), copyProgram(c.Program, c.program())); err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	if old, err := os.ReadFile(c.conf()); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := writeFile(c.conf(), b, confMode); err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	return nil
}

// free returns an error if somebody else's file has the configuration's name.
func (c InstallConfig) free() error {
	b, err := os.ReadFile(c.conf())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var have confList
	if err := json.Unmarshal(b, &have); err != nil || len(have.Plugins) != 1 || have.Plugins[0].Type != c.kind() {
		return fmt.Errorf("%s is not of this instance of Warren: it is left alone", c.conf())
	}
	return nil
}

// copyProgram puts a program at a path, unless it is there already.
func copyProgram(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if same(src, to) {
		return nil
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return wholefile.CopySynced(to, src, 0o755)
}

// same reports whether a program is at a path already, and may be run.
func same(src *os.File, path string) bool {
	have, err := os.Open(path)
	if err != nil {
		return false
	}
	defer have.Close()
	a, err1 := src.Stat()
	b, err2 := have.Stat()
	if err1 != nil || err2 != nil || a.Size() != b.Size() || b.Mode().Perm() != 0o755 || !b.Mode().IsRegular() {
		return false
	}
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err1 := io.ReadFull(src, bufA)
		m, err2 := io.ReadFull(have, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false
		}
		if err1 != nil || err2 != nil {
			return errors.Is(err1, err2) && (errors.Is(err1, io.EOF) || errors.Is(err1, io.ErrUnexpectedEOF))
		}
	}
}

// Uninstall removes what Install wrote, the configuration first: no pod is added
// any more. Pods that run keep their network, but nobody takes it away when they
// end: that is for [Purge], which a node that changes its network wants too.
func Uninstall(c InstallConfig) error {
	c, err := c.complete()
	if err != nil {
		return fmt.Errorf("remove the CNI plugin: %w", err)
	}
	if err := c.free(); err != nil {
		return fmt.Errorf("remove the CNI plugin: %w", err)
	}
	for _, path := range []string{c.conf(), c.program()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the CNI plugin: %w", err)
		}
	}
	return c.sweep()
}

// sweep removes what an Install that was killed has left unfinished. Only one
// runs at a time: an instance has one agent.
func (c InstallConfig) sweep() error {
	var errs []error
	for _, path := range []string{c.conf(), c.program()} {
		errs = append(errs, wholefile.Sweep(path))
	}
	return errors.Join(errs...)
}

// Purge takes the network of all pods of an instance away, running or not, and
// its state directory: nothing that the plugin has made is left on the node. It
// runs in the node's network namespace.
func Purge(instance, stateDir string) error {
	if err := validName(instance); err != nil {
		return err
	}
	s, err := openState(stateDir)
	if err != nil {
		return err
	}
	if err := collect(s, instance, nil, nil); err != nil {
		return fmt.Errorf("remove the network of pods: %w", err)
	}
	return os.RemoveAll(stateDir)
}

// Attachments returns the pods that the plugin has connected, or is connecting,
// and whose interfaces are there: what an agent finds when it starts. It runs in
// the node's network namespace. Records that cannot be read are left out, and
// told by the error beside the rest.
func Attachments(instance, stateDir string) ([]api.Endpoint, error) {
	s := &state{stateDir}
	list, broken, err := s.records()
	if err != nil {
		return nil, err
	}
	h, err := netdump.Handle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	var all []api.Endpoint
	for _, r := range list {
		w := wire{network: instance, a: r.Attachment}
		if w.link, err = byName(h, hostName(instance, r.Attachment)); err != nil {
			return nil, err
		}
		if w.link != nil && w.link.Type() == "veth" {
			all = append(all, w.endpoint(r))
		}
	}
	for _, e := range broken {
		err = errors.Join(err, e)
	}
	return all, err
}
