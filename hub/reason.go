package hub

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"warren/api"
)

var (
	// errHungUp is why a node does not answer whose agent ended a stream.
	errHungUp = errors.New("it hung up")
	// errSilent is that of one that says nothing.
	errSilent = fmt.Errorf("no sign of life for %v", silence)
)

// attentive reads batches, or something else, that ask returns, and gives up when
// none comes within first, or later for too long: ask's context is cancelled then, and the error
// is errSilent. The time that its reader takes does not count.
func attentive[T any](ctx context.Context, first time.Duration, ask func(context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watch := time.AfterFunc(first, func() { cancel(errSilent) })
		defer watch.Stop()
		for b, err := range ask(ctx) {
			watch.Stop()
			if cause := context.Cause(ctx); err != nil && cause != nil {
				err = cause
			}
			if !yield(b, err) || err != nil {
				return
			}
			watch.Reset(silence)
		}
	}
}

// reason says in few words why a node does not answer. Addresses are left out:
// whoever asks knows nodes by name.
func reason(err error) string {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Error()
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case err == nil:
		return "no answer yet"
	case errors.As(err, &unknown):
		return "its certificate is of another authority"
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + invalid.Error()
	case errors.As(err, &host):
		return "its certificate is not an agent's"
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errHungUp.Error()
	}
	if st, ok := status.FromError(err); ok {
		return st.Message()
	}
	// What is innermost is the cause; what is around it says with whom.
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error()
}
