package bed

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	ranges := func(four, six string) DualStack {
		return DualStack{netip.MustParsePrefix(four), netip.MustParsePrefix(six)}
	}
	for _, test := range []struct {
		name   string
		config Config
		err    string
	}{
		{"zero", Config{}, ""},
		{"other addresses", Config{Name: "two", Nodes: 3, Network: ranges("192.168.7.0/24", "fd01::/64"), Pods: ranges("10.0.0.0/16", "fd02::/56"), Services: ranges("10.1.0.0/20", "fd03::/112")}, ""},
		{"name", Config{Name: "../etc"}, "cluster name"},
		{"name with capitals", Config{Name: "K8s"}, "cluster name"},
		{"no such mode", Config{ProxyMode: "ipvs"}, "nftables or iptables"},
		{"Warren alone", Config{CNI: "warren-vxlan"}, ""},
		{"nobody", Config{CNI: "off"}, "bridge, warren or warren-vxlan"},
		{"too many nodes", Config{Nodes: 1000}, "1000 nodes"},
		{"fewer than none", Config{Nodes: -1}, "-1 nodes"},
		{"overlap", Config{Pods: ranges("10.96.0.0/16", "fd00:240::/48")}, "overlap"},
		{"families exchanged", Config{Pods: ranges("fd00:240::/48", "10.240.0.0/12")}, "IPv4 range of pods"},
		{"no room for nodes' pods", Config{Pods: ranges("10.240.0.0/24", "fd00:240::/48")}, "IPv4 range of pods"},
		{"too much room for the API server", Config{Services: ranges("10.96.0.0/16", "fd00:96::/64")}, "IPv6 range of services"},
	} {
		_, err := test.config.complete()
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v, want an error with %q", test.name, err, test.err)
		}
	}
}

func TestAddresses(t *testing.T) {
	d := DualStack{netip.MustParsePrefix("172.30.0.128/16"), netip.MustParsePrefix("fd00:30::/64")}
	for n, want := range map[int]string{1: "172.30.0.1,fd00:30::1", 255: "172.30.0.255,fd00:30::ff", 256: "172.30.1.0,fd00:30::100", 65535: "172.30.255.255,fd00:30::ffff"} {
		if got := d.host(n).String(); got != want {
			t.Errorf("host %d is %s, want %s", n, got, want)
		}
	}
}

