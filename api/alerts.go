package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Alerts is where alerts go.
type Alerts struct {
	Channels []AlertChannel `json:"channels"`
	// Lost counts alerts that were lost on the way to the channels.
	Lost uint64 `json:"lost"`
}

// AlertChannel is one way to who takes alerts. Numbers are of alerts since the
// agent started.
type AlertChannel struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// To is where it goes, without secrets.
	To string `json:"to"`
	// Waiting are to be sent yet; they take Bytes of MaxBytes.
	Waiting  int64 `json:"waiting"`
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`
	// Sent were taken; Retried attempts failed; Dead were refused for good, and are
	// kept in DeadFile.
	Sent     int64  `json:"sent"`
	Retried  int64  `json:"retried"`
	Dead     int64  `json:"dead"`
	DeadFile string `json:"dead_file"`
	// GivenUp had no room to wait any longer, Lost none to be written down.
	GivenUp int64 `json:"given_up"`
	Lost    int64 `json:"lost"`
	// Damaged bytes on the disk could not be read.
	Damaged int64 `json:"damaged_bytes"`
	// LastSent is when something was last taken; Error is why nothing is, since
	// FailingSince, or without that why the last one was refused; DiskError why
	// nothing can be written down.
	LastSent     time.Time `json:"last_sent,omitzero"`
	Error        string    `json:"error,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	DiskError    string    `json:"disk_error,omitempty"`
}

// PathAlertTest sends a test by a channel, below the root of the API; it is
// answered on the Unix socket only.
const PathAlertTest = "/alerts/test"

const (
	alertTestRoute = "/v1" + PathAlertTest
	// alertTestTime is how long a receiver may take: less than clients wait.
	alertTestTime = 20 * time.Second
)

// An alertTest is what a client wants tested.
type alertTest struct {
	Channel string `json:"channel"`
}

// alertTester answers orders to send a test, and leaves everything else to next.
func (s *Server) alertTester(next http.Handler) *orders {
	return &orders{s: s, next: next, route: alertTestRoute, only: "only root sends alerts", carry: s.testAlert}
}

func (s *Server) testAlert(ctx context.Context, body []byte) (any, error) {
	var asked alertTest
	if err := json.Unmarshal(body, &asked); err != nil || asked.Channel == "" {
		return nil, BadRequest(`want {"channel": NAME}`)
	}
	ctx, cancel := context.WithTimeout(ctx, alertTestTime)
	defer cancel()
	begun := time.Now()
	if err := s.cfg.TestAlert(ctx, asked.Channel); err != nil {
		var e *Error
		if errors.As(err, &e) {
			return nil, err
		}
		return nil, &Error{Status: http.StatusBadGateway, Message: err.Error()}
	}
	return AlertTested{asked.Channel, time.Since(begun)}, nil
}

// AlertTested says that a receiver has taken a test.
type AlertTested struct {
	Channel string        `json:"channel"`
	Took    time.Duration `json:"took_ns"`
}

// TestAlert has the agent send a test by a channel, and returns when the receiver
// has taken it, or why it has not. The agent must be on a Unix socket, and who
// asks root.
func (c *Client) TestAlert(ctx context.Context, channel string) (AlertTested, error) {
	var done AlertTested
	err := c.order(ctx, PathAlertTest, alertTest{channel}, &done)
	return done, err
}
