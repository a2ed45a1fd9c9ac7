package bed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// nodeDirs are the folders of a node that its directory on the machine has.
// They are seen on the node where furnish mounts them.
var nodeDirs = []string{"run", "run/lock", "lib", "lib/containerd", "lib/kubelet", "lib/cni", "log", "log/pods", "log/containers", "opt", "cni", "etc", "etc.work", "shield"}

// shields are settings of the whole kernel that a kubelet sets. It is shown files
// that have the wanted value, and so leaves the machine's as they are.
var shields = []struct{ name, value string }{
	{"vm/overcommit_memory", "1"},
	{"kernel/panic", "10"},
	{"kernel/panic_on_oops", "1"},
}

// furnish makes the namespaces of this process those of a node, from inside: its
// name, its own /etc, /run, /var/lib, /var/log and /sys, and the settings of its
// network. Nothing of it is seen outside the mount namespace.
func furnish(name, dir string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	mount := func(from, to, kind string, flags uintptr, data string) error {
		if err := unix.Mount(from, to, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s %s: %w", kind, to, err)
		}
		return nil
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mountSys(mount); err != nil {
		return err
	}
	for _, s := range shields {
		file := filepath.Join(dir, "shield", strings.ReplaceAll(s.name, "/", "."))
		if err := os.WriteFile(file, []byte(s.value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, "/proc/sys/"+s.name, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	etc := filepath.Join(dir, "etc")
	for file, text := range map[string]string{
		"hostname":    name + "\n",
		"hosts":       "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + name + "\n",
		"machine-id":  machineID(dir) + "\n",
		"resolv.conf": "",
	} {
		if file == "resolv.conf" {
			resolv, err := os.ReadFile(filepath.Join(dir, "resolv.conf"))
			if err != nil {
				return err
			}
			text = string(resolv)
		}
		if err := os.WriteFile(filepath.Join(etc, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+etc+",workdir="+filepath.Join(dir, "etc.work")); err != nil {
		return err
	}
	if err := os.MkdirAll("/etc/cni/net.d", 0o755); err != nil {
		return err
	}
	for _, bind := range []struct{ own, at string }{
		{"cni", "/etc/cni/net.d"},
		{"opt", "/opt"},
		{"log", "/var/log"},
		{"lib", "/var/lib"},
		{"run", "/run"},
	} {
		if err := mount(filepath.Join(dir, bind.own), bind.at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	// What pods mount is to be seen by the node and by other pods, where they
	// ask for it.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return setNetwork()
}

// mountSys gives the node a /sys of its own network, with the machine's control
// groups, and BPF objects of its own.
func mountSys(mount func(from, to, kind string, flags uintptr, data string) error) error {
	groups, err := unix.OpenTree(unix.AT_FDCWD, "/sys/fs/cgroup", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("keep the control groups: %w", err)
	}
	defer func() { _ = unix.Close(groups) }()
	if err := mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if err := unix.MoveMount(groups, "", unix.AT_FDCWD, "/sys/fs/cgroup", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the control groups: %w", err)
	}
	if err := mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil {
		return err
	}
	// Kernels without it have no folder for it.
	if _, err := os.Stat("/sys/kernel/tracing"); err == nil {
		return mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
	}
	return nil
}

// setNetwork lets the node forward, and use addresses of IPv6 without asking
// around first: all of them are given out by one hand.
func setNetwork() error {
	var errs []error
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		errs = append(errs, os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0))
	}
	errs = append(errs, os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0))
	return errors.Join(errs...)
}

// machineID is 32 hexadecimal digits that differ between nodes, as each has one.
func machineID(dir string) string {
	var sum [16]byte
	for i, b := range []byte(dir) {
		sum[i%16] = sum[i%16]*31 + b
	}
	return fmt.Sprintf("%x", sum)
}
