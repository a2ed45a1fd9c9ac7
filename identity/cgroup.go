package identity

import "strings"

// A Place is what the path of a cgroup tells.
type Place struct {
	// Runtime and ID name a container; both are empty on the host itself.
	// Runtime is docker, podman, containerd, cri-o, lxc, systemd-nspawn or
	// buildkit.
	Runtime string
	ID      string
	// Guess is true where several runtimes write such a path: Runtime is then
	// the likeliest.
	Guess bool
	// PodUID is the uid of the Kubernetes pod.
	PodUID string
	// Namespace is containerd's, where the path tells it.
	Namespace string
	// UserID is the user whose own runtime made the container (rootless), as the
	// path has it; empty for the machine's.
	UserID string
	// Unit is the innermost systemd unit around the container, or around the
	// process on the host.
	Unit string
}

// ParseCgroup tells the container, pod and unit of a cgroup's path below its
// hierarchy's root, as /proc/PID/cgroup shows it. See TestParseCgroup for the
// forms it knows.
//
// Containers can be nested: a runtime may run within a container, and so may a
// systemd. The outermost container counts: it is the one that this machine's
// runtime lists and can describe. The monitors that runtimes put beside their
// containers (conmon, lxc.monitor, nspawn's supervisor) belong to the host.
func ParseCgroup(path string) Place {
	var p Place
	parent, n := "", 0
	for rest := strings.Trim(path, "/"); rest != ""; {
		segment, tail, _ := strings.Cut(rest, "/")
		rest = tail
		if segment == ".." {
			continue // /proc read from within a cgroup namespace
		}
		// systemd puts an underscore before names that would clash with the
		// kernel's own files.
		name := strings.TrimPrefix(segment, "_")
		if uid := podUID(name); uid != "" {
			p.PodUID = uid
		}
		if uid, ok := cutAround(name, "user@", ".service"); ok {
			p.UserID = uid
		} else if uid, ok := cutAround(name, "user-", ".slice"); ok {
			p.UserID = uid
		}
		if isUnit(name) {
			p.Unit = name
		}
		if p.container(parent, name, rest, n) {
			break
		}
		parent = name
		n++
	}
	if p.ID == "" || !isNumber(p.UserID) {
		p.UserID = ""
	}
	return p
}

// container recognises a segment that names a container. n counts the segments
// above it.
func (p *Place) container(parent, name, rest string, n int) bool {
	scope, isScope := strings.CutSuffix(name, ".scope")
	// The systemd driver's slice:prefix:id, taken for a plain path.
	if parts := strings.Split(name, ":"); len(parts) == 3 && isID(parts[2]) && prefixes[parts[1]] != "" {
		p.Runtime, p.ID = prefixes[parts[1]], parts[2]
		return true
	}
	if dash := strings.LastIndexByte(scope, '-'); dash > 0 {
		prefix, id := scope[:dash], scope[dash+1:]
		if r := prefixes[prefix]; r != "" && isID(id) {
			p.Runtime, p.ID = r, id
			if prefix == "nerdctl" {
				p.Namespace = "default"
			}
			return true
		}
		if prefix == "docker" && isBuildID(id) { // a step of docker build
			p.Runtime, p.ID = "buildkit", id
			return true
		}
	}
	switch {
	case parent == "k8s.io" && n == 1, parent == "default" && n == 1, parent == "moby" && n == 1:
		// containerd's own default is /NAMESPACE/ID, where the id can be any name.
		p.Runtime, p.ID, p.Namespace = "containerd", name, parent
		return true
	case parent == "buildkit" && isBuildID(name):
		p.Runtime, p.ID = "buildkit", name
		return true
	case isID(name) && parent != "libpod_parent":
		// The cgroupfs driver names the directory by the id alone.
		p.Runtime, p.ID = "docker", name
		if strings.HasPrefix(parent, "pod") || strings.Contains(parent, "kubepods") {
			p.Runtime, p.Guess = "containerd", true
		} else if parent != "docker" {
			p.Guess = true
		}
		return true
	case strings.HasPrefix(name, "lxc.payload.") && len(name) > len("lxc.payload."):
		p.Runtime, p.ID = "lxc", name[len("lxc.payload."):]
		return true
	case parent == "lxc" && n == 1, parent == "lxc.payload" && n == 1:
		p.Runtime, p.ID = "lxc", name
		return true
	case rest == "supervisor" || strings.HasPrefix(rest, "supervisor/"):
		return false // systemd-nspawn itself
	case strings.HasPrefix(parent, "machine.slice"):
		if id, ok := cutAround(name, "systemd-nspawn@", ".service"); ok {
			p.Runtime, p.ID = "systemd-nspawn", unescape(id)
			return true
		}
		// libvirt registers its machines in the same slice: qemu\x2d1\x2dname.
		if id, ok := strings.CutPrefix(scope, "machine-"); ok && isScope && !strings.HasPrefix(id, `qemu\x2d`) && !strings.HasPrefix(id, `lxc\x2d`) {
			p.Runtime, p.ID = "systemd-nspawn", unescape(id)
			return true
		}
	}
	return false
}

