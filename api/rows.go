package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// RowsType is the media type that an agent and a hub speak to each other: a
// sequence of CBOR data items, each a [Batch].
const RowsType = "application/vnd.warren.rows+cbor"

// A Row is one event, or one row of a list, with what a hub needs to know of it
// to merge it with those of other nodes and to decide who may see it. What it
// tells people is JSON as an agent wrote it, which nobody on the way reads.
type Row struct {
	_ struct{} `cbor:",toarray"`
	// Time is what rows are ordered by, in nanoseconds since 1970: when an event
	// happened, or for rows of lists when the process or connection began; 0
	// where that was before the agent's time.
	Time int64
	// Kind is the name of its kind: see package event.
	Kind string
	// Namespace is the Kubernetes namespace of the pod that acted; "" for what
	// belongs to no pod.
	Namespace string
	// JSON is one object, without a line's end.
	JSON []byte
}

// A Batch is some rows, and what the sender's clock said when it sent them, in
// nanoseconds since 1970. Without rows it is a sign of life: one comes each
// second while a stream has nothing else to say.
//
// Rows of a stream are in the order in which the agent told them: by time, but
// for those that had to wait for a description of their container.
type Batch struct {
	_     struct{} `cbor:",toarray"`
	Clock int64
	Rows  []Row
}

// Batches are what a stream of rows consists of. The first error ends them.
type Batches = iter.Seq2[Batch, error]

const (
	// batchBytes and batchRows are how much a busy stream collects before it
	// sends a batch.
	batchBytes = 64 << 10
	batchRows  = 512
	// beat is how long a stream of batches stays silent.
	beat = time.Second
	// maxBatch bounds a batch that is received: a row is at most maxLine.
	maxBatch = 2 * maxLine
)

// encodeBatch appends a batch to b.
func encodeBatch(b *bytes.Buffer, batch Batch) error {
	if batch.Rows == nil {
		batch.Rows = []Row{} // an empty list, not none
	}
	return cbor.MarshalToBuffer(batch, b)
}

// batchCoding are the settings for what is received: what is not a batch is
// refused.
var batchCoding = sync.OnceValues(func() (cbor.DecMode, error) {
	return cbor.DecOptions{
		MaxNestedLevels:  4, // the batch, its rows, a row
		MaxArrayElements: 1 << 16,
		MaxMapPairs:      16,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		// Text that somebody else's kernel wrote is in JSON; kind and namespace
		// are names.
		UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
})

// wantsRows reports whether a client prefers batches of rows to lines.
func wantsRows(req *http.Request) bool { return wants(req, RowsType) }

// wants reports whether a client names a media type among those that it takes.
func wants(req *http.Request, what string) bool {
	for _, header := range req.Header.Values("Accept") {
		for part := range strings.SplitSeq(header, ",") {
			if media, _, err := mime.ParseMediaType(part); err == nil && media == what {
				return true
			}
		}
	}
	return false
}

// Rows asks for a list or a stream, [PathEvents] or another, in batches. Where
// follow is true a stream does not end before ctx does, or the agent.
func (c *Client) Rows(ctx context.Context, path string, follow bool, q Question) Batches {
	return c.batches(ctx, path, q.values(path, follow))
}

func (c *Client) batches(ctx context.Context, path string, q url.Values) Batches {
	return func(yield func(Batch, error) bool) {
		resp, err := c.get(ctx, path, q, RowsType)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		defer resp.Body.Close()
		if ct := resp.Header.Get("Content-Type"); ct != RowsType {
			yield(Batch{}, fmt.Errorf("ask %s: it answers %q, not %s: is it of another version?", c.who, ct, RowsType))
			return
		}
		for b, err := range decodeBatches(resp.Body) {
			if err != nil {
				yield(Batch{}, c.broken(ctx, err))
				return
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}

// decodeBatches reads batches until r ends; that it ends within one is an error.
func decodeBatches(r io.Reader) Batches {
	return func(yield func(Batch, error) bool) {
		mode, err := batchCoding()
		if err != nil {
			yield(Batch{}, err)
			return
		}
		bounded := &io.LimitedReader{R: r}
		dec := mode.NewDecoder(bounded)
		for {
			// What the decoder has read ahead is at most as much again.
			bounded.N = maxBatch
			var b Batch
			switch err := dec.Decode(&b); {
			case errors.Is(err, io.EOF):
				return
			case err != nil && bounded.N <= 0:
				yield(Batch{}, fmt.Errorf("a batch of rows has more than %d bytes", maxBatch))
				return
			case err != nil:
				yield(Batch{}, fmt.Errorf("read rows: %w", err))
				return
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}
