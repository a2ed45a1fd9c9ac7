package identity

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for in, want := range map[string]ImageRef{
		"":                           {},
		"nginx":                      {Repo: "nginx"},
		"nginx:1.27":                 {Repo: "nginx", Tag: "1.27"},
		"docker.io/library/nginx":    {Repo: "docker.io/library/nginx"},
		"localhost:5000/app":         {Repo: "localhost:5000/app"},
		"localhost:5000/team/app:v1": {Repo: "localhost:5000/team/app", Tag: "v1"},
		"[::1]:5000/app:v1":          {Repo: "[::1]:5000/app", Tag: "v1"},
		"nginx@" + digest:            {Repo: "nginx", Digest: digest},
		"reg.io:80/a/b:v2@" + digest: {Repo: "reg.io:80/a/b", Tag: "v2", Digest: digest},
		digest:                       {},
		strings.Repeat("ab", 32):     {},
		"localhost/busybox:latest":   {Repo: "localhost/busybox", Tag: "latest"},
		"odd@name":                   {Repo: "odd@name"},
	} {
		if diff := cmp.Diff(want, ParseImage(in)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

func FuzzParseImage(f *testing.F) {
	f.Add("localhost:5000/team/app:v1@sha256:" + strings.Repeat("0a", 32))
	f.Add("nginx:")
	f.Add("@:/")
	f.Fuzz(func(t *testing.T, s string) {
		r := ParseImage(s)
		if r == (ImageRef{}) {
			return
		}
		// Put together again it is the same, but for an empty tag.
		b := r.Repo
		if r.Tag != "" {
			b += ":" + r.Tag
		}
		if r.Digest != "" {
			b += "@" + r.Digest
		}
		if b != s && !strings.Contains(s, ":") {
			t.Errorf("%q became %q", s, b)
		}
		if len(b) > len(s) || strings.Contains(r.Tag, "/") {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

func TestBoundLabels(t *testing.T) {
	labels := map[string]string{"manifest": strings.Repeat("x", maxLabelBytes), "huge": strings.Repeat("y", 2*maxLabelBytes)}
	for n := range 100 {
		labels[fmt.Sprint("app", n)] = "shop"
	}
	got := boundLabels(labels)
	delete(labels, "manifest")
	delete(labels, "huge")
	if diff := cmp.Diff(labels, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if boundLabels(nil) != nil {
		t.Error("no labels became some")
	}
}
