package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"warren/cluster"
	"warren/event"
	"warren/filter"
)

func TestSelector(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, tt := range []struct {
		text string
		want string // conditions, joined by |
		err  string // message and the part that is marked, joined by @
	}{
		{text: ""},
		{text: "  "},
		{text: "app=shop", want: `k8s.pod.labels["app"] = "shop"`},
		{text: "app == shop", want: `k8s.pod.labels["app"] = "shop"`},
		{text: "app!=shop", want: `not k8s.pod.labels["app"] = "shop"`},
		{text: "app=", want: `k8s.pod.labels["app"] = ""`},
		{text: "app=,tier", want: `k8s.pod.labels["app"] = ""|k8s.pod.labels["tier"] exists`},
		{text: "app , ! tier", want: `k8s.pod.labels["app"] exists|not k8s.pod.labels["tier"] exists`},
		{text: "app.kubernetes.io/name in (a, B_1.c)", want: `k8s.pod.labels["app.kubernetes.io/name"] in ("a", "B_1.c")`},
		{text: "a notin(b)", want: `not k8s.pod.labels["a"] = "b"`},
		{text: "a in (,b)", want: `k8s.pod.labels["a"] in ("", "b")`},
		{text: "a in ()", want: `k8s.pod.labels["a"] = ""`},
		{text: "in in (in,notin),notin", want: `k8s.pod.labels["in"] in ("in", "notin")|k8s.pod.labels["notin"] exists`},

		{text: ",", err: "expected the key of a label@,"},
		{text: "a,", err: "expected the key of a label@"},
		{text: "a,,b", err: "expected the key of a label@,"},
		{text: "a b", err: `"b" is no operator; write =, !=, in or notin@b`},
		{text: "a=b c", err: "expected a comma or the end of the selector@c"},
		{text: "a=b=c", err: "expected a comma or the end of the selector@="},
		{text: "!a=b", err: "expected a comma or the end of the selector@="},
		{text: "a>5", err: "labels are text and are not compared by size; write =, !=, in or notin@>"},
		{text: "a in b", err: "in wants values in parentheses; write a in (a, b)@b"},
		{text: "a notin", err: "notin wants values in parentheses; write a notin (a, b)@"},
		{text: "a in (b", err: "expected a comma or a closing parenthesis@"},
		{text: "a in (b c)", err: "expected a comma or a closing parenthesis@c"},
		{text: "a=b)", err: "expected a comma or the end of the selector@)"},
		{text: `a="b"`, err: `the value has what no label has: letters, digits, -, _ and . are allowed@"b"`},
		{text: "a=\x1b[2J", err: "the value has what no label has: letters, digits, -, _ and . are allowed@\x1b[2J"},
		{text: "a=-b", err: "the value does not begin and end with a letter or a digit@-b"},
		{text: "a=" + long, err: "the value has 64 bytes, labels have 63 at most@" + long},
		{text: "a.=b", err: "the key does not begin and end with a letter or a digit@a."},
		{text: "/a", err: `"" in front of the slash is no domain name in lower case@/a`},
		{text: "Ex/a", err: `"Ex" in front of the slash is no domain name in lower case@Ex/a`},
		{text: "a/b/c", err: "the key has what no label has: letters, digits, -, _ and . are allowed@a/b/c"},
		{text: "a/", err: "the key is empty@a/"},
	} {
		list, err := parseSelector(tt.text)
		if tt.err != "" {
			var e *filter.Error
			if !errors.As(err, &e) || strings.TrimPrefix(e.Error(), "label selector: ")+"@"+e.Expr[e.Pos:e.End] != tt.err {
				t.Errorf("%q: %v, want %s", tt.text, err, tt.err)
			}
			continue
		}
		var got []string
		for _, r := range list {
			got = append(got, r.condition())
		}
		if err != nil || strings.Join(got, "|") != tt.want {
			t.Errorf("%q: %v %v, want %s", tt.text, got, err, tt.want)
		}
	}
}

// holds is what a selector means, by Kubernetes' own words.
func (r *requirement) holds(labels map[string]string) bool {
	v, ok := labels[r.key]
	switch r.op {
	case opExists:
		return ok
	case opAbsent:
		return !ok
	case opIn:
		return ok && slices.Contains(r.values, v)
	}
	return !ok || !slices.Contains(r.values, v)
}

// FuzzSelector: whatever is understood is a condition that filters take, and
// holds for the pods that Kubernetes would select.
func FuzzSelector(f *testing.F) {
	for _, s := range []string{"", "app=shop", "app!=shop,tier in (a,b)", "!app", "app notin (shop, )", "app=", "x/y=z", "a b", "((", "in", "app in ()", "tier", "app,!tier", "app in (,shop)"} {
		f.Add(s, "app", "shop")
		f.Add(s, "tier", "")
	}
	f.Fuzz(func(t *testing.T, text, key, value string) {
		list, err := parseSelector(text)
		if err != nil {
			var e *filter.Error
			if !errors.As(err, &e) || e.Pos < 0 || e.End < e.Pos || e.End > len(text) {
				t.Fatalf("%q: error %v names no place", text, err)
			}
			return
		}
		labels := map[string]string{key: value}
		pod := &cluster.Pod{UID: "u", Name: "p", Namespace: "n", Labels: labels}
		e := &event.Event{Process: &event.Process{Container: &event.Container{ID: "c", Pod: pod}}, Data: &event.Exec{Type: "execve"}}
		for _, r := range list {
			prog, err := filter.Compile(r.condition())
			if err != nil {
				t.Fatalf("%q becomes %s, which is no filter: %v", text, r.condition(), err)
			}
			if got, want := prog.Match(e), r.holds(labels); got != want {
				t.Errorf("%q on %v: %s is %v, want %v", text, labels, r.condition(), got, want)
			}
		}
	})
}
