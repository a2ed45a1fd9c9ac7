package bpf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	const text = `22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /a\040b\134c rw shared:2 master:1 - tmpfs tmpfs rw
41 31 0:38 /sub /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
not a mount
1 2 3 4 - tmpfs
41 31 0:38 / /x rw -
`
	want := []mount{
		{root: "/", point: "/proc", fstype: "proc"},
		{root: "/", point: `/a b\c`, fstype: "tmpfs"},
		{root: "/sub", point: "/sys/fs/cgroup/unified", fstype: "cgroup2"},
	}
	got, err := parseMounts(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(`31 23 0:28 / /a\040b rw shared:2 - tmpfs tmpfs rw`)
	f.Add("a b c / \\999 f -  - x\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseMounts(strings.NewReader(text))
		if err == nil && len(all) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts in %d lines", len(all), strings.Count(text, "\n")+1)
		}
		for _, m := range all {
			if m.point == "" || m.fstype == "" {
				t.Errorf("mount without a place or type: %+v", m)
			}
		}
	})
}

func TestParseLockdown(t *testing.T) {
	for text, want := range map[string]string{
		"none [integrity] confidentiality": "integrity",
		"[none] integrity confidentiality": "none",
		"":                                 "",
		"none integrity":                   "",
		"[broken":                          "",
	} {
		if got := parseLockdown(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
