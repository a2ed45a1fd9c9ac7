package hub

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/kube"
)

// proxied is how the front proxy says who asks.
func proxied(front *authority, t testing.TB, user string) shows {
	return shows{cert: front.pair(t, leaf{common: "front-proxy-client"}), header: http.Header{"X-Remote-User": {user}, "X-Remote-Group": {"system:authenticated"}}}
}

func (s shows) with(name string, values ...string) shows {
	h := maps.Clone(s.header)
	if h == nil {
		h = http.Header{}
	}
	h[name] = values
	return shows{cert: s.cert, header: h}
}

// TestWhoMayAsk tries to get in.
func TestWhoMayAsk(t *testing.T) {
	ca, foreign := newAuthority(t, "warren"), newAuthority(t, "foreign")
	one := newAgent("node-1").listen(t, ca)
	one.put(api.PathProcesses, one.row(time.Now(), "shop", "secret"))
	f := newFixture(t, ca, Config{}, one)
	front := f.cluster.front
	spoofed := http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}
	for _, test := range []struct {
		name    string
		who     shows
		code    int
		refused refusal
	}{
		{"the front proxy", proxied(front, t, "admin"), http.StatusOK, ""},
		{"a bearer token", admin, http.StatusOK, ""},
		{"a bearer token, in any case of the scheme", shows{header: http.Header{"Authorization": {"bearer admin-token"}}}, http.StatusOK, ""},
		{"a bearer token beside a certificate of somebody", shows{cert: foreign.pair(t, leaf{common: "someone"}), header: admin.header}, http.StatusOK, ""},

		{"nothing", shows{}, http.StatusUnauthorized, refusedNothing},
		{"spoofed headers", shows{header: spoofed}, http.StatusUnauthorized, refusedNothing},
		{"spoofed headers with a certificate of Warren's", shows{cert: ca.pair(t, hubLeaf), header: spoofed}, http.StatusUnauthorized, refusedCertificate},
		{"spoofed headers with a foreign certificate of the right name", shows{cert: foreign.pair(t, leaf{common: "front-proxy-client"}), header: spoofed}, http.StatusUnauthorized, refusedCertificate},
		{"the front proxy's authority, another name", shows{cert: front.pair(t, leaf{common: "metrics-server"}), header: spoofed}, http.StatusUnauthorized, refusedCertificate},
		{"the front proxy's certificate, expired", shows{cert: front.pair(t, leaf{common: "front-proxy-client", expired: true}), header: spoofed}, http.StatusUnauthorized, refusedCertificate},
		{"the front proxy's certificate, for servers", shows{cert: front.pair(t, leaf{common: "front-proxy-client", usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), header: spoofed}, http.StatusUnauthorized, refusedCertificate},
		{"the front proxy without a user", shows{cert: front.pair(t, leaf{common: "front-proxy-client"}), header: http.Header{"X-Remote-Group": {"system:masters"}}}, http.StatusUnauthorized, refusedHeaders},
		{"the front proxy with an empty user", proxied(front, t, ""), http.StatusUnauthorized, refusedHeaders},

		{"an empty token", bearer(""), http.StatusUnauthorized, refusedToken},
		{"a token of blanks", bearer("   "), http.StatusUnauthorized, refusedToken},
		{"garbage", bearer("!\"$%&"), http.StatusUnauthorized, refusedToken},
		{"two words", bearer("admin-token admin-token"), http.StatusUnauthorized, refusedToken},
		{"bytes that are no text", bearer("\xff\xfe"), http.StatusUnauthorized, refusedToken},
		{"a huge token", bearer(strings.Repeat("x", maxToken+1)), http.StatusUnauthorized, refusedToken},
		{"an expired token, or one of another audience", bearer("some.other.token"), http.StatusUnauthorized, refusedToken},
		{"another scheme", shows{header: http.Header{"Authorization": {"Basic YWRtaW46YWRtaW4tdG9rZW4="}}}, http.StatusUnauthorized, refusedToken},
		{"no scheme", shows{header: http.Header{"Authorization": {"admin-token"}}}, http.StatusUnauthorized, refusedToken},
		{"two tokens", shows{header: http.Header{"Authorization": {"Bearer admin-token", "Bearer shop-token"}}}, http.StatusUnauthorized, refusedToken},

		{"who may see nothing, by token", bearer("nobody-token"), http.StatusForbidden, refusedRights},
		{"who may see nothing, by the front proxy", proxied(front, t, "ned"), http.StatusForbidden, refusedRights},
		{"a token of who may see nothing, with spoofed headers", shows{header: bearer("nobody-token").with("X-Remote-User", "admin").header}, http.StatusForbidden, refusedRights},
		{"the front proxy for who may see nothing, with another's token", proxied(front, t, "ned").with("Authorization", "Bearer admin-token"), http.StatusForbidden, refusedRights},
		{"the front proxy for a user with several names", proxied(front, t, "ned").with("X-Remote-User", "ned", "admin"), http.StatusForbidden, refusedRights},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.t = t
			before := f.refusedSoFar()
			for _, prefix := range []string{"", apiPath} {
				code, body := f.get(test.who, prefix+"/v1/processes")
				if code != test.code {
					t.Errorf("answered %d %s, want %d", code, body, test.code)
				}
				if code != http.StatusOK && (strings.Contains(body, "secret") || !json.Valid([]byte(body)) || !strings.Contains(body, `"error"`)) {
					t.Errorf("answered %q", body)
				}
			}
			after := f.refusedSoFar()
			for _, r := range refusals {
				want := uint64(0)
				if r == test.refused {
					want = 2
				}
				if got := after[r] - before[r]; got != want {
					t.Errorf("%d are counted as refused for %s, want %d", got, r, want)
				}
			}
		})
	}
	f.t = t
	for _, want := range []string{"why=rights who=ned", "why=certificate who=front-proxy-client", "why=token who=nobody", "what=\"GET /v1/processes\""} {
		if !strings.Contains(f.logs.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(f.logs.String(), "admin-token") {
		t.Error("a token is in the log")
	}
}

func (f *fixture) refusedSoFar() map[refusal]uint64 { return f.hub.figures().refused }

func TestFrontProxyIsNotKnown(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	who := proxied(f.cluster.front, t, "admin")
	f.hub.door.proxy.Store(nil) // the cluster has not told yet
	if code, body := f.get(who, "/v1/processes"); code != http.StatusUnauthorized {
		t.Errorf("answered %d %s", code, body)
	}
}

func TestUsersSeeTheirNamespaces(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	for _, a := range []*fakeAgent{one, two} {
		for _, ns := range []string{"shop", "bank", "", "kube-system"} {
			a.put(api.PathProcesses, a.row(time.Now(), ns, "x"))
		}
	}
	two.put(api.PathProcesses, api.Row{Kind: "lost", JSON: []byte(`{"evt.kind":"lost","lost.count":7}`)})
	f := newFixture(t, ca, Config{}, one, two)
	f.cluster.change(func(c *fakeCluster) { c.may["both"] = []string{"shop", "bank", "gone"} })
	for _, test := range []struct {
		who    shows
		want   []string
		pushed string
	}{
		{admin, []string{"node-1  x", "node-1 bank x", "node-1 kube-system x", "node-1 shop x", "node-2  x", "node-2 bank x", "node-2 kube-system x", "node-2 shop x"}, "proc.pid > 0"},
		{bearer("shop-token"), []string{"node-1 shop x", "node-2 shop x"}, `(proc.pid > 0) and k8s.ns.name in ("shop")`},
		{proxied(f.cluster.front, t, "both"), []string{"node-1 bank x", "node-1 shop x", "node-2 bank x", "node-2 shop x"}, `(proc.pid > 0) and k8s.ns.name in ("bank", "shop")`},
	} {
		got := f.list(test.who, "/v1/processes?filter=proc.pid+>+0")
		if end := got[len(got)-1]; end != "2 of 2" {
			t.Errorf("the end of the list is %q", end)
		}
		got = slices.DeleteFunc(got[:len(got)-1], func(s string) bool { return s == "lost 7" })
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("told %q, want %q", got, test.want)
		}
		if list := one.filters(); list[len(list)-1] != test.pushed {
			t.Errorf("the agent was asked %q, want %q", list[len(list)-1], test.pushed)
		}
	}
	if n := f.hub.withheld.Load(); n != 10 {
		t.Errorf("%d rows were withheld, want 10", n)
	}
}

