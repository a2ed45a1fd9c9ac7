package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// maxOrder is how many bytes an order has at most.
const maxOrder = 1 << 10

// orders is a handler that does what root asks for on the Unix socket, by POST of a
// JSON object to one route, and leaves everything else to the next.
type orders struct {
	s     *Server
	next  http.Handler
	route string
	only  string // what is said to who is not root
	carry func(ctx context.Context, body []byte) (answer any, err error)
}

func (o *orders) takesBody(req *http.Request) bool {
	if req.URL.Path == o.route {
		return req.Method == http.MethodPost && req.ContentLength <= maxOrder
	}
	taker, ok := o.next.(bodyTaker)
	return ok && taker.takesBody(req)
}

func (o *orders) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != o.route {
		o.next.ServeHTTP(w, req)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if err := o.answer(w, req); err != nil {
		Fail(w, req, o.s.log, err)
	}
}

func (o *orders) answer(w http.ResponseWriter, req *http.Request) error {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return &Error{Status: http.StatusMethodNotAllowed, Message: fmt.Sprintf("method %s is not allowed: this path answers POST", printable(req.Method))}
	}
	if uid, ok := uidOf(req.Context()); ok && uid != 0 {
		return Forbidden("%s", o.only)
	}
	b, err := io.ReadAll(io.LimitReader(req.Body, maxOrder))
	if err != nil {
		return &clientGone{err}
	}
	done, err := o.carry(req.Context(), b)
	if err != nil {
		return err
	}
	return WriteJSON(w, done)
}

// order has the agent do something, and reads its answer into done.
func (c *Client) order(ctx context.Context, path string, asked, done any) error {
	b, err := json.Marshal(asked)
	if err == nil {
		b, err = c.send(ctx, http.MethodPost, path, b)
	}
	if err == nil {
		err = json.Unmarshal(b, done)
	}
	return err
}
