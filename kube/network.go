package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Removal is how [Client.RemoveNetwork] is asked.
type Removal struct {
	// Namespace and DaemonSet are the agents'. Deployment is one beside them whose
	// pods have to go first, "" for none: a runtime cannot take a pod from a
	// network that has gone.
	Namespace, DaemonSet, Deployment string
	// Container is the agent's in a pod; "agent" if empty.
	Container string
	// Flag is what makes an agent take its network away.
	Flag string
	// Poll is how often it is asked how far that is; a second if 0.
	Poll time.Duration
}

// daemonSet is what matters here of one.
type daemonSet struct {
	Metadata struct {
		Generation int64 `json:"generation"`
	} `json:"metadata"`
	Spec struct {
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		Template struct {
			Spec struct {
				Containers []struct {
					Name string   `json:"name"`
					Args []string `json:"args"`
				} `json:"containers"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
	Status struct {
		Observed int64 `json:"observedGeneration"`
		Desired  int   `json:"desiredNumberScheduled"`
		Updated  int   `json:"updatedNumberScheduled"`
		Ready    int   `json:"numberReady"`
	} `json:"status"`
}

// RemoveNetwork has the agents of all nodes take away the network that they made,
// and returns when they have: each is started once more, with Flag. That a
// DaemonSet does it, and not somebody who asks each agent, reaches nodes too
// whose agent does not run at the moment. The error names the nodes that are
// left. tell hears how far it is.
func (c *Client) RemoveNetwork(ctx context.Context, r Removal, tell func(string)) error {
	if r.Container == "" {
		r.Container = "agent"
	}
	if r.Poll == 0 {
		r.Poll = time.Second
	}
	if r.Deployment != "" {
		if err := c.empty(ctx, r, tell); err != nil {
			return fmt.Errorf("end the pods of %s: %w", r.Deployment, err)
		}
	}
	path := fmt.Sprintf("/apis/apps/v1/namespaces/%s/daemonsets/%s", r.Namespace, r.DaemonSet)
	var set daemonSet
	if err := c.json(ctx, path, &set); err != nil {
		return fmt.Errorf("look at the agents: %w", err)
	}
	at := slices.IndexFunc(set.Spec.Template.Spec.Containers, func(c struct {
		Name string   `json:"name"`
		Args []string `json:"args"`
	}) bool {
		return c.Name == r.Container
	})
	if at < 0 {
		return fmt.Errorf("daemon set %s has no container %s", r.DaemonSet, r.Container)
	}
	if args := set.Spec.Template.Spec.Containers[at].Args; !slices.Contains(args, r.Flag) {
		// All at once: nobody is left who would need the others' network.
		type m = map[string]any
		patch, err := json.Marshal(m{"spec": m{
			"updateStrategy": m{"type": "RollingUpdate", "rollingUpdate": m{"maxUnavailable": "100%", "maxSurge": 0}},
			"template":       m{"spec": m{"containers": []m{{"name": r.Container, "args": append(args, r.Flag)}}}},
		}})
		if err != nil {
			return err
		}
		answer := c.rest.Patch(types.StrategicMergePatchType).AbsPath(path).SetHeader("Accept", "application/json").Body(patch).Do(ctx)
		if err := into(answer.Raw())(&set); err != nil {
			return fmt.Errorf("tell the agents: %w", err)
		}
		tell("the agents are told to take the network away")
	}
	generation := set.Metadata.Generation
	said := ""
	for {
		if s := set.Status; s.Observed >= generation {
			if s.Updated >= s.Desired && s.Ready >= s.Desired {
				tell("the network is gone from all nodes")
				return nil
			}
			if now := fmt.Sprintf("%d of %d nodes are done", min(s.Updated, s.Ready), s.Desired); now != said {
				said = now
				tell(now)
			}
		}
		select {
		case <-ctx.Done():
			return c.notRemoved(set, r, ctx.Err())
		case <-time.After(r.Poll):
		}
		if err := c.json(ctx, path, &set); err != nil && ctx.Err() == nil {
			tell("the API server does not say how far it is: " + err.Error())
		}
	}
}

// empty ends the pods of a deployment and waits until they are gone.
func (c *Client) empty(ctx context.Context, r Removal, tell func(string)) error {
	path := fmt.Sprintf("/apis/apps/v1/namespaces/%s/deployments/%s", r.Namespace, r.Deployment)
	var set daemonSet // what is asked for is the same of both
	patch := c.rest.Patch(types.MergePatchType).AbsPath(path).SetHeader("Accept", "application/json").Body([]byte(`{"spec": {"replicas": 0}}`)).Do(ctx)
	if err := into(patch.Raw())(&set); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	tell("the pods of " + r.Deployment + " end")
	for {
		pods, err := c.podsOf(ctx, r.Namespace, set)
		if err == nil && len(pods) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(r.Poll):
		}
	}
}

// podsOf gives the pods that a set selects.
func (c *Client) podsOf(ctx context.Context, namespace string, set daemonSet) ([]corev1.Pod, error) {
	var selector []string
	for k, v := range set.Spec.Selector.MatchLabels {
		selector = append(selector, k+"="+v)
	}
	slices.Sort(selector)
	var pods corev1.PodList
	err := c.rest.Get().AbsPath("/api/v1/namespaces/"+namespace+"/pods").Param("labelSelector", strings.Join(selector, ",")).Do(ctx).Into(&pods)
	return pods.Items, err
}

// notRemoved says on which nodes the network is left.
func (c *Client) notRemoved(set daemonSet, r Removal, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pods, err := c.podsOf(ctx, r.Namespace, set)
	var nodes []string
	for _, p := range pods {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		told := slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return slices.Contains(c.Args, r.Flag) })
		if !ready || !told {
			nodes = append(nodes, p.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	where := "on some nodes"
	if len(nodes) > 0 {
		where = "on " + strings.Join(slices.Compact(nodes), ", ")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the network is left %s: %w", where, cause), err)
	}
	return fmt.Errorf("the network is left %s: %w", where, cause)
}

// json asks for an object in JSON: of its kind no more is known than where it is.
func (c *Client) json(ctx context.Context, path string, object *daemonSet) error {
	return into(c.rest.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Raw())(object)
}

// into reads an answer. Nothing of what the object was before is left in it: the
// API server leaves out figures that are 0.
func into(text []byte, err error) func(*daemonSet) error {
	return func(object *daemonSet) error {
		if err != nil {
			return err
		}
		var fresh daemonSet
		if err := json.Unmarshal(text, &fresh); err != nil {
			return err
		}
		*object = fresh
		return nil
	}
}
