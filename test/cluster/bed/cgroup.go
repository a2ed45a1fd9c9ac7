package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cgroups are the machine's control groups: the unified hierarchy, and those of
// version 1 where the controllers are still bound to them.
type cgroups struct {
	unified string
	v1      []string
}

// findCgroups reads the mounts of this process.
func findCgroups() (cgroups, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return cgroups{}, err
	}
	var g cgroups
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			continue
		}
		switch f[2] {
		case "cgroup2":
			g.unified = f[1]
		case "cgroup":
			g.v1 = append(g.v1, f[1])
		}
	}
	if g.unified == "" {
		return g, errors.New("no cgroup2 is mounted below /sys/fs/cgroup")
	}
	return g, nil
}

// make makes a group, /k8s/node1, in the unified hierarchy and, for what will
// hold containers, in all others. It may exist.
func (g cgroups) make(name string, all bool) error {
	if err := os.MkdirAll(g.unified+name, 0o755); err != nil {
		return err
	}
	if err := g.delegate(name, all); err != nil {
		return err
	}
	if !all {
		return nil
	}
	for _, root := range g.v1 {
		if err := os.MkdirAll(root+name, 0o755); err != nil {
			return err
		}
		// A group of cpuset takes no process before it is told where to run.
		for dir := range prefixes(name) {
			if err := inherit(root, dir, "cpuset.cpus", "cpuset.mems"); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate turns the unified hierarchy's controllers on, from the root to the
// group. There are none where they are bound to version 1.
func (g cgroups) delegate(name string, all bool) error {
	if !all {
		return nil
	}
	controllers, err := os.ReadFile(g.unified + "/cgroup.controllers")
	if err != nil {
		return err
	}
	var on []string
	for _, c := range strings.Fields(string(controllers)) {
		on = append(on, "+"+c)
	}
	if len(on) == 0 {
		return nil
	}
	for dir := range prefixes(path.Dir(name)) {
		if err := os.WriteFile(g.unified+dir+"/cgroup.subtree_control", []byte(strings.Join(on, " ")), 0); err != nil {
			return fmt.Errorf("turn controllers on in %s: %w", dir, err)
		}
	}
	return nil
}

// prefixes are the groups on the way to a group: "", /k8s, /k8s/node1.
func prefixes(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield("") {
			return
		}
		for i := 1; i < len(name); i++ {
			if (name[i] == '/' || i == len(name)-1) && !yield(strings.TrimSuffix(name[:i+1], "/")) {
				return
			}
		}
	}
}

// inherit copies values of the parent where a group has none, or files of these
// names do not exist.
func inherit(root, group string, names ...string) error {
	if group == "" {
		return nil
	}
	for _, name := range names {
		own := filepath.Join(root+group, name)
		value, err := os.ReadFile(own)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(strings.TrimSpace(string(value))) > 0 {
			continue
		}
		if err != nil {
			return err
		}
		if value, err = os.ReadFile(filepath.Join(root+path.Dir(group), name)); err != nil {
			return err
		}
		if err := os.WriteFile(own, value, 0); err != nil {
			return err
		}
	}
	return nil
}

// processes are those of a group itself, in the order of their ids.
func (g cgroups) processes(name string) []int {
	text, err := os.ReadFile(filepath.Join(g.unified+name, "cgroup.procs"))
	if err != nil {
		return nil // no group, no processes
	}
	var pids []int
	for f := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func (g cgroups) exists(name string) bool {
	_, err := os.Stat(g.unified + name)
	return err == nil
}

// remove kills everything in a group and below it, and removes it from every
// hierarchy. It need not exist.
func (g cgroups) remove(ctx context.Context, name string) error {
	dir := g.unified + name
	if g.exists(name) {
		if err := os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, root := range append([]string{g.unified}, g.v1...) {
		// The kernel lets go of a dead process's groups a little later.
		err := Poll(ctx, Patience, func() error { return removeGroups(root + name) })
		if err != nil {
			return fmt.Errorf("remove the control group %s%s: %w", root, name, err)
		}
	}
	return nil
}

func removeGroups(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if d != nil && d.IsDir() && err == nil {
			dirs = append(dirs, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(dirs) {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Poll asks until there is no error, and gives the last one when time is up.
func Poll(ctx context.Context, atMost time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	wait := 2 * time.Millisecond
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}
