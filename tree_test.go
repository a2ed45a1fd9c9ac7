package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// layers says what may import what: a package imports packages of lower layers
// only, so nothing below can come to need what is above. ARCHITECTURE.md has
// the drawing. A pattern of path.Match stands for several packages; the first
// match counts.
var layers = []struct {
	layer    int
	packages []string
	reason   string
}{
	{0, []string{"internal/wholefile"}, "files that are replaced in one step, for whoever keeps any"},
	{0, []string{"internal/netdump"}, "lists of the kernel's that are read again where they changed meanwhile"},
	{0, []string{"cluster"}, "the nouns of a cluster are plain values, and no API server's"},
	{1, []string{"event"}, "an event is a plain value that everything else talks about"},
	{2, []string{"interest"}, "what a consumer wants, in words that the kernel can decide"},
	{3, []string{"filter", "bpf", "l7", "netpol", "reconcile"}, "pure meaning of events and policies, the way into the kernel, protocols: none needs another"},
	{4, []string{"rule"}, "rules are conditions and what to say: events in, matches out"},
	{4, []string{"prefilter"}, "what is wanted, in the kernel: sensors ask it"},
	{4, []string{"sensor", "identity", "kube"}, "what a sensor is, who is who, and the cluster's API server"},
	{4, []string{"store"}, "the history knows events and what is asked of them, not who tells and who asks"},
	{4, []string{"settings"}, "what people write about agents and hubs"},
	{4, []string{"audit"}, "what API servers tell becomes events, of whoever wants them"},
	{4, []string{"archive"}, "copies files that it is told of, and knows neither events nor who sealed them"},
	{5, []string{"alert"}, "rules at work know a stream of events, not whose"},
	{6, []string{"alert/channel"}, "where alerts go: a channel knows an alert, not who made it"},
	{5, []string{"pipeline", "api"}, "the spine and the answers know interfaces of sensors, not sensors"},
	{5, []string{"datapath"}, "what packets meet knows the nouns of a cluster and policy, and nobody who asks"},
	{6, []string{"sensor/all"}, "the one list of sensors"},
	{5, []string{"sensor/*"}, "sensors know the road and events, not each other, and nobody who listens"},
	{6, []string{"cni"}, "what a container runtime calls, and what an agent writes for it"},
	{7, []string{"alert/reaction"}, "what rules have done: it knows an alert, and whom to call, not whose pods"},
	{8, []string{"agent", "hub", "cli"}, "wiring of a node and of a cluster, and what a person calls"},
	{9, []string{"."}, "main picks agent, hub or command"},
}

// forbidden are imports that the layers would allow.
var forbidden = []struct {
	from, to string
	reason   string
}{
	{"bpf", "*", "the way into the kernel knows no event: it carries records"},
	{"api", "bpf", "answers are given from values that the agent hands in"},
	{"api", "sensor", "who listens does not know who speaks"},
	{"api", "identity", "answers are given from values that the agent hands in"},
	{"api", "kube", "answers are given from values that the agent hands in"},
	{"cli", "agent", "a command reaches the agent through api.Client; main starts it"},
	{"cli", "hub", "a command reaches the hub through api.Client; main starts it"},
	{"cli", "kube", "main hands in the way to the cluster"},
	{"hub", "bpf", "a hub has no kernel"},
	{"hub", "sensor", "a hub has no kernel"},
	{"hub", "identity", "a hub asks agents who is who"},
	{"hub", "pipeline", "a hub's events come from agents"},
	{"kube", "event", "the cluster's state travels as values of package cluster"},
	{"cli", "bpf", "a command reaches the kernel through the agent"},
	{"cli", "sensor", "a command reaches the kernel through the agent"},
	{"cli", "sensor/*", "a command reaches the kernel through the agent"},
	{"cli", "identity", "a command asks the agent"},
	{"cli", "pipeline", "a command asks the agent"},
	{"netpol", "event", "policies are about packets, not about events"},
	{"cni", "agent", "the plugin reaches the agent through api.Client"},
	{"cni", "cli", "the plugin is called by a runtime, not by a person"},
	{"identity", "bpf", "tables of who is who are filled by events, and tested without a kernel"},
}

// pure packages compute: the same input gives the same output, on any machine.
var pure = []string{"filter", "interest", "l7", "netpol", "rule"}

// impure is what computing needs not.
var impure = []string{"os", "os/*", "net", "net/http", "net/rpc", "io/ioutil", "syscall", "golang.org/x/sys/*", "log", "math/rand", "math/rand/*", "crypto/rand"}

