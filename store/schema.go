package store

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"sync"

	"warren/event"
)

// formatVersion is that of logs: what a reader of another version need not try.
const formatVersion = 1

// logHead is what the first frame of a log says.
type logHead struct {
	Version  int                `json:"version"`
	Warren   string             `json:"warren"`
	Node     string             `json:"node"`
	Hostname string             `json:"hostname"`
	K8sNode  string             `json:"k8sNode,omitempty"`
	BootID   string             `json:"bootID"`
	Created  int64              `json:"created"` // nanoseconds since 1970
	Seq      uint64             `json:"seq"`     // of the segment
	Kinds    map[string]logKind `json:"kinds"`
}

// logKind is a layout as a log remembers it.
type logKind struct {
	// Number is what frames call the kind; 0 in logs that do not say: this program's.
	Number  event.Kind `json:"number"`
	Hash    uint32     `json:"hash"`
	Columns []string   `json:"columns"` // representation:name
}

// schemas are the layouts that the batches of one log may have been written by.
type schemas map[schemaKey]*schema

type schemaKey struct {
	kind event.Kind
	hash uint32
}

// of returns what wrote a batch: this program's layouts are known also where the
// head of the log is not.
func (s schemas) of(k event.Kind, hash uint32) *schema {
	if found := s[schemaKey{k, hash}]; found != nil {
		return found
	}
	return ownSchemas()[schemaKey{k, hash}]
}

// schemaHash tells layouts apart.
func schemaHash(l *event.Layout) uint32 {
	h := uint32(0)
	for _, c := range l.Columns {
		h = crc32.Update(h, castagnoli, []byte(columnText(c)))
	}
	return h
}

func columnText(c *event.Column) string { return c.Rep.String() + ":" + c.Name + "\n" }

var ownHashes = sync.OnceValue(func() map[event.Kind]uint32 {
	m := map[event.Kind]uint32{}
	for _, k := range event.AllKinds.List() {
		if l := event.LayoutOf(k); l != nil {
			m[k] = schemaHash(l)
		}
	}
	return m
})

var ownSchemas = sync.OnceValue(func() schemas {
	s := schemas{}
	for k, hash := range ownHashes() {
		l := event.LayoutOf(k)
		s[schemaKey{k, hash}] = &schema{l, l.Columns}
	}
	return s
})

func newHead(cfg *Config, host *event.Host, seq uint64, now int64) *logHead {
	h := &logHead{Version: formatVersion, Warren: cfg.Version, Node: cfg.Node, Hostname: host.Name(), K8sNode: host.Node(), BootID: host.BootID(), Created: now, Seq: seq, Kinds: map[string]logKind{}}
	for k, hash := range ownHashes() {
		kind := logKind{Number: k, Hash: hash}
		for _, c := range event.LayoutOf(k).Columns {
			kind.Columns = append(kind.Columns, c.Rep.String()+":"+c.Name)
		}
		h.Kinds[k.String()] = kind
	}
	return h
}

// parseHead reads a head, and what batches of other programs mean by it: columns
// that are no more are passed over, and those that came since have no value.
func parseHead(payload []byte) (*logHead, schemas, error) {
	body, err := unpack(payload)
	if err != nil {
		return nil, nil, err
	}
	h := &logHead{}
	if err := json.Unmarshal(body, h); err != nil {
		return nil, nil, fmt.Errorf("head: %w", err)
	}
	if h.Version != formatVersion {
		return nil, nil, &logVersionError{h.Version, h.Warren}
	}
	s := schemas{}
	for name, kind := range h.Kinds {
		k, ok := event.LookupKind(name)
		l := event.LayoutOf(k)
		if !ok || l == nil {
			continue
		}
		known := map[string]*event.Column{}
		for _, c := range l.Columns {
			known[c.Rep.String()+":"+c.Name] = c
		}
		columns := make([]*event.Column, len(kind.Columns))
		for i, name := range kind.Columns {
			columns[i] = known[name]
		}
		s[schemaKey{k, kind.Hash}] = &schema{l, columns}
	}
	return h, s, nil
}

// A logVersionError says that a log is of another format.
type logVersionError struct {
	version int
	by      string
}

// Error implements error.
func (e *logVersionError) Error() string {
	return fmt.Sprintf("format %d, written by Warren %s, and not %d", e.version, e.by, formatVersion)
}

// numbers says which kinds frames of the log mean, where another program wrote it:
// kinds have other numbers there. Those that it does not know are 0.
func (h *logHead) numbers() map[event.Kind]event.Kind {
	m := map[event.Kind]event.Kind{}
	for name, kind := range h.Kinds {
		if k, ok := event.LookupKind(name); kind.Number != 0 {
			m[kind.Number] = 0
			if ok {
				m[kind.Number] = k
			}
		}
	}
	return m
}
