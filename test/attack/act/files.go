package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// cover puts an empty file system over a folder, for this process only.
func cover(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("cover %s: %w", dir, err)
	}
	return nil
}

// idle says that it is there, and is until its input ends.
func idle([]string) error {
	fmt.Println("here")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// read opens a file to read it, by the path as it is written. With a second
// argument "missing", there is none.
func read(args []string) error {
	fd, err := unix.Open(at(args, 0), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if at(args, 1) == "missing" && errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return unix.Close(fd)
}

// readOn reads a file each time that it is told to, by a line.
func readOn(args []string) error {
	fmt.Println("here")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := read(args); err != nil {
			return err
		}
		fmt.Println("read")
	}
	return lines.Err()
}

// write opens a file to write it, which it makes, and removes it.
func write(args []string) error {
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC
	if at(args, 1) == "truncate" {
		flags |= unix.O_TRUNC
	}
	fd, err := unix.Open(at(args, 0), flags, 0o600)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return errors.Join(unix.Close(fd), unix.Unlink(at(args, 0)))
}

// symlink makes a link to a path, and removes it.
func symlink(args []string) error {
	if err := unix.Symlink(at(args, 0), at(args, 1)); err != nil {
		return err
	}
	return unix.Unlink(at(args, 1))
}

// link makes a file and a second name of it, and removes both.
func link(args []string) error {
	file, err := os.OpenFile(at(args, 0), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(at(args, 0)) }()
	if err := file.Close(); err != nil {
		return err
	}
	if err := unix.Link(at(args, 0), at(args, 1)); err != nil {
		return err
	}
	return unix.Unlink(at(args, 1))
}

// spawn runs a program as a user, by number. "copy" before it is a folder where
// act is put under the program's name first, and removed.
func spawn(args []string) error {
	uid, err := strconv.ParseUint(at(args, 0), 10, 32)
	if err != nil {
		return err
	}
	args = args[1:]
	if at(args, 0) == "copy" {
		args = args[1:]
		if err := copySelf(at(args, 0)); err != nil {
			return err
		}
		defer func() { _ = os.Remove(at(args, 0)) }()
	}
	if len(args) == 0 {
		return errors.New("which program?")
	}
	var as *syscall.Credential
	if uid != 0 {
		as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	return start(args[0], args[1:], as)
}

// start runs a program to its end.
func start(path string, args []string, as *syscall.Credential) error {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: as}
	return cmd.Run()
}

func copySelf(to string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(to, self, 0o755)
}

// memory runs a program from memory, which no file system has; with a second
// argument "file", from its file.
func memory(args []string) error {
	path := at(args, 0)
	if at(args, 1) != "file" {
		fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		program, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, program); err != nil {
			return err
		}
		path = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	// With its own name and arguments, to be known by.
	return unix.Exec(path, append([]string{filepath.Base(at(args, 0))}, args[2:]...), nil)
}

// module asks the kernel to load a file that is no module.
func module(args []string) error {
	file, err := os.CreateTemp(at(args, 0), "module-")
	if err != nil {
		return err
	}
	defer func() { _, _ = file.Close(), os.Remove(file.Name()) }()
	if _, err := file.WriteString("no module"); err != nil {
		return err
	}
	if err := unix.FinitModule(int(file.Fd()), "", 0); err == nil {
		return errors.New("the kernel took it")
	}
	return nil // refused, as it must be
}

// release opens the file by which a hierarchy of cgroups is told what to run when
// a group is empty, and writes nothing to it. The hierarchy is one of its own.
func release(args []string) error {
	dir := at(args, 0)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	flags := unix.O_WRONLY
	if at(args, 1) == "read" {
		flags = unix.O_RDONLY
	}
	if err := unix.Mount("none", dir, "cgroup", 0, "none,name="+filepath.Base(dir)); err != nil {
		return fmt.Errorf("mount a hierarchy: %w", err)
	}
	defer func() { _ = unix.Unmount(dir, 0) }()
	fd, err := unix.Open(filepath.Join(dir, "release_agent"), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
