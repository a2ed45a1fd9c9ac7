package identity

import (
	"cmp"
	"slices"
	"strings"
)

// An ImageRef is the name of an image, taken apart.
type ImageRef struct {
	Repo   string // registry and path, as written: localhost:5000/team/app
	Tag    string
	Digest string // sha256:...
}

// ParseImage takes an image's name apart by the rules of the distribution
// specification: a colon behind the last slash begins a tag, one before it a
// registry's port; an at sign begins a digest. An image named by its id alone
// has no repository.
func ParseImage(s string) ImageRef {
	var r ImageRef
	if isDigest(s) || isHex(s) && len(s) == 64 {
		return r
	}
	if at := strings.LastIndexByte(s, '@'); at >= 0 && isDigest(s[at+1:]) {
		s, r.Digest = s[:at], s[at+1:]
	}
	if colon := strings.LastIndexByte(s, ':'); colon > strings.LastIndexByte(s, '/') && colon >= 0 {
		s, r.Tag = s[:colon], s[colon+1:]
	}
	r.Repo = s
	return r
}

// isDigest reports whether s is a digest like sha256:0123...
func isDigest(s string) bool {
	algorithm, digits, ok := strings.Cut(s, ":")
	return ok && algorithm != "" && !strings.ContainsAny(algorithm, "/@") && len(digits) >= 32 && isHex(digits)
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}

// shortID returns the form of an id that runtimes show.
func shortID(id string) string {
	if len(id) > 12 && isHex(id) {
		return id[:12]
	}
	return id
}

// boundLabels leaves out the longest labels, until the rest is small enough to
// be kept for each container.
func boundLabels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	n := 0
	keys := make([]string, 0, len(labels))
	for k, v := range labels {
		n += len(k) + len(v)
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(len(b)+len(labels[b])-len(a)-len(labels[a]), strings.Compare(a, b))
	})
	out := make(map[string]string, len(labels))
	for _, k := range keys {
		if n > maxLabelBytes {
			n -= len(k) + len(labels[k])
			continue
		}
		out[k] = labels[k]
	}
	return out
}