func TestNodeNumber(t *testing.T) {
	for name, want := range map[string]int{"node1": 1, "node189": 189, "node0": 0, "node190": 0, "node": 0, "node01": 0, "node1x": 0, "control": 0, "node-1": 0, "": 0} {
		if got, err := nodeNumber(name); err == nil && got != want || (err == nil) != (want > 0) {
			t.Errorf("%q is node %d, %v; want %d", name, got, err, want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for name, want := range map[string][]string{
		"":            {""},
		"/k8s":        {"", "/k8s"},
		"/k8s/node1":  {"", "/k8s", "/k8s/node1"},
		"/a/b/c/long": {"", "/a", "/a/b", "/a/b/c", "/a/b/c/long"},
	} {
		if got := slices.Collect(prefixes(name)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestLogError holds that who fails says why: the step, and the end of the log.
func TestLogError(t *testing.T) {
	log := filepath.Join(t.TempDir(), "etcd.log")
	if err := os.WriteFile(log, []byte(strings.Repeat("noise\n", 100)+"port taken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("it ended")
	err := error(&LogError{Step: "start etcd of control", Log: log, Err: cause})
	if text := err.Error(); !strings.HasPrefix(text, "start etcd of control: it ended\n") || !strings.HasSuffix(text, "    port taken") || strings.Count(text, "noise") > 20 {
		t.Errorf("%s", text)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
	if text := (&LogError{Step: "start", Log: log + ".none"}).Error(); !strings.Contains(text, "cannot be read") {
		t.Errorf("without a log: %s", text)
	}
}

func testCluster(t *testing.T) *Cluster {
	t.Helper()
	c, err := New(Config{}, Tools{cache: t.TempDir(), dir: "/built"}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPKI holds that the API server's certificate is what its clients dial, and
// that the front proxy's is of another authority.
func TestPKI(t *testing.T) {
	c := testCluster(t)
	if err := c.makePKI(); err != nil {
		t.Fatal(err)
	}
	load := func(name string) *x509.Certificate {
		t.Helper()
		der, err := readPEM(c.path("pki", name+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	pool := func(name string) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(load(name))
		return p
	}
	server := load("kube-apiserver")
	for _, name := range []string{"kubernetes.default.svc", "172.30.0.1", "fd00:30::1", "10.96.0.1", "fd00:96::1", "127.0.0.1"} {
		if _, err := server.Verify(x509.VerifyOptions{Roots: pool("ca"), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := load("front-proxy-client").Verify(x509.VerifyOptions{Roots: pool("ca"), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the cluster's authority has signed the front proxy's certificate")
	}
	config, err := c.User("ann", "team")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(config); err != nil || !strings.Contains(string(text), "https://172.30.0.1:6443") {
		t.Errorf("kubeconfig: %s, %v", text, err)
	}
	if got := load("user-ann").Subject; got.CommonName != "ann" || !slices.Equal(got.Organization, []string{"team"}) {
		t.Errorf("certificate of a person: %v", got)
	}
	if _, err := tls.LoadX509KeyPair(c.path("pki", "user-ann.crt"), c.path("pki", "user-ann.key")); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(c.path("pki", "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a private key that others may read: %v, %v", info.Mode(), err)
	}
	ca, err := loadAuthority(c.path("pki"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.issue(c.path("none"), "x", pkix.Name{CommonName: "x"}); err == nil {
		t.Error("a certificate was written into a folder that does not exist")
	}
}

func TestNodeFiles(t *testing.T) {
	c := testCluster(t)
	for name, want := range map[string][]string{
		"containerd.toml": {`BinaryName = "/built/bin/runc"`, `bin_dirs = ["/opt/cni/bin", "/built/bin/cni"]`},
		"kubelet.yaml":    {"cgroupRoot: /k8s/node1", `clusterDNS: ["10.96.0.10"]`},
		"kube-proxy.yaml": {"mode: nftables", "clusterCIDR: 10.240.0.0/12,fd00:240::/48"},
		"cni.conflist":    {`"ranges": [[{"subnet": "10.240.3.0/24"}], [{"subnet": "fd00:240:0:3::/64"}]]`},
	} {
		text, err := c.fill(name, "node1", netip.MustParsePrefix("10.240.3.0/24"), netip.MustParsePrefix("fd00:240:0:3::/64"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, piece := range want {
			if !strings.Contains(string(text), piece) {
				t.Errorf("%s has no %s:\n%s", name, piece, text)
			}
		}
		if name == "cni.conflist" && !json.Valid(text) {
			t.Errorf("%s is no JSON:\n%s", name, text)
		}
	}
	if text, err := shopManifests(); err != nil || strings.Contains(text, "{{") || strings.Count(text, "kind: Service\n") != len(shopRoles()) {
		t.Errorf("manifests of the shop: %v\n%s", err, text)
	}
}

func TestDaemons(t *testing.T) {
	c := testCluster(t)
	for _, name := range controlDaemons {
		if d, err := c.controlDaemon(name); err != nil || d.argv[0] != "/built/bin/"+name {
			t.Errorf("%s: %v, %v", name, d.argv, err)
		}
	}
	for _, name := range nodeDaemons {
		if d, err := c.nodeDaemon("node2", name); err != nil || d.argv[0] != "/built/bin/"+name {
			t.Errorf("%s: %v, %v", name, d.argv, err)
		}
	}
	if _, err := c.controlDaemon("kubelet"); err == nil {
		t.Error("the control plane has a kubelet")
	}
	if _, err := c.nodeDaemon("node2", "etcd"); err == nil {
		t.Error("a node has an etcd")
	}
	if _, err := c.nodeDaemon("outside", "kubelet"); err == nil {
		t.Error("a kubelet runs outside")
	}
}

// TestImages holds that an archive is what containerd reads, has a layer that two
// images share once, and is the same for the same files.
func TestImages(t *testing.T) {
	build := func() []byte {
		t.Helper()
		files := newTree()
		files.users()
		files.text("etc/deep/er/file", "text")
		files.link("bin/sh", "busybox")
		shared, err := files.layer()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = writeImages(&out, []image{
			{name: "localhost/a:1", layers: []layer{shared}, entrypoint: []string{"/a"}},
			{name: "localhost/b:1", layers: []layer{shared}, user: "65532"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	archive := build()
	if !bytes.Equal(archive, build()) {
		t.Error("the same files make another archive")
	}
	names, _ := unpack(t, archive)
	layers := slices.DeleteFunc(slices.Sorted(maps.Keys(names)), func(name string) bool { return !strings.HasSuffix(name, "/layer.tar") })
	if len(layers) != 1 {
		t.Fatalf("layers %v, want one", layers)
	}
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(names["manifest.json"], &manifest); err != nil || len(manifest) != 2 {
		t.Fatalf("manifest: %v, %v", manifest, err)
	}
	for i, want := range []string{"localhost/a:1", "localhost/b:1"} {
		m := manifest[i]
		if !slices.Equal(m.RepoTags, []string{want}) || !slices.Equal(m.Layers, layers) || !json.Valid(names[m.Config]) {
			t.Errorf("image %d: %+v", i, m)
		}
	}
	// A folder comes before what is in it.
	_, inside := unpack(t, names[layers[0]])
	for i, name := range inside {
		if dir := filepath.Dir(strings.TrimSuffix(name, "/")); dir != "." && !slices.Contains(inside[:i], dir+"/") {
			t.Errorf("%s comes before its folder: %v", name, inside)
		}
	}
	broken := newTree()
	broken.file("a", "/no/such/file", 0o644)
	if _, err := broken.layer(); err == nil {
		t.Error("a layer without one of its files")
	}
}

// unpack gives the files of an archive, and the names of all entries in order.
func unpack(t *testing.T, archive []byte) (map[string][]byte, []string) {
	t.Helper()
	files, names := make(map[string][]byte), []string(nil)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, names
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name], names = text, append(names, h.Name)
	}
}
