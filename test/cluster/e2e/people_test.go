package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/internal/testkit"
	"warren/test/cluster/bed"
)

// openShop is the cluster with Warren and the shop, whose traffic goes on.
func openShop(t *testing.T) *testCluster {
	t.Helper()
	c := warren(t)
	c.must(c.Shop(c.context()))
	return c
}

// in is the cluster as a part of a test sees it.
func (c *testCluster) in(t *testing.T) *testCluster {
	part := *c
	part.t = t
	return &part
}

// An answer is what a program said.
type answer struct {
	out, errors string
	code        int
}

// rows are the lines of JSON of an answer, without those for everybody.
func (a answer) rows(t *testing.T) []event {
	t.Helper()
	var all []event
	for line := range strings.Lines(a.out) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("a line that is not JSON: %s", line)
		}
		if kind := e.text("evt.kind"); kind != "nodes" && kind != "lost" {
			all = append(all, e)
		}
	}
	return all
}

// namespacesOf counts rows by namespace; those of the nodes themselves are in "".
func namespacesOf(rows []event) map[string]int {
	n := make(map[string]int)
	for _, e := range rows {
		n[e.text("k8s.ns.name")]++
	}
	return n
}

// as runs a program beside the API server with a kubeconfig, the
// administrator's if empty.
func (c *testCluster) as(kubeconfig string, argv ...string) answer {
	c.t.Helper()
	var env []string
	if kubeconfig != "" {
		env = []string{"KUBECONFIG=" + kubeconfig}
	}
	return c.program("control", env, argv...)
}

