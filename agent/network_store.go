package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"warren/api"
	"warren/cluster"
	"warren/event"
	"warren/internal/wholefile"
)

// networkStore is the file of what the network of this node is: who starts with
// the API server away, or years later to take it all away, learns from it what
// there is.
type networkStore struct {
	path string
	mode string
	was  string // the mode of what was loaded
	last []byte // as it was written
}

// networkFile is its name in the state directory.
const networkFile = "network.json"

// maxNetworkFile bounds what is read of it: a node has a few hundred pods.
const maxNetworkFile = 64 << 20

// savedNetwork is what the file has.
type savedNetwork struct {
	Mode string `json:"mode"`
	// Boot is the boot during which it was written: its endpoints are of none
	// other.
	Boot      string          `json:"boot"`
	Endpoints []savedEndpoint `json:"endpoints"`
}

// savedEndpoint is an endpoint with what policy has to know of its pod.
type savedEndpoint struct {
	api.Endpoint
	Found bool      `json:"found,omitempty"`
	Pod   *savedPod `json:"pod,omitempty"`
}

type savedPod struct {
	UID       string            `json:"uid"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Node      string            `json:"node,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Ports     []cluster.PodPort `json:"ports,omitempty"`
}

// load reads what an earlier agent has left: ok is false where none has.
func (s *networkStore) load() (list []*endpoint, ok bool, err error) {
	_ = wholefile.Sweep(s.path) // who may not remove may not write either, and save tells
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the endpoints: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNetworkFile))
	if err != nil {
		return nil, true, fmt.Errorf("read the endpoints: %w", err)
	}
	var saved savedNetwork
	if err := json.Unmarshal(b, &saved); err != nil {
		return nil, true, fmt.Errorf("read the endpoints: %s: %w", s.path, err)
	}
	s.was = saved.Mode
	if saved.Boot != event.BootID() {
		return nil, true, nil
	}
	for _, one := range saved.Endpoints {
		e := &endpoint{Endpoint: one.Endpoint, found: one.Found, inForce: true}
		if p := one.Pod; p != nil && p.UID != "" {
			e.pod = &cluster.Pod{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Node: p.Node, Labels: p.Labels, Ports: p.Ports, Addrs: e.Addrs}
		}
		list = append(list, e)
	}
	return list, true, nil
}

// save writes the endpoints, if they are not what was written last.
func (s *networkStore) save(list []*endpoint) error {
	saved := savedNetwork{Mode: s.mode, Boot: event.BootID(), Endpoints: make([]savedEndpoint, 0, len(list))}
	for _, e := range list {
		one := savedEndpoint{Endpoint: e.Endpoint, Found: e.found}
		if p := e.pod; p != nil {
			one.Pod = &savedPod{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Node: p.Node, Labels: p.Labels, Ports: p.Ports}
		}
		saved.Endpoints = append(saved.Endpoints, one)
	}
	b, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("write the endpoints: %w", err)
	}
	if bytes.Equal(b, s.last) {
		return nil
	}
	if err := wholefile.Write(s.path, b, 0o600); err != nil {
		return fmt.Errorf("write the endpoints: %w", err)
	}
	s.last = b
	return nil
}

// remove says that there is no network of this instance any more.
func (s *networkStore) remove() error {
	s.last = nil
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