// TestGroupsAndExtraCount holds that rights are asked for of the whole user.
func TestGroupsAndExtraCount(t *testing.T) {
	u := cluster.User{Name: "sue", UID: "1", Groups: []string{"a", "b"}, Extra: map[string][]string{"scopes": {"x", "y"}}}
	same := cluster.User{Name: "sue", UID: "1", Groups: []string{"b", "a"}, Extra: map[string][]string{"scopes": {"y", "x"}}}
	if identityOf(u) != identityOf(same) {
		t.Error("the order of groups makes another user")
	}
	for _, other := range []cluster.User{
		{Name: "sue"},
		{Name: "sue", UID: "1", Groups: []string{"a", "b"}},
		{Name: "sue", UID: "1", Groups: []string{"ab"}, Extra: u.Extra},
		{Name: "sue", UID: "1", Groups: []string{"a"}, Extra: map[string][]string{"b": {}, "scopes": {"x", "y"}}},
		{Name: "sue1", Groups: u.Groups, Extra: u.Extra},
		{Name: "sue", UID: "1", Groups: u.Groups, Extra: map[string][]string{"scopes": {"xy"}}},
	} {
		if identityOf(u) == identityOf(other) {
			t.Errorf("%+v is taken for %+v", other, u)
		}
	}
}

