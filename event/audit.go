package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// K8sAudit is a request to the API server of a Kubernetes cluster at one of its
// stages, as the API server's audit log tells it. No process of this machine did
// it: whoever asked is a user of the cluster.
//
// What is asked for most is here; everything else is looked up in JSON when
// somebody asks for it: see audit_fields.go.
type K8sAudit struct {
	Type string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`

	ID             string   `field:"ka.auditid" doc:"id of the request, the same at all its stages; a client may choose it"`
	Stage          string   `field:"ka.stage" doc:"how far the request was: RequestReceived, ResponseStarted, ResponseComplete, Panic"`
	Verb           string   `field:"ka.verb" doc:"what was asked for: get, list, watch, create, update, patch, delete, deletecollection; of what is no resource the method of HTTP"`
	URI            string   `field:"ka.uri" doc:"path and query of the request, as the client sent them"`
	User           string   `field:"ka.user.name" doc:"user who asked"`
	Groups         []string `field:"ka.user.groups" doc:"groups of the user"`
	Impersonated   string   `field:"ka.impuser.name" doc:"user in whose name the user asked"`
	Resource       string   `field:"ka.target.resource" doc:"kind of object that it was about: pods, secrets, clusterroles"`
	Subresource    string   `field:"ka.target.subresource" doc:"part of the object that it was about: exec, attach, status"`
	Namespace      string   `field:"ka.target.namespace" doc:"namespace of the object"`
	Name           string   `field:"ka.target.name" doc:"name of the object"`
	Decision       string   `field:"ka.auth.decision" doc:"what authorization said: allow or forbid"`
	DecisionReason string   `field:"ka.auth.reason" doc:"why"`
	Code           string   `field:"ka.response.code" doc:"status of HTTP in the answer"`
	Reason         string   `field:"ka.response.reason" doc:"why the request failed, if it did: AlreadyExists, Forbidden"`
	Answered       string   `field:"ka.resp.name" doc:"name of the object in the answer"`
	UserAgent      string   `field:"ka.useragent" doc:"what the client said that it is"`
	SourceIPs      []string `field:"ka.sourceips" doc:"addresses of the client and of proxies, as far as they say; [0] is the first"`
	Cluster        string   `field:"ka.cluster.name" doc:"name of the cluster, where somebody has annotated the event with it"`

	// JSON is the whole event, without blanks between its parts.
	JSON string `field:"jevt.obj" doc:"the whole event, JSON"`
}

// Kind implements [Data].
func (*K8sAudit) Kind() Kind { return KindK8sAudit }

// auditType is the evt.type of all of them.
const auditType = "audit"

// errNoAudit says what is wrong with JSON that has nothing wrong in itself.
var errNoAudit = errors.New("this is no event of an audit log: it has no auditID")

// ParseAudit makes an event of an Event of audit.k8s.io in JSON, of which it keeps
// no part. Its time is that of the stage. The error says what it is not.
func ParseAudit(text []byte) (*Event, error) {
	if !json.Valid(text) {
		return nil, invalidJSON(text)
	}
	a := newAudit(text)
	doc := jsonText(a.JSON)
	switch kind := doc.get("kind").text(); {
	case len(doc) == 0 || doc[0] != '{':
		return nil, errors.New("this is no event of an audit log, but another value of JSON")
	case kind != "" && kind != "Event":
		return nil, fmt.Errorf("this is %.40q and no Event of an audit log", kind)
	case a.ID == "":
		return nil, errNoAudit
	}
	for _, name := range []string{"stageTimestamp", "requestReceivedTimestamp"} {
		stamp := doc.get(name)
		if stamp == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, stamp.text())
		if err != nil || t.Year() < 1970 || t.Year() > 2261 { // what nanoseconds since 1970 can say
			return nil, fmt.Errorf("%s %.40q is no time of RFC 3339", name, stamp.text())
		}
		return &Event{Time: t, Data: a}, nil
	}
	return nil, errors.New("the event does not say when it happened: it has no stageTimestamp")
}

// invalidJSON says what is wrong with text that is not JSON.
func invalidJSON(text []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(text, &v)
	if s := (*json.SyntaxError)(nil); errors.As(err, &s) {
		return fmt.Errorf("this is not JSON: %w, at byte %d", err, s.Offset)
	}
	return fmt.Errorf("this is not JSON: %w", err)
}

// newAudit makes a K8sAudit of JSON. What is no text where it should be is as it is
// written.
func newAudit(text []byte) *K8sAudit {
	var b bytes.Buffer
	b.Grow(len(text))
	if json.Compact(&b, text) != nil {
		b.Reset()
		b.Write(text)
	}
	a := &K8sAudit{Type: auditType, JSON: b.String()}
	c := jsonText(a.JSON).open()
	for {
		key, v, ok := c.next()
		if !ok {
			return a
		}
		switch key.text() {
		case "auditID":
			a.ID = v.text()
		case "stage":
			a.Stage = v.text()
		case "verb":
			a.Verb = v.text()
		case "requestURI":
			a.URI = v.text()
		case "userAgent":
			a.UserAgent = v.text()
		case "sourceIPs":
			a.SourceIPs = v.texts(nil)
		case "user":
			a.User, a.Groups = v.get("username").text(), v.get("groups").texts(nil)
		case "impersonatedUser":
			a.Impersonated = v.get("username").text()
		case "objectRef":
			a.Resource, a.Subresource = v.get("resource").text(), v.get("subresource").text()
			a.Namespace, a.Name = v.get("namespace").text(), v.get("name").text()
		case "responseStatus":
			a.Code, a.Reason = v.get("code").text(), v.get("reason").text()
		case "responseObject":
			a.Answered = v.get("metadata", "name").text()
		case "annotations":
			a.Decision, a.DecisionReason = v.get("authorization.k8s.io/decision").text(), v.get("authorization.k8s.io/reason").text()
			a.Cluster = v.get("cluster_name").text()
		}
	}
}

// HeldBytes is how much an event holds that can be large; 0 for what comes from the
// kernel, where all is bounded.
func (e *Event) HeldBytes() int {
	if a, ok := e.Data.(*K8sAudit); ok {
		return len(a.JSON)
	}
	return 0
}

// sourceOf is Falco's name for where an event came from.
func sourceOf(e *Event) string {
	if e.Data.Kind() == KindK8sAudit {
		return "k8s_audit"
	}
	return "syscall"
}
