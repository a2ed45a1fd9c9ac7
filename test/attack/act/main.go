// Command act does one thing that a rule is about, and undoes it. Package attack
// builds it without C, so that it runs in containers that have nothing else, and
// starts it under the names that rules ask for.
//
//	act [-tmpfs DIR]... [-net] WHAT ARGUMENTS...
//
// -tmpfs puts an empty file system over a folder, in a mount namespace of its own:
// what is done below the folder is done to its path, and to no file of the
// machine. -net does what is done in a network namespace of its own, whose
// loopback device also has the address 192.0.2.1, of a network for documentation.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// deeds are what can be done.
var deeds = map[string]func(args []string) error{
	"idle":     idle,
	"read":     read,
	"read-on":  readOn,
	"write":    write,
	"symlink":  symlink,
	"link":     link,
	"spawn":    spawn,
	"memory":   memory,
	"module":   module,
	"release":  release,
	"trace":    trace,
	"socket":   socket,
	"redirect": redirect,
	"connect":  connect,
	"resolve":  resolve,
	"lure":     lure,
}

func main() {
	// Namespaces and tracers are a thread's.
	runtime.LockOSThread()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "act:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	for len(args) > 0 {
		switch args[0] {
		case "-tmpfs":
			if len(args) < 2 {
				return errors.New("-tmpfs wants a folder")
			}
			if err := cover(args[1]); err != nil {
				return err
			}
			args = args[2:]
			continue
		case "-net":
			if err := ownNetwork(); err != nil {
				return err
			}
			args = args[1:]
			continue
		}
		break
	}
	if len(args) == 0 {
		return errors.New("what?")
	}
	deed := deeds[args[0]]
	if deed == nil {
		return fmt.Errorf("nobody can %s", args[0])
	}
	if err := deed(args[1:]); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// at is an argument, "" where there is none.
func at(args []string, n int) string {
	if n >= len(args) {
		return ""
	}
	return args[n]
}