// program runs a program in a place and gives what it said, whether it was
// content or not.
func (c *testCluster) program(where string, env []string, argv ...string) answer {
	c.t.Helper()
	cmd, err := c.In(c.context(), where, argv...)
	c.must(err)
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return answer{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// person makes somebody who may get pods in namespaces, and gives their
// kubeconfig.
func (c *testCluster) person(name string, namespaces ...string) string {
	c.t.Helper()
	name += "-" + c.namespace
	kubeconfig, err := c.User(name, "")
	c.must(err)
	for _, ns := range namespaces {
		c.mayGetPods(ns, "kind: User, name: "+name, name)
	}
	return kubeconfig
}

// mayGetPods lets a subject get pods in a namespace, until the test ends.
func (c *testCluster) mayGetPods(namespace, subject, name string) {
	c.t.Helper()
	c.apply(fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: %[2]s, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[2]s, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[2]s}
subjects: [{%[3]s}]
`, namespace, name, subject))
	c.t.Cleanup(func() { c.try("-n", namespace, "delete", "role,rolebinding", name, "--ignore-not-found") })
}

// serviceAccount makes an account in the test's namespace that may get pods in
// others, and gives a token of it.
func (c *testCluster) serviceAccount(name string, namespaces ...string) string {
	c.t.Helper()
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: ServiceAccount, metadata: {name: %s, namespace: %s}}", name, c.namespace))
	for _, ns := range namespaces {
		c.mayGetPods(ns, fmt.Sprintf("kind: ServiceAccount, name: %s, namespace: %s", name, c.namespace), c.namespace+"-"+name)
	}
	return strings.TrimSpace(c.kubectl("create", "token", name))
}

// TestClusterPeople holds that people see what pods do in whose namespaces they
// may get pods, and nothing else, by whichever way they ask.
func TestClusterPeople(t *testing.T) {
	c := openShop(t)
	c.ticker("people", c.RunningNodes()[1])
	shopper, nobody := c.person("shopper", "shop"), c.person("nobody")

	t.Run("who may everywhere", func(t *testing.T) {
		c := c.in(t)
		for _, noun := range []string{"process", "connection"} {
			got := namespacesOf(c.as("", "kubectl", "warren", noun, "list", "-A", "-o", "json").rows(t))
			for _, ns := range []string{"", "kube-system", "shop"} {
				if got[ns] == 0 {
					t.Errorf("%s list has nothing of namespace %q: %v", noun, ns, got)
				}
			}
		}
		// Others can see what happened in the test's namespace only if it did.
		got := namespacesOf(c.as("", "kubectl", "warren", "events", "-n", c.namespace, "-o", "json", "--limit", "3", ticks).rows(t))
		if got[c.namespace] != 3 || len(got) != 1 {
			t.Errorf("events of %s: %v", c.namespace, got)
		}
	})
	t.Run("who may in the shop", func(t *testing.T) {
		c := c.in(t)
		for _, list := range [][]string{
			{"process", "list", "-A"}, {"connection", "list", "-A"}, {"events", "-A", "--limit", "200"},
			{"process", "list", "-n", "shop"}, {"events", "-n", "shop", "--limit", "50"},
			{"process", "list", "-A", "k8s.ns.name != shop or k8s.ns.name = shop"},
		} {
			a := c.as(shopper, append(append([]string{"kubectl", "warren"}, list...), "-o", "json")...)
			rows := a.rows(t)
			if got := namespacesOf(rows); a.code != 0 || got["shop"] == 0 || len(got) != 1 {
				t.Errorf("%v: exit code %d, rows by namespace %v\n%s", list, a.code, got, a.errors)
			}
		}
		for _, list := range [][]string{
			{"process", "list", "-n", "kube-system"}, {"connection", "list", "-n", "kube-system"}, {"process", "list", "-n", c.namespace},
			{"process", "list", "-A", "k8s.ns.name != shop"}, {"process", "list", "-A", "not k8s.pod.name exists"},
		} {
			a := c.as(shopper, append(append([]string{"kubectl", "warren"}, list...), "-o", "json")...)
			if rows := a.rows(t); a.code != 0 || len(rows) > 0 {
				t.Errorf("%v: exit code %d, %d rows: %v\n%s", list, a.code, len(rows), rows, a.errors)
			}
		}
		// A process of another namespace is as if there were none.
		other := c.as("", "kubectl", "warren", "process", "list", "-n", c.namespace, "-o", "json", "proc.name = sh").rows(t)
		if len(other) == 0 {
			t.Fatal("no process of the test's own namespace")
		}
		if a := c.as(shopper, "kubectl", "warren", "process", "show", other[0].text("proc.exec_id")); a.code == 0 || a.out != "" {
			t.Errorf("process show of another namespace: exit code %d: %s%s", a.code, a.out, a.errors)
		}
		m := c.drawn(shopper, "-A")
		for _, e := range m.Edges {
			if m.node(e.From).Namespace != "shop" && m.node(e.To).Namespace != "shop" {
				t.Errorf("an edge of others: %+v", e)
			}
		}
		if len(m.Edges) == 0 {
			t.Error("no edge at all")
		}
		if a := c.as(shopper, "kubectl", "warren", "status", "-o", "json"); a.code != 0 || strings.Contains(a.out, "cgroup_root") {
			t.Errorf("exit code %d; the agents' own status is for who may see everything: %s%s", a.code, a.out, a.errors)
		}
	})
	t.Run("who may nowhere", func(t *testing.T) {
		c := c.in(t)
		for _, list := range [][]string{{"process", "list", "-A"}, {"connection", "list"}, {"events", "-A"}, {"map", "-A"}, {"status"}, {"process", "list", "-n", "shop"}} {
			a := c.as(nobody, append(append([]string{"kubectl", "warren"}, list...), "-o", "json")...)
			if want := "nobody-" + c.namespace + " may not get pods in any namespace"; a.code != 1 || a.out != "" || !strings.Contains(a.errors, want) {
				t.Errorf("%v: exit code %d, want 1 and %q\n%s%s", list, a.code, want, a.out, a.errors)
			}
		}
		if n := c.hubSaid("why=rights", "nobody-"+c.namespace); n == 0 {
			t.Error("the hubs' logs do not have who was refused")
		}
	})
	t.Run("who is acted as", func(t *testing.T) {
		c := c.in(t)
		// The API server says who asks, not the kubeconfig.
		a := c.as("", "kubectl", "warren", "process", "list", "-A", "-o", "json", "--as", "shopper-"+c.namespace)
		if got := namespacesOf(a.rows(t)); got["shop"] == 0 || len(got) != 1 {
			t.Errorf("%v\n%s", got, a.errors)
		}
		if a := c.as(shopper, "kubectl", "warren", "process", "list", "-A", "--as", "admin", "--as-group", "system:masters"); a.code == 0 || a.out != "" {
			t.Errorf("who may not act as another: exit code %d\n%s%s", a.code, a.out, a.errors)
		}
	})
}

// hubSaid counts the lines of all hubs' logs that have every word.
func (c *testCluster) hubSaid(words ...string) int {
	c.t.Helper()
	return said(c.kubectl("-n", "warren", "logs", "-l", "app.kubernetes.io/component=hub", "--tail=-1"), words...)
}

// said counts the lines of a log that have every word.
func said(log string, words ...string) (n int) {
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// secret gives the data of a secret of Warren's.
func (c *testCluster) secret(name string) map[string][]byte {
	c.t.Helper()
	var s struct{ Data map[string][]byte }
	c.must(c.API(c.context(), http.MethodGet, "/api/v1/namespaces/warren/secrets/"+name, nil, &s))
	return s.Data
}

// pool is the authorities of a text in PEM.
func pool(t testing.TB, text []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(text) {
		t.Fatal("no certificate in PEM")
	}
	return p
}

// A stranger asks a server straight, from a node.
type stranger struct {
	cert   *tls.Certificate // nil for none
	roots  *x509.CertPool   // whom it believes; nil for Warren's authorities
	header http.Header
	token  string
}

// ask gives the code of the answer and its text.
func (s stranger) ask(c *testCluster, serverName, url string) (int, string, error) {
	roots := s.roots
	if roots == nil {
		roots = pool(c.t, c.secret("warren-hub-tls")["ca.crt"])
	}
	config := &tls.Config{RootCAs: roots, ServerName: serverName}
	if s.cert != nil {
		// Whatever authorities the server says it believes.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.cert, nil }
	}
	node := c.RunningNodes()[0]
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.Dial(ctx, node, network, address)
		}}}
	req, err := http.NewRequestWithContext(c.context(), http.MethodGet, url, nil)
	c.must(err)
	maps.Copy(req.Header, s.header)
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// pki is the path of a file of the cluster's own authorities.
func (c *testCluster) pki(name string) string {
	return filepath.Join(filepath.Dir(c.Kubeconfig()), name)
}

// pair is a certificate from a secret or from files.
func pair(t *testing.T, cert, key []byte) *tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// frontProxy is the authority by which the API server's front proxy is known.
func (c *testCluster) frontProxy() *testkit.Authority {
	c.t.Helper()
	cert, err := os.ReadFile(c.pki("front-proxy-ca.crt"))
	c.must(err)
	key, err := os.ReadFile(c.pki("front-proxy-ca.key"))
	c.must(err)
	return testkit.OpenAuthority(c.t, cert, key)
}

// endedToken is a service account's token as the cluster's key signs it, that
// ended an hour ago.
func (c *testCluster) endedToken(account string) string {
	c.t.Helper()
	text, err := os.ReadFile(c.pki("sa.key"))
	c.must(err)
	block, _ := pem.Decode(text)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	c.must(err)
	part := func(v any) string {
		text, err := json.Marshal(v)
		c.must(err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	signed := part(map[string]any{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": "https://kubernetes.default.svc", "aud": []string{"https://kubernetes.default.svc"},
		"iat": now.Add(-2 * time.Hour).Unix(), "nbf": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(-time.Hour).Unix(),
		"sub": "system:serviceaccount:" + c.namespace + ":" + account,
		"kubernetes.io": map[string]any{"namespace": c.namespace, "serviceaccount": map[string]any{"name": account,
			"uid": c.kubectl("get", "serviceaccount", account, "-o", "jsonpath={.metadata.uid}")}},
	})
	hash := sha256.Sum256([]byte(signed))
	sum, err := rsa.SignPKCS1v15(rand.Reader, parsed.(*rsa.PrivateKey), crypto.SHA256, hash[:])
	c.must(err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sum)
}

// TestClusterStrangers holds that nobody gets in who is not known, whatever they
// say that they are, and that each who tried is in the log.
func TestClusterStrangers(t *testing.T) {
	c := openShop(t)
	foreign := testkit.NewAuthority(t, "front-proxy-ca") // by its name the true one
	front := c.frontProxy()
	subject := func(name string, groups ...string) func(*x509.Certificate) {
		return func(cert *x509.Certificate) { cert.Subject = pkix.Name{CommonName: name, Organization: groups} }
	}
	issue := func(a *testkit.Authority, change func(*x509.Certificate), names ...string) *tls.Certificate {
		cert, key := a.Issue(t, change, names...)
		return pair(t, cert, key)
	}
	read := func(name string) []byte {
		text, err := os.ReadFile(c.pki(name))
		c.must(err)
		return text
	}
	admin := http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}
	hub := "https://" + strings.TrimSpace(c.kubectl("-n", "warren", "get", "service", "warren-hub", "-o", "jsonpath={.spec.clusterIP}"))
	small, none := c.serviceAccount("small", "shop"), c.serviceAccount("none")

	t.Run("hub", func(t *testing.T) {
		c := c.in(t)
		for _, test := range []struct {
			name string
			who  stranger
			code int
			why  string // in the log
		}{
			{"nobody", stranger{}, 401, "no_credentials"},
			{"says who asks", stranger{header: admin}, 401, "no_credentials"},
			{"a certificate of a foreign authority", stranger{cert: issue(foreign, subject("front-proxy-client")), header: admin}, 401, "certificate"},
			{"a front proxy's that has ended", stranger{header: admin, cert: issue(front, func(cert *x509.Certificate) {
				subject("front-proxy-client")(cert)
				cert.NotAfter = time.Now().Add(-time.Minute)
			})}, 401, "certificate"},
			{"another name of the front proxy's authority", stranger{cert: issue(front, subject("admin", "system:masters")), header: admin}, 401, "certificate"},
			{"the administrator's own certificate", stranger{cert: pair(t, read("admin.crt"), read("admin.key")), header: admin}, 401, "certificate"},
			{"an agent", stranger{cert: pair(t, c.secret("warren-agent-tls")["tls.crt"], c.secret("warren-agent-tls")["tls.key"]), header: admin}, 401, "certificate"},
			{"the front proxy, without who asks", stranger{cert: pair(t, read("front-proxy-client.crt"), read("front-proxy-client.key"))}, 401, "headers"},
			{"garbage for a token", stranger{token: "garbage"}, 401, "token"},
			{"not even a token", stranger{token: "this, that"}, 401, "token"},
			{"a token that has ended", stranger{token: c.endedToken("small")}, 401, "token"},
			{"a token for somebody else", stranger{token: strings.TrimSpace(c.kubectl("create", "token", "small", "--audience=vault"))}, 401, "token"},
			{"a token whose signature is another's", stranger{token: small[:strings.LastIndex(small, ".")] + none[strings.LastIndex(none, "."):]}, 401, "token"},
			{"who may nowhere", stranger{token: none}, 403, "rights"},
			{"who may nowhere and says who asks", stranger{token: none, header: admin}, 403, "rights"},
		} {
			t.Run(test.name, func(t *testing.T) {
				c := c.in(t)
				path := "/v1/processes/" + rand.Text() // as nothing else in the log
				code, text, err := test.who.ask(c, "hub.warren", hub+path)
				if err != nil || code != test.code {
					t.Fatalf("%d %q, %v; want %d", code, text, err, test.code)
				}
				c.eventually("a line in a hub's log", func(context.Context) error {
					if n := c.hubSaid("msg=refused", "why="+test.why, path); n != 1 {
						return fmt.Errorf("%d lines of why=%s and %s", n, test.why, path)
					}
					return nil
				})
				log := c.kubectl("-n", "warren", "logs", "-l", "app.kubernetes.io/component=hub", "--tail=-1")
				if token := test.who.token; len(token) > 20 && strings.Contains(log, token[:20]) {
					t.Error("the token is in the log")
				}
			})
		}
		// Who is known by their token stays who they are.
		code, text, err := stranger{token: small, header: admin}.ask(c, "hub.warren", hub+"/v1/processes")
		if err != nil || code != http.StatusOK {
			t.Fatalf("%d %s, %v", code, text, err)
		}
		if got := namespacesOf(answer{out: text}.rows(t)); got["shop"] == 0 || len(got) != 1 {
			t.Errorf("who may in the shop and says to be admin is told of %v", got)
		}
	})
	t.Run("API server", func(t *testing.T) {
		c := c.in(t)
		// It does not pass on what it has not let in.
		for name, args := range map[string][]string{
			"garbage":   {"--token=garbage"},
			"ended":     {"--token=" + c.endedToken("small")},
			"no person": {"--token=" + none},
		} {
			a := c.as(c.kubeconfig(""), append([]string{"kubectl", "warren", "process", "list", "-A"}, args...)...)
			if a.code != 1 || a.out != "" || a.errors == "" {
				t.Errorf("%s: exit code %d\n%s%s", name, a.code, a.out, a.errors)
			}
		}
		for name, cert := range map[string]*tls.Certificate{
			"foreign": issue(testkit.NewAuthority(t, "ca"), subject("admin", "system:masters")),
			"ended": issue(testkit.OpenAuthority(t, read("ca.crt"), read("ca.key")), func(cert *x509.Certificate) {
				subject("admin", "system:masters")(cert)
				cert.NotAfter = time.Now().Add(-time.Minute)
			}),
		} {
			if a := c.as(c.withCertificate(cert), "kubectl", "warren", "process", "list", "-A"); a.code != 1 || a.out != "" || !strings.Contains(a.errors, "does not accept your credentials") {
				t.Errorf("%s: exit code %d\n%s%s", name, a.code, a.out, a.errors)
			}
		}
	})
	t.Run("agents", func(t *testing.T) {
		c := c.in(t)
		ca := c.secret("warren-ca")
		warren := testkit.OpenAuthority(t, ca["tls.crt"], ca["tls.key"])
		agent := c.secret("warren-agent-tls")
		address := c.addressOf(c.RunningNodes()[0])
		refused := func() int {
			_, text, err := stranger{}.ask(c, "", "http://"+address+":9118/metrics")
			c.must(err)
			return metric(t, text, "warren_clients_refused_total")
		}
		for _, port := range []string{"7118", "4244"} {
			for _, test := range []struct {
				name string
				cert *tls.Certificate
				said string
			}{
				{"nobody", nil, `certificate=""`},
				{"a foreign authority's hub", issue(foreign, nil, "hub.warren"), "by CN=front-proxy-ca"},
				{"an agent", pair(t, agent["tls.crt"], agent["tls.key"]), "[agent.warren]"},
				{"a hub's that has ended", issue(warren, func(cert *x509.Certificate) { cert.NotAfter = time.Now().Add(-time.Minute) }, "hub.warren"), "[hub.warren] by CN=warren"},
			} {
				// Of those who come within a second the log has one.
				c.eventually("the agent to tell of "+test.name, func(context.Context) error {
					before := refused()
					if code, text, err := (stranger{cert: test.cert, header: admin, token: small}).ask(c, "agent.warren", "https://"+address+":"+port+"/v1/processes"); err == nil {
						t.Fatalf("%s at port %s: %d %s", test.name, port, code, text)
					}
					// The client knows before the agent has counted.
					log := c.kubectl("-n", "warren", "logs", "-l", "app.kubernetes.io/component=agent", "--tail=-1")
					if n := refused(); n != before+1 {
						return fmt.Errorf("%d refused, before %d", n, before)
					}
					if said(log, "a client was refused", test.said) == 0 {
						return fmt.Errorf("no line with %s in the log", test.said)
					}
					return nil
				})
			}
		}
		hubs := c.secret("warren-hub-tls")
		if code, text, err := (stranger{cert: pair(t, hubs["tls.crt"], hubs["tls.key"])}).ask(c, "agent.warren", "https://"+address+":7118/v1/status"); err != nil || code != http.StatusOK {
			t.Errorf("a hub: %d %s, %v", code, text, err)
		}
	})
}

// addressOf gives an address of a node.
func (c *testCluster) addressOf(node string) string {
	c.t.Helper()
	return strings.Fields(c.kubectl("get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`))[0]
}

