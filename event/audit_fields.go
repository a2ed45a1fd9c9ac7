package event

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// An auditField is made of the JSON of an [K8sAudit] when somebody asks for it. It has
// one of text, list and key.
type auditField struct {
	name, doc string
	// note is what is particular about it to who knows Falco.
	note string
	text func(a *K8sAudit) jsonText
	list auditList
	// index says that a list is of parts of several things, of which what stands in
	// brackets chooses one; else it chooses a value.
	index bool
	key   func(a *K8sAudit, key string) (string, bool)
}

// An auditList appends values to dst: of the at-th thing, or of all where at is -1.
type auditList func(dst []string, a *K8sAudit, at int) []string

// at returns what reads one value of the event.
func at(path ...string) func(*K8sAudit) jsonText {
	return func(a *K8sAudit) jsonText { return jsonText(a.JSON).get(path...) }
}

func (a *K8sAudit) get(path ...string) jsonText { return jsonText(a.JSON).get(path...) }

// requestSpec is where most of what is asked for stands.
func (a *K8sAudit) requestSpec(key string) jsonText { return a.get("requestObject", "spec", key) }

// auditFields are those that [K8sAudit] does not have as members, in their order.
var auditFields = slices.Concat([]auditField{
	{name: "jevt.value", doc: "what stands at a JSON pointer in the event: jevt.value[/requestObject/spec/type]; what is no text, as JSON", key: jsonValue},
	{name: "jevt.rawtime", doc: "when it happened: nanoseconds since 1970, as text"},
	{name: "json.value", doc: "the same as jevt.value", key: jsonValue},
	{name: "json.obj", doc: "the same as jevt.obj", note: "like jevt.obj", text: func(a *K8sAudit) jsonText { return jsonText(a.JSON) }},
	{name: "json.rawtime", doc: "the same as jevt.rawtime"},

	{name: "ka.auth.openshift.decision", doc: "what OpenShift's authentication said", text: at("annotations", "authentication.openshift.io/decision")},
	{name: "ka.auth.openshift.username", doc: "who authenticated to OpenShift", text: at("annotations", "authentication.openshift.io/username")},
	{name: "ka.validations.admission.policy.failure", doc: "how it failed a validating admission policy", text: at("annotations", "validation.policy.admission.k8s.io/validation_failure")},
	{name: "ka.security.pod.violations", doc: "what of a pod violates the audited pod security standard", text: at("annotations", "pod-security.kubernetes.io/audit-violations")},
	{name: "ka.uri.param", doc: "a parameter of the request's query, the first of the name: ka.uri.param[command]", note: "also where another parameter is not well formed", key: uriParam},
	{name: "ka.target.pod.name", doc: "name of the pod that the request was about as such, by the answer", text: targetPod},

	{name: "ka.req.binding.subjects", doc: "whom a binding gives a role: each subject as JSON", list: elements("requestObject", "subjects")},
	{name: "ka.req.binding.subjects.user_names", doc: "the users among them", list: subjects("User", false)},
	{name: "ka.req.binding.subjects.serviceaccount_names", doc: "the service accounts among them", list: subjects("ServiceAccount", false)},
	{name: "ka.req.binding.subjects.serviceaccount_ns_names", doc: "the service accounts among them, as NAMESPACE:NAME", list: subjects("ServiceAccount", true)},
	{name: "ka.req.binding.subjects.group_names", doc: "the groups among them", list: subjects("Group", false)},
	{name: "ka.req.binding.role", doc: "the role that a binding gives", text: at("requestObject", "roleRef", "name")},
	{name: "ka.req.binding.subject.has_name", doc: "always true", note: "deprecated in Falco", key: func(*K8sAudit, string) (string, bool) { return "true", true }},
	{name: "ka.req.configmap.name", doc: "name of the config map that the request was about", note: "of any object, as in Falco", text: at("objectRef", "name")},
	{name: "ka.req.configmap.obj", doc: "what is in the config map, as JSON", text: at("requestObject", "data")},
	{name: "ka.req.role.rules", doc: "what a role allows: each rule as JSON", list: elements("requestObject", "rules")},
	{name: "ka.req.role.rules.apiGroups", doc: "API groups in the rules", list: ruleParts("apiGroups"), index: true},
	{name: "ka.req.role.rules.nonResourceURLs", doc: "paths in the rules that are no resources", list: ruleParts("nonResourceURLs"), index: true},
	{name: "ka.req.role.rules.verbs", doc: "verbs in the rules", list: ruleParts("verbs"), index: true},
	{name: "ka.req.role.rules.resources", doc: "resources in the rules", list: ruleParts("resources"), index: true},
	{name: "ka.req.service.type", doc: "type of the service", text: at("requestObject", "spec", "type")},
	{name: "ka.req.service.ports", doc: "ports of the service, each as JSON", list: elements("requestObject", "spec", "ports")},

	{name: "ka.req.pod.host_ipc", doc: "hostIPC of the pod", text: at("requestObject", "spec", "hostIPC")},
	{name: "ka.req.pod.host_network", doc: "hostNetwork of the pod", text: at("requestObject", "spec", "hostNetwork")},
	{name: "ka.req.pod.host_pid", doc: "hostPID of the pod", text: at("requestObject", "spec", "hostPID")},
	{name: "ka.req.pod.run_as_user", doc: "runAsUser of the pod as such", text: at("requestObject", "spec", "securityContext", "runAsUser")},
	{name: "ka.req.pod.run_as_group", doc: "runAsGroup of the pod as such", text: at("requestObject", "spec", "securityContext", "runAsGroup")},
	{name: "ka.req.pod.fs_group", doc: "fsGroup of the pod", text: at("requestObject", "spec", "securityContext", "fsGroup")},
	{name: "ka.req.pod.supplemental_groups", doc: "supplementalGroups of the pod", list: elements("requestObject", "spec", "securityContext", "supplementalGroups")},
	{name: "ka.req.pod.volumes.hostpath", doc: "paths of the machine that volumes of the pod are", list: volumes("hostPath", "path"), index: true},
	{name: "ka.req.pod.volumes.flexvolume_driver", doc: "drivers of flex volumes", list: volumes("flexVolume", "driver"), index: true},
	{name: "ka.req.pod.volumes.volume_type", doc: "types of the volumes: hostPath, secret, projected", list: volumeTypes, index: true},
	{name: "ka.req.volume.hostpath", doc: "true where a volume is that path of the machine, or with a * at the end of the key one that begins so: ka.req.volume.hostpath[/etc*]", note: "deprecated in Falco", key: hasHostPath},

	{name: "ka.req.container.image", doc: "image of the first container", note: "deprecated in Falco", text: func(a *K8sAudit) jsonText { return a.requestSpec("containers").element(0).get("image") }},
	{name: "ka.req.container.image.repository", doc: "its repository", note: "deprecated in Falco", text: func(a *K8sAudit) jsonText {
		return jsonText(repository(a.requestSpec("containers").element(0).get("image").text()))
	}},
	{name: "ka.req.container.host_network", doc: "the same as ka.req.pod.host_network", note: "deprecated in Falco", text: at("requestObject", "spec", "hostNetwork")},
	{name: "ka.req.container.privileged", doc: "true where a container is privileged", note: "deprecated in Falco", text: anyPrivileged},
},
	containerFields("containers", "the containers", true),
	containerFields("initContainers", "the init containers", true),
	containerFields("ephemeralContainers", "the ephemeral containers", false),
)

