package agent

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/tools/txtar"

	"warren/alert"
	"warren/alert/reaction"
	"warren/settings"
)

var update = flag.Bool("update", false, "rewrite what tests expect")

// Each file of testdata/config has a configuration, config.yaml, and what comes
// of it, want: the settings, or the error. A file flags has the command line, a
// file environment a variable.
func TestConfig(t *testing.T) {
	t.Setenv(nodeVariable, "")
	files, err := filepath.Glob("testdata/config/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var o Options
			want := -1
			for i, f := range ar.Files {
				switch f.Name {
				case "config.yaml":
					o.Config = filepath.Join(t.TempDir(), "config.yaml")
					if err := os.WriteFile(o.Config, f.Data, 0o600); err != nil {
						t.Fatal(err)
					}
				case "flags":
					readFlags(t, string(f.Data), &o)
				case "environment":
					name, value, _ := strings.Cut(strings.TrimSpace(string(f.Data)), "=")
					t.Setenv(name, value)
				case "want":
					want = i
				}
			}
			got := outcome(o)
			if want < 0 {
				ar.Files = append(ar.Files, txtar.File{Name: "want"})
				want = len(ar.Files) - 1
			}
			if *update {
				ar.Files[want].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(ar.Files[want].Data), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func readFlags(t *testing.T, text string, o *Options) {
	t.Helper()
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		at := map[string]*string{"--socket": &o.Socket, "--http": &o.HTTP, "--state": &o.State, "--instance": &o.Instance, "--log-level": &o.LogLevel, "--config": &o.Config,
			"--node": &o.Node, "--cgroup-root": &o.CgroupRoot, "--kubernetes": &o.Kubernetes, "--kubeconfig": &o.Kubeconfig, "--tls-dir": &o.TLSDir,
			"--hub-listen": &o.HubListen, "--hubble-listen": &o.HubbleListen, "--hubble-socket": &o.HubbleSocket, "--metrics-listen": &o.MetricsListen, "--network": &o.Network, "--history": &o.History}[name]
		if at == nil {
			t.Fatalf("no flag %s", name)
		}
		*at = value
	}
}

// outcome is what Load returns, as text.
func outcome(o Options) string {
	c, err := Load(o)
	if err != nil {
		msg := err.Error()
		if o.Config != "" {
			msg = strings.ReplaceAll(msg, o.Config, "config.yaml")
		}
		return "error: " + msg + "\n"
	}
	sockets := map[string][]string{} // as they are set
	var b strings.Builder
	show := func(name string, v any) { fmt.Fprintf(&b, "%s: %v\n", name, v) }
	show("instance", c.Instance)
	show("socket", c.Socket)
	show("state", c.State)
	show("http", c.HTTP)
	show("http public", c.HTTPPublic)
	show("metrics", c.Metrics)
	show("log level", c.LogLevel)
	show("node", c.Node)
	show("cgroup root", c.Road.CgroupRoot)
	show("kubernetes", fmt.Sprintf("off %t, kubeconfig %s", c.Kubernetes.Off, c.Kubernetes.Kubeconfig))
	show("hub", fmt.Sprintf("listen %s, tls %s", c.Hub.Listen, c.Hub.TLS))
	show("hubble", fmt.Sprintf("socket %s, listen %s, flows %d, bytes %d", c.Hubble.Socket, c.Hubble.Listen, c.Hubble.Flows, c.Hubble.Bytes))
	if !reflect.DeepEqual(c.Network, NetworkConfig{}) {
		show("network", fmt.Sprintf("%+v", c.Network))
	}
	if c.Alerts.Falco != (alert.Falco{}) {
		show("alerts", fmt.Sprintf("%+v", c.Alerts.Falco))
	}
	if c.Rules.NoSuggested || c.Rules.Append != nil {
		show("rules", fmt.Sprintf("suggested %t, append %+v", !c.Rules.NoSuggested, c.Rules.Append))
	}
	if d := (HistoryConfig{
		Dir: filepath.Join(c.State, "history"), Size: defaultHistorySize, Age: defaultHistoryAge, SegmentAge: defaultSegmentAge, Filter: defaultHistory, Archive: ArchiveConfig{Spare: defaultSpare},
	}); c.History != d {
		show("history", fmt.Sprintf("%+v", c.History))
	}
	for _, ch := range c.Alerts.Channels {
		var set []string
		for v, i := reflect.ValueOf(ch), 0; i < v.NumField(); i++ {
			if f := v.Type().Field(i); f.IsExported() && !v.Field(i).IsZero() {
				set = append(set, fmt.Sprintf("%s %+v", f.Name, v.Field(i)))
			}
		}
		show("channel", strings.Join(set, ", "))
	}
	if r := c.Reactions; !reflect.DeepEqual(r, reaction.Config{}) {
		var calls []string
		for _, w := range r.Webhooks {
			calls = append(calls, w.Name)
		}
		show("reactions", fmt.Sprintf("enabled %t, dry run %t, limit %v, programs %v, pods %v, labels %v, namespaces %v, protected %v, webhooks %v",
			r.Enabled, r.DryRun, r.Limit, r.Programs, r.Pods, r.Labels, r.Namespaces, r.Protected, calls))
	}
	show("rings", fmt.Sprint(c.Road.CriticalBytes, " ", c.Road.BulkBytes, " ", c.Road.Idle, " ", c.Road.Busy))
	show("process sensor's ring", c.Sensors.Process.CriticalBytes)
	for _, hook := range slices.Sorted(maps.Keys(c.Road.Rungs)) {
		show("hook "+hook, c.Road.Rungs[hook])
	}
	if c.Pipeline.Tables != nil {
		show("tables", *c.Pipeline.Tables)
	}
	show("queues", fmt.Sprint(c.Pipeline.Queue, " ", c.Pipeline.Recent, " ", c.API.Streams, " ", c.API.Stall))
	show("stop grace", c.Pipeline.StopGrace)
	show("containers", fmt.Sprint(c.Identity.WaitContainer, " ", c.Pipeline.WaitContainer, " ", c.Identity.DescribeFor))
	for name, list := range map[string][]string{"docker": c.Identity.Sockets.Docker, "podman": c.Identity.Sockets.Podman,
		"containerd": c.Identity.Sockets.Containerd, "cri-o": c.Identity.Sockets.CRIO} {
		if list != nil {
			sockets[name] = list
		}
	}
	if len(sockets) > 0 {
		show("sockets", sockets)
	}
	i := c.Identity
	show("memory", fmt.Sprint(i.ProcessBytes, " ", i.ConnectionBytes, " ", i.MaxExited, " ", i.ExitedAge, " ", i.MaxClosed, " ", i.MaxNames))
	return b.String()
}

// A relative path means the directory that the agent was started in.
func TestRelativePaths(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(Options{Socket: "s", State: "./state"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Socket != filepath.Join(dir, "s") || c.State != filepath.Join(dir, "state") {
		t.Errorf("socket %s, state %s in %s", c.Socket, c.State, dir)
	}
}

func TestConfigFileMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load(Options{Config: path})
	if want := "read configuration: open " + path + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// docs/warren.yaml has every key, with its default.
func TestDocumentedConfig(t *testing.T) {
	const path = "../docs/warren.yaml"
	src, err := os.ReadFile(path)
	if err != nil {
		t.Skip("the source tree is not here")
	}
	got := outcome(Options{Config: path})
	var c Config
	if err := settings.Parse(path, src, options(), &c); err != nil {
		t.Fatal(err)
	}
	var page map[string]any
	if err := yaml.Unmarshal(src, &page); err != nil {
		t.Fatal(err)
	}
	// The default is told in two places: in parentheses behind the description,
	// and as the value on the page.
	var check func(prefix string, list []option, page map[string]any)
	check = func(prefix string, list []option, page map[string]any) {
		for _, o := range list {
			v, there := page[o.Key]
			m := regexp.MustCompile(`\(([^()]+)\)$`).FindStringSubmatch(o.Doc)
			commented := regexp.MustCompile("(?m)^#" + strings.Repeat("  ", strings.Count(prefix, ".")) + " ?" + o.Key + ": ") // a first space for who reads
			if !there && m == nil && commented.Match(src) {
				continue // there is no default: an example stands behind #
			}
			if !there {
				t.Errorf("%s says nothing of %s", path, prefix+o.Key)
				continue
			}
			if m != nil && fmt.Sprint(v) != m[1] {
				t.Errorf("%s says %v of %s, its description %s", path, v, prefix+o.Key, m[1])
			}
			if o.Sub != nil {
				section, _ := v.(map[string]any)
				check(prefix+o.Key+".", o.Sub, section)
			}
		}
	}
	check("", options(), page)
	want := Config{Instance: defaultInstance, HTTP: defaultHTTP}
	if c.Instance != want.Instance || c.HTTP != want.HTTP || !strings.Contains(got, "socket: /run/warren/warren.sock\nstate: /var/lib/warren\n") {
		t.Errorf("what it says are no defaults:\n%s", got)
	}
}

// Every option has a description, and is of one kind.
func TestOptions(t *testing.T) {
	var check func(prefix string, list []option)
	check = func(prefix string, list []option) {
		seen := map[string]bool{}
		for _, o := range list {
			name := prefix + o.Key
			kinds := 0
			for _, is := range []bool{o.Set != nil, o.Sub != nil, o.Each != nil} {
				if is {
					kinds++
				}
			}
			if o.Doc == "" || kinds != 1 || seen[o.Key] {
				t.Errorf("%s: description %q, %d kinds, twice: %t", name, o.Doc, kinds, seen[o.Key])
			}
			seen[o.Key] = true
			check(name+".", o.Sub)
		}
	}
	check("", options())
}

// FuzzConfig reads anything as a configuration: it is settings or an error that
// says where.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/config/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range ar.Files {
			if file.Name == "config.yaml" {
				f.Add(file.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var c Config
		err := settings.Parse("f", src, options(), &c)
		if err == nil {
			return
		}
		var e *settings.Error
		if !errors.As(err, &e) {
			t.Fatalf("%T: %v", err, err)
		}
		if e.Msg == "" || e.Line < 0 || e.Line > strings.Count(string(src), "\n")+strings.Count(string(src), "\r")+2 && !strings.ContainsAny(string(src), "\u0085\u2028\u2029") {
			t.Errorf("%+v", e)
		}
	})
}