func TestStreamLosesWhatIsRevoked(t *testing.T) {
	for _, test := range []struct {
		name   string
		revoke func(*fakeCluster)
		ends   bool
	}{
		{"one of two namespaces", func(c *fakeCluster) { c.may["sue"] = []string{"shop"} }, false},
		{"all namespaces", func(c *fakeCluster) { c.may["sue"] = nil }, true},
		{"the token", func(c *fakeCluster) { delete(c.tokens, "shop-token") }, true},
		{"whose token it is", func(c *fakeCluster) { c.tokens["shop-token"] = cluster.User{Name: "admin"} }, true},
		{"a namespace that is deleted", func(c *fakeCluster) { c.state.DeleteNamespace("bank", time.Now()) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca := newAuthority(t, "warren")
			one := newAgent("node-1").listen(t, ca)
			f := newFixture(t, ca, Config{Review: 200 * time.Millisecond}, one)
			f.cluster.change(func(c *fakeCluster) { c.may["sue"] = []string{"shop", "bank"} })
			s := f.follow(bearer("shop-token"), "/v1/events")
			s.want("1 of 1")
			one.tell(one.row(time.Now(), "bank", "before"))
			s.want("node-1 bank before")
			f.cluster.change(test.revoke)
			if test.ends {
				s.wantEnd(false)
				if f.refusedSoFar()[refusedLate] != 1 {
					t.Error("the end is not counted")
				}
				return
			}
			// Within the time of a review no row of it is told any more.
			deadline := time.Now().Add(20 * time.Second)
			for i := 0; ; i++ {
				one.tell(one.row(time.Now(), "bank", "after"))
				one.tell(one.row(time.Now(), "shop", fmt.Sprint(i)))
				line := <-s.lines
				if line == "node-1 bank after" && time.Now().Before(deadline) {
					s.want(fmt.Sprintf("node-1 shop %d", i))
					continue
				}
				if want := fmt.Sprintf("node-1 shop %d", i); line != want {
					t.Fatalf("the stream says %q, want %q", line, want)
				}
				return
			}
		})
	}
}