// containerFields are those of one of a pod's lists of containers.
func containerFields(list, of string, ports bool) []auditField {
	security := func(path ...string) auditList {
		return containers(list, append([]string{"securityContext"}, path...)...)
	}
	fields := []auditField{
		{name: "name", doc: "names", list: allContainers(list, "name", func(s string) string { return s })},
		{name: "image", doc: "images", list: allContainers(list, "image", func(s string) string { return s })},
		{name: "image.repository", doc: "images up to the first colon or @", list: allContainers(list, "image", repository)},
		{name: "command", doc: "commands, with blanks between their parts", list: joinedWords(list, "command")},
		{name: "args", doc: "arguments, with blanks between them", list: joinedWords(list, "args")},
		{name: "privileged", doc: "privileged", list: security("privileged")},
		{name: "allow_privilege_escalation", doc: "allowPrivilegeEscalation", list: security("allowPrivilegeEscalation")},
		{name: "read_only_fs", doc: "readOnlyRootFilesystem", list: security("readOnlyRootFilesystem")},
		{name: "run_as_user", doc: "runAsUser", list: security("runAsUser")},
		{name: "eff_run_as_user", doc: "runAsUser, or else the pod's, or else 0", note: "Falco's plugin does not find the security contexts, and says 0", list: effective(list, "runAsUser")},
		{name: "run_as_group", doc: "runAsGroup", list: security("runAsGroup")},
		{name: "eff_run_as_group", doc: "runAsGroup, or else the pod's, or else 0", note: "Falco's plugin does not find the security contexts, and says 0", list: effective(list, "runAsGroup")},
		{name: "proc_mount", doc: "procMount", list: security("procMount")},
		{name: "add_capabilities", doc: "capabilities that are added", note: "each is a value; Falco's plugin has those of a container as one, in JSON", list: addedCapabilities(list)},
	}
	if ports {
		fields = append(fields, auditField{name: "host_port", doc: "hostPort, or where there is none containerPort, of all ports", list: hostPorts(list)})
	}
	for i := range fields {
		f := &fields[i]
		f.name, f.doc, f.index = "ka.req.pod."+list+"."+f.name, "of "+of+" of the pod: "+f.doc, true
	}
	return fields
}

