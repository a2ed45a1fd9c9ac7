// Package attack does what Falco's stable rules are about: one attack for each
// rule of falco_rules.yaml, and for each attack the same in a harmless form, which
// the rule has to leave alone.
//
// Attacks are real: files are opened, programs run, containers entered. They need
// root, and touch nothing of the machine: what they write is in a scratch folder
// or in file systems, networks and containers of their own, and is removed again;
// files of secrets are opened to be read, and not read.
//
// A [Lab] is where attacks take place. Several attacks may run at once in one lab.
package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// An Attack is what one rule is about.
type Attack struct {
	// Rule is the name of the rule.
	Rule string
	// Evidence is what the alert's output has to hold; %w stands for the word by
	// which this run of the attack is known.
	Evidence []string
	// Do does it. The word comes with whatever is done, so that an alert about
	// it can be told from others.
	Do func(ctx context.Context, l *Lab, word string) error
	// Spare does the same but for what makes it an attack.
	Spare func(ctx context.Context, l *Lab, word string) error
	// Probe says why a kernel has not what it takes; nil where every kernel has.
	Probe func() error
}

// Possible says why an attack cannot be made on this kernel.
func (a Attack) Possible() error {
	if a.Probe == nil {
		return nil
	}
	return a.Probe()
}

// PossibleAttacks are those that can be made on this kernel.
func PossibleAttacks() []Attack {
	return slices.DeleteFunc(Attacks(), func(a Attack) bool { return a.Possible() != nil })
}

// modules is whether the kernel can be asked to load any.
func modules() error {
	if err := unix.FinitModule(-1, "", 0); errors.Is(err, unix.ENOSYS) {
		return errors.New("this kernel has no modules")
	}
	return nil
}

// deed is something to be done in a lab.
type deed = func(ctx context.Context, l *Lab, word string) error

// act does something as a program of some name, on the machine itself. %w stands
// for the word, %d for the scratch folder.
func act(name string, args ...string) deed {
	return func(ctx context.Context, l *Lab, word string) error {
		program, err := l.program(l.fill(name, word))
		if err != nil {
			return err
		}
		return l.run(ctx, word, program, args...)
	}
}

// program runs a program of the machine.
func program(name string, args ...string) deed {
	return func(ctx context.Context, l *Lab, word string) error { return l.run(ctx, word, name, args...) }
}

// within runs a program in a container.
func within(c container, args ...string) deed {
	return func(ctx context.Context, l *Lab, word string) error { return l.exec(ctx, word, c, nil, args...) }
}

// atTerminal is the same with a terminal.
func atTerminal(c container, args ...string) deed {
	return func(ctx context.Context, l *Lab, word string) error {
		return l.exec(ctx, word, c, []string{"--tty"}, args...)
	}
}

// withFile makes a file in the scratch folder first, which is named by the word.
func withFile(do deed) deed {
	return func(ctx context.Context, l *Lab, word string) error {
		if err := l.file(word); err != nil {
			return fmt.Errorf("make a file: %w", err)
		}
		defer l.remove(word)
		return do(ctx, l, word)
	}
}

// user is a number of one that nobody should be at a terminal as: daemon.
const user = "1"

