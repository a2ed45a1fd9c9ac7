package bed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KubernetesVersion is what build/hyper/go.mod requires.
const KubernetesVersion = "v1.36.3"

// recipe is how the programs of a cluster are built: each out of a module of
// its own below test/cluster/build, whose go.mod and go.sum say what exactly,
// from the Go proxy alone.
var recipe = []struct {
	module   string
	packages []string // "." is the module's own program
	tags     string
	ldflags  string
	cgo      bool   // linked statically with C libraries
	dir      string // below bin
	links    []string
}{
	{module: "hyper", packages: []string{"."}, ldflags: kubernetesFlags(),
		links: []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}},
	{module: "etcd", packages: []string{"go.etcd.io/etcd/server/v3"}},
	{module: "containerd", tags: "no_btrfs no_devmapper no_zfs urfave_cli_no_docs",
		ldflags: "-X github.com/containerd/containerd/v2/version.Version=v2.3.7",
		packages: []string{
			"github.com/containerd/containerd/v2/cmd/containerd",
			"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			"github.com/containerd/containerd/v2/cmd/ctr"}},
	{module: "runc", tags: "seccomp urfave_cli_no_docs netgo osusergo", ldflags: "-X main.version=1.5.2 -linkmode external -extldflags -static", cgo: true,
		packages: []string{"github.com/opencontainers/runc"}},
	{module: "plugins", dir: "cni", packages: []string{
		"github.com/containernetworking/plugins/plugins/main/bridge",
		"github.com/containernetworking/plugins/plugins/main/loopback",
		"github.com/containernetworking/plugins/plugins/main/ptp",
		"github.com/containernetworking/plugins/plugins/ipam/host-local",
		"github.com/containernetworking/plugins/plugins/meta/portmap",
		"github.com/containernetworking/plugins/plugins/meta/firewall",
		"github.com/containernetworking/plugins/plugins/meta/bandwidth"}},
	{module: "coredns", packages: []string{"."}},
	{module: "kwok", packages: []string{"sigs.k8s.io/kwok/cmd/kwok"}},
	{module: "helm", packages: []string{"helm.sh/helm/v4/cmd/helm"}},
	{module: "hubble", ldflags: "-X github.com/cilium/cilium/hubble/pkg.Version=v1.20.2", packages: []string{"github.com/cilium/cilium/hubble", "github.com/cilium/cilium/hubble-relay"}},
}

// kubernetesFlags link the version in: without it the components say that they
// are v0.0.0, and clients of a real version refuse them.
func kubernetesFlags() string {
	var flags []string
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range []string{
			"gitVersion=" + KubernetesVersion, "gitMajor=1", "gitMinor=36", "gitTreeState=clean",
			"gitCommit=0000000000000000000000000000000000000000", "buildDate=2026-01-01T00:00:00Z",
		} {
			flags = append(flags, "-X "+p+"."+v)
		}
	}
	return strings.Join(flags, " ")
}

// Tools are the programs that clusters are made of, the sources of this tree,
// and the machine's control groups.
type Tools struct {
	root    string // of Warren's tree
	cache   string
	dir     string // of this recipe's programs and images
	cgroups cgroups
}

// FindTools looks for the tree that the current folder or this program is in.
// The programs need not have been built.
func FindTools() (Tools, error) {
	root, err := findRoot()
	if err != nil {
		return Tools{}, err
	}
	t := Tools{root: root}
	if t.cgroups, err = findCgroups(); err != nil {
		return t, err
	}
	base := os.Getenv("WARREN_CACHE")
	if base == "" {
		if base, err = os.UserCacheDir(); err != nil {
			return t, fmt.Errorf("nowhere to keep what is built; set WARREN_CACHE: %w", err)
		}
		base = filepath.Join(base, "warren")
	}
	if t.cache, err = filepath.Abs(filepath.Join(base, "cluster")); err != nil {
		return t, err
	}
	for _, hidden := range []string{"/run/", "/var/lib/", "/var/log/", "/opt/", "/etc/", "/sys/", "/proc/"} {
		if strings.HasPrefix(t.cache, hidden) {
			return t, fmt.Errorf("WARREN_CACHE is below %s, of which every node has its own: put it elsewhere", hidden)
		}
	}
	key, err := t.key()
	if err != nil {
		return t, err
	}
	t.dir = filepath.Join(t.cache, key)
	return t, nil
}

func findRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	self, _ := os.Executable()
	for _, dir := range []string{start, filepath.Dir(self)} {
		for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "test", "cluster", "build", "hyper", "go.mod")); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("neither %s nor %s is in Warren's tree", start, self)
}

// key changes with whatever could change the programs.
func (t Tools) key() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%v %v", recipe, imageRecipe)
	for _, r := range recipe {
		dir := filepath.Join(t.root, "test", "cluster", "build", r.module)
		for _, name := range []string{"go.mod", "go.sum", "main.go"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
			fmt.Fprintf(h, "%s/%s %d\n%s", r.module, name, len(text), text)
		}
	}
	pause, err := os.ReadFile(filepath.Join(t.root, "test", "cluster", "pause", "main.go"))
	if err != nil {
		return "", err
	}
	_, _ = h.Write(pause)
	return fmt.Sprintf("%.16x", h.Sum(nil)), nil
}

// Path is where a program is, or will be once it is built; of "" the folder.
func (t Tools) Path(name string) string { return filepath.Join(t.dir, "bin", name) }

// Built tells whether all programs and images are there.
func (t Tools) Built() bool {
	_, err := os.Stat(t.dir)
	return err == nil
}

// Dir is the folder of all that Build makes.
func (t Tools) Dir() string { return t.dir }

// Build builds what is missing: all or nothing. The first time takes minutes,
// as it fetches and compiles some three million lines. Several may build at
// once: the others wait for the first.
func (t Tools) Build(ctx context.Context, say func(string)) error {
	if t.Built() {
		return nil
	}
	if err := os.MkdirAll(t.cache, 0o755); err != nil {
		return err
	}
	lock, err := os.Create(filepath.Join(t.cache, "lock"))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if t.Built() {
		return nil
	}
	temporary, err := os.MkdirTemp(t.cache, ".build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	say("building Kubernetes and its companions into " + t.dir + ": some ten minutes, once")
	bin := filepath.Join(temporary, "bin")
	for _, r := range recipe {
		start := time.Now()
		out := filepath.Join(bin, r.dir)
		if err := os.MkdirAll(out, 0o755); err != nil {
			return err
		}
		if r.packages[0] == "." {
			out = filepath.Join(out, r.module)
		} else {
			out += "/"
		}
		args := []string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", r.tags, "-ldflags", strings.TrimSpace("-s -w " + r.ldflags), "-o", out}
		err := t.compile(ctx, filepath.Join("test", "cluster", "build", r.module), r.cgo, append(args, r.packages...)...)
		if err != nil {
			return err
		}
		if r.module == "etcd" {
			// The program is named after the last element of v3's path.
			if err := os.Rename(filepath.Join(bin, "server"), filepath.Join(bin, "etcd")); err != nil {
				return err
			}
		}
		for _, link := range r.links {
			if err := os.Symlink(r.module, filepath.Join(bin, link)); err != nil {
				return err
			}
		}
		say(fmt.Sprintf("built %s in %s", r.module, time.Since(start).Round(time.Second)))
	}
	if err := t.compile(ctx, ".", false, "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(bin, "pause"), "./test/cluster/pause"); err != nil {
		return err
	}
	if err := t.buildImages(ctx, bin, filepath.Join(temporary, "images")); err != nil {
		return err
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	return os.Rename(temporary, t.dir)
}

// compile runs the go command in a folder of the tree.
func (t Tools) compile(ctx context.Context, dir string, cgo bool, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(t.root, dir)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOTOOLCHAIN=local", "GOWORK=off", "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", dir, err, tail(string(out), 20))
	}
	return nil
}
