package channel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warren/settings"
)

// TestKeys holds the table of types against the keys, and both against the page
// that describes them.
func TestKeys(t *testing.T) {
	page, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Skip("the source tree is not here")
	}
	var keys []string
	var visit func(list []settings.Option[Config])
	visit = func(list []settings.Option[Config]) {
		for _, o := range list {
			if !strings.Contains(string(page), "`"+o.Key+"`") && !strings.Contains(string(page), "`"+o.Key+": ") {
				t.Errorf("docs/alerts.md says nothing of %s", o.Key)
			}
			visit(o.Sub)
		}
	}
	visit(Options())
	for _, o := range Options() {
		keys = append(keys, o.Key)
	}
	used := slices.Clone(commonKeys)
	for name, k := range kinds {
		used = append(used, k.keys...)
		for _, key := range k.keys {
			if !slices.Contains(keys, key) {
				t.Errorf("%s has key %s, which is none", name, key)
			}
		}
		if !strings.Contains(string(page), "\n## "+name+"\n") {
			t.Errorf("docs/alerts.md says nothing of type %s", name)
		}
	}
	for _, key := range keys {
		if !slices.Contains(used, key) {
			t.Errorf("no type has key %s", key)
		}
	}
}

// TestTLSUseless refuses tls where nothing is encrypted.
func TestTLSUseless(t *testing.T) {
	some := TLS{CA: "/etc/ca.pem"}
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{Type: "syslog", Address: "tcp://h:1", TLS: some}, "channel c: tls is of no use: address tcp://h:1 is not encrypted; give tls://HOST:PORT"},
		{Config{Type: "syslog", Address: "udp://h:1", TLS: some}, "channel c: tls is of no use: address udp://h:1 is not encrypted; give tls://HOST:PORT"},
		{Config{Type: "syslog", TLS: some}, "channel c: tls is of no use: address unix:/dev/log is not encrypted; give tls://HOST:PORT"},
		{Config{Type: "syslog", Address: "tls://h:1", TLS: some}, ""},
		{Config{Type: "syslog", Address: "tcp://h:1"}, ""},
		{Config{Type: "webhook", URL: "http://h/secret", TLS: some}, "channel c: tls is of no use: http:// is not encrypted; give https://"},
		{Config{Type: "otlp", URL: "http://h", TLS: some}, "channel c: tls is of no use: http:// is not encrypted; give https://"},
		{Config{Type: "pagerduty", KeyFile: "/k", URL: "http://h", TLS: some}, "channel c: tls is of no use: http:// is not encrypted; give https://"},
		{Config{Type: "pagerduty", KeyFile: "/k", TLS: some}, ""},
		{Config{Type: "slack", URL: "https://h", TLS: some}, ""},
		{Config{Type: "slack", URL: "http://h"}, ""},
	} {
		test.cfg.Name = "c"
		got := ""
		if err := test.cfg.Check(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%+v: %q, want %q", test.cfg, got, test.want)
		}
	}
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte("http://127.0.0.1:1/secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openWebhook(&Config{URLFile: file, TLS: TLS{Insecure: true}}, &Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if n, err := s.send(t.Context(), [][]byte{[]byte(someAlert)}); n != 0 || err == nil || err.Error() != "127.0.0.1:1: tls is of no use: http:// is not encrypted; give https://" {
		t.Error(n, err)
	}
}
