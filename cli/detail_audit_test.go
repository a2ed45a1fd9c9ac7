package cli

import (
	"testing"

	"warren/event"
)

// TestAuditDetail says who asked an API server for what, and what became of it.
func TestAuditDetail(t *testing.T) {
	for text, want := range map[string]string{
		`"stage":"ResponseStarted","verb":"create","user":{"username":"ann"},"impersonatedUser":{"username":"root"},"objectRef":{"resource":"pods","subresource":"exec","namespace":"shop","name":"web"}`: "ann as root: create pods/exec shop/web: ResponseStarted",
		`"stage":"ResponseComplete","verb":"get","user":{"username":"e\u001bve"},"objectRef":{"resource":"secrets","namespace":"shop"},"responseStatus":{"code":403,"reason":"Forbidden"}`:                `e\x1bve: get secrets shop: 403 Forbidden`,
		`"stage":"ResponseComplete","verb":"get","requestURI":"/version","responseStatus":{"code":200}`:                                                                                                   "?: get /version: 200",
	} {
		e, err := event.ParseAudit([]byte(`{"auditID":"a","stageTimestamp":"2026-11-21T10:00:00Z",` + text + `}`))
		if err != nil {
			t.Fatal(err)
		}
		fields, err := event.Select((&eventTable{}).fields()...)
		if err != nil {
			t.Fatal(err)
		}
		var r record
		if err := r.parse(fields.AppendJSON(nil, e)); err != nil {
			t.Fatal(err)
		}
		if got := (screen{utf8: true}).detail(&r); got.text != want {
			t.Errorf("%s, want %s", got.text, want)
		}
	}
}
