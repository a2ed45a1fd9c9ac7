package hub

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"warren/settings"
)

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(file, []byte("# comment\nlisten: :1\nnamespace: ns\nhubble-listen: off\nnodes: pool=warren, os=linux\nwait: 100ms\nreview: 10s\nstreams: 5\nstream-bytes: 2000000\nstall: 2s\nlog-level: debug\ntls-dir: /file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(Options{Config: file, Listen: ":2", TLSDir: "/tls", Agents: "agents", MetricsListen: "off"})
	want := Config{
		Listen: ":2", TLSDir: "/tls", Namespace: "ns", Agents: "agents", Nodes: map[string]string{"pool": "warren", "os": "linux"},
		LogLevel: slog.LevelDebug, Version: "unknown", Wait: 100 * time.Millisecond, Review: 10 * time.Second, Streams: 5, StreamBytes: 2_000_000, Memory: 128 << 20, Stall: 2 * time.Second, begin: beginTime, look: lookTime,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %+v, %v\nwant %+v", got, err, want)
	}
	got, err = Load(Options{TLSDir: "/tls"})
	if err != nil || got.Listen != ":7443" || got.HubbleListen != ":4245" || got.MetricsListen != "127.0.0.1:9117" || got.Namespace != "warren" || got.Agents != "warren-agent" || got.Nodes["kubernetes.io/os"] != "linux" {
		t.Errorf("without anything loaded %+v, %v", got, err)
	}
}

func TestLoadMistakes(t *testing.T) {
	for _, test := range []struct{ yaml, want string }{
		{"listen: [1]", "hub.yaml:1:9: listen: want a value"},
		{"listen:", "hub.yaml:1:8: listen: want a value"},
		{"listen: 7443", `hub.yaml:1:9: listen: "7443" is no address`},
		{"listen: off", `"off" is no address`},
		{"metrics-listen: host:99999", "has no port from 0 to 65535"},
		{"lisen: :1", `hub.yaml:1:1: no key "lisen"; did you mean listen?`},
		{"wait: 10s", `"10s" is no time from 1ms to 500ms`},
		{"wait: 0s", "is no time"},
		{"review: 1h", "is no time from 1s to 5m0s"},
		{"namespace: Warren", "is no name of an object"},
		{"agents: -x", "is no name of an object"},
		{"streams: many", "is no number"},
		{"nodes: os", "is no label"},
		{"nodes: os=linux,os=windows", "no node has both"},
		{"log-level: loud", "is no level"},
		{"- a", "hub.yaml:1:1: want keys with values"},
		{"a: b\n---\nc: d", "a second document"},
		{"streams: 1\nstreams: 2", `hub.yaml:2:1: key "streams" is there twice`},
		{"a: [", "hub.yaml"},
	} {
		var c Config
		if err := settings.Parse("hub.yaml", []byte(test.yaml), options, &c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.yaml, err, test.want)
		}
	}
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{}, "--tls-dir is missing"},
		{Options{TLSDir: "/tls", Listen: "x"}, `--listen: "x" is no address`},
		{Options{TLSDir: "/tls", LogLevel: "loud"}, `--log-level: "loud" is no level`},
		{Options{TLSDir: "/tls", Config: "/no/such/file"}, "read configuration"},
	} {
		if _, err := Load(test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.o, err, test.want)
		}
	}
}

// TestDocsHaveEveryKey holds docs/hub.md against the settings.
func TestDocsHaveEveryKey(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "hub.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range options {
		if !strings.Contains(string(doc), "| `"+s.Key+"` | "+s.Doc+" |") {
			t.Errorf("docs/hub.md has no row | `%s` | %s |", s.Key, s.Doc)
		}
	}
	for _, m := range families {
		if strings.HasPrefix(m.Name, "warren_hub_") && !strings.Contains(string(doc), "| `"+m.Name+"` | "+m.Help+" |") {
			t.Errorf("docs/hub.md has no row | `%s` | %s |", m.Name, m.Help)
		}
	}
}
