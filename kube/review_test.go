package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/flowcontrol"

	"warren/cluster"
)

// reviewing answers reviews as f says.
func reviewing[T runtime.Object](t *testing.T, s *server, review T, f func(T)) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked := review.DeepCopyObject().(T)
		if _, _, err := s.codecs.UniversalDeserializer().Decode(body, nil, asked); err != nil {
			t.Errorf("a review: %v", err)
		}
		f(asked)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(asked)
		return true
	}
}

func TestReviewToken(t *testing.T) {
	s := newServer(t, nil)
	c := s.client()
	s.respond(reviewing(t, s, &authenticationv1.TokenReview{TypeMeta: metav1.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/v1"}}, func(r *authenticationv1.TokenReview) {
		switch r.Spec.Token {
		case "good":
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
				Username: "alice", UID: "1", Groups: []string{"dev"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}}
		case "expired":
			r.Status = authenticationv1.TokenReviewStatus{Error: "token has expired"}
		case "nameless":
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true}
		}
	}))
	u, err := c.ReviewToken(t.Context(), "good")
	want := cluster.User{Name: "alice", UID: "1", Groups: []string{"dev"}, Extra: map[string][]string{"k": {"v"}}}
	if diff := cmp.Diff(want, u); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	for token, reason := range map[string]string{
		"": "empty", "foreign": "none of this cluster's", "expired": "token has expired", "nameless": "no user",
		"with space": "characters", "ünicode": "characters", "line\nbreak": "characters", strings.Repeat("x", maxToken+1): "longer",
	} {
		u, err := c.ReviewToken(t.Context(), token)
		if !errors.Is(err, ErrUnauthenticated) || !strings.Contains(err.Error(), reason) || !cmp.Equal(u, cluster.User{}) {
			t.Errorf("token %.20q: %v, want %q", token, err, reason)
		}
	}
	// Reviews wait for each other, and nothing else waits for them.
	if err := c.rest.Get().AbsPath("/api/v1/nodes").Do(t.Context()).Error(); err != nil {
		t.Error(err)
	}
	all := c.reviews
	c.reviews = flowcontrol.NewFakeNeverRateLimiter()
	within, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.ReviewToken(within, "good"); err == nil {
		t.Error("a review waits for nobody")
	}
	if err := c.rest.Get().AbsPath("/api/v1/nodes").Do(t.Context()).Error(); err != nil {
		t.Errorf("something else waits for reviews: %v", err)
	}
	c.reviews = all
	for what, answer := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"away": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"forbidden": func(w http.ResponseWriter, _ *http.Request) bool {
			s.status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "cannot create tokenreviews")
			return true
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("ok")); return true },
		"another kind": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"kind":"ConfigMap","apiVersion":"v1"}`))
			return true
		},
	} {
		s.respond(answer)
		if u, err := c.ReviewToken(t.Context(), "good"); err == nil || errors.Is(err, ErrUnauthenticated) || u.Name != "" {
			t.Errorf("a server that is %s: %v, %v", what, u, err)
		}
	}
}

func TestMayGetPods(t *testing.T) {
	s := newServer(t, nil)
	c := s.client()
	var asked authorizationv1.SubjectAccessReviewSpec
	s.respond(reviewing(t, s, &authorizationv1.SubjectAccessReview{TypeMeta: metav1.TypeMeta{Kind: "SubjectAccessReview", APIVersion: "authorization.k8s.io/v1"}}, func(r *authorizationv1.SubjectAccessReview) {
		asked = r.Spec
		is := r.Spec.ResourceAttributes
		r.Status.Allowed = is.Namespace == "shop" || is.Namespace == "both"
		r.Status.Denied = is.Namespace == "both"
	}))
	u := cluster.User{Name: "alice", UID: "1", Groups: []string{"dev"}, Extra: map[string][]string{"k": {"v"}}}
	for namespace, want := range map[string]bool{"shop": true, "": false, "other": false, "both": false} {
		if may, err := c.MayGetPods(t.Context(), u, namespace); may != want || err != nil {
			t.Errorf("namespace %q: %v, %v", namespace, may, err)
		}
		wantAsked := authorizationv1.SubjectAccessReviewSpec{User: "alice", UID: "1", Groups: []string{"dev"}, Extra: map[string]authorizationv1.ExtraValue{"k": {"v"}},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Version: "v1", Resource: "pods"}}
		if diff := cmp.Diff(wantAsked, asked); diff != "" {
			t.Errorf("asked: %s", diff)
		}
	}
	if may, err := c.MayGetPods(t.Context(), cluster.User{}, "shop"); may || !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("nobody: %v, %v", may, err)
	}
	s.respond(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	if may, err := c.MayGetPods(t.Context(), u, "shop"); may || err == nil {
		t.Errorf("a server that is away: %v, %v", may, err)
	}
}
