package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/testkit"
)

// auditRules are about what no system call shows.
const auditRules = `
- macro: complete
  condition: (jevt.value[/stage] = ResponseComplete)
- rule: exec
  desc: d
  condition: ka.stage = ResponseStarted and ka.target.resource = pods and ka.target.subresource in (exec, attach)
  output: "%ka.user.name %ka.target.subresource %ka.target.namespace/%ka.target.name %ka.uri.param[command]"
  priority: NOTICE
  source: k8s_audit
- rule: secret
  desc: d
  condition: complete and ka.target.resource = secrets and ka.verb = get and ka.response.code startswith 2
  output: "%ka.user.name %ka.target.name"
  priority: ERROR
  source: k8s_audit
  tags: [k8s]
- rule: admin
  desc: d
  condition: complete and ka.target.resource = clusterrolebindings and ka.verb = create and ka.req.binding.role = cluster-admin
  output: "%ka.req.binding.subjects.user_names"
  priority: WARNING
  source: k8s_audit
- rule: privileged
  desc: d
  condition: complete and ka.target.resource = pods and not ka.target.subresource exists and ka.verb = create and ka.req.pod.containers.privileged intersects (true)
  output: "%ka.resp.name %ka.req.pod.containers.image"
  priority: WARNING
  source: k8s_audit
- rule: machine
  desc: a rule about this machine sees no request to an API server
  condition: evt.type in (execve, audit) and not proc.name = none and evt.source = k8s_audit
  output: o
  priority: WARNING
`

// audited is an event of a time as an API server writes it.
func audited(at time.Time, id, stage, verb, user, target, more string) string {
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":%q,"stage":%q,"verb":%q,"user":{"username":%q},"objectRef":{%s},`+
		`"requestReceivedTimestamp":%[6]q,"stageTimestamp":%[6]q%[7]s}`, id, stage, verb, user, target, at.Format(time.RFC3339Nano), more)
}