// metric gives a counter without labels out of a text for Prometheus.
func metric(t *testing.T, text, name string) (n int) {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %s", name, text)
	return 0
}

// kubeconfig writes one for the cluster, with what it says of its user in YAML.
func (c *testCluster) kubeconfig(user string) string {
	c.t.Helper()
	ca, err := os.ReadFile(c.pki("ca.crt"))
	c.must(err)
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}], users: [{name: u, user: {%s}}]}`,
		c.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"), base64.StdEncoding.EncodeToString(ca), user)
	file := filepath.Join(c.t.(*testing.T).TempDir(), "kubeconfig")
	c.must(os.WriteFile(file, []byte(text), 0o600))
	return file
}

// withCertificate gives a kubeconfig of somebody with a certificate.
func (c *testCluster) withCertificate(cert *tls.Certificate) string {
	c.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	c.must(err)
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return c.kubeconfig("client-certificate-data: " + encode("CERTIFICATE", cert.Certificate[0]) + ", client-key-data: " + encode("PRIVATE KEY", key))
}

// rowsOf counts the events of a namespace that have come.
func (s *stream) rowsOf(namespace string) int { return namespacesOf(s.all())[namespace] }

// TestClusterRightsEnd holds that what somebody may not see any more is gone
// from a stream that runs, that a stream ends which has nothing left, and that a
// namespace can be deleted while it is watched.
func TestClusterRightsEnd(t *testing.T) {
	c := warren(t)
	lost, deleted, kept := c.namespace+"-lost", c.namespace+"-deleted", c.namespace
	for i, ns := range []string{lost, deleted} {
		c.apply(fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", ns))
		t.Cleanup(func() { c.try("delete", "namespace", ns, "--ignore-not-found", "--wait=false") })
		other := *c
		other.namespace = ns
		other.eventually("a service account", func(ctx context.Context) error {
			_, err := c.Kubectl(ctx, "-n", ns, "get", "serviceaccount", "default")
			return err
		})
		other.ticker("ticker", c.RunningNodes()[i])
	}
	c.ticker("ticker", c.RunningNodes()[0])
	loses, losesAll := c.person("loses", lost, deleted, kept), c.person("losesall", lost)

	follow := func(kubeconfig string, args ...string) *stream {
		return c.follow("control", append([]string{"env", "KUBECONFIG=" + kubeconfig, "kubectl", "warren", "events", "-o", "json", ticks}, args...)...)
	}
	one, all := follow(loses, "-A"), follow(losesAll, "-A")
	watched := c.events("-n", deleted, ticks)
	c.eventually("events of all namespaces", func(context.Context) error {
		for _, ns := range []string{lost, deleted, kept} {
			if n := one.rowsOf(ns); n < 5 {
				return fmt.Errorf("%d of %s", n, ns)
			}
		}
		if all.rowsOf(lost) < 5 || watched.rowsOf(deleted) < 5 {
			return fmt.Errorf("%d and %d", all.rowsOf(lost), watched.rowsOf(deleted))
		}
		return nil
	})
	if got := namespacesOf(all.all()); len(got) != 2 { // and the lines about nodes
		t.Errorf("who may in %s sees %v", lost, got)
	}
	revoked := time.Now()
	for _, name := range []string{"loses", "losesall"} {
		_, err := c.Kubectl(c.context(), "-n", lost, "delete", "rolebinding", name+"-"+kept)
		c.must(err)
	}
	_, err := c.Kubectl(c.context(), "delete", "namespace", deleted, "--wait=true", "--timeout="+bed.Patience.String())
	c.must(err)

	c.eventually("the stream of who lost everything to end", func(context.Context) error {
		select {
		case <-all.ended:
			return nil
		default:
			return fmt.Errorf("%v after the right was taken away it goes on", time.Since(revoked))
		}
	})
	if code := all.cmd.ProcessState.ExitCode(); code != 1 || all.errors.Len() == 0 {
		t.Errorf("it ended with exit code %d and %q: nobody would know why", code, all.errors.String())
	}
	c.eventually("rows of who lost one namespace to end", func(context.Context) error {
		rows := one.all()
		if len(rows) > 50 {
			rows = rows[len(rows)-50:]
		}
		got := namespacesOf(rows)
		if got[lost]+got[deleted] > 0 || got[kept] < 40 {
			return fmt.Errorf("of the last %d rows: %v", len(rows), got)
		}
		return nil
	})
	if late := time.Since(revoked); late > 60*time.Second {
		t.Errorf("it took %v: 30 s are promised", late)
	}
	// The pods that nobody may see any more are there, and their events are told.
	if n := namespacesOf(c.as("", "kubectl", "warren", "events", "-n", lost, "-o", "json", "--limit", "3", ticks).rows(t))[lost]; n != 3 {
		t.Errorf("%d events of %s for who may see them", n, lost)
	}
	for name, s := range map[string]*stream{"of who has one left": one, "of the namespace that was deleted": watched} {
		select {
		case <-s.ended:
			t.Errorf("the stream %s has ended: %s", name, s.errors.String())
		default:
		}
	}
}