func TestClusterIsAway(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	one.put(api.PathProcesses, one.row(time.Now(), "shop", "x"))
	f := newFixture(t, ca, Config{Review: 200 * time.Millisecond}, one)
	who := proxied(f.cluster.front, t, "sue")
	s := f.follow(who, "/v1/events")
	byToken := f.follow(bearer("shop-token"), "/v1/events")
	s.want("1 of 1")
	byToken.want("1 of 1")
	f.cluster.change(func(c *fakeCluster) { c.away, c.reviews = true, nil })
	// What goes on goes on, and who was known is known.
	for asked := 0; asked < 6; {
		f.cluster.change(func(c *fakeCluster) { asked = len(c.reviews) })
		one.tell(one.row(time.Now(), "shop", "x"))
		s.want("node-1 shop x")
		byToken.want("node-1 shop x")
	}
	if got, want := f.list(who, "/v1/processes"), []string{"node-1 shop x", "1 of 1"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	// Of others nobody knows.
	for _, who := range []shows{proxied(f.cluster.front, t, "new"), bearer("admin-token")} {
		if code, body := f.get(who, "/v1/processes"); code != http.StatusServiceUnavailable || strings.Contains(body, "shop") {
			t.Errorf("answered %d %s, want that the cluster cannot be asked", code, body)
		}
	}
}

func TestReviewsAreRemembered(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	for range 5 {
		_ = f.list(bearer("shop-token"), "/v1/processes")
		_, _ = f.get(bearer("wrong"), "/v1/processes")
	}
	var asked []string
	f.cluster.change(func(c *fakeCluster) { asked = slices.Sorted(slices.Values(c.reviews)) })
	if want := []string{"rights sue ", "rights sue bank", "rights sue kube-system", "rights sue shop", "token", "token"}; !slices.Equal(asked, want) {
		t.Errorf("the cluster was asked %q, want %q", asked, want)
	}
}

// TestTokensWhileTheClusterIsAway holds that who was let in lately is, as long as
// nobody can be asked, and that nobody else is.
func TestTokensWhileTheClusterIsAway(t *testing.T) {
	c := newFakeCluster(t)
	tok := newTokens(c, time.Minute)
	now := time.Now()
	tok.now = func() time.Time { return now }
	look := func(token string, after time.Duration, want error) {
		t.Helper()
		now = now.Add(after)
		if _, err := tok.user(t.Context(), token, "10.0.0.8:1"); !errors.Is(err, want) {
			t.Errorf("%s after %v more: %v, want %v", token, after, err, want)
		}
	}
	look("shop-token", 0, nil)
	look("wrong", 0, kube.ErrUnauthenticated)
	c.change(func(c *fakeCluster) { c.away = true })
	look("admin-token", 0, errAway)
	look("wrong", tok.bad, errAway)
	look("shop-token", tok.good, nil)
	look("shop-token", awayTime-tok.good-tok.bad-1, nil)
	look("shop-token", 1, errAway)
	// It was refused before the cluster went away: that counts at once.
	c.change(func(c *fakeCluster) { c.away = false; delete(c.tokens, "shop-token") })
	look("shop-token", 0, kube.ErrUnauthenticated)
	c.change(func(c *fakeCluster) { c.away = true })
	look("shop-token", tok.bad, errAway)
}

func TestGrantsCountSoon(t *testing.T) {
	c := newFakeCluster(t)
	st := cluster.NewState(cluster.Config{})
	st.SetNamespace("shop", nil, time.Now())
	r := newRights(c, st, time.Minute, nil)
	now := time.Now()
	r.now = func() time.Time { return now }
	who := &caller{user: cluster.User{Name: "ned"}}
	look := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		v, err := r.view(t.Context(), who)
		if got := err == nil && v.sees("shop"); got != want {
			t.Errorf("after %v more the shop is seen: %t (%v), want %t", after, got, err, want)
		}
	}
	look(0, false)
	c.change(func(c *fakeCluster) { c.may["ned"] = []string{"shop"} })
	look(badTime-1, false)
	look(1, true)
	c.change(func(c *fakeCluster) { c.may["ned"] = nil })
	look(r.fresh-1, true)
	look(1, false)
}

// TestStreamsAskForTheirNamespaces holds that an answer that goes on asks nothing
// about namespaces that it does not tell of.
func TestStreamsAskForTheirNamespaces(t *testing.T) {
	c := newFakeCluster(t)
	c.may["both"] = []string{"shop", "bank", "gone"}
	st := cluster.NewState(cluster.Config{})
	for _, ns := range []string{"shop", "bank", "gone", "other"} {
		st.SetNamespace(ns, nil, time.Now())
	}
	r := newRights(c, st, time.Minute, nil)
	now := time.Now()
	r.now = func() time.Time { return now }
	still := func(user string, change func(), want string, asked ...string) {
		t.Helper()
		who := &caller{user: cluster.User{Name: user}}
		saw, err := r.view(t.Context(), who)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Hour)
		c.change(func(c *fakeCluster) { c.reviews = nil })
		change()
		v, err := r.still(t.Context(), who, saw)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(v.all, v.list())
		}
		if got != want {
			t.Errorf("%s sees %s, want %s", user, got, want)
		}
		c.change(func(c *fakeCluster) {
			slices.Sort(c.reviews)
			if !slices.Equal(c.reviews, asked) {
				t.Errorf("the cluster was asked %q, want %q", c.reviews, asked)
			}
		})
		now = now.Add(time.Hour)
	}
	still("both", func() {
		c.may["both"] = []string{"shop", "other"}
		st.DeleteNamespace("gone", now)
	}, "false [shop]", "rights both bank", "rights both shop")
	still("both", func() { c.may["both"] = nil }, errBlind.Error(), "rights both other", "rights both shop")
	still("admin", func() {}, "true []", "rights admin ")
	still("admin", func() { c.may["admin"] = []string{"bank"} }, "false [bank]", "rights admin ", "rights admin bank", "rights admin other", "rights admin shop")
}