// addAuditFields makes the fields of auditFields.
func (c *fields) addAuditFields() {
	for _, x := range auditFields {
		f := Field{Name: x.name, Doc: x.doc, Type: String, Virtual: true}
		var g getter
		switch {
		case x.key != nil:
			f.Arg = KeyArg
			g.key = func(e *Event, key string) (string, bool) { return x.key(e.Data.(*K8sAudit), key) }
			g.all = func(*Event) map[string]string { return nil }
		case x.list != nil:
			f.Many, f.Arg, g = List, IndexArg, listed(x)
		case x.text != nil:
			g = composed(func(b []byte, e *Event) []byte { return append(b, x.text(e.Data.(*K8sAudit)).text()...) })
		default:
			g = composed(func(b []byte, e *Event) []byte { return strconv.AppendInt(b, e.Time.UnixNano(), 10) })
		}
		c.register(f, g, Kinds(KindK8sAudit))
	}
}

// listed makes a getter of a list.
func listed(x auditField) getter {
	all := func(dst []string, e *Event, at int) []string {
		if at < 0 || x.index {
			return x.list(dst, e.Data.(*K8sAudit), at)
		}
		n := len(dst)
		dst = x.list(dst, e.Data.(*K8sAudit), -1)
		if n+at >= len(dst) {
			return dst[:n]
		}
		dst[n] = dst[n+at]
		return dst[:n+1]
	}
	return getter{list: all, str: func(e *Event, i int) (string, bool) {
		if l := all(nil, e, -1); i < len(l) {
			return l[i], true
		}
		return "", false
	}}
}

func jsonValue(a *K8sAudit, pointer string) (string, bool) {
	v := jsonText(a.JSON).pointer(pointer)
	return v.text(), v != ""
}

// uriParam returns the first parameter of a name; what is not well formed beside it
// hides nothing.
func uriParam(a *K8sAudit, name string) (string, bool) {
	_, query, _ := strings.Cut(a.URI, "?")
	query, _, _ = strings.Cut(query, "#")
	all, _ := url.ParseQuery(query)
	if v := all[name]; len(v) > 0 {
		return v[0], true
	}
	return "", false
}

func targetPod(a *K8sAudit) jsonText {
	if a.Resource != "pods" || a.Subresource != "" {
		return ""
	}
	return jsonText(a.Answered)
}

// elements are those of an array, by their place.
func elements(path ...string) auditList {
	return func(dst []string, a *K8sAudit, _ int) []string { return a.get(path...).texts(dst) }
}

// subjects are the names of those that a binding gives its role, of one kind.
func subjects(kind string, namespaced bool) auditList {
	return func(dst []string, a *K8sAudit, _ int) []string {
		a.get("requestObject", "subjects").each(-1, func(s jsonText) {
			name, ns := s.get("name"), s.get("namespace")
			if !s.get("kind").is(kind) || name == "" || namespaced && ns == "" {
				return
			}
			if namespaced {
				dst = append(dst, ns.text()+":"+name.text())
				return
			}
			dst = append(dst, name.text())
		})
		return dst
	}
}

// ruleParts are the elements of an array that each rule of a role has.
func ruleParts(key string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		a.get("requestObject", "rules").each(at, func(r jsonText) { dst = r.get(key).texts(dst) })
		return dst
	}
}

// volumes are what volumes have at a path.
func volumes(path ...string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		a.requestSpec("volumes").each(at, func(v jsonText) { dst = v.get(path...).appendTo(dst) })
		return dst
	}
}

