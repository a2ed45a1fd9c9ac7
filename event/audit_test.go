package event

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const auditedPod = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"a-1","stage":"ResponseComplete",
 "requestURI":"/api/v1/namespaces/shop/pods?fieldManager=kubectl&bad=%zz&command=sh&command=-c","verb":"create",
 "user":{"username":"ann","groups":["dev","system:authenticated"]},"impersonatedUser":{"username":"root"},
 "sourceIPs":["10.0.0.1","10.0.0.2"],"userAgent":"kubectl/v1","objectRef":{"resource":"pods","namespace":"shop","apiVersion":"v1"},
 "responseStatus":{"metadata":{},"code":201},
 "requestObject":{"kind":"Pod","metadata":{"name":"x \"y\"","labels":{"a/b":"c","m~n":"o","":"empty"}},"spec":{"hostPID":true,
  "volumes":[{"name":"a","hostPath":{"path":"/etc/kubernetes"}},{"name":"b","emptyDir":{}},{"name":"c","hostPath":{"path":"/proc"}}],
  "securityContext":{"runAsUser":7,"supplementalGroups":[1,2]},
  "initContainers":[{"name":"i","image":"docker.io/a/init:1"}],
  "containers":[
   {"name":"one","image":"a/one@sha256:1","command":["sh","-c"],"args":["a b"],"ports":[{"containerPort":80},{"hostPort":8443,"containerPort":443}]},
   {"name":"two","image":"a/two:2","securityContext":{"privileged":true,"runAsUser":0,"capabilities":{"add":["NET_ADMIN","SYS_TIME"]}}}]}},
 "responseObject":{"metadata":{"name":"x-1"}},
 "requestReceivedTimestamp":"2026-11-21T10:00:00.000001Z","stageTimestamp":"2026-11-21T10:00:00.250000Z",
 "annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC"}}`

const auditedBinding = `{"auditID":"a-2","stage":"ResponseComplete","verb":"create","stageTimestamp":"2026-11-21T10:00:00Z",
 "objectRef":{"resource":"clusterrolebindings","name":"b"},
 "requestObject":{"roleRef":{"name":"cluster-admin"},"subjects":[{"kind":"User","name":"eve"},{"kind":"ServiceAccount","namespace":"n","name":"s"},{"kind":"ServiceAccount","name":"t"},{"kind":"Group","name":"g"}],
 "rules":[{"verbs":["get","*"],"resources":["pods","pods/exec"]},{"verbs":["list"],"nonResourceURLs":["/x"]}],
 "data":{"k":"pass\u0077ord"},"spec":{"type":"NodePort","ports":[{"port":80},{"port":81}]}}}`

// TestAuditFields reads the fields of events.
func TestAuditFields(t *testing.T) {
	events := map[string]*Event{}
	for name, text := range map[string]string{"pod": auditedPod, "binding": auditedBinding, "bare": `{"auditID":"a-3","stageTimestamp":"2026-11-21T10:00:00Z"}`} {
		e, err := ParseAudit([]byte(text))
		if err != nil {
			t.Fatal(name, err)
		}
		events[name] = e
	}
	for _, tt := range []struct{ event, field, want string }{
		{"pod", "evt.type", "audit"},
		{"pod", "evt.kind", "k8s_audit"},
		{"pod", "evt.source", "k8s_audit"},
		{"pod", "evt.rawtime", "1795255200250000000"},
		{"pod", "jevt.rawtime", "1795255200250000000"},
		{"pod", "ka.auditid", "a-1"},
		{"pod", "ka.verb", "create"},
		{"pod", "ka.user.name", "ann"},
		{"pod", "ka.user.groups", "dev|system:authenticated"},
		{"pod", "ka.impuser.name", "root"},
		{"pod", "ka.sourceips", "10.0.0.1|10.0.0.2"},
		{"pod", "ka.response.code", "201"},
		{"pod", "ka.auth.decision", "allow"},
		{"pod", "ka.resp.name", "x-1"},
		{"pod", "ka.target.pod.name", "x-1"},
		{"pod", "ka.target.subresource", ""},
		{"pod", "ka.uri.param[fieldManager]", "kubectl"},
		{"pod", "ka.uri.param[command]", "sh"},
		{"pod", "ka.uri.param[none]", ""},
		{"pod", "ka.req.pod.host_pid", "true"},
		{"pod", "ka.req.pod.host_network", ""},
		{"pod", "ka.req.pod.supplemental_groups", "1|2"},
		{"pod", "ka.req.pod.run_as_user", "7"},
		{"pod", "ka.req.pod.containers.image", "a/one@sha256:1|a/two:2"},
		{"pod", "ka.req.pod.containers.image[1]", "a/two:2"},
		{"pod", "ka.req.pod.containers.image[2]", ""},
		{"pod", "ka.req.pod.containers.image.repository", "a/one|a/two"},
		{"pod", "ka.req.pod.initContainers.image.repository", "docker.io/a/init"},
		{"pod", "ka.req.pod.ephemeralContainers.image", ""},
		{"pod", "ka.req.pod.containers.command", "sh -c"},
		{"pod", "ka.req.pod.containers.args[0]", "a b"},
		{"pod", "ka.req.pod.containers.args[1]", ""},
		{"pod", "ka.req.pod.containers.privileged", "true"},
		{"pod", "ka.req.pod.containers.privileged[0]", ""},
		{"pod", "ka.req.pod.containers.privileged[1]", "true"},
		{"pod", "ka.req.pod.containers.add_capabilities", "NET_ADMIN|SYS_TIME"},
		{"pod", "ka.req.pod.containers.add_capabilities[1]", "NET_ADMIN|SYS_TIME"},
		{"pod", "ka.req.pod.containers.eff_run_as_user", "7|0"},
		{"pod", "ka.req.pod.containers.eff_run_as_group", "0|0"},
		{"pod", "ka.req.pod.containers.host_port", "80|8443"},
		{"pod", "ka.req.pod.volumes.hostpath", "/etc/kubernetes|/proc"},
		{"pod", "ka.req.pod.volumes.hostpath[1]", ""},
		{"pod", "ka.req.pod.volumes.volume_type", "hostPath|emptyDir|hostPath"},
		{"pod", "ka.req.volume.hostpath[/proc]", "true"},
		{"pod", "ka.req.volume.hostpath[/etc*]", "true"},
		{"pod", "ka.req.volume.hostpath[/etc]", "false"},
		{"pod", "ka.req.container.privileged", "true"},
		{"pod", "ka.req.container.image.repository", "a/one"},
		{"pod", "jevt.value[/stage]", "ResponseComplete"},
		{"pod", "jevt.value[stage]", "ResponseComplete"},
		{"pod", "jevt.value[/requestObject/metadata/name]", `x "y"`},
		{"pod", "jevt.value[/requestObject/metadata/labels/a~1b]", "c"},
		{"pod", "jevt.value[/requestObject/metadata/labels/m~0n]", "o"},
		{"pod", "jevt.value[/requestObject/metadata/labels/]", "empty"},
		{"pod", "jevt.value[/requestObject/spec/containers/1/name]", "two"},
		{"pod", "jevt.value[/requestObject/spec/containers/2/name]", ""},
		{"pod", "jevt.value[/requestObject/spec/containers/-1/name]", ""},
		{"pod", "jevt.value[/requestObject/spec/securityContext]", `{"runAsUser":7,"supplementalGroups":[1,2]}`},
		{"pod", "jevt.value[/none/of/this]", ""},
		{"binding", "ka.req.binding.role", "cluster-admin"},
		{"binding", "ka.req.binding.subjects[0]", `{"kind":"User","name":"eve"}`},
		{"binding", "ka.req.binding.subjects.user_names", "eve"},
		{"binding", "ka.req.binding.subjects.serviceaccount_names", "s|t"},
		{"binding", "ka.req.binding.subjects.serviceaccount_ns_names", "n:s"},
		{"binding", "ka.req.binding.subjects.group_names", "g"},
		{"binding", "ka.req.role.rules", `{"verbs":["get","*"],"resources":["pods","pods/exec"]}|{"verbs":["list"],"nonResourceURLs":["/x"]}`},
		{"binding", "ka.req.role.rules.verbs", "get|*|list"},
		{"binding", "ka.req.role.rules.verbs[1]", "list"},
		{"binding", "ka.req.role.rules.resources", "pods|pods/exec"},
		{"binding", "ka.req.configmap.obj", `{"k":"pass\u0077ord"}`},
		{"binding", "jevt.value[/requestObject/data/k]", "password"},
		{"binding", "ka.req.configmap.name", "b"},
		{"binding", "ka.req.service.type", "NodePort"},
		{"binding", "ka.req.service.ports[1]", `{"port":81}`},
		{"bare", "ka.verb", ""},
		{"bare", "ka.req.pod.containers.image", ""},
		{"bare", "ka.req.container.privileged", ""},
		{"bare", "ka.req.volume.hostpath[/x]", ""},
		{"bare", "ka.req.binding.subject.has_name[x]", "true"},
	} {
		if got := valueOf(t, events[tt.event], tt.field); got != tt.want {
			t.Errorf("%s of %s: %q, want %q", tt.field, tt.event, got, tt.want)
		}
	}
}

// valueOf returns what an event has of a field, with bars between several values.
func valueOf(t *testing.T, e *Event, name string) string {
	t.Helper()
	name, arg, bracket := strings.Cut(strings.TrimSuffix(name, "]"), "[")
	f, ok := Lookup(name)
	if !ok {
		t.Fatal("no field", name)
	}
	switch {
	case f.Arg == KeyArg:
		s, ok := f.Key(e, arg)
		if !ok && s != "" {
			t.Errorf("%s[%s] has a value and has none", name, arg)
		}
		return s
	case f.Listed():
		n := -1
		if bracket {
			n = int(arg[0] - '0')
		}
		return strings.Join(f.AppendList(nil, e, n), "|")
	case f.Many == List:
		var l []string
		for i := 0; ; i++ {
			s, ok := f.Str(e, i)
			if !ok {
				return strings.Join(l, "|")
			}
			l = append(l, s)
		}
	case f.Type != String:
		b, _, _ := appendValue(nil, f, e, 0)
		return string(b)
	}
	b, _ := f.Append(nil, e, 0)
	return string(b)
}

// TestAuditAgain makes an event of its JSON, and of its columns, that says the same.
func TestAuditAgain(t *testing.T) {
	e, err := ParseAudit([]byte(auditedPod))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]Value{"evt.type": {Text: "audit"}, "evt.time": {Text: "2026-11-21T10:00:00.25Z"}, "jevt.obj": {Text: auditedPod}}
	made, err := Make(values)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e.Data, made.Data); d != "" {
		t.Error(d)
	}
	values["ka.verb"] = Value{Text: "delete"}
	if _, err := Make(values); err == nil {
		t.Error("an event has a verb that its JSON does not have")
	}
	part, err := Make(map[string]Value{"evt.type": {Text: "audit"}, "ka.verb": {Text: "get"}, "ka.target.resource": {Text: "secrets"}, "ka.user.name": {Text: `a "b"`}, "ka.stage": {Text: "ResponseComplete"}, "ka.response.code": {Text: "200"}, "ka.user.groups": {List: []string{"g", "h"}, Many: true}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := valueOf(t, part, "jevt.obj"), `{"stage":"ResponseComplete","verb":"get","user":{"username":"a \"b\"","groups":["g","h"]},"objectRef":{"resource":"secrets"},"responseStatus":{"code":200}}`; got != want {
		t.Errorf("the JSON is %s, want %s", got, want)
	}
}

// TestParseAuditWrong says what is no event of an audit log.
func TestParseAuditWrong(t *testing.T) {
	for text, want := range map[string]string{
		``:                 "this is not JSON",
		`{"auditID":"a",}`: "at byte 16",
		`[]`:               "another value of JSON",
		`"auditID"`:        "another value of JSON",
		`{"kind":"Pod"}`:   `"Pod" and no Event`,
		`{"kind":"Event"}`: "no auditID",
		`{"auditID":"a"}`:  "no stageTimestamp",
		`{"auditID":"a","stageTimestamp":"yesterday"}`:            "no time of RFC 3339",
		`{"auditID":"a","stageTimestamp":"0001-01-01T00:00:00Z"}`: "no time of RFC 3339",
		strings.Repeat("[", 20000) + strings.Repeat("]", 20000):   "this is not JSON",
	} {
		if _, err := ParseAudit([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %s", text, err, want)
		}
	}
	e, err := ParseAudit([]byte(`{"auditID":"a","requestReceivedTimestamp":"2026-11-21T10:00:00Z","verb":"get","verb":"delete"}`))
	if err != nil || e.Data.(*K8sAudit).Verb != "delete" { // as the API server reads it
		t.Error(e, err)
	}
}

// TestAuditManyContainers reads a list in one go: who may create pods may not keep an
// agent busy with one of them.
func TestAuditManyContainers(t *testing.T) {
	text := `{"auditID":"a","stageTimestamp":"2026-11-21T10:00:00Z","requestObject":{"spec":{"containers":[` +
		strings.TrimSuffix(strings.Repeat(`{"image":"a:1"},`, 10000), ",") + `]}}}`
	e, err := ParseAudit([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	f, _ := Lookup("ka.req.pod.containers.image.repository")
	if got := f.AppendList(nil, e, -1); len(got) != 10000 || got[9999] != "a" {
		t.Error(len(got))
	}
	b := AppendJSON(nil, e)
	if !strings.Contains(string(b), `"jevt.obj"`) {
		t.Errorf("%.200s", b)
	}
}

// FuzzAudit reads any field of any text.
func FuzzAudit(f *testing.F) {
	// Small ones: the fuzzer makes what it finds smaller, byte by byte.
	const head = `{"auditID":"a","stageTimestamp":"2026-11-21T10:00:00Z","requestObject":`
	f.Add([]byte(head+`{"spec":{"containers":[{"image":"a:1","ports":[{"hostPort":1}]}]}}}`), "/requestObject/spec/containers/0/image")
	f.Add([]byte(head+`{"spec":{"volumes":[{"name":"v","hostPath":{"path":"/"}}]}}}`), "requestObject/spec/volumes")
	f.Add([]byte(head+`{"subjects":[{"kind":"User","name":"u"}],"rules":[{"verbs":["*"]}]}}`), "requestObject/rules/0/verbs/0")
	f.Add([]byte(`{"auditID":"\u00e9\ud83d","annotations":null,"requestObject":{"spec":{"containers":[1,[],{"image":null}],"volumes":{}}}}`), "/a~1b~0")
	f.Add([]byte(`{"a":[1,2,`), "/a/1")
	f.Add([]byte(`{"a" "b":::,,]}`), "")
	f.Fuzz(func(t *testing.T, text []byte, pointer string) {
		e, err := ParseAudit(text)
		if err != nil {
			// What the history has, and what a test gives, is not looked at again.
			e = &Event{Data: newAudit(text)}
			e.Data.(*K8sAudit).JSON = string(text)
		}
		for _, x := range auditFields {
			f, _ := Lookup(x.name)
			switch {
			case f.Arg == KeyArg:
				f.Key(e, pointer)
			case f.Listed():
				all := f.AppendList(nil, e, -1)
				if one := f.AppendList(nil, e, 0); err == nil && !x.index && (len(one) > 1 || len(one) == 1 && one[0] != all[0]) {
					t.Errorf("%s[0] is %q of %q", x.name, one, all)
				}
			default:
				f.Append(nil, e, 0)
			}
		}
		if err == nil {
			AppendJSON(nil, e)
		}
	})
}
