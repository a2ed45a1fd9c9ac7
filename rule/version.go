package rule

import (
	"fmt"
	"regexp"
	"strconv"
)

// version is a semantic version, of an engine or a plugin.
type version [3]int

// engineVersion is that of Falco's rule engine that is understood here.
var engineVersion = version{0, 63, 0}

var versionText = regexp.MustCompile(`^([0-9]{1,6})(?:\.([0-9]{1,6})\.([0-9]{1,6})(?:[-+][0-9A-Za-z.+-]*)?)?$`)

// parseVersion reads a version; a number alone is that of an engine before
// there were three.
func parseVersion(s string) (v version, ok bool) {
	m := versionText.FindStringSubmatch(s)
	if m == nil {
		return v, false
	}
	if m[2] == "" {
		m[1], m[2], m[3] = "0", m[1], "0"
	}
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1])
	}
	return v, true
}

// runs reports whether v does what is asked of version want.
func (v version) runs(want version) bool {
	if v[0] != want[0] {
		return false
	}
	return v[1] > want[1] || v[1] == want[1] && v[2] >= want[2]
}

// String returns the version as it is written.
func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }
