package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A series is a kernel of Debian's that the tests run on.
type series struct {
	name string // what its releases begin with: 6.1
	// suites are where the newest kernel of the series is looked for, in this
	// order: backports bring it to the stable release, later it is the stable
	// one's own.
	suites []string
}

var allSeries = []series{
	{name: "6.1", suites: []string{"bookworm"}},
	{name: "6.12", suites: []string{"bookworm-backports", "trixie"}},
}

// A kernel is unpacked in the cache.
type kernel struct {
	series  string
	release string // as uname -r has it
	image   string // vmlinuz
	modules string // the folder below lib/modules
}

// findKernel gives the newest kernel of a series in the cache, fetching one if
// there is none or update is set.
func findKernel(ctx context.Context, cache string, s series, update bool) (kernel, error) {
	if !update {
		if k, ok := cachedKernel(cache, s); ok {
			return k, nil
		}
	}
	var errs []error
	for _, suite := range s.suites {
		err := fetchKernel(ctx, cache, s, suite)
		if err == nil {
			if k, ok := cachedKernel(cache, s); ok {
				return k, nil
			}
			err = errors.New("the package has no kernel")
		}
		errs = append(errs, fmt.Errorf("kernel %s from %s: %w", s.name, suite, err))
	}
	return kernel{}, errors.Join(errs...)
}

// cachedKernel looks below cache/kernels/SERIES/PACKAGE_VERSION; the last
// fetched wins.
func cachedKernel(cache string, s series) (kernel, bool) {
	images, err := filepath.Glob(filepath.Join(cache, "kernels", s.name, "*", "boot", "vmlinuz-*"))
	if err != nil {
		return kernel{}, false
	}
	var newest kernel
	var newestTime int64
	for _, image := range images {
		info, err := os.Stat(image)
		if err != nil {
			continue
		}
		root := filepath.Dir(filepath.Dir(image))
		release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		modules := filepath.Join(root, "lib", "modules", release)
		if _, err := os.Stat(modules); err != nil {
			modules = filepath.Join(root, "usr", "lib", "modules", release)
		}
		if t := info.ModTime().UnixNano(); newest.image == "" || t > newestTime {
			newest = kernel{series: s.name, release: release, image: image, modules: modules}
			newestTime = t
		}
	}
	return newest, newest.image != ""
}

// fetchKernel downloads Debian's cloud kernel of a suite. apt verifies the
// signatures with Debian's archive keys, but works on lists of its own: the
// machine's sources and lists stay as they are.
func fetchKernel(ctx context.Context, cache string, s series, suite string) error {
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	apt, err := newApt(cache, mirror, suite)
	if err != nil {
		return err
	}
	if _, err := apt.run(ctx, "apt-get", "-q", "update"); err != nil {
		return err
	}
	name, err := apt.kernelPackage(ctx)
	if err != nil {
		return err
	}
	release := strings.TrimPrefix(name, "linux-image-")
	if !strings.HasPrefix(release, s.name+".") {
		return fmt.Errorf("the suite has %s", name)
	}
	if _, err := apt.run(ctx, "apt-get", "-q", "download", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(apt.dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("%d packages of %s in %s", len(debs), name, apt.dir)
	}
	// NAME_VERSION_ARCH.deb; unpacked beside and renamed, so that the cache
	// never holds half a kernel.
	version := strings.Split(filepath.Base(debs[0]), "_")[1]
	root := filepath.Join(cache, "kernels", s.name, version)
	temp := root + ".new"
	if err := errors.Join(os.RemoveAll(temp), os.RemoveAll(root), os.MkdirAll(temp, 0o755)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], temp).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", debs[0], err, bytes.TrimSpace(out))
	}
	// The package's times are Debian's; the cache goes by when it was fetched.
	images, err := filepath.Glob(filepath.Join(temp, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("%d kernels in %s", len(images), debs[0])
	}
	if err := os.Chtimes(images[0], time.Now(), time.Now()); err != nil {
		return err
	}
	return errors.Join(os.Rename(temp, root), os.Remove(debs[0]))
}

// debianMirror is where this machine gets Debian from.
func debianMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)").Output()
	if err != nil {
		return "", fmt.Errorf("list apt's sources: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		uri, release, ok := strings.Cut(strings.TrimSpace(line), " ")
		codename, _, _ := strings.Cut(release, "-")
		switch codename {
		case "bookworm", "trixie", "forky", "sid", "stable", "testing":
			if ok && !strings.Contains(release, "security") {
				return uri, nil
			}
		}
	}
	return "", errors.New("apt has no source of Debian's archive; a kernel can be put into the cache by hand (see test/vm/README.md)")
}

// apt runs apt's tools on private lists.
type apt struct {
	dir     string
	options []string
}

func newApt(cache, mirror, suite string) (*apt, error) {
	dir := filepath.Join(cache, "apt", suite)
	for _, sub := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	source := fmt.Sprintf("deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		return nil, err
	}
	a := &apt{dir: dir}
	for key, value := range map[string]string{
		"Dir::Etc::sourcelist":    filepath.Join(dir, "sources.list"),
		"Dir::Etc::sourceparts":   "-",
		"Dir::Etc::preferences":   "-",
		"Dir::State::lists":       filepath.Join(dir, "lists"),
		"Dir::State::status":      "/dev/null",
		"Dir::Cache::archives":    filepath.Join(dir, "archives"),
		"Dir::Cache::pkgcache":    "",
		"Dir::Cache::srcpkgcache": "",
		"APT::Sandbox::User":      "root",
		"APT::Architecture":       "amd64",
	} {
		a.options = append(a.options, "-o", key+"="+value)
	}
	return a, nil
}

func (a *apt) run(ctx context.Context, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, append(a.options, args...)...)
	cmd.Dir = a.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", tool, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// kernelPackage is what the suite's meta package stands for.
func (a *apt) kernelPackage(ctx context.Context) (string, error) {
	out, err := a.run(ctx, "apt-cache", "depends", "linux-image-cloud-amd64")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("linux-image-cloud-amd64 names no kernel: %q", out)
}
