package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAlertTest(t *testing.T) {
	test := func(_ context.Context, channel string) error {
		switch channel {
		case "good":
			return nil
		case "none":
			return NotFound("there is no channel none")
		}
		return errors.New("receiver answers 500")
	}
	c, _ := listen(t, newFake(), Config{TestAlert: test})
	if done, err := c.TestAlert(t.Context(), "good"); err != nil || done.Channel != "good" {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := c.TestAlert(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "receiver answers 500") {
		t.Error(err)
	}
	s := newServer(newFake(), Config{TestAlert: test})
	a := s.alertTester(http.NotFoundHandler())
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{{"GET", alertTestRoute, "", 405}, {"POST", alertTestRoute, "", 400}, {"POST", alertTestRoute, "{}", 400}, {"POST", alertTestRoute, `{"channel":7}`, 400},
		{"POST", alertTestRoute, `{"channel":"good"}`, 200}, {"POST", alertTestRoute, `{"channel":"none"}`, 404}, {"POST", alertTestRoute, `{"channel":"bad"}`, 502}, {"POST", "/v1/alerts", `{"channel":"good"}`, 404}} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
		if w.Code != tt.status {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, w.Code, w.Body)
		}
	}
	// Over TCP nobody sends anything.
	w := httptest.NewRecorder()
	local(s, addr{}).ServeHTTP(w, httptest.NewRequest("POST", "http://localhost"+alertTestRoute, strings.NewReader(`{"channel":"good"}`)))
	if w.Code == 200 {
		t.Error("a test is sent over TCP")
	}
}
