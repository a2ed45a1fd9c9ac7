package rule

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/event"
)

// auditRules are shaped as those that people have for audit logs.
const auditRules = `
- required_engine_version: 15
- required_plugin_versions:
  - name: k8saudit
    version: 0.7.0
    alternatives: [{name: k8saudit-eks, version: 0.4.0}]
  - {name: json, version: 0.7.0}
- macro: always
  condition: (jevt.rawtime exists)
- macro: never
  condition: (jevt.rawtime=0)
- list: stages
  items: ["ResponseComplete"]
- macro: complete
  condition: (jevt.value[/stage] in (stages))
- list: trusted
  items: [registry.example/agent, docker.io/node]
- macro: pod
  condition: ka.target.resource=pods and not ka.target.subresource exists
- rule: Privileged Pod
  desc: d
  condition: complete and pod and ka.verb=create and (ka.req.pod.containers.privileged intersects (true) or ka.req.pod.initContainers.privileged intersects (true)) and not ka.req.pod.containers.image.repository in (trusted)
  output: privileged (user=%ka.user.name pod=%ka.resp.name ns=%ka.target.namespace images=%ka.req.pod.containers.image first=%ka.req.pod.containers.image[0] volumes=%jevt.value[/requestObject/spec/volumes])
  priority: WARNING
  source: k8s_audit
- rule: Exec
  desc: d
  condition: (jevt.value[/stage]=ResponseStarted) and ka.target.resource=pods and ka.target.subresource in (exec,attach) and (ka.verb=create or ka.verb=get) and not never
  output: "%ka.target.subresource of %ka.target.name by %ka.user.name: %ka.uri.param[command]"
  priority: NOTICE
  source: k8s_audit
- rule: Secret
  desc: d
  condition: complete and ka.target.resource=secrets and ka.verb in (get, list) and ka.target.namespace!=kube-system and not ka.user.name startswith "system:" and ka.response.code startswith 2
  output: "%ka.target.name"
  priority: INFO
  source: k8s_audit
- rule: Wildcard
  desc: d
  condition: complete and always and ka.target.resource in (roles, clusterroles) and (ka.req.role.rules.resources intersects ("*") or ka.req.role.rules.verbs intersects ("*"))
  output: "%ka.req.role.rules"
  priority: WARNING
  source: k8s_audit
- rule: Everybody
  desc: d
  condition: not ka.verb = get and evt.source = k8s_audit
  output: "%ka.none"
  priority: DEBUG
  source: k8s_audit
  skip-if-unknown-filter: true
- rule: Shell
  desc: d
  condition: evt.type = execve and not proc.name = cat
  output: "%proc.name"
  priority: INFO
`

