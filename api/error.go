package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"warren/filter"
)

// Error is the answer to a question that could not be answered.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	// Expr, Pos and End are set for a filter: the mistake is Expr[Pos:End].
	Expr *string `json:"expr,omitempty"`
	Pos  *int    `json:"pos,omitempty"`
	End  *int    `json:"end,omitempty"`
	Hint string  `json:"hint,omitempty"`
}

// Error implements error.
func (e *Error) Error() string {
	if e.Hint == "" || strings.Contains(e.Message, e.Hint) {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Unwrap returns the error of the filter, a [*filter.Error], if it is one.
func (e *Error) Unwrap() error {
	if e.Expr == nil || e.Pos == nil || e.End == nil {
		return nil
	}
	return &filter.Error{Expr: *e.Expr, Pos: *e.Pos, End: *e.End, Msg: e.Message, Hint: e.Hint}
}

// BadRequest says that a question is wrong (400).
func BadRequest(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// Unauthorized says that nobody knows who asks (401).
func Unauthorized(format string, args ...any) *Error {
	return &Error{Status: http.StatusUnauthorized, Message: fmt.Sprintf(format, args...)}
}

// Forbidden says that who asks may not (403).
func Forbidden(format string, args ...any) *Error {
	return &Error{Status: http.StatusForbidden, Message: fmt.Sprintf(format, args...)}
}

// NotFound says that what is asked for is not known (404).
func NotFound(format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Message: fmt.Sprintf(format, args...)}
}

// Unavailable says that there is no answer at present (503).
func Unavailable(format string, args ...any) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf(format, args...)}
}

// clientGone says that there is nobody left to answer.
type clientGone struct{ err error }

// Error implements error.
func (c *clientGone) Error() string { return "write: " + c.err.Error() }

// Unwrap returns what the connection said.
func (c *clientGone) Unwrap() error { return c.err }

// Fail answers with an error: an [*Error] as it is, any other as 500, which is
// logged too. Where an answer has begun already and its reader has gone, it
// ends the connection by a panic that [net/http] knows, so that what was sent
// does not look whole.
func Fail(w http.ResponseWriter, req *http.Request, log *slog.Logger, err error) {
	var e *Error
	var gone *clientGone
	switch {
	case errors.As(err, &gone):
		log.Debug("client has gone", "path", req.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	case !errors.As(err, &e):
		log.Warn("a question could not be answered", "path", req.URL.Path, "err", err)
		e = &Error{Status: http.StatusInternalServerError, Message: err.Error()}
	}
	WriteError(w, e)
}

// WriteError writes an error as the whole answer.
func WriteError(w http.ResponseWriter, e *Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e) // the client may have gone: nobody is left to tell
}

// WriteJSON writes v, one JSON object, as the whole answer.
func WriteJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeObject(w, append(b, '\n'))
}

// writeObject writes an object that is JSON already.
func writeObject(w http.ResponseWriter, b []byte) error {
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(b); err != nil {
		return &clientGone{err}
	}
	return nil
}
