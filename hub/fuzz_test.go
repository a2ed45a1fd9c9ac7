package hub

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"warren/api"
	"warren/filter"
	"warren/kube"
	"warren/settings"
)

func FuzzBearer(f *testing.F) {
	for _, seed := range []string{"", "Bearer", "Bearer ", "Bearer a.b-c_d", "bearer  x ", "Basic dTpw", "Basic dTpwOnE=", "Basic ====", "Bearer \x00", "Bearer a b", "Bearer " + strings.Repeat("x", maxToken+1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		check := func(token string, err error) {
			if err == nil && (token == "" || len(token) > maxToken || strings.ContainsAny(token, " \x00\r\n,;\"")) {
				t.Errorf("%q is taken for the token %q", header, token)
			}
			if err != nil && token != "" {
				t.Errorf("%q has the token %q and the error %v", header, token, err)
			}
		}
		bearer, err := parseBearer([]string{header})
		check(bearer, err)
		hubble, err2 := parseHubbleToken([]string{header})
		check(hubble, err2)
		if err == nil && hubble != bearer {
			t.Errorf("%q is the bearer token %q, for Hubble %q", header, bearer, hubble)
		}
		if err == nil {
			basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+bearer))
			if got, err := parseHubbleToken([]string{basic}); got != bearer || err != nil {
				t.Errorf("as a password %q is %q, %v", bearer, got, err)
			}
		}
		if _, err := parseBearer([]string{header, header}); err == nil {
			t.Errorf("%q twice is taken for a token", header)
		}
	})
}

func FuzzFrontProxyHeaders(f *testing.F) {
	f.Add("X-Remote-User", "sue", "X-Remote-Group", "system:masters")
	f.Add("X-Remote-Extra-Acme.com%2fproject", "x", "X-Remote-Extra-", "y")
	f.Add("X-Remote-Extra-%zz", "x", "x-remote-user", "lower")
	f.Add("X-Remote-Uid", "1", "X-Remote-Userx", "no")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		p := &frontProxy{header: kube.RequestHeader{UsernameHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}}}
		h := http.Header{}
		h.Add(k1, v1)
		h.Add(k2, v2)
		u, err := p.user(h)
		if (err == nil) != (h.Get("X-Remote-User") != "") || u.Name != h.Get("X-Remote-User") {
			t.Fatalf("%v is the user %q, %v", h, u.Name, err)
		}
		if err != nil {
			return
		}
		for _, g := range u.Groups {
			if g == "" || !slices.Contains(h.Values("X-Remote-Group"), g) {
				t.Errorf("%v has the group %q", h, g)
			}
		}
		for k, values := range u.Extra {
			if k == "" || k != strings.ToLower(k) && !strings.Contains(k1+k2, "%") {
				t.Errorf("%v has the extra key %q", h, k)
			}
			for _, v := range values {
				if v != v1 && v != v2 {
					t.Errorf("%v has the extra value %q", h, v)
				}
			}
		}
		again, _ := p.user(h)
		if identityOf(u) != identityOf(again) {
			t.Error("a user is not themselves")
		}
	})
}

// FuzzNarrow holds that narrowing a filter leaves it one, and means no more.
func FuzzNarrow(f *testing.F) {
	for _, seed := range []string{"", "proc.pid = 1", "proc.pid = 1 or proc.pid = 2", ") or (evt.kind = exec", "not proc.name = ls", "proc.name = \"(\"", "a = ", "evt.kind = exec) or (evt.kind = exit"} {
		f.Add(seed)
	}
	v := &view{namespaces: map[string]bool{"shop": true, "kube-system": true}}
	f.Fuzz(func(t *testing.T, expr string) {
		whole, err := filter.Compile(expr)
		pushed, _ := v.narrow(expr)
		narrow, err2 := filter.Compile(pushed)
		if err == nil && err2 != nil {
			t.Fatalf("%q is a filter, narrowed it is not: %v", expr, err2)
		}
		if err == nil && narrow.Kinds()&^whole.Kinds() != 0 {
			t.Errorf("%q matches %v, narrowed %v", expr, whole.Kinds(), narrow.Kinds())
		}
	})
}

func FuzzAsked(f *testing.F) {
	f.Add("events", "proc.pid = 1", "proc.name", "true", "5", "node-1")
	f.Add("processes", "of.the.future = 1", "of.the.future", "", "-1", ",")
	f.Add("connections", ")(", "", "false", "", "a,b")
	f.Fuzz(func(t *testing.T, path, expr, fields, follow, limit, node string) {
		q := api.Query{}
		for k, v := range map[string]string{"filter": expr, "fields": fields, "follow": follow, "limit": limit, "node": node} {
			if v != "" {
				q[k] = v
			}
		}
		a, err := parseAsked("/"+path, q)
		if err != nil {
			return
		}
		if a.push.Filter != expr {
			t.Errorf("%q is asked of agents as %q", expr, a.push.Filter)
		}
		if got := strings.Join(a.push.Fields, ","); got != fields {
			t.Errorf("fields %q are asked of agents as %q", fields, got)
		}
		if a.Limit < 0 || slices.Contains(a.Nodes, "") {
			t.Errorf("limit %d, nodes %q", a.Limit, a.Nodes)
		}
		if _, err := filter.Compile(expr); err != nil && a.foreign == nil {
			t.Errorf("%q is no filter for the hub, which does not say so", expr)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add("listen: :1\nwait: 10ms\nnodes: a=b,c=d\n")
	f.Add("a: [b\n---\nc: d")
	f.Add("stream-bytes: 99999999999999999999")
	f.Fuzz(func(t *testing.T, src string) {
		var c Config
		if err := settings.Parse("hub.yaml", []byte(src), options, &c); err != nil {
			if !strings.HasPrefix(err.Error(), "hub.yaml") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: the error is %q", src, err)
			}
			return
		}
		c = c.withDefaults()
		if c.Wait <= 0 || c.Review <= 0 || c.Stall <= 0 || c.Streams <= 0 || c.StreamBytes <= 0 || !isLabel(c.Namespace) || !isLabel(c.Agents) {
			t.Errorf("%q sets %+v", src, c)
		}
	})
}