// Attacks are all there are, in the order of the rule file.
func Attacks() []Attack {
	return []Attack{
		{
			Rule:     "Directory traversal monitored file read",
			Evidence: []string{"file=/etc/passwd", "fileraw=/tmp/../../etc/passwd", "command=%w"},
			Do:       act("%w", "read", "/tmp/../../etc/passwd"),
			Spare:    act("%w", "read", "/tmp/../etc/passwd"),
		},
		{
			Rule:     "Read sensitive file trusted after startup",
			Evidence: []string{"file=/etc/shadow", "process=httpd", "command=httpd read-on /etc/shadow"},
			Do:       func(ctx context.Context, l *Lab, _ string) error { return l.server.read(ctx) },
			Spare:    act("httpd", "read", "/etc/shadow", "", "%w"),
		},
		{
			Rule:     "Read sensitive file untrusted",
			Evidence: []string{"file=/etc/shadow", "process=%w", "proc_exepath=%d/%w"},
			Do:       act("%w", "read", "/etc/shadow"),
			Spare:    act("passwd", "read", "/etc/shadow", "", "%w"),
		},
		{
			Rule:     "Run shell untrusted",
			Evidence: []string{"parent_exepath=%d/httpd", "parent=httpd", "command=sh -c : %w"},
			Do:       act("httpd", "spawn", "0", "/bin/sh", "-c", ": %w"),
			Spare:    act("%w", "spawn", "0", "/bin/sh", "-c", ": %w"),
		},
		{
			Rule:     "System user interactive",
			Evidence: []string{"user=daemon user_uid=1", "parent=sshd", "command=true %w"},
			Do:       act("sshd", "spawn", user, "/bin/true", "%w"),
			Spare:    act("sshd", "spawn", "0", "/bin/true", "%w"),
		},
		{
			Rule:     "Terminal shell in container",
			Evidence: []string{"process=sh", "command=sh -c : %w"},
			Do:       atTerminal(plain, "/bin/sh", "-c", ": %w"),
			Spare:    within(plain, "/bin/sh", "-c", ": %w"),
		},
		{
			Rule:     "Contact K8S API Server From Container",
			Evidence: []string{"127.83.0.10:6443", "rport=6443", "fd_proto=tcp", "%w"},
			Do:       within(plain, "/bin/act", "resolve", "kubernetes.default.svc.cluster.local", "127.83.0.10", "%w"),
			Spare:    within(plain, "/bin/act", "resolve", "www.example.test", "127.83.0.11", "%w"),
		},
		{
			Rule:     "Netcat Remote Code Execution in Container",
			Evidence: []string{"process=nc", "-e /bin/sh -c : %w"},
			Do:       within(plain, "/bin/act", "lure", "127.0.0.1", "/bin/nc", "-e", "/bin/sh", "-c", ": %w"),
			Spare:    within(plain, "/bin/act", "lure", "127.0.0.1", "/bin/nc", "-w", "60"),
		},
		{
			Rule:     "Search Private Keys or Passwords",
			Evidence: []string{"process=grep", "BEGIN RSA PRIVATE", "%d/%w"},
			Do:       withFile(program("/bin/grep", "-r", "BEGIN RSA PRIVATE\\|%w", "%d/%w")),
			Spare:    withFile(program("/bin/grep", "-r", "BEGIN CERTIFICATE\\|%w", "%d/%w")),
		},
		{
			Rule:     "Clear Log Activities",
			Evidence: []string{"file=/var/log/%w", "evt_type=openat"},
			Do:       act("act", "-tmpfs", "/var/log", "write", "/var/log/%w", "truncate"),
			Spare:    act("act", "-tmpfs", "/var/log", "write", "/var/log/%w"),
		},
		{
			Rule:     "Remove Bulk Data from Disk",
			Evidence: []string{"process=shred", "%d/%w"},
			Do:       withFile(program("/usr/bin/shred", "-u", "%d/%w")),
			Spare:    withFile(program("/bin/rm", "%d/%w")),
		},
		{
			Rule:     "Create Symlink Over Sensitive Files",
			Evidence: []string{"target=/etc/shadow", "linkpath=%d/%w"},
			Do:       act("act", "symlink", "/etc/shadow", "%d/%w"),
			Spare:    act("act", "symlink", "/etc/hostname", "%d/%w"),
		},
		{
			Rule:     "Create Hardlink Over Sensitive Files",
			Evidence: []string{"target=/etc/shadow", "linkpath=/etc/%w"},
			Do:       act("act", "-tmpfs", "/etc", "link", "/etc/shadow", "/etc/%w"),
			Spare:    act("act", "-tmpfs", "/etc", "link", "/etc/hostname", "/etc/%w"),
		},
		{
			Rule:     "Packet socket created in container",
			Evidence: []string{"AF_PACKET", "evt_type=socket", "socket packet %w"},
			Do:       within(privileged, "/bin/act", "socket", "packet", "%w"),
			Spare:    within(privileged, "/bin/act", "socket", "stream", "%w"),
		},
		{
			Rule:     "Redirect STDOUT/STDIN to Network Connection in Container",
			Evidence: []string{"127.0.0.1:", "fd_type=ipv4", "redirect input %w"},
			Do:       within(plain, "/bin/act", "redirect", "input", "%w"),
			Spare:    within(plain, "/bin/act", "redirect", "aside", "%w"),
		},
		{
			Rule:     "Linux Kernel Module Injection Detected",
			Evidence: []string{"module=module /tmp %w", "evt_type=finit_module"},
			Do:       within(privileged, "/bin/act", "module", "/tmp", "%w"),
			Spare:    within(plain, "/bin/act", "module", "/tmp", "%w"),
			Probe:    modules,
		},
		{
			Rule:     "Debugfs Launched in Privileged Container",
			Evidence: []string{"process=debugfs", "%w"},
			Do:       within(privileged, "/bin/debugfs", "socket", "stream", "%w"),
			Spare:    within(plain, "/bin/debugfs", "socket", "stream", "%w"),
		},
		{
			Rule:     "Detect release_agent File Container Escapes",
			Evidence: []string{"%w/release_agent", "CAP_SYS_ADMIN"},
			Do:       within(privileged, "/bin/act", "release", "/tmp/%w", "write"),
			Spare:    within(privileged, "/bin/act", "release", "/tmp/%w", "read"),
		},
		{
			Rule:     "PTRACE attached to process",
			Evidence: []string{"evt_type=ptrace", "trace attach %w"},
			Do:       act("act", "trace", "attach", "%w"),
			Spare:    act("act", "trace", "nobody", "%w"),
		},
		{
			Rule:     "PTRACE anti-debug attempt",
			Evidence: []string{"evt_type=ptrace", "proc_pcmdline=act trace traceme %w"},
			Do:       act("act", "trace", "traceme", "%w"),
			Spare:    act("act", "trace", "attach", "%w"),
		},
		{
			Rule:     "Find AWS Credentials",
			Evidence: []string{"process=grep", "aws_access_key_id", "%d/%w"},
			Do:       withFile(program("/bin/grep", "-r", "aws_access_key_id\\|%w", "%d/%w")),
			Spare:    withFile(program("/bin/grep", "-r", "aws_region\\|%w", "%d/%w")),
		},
		{
			Rule:     "Execution from /dev/shm",
			Evidence: []string{"proc_exepath=/dev/shm/%w"},
			Do:       act("act", "-tmpfs", "/dev/shm", "spawn", "0", "copy", "/dev/shm/%w", "socket", "stream"),
			Spare:    act("act", "-tmpfs", "/mnt", "spawn", "0", "copy", "/mnt/%w", "socket", "stream"),
		},
		{
			Rule:     "Drop and execute new binary in container",
			Evidence: []string{"proc_exe=/tmp/%w", "proc_exepath=/tmp/%w"},
			Do:       within(plain, "/bin/act", "spawn", "0", "copy", "/tmp/%w", "socket", "stream"),
			Spare:    within(plain, "/bin/act", "spawn", "0", "/bin/act", "socket", "stream", "%w"),
		},
		{
			Rule:     "Disallowed SSH Connection Non Standard Port",
			Evidence: []string{"192.0.2.1:443", "rport=443", "process=ssh", "%w"},
			Do:       act("ssh", "-net", "connect", "192.0.2.1:443", "%w"),
			Spare:    act("ssh", "-net", "connect", "192.0.2.1:22", "%w"),
		},
		{
			Rule:     "Fileless execution via memfd_create",
			Evidence: []string{"proc_exepath=memfd:program", "%w"},
			Do:       act("act", "memory", "%d/act", "memory", "socket", "stream", "%w"),
			Spare:    act("act", "memory", "%d/act", "file", "socket", "stream", "%w"),
		},
	}
}