// clock are the functions of package time that depend on when they are called.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}

// thirdParties says who may import which module of others, so that each stays
// where it can be replaced. A new one gets its line here.
var thirdParties = []struct {
	path     string
	packages []string
	reason   string
}{
	{"github.com/cilium/ebpf", []string{"bpf", "prefilter", "sensor/*", "datapath"}, "only these load programs"},
	{"github.com/vishvananda/netlink", []string{"datapath", "cni", "internal/netdump"}, "devices, routes and neighbours"},
	{"github.com/vishvananda/netns", []string{"datapath", "cni", "internal/netdump"}, "whose devices"},
	{"github.com/google/nftables", []string{"datapath", "cni"}, "masquerade and host ports"},
	{"github.com/containernetworking/cni", []string{"cni"}, "what runtimes say to plugins"},
	{"sigs.k8s.io/network-policy-api", []string{"kube"}, "the cluster's state travels as plain values"},
	{"k8s.io/client-go", []string{"kube"}, "the cluster's state travels as plain values"},
	{"k8s.io/api", []string{"kube"}, "the cluster's state travels as plain values"},
	{"k8s.io/apimachinery", []string{"kube"}, "the cluster's state travels as plain values"},
	{"k8s.io/klog/v2", []string{"kube"}, "client-go logs through it"},
	{"github.com/go-logr/logr", []string{"kube"}, "client-go logs through it"},
	{"github.com/cilium/cilium", []string{"api", "hub"}, "Hubble's messages, in files hubble*.go only"},
	{"github.com/fxamacker/cbor/v2", []string{"api"}, "what agent and hub say to each other"},
	{"k8s.io/cri-api", []string{"identity"}, "names of containers"},
	{"github.com/containerd/containerd", []string{"identity"}, "names of containers"},
	{"google.golang.org/grpc", []string{"identity", "api", "export", "hub"}, "protobuf appears where a foreign API asks for it"},
	{"google.golang.org/protobuf", []string{"identity", "api", "export", "hub"}, "protobuf appears where a foreign API asks for it"},
	{"go.yaml.in/yaml/v3", []string{"settings", "rule"}, "files that people write"},
	{"github.com/nats-io/nats.go", []string{"alert/channel"}, "alerts to JetStream"},
	{"github.com/twmb/franz-go/pkg/kfake", nil, "brokers of Kafka"},
	{"github.com/twmb/franz-go", []string{"alert/channel"}, "alerts to Kafka"},
	{"github.com/prometheus/client_golang", []string{"api"}, "metrics are written in one place"},
	{"github.com/klauspost/compress", []string{"store"}, "zstd"},
	{"github.com/parquet-go/parquet-go", []string{"store"}, "sealed files of the history"},
	{"github.com/mattn/go-runewidth", []string{"cli"}, "columns of a terminal"},
	{"golang.org/x/term", []string{"cli"}, "is it a terminal, how wide"},
	{"golang.org/x/text", []string{"cli", "event", "filter"}, "Unicode"},
	{"golang.org/x/net", []string{"l7"}, "dnsmessage"},
	{"github.com/minio/minio-go/v7", []string{"archive"}, "buckets of S3"},
	{"golang.org/x/sync", []string{"agent", "hub", "pipeline", "api", "identity", "bpf", "cli", "alert"}, "errgroup"},
	{"golang.org/x/sys", []string{"*", "sensor/*", "alert/channel", "internal/testkit"}, "system calls"},
	{"kernel.org/pub/linux/libs/security/libcap", []string{"agent"}, "capabilities of this process"},
	// For tests: everywhere.
	{"github.com/google/go-cmp", nil, "differences in tests"},
	{"github.com/rogpeppe/go-internal", nil, "testscript and txtar"},
	{"golang.org/x/tools", nil, "txtar"},
	{"github.com/getkin/kin-openapi", nil, "holds the API against its document"},
	{"github.com/johannesboyne/gofakes3", nil, "a server of buckets"},
	{"github.com/nats-io/nats-server/v2", nil, "a server of JetStream"},
	{"modernc.org/sqlite", nil, "what the history is compared with"},
}

const (
	maxLines = 800
	// maxName is BPF_OBJ_NAME_LEN without its zero byte: what bpftool shows.
	maxName = 15
	module  = "warren/"
)