func volumeTypes(dst []string, a *K8sAudit, at int) []string {
	a.requestSpec("volumes").each(at, func(v jsonText) {
		for c := v.open(); v[0] == '{'; {
			key, _, ok := c.next()
			if !ok {
				return
			}
			if !key.is("name") {
				dst = append(dst, key.text())
			}
		}
	})
	return dst
}

func hasHostPath(a *K8sAudit, path string) (string, bool) {
	if !a.requestSpec("volumes").isList() {
		return "", false
	}
	prefix, is := strings.CutSuffix(path, "*")
	for _, p := range volumes("hostPath", "path")(nil, a, -1) {
		if p == path || is && strings.HasPrefix(p, prefix) {
			return "true", true
		}
	}
	return "false", true
}

// appendTo appends a value, if there is one.
func (j jsonText) appendTo(dst []string) []string {
	if j == "" {
		return dst
	}
	return append(dst, j.text())
}

// containers are what those containers have at a path that have it.
func containers(list string, path ...string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		a.requestSpec(list).each(at, func(c jsonText) { dst = c.get(path...).appendTo(dst) })
		return dst
	}
}

// allContainers are what all containers have, and nothing where one has it not: a
// comparison that has to hold for all must not hold for the others.
func allContainers(list, key string, of func(string) string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		n, missing := len(dst), false
		a.requestSpec(list).each(at, func(c jsonText) {
			v := c.get(key)
			missing = missing || v == ""
			dst = append(dst, of(v.text()))
		})
		if missing {
			return dst[:n]
		}
		return dst
	}
}

// repository is an image without tag and digest: what stands before the first colon
// or @, as Falco has it, also where that is the colon of a registry's port.
func repository(image string) string {
	if i := strings.IndexAny(image, ":@"); i >= 0 {
		return image[:i]
	}
	return image
}

// joinedWords are arrays of texts, each as one text.
func joinedWords(list, key string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		a.requestSpec(list).each(at, func(c jsonText) {
			if v := c.get(key); v.isList() {
				dst = append(dst, strings.Join(v.texts(nil), " "))
			}
		})
		return dst
	}
}

// effective is what holds for each container: its own, the pod's, or 0.
func effective(list, key string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		pod := a.requestSpec("securityContext").get(key)
		if pod == "" {
			pod = "0"
		}
		a.requestSpec(list).each(at, func(c jsonText) {
			v := c.get("securityContext", key)
			if v == "" {
				v = pod
			}
			dst = append(dst, v.text())
		})
		return dst
	}
}

func addedCapabilities(list string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		a.requestSpec(list).each(at, func(c jsonText) { dst = c.get("securityContext", "capabilities", "add").texts(dst) })
		return dst
	}
}

// hostPorts are ports of the machine: without hostPort a port is the machine's where
// the pod has the machine's network.
func hostPorts(list string) auditList {
	return func(dst []string, a *K8sAudit, at int) []string {
		a.requestSpec(list).each(at, func(c jsonText) {
			c.get("ports").each(-1, func(p jsonText) {
				port := p.get("hostPort")
				if port == "" {
					port = p.get("containerPort")
				}
				dst = port.appendTo(dst)
			})
		})
		return dst
	}
}

func anyPrivileged(a *K8sAudit) jsonText {
	if !a.requestSpec("containers").isList() {
		return ""
	}
	if slices.Contains(containers("containers", "securityContext", "privileged")(nil, a, -1), "true") {
		return "true"
	}
	return "false"
}

// auditClass are the fields of audit events as those of a class of Falco's.
func auditClass() FalcoClass {
	notes := map[string]string{
		"jevt.obj":     "in outputs in one line, where Falco has a line for each part",
		"ka.sourceips": "Falco's plugin looks for them where they are not",
	}
	for _, x := range auditFields {
		notes[x.name] = cmp.Or(x.note, notes[x.name])
	}
	c := FalcoClass{Title: "ka and jevt, of the source k8s_audit"}
	for _, f := range Fields() {
		if f.Kinds() != 1<<KindK8sAudit {
			continue
		}
		x := FalcoField{Name: f.Name, Note: notes[f.Name]}
		switch {
		case f.Arg == KeyArg:
			x.Form = "[KEY]"
		case f.Listed():
			x.Form = "[n]"
		}
		c.Fields = append(c.Fields, x)
	}
	return c
}
