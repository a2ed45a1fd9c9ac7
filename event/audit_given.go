package event

import (
	"encoding/json"
	"time"
)

// completeAudit makes the members of an event follow from its JSON, or, where that
// was not given, JSON from the members.
func (m *maker) completeAudit(a *K8sAudit) {
	if a.JSON == "" {
		a.JSON = string(a.appendJSON(nil))
		return
	}
	typ := a.Type
	*a = *newAudit([]byte(a.JSON))
	a.Type = typ
	m.told["jevt.obj"] = Value{Text: a.JSON} // without blanks
	if t, err := time.Parse(time.RFC3339Nano, jsonText(a.JSON).get("stageTimestamp").text()); err == nil && m.e.Time.IsZero() {
		m.e.Time = t
	}
}

// appendJSON writes what the event has as members as an API server would.
func (a *K8sAudit) appendJSON(b []byte) []byte {
	o := jsonObject{b: append(b, '{')}
	o.text("auditID", a.ID)
	o.text("stage", a.Stage)
	o.text("requestURI", a.URI)
	o.text("verb", a.Verb)
	o.object("user", func() {
		o.text("username", a.User)
		o.texts("groups", a.Groups)
	})
	o.object("impersonatedUser", func() { o.text("username", a.Impersonated) })
	o.texts("sourceIPs", a.SourceIPs)
	o.text("userAgent", a.UserAgent)
	o.object("objectRef", func() {
		o.text("resource", a.Resource)
		o.text("namespace", a.Namespace)
		o.text("name", a.Name)
		o.text("subresource", a.Subresource)
	})
	o.object("responseStatus", func() {
		if json.Valid([]byte(a.Code)) {
			o.key("code")
			o.b = append(o.b, a.Code...)
		} else {
			o.text("code", a.Code)
		}
		o.text("reason", a.Reason)
	})
	o.object("responseObject", func() { o.object("metadata", func() { o.text("name", a.Answered) }) })
	o.object("annotations", func() {
		o.text("authorization.k8s.io/decision", a.Decision)
		o.text("authorization.k8s.io/reason", a.DecisionReason)
		o.text("cluster_name", a.Cluster)
	})
	return append(o.b, '}')
}

// A jsonObject is one that is being written, without members that are empty.
type jsonObject struct{ b []byte }

func (o *jsonObject) key(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(AppendString(o.b, name), ':')
}

func (o *jsonObject) text(name, s string) {
	if s != "" {
		o.key(name)
		o.b = AppendString(o.b, s)
	}
}

func (o *jsonObject) texts(name string, list []string) {
	if len(list) == 0 {
		return
	}
	o.key(name)
	for i, s := range list {
		o.b = AppendString(append(o.b, "[,"[min(i, 1)]), s)
	}
	o.b = append(o.b, ']')
}

func (o *jsonObject) object(name string, members func()) {
	before := len(o.b)
	o.key(name)
	o.b = append(o.b, '{')
	empty := len(o.b)
	if members(); len(o.b) == empty {
		o.b = o.b[:before]
		return
	}
	o.b = append(o.b, '}')
}
