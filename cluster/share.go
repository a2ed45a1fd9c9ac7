package cluster

import (
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// What a name can be at most, in bytes: the API server allows no more, but who
// knows who answers in its place.
const (
	maxName     = 253
	maxLabelKey = 253 + 1 + 63
	maxLabel    = 63
	maxImage    = 1024
	maxID       = 128
)

// How many there can be at most in one object.
const (
	maxLabels     = 256
	maxContainers = 256
	maxPodPorts   = 1000
	maxAddrs      = 64
	maxPorts      = 1000
	maxEndpoints  = 1000
)

// How many texts and maps of labels a generation of a sharer has: those of
// 20,000 pods with room. More only means that some are kept twice.
const (
	maxTexts = 64 << 10
	maxSets  = 32 << 10
)

// A sharer makes equal texts, and equal maps of labels, one in memory: pods of
// a cluster say mostly the same. It keeps two generations, so that what nobody
// has said for a long time goes away without ever looking through everything.
type sharer struct {
	seed    maphash.Seed
	texts   generations[string, string]
	sets    generations[uint64, map[string]string]
	named   generations[string, []PodPort]
	trimmed atomic.Uint64
}

// generations is a map of which what was not asked for lately is dropped.
type generations[K comparable, V any] struct {
	young, old map[K]V
}

func (g *generations[K, V]) get(key K, size int) (V, bool) {
	if v, ok := g.young[key]; ok {
		return v, true
	}
	v, ok := g.old[key]
	if ok {
		g.put(key, v, size)
	}
	return v, ok
}

func (g *generations[K, V]) put(key K, v V, size int) {
	if len(g.young) >= size {
		g.old, g.young = g.young, nil
	}
	if g.young == nil {
		g.young = make(map[K]V)
	}
	g.young[key] = v
}

// text returns a name that is clean and shared.
func (s *sharer) text(t string, size int) string {
	if t == "" {
		return ""
	}
	t = s.own(t, size)
	if shared, ok := s.texts.get(t, maxTexts); ok {
		return shared
	}
	t = strings.Clone(t)
	s.texts.put(t, t, maxTexts)
	return t
}

// own returns a name that is clean, and nobody else's.
func (s *sharer) own(t string, size int) string {
	cleaned, same := clean(t, size)
	if !same {
		s.trimmed.Add(1)
	}
	return cleaned
}

// clean returns t with at most size bytes, in valid UTF-8 and without control
// characters, and whether it was so.
func clean(t string, size int) (string, bool) {
	if isClean(t, size) {
		return t, true
	}
	var b strings.Builder
	for _, r := range t { // what is not UTF-8 comes as U+FFFD
		if !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		if b.Len()+utf8.RuneLen(r) > size {
			break
		}
		b.WriteRune(r)
	}
	return b.String(), false
}

// isClean is true for every name that an API server has accepted: those are
// ASCII. Printable others are let through by clean, unchanged.
func isClean(t string, size int) bool {
	if len(t) > size {
		return false
	}
	for i := range len(t) {
		if t[i] < 0x20 || t[i] >= 0x7f {
			return isPrintable(t)
		}
	}
	return true
}

func isPrintable(t string) bool {
	for _, r := range t {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(t)
}

// labels returns labels that are clean and shared.
func (s *sharer) labels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	labels = s.fewLabels(labels)
	for k, v := range labels {
		if !isClean(k, maxLabelKey) || !isClean(v, maxLabel) {
			labels = s.cleanLabels(labels)
			break
		}
	}
	if s.seed == (maphash.Seed{}) {
		s.seed = maphash.MakeSeed()
	}
	var hash uint64 // in no order, as the map is
	for k, v := range labels {
		hash += maphash.String(s.seed, k) ^ maphash.String(s.seed, v)*3
	}
	if shared, ok := s.sets.get(hash, maxSets); ok && maps.Equal(shared, labels) {
		return shared
	}
	shared := make(map[string]string, len(labels))
	for k, v := range labels {
		shared[s.text(k, maxLabelKey)] = s.text(v, maxLabel)
	}
	s.sets.put(hash, shared, maxSets)
	return shared
}

// fewLabels drops the last labels of too many, by name.
func (s *sharer) fewLabels(labels map[string]string) map[string]string {
	if len(labels) <= maxLabels {
		return labels
	}
	s.trimmed.Add(1)
	few := make(map[string]string, maxLabels)
	for _, k := range slices.Sorted(maps.Keys(labels))[:maxLabels] {
		few[k] = labels[k]
	}
	return few
}

// cleanLabels cleans keys and values. Of keys that become the same, the last wins.
func (s *sharer) cleanLabels(labels map[string]string) map[string]string {
	cleaned := make(map[string]string, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		cleaned[s.own(k, maxLabelKey)] = s.own(labels[k], maxLabel)
	}
	return cleaned
}

// ports returns named ports that are shared: the pods of a deployment have the
// same ones.
func (s *sharer) ports(ports []PodPort) []PodPort {
	if len(ports) == 0 {
		return nil
	}
	ports = atMost(s, ports, maxPodPorts)
	var key strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&key, "%s/%s/%d ", p.Name, p.Protocol, p.Port)
	}
	if shared, ok := s.named.get(key.String(), maxSets); ok && slices.Equal(shared, ports) {
		return shared
	}
	shared := make([]PodPort, len(ports))
	for i, p := range ports {
		shared[i] = PodPort{Name: s.text(p.Name, maxName), Protocol: s.text(p.Protocol, maxName), Port: p.Port}
	}
	s.named.put(key.String(), shared, maxSets)
	return shared
}

// addrs returns addresses as the tables have them: each once, without those
// that stand for nobody.
func (s *sharer) addrs(addrs []netip.Addr) []netip.Addr {
	var usable []netip.Addr
	for _, addr := range addrs {
		addr = canonical(addr)
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsLoopback() || slices.Contains(usable, addr) {
			continue
		}
		if len(usable) == maxAddrs {
			s.trimmed.Add(1)
			break
		}
		if usable == nil {
			usable = make([]netip.Addr, 0, min(len(addrs), maxAddrs))
		}
		usable = append(usable, addr)
	}
	return usable
}

// atMost cuts a list that is too long.
func atMost[T any](s *sharer, list []T, size int) []T {
	if len(list) <= size {
		return list
	}
	s.trimmed.Add(1)
	return slices.Clone(list[:size])
}