// slowCluster answers reviews of tokens when it is let.
type slowCluster struct {
	*fakeCluster
	let chan struct{}
}

func (c slowCluster) ReviewToken(ctx context.Context, token string) (cluster.User, error) {
	<-c.let
	return c.fakeCluster.ReviewToken(ctx, token)
}

// TestManyTokensFromOneAddress holds that who tries many tokens keeps nobody else
// from being let in.
func TestManyTokensFromOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slowCluster{newFakeCluster(t), make(chan struct{})}
		tok := newTokens(c, time.Minute)
		var tries sync.WaitGroup
		// That who asks goes away takes no question back.
		for i := range mostWaiting {
			ctx, leave := context.WithCancel(t.Context())
			tries.Go(func() {
				if _, err := tok.user(ctx, fmt.Sprint("try-", i), fmt.Sprint("10.0.0.9:", i)); !errors.Is(err, context.Canceled) {
					t.Errorf("a wrong token: %v", err)
				}
			})
			synctest.Wait()
			leave()
		}
		synctest.Wait()
		if _, err := tok.user(t.Context(), "one-more", "10.0.0.9:99"); !errors.Is(err, errBusy) {
			t.Errorf("one more from there: %v", err)
		}
		tries.Go(func() {
			if u, err := tok.user(t.Context(), "shop-token", "10.0.0.8:1"); err != nil || u.Name != "sue" {
				t.Errorf("from elsewhere: %v, %v", u, err)
			}
		})
		synctest.Wait()
		close(c.let)
		tries.Wait()
		synctest.Wait()
		if _, err := tok.user(t.Context(), "shop-token", "10.0.0.9:99"); err != nil || len(tok.waiting) != 0 {
			t.Errorf("after that: %v, %v wait", err, tok.waiting)
		}
	})
}

func TestTablesAreBounded(t *testing.T) {
	c := newFakeCluster(t)
	tok := newTokens(c, time.Minute)
	r := newRights(c, cluster.NewState(cluster.Config{}), time.Minute, nil)
	for i := range mostTokens + 10 {
		tok.keep(tokenHash{byte(i), byte(i >> 8), byte(i >> 16)}, tokenAnswer{until: time.Now().Add(time.Hour)})
	}
	for i := range mostRulings + 10 {
		r.keep(decision{namespace: fmt.Sprint(i)}, ruling{at: time.Now()})
	}
	if n := len(tok.known); n > mostTokens {
		t.Errorf("%d tokens are remembered", n)
	}
	if n := len(r.rulings); n > mostRulings {
		t.Errorf("%d rulings are remembered", n)
	}
}

func TestNarrow(t *testing.T) {
	some := &view{namespaces: map[string]bool{"b": true, "a": true}}
	many := &view{namespaces: map[string]bool{}}
	for i := range mostPushed + 1 {
		many.namespaces[fmt.Sprintf("ns-%d", i)] = true
	}
	for _, test := range []struct {
		v          *view
		expr, want string
	}{
		{everything, "proc.pid = 1 or proc.pid = 2", "proc.pid = 1 or proc.pid = 2"},
		{some, "", `k8s.ns.name in ("a", "b")`},
		{some, "  ", `k8s.ns.name in ("a", "b")`},
		{some, "proc.pid = 1 or proc.pid = 2", `(proc.pid = 1 or proc.pid = 2) and k8s.ns.name in ("a", "b")`},
		{many, "proc.pid = 1", "proc.pid = 1"},
	} {
		got, all := test.v.narrow(test.expr)
		if got != test.want || all == (test.v == many) {
			t.Errorf("narrowed to %q, %t, want %q", got, all, test.want)
		}
		// Who cannot be told by the filter alone gets the last ones from all there are.
		a, err := parseAsked(api.PathEvents, api.Query{"filter": test.expr, "follow": "false", "limit": "7"})
		if err != nil {
			t.Fatal(err)
		}
		if a.pushTo(test.v); a.push.Filter != got || all != (a.push.Limit == 7) {
			t.Errorf("agents are asked %+v", a.push)
		}
	}
}
