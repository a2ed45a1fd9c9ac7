package hub

import (
	"net/http"
	"strings"
	"testing"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"warren/cluster"
)

func TestPlaces(t *testing.T) {
	p := newPlaces(8)
	take := func(c *caller, want string) func() {
		t.Helper()
		done, err := p.begin(c)
		switch {
		case err == nil && want != "", err != nil && (want == "" || !strings.Contains(err.Message, want)):
			t.Fatalf("%s: %v, want %q", nameOf(c.user), err, want)
		}
		return done
	}
	sue := &caller{user: cluster.User{Name: "sue"}}
	other := &caller{user: cluster.User{Name: "sue", Extra: map[string][]string{"token": {"2"}}}, token: "another"}
	first := take(sue, "")
	take(other, "")
	take(sue, "2 answers to sue are being written already")
	take(other, "2 answers to sue are being written already")
	first()
	take(other, "")
	// A relay asks for many.
	ours := &caller{trusted: true, user: cluster.User{Name: "hubble.warren"}}
	var last func()
	for range 6 {
		last = take(ours, "")
	}
	take(&caller{user: cluster.User{Name: "admin"}}, "8 answers are being written already")
	last()
	take(&caller{user: cluster.User{Name: "admin"}}, "")()
	if n := p.now(); n != 7 || len(p.by) != 1 {
		t.Errorf("%d places are taken, by %v", n, p.by)
	}
	if p := newPlaces(1); p.share != 1 {
		t.Errorf("of one place a user may have %d", p.share)
	}
}

// TestEveryQuestionTakesAPlace holds that nobody asks all agents without end, by
// whichever question.
func TestEveryQuestionTakesAPlace(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{Streams: 4}, newAgent("node-1").listen(t, ca))
	done, err := f.hub.places.begin(&caller{user: cluster.User{Name: "admin"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/events", "/v1/processes", "/v1/connections", "/v1/processes/1", "/v1/map", "/v1/status"} {
		if code, body := f.get(admin, path); code != http.StatusServiceUnavailable || !strings.Contains(body, "1 answers to admin") {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
	}
	c, _ := f.hubbleClient(nil)
	ctx := withAuthorization(t.Context(), "Bearer admin-token")
	for name, ask := range map[string]func() error{
		"GetNodes":      func() error { _, err := c.GetNodes(ctx, &observerpb.GetNodesRequest{}); return err },
		"GetNamespaces": func() error { _, err := c.GetNamespaces(ctx, &observerpb.GetNamespacesRequest{}); return err },
		"ServerStatus":  func() error { _, err := c.ServerStatus(ctx, &observerpb.ServerStatusRequest{}); return err },
		"GetFlows":      func() error { _, err := allFlowsOf(ctx, c, &observerpb.GetFlowsRequest{}); return err },
	} {
		if err := ask(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s answers %v", name, err)
		}
	}
	done()
	for range 3 { // each is given back
		if code, body := f.get(admin, "/v1/status"); code != http.StatusOK {
			t.Errorf("GET /v1/status: %d %s", code, body)
		}
	}
}