// TestE2EKubernetesAudit takes in what an API server sends and writes, and alerts of
// it, exactly.
func TestE2EKubernetesAudit(t *testing.T) {
	authority := testkit.NewAuthority(t, "authority")
	dir := authority.Directory(t, "warren-audit")
	rules, log := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "audit.log")
	testkit.WriteFiles(t, dir, map[string][]byte{"rules.yaml": []byte(auditRules), "token": []byte("secret\n")})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	config := "rules: {path: " + rules + ", aggregate: 0}\nhistory: {filter: 'evt.kind in (alert, k8s_audit)'}\nkubernetes-audit:\n  webhook: {listen: '" + address + "', certificate: " + dir + "/tls.crt, key: " + dir + "/tls.key, token-file: " + dir + "/token}\n  log: " + log + "\n"
	a := start(t, options{config: config})
	f := a.follow("evt.kind in (k8s_audit, alert)") // the history has another text

	pool := x509.NewCertPool()
	pool.AddCert(authority.Cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "warren-audit"}}}
	post := func(token, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/k8s-audit", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	list := func(items ...string) string {
		return `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(items, ",") + `]}`
	}
	testkit.Wait(t, "the webhook", func() bool { // it begins when the rules do
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	now := time.Now().UTC().Truncate(time.Microsecond)
	const pods, secrets = `"resource":"pods","namespace":"shop"`, `"resource":"secrets","namespace":"shop"`
	body := list(
		audited(now, "1", "ResponseStarted", "get", "ann", pods+`,"name":"web","subresource":"exec"`, `,"requestURI":"/api/v1/namespaces/shop/pods/web/exec?command=sh&stdin=true"`),
		audited(now, "1", "ResponseComplete", "get", "ann", pods+`,"name":"web","subresource":"exec"`, `,"responseStatus":{"code":101}`),
		audited(now, "2", "ResponseStarted", "create", "ann", pods+`,"name":"db","subresource":"attach"`, ``),
		audited(now, "3", "ResponseComplete", "get", "eve", secrets+`,"name":"key"`, `,"responseStatus":{"code":200}`),
		audited(now, "4", "ResponseComplete", "get", "eve", secrets+`,"name":"other"`, `,"responseStatus":{"code":403}`),
		audited(now, "5", "ResponseComplete", "create", "eve", `"resource":"clusterrolebindings"`, `,"requestObject":{"roleRef":{"name":"cluster-admin"},"subjects":[{"kind":"User","name":"mallory"}]}`),
		audited(now, "6", "ResponseComplete", "create", "eve", `"resource":"clusterrolebindings"`, `,"requestObject":{"roleRef":{"name":"view"},"subjects":[{"kind":"User","name":"mallory"}]}`),
		audited(now, "7", "ResponseComplete", "create", "ann", pods, `,"responseObject":{"metadata":{"name":"bad"}},"requestObject":{"spec":{"containers":[{"image":"a:1"},{"image":"b:1","securityContext":{"privileged":true}}]}}`),
		audited(now, "8", "ResponseComplete", "create", "ann", pods, `,"requestObject":{"spec":{"containers":[{"image":"a:1"}]}}`),
	)
	if code := post("wrong", body); code != http.StatusUnauthorized {
		t.Errorf("somebody with another token was answered %d", code)
	}
	if code := post("secret", body[1:]); code != http.StatusBadRequest {
		t.Errorf("what is no JSON was answered %d", code)
	}
	for range 2 { // as who has not got the answer
		if code := post("secret", body); code != http.StatusOK {
			t.Fatalf("a list was answered %d", code)
		}
	}
	expected := []string{"exec: ann exec shop/web sh", "exec: ann attach shop/db <NA>", "secret: eve key", "admin: (mallory)", "privileged: bad (a:1,b:1)"}
	said := func(f *follower) (list []string) {
		for _, o := range f.all() {
			if o.str("evt.kind") == "alert" && o.str("alert.source") != "internal" {
				list = append(list, o.str("alert.rule")+": "+o.str("alert.output"))
			}
		}
		return list
	}
	all := func(f *follower, expected []string) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Logf("alerts so far: %q\n%s", said(f), a.warren("status").stdout)
			}
		}()
		testkit.Wait(t, "the alerts", func() bool { return len(said(f)) >= len(expected) })
		got := said(f)
		slices.Sort(got)
		want := slices.Sorted(slices.Values(expected))
		if !slices.Equal(got, want) {
			t.Errorf("alerts are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	all(f, expected)
	want(t, f.wait("the secret", func(o object) bool { return o.str("alert.rule") == "secret" }), map[string]string{
		"alert.source": "k8s_audit", "evt.time": now.Format(time.RFC3339Nano), "alert.evt.type": "audit", "alert.priority": "Error",
	})
	testkit.Wait(t, "the loss", func() bool {
		return slices.ContainsFunc(f.all(), func(o object) bool {
			return o.str("alert.rule") == "Warren: events lost" && strings.Contains(o.str("alert.output"), "k8s_audit (audit)")
		})
	})

	// The log, over rotation and a restart.
	write := func(text string) {
		t.Helper()
		w, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = w.WriteString(text + "\n")
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	secret := func(name string) string {
		return audited(now, name, "ResponseComplete", "get", "log", secrets+`,"name":"`+name+`"`, `,"responseStatus":{"code":200}`)
	}
	rotate := func(to string) {
		t.Helper()
		if err := os.Rename(log, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	write(secret("one"))
	rotate("audit-2026-11-21T10-00-00.000.log")
	write(secret("two"))
	expected = append(expected, "secret: log one", "secret: log two")
	all(f, expected)
	if out := a.ok("status"); !strings.Contains(out, "https://"+address+"/k8s-audit") || !strings.Contains(out, log) {
		t.Errorf("status:\n%s", out)
	}
	if err := a.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	write(secret("three"))
	rotate("audit-2026-11-21T11-00-00.000.log")
	write(secret("four"))
	b := newAgent(t, options{config: config, args: []string{"--state", filepath.Join(a.dir, "state")}})
	b.launch()
	b.waitReady()
	kept := func() string {
		var list []string
		for _, o := range b.objects("events", "evt.kind = alert and alert.rule = secret", "--since", "1h", "--until", "now") {
			if o.str("alert.rule") == "secret" { // and no notice of what was lost
				list = append(list, o.str("alert.output"))
			}
		}
		slices.Sort(list)
		return strings.Join(list, ", ")
	}
	testkit.Wait(t, "all alerts in the history", func() bool { return kept() == "eve key, log four, log one, log three, log two" })
}
