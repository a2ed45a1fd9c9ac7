package kube

import (
	"context"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"warren/cluster"
)

// maxToken is the longest bearer token that is asked about. What a header of
// HTTP can hold at most is larger, and no token is near.
const maxToken = 16 << 10

// ReviewToken asks the cluster whose bearer token this is. The error is
// ErrUnauthenticated, with the reason, for a token that the cluster refuses or
// that cannot be one, and another where the cluster could not be asked. Nothing
// is remembered: each call asks.
func (c *Client) ReviewToken(ctx context.Context, token string) (cluster.User, error) {
	switch {
	case token == "":
		return cluster.User{}, fmt.Errorf("%w: the token is empty", ErrUnauthenticated)
	case len(token) > maxToken:
		return cluster.User{}, fmt.Errorf("%w: the token is longer than %d bytes", ErrUnauthenticated, maxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return cluster.User{}, fmt.Errorf("%w: the token has characters that no token has", ErrUnauthenticated)
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	answer, err := ask(ctx, c, "tokenreviews", "/apis/authentication.k8s.io/v1/tokenreviews", review)
	if err != nil {
		return cluster.User{}, fmt.Errorf("ask the cluster whose token it is: %w", err)
	}
	switch is := answer.Status; {
	case !is.Authenticated && is.Error != "":
		return cluster.User{}, fmt.Errorf("%w: the cluster says: %s", ErrUnauthenticated, is.Error)
	case !is.Authenticated:
		return cluster.User{}, fmt.Errorf("%w: the token is none of this cluster's, or is not valid any more", ErrUnauthenticated)
	case is.User.Username == "":
		return cluster.User{}, fmt.Errorf("%w: the cluster names no user for the token", ErrUnauthenticated)
	}
	u := cluster.User{Name: answer.Status.User.Username, UID: answer.Status.User.UID, Groups: answer.Status.User.Groups}
	for key, values := range answer.Status.User.Extra {
		if u.Extra == nil {
			u.Extra = make(map[string][]string)
		}
		u.Extra[key] = values
	}
	return u, nil
}

// MayGetPods asks the cluster whether a user may get the pods of a namespace,
// "" for those of all. Nothing is remembered: each call asks.
func (c *Client) MayGetPods(ctx context.Context, u cluster.User, namespace string) (bool, error) {
	if u.Name == "" {
		return false, fmt.Errorf("%w: nobody may get pods who has no name", ErrUnauthenticated)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: u.Name, UID: u.UID, Groups: u.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Version: "v1", Resource: "pods"},
	}}
	for key, values := range u.Extra {
		if review.Spec.Extra == nil {
			review.Spec.Extra = make(map[string]authorizationv1.ExtraValue)
		}
		review.Spec.Extra[key] = values
	}
	answer, err := ask(ctx, c, "subjectaccessreviews", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
	if err != nil {
		return false, fmt.Errorf("ask the cluster what %s may see: %w", u.Name, err)
	}
	return answer.Status.Allowed && !answer.Status.Denied, nil
}

// ask posts a question to the cluster and returns it with its answer.
func ask[T runtime.Object](ctx context.Context, c *Client, resource, path string, question T) (T, error) {
	var none T
	answer, err := c.rest.Post().Throttle(c.reviews).AbsPath(path).Body(question).Do(asking(ctx, resource)).Get()
	if err != nil {
		return none, err
	}
	typed, ok := answer.(T)
	if !ok {
		return none, fmt.Errorf("the answer is a %T", answer)
	}
	return typed, nil
}
