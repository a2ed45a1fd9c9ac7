package kube

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPodActions labels and deletes one pod, and no other of its name.
func TestPodActions(t *testing.T) {
	s := newServer(t, nil)
	c := s.client()
	var mu sync.Mutex
	var asked string                                        // method, path, type and body
	var answer func(w http.ResponseWriter, r *http.Request) // of the server, nil for a pod
	s.respond(func(w http.ResponseWriter, r *http.Request) bool {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		asked = r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Content-Type") + " " + string(b)
		if answer != nil {
			answer(w, r)
			return true
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-1"}}`)
		return true
	})
	web := PodName{"shop", "web-1", "uid-1"}
	label := func(dry bool) error { return c.LabelPod(t.Context(), web, map[string]string{"quarantine": "yes"}, dry) }
	for _, test := range []struct {
		do   func() error
		want string
	}{
		{func() error { return label(false) },
			`PATCH /api/v1/namespaces/shop/pods/web-1?fieldManager=warren application/merge-patch+json {"metadata":{"labels":{"quarantine":"yes"},"uid":"uid-1"}}`},
		{func() error { return label(true) },
			`PATCH /api/v1/namespaces/shop/pods/web-1?dryRun=All&fieldManager=warren application/merge-patch+json {"metadata":{"labels":{"quarantine":"yes"},"uid":"uid-1"}}`},
		{func() error { return c.DeletePod(t.Context(), web, -1, false) },
			`DELETE /api/v1/namespaces/shop/pods/web-1 application/json {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"uid-1"}}`},
		{func() error { return c.DeletePod(t.Context(), web, 30*time.Second, true) },
			`DELETE /api/v1/namespaces/shop/pods/web-1 application/json {"apiVersion":"v1","dryRun":["All"],"gracePeriodSeconds":30,"kind":"DeleteOptions","preconditions":{"uid":"uid-1"}}`},
	} {
		if err := test.do(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		if asked != test.want {
			t.Errorf("asked\n%s, want\n%s", asked, test.want)
		}
		mu.Unlock()
	}

	// As API servers say it.
	status := func(code int, reason metav1.StatusReason, message string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { s.status(w, code, reason, message) }
	}
	for _, test := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		want   error // nil: one that can change
	}{
		{"no such pod", status(404, metav1.StatusReasonNotFound, `pods "web-1" not found`), ErrPodGone},
		{"another pod has its name", status(409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on Pod "web-1": Precondition failed: UID in precondition: uid-1, UID in object meta: uid-2`), ErrPodGone},
		{"the same, found earlier", status(409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on Pod "web-1": the UID in the precondition (uid-1) does not match the UID in record (uid-2). The object might have been deleted and then recreated`), ErrPodGone},
		{"the same, of a patch", status(422, metav1.StatusReasonInvalid, `Pod "web-1" is invalid: metadata.uid: Invalid value: "uid-1": field is immutable`), ErrPodGone},
		{"a conflict", status(409, metav1.StatusReasonConflict, `the object has been modified; please apply your changes to the latest version`), nil},
		{"a conflict about a pod that is named so", status(409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on pods "druid-0": the object has been modified; please apply your changes to the latest version`), nil},
		{"a label that is named so", status(422, metav1.StatusReasonInvalid, `Pod "web-1" is invalid: metadata.labels: Invalid value: "uid": x`), ErrRefused},
		{"no right", status(403, metav1.StatusReasonForbidden, `pods "web-1" is forbidden: User "system:serviceaccount:warren:warren-agent" cannot delete resource "pods"`), ErrRefused},
		{"not valid", status(422, metav1.StatusReasonInvalid, `Pod "web-1" is invalid: metadata.labels: Invalid value: "x"`), ErrRefused},
		{"trouble", status(500, metav1.StatusReasonInternalError, "etcd is away"), nil},
		{"no API server", func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode("x")
			panic(http.ErrAbortHandler)
		}, nil},
	} {
		mu.Lock()
		answer = test.answer
		mu.Unlock()
		err := c.DeletePod(t.Context(), web, -1, false)
		switch {
		case err == nil:
			t.Errorf("%s: no error", test.name)
		case test.want != nil && !errors.Is(err, test.want),
			test.want == nil && (errors.Is(err, ErrPodGone) || errors.Is(err, ErrRefused)):
			t.Errorf("%s: %v", test.name, err)
		case errors.Is(err, ErrRefused) && !strings.Contains(err.Error(), "web-1"):
			t.Errorf("%s: %v does not say why", test.name, err)
		}
	}
}
