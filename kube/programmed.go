package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// conditionProgrammed says in the status of a ClusterNetworkPolicy where it is in
// force. A hub tells it, which knows all nodes.
const conditionProgrammed = "warren.dev/Programmed"

// clusterPolicies is where the API server has them.
const clusterPolicies = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"

// A ClusterPolicy is a ClusterNetworkPolicy, as far as its status goes.
type ClusterPolicy struct {
	UID, Name  string
	Generation int64
	// NotUnderstood says that an agent has told so of this version.
	NotUnderstood bool
	// Programmed is what a hub has told, the zero value where none has.
	Programmed Programmed
}

// Programmed is where a policy is in force.
type Programmed struct {
	// Status is True, False or Unknown; "" where nobody knows anything.
	Status          string
	Reason, Message string
	// Generation is the version that this is about.
	Generation int64
	// Since is from when on the status is this one.
	Since time.Time
}

// WatchClusterPolicies calls set with all ClusterNetworkPolicies, by name, first
// when they are known and then whenever they change, until ctx ends. set is never
// called twice at the same time, and not at all while the server is away, knows
// no such policies, or lets nobody see them who asks.
func (c *Client) WatchClusterPolicies(ctx context.Context, set func([]ClusterPolicy)) error {
	known := make(map[string]ClusterPolicy) // by uid
	r := &resource{
		name: "clusternetworkpolicies", path: clusterPolicies, extension: true,
		convert: of(func(p *policyv1alpha2.ClusterNetworkPolicy) (string, any) { return string(p.UID), toldPolicy(p) }),
		set:     func(key string, v any, _ time.Time) { known[key], _ = v.(ClusterPolicy) },
		gone:    func(key string, _ any, _ time.Time) { delete(known, key) },
	}
	s := &store{resource: r, counter: c.meter.of(r.name), known: make(map[string]bool), now: time.Now, synced: func() {}}
	s.after = func() {
		set(slices.SortedFunc(maps.Values(known), func(a, b ClusterPolicy) int { return strings.Compare(a.Name, b.Name) }))
	}
	c.reflect(ctx, r, s, slog.New(slog.DiscardHandler), func(error) {})
	return ctx.Err()
}

func toldPolicy(p *policyv1alpha2.ClusterNetworkPolicy) ClusterPolicy {
	out := ClusterPolicy{UID: string(p.UID), Name: p.Name, Generation: p.Generation}
	if is := meta.FindStatusCondition(p.Status.Conditions, conditionAccepted); is != nil {
		out.NotUnderstood = is.Status == metav1.ConditionFalse && is.ObservedGeneration == p.Generation
	}
	if is := meta.FindStatusCondition(p.Status.Conditions, conditionProgrammed); is != nil {
		out.Programmed = Programmed{Status: string(is.Status), Reason: is.Reason, Message: is.Message, Generation: is.ObservedGeneration, Since: is.LastTransitionTime.Time}
	}
	return out
}

// TellProgrammed writes where a policy is in force into its status, and leaves
// the conditions of others alone.
func (c *Client) TellProgrammed(ctx context.Context, p ClusterPolicy, is Programmed) error {
	message := is.Message
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": policyVersion.String(), "kind": "ClusterNetworkPolicy", "metadata": map[string]any{"name": p.Name},
		"status": map[string]any{"conditions": []metav1.Condition{{
			Type: conditionProgrammed, Status: metav1.ConditionStatus(is.Status), ObservedGeneration: is.Generation, Reason: is.Reason, Message: message,
			LastTransitionTime: metav1.NewTime(is.Since.Truncate(time.Second)),
		}}},
	})
	if err != nil {
		return err
	}
	// Who applies owns what it has applied, and nothing else: agents have another
	// name, and their condition stays.
	return c.rest.Patch(types.ApplyPatchType).AbsPath(clusterPolicies, p.Name, "status").Param("fieldManager", userAgent+"-hub").Param("force", "true").
		Body(body).Do(asking(ctx, "clusternetworkpolicies/status")).Error()
}