// prefixes are what runtimes put before a container's id, with the systemd
// driver always, some with the cgroupfs driver too.
var prefixes = map[string]string{
	"docker":         "docker",
	"libpod":         "podman",
	"libpod-payload": "podman", // --cgroups=split, in the cgroup of a unit
	"cri-containerd": "containerd",
	"nerdctl":        "containerd",
	"crio":           "cri-o",
}

// isID reports whether s is an id as all these runtimes make them.
func isID(s string) bool { return len(s) == 64 && isHex(s) }

// isBuildID reports whether s is an id as BuildKit makes them: 25 digits of
// base 36.
func isBuildID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return len(s) == 25
}

// isNumber reports whether s can be a user id.
func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 10
}

// podUID takes the uid from podUID (cgroupfs driver) or
// kubepods-burstable-podUID.slice (systemd driver, dashes as underscores).
// Static pods have a hash of 32 digits for a uid.
func podUID(name string) string {
	uid, isSlice := strings.CutSuffix(name, ".slice")
	if isSlice {
		at := strings.LastIndex(uid, "-pod")
		if at < 0 {
			return ""
		}
		uid = strings.ReplaceAll(uid[at+len("-pod"):], "_", "-")
	} else {
		var ok bool
		if uid, ok = strings.CutPrefix(name, "pod"); !ok {
			// The systemd driver's slice:prefix:id.
			if slice, _, ok := strings.Cut(name, ":"); ok && strings.HasSuffix(slice, ".slice") {
				return podUID(slice)
			}
			return ""
		}
	}
	if !isUID(uid) {
		return ""
	}
	return uid
}

func isUID(s string) bool {
	switch len(s) {
	case 32:
		return isHex(s)
	case 36:
		for i := range len(s) {
			if i == 8 || i == 13 || i == 18 || i == 23 {
				if s[i] != '-' {
					return false
				}
			} else if !isHex(s[i : i+1]) {
				return false
			}
		}
		return true
	}
	return false
}

// isUnit reports whether s is the name of a systemd unit that holds processes:
// slices only hold units.
func isUnit(s string) bool {
	if len(s) > 255 {
		return false
	}
	dot := strings.LastIndexByte(s, '.')
	if dot <= 0 {
		return false
	}
	switch s[dot:] {
	case ".service", ".scope", ".socket", ".mount", ".swap":
	default:
		return false
	}
	for i := range dot {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte(`:_.\@-`, c) >= 0:
		default:
			return false
		}
	}
	return true
}

// unescape undoes systemd's escaping of names: \x2d stands for a dash.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && s[i+1] == 'x' {
			hi, ok1 := nibble(s[i+2])
			lo, ok2 := nibble(s[i+3])
			if ok1 && ok2 {
				b = append(b, hi<<4|lo)
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

func cutAround(s, prefix, suffix string) (string, bool) {
	if len(s) <= len(prefix)+len(suffix) || !strings.HasPrefix(s, prefix) || !strings.HasSuffix(s, suffix) {
		return "", false
	}
	return s[len(prefix) : len(s)-len(suffix)], true
}