func TestTree(t *testing.T) {
	for _, complaint := range checkTree(os.DirFS(".")) {
		t.Error(complaint)
	}
}

// checkTree says everything that is wrong with a tree. It parses files instead
// of asking the go command, which would leave out what does not build here.
func checkTree(tree fs.FS) []string {
	c := &checker{tree: tree, docs: make(map[string][]string), packages: make(map[string]bool)}
	if err := fs.WalkDir(tree, ".", c.visit); err != nil {
		c.complain("%v", err)
	}
	for _, dir := range slices.Sorted(maps.Keys(c.packages)) {
		switch n := len(c.docs[dir]); {
		case n == 0:
			c.complain("%s: no package comment: say what it is, and who may call it at the same time", dir)
		case n > 1:
			c.complain("%s: %d package comments (%s): a reader finds one", dir, n, strings.Join(c.docs[dir], ", "))
		}
	}
	return c.complaints
}

type checker struct {
	tree       fs.FS
	complaints []string
	packages   map[string]bool     // folders with Go files
	docs       map[string][]string // folder -> files with a package comment
}

func (c *checker) complain(format string, args ...any) {
	c.complaints = append(c.complaints, fmt.Sprintf(format, args...))
}

func (c *checker) visit(name string, d fs.DirEntry, err error) error {
	if err != nil {
		// Somebody else's temporary file may be gone by now.
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if d.IsDir() {
		base := path.Base(name)
		if name != "." && (strings.HasPrefix(base, ".") || base == "bin" || base == "node_modules" || base == "testdata") {
			return fs.SkipDir
		}
		// A module of its own pins programs of others; none of it is Warren's.
		if below(name, "test") || below(name, "build") {
			if _, err := fs.Stat(c.tree, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			}
		}
		return nil
	}
	if !d.Type().IsRegular() || strings.HasPrefix(path.Base(name), ".") {
		return nil
	}
	source, err := fs.ReadFile(c.tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.text(name, source)
	switch path.Ext(name) {
	case ".go":
		c.goFile(name, source)
	case ".c", ".h":
		c.cFile(name, source)
	}
	return nil
}

// text checks what holds for any file.
func (c *checker) text(name string, source []byte) {
	if bytes.IndexByte(source, 0) >= 0 {
		return // not text
	}
	// Written in two pieces, or this file would not pass.
	if bytes.Contains(source, []byte("/wor"+"k/")) {
		c.complain("%s: names a folder of the machine that it was written on", name)
	}
}

// size checks the length of a file of code that a person wrote.
func (c *checker) size(name string, source []byte) {
	if n := bytes.Count(source, []byte("\n")); n > maxLines {
		c.complain("%s: %d lines, more than %d: what second noun hides in it?", name, n, maxLines)
	}
}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func (c *checker) goFile(name string, source []byte) {
	dir, test := path.Dir(name), strings.HasSuffix(name, "_test.go")
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		c.complain("%v", err)
		return
	}
	c.packages[dir] = true
	if file.Doc != nil && strings.HasPrefix(file.Doc.Text(), "Package ") || file.Doc != nil && file.Name.Name == "main" {
		c.docs[dir] = append(c.docs[dir], path.Base(name))
	}
	if generated.Match(source) {
		return
	}
	c.size(name, source)
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			c.complain("%s: %v", name, err)
			continue
		}
		c.importSpec(name, dir, imported, test)
	}
	isPure := slices.Contains(pure, dir) && !test
	var bubbleEnd token.Pos // of the last synctest.Test(...): its clock is not ours
	ast.Inspect(file, func(n ast.Node) bool {
		at := func() string { return files.Position(n.Pos()).String() }
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				c.complain("%s: init(): what happens is called by name", at())
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Test" {
				if x, ok := f.X.(*ast.Ident); ok && x.Name == "synctest" {
					bubbleEnd = n.End()
				}
			}
		case *ast.GoStmt:
			if isPure {
				c.complain("%s: a goroutine in %s, which computes only", at(), dir)
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok || x.Name != "time" || n.Pos() < bubbleEnd {
				break
			}
			if isPure && slices.Contains(clock, n.Sel.Name) {
				c.complain("%s: time.%s in %s, which computes only", at(), n.Sel.Name, dir)
			}
			if test && n.Sel.Name == "Sleep" {
				c.complain("%s: a test that sleeps is slow when it passes and wrong when it fails; wait for the state (testkit.Wait)", at())
			}
		}
		return true
	})
}

