package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var (
	// ErrPodGone says that there is no such pod any more; another one may have its
	// name.
	ErrPodGone = errors.New("the pod is gone")
	// ErrRefused says that the server will not do it, however often it is asked.
	ErrRefused = errors.New("the API server refuses")
)

// A PodName names one pod and no other: a name is used again, a UID never is.
type PodName struct{ Namespace, Name, UID string }

func (p PodName) path() string {
	return "/api/v1/namespaces/" + url.PathEscape(p.Namespace) + "/pods/" + url.PathEscape(p.Name)
}

// LabelPod sets labels of a pod; dry has the server only say whether it would.
// The error is [ErrPodGone], [ErrRefused], or one of something that can change.
func (c *Client) LabelPod(ctx context.Context, pod PodName, labels map[string]string, dry bool) error {
	// A uid in a patch is a precondition: nothing can change it.
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": labels}})
	if err != nil {
		return err
	}
	r := c.rest.Patch(types.MergePatchType).AbsPath(pod.path()).Param("fieldManager", userAgent).Body(body)
	if dry {
		r = r.Param("dryRun", metav1.DryRunAll)
	}
	return judgePod(r.Do(asking(ctx, "pods/label")).Error())
}

// DeletePod deletes a pod: within grace, or below zero the pod's own time. dry and
// errors are as with [Client.LabelPod].
func (c *Client) DeletePod(ctx context.Context, pod PodName, grace time.Duration, dry bool) error {
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]any{"uid": pod.UID}}
	if grace >= 0 {
		options["gracePeriodSeconds"] = int64(grace / time.Second)
	}
	if dry {
		options["dryRun"] = []string{metav1.DryRunAll}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return err
	}
	return judgePod(c.rest.Delete().AbsPath(pod.path()).SetHeader("Content-Type", "application/json").Body(body).Do(asking(ctx, "pods/delete")).Error())
}

// otherUID is how servers say that a pod has another UID. Names of pods and keys of
// labels, which stand in errors too, can have the word as well.
var otherUID = regexp.MustCompile(`(?i)uid in (the )?precondition|uid mismatch|metadata\.uid: `)

// judgePod says what an error means for a pod that was named by its UID. That
// another one has its name, servers tell of patches as of a change that is not
// valid, or as of a conflict, which can have other reasons.
func judgePod(err error) error {
	gone := (apierrors.IsInvalid(err) || apierrors.IsConflict(err)) && otherUID.MatchString(err.Error())
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err), gone:
		return ErrPodGone
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err), apierrors.IsMethodNotSupported(err):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
