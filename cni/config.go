package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"warren/api"
)

// A config is what the runtime hands to one call: the plugin's part of the
// network's configuration, and what concerns this one container.
type config struct {
	place
	// MTU is that of pods' interfaces; 0 stands for the one that the agent wrote.
	MTU int `json:"mtu"`
	// StatusGrace is for how many seconds the agent may be away before STATUS
	// says so: a node that is not ready loses its pods, which go on without an
	// agent.
	StatusGrace int `json:"statusGrace"`

	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`

	prev *current.Result // of the ADD, or of the plugin before; nil for none
}

// A place is what of a configuration says where things are: all that DEL and GC
// read of it, so that what ADD has refused can be taken away.
type place struct {
	// CNIVersion is that of the call, Name the network's. The agent's instance
	// has the network's name.
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	// Socket is the agent's, StateDir the directory of what outlives a call.
	Socket   string `json:"socket"`
	StateDir string `json:"stateDir"`

	// Valid are the attachments that GC leaves. Nil: the runtime named no list.
	Valid json.RawMessage `json:"cni.dev/valid-attachments"`
}

// A portMapping makes a port of the node a pod's.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"`
}

const (
	defaultStateRoot = "/var/lib/cni"
	defaultRunRoot   = "/run"
	maxPortMappings  = 1024
)

// DefaultStateDir is the state directory of an instance that names none.
func DefaultStateDir(instance string) string { return filepath.Join(defaultStateRoot, instance) }

// parseConfig reads what is on standard input. Its errors are [*types.Error].
func parseConfig(b []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network's configuration cannot be read", err.Error())
	}
	if err := c.place.check(); err != nil {
		return nil, err
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		return nil, wrongConfig("mtu %d: want %d to %d, or 0 for the one that the agent knows", c.MTU, minMTU, maxMTU)
	}
	if c.StatusGrace < 0 {
		return nil, wrongConfig("statusGrace %d: want seconds", c.StatusGrace)
	}
	if n := len(c.RuntimeConfig.PortMappings); n > maxPortMappings {
		return nil, wrongConfig("%d ports of the node for one container, at most %d can be", n, maxPortMappings)
	}
	for i := range c.RuntimeConfig.PortMappings {
		if err := c.RuntimeConfig.PortMappings[i].check(); err != nil {
			return nil, wrongConfig("portMappings[%d]: %v", i, err)
		}
	}
	return c, c.parsePrevResult(b)
}

// parsePlace reads what DEL and GC need of what is on standard input. Its errors
// are [*types.Error].
func parsePlace(b []byte) (*place, error) {
	p := &place{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network's configuration cannot be read", err.Error())
	}
	return p, p.check()
}

// check completes a place and says what is wrong with it.
func (p *place) check() error {
	if e := validName(p.Name); e != nil {
		return e
	}
	if p.StateDir == "" {
		p.StateDir = DefaultStateDir(p.Name)
	}
	for _, path := range []struct{ key, path string }{{"stateDir", p.StateDir}, {"socket", p.Socket}} {
		if path.path != "" && (!filepath.IsAbs(path.path) || strings.ContainsRune(path.path, 0)) {
			return wrongConfig("%s %q is no absolute path", path.key, path.path)
		}
	}
	return nil
}

func (c *config) parsePrevResult(b []byte) error {
	conf := &types.PluginConf{}
	if err := json.Unmarshal(b, conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "the network's configuration cannot be read", err.Error())
	}
	if conf.RawPrevResult == nil {
		return nil
	}
	if err := version.ParsePrevResult(conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	r, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	c.prev = r
	return nil
}

// validName checks the network's name as the specification has it. It is a part
// of paths and of the names of tables.
func validName(name string) *types.Error {
	switch {
	case name == "":
		return types.NewError(types.ErrInvalidNetworkConfig, "the network has no name", "")
	case len(name) > 64 || name[0] == '.' || name[0] == '_' || name[0] == '-' || strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '.' && r != '_' && r != '-'
	}):
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("%q cannot be a network's name", name), "want letters, digits, and after the first one dots, - and _; at most 64")
	}
	return nil
}

func wrongConfig(format string, args ...any) *types.Error {
	return types.NewError(types.ErrInvalidNetworkConfig, "the network's configuration is wrong", fmt.Sprintf(format, args...))
}

var protocols = []string{"tcp", "udp", "sctp"}