// importSpec checks that a file of dir may import a package.
func (c *checker) importSpec(name, dir, imported string, test bool) {
	first, _, _ := strings.Cut(imported, "/")
	switch {
	case imported == module+"internal/testkit":
		if !test && !below(dir, "test") && dir != "internal/testkit" {
			c.complain("%s: imports %s, which is for tests", name, imported)
		}
	case strings.HasPrefix(imported, module):
		// Tests may look from above, and test/ looks at everything.
		if !test && !below(dir, "test") {
			c.layer(name, dir, strings.TrimPrefix(imported, module))
		}
	case !strings.Contains(first, "."):
		if slices.Contains(pure, dir) && !test && matchAny(impure, imported) {
			c.complain("%s: imports %s, but %s computes only", name, imported, dir)
		}
	default:
		c.thirdParty(name, dir, imported, test)
	}
}

func (c *checker) layer(name, dir, imported string) {
	from, _ := layerOf(dir)
	to, reason := layerOf(imported)
	switch {
	case from < 0:
		c.complain("%s: package %s has no layer: give it one in tree_test.go and ARCHITECTURE.md", name, dir)
	case to < 0:
		c.complain("%s: package %s has no layer: give it one in tree_test.go and ARCHITECTURE.md", name, imported)
	case to >= from:
		c.complain("%s: %s (layer %d) imports %s (layer %d: %s)", name, dir, from, imported, to, reason)
	}
	for _, f := range forbidden {
		if f.from == dir && matchAny([]string{f.to}, imported) {
			c.complain("%s: %s imports %s: %s", name, dir, imported, f.reason)
		}
	}
}

func (c *checker) thirdParty(name, dir, imported string, test bool) {
	for _, p := range thirdParties {
		if imported != p.path && !strings.HasPrefix(imported, p.path+"/") {
			continue
		}
		if p.packages == nil && !test && !below(dir, "test") {
			c.complain("%s: imports %s, which is for tests (%s)", name, imported, p.reason)
		}
		if p.packages != nil && !test && !below(dir, "test") && !matchAny(p.packages, dir) {
			c.complain("%s: imports %s, which is for %s (%s)", name, imported, strings.Join(p.packages, ", "), p.reason)
		}
		if slices.Contains(pure, dir) && !test && matchAny(impure, imported) {
			c.complain("%s: imports %s, but %s computes only", name, imported, dir)
		}
		return
	}
	c.complain("%s: imports %s, which thirdParties in tree_test.go does not list: is it worth it, and who may use it?", name, imported)
}

