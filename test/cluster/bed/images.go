package bed

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// imageRecipe changes when images that are kept must be made again.
const imageRecipe = 1

func architecture() string { return runtime.GOARCH }

// buildImages makes the images that do not change with Warren's tree.
func (t Tools) buildImages(ctx context.Context, bin, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	shell, err := busybox(ctx)
	if err != nil {
		return err
	}
	database, err := redis(ctx)
	if err != nil {
		return fmt.Errorf("image of redis: %w", err)
	}
	one := func(name string) (layer, error) {
		files := newTree()
		files.users()
		files.file("usr/bin/"+name, filepath.Join(bin, name), 0o755)
		return files.layer()
	}
	pause, err := one("pause")
	if err != nil {
		return err
	}
	coredns, err := one("coredns")
	if err != nil {
		return err
	}
	return writeImageFile(filepath.Join(dir, filepath.Base(t.baseImages())),
		image{name: "localhost/pause:1", layers: []layer{pause}, entrypoint: []string{"/usr/bin/pause"}, user: "65532:65532"},
		image{name: "localhost/busybox:1", layers: []layer{shell}, entrypoint: []string{}},
		image{name: "localhost/coredns:1", layers: []layer{coredns}, entrypoint: []string{"/usr/bin/coredns"}},
		image{name: "localhost/redis:1", layers: []layer{shell, database}, entrypoint: []string{"/usr/bin/redis-server"}, user: "65532:65532"})
}

// busybox makes the layer of a shell and its tools from Debian's static one.
func busybox(ctx context.Context) (layer, error) {
	const program = "/bin/busybox"
	out, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return layer{}, fmt.Errorf("%s (package busybox-static): %w", program, err)
	}
	files := newTree()
	files.users()
	files.file("bin/busybox", program, 0o755)
	for name := range strings.FieldsSeq(string(out)) {
		if name != "busybox" {
			files.link("bin/"+name, "busybox")
		}
	}
	return files.layer()
}

// redis makes the layer of a database from Debian's package, with the libraries
// that it is linked with. The package is taken apart, not installed: that would
// start a server here.
func redis(ctx context.Context) (layer, error) {
	dir, err := os.MkdirTemp("", "warren-redis-")
	if err != nil {
		return layer{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.MkdirAll(filepath.Join(dir, "archives", "partial"), 0o755); err != nil {
		return layer{}, err
	}
	// Whatever it depends on and this machine has not comes with it.
	fetch := []string{"apt-get", "-q", "-y", "--no-install-recommends", "--download-only", "-o", "APT::Sandbox::User=root",
		"-o", "Dir::Cache::archives=" + filepath.Join(dir, "archives"), "install", "redis-server"}
	if out, err := exec.CommandContext(ctx, fetch[0], fetch[1:]...).CombinedOutput(); err != nil {
		return layer{}, fmt.Errorf("%s: %w\n%s", strings.Join(fetch, " "), err, tail(string(out), 10))
	}
	packages, err := filepath.Glob(filepath.Join(dir, "archives", "*.deb"))
	if err != nil {
		return layer{}, err
	}
	unpacked := filepath.Join(dir, "root")
	for _, p := range packages {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", p, unpacked).CombinedOutput(); err != nil {
			return layer{}, fmt.Errorf("unpack %s: %w\n%s", filepath.Base(p), err, out)
		}
	}
	// The program's name is a link to another of its names.
	program := filepath.Join(unpacked, "usr", "bin", "redis-server")
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real
	}
	return linked(program, "usr/bin/redis-server", unpacked)
}

// linked makes the layer of a program with its loader and libraries, which are
// looked for below a folder first and then on this machine.
func linked(program, name, below string) (layer, error) {
	multi, err := filepath.Glob("/usr/lib/*-linux-gnu*")
	if err != nil {
		return layer{}, err
	}
	var folders []string
	for _, root := range []string{below, "/"} {
		for _, dir := range slices.Concat(multi, []string{"/usr/lib", "/lib64", "/lib"}) {
			folders = append(folders, filepath.Join(root, dir), filepath.Join(root, strings.TrimPrefix(dir, "/usr")))
		}
	}
	found, err := libraries(program, folders)
	if err != nil {
		return layer{}, err
	}
	loader, err := interpreter(program)
	if err != nil {
		return layer{}, err
	}
	files := newTree()
	files.users()
	files.file(name, program, 0o755)
	files.file(strings.TrimPrefix(loader, "/"), loader, 0o755)
	for library, path := range found {
		if library != filepath.Base(loader) {
			// Where every loader looks.
			files.file("usr/lib/"+library, path, 0o755)
		}
	}
	return files.layer()
}

