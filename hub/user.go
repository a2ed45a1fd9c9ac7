package hub

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"warren/cluster"
)

// A caller is who asks, and how that is known.
type caller struct {
	user cluster.User
	// token is the bearer token that was shown; "" for who was vouched for by
	// the front proxy, or by a certificate of ours.
	token string
	// trusted sees everything: a part of Warren's installation.
	trusted bool
	from    string // address
}

type callerKey struct{}

func withCaller(ctx context.Context, c *caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns who asks. Every request that is answered has one.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// identity is a user as a key of tables: equal for those whom Kubernetes cannot
// tell apart.
type identity [sha256.Size]byte

func identityOf(u cluster.User) identity {
	h := sha256.New()
	put := func(list ...string) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(list)))
		h.Write(n[:])
		for _, s := range list {
			binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
			h.Write(n[:])
			h.Write([]byte(s))
		}
	}
	put(u.Name, u.UID)
	put(slices.Sorted(slices.Values(u.Groups))...)
	for _, k := range slices.Sorted(maps.Keys(u.Extra)) {
		put(k)
		put(slices.Sorted(slices.Values(u.Extra[k]))...)
	}
	return identity(h.Sum(nil))
}

// nameOf names a user in messages.
func nameOf(u cluster.User) string { return cmp.Or(u.Name, "nobody") }
