package api

import (
	"bytes"
	"errors"
	"net/http"
	"time"

	"warren/event"
)

// A Writer writes the rows of a list or a stream in the form that the client
// asked for: lines of JSON (NDJSON), or batches of rows in CBOR. It collects
// what it is given until it is much, or until Flush. One goroutine uses it.
//
// Its errors say that the client has gone; nobody is left to be told.
type Writer struct {
	w      http.ResponseWriter
	ctl    *http.ResponseController
	stall  time.Duration
	fields *event.Selection
	buf    []byte // lines, or the JSON of the batch's rows one after the other
	dirty  bool   // the connection holds something back: the headers, at first

	// For batches, not lines:
	rows      bool
	namespace *event.Field // of the pod that acted
	batch     []Row        // their JSON is in buf ...
	ends      []int        // ... and each ends here
	out       bytes.Buffer // the encoded batch
}

// NewWriter begins an answer. A client that reads nothing for stall is
// disconnected. fields are what is told of events; nil is everything.
func NewWriter(w http.ResponseWriter, req *http.Request, stall time.Duration, fields *event.Selection) *Writer {
	out := newLines(w, stall, fields)
	if out.rows = wantsRows(req); out.rows {
		w.Header().Set("Content-Type", RowsType)
		out.namespace, _ = event.Lookup("k8s.ns.name")
	}
	return out
}

// newLines is NewWriter of an answer that has no other form than lines.
func newLines(w http.ResponseWriter, stall time.Duration, fields *event.Selection) *Writer {
	h := w.Header()
	h.Set("Content-Type", linesType)
	h.Add("Vary", "Accept")
	return &Writer{w: w, ctl: http.NewResponseController(w), stall: stall, fields: fields, buf: make([]byte, 0, 4096), dirty: true}
}

// Event writes an event as it happened.
func (w *Writer) Event(e *event.Event) error { return w.event(e, e.Time) }

// event writes an event, or a row of a list that is ordered by another time
// than the event's.
func (w *Writer) event(e *event.Event, order time.Time) error {
	w.buf = w.fields.AppendJSON(w.buf, e)
	r := Row{}
	if w.rows {
		r = Row{Time: nanos(order), Kind: e.Data.Kind().String()}
		if w.namespace != nil {
			r.Namespace, _ = w.namespace.Str(e, 0)
		}
	}
	return w.end(r)
}

// Row writes a row that somebody else wrote.
func (w *Writer) Row(r Row) error {
	w.buf = append(w.buf, r.JSON...)
	return w.end(r)
}

// end ends a row whose JSON is the last in buf.
func (w *Writer) end(r Row) error {
	if !w.rows {
		w.buf = append(w.buf, '\n')
	} else {
		w.batch = append(w.batch, r)
		w.ends = append(w.ends, len(w.buf))
	}
	if len(w.buf) < batchBytes && len(w.batch) < batchRows {
		return nil
	}
	return w.write()
}

// Idle returns how long the stream may stay silent, of at most as long as
// people want: batches tell the time, too.
func (w *Writer) Idle(keepAlive time.Duration) time.Duration {
	if w.rows {
		return min(beat, keepAlive)
	}
	return keepAlive
}

// Beat writes, and sends, a sign of life.
func (w *Writer) Beat() error {
	if !w.rows {
		w.buf = append(w.buf, '\n')
	}
	w.dirty = true
	return w.Flush()
}

// Flush sends everything, the headers too.
func (w *Writer) Flush() error {
	if len(w.buf) == 0 && !w.dirty {
		return nil
	}
	if err := w.write(); err != nil {
		return err
	}
	w.dirty = false
	if err := w.ctl.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return &clientGone{err}
	}
	return nil
}

// write hands what has come together to the connection.
func (w *Writer) write() error {
	out := w.buf
	if w.rows {
		var err error
		if out, err = w.encode(); err != nil {
			return err
		}
	}
	// Not supported is right for a writer without a connection.
	if err := w.ctl.SetWriteDeadline(time.Now().Add(w.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return &clientGone{err}
	}
	_, err := w.w.Write(out)
	w.buf, w.batch, w.ends, w.dirty = w.buf[:0], w.batch[:0], w.ends[:0], true
	if err != nil {
		return &clientGone{err}
	}
	return nil
}

// encode returns the batch that has come together.
func (w *Writer) encode() ([]byte, error) {
	start := 0
	for i, end := range w.ends {
		w.batch[i].JSON = w.buf[start:end:end]
		start = end
	}
	w.out.Reset()
	if err := encodeBatch(&w.out, Batch{Clock: time.Now().UnixNano(), Rows: w.batch}); err != nil {
		return nil, err
	}
	return w.out.Bytes(), nil
}

// nanos returns a time in nanoseconds since 1970, 0 for one that is not known.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