// check completes a mapping and says what is wrong with it.
func (p *portMapping) check() error {
	p.Protocol = strings.ToLower(p.Protocol)
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	switch {
	case p.HostPort < 1 || p.HostPort > 65535:
		return fmt.Errorf("hostPort %d is no port", p.HostPort)
	case p.ContainerPort < 1 || p.ContainerPort > 65535:
		return fmt.Errorf("containerPort %d is no port", p.ContainerPort)
	case !slices.Contains(protocols, p.Protocol):
		return fmt.Errorf("protocol %q is none of %s", p.Protocol, strings.Join(protocols, ", "))
	}
	if p.HostIP != "" {
		a, err := netip.ParseAddr(p.HostIP)
		if err != nil || a.Zone() != "" || a.IsMulticast() {
			return fmt.Errorf("hostIP %q cannot be an address of the node", p.HostIP)
		}
		p.HostIP = a.Unmap().String()
	}
	return nil
}

// host returns the address of the node that a mapping is for, invalid for all of
// a family, and whether it is for the family of pod's address at all.
func (p portMapping) host(pod netip.Addr) (netip.Addr, bool) {
	if p.HostIP == "" {
		return netip.Addr{}, true
	}
	a, err := netip.ParseAddr(p.HostIP)
	switch {
	case err != nil || a.Is4() != pod.Is4():
		return netip.Addr{}, false
	case a.IsUnspecified():
		return netip.Addr{}, true
	}
	return a, true
}

// valid returns the attachments that the runtime still has.
func (p *place) valid() (map[api.Attachment]bool, error) {
	if p.Valid == nil {
		return nil, wrongConfig("GC without a list of valid attachments (cni.dev/valid-attachments)")
	}
	var list []types.GCAttachment
	if err := json.Unmarshal(p.Valid, &list); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the list of valid attachments cannot be read", err.Error())
	}
	valid := make(map[api.Attachment]bool, len(list))
	for _, a := range list {
		valid[api.Attachment{ContainerID: a.ContainerID, Interface: a.IfName}] = true
	}
	return valid, nil
}

func (c *config) grace() time.Duration { return time.Duration(c.StatusGrace) * time.Second }

// socketOf returns the agent's socket: the configuration's, the one that the
// agent wrote, or where an agent of the network's name listens by default.
func (p *place) socketOf(n Node) string {
	switch {
	case p.Socket != "":
		return p.Socket
	case n.Socket != "":
		return n.Socket
	}
	return filepath.Join(defaultRunRoot, p.Name, "warren.sock")
}

// A pod is what the runtime says of the pod in CNI_ARGS; a runtime without
// Kubernetes says nothing.
type pod struct {
	uid, namespace, name string
}

// parseArgs reads CNI_ARGS: KEY=VALUE;KEY=VALUE. Its errors are [*types.Error].
func parseArgs(s string) (pod, error) {
	var p pod
	wrong := func(format string, args ...any) (pod, error) {
		return pod{}, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS is wrong", fmt.Sprintf(format, args...))
	}
	var unknown []string
	seen := map[string]bool{}
	lenient := false
	for _, pair := range strings.Split(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return wrong("%q is no KEY=VALUE", pair)
		}
		if seen[key] {
			return wrong("%s is there twice", key)
		}
		seen[key] = true
		var err error
		switch key {
		case "IgnoreUnknown":
			lenient, err = strconv.ParseBool(strings.ToLower(value))
		case "K8S_POD_NAMESPACE":
			p.namespace, err = value, kubernetesName(value, 63)
		case "K8S_POD_NAME":
			p.name, err = value, kubernetesName(value, 253)
		case "K8S_POD_UID":
			p.uid, err = value, kubernetesName(strings.ToLower(value), 128)
		case "K8S_POD_INFRA_CONTAINER_ID":
		default:
			unknown = append(unknown, key)
		}
		if err != nil {
			return wrong("%s=%q: %v", key, value, err)
		}
	}
	switch {
	case len(unknown) > 0 && !lenient:
		return wrong("unknown: %s", strings.Join(unknown, ", "))
	case (p.name == "") != (p.namespace == ""):
		return wrong("a pod has a name and a namespace: K8S_POD_NAME and K8S_POD_NAMESPACE")
	}
	return p, nil
}

// kubernetesName checks what Kubernetes allows in names, and no more than a file
// name can be.
func kubernetesName(s string, most int) error {
	if s == "" || len(s) > most {
		return fmt.Errorf("want 1 to %d characters", most)
	}
	for i, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && (i == 0 || i == len(s)-1 || r != '-' && r != '.') {
			return fmt.Errorf("%q cannot be there", r)
		}
	}
	return nil
}

func attachmentOf(args *skel.CmdArgs) api.Attachment {
	return api.Attachment{ContainerID: args.ContainerID, Interface: args.IfName}
}
