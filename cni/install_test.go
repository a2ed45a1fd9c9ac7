package cni

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/api"
)

func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestInstall(t *testing.T) {
	root := t.TempDir()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, bin := filepath.Join(root, "etc"), filepath.Join(root, "bin")
	for path, text := range map[string]string{"etc/10-other.conflist": "other", "bin/bridge": "bridge"} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := InstallConfig{ConfDir: "/etc", BinDir: "/bin", Root: root, Program: program}
	other := c
	other.Instance = "other"
	for _, c := range []InstallConfig{c, c, other} {
		if err := Install(c); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := files(t, conf), []string{"05-other.conflist", "05-warren.conflist", "10-other.conflist"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := files(t, bin), []string{"bridge", "warren-cni", "warren-cni-other"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	b, err := os.ReadFile(filepath.Join(conf, "05-other.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parseConfig(ofRuntime(t, b, nil))
	if err != nil || parsed.CNIVersion != "1.1.0" || parsed.Name != "other" || parsed.Socket != "/run/other/warren.sock" || parsed.StateDir != "/var/lib/cni/other" || parsed.StatusGrace != defaultGrace {
		t.Errorf("%+v, %v", parsed, err)
	}
	// An upgrade replaces the program, and the configuration if it differs.
	before, err := os.Stat(filepath.Join(conf, "05-warren.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Install(c); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(conf, "05-warren.conflist"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("a configuration that is right was written again: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(bin, Program)); err != nil || string(b) != "two" {
		t.Errorf("%s, %v", b, err)
	}
	c.StatusGrace = -1
	if err := Install(c); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(conf, "05-warren.conflist")); err != nil || strings.Contains(string(b), "statusGrace") {
		t.Errorf("%s, %v", b, err)
	}
	// Half a copy, of one that was killed.
	for _, name := range []string{tempPrefix + "warren-cni-123", tempPrefix + "warren-cni-other-123"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(conf, tempPrefix+"05-warren.conflist-123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Uninstall(c); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := files(t, bin), []string{tempPrefix + "warren-cni-other-123", "bridge", "warren-cni-other"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := Uninstall(other); err != nil {
		t.Fatal(err)
	}
	if got := append(files(t, bin), files(t, conf)...); !slices.Equal(got, []string{"bridge", "10-other.conflist"}) {
		t.Errorf("left: %v", got)
	}
	// A file of somebody else's that has the name stays.
	for _, text := range []string{"", "{}", `{"plugins":[{"type":"bridge"}]}`, `{"plugins":[{"type":"warren-cni"},{"type":"tuning"}]}`} {
		path := filepath.Join(conf, "05-warren.conflist")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if Install(c) == nil || Uninstall(c) == nil {
			t.Errorf("%q is taken for Warren's", text)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%q became %q: %v", text, b, err)
		}
	}
	for _, bad := range []InstallConfig{{Instance: "../x"}, {ConfDir: "x"}, {BinDir: "x"}, {Socket: "x"}, {StateDir: "x"}} {
		bad.Root = t.TempDir()
		if Install(bad) == nil || Uninstall(bad) == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// ofRuntime makes the configuration of a call, as the specification has it, of
// the file that a runtime finds.
func ofRuntime(t *testing.T, file []byte, with map[string]any) []byte {
	t.Helper()
	var list struct {
		CNIVersions []string
		Name        string
		Plugins     []map[string]any
	}
	if err := json.Unmarshal(file, &list); err != nil || len(list.Plugins) != 1 {
		t.Fatalf("%v: %s", err, file)
	}
	c := list.Plugins[0]
	c["cniVersion"], c["name"] = slices.Max(list.CNIVersions), list.Name
	if wants, _ := c["capabilities"].(map[string]any); wants["portMappings"] == true {
		c["runtimeConfig"] = map[string]any{"portMappings": []portMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}
	}
	delete(c, "capabilities")
	for k, v := range with {
		c[k] = v
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is installed is what a runtime can call: the program by its type, with
// the configuration's own paths.
func TestRootRuntime(t *testing.T) {
	n := newNode(t, dual...)
	conf, bin := t.TempDir(), t.TempDir()
	c := InstallConfig{Instance: "second", ConfDir: conf, BinDir: bin, StateDir: n.dir, Socket: n.socket, StatusGrace: -1}
	if err := Install(c); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(conf, "05-second.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	n.program = filepath.Join(bin, "warren-cni-second")
	one := n.container("one")
	call := func(verb string, with map[string]any) []byte {
		t.Helper()
		b, e := n.run(n.command(verb, one, ofRuntime(t, file, with)))
		if e != nil {
			t.Fatalf("%s: %d %v", verb, e.Code, e)
		}
		return b
	}
	call("STATUS", nil)
	var result map[string]any
	if err := json.Unmarshal(call("ADD", nil), &result); err != nil {
		t.Fatal(err)
	}
	call("CHECK", map[string]any{"prevResult": result})
	var found []api.Endpoint
	if err := n.ns.Do(func() (err error) { found, err = Attachments("second", n.dir); return err }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(n.agent.added, found, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	call("GC", map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "one", "ifname": "eth0"}}})
	if l := n.left(); len(l.Records) != 1 || len(l.Links) != 1 {
		t.Errorf("%+v", l)
	}
	call("DEL", map[string]any{"prevResult": result})
	n.nothingLeft()
}
