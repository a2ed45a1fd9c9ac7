package agent

import (
	"fmt"
	"slices"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"warren/bpf"
)

// A need is a capability and the features that do not work without it.
type need struct {
	cap      cap.Value
	feature  string
	required bool
	// startOnly capabilities are given back when the agent has started.
	startOnly bool
}

// needs are all capabilities that an agent has a use for; it gives up all
// others when it starts. CAP_SYS_RESOURCE is not among them: kernels since 5.11
// charge BPF memory to the cgroup, not to the memlock limit.
var needs = []need{
	{cap: cap.BPF, required: true, feature: "load programs and maps into the kernel"},
	{cap: cap.PERFMON, required: true, feature: "let programs read the kernel's memory, and attach them to tracepoints"},
	{cap: cap.NET_ADMIN, feature: "see packets: DNS names, UDP flows; with a network, connect pods: programs on their devices, routes, masquerading"},
	{cap: cap.SYS_PTRACE, feature: "executables, roots and open files of others' processes, names of users in containers"},
	{cap: cap.DAC_READ_SEARCH, feature: "files that only their owners may read: open files of processes, users in containers, tracefs, sockets of container runtimes"},
	{cap: cap.SYS_ADMIN, startOnly: true, feature: "open tracefs where it is not mounted; given back once it is open"},
}

// A right is a need and whether it is met.
type right struct {
	need
	held     bool
	returned bool // it was held while the agent started
}

func (r right) name() string { return strings.ToUpper(r.cap.String()) }

// checkRights says what this process may do. The error of a process that lacks
// something required says what it is for.
func checkRights() ([]right, error) {
	have := bpf.Effective()
	var rights []right
	var missing, least []string
	for _, n := range needs {
		r := right{need: n, held: have.Has(int(n.cap))}
		rights = append(rights, r)
		if r.required && !r.held {
			missing = append(missing, fmt.Sprintf("%s (%s)", r.name(), r.feature))
		}
		if r.required {
			least = append(least, r.name())
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("capabilities are missing: %s: start the agent as root, or with at least %s", strings.Join(missing, ", "), strings.Join(least, " and "))
	}
	return rights, nil
}

// limit gives up, for good, every capability but those held among rights: those
// in force, those that could be put in force, and those that a program executed
// by this process could gain.
func limit(rights []right) error {
	var keep, gain []cap.Value
	for _, r := range rights {
		if r.held {
			keep = append(keep, r.cap)
		}
		if r.held && !r.startOnly {
			gain = append(gain, r.cap)
		}
	}
	now := cap.GetProc()
	// The bounding set is cut first, as long as there is the right to. It does
	// not matter to what is in force.
	if may, err := now.GetFlag(cap.Effective, cap.SETPCAP); err == nil && may {
		var drop []cap.Value
		for v := range cap.MaxBits() {
			if in, err := cap.GetBound(v); err == nil && in && !slices.Contains(gain, v) {
				drop = append(drop, v)
			}
		}
		if err := cap.DropBound(drop...); err != nil {
			return err
		}
	}
	if err := cap.ResetAmbient(); err != nil {
		return err
	}
	want := cap.NewSet()
	for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
		if err := want.SetFlag(flag, true, keep...); err != nil {
			return err
		}
	}
	return want.SetProc()
}

// settle gives back what only the start needed, and returns what is left.
func settle(rights []right) ([]right, error) {
	left := slices.Clone(rights)
	changed := false
	for i := range left {
		if r := &left[i]; r.startOnly && r.held {
			r.held, r.returned, changed = false, true, true
		}
	}
	if !changed {
		return rights, nil
	}
	return left, limit(left)
}
