package rule

import (
	"strings"
	"testing"

	"warren/event"
)

// TestAdditions appends to the outputs of the rules that match, and to those
// alone.
func TestAdditions(t *testing.T) {
	text := "- rule: One\n  desc: d\n  condition: evt.type = execve\n  output: started %proc.name\n  priority: INFO\n  tags: [a, b]\n" +
		"- rule: Two\n  desc: d\n  condition: evt.type = execve\n  output: '%proc.pid'\n  priority: INFO\n  tags: [a]\n"
	cfg := Config{Add: []Addition{
		{Output: "by %user.name"},
		{Tags: []string{"b", "a"}, Fields: []ExtraField{{Name: "who", Format: "%user.name/%proc.name"}, {Name: "proc.pid"}, {Name: "proc.name", Format: "x"}}},
		{Rule: "Two", Source: "syscall", Suggested: true},
		{Source: "k8s_audit", Output: "never"},
	}}
	for i := range cfg.Add {
		if err := cfg.Add[i].Check(); err != nil {
			t.Fatal(err)
		}
	}
	set, findings := Load([]File{{"a.yaml", []byte(text)}}, cfg)
	if set == nil {
		t.Fatal(findings)
	}
	e := &event.Event{Process: &event.Process{PID: 7, Name: "cat", UserName: "ann"}, Data: &event.Exec{Type: "execve"}}
	want := []string{
		`started cat by ann {"proc.name":"x","proc.pid":7,"user.name":"ann","who":"ann/cat"}`,
		`7 by ann container_id=host container_name=host container_image_repository=<NA> container_image_tag=<NA> k8s_pod_name=<NA> k8s_ns_name=<NA> ` +
			`{"container.id":"host","container.image.repository":null,"container.image.tag":null,"container.name":"host","k8s.ns.name":null,"k8s.pod.name":null,"proc.pid":7,"user.name":"ann"}`,
	}
	for i, r := range set.Rules {
		got := string(r.Format.AppendFields(append(r.Format.Append(nil, e), ' '), e))
		if got != want[i] {
			t.Errorf("%s says\n%s\nwant\n%s", r.Name, got, want[i])
		}
	}
	key := set.Rules[0].Format.Key(func(name string) bool { return name == "user.name" || name == "who" || name == "proc.pid" })
	if got := string(key.Append(nil, e)); got != "\x00cat\x00\x00cat\x00" { // the field proc.name, which is x, that of who, and that of the text
		t.Errorf("the key is %q", got)
	}
	for _, bad := range []struct {
		add  Addition
		want string
	}{
		{Addition{Rule: "x"}, "nothing is to be added"},
		{Addition{Output: "%proc.nam"}, "no field proc.nam"},
		{Addition{Output: "%proc.env"}, "the environment of processes is not read"},
		{Addition{Fields: []ExtraField{{Name: "a b", Format: "x"}}}, `"a b" is no name of a field`},
		{Addition{Fields: []ExtraField{{Name: "proc.nam"}}}, "no field proc.nam"},
		{Addition{Fields: []ExtraField{{Name: "proc.name,"}}}, "proc.name, is not one field"},
		{Addition{Fields: []ExtraField{{Name: "x", Format: "%"}}}, "x: a percent sign has no field behind it"},
	} {
		if err := bad.add.Check(); err == nil || !strings.HasPrefix(err.Error(), bad.want) && !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v, want %s", bad.add, err, bad.want)
		}
	}
}