// interpreter is the path of the loader that a program asks for.
func interpreter(program string) (string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	section := file.Section(".interp")
	if section == nil {
		return "", errors.New(program + " asks for no loader")
	}
	text, err := io.ReadAll(section.Open())
	return strings.TrimRight(string(text), "\x00"), err
}

// The images that are made out of the tree: Warren alone, and the shop with a
// shell, which is also what tests ask with.
const (
	WarrenImage = "localhost/warren:dev"
	ShopImage   = "localhost/shop:dev"
)

// buildShop builds the shop's image out of the tree as it is now.
func (c *Cluster) buildShop(ctx context.Context) error {
	program, err := c.program(ctx, "shop", "./test/cluster/shop")
	if err != nil {
		return err
	}
	shell, err := busybox(ctx)
	if err != nil {
		return err
	}
	files := newTree()
	files.file("usr/bin/shop", program, 0o755)
	own, err := files.layer()
	if err != nil {
		return err
	}
	return writeImageFile(c.path("images", "shop.tar"),
		image{name: ShopImage, layers: []layer{shell, own}, entrypoint: []string{"/usr/bin/shop"}, user: "65532:65532"})
}

// buildWarren builds Warren's image out of the tree as it is now, and puts the
// program where kubectl finds it as its plugin.
func (c *Cluster) buildWarren(ctx context.Context) error {
	program, err := c.program(ctx, "warren", ".")
	if err != nil {
		return err
	}
	if err := os.Symlink("warren", c.path("bin", "kubectl-warren")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	files := newTree()
	files.users()
	files.file("warren", program, 0o755)
	files.link("kubectl-warren", "warren")
	own, err := files.layer()
	if err != nil {
		return err
	}
	return writeImageFile(c.path("images", "warren.tar"),
		image{name: WarrenImage, layers: []layer{own}, entrypoint: []string{"/warren"}})
}

// program builds one of the tree's programs.
func (c *Cluster) program(ctx context.Context, name, pkg string) (string, error) {
	for _, dir := range []string{"bin", "images"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return "", err
		}
	}
	path := c.path("bin", name)
	return path, c.tools.compile(ctx, ".", false, "build", "-trimpath", "-o", path, pkg)
}

// baseImages is the archive of the images that every cluster of this recipe has.
func (t Tools) baseImages() string { return filepath.Join(t.dir, "images", "base.tar") }

// ownImages are the archives of the images that this cluster was given besides.
func (c *Cluster) ownImages() ([]string, error) { return filepath.Glob(c.path("images", "*.tar")) }

// importImages gives a node images in archives.
func (c *Cluster) importImages(ctx context.Context, node string, archives []string) error {
	for _, archive := range archives {
		if _, err := c.run(ctx, node, "", "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "import", "--local", archive); err != nil {
			return fmt.Errorf("import images: %w", err)
		}
	}
	return nil
}

// Load gives all nodes, and those that will be added, the images of an archive
// as `docker save` writes it.
func (c *Cluster) Load(ctx context.Context, archive string) error {
	text, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	own := c.path("images", filepath.Base(archive))
	if filepath.Ext(own) != ".tar" {
		own += ".tar"
	}
	if err := writeFile(own, text); err != nil {
		return err
	}
	return c.loadOwn(ctx, own)
}

func (c *Cluster) loadOwn(ctx context.Context, archives ...string) error {
	return each(ctx, c.RunningNodes(), func(ctx context.Context, node string) error { return c.importImages(ctx, node, archives) })
}

// LoadWarren builds Warren out of the tree as it is now, and gives it to all
// nodes. Pods that run keep what they run.
func (c *Cluster) LoadWarren(ctx context.Context) error {
	if err := c.buildWarren(ctx); err != nil {
		return err
	}
	return c.loadOwn(ctx, c.path("images", "warren.tar"))
}