func auditEvent(t *testing.T, text string) *event.Event {
	t.Helper()
	e, err := event.ParseAudit([]byte(`{"auditID":"a","stageTimestamp":"2026-11-21T10:00:00Z",` + text + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestAuditRules matches requests to an API server, and nothing else.
func TestAuditRules(t *testing.T) {
	set, findings := Load([]File{{"a.yaml", []byte(auditRules)}}, Config{Add: []Addition{{Suggested: true}}})
	if set == nil || len(findings) != 1 || findings[0].Code != WarnUnknownFilter {
		t.Fatal(findings)
	}
	w := NewMatcher(set).NewWorker()
	const complete, started = `"stage":"ResponseComplete",`, `"stage":"ResponseStarted",`
	pod := func(containers string) string {
		return complete + `"verb":"create","user":{"username":"ann"},"objectRef":{"resource":"pods","namespace":"shop"},"responseObject":{"metadata":{"name":"x"}},"requestObject":{"spec":{"volumes":[{"name":"v"}],` + containers + `}}`
	}
	for _, tt := range []struct {
		e    *event.Event
		want string
	}{
		{auditEvent(t, pod(`"containers":[{"image":"a:1"},{"image":"b:1","securityContext":{"privileged":true}}]`)),
			`Privileged Pod: privileged (user=ann pod=x ns=shop images=(a:1,b:1) first=(a:1) volumes=[{"name":"v"}])`},
		{auditEvent(t, pod(`"containers":[{"image":"a:1"}],"initContainers":[{"image":"b:1","securityContext":{"privileged":true}}]`)),
			`Privileged Pod: privileged (user=ann pod=x ns=shop images=(a:1) first=(a:1) volumes=[{"name":"v"}])`},
		{auditEvent(t, pod(`"containers":[{"image":"docker.io/node:1","securityContext":{"privileged":true}},{"image":"a:1"}]`)),
			`Privileged Pod: privileged (user=ann pod=x ns=shop images=(docker.io/node:1,a:1) first=(docker.io/node:1) volumes=[{"name":"v"}])`},
		{auditEvent(t, pod(`"containers":[{"image":"docker.io/node:1","securityContext":{"privileged":true}},{"image":"registry.example/agent@sha256:1"}]`)), ``},
		{auditEvent(t, pod(`"containers":[{"image":"a:1","securityContext":{"privileged":false}}]`)), ``},
		{auditEvent(t, strings.Replace(pod(`"containers":[{"image":"a:1","securityContext":{"privileged":true}}]`), `"namespace"`, `"subresource":"status","namespace"`, 1)), ``},
		{auditEvent(t, started+`"verb":"get","user":{"username":"eve"},"requestURI":"/x?command=cat&command=a","objectRef":{"resource":"pods","subresource":"exec","name":"web"}`), `Exec: exec of web by eve: cat`},
		{auditEvent(t, started+`"verb":"create","user":{"username":"eve"},"objectRef":{"resource":"pods","subresource":"attach","name":"web"}`), `Exec: attach of web by eve: <NA>`},
		{auditEvent(t, complete+`"verb":"create","user":{"username":"eve"},"objectRef":{"resource":"pods","subresource":"exec","name":"web"}`), ``},
		{auditEvent(t, complete+`"verb":"get","user":{"username":"eve"},"objectRef":{"resource":"secrets","namespace":"shop","name":"s"},"responseStatus":{"code":200}`), `Secret: s`},
		{auditEvent(t, complete+`"verb":"get","user":{"username":"eve"},"objectRef":{"resource":"secrets","namespace":"shop","name":"s"},"responseStatus":{"code":403}`), ``},
		{auditEvent(t, complete+`"verb":"get","user":{"username":"system:node:a"},"objectRef":{"resource":"secrets","namespace":"shop","name":"s"},"responseStatus":{"code":200}`), ``},
		{auditEvent(t, complete+`"verb":"create","objectRef":{"resource":"clusterroles"},"requestObject":{"rules":[{"verbs":["get"]},{"verbs":["*"]}]}`), `Wildcard: ({"verbs":["get"]},{"verbs":["*"]})`},
		{&event.Event{Process: &event.Process{Name: "sh"}, Data: &event.Exec{Type: "execve"}},
			`Shell: sh container_id=host container_name=host container_image_repository=<NA> container_image_tag=<NA> k8s_pod_name=<NA> k8s_ns_name=<NA>`},
	} {
		var said []string
		for _, r := range w.Match(tt.e) {
			said = append(said, r.Name+": "+string(r.Format.Append(nil, tt.e)))
		}
		if got := strings.Join(said, "; "); got != tt.want {
			t.Errorf("%.200s\nsaid %s\nwant %s", event.AppendJSON(nil, tt.e), got, tt.want)
		}
	}
	r, _ := set.Rule("Privileged Pod")
	e := auditEvent(t, pod(`"containers":[{"image":"a:1"},{"image":"b:1"}]`))
	want := `{"jevt.value[/requestObject/spec/volumes]":"[{\"name\":\"v\"}]","ka.req.pod.containers.image":["a:1","b:1"],"ka.req.pod.containers.image[0]":["a:1"],"ka.resp.name":"x","ka.target.namespace":"shop","ka.user.name":"ann"}`
	if d := cmp.Diff(want, string(r.Format.AppendFields(nil, e))); d != "" {
		t.Error(d)
	}
	other := auditEvent(t, complete+`"verb":"get","objectRef":{"resource":"pods"},"requestObject":{"spec":{}}`)
	if n := testing.AllocsPerRun(100, func() { w.Match(other) }); n > 0 && !raceEnabled {
		t.Errorf("%v allocations for an event that no rule matches", n)
	}
}