// layerOf gives a package's layer and its reason, or -1.
func layerOf(dir string) (int, string) {
	for _, l := range layers {
		if matchAny(l.packages, dir) {
			return l.layer, l.reason
		}
	}
	return -1, ""
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

func below(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

const spdx = "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)"

var (
	// SEC("tp_btf/sched_process_exec")\nint BPF_PROG(process_exec, ...
	programName = regexp.MustCompile(`SEC\("[^".][^"]*"\)\s*(?:static\s+)?int\s+(?:BPF_[A-Z0-9_]+\()?\s*(\w+)`)
	// } tasks SEC(".maps");
	mapName     = regexp.MustCompile(`\}\s*(\w+)\s+SEC\("\.maps"\)`)
	conditional = regexp.MustCompile(`(?m)^\s*#\s*(if|ifdef|elif|else)\b.*$`)
)

// cFile checks C: programs, and the headers that they share.
func (c *checker) cFile(name string, source []byte) {
	if below(path.Dir(name), "test") {
		return // ordinary programs
	}
	c.size(name, source)
	program := strings.HasSuffix(name, ".bpf.c")
	if path.Ext(name) == ".c" && !program {
		c.complain("%s: C that is not a BPF program (NAME.bpf.c)", name)
	}
	if program && !bytes.HasPrefix(source, []byte("//go:build ignore\n")) {
		c.complain("%s: the first line is not //go:build ignore: a build with cgo would compile it", name)
	}
	if !bytes.Contains(source, []byte(spdx)) {
		c.complain("%s: no line %s", name, spdx)
	}
	for _, m := range conditional.FindAll(source, -1) {
		c.complain("%s: %s: configuration is const volatile, kernels differ by CO-RE checks", name, bytes.TrimSpace(m))
	}
	for _, m := range programName.FindAllSubmatch(source, -1) {
		c.objectName(name, "program", string(m[1]))
		// bpftool shows names of the whole machine.
		owner, _, _ := strings.Cut(path.Base(name), ".")
		if !strings.HasPrefix(string(m[1]), owner+"_") && !strings.HasPrefix(string(m[1]), path.Base(path.Dir(name))+"_") {
			c.complain("%s: program %s does not begin with its sensor's name", name, m[1])
		}
	}
	for _, m := range mapName.FindAllSubmatch(source, -1) {
		c.objectName(name, "map", string(m[1]))
	}
}

func (c *checker) objectName(file, kind, name string) {
	if len(name) > maxName {
		c.complain("%s: %s %s has %d bytes: the kernel keeps %d", file, kind, name, len(name), maxName)
	}
}

// TestTreeCheck holds the checks themselves against trees that break one rule
// each: a check that cannot fail checks nothing.
func TestTreeCheck(t *testing.T) {
	const (
		pkg   = "// Package x is x.\npackage x\n"
		cHead = "//go:build ignore\n// " + spdx + "\n"
	)
	for _, test := range []struct {
		name string
		tree map[string]string
		want []string // pieces of the complaints, in order
	}{
		{"good", map[string]string{
			"event/x.go":             pkg,
			"filter/x.go":            pkg + `import "warren/event"`,
			"filter/x_test.go":       "package x\nimport (\"os\"; \"warren/internal/testkit\"; \"github.com/google/go-cmp/cmp\")",
			"sensor/all/x.go":        pkg + `import "warren/sensor/process"`,
			"sensor/process/x.go":    pkg + `import ("warren/bpf"; "warren/event"; "github.com/cilium/ebpf/link")`,
			"sensor/process/x.bpf.c": cHead + "SEC(\"tp_btf/x\")\nint BPF_PROG(x_exec, int x)\n{\n}\nstruct {\n} tasks SEC(\".maps\");\n",
			"internal/testkit/x.go":  pkg,
			"main.go":                "// Command warren is it.\npackage main\nimport \"warren/agent\"",
			"test/build/etcd/go.mod": "module etcd",
			"test/build/etcd/x.go":   "package main\nimport \"go.etcd.io/etcd\"",
		}, nil},
		{"a module of its own in the product", map[string]string{"api/v2/go.mod": "module v2", "api/v2/x.go": pkg + `import "github.com/gorilla/mux"`},
			[]string{"which thirdParties in tree_test.go does not list"}},
		{"upwards", map[string]string{"filter/x.go": pkg + `import "warren/api"`},
			[]string{"filter/x.go: filter (layer 3) imports api (layer 5"}},
		{"sideways", map[string]string{"sensor/socket/x.go": pkg + `import "warren/sensor/process"`},
			[]string{"sensor/socket (layer 5) imports sensor/process (layer 5"}},
		{"from above, but not the list", map[string]string{"pipeline/x.go": pkg + `import "warren/sensor/all"`},
			[]string{"pipeline (layer 5) imports sensor/all (layer 6"}},
		{"forbidden", map[string]string{"cli/x.go": pkg + `import "warren/pipeline"`},
			[]string{"cli/x.go: cli imports pipeline: a command asks the agent"}},
		{"no layer", map[string]string{"util/x.go": pkg + `import "warren/event"`},
			[]string{"package util has no layer"}},
		{"unknown layer", map[string]string{"agent/x.go": pkg + `import "warren/util"`},
			[]string{"package util has no layer"}},
		{"testkit in the product", map[string]string{"agent/x.go": pkg + `import "warren/internal/testkit"`},
			[]string{"which is for tests"}},
		{"third party elsewhere", map[string]string{"api/x.go": pkg + `import "github.com/cilium/ebpf"`},
			[]string{"api/x.go: imports github.com/cilium/ebpf, which is for bpf, prefilter, sensor/*, datapath"}},
		{"unlisted third party", map[string]string{"api/x.go": pkg + `import "github.com/gorilla/mux"`},
			[]string{"which thirdParties in tree_test.go does not list"}},
		{"test library in the product", map[string]string{"api/x.go": pkg + `import "github.com/google/go-cmp/cmp"`},
			[]string{"which is for tests"}},
		{"a pure package that reads files", map[string]string{"l7/x.go": pkg + `import "os"`},
			[]string{"imports os, but l7 computes only"}},
		{"a pure package that makes system calls", map[string]string{"l7/x.go": pkg + `import "golang.org/x/sys/unix"`},
			[]string{"imports golang.org/x/sys/unix, but l7 computes only"}},
		{"a pure package that starts goroutines", map[string]string{"l7/x.go": pkg + "func f() { go f() }"},
			[]string{"l7/x.go:3:12: a goroutine in l7"}},
		{"a pure package that looks at the clock", map[string]string{"filter/x.go": pkg + "import \"time\"\nvar t = time.Now()"},
			[]string{"filter/x.go:4:9: time.Now in filter"}},
		{"init", map[string]string{"api/x.go": pkg + "func init() {}"},
			[]string{"api/x.go:3:1: init()"}},
		{"sleep", map[string]string{"api/x.go": pkg, "api/x_test.go": "package x\nimport \"time\"\nfunc f() { time.Sleep(1) }"},
			[]string{"api/x_test.go:3:12: a test that sleeps"}},
		{"sleep by a fake clock", map[string]string{"api/x.go": pkg, "api/x_test.go": "package x\nfunc f() { synctest.Test(nil, func() { time.Sleep(1) }) }"}, nil},
		{"sleep after a fake clock", map[string]string{"api/x.go": pkg, "api/x_test.go": "package x\nfunc f() { synctest.Test(nil, nil); time.Sleep(1) }"},
			[]string{"api/x_test.go:2:37: a test that sleeps"}},
		{"no package comment", map[string]string{"api/x.go": "package api"},
			[]string{"api: no package comment"}},
		{"two package comments", map[string]string{"api/x.go": pkg, "api/y.go": pkg},
			[]string{"api: 2 package comments (x.go, y.go)"}},
		{"too long", map[string]string{"api/x.go": pkg + strings.Repeat("\n", 800), "bpf/include/x.h": "// " + spdx + strings.Repeat("\n", 801)},
			[]string{"api/x.go: 802 lines, more than 800", "bpf/include/x.h: 801 lines"}},
		{"a generated file may be long", map[string]string{"api/x.go": pkg, "api/y.go": "// Code generated by x; DO NOT EDIT.\npackage x\n" + strings.Repeat("\n", 800)}, nil},
		{"does not parse", map[string]string{"api/x.go": "packag api"}, []string{"expected 'package'"}},
		{"cgo would compile it", map[string]string{"bpf/x.bpf.c": "// " + spdx + "\n//go:build ignore\n"},
			[]string{"bpf/x.bpf.c: the first line is not //go:build ignore"}},
		{"no licence", map[string]string{"bpf/x.bpf.c": "//go:build ignore\n"},
			[]string{"bpf/x.bpf.c: no line SPDX"}},
		{"C elsewhere", map[string]string{"bpf/x.c": "// " + spdx},
			[]string{"bpf/x.c: C that is not a BPF program"}},
		{"long program name", map[string]string{"bpf/x.bpf.c": cHead + "SEC(\"tp_btf/x\")\nint BPF_PROG(x_executed_again, int x)\nSEC(\"iter/task\")\nint x_executed_task_(void *ctx)\n"},
			[]string{"program x_executed_again has 16 bytes", "program x_executed_task_ has 16 bytes"}},
		{"a program of nobody", map[string]string{"sensor/file/x.bpf.c": cHead + "SEC(\"tp_btf/x\")\nint BPF_PROG(open_exit, int x)\nSEC(\"tp_btf/y\")\nint BPF_PROG(file_open, int x)\n"},
			[]string{"program open_exit does not begin with its sensor's name"}},
		{"long map name", map[string]string{"bpf/x.bpf.c": cHead + "struct {\n} process_identities SEC(\".maps\");\n"},
			[]string{"map process_identities has 18 bytes"}},
		{"preprocessor", map[string]string{"bpf/x.bpf.c": cHead + "#ifdef LINUX_6_1\n#endif\n"},
			[]string{"bpf/x.bpf.c: #ifdef LINUX_6_1: configuration"}},
		{"machine path", map[string]string{"README.md": "see /wor" + "k/main\n"},
			[]string{"README.md: names a folder"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := make(fstest.MapFS)
			for name, source := range test.tree {
				tree[name] = &fstest.MapFile{Data: []byte(source)}
			}
			got := checkTree(tree)
			if len(got) != len(test.want) {
				t.Fatalf("complaints (-want +got):\n%s", cmp.Diff(test.want, got))
			}
			for i, complaint := range got {
				if !strings.Contains(complaint, test.want[i]) {
					t.Errorf("complaint %q, want one with %q", complaint, test.want[i])
				}
			}
		})
	}
}
