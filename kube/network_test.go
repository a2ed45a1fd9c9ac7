package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRemoveNetwork holds that the agents are told once, what is waited for, and
// what is said where it does not come.
func TestRemoveNetwork(t *testing.T) {
	var mu sync.Mutex
	var patches []map[string]any
	var args []string
	var pods []corev1.Pod
	generation, polls, readyAfter := 4, 0, 3
	var hub []corev1.Pod
	s := newServer(t, func(s *server) {
		s.answer = func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Path == "/apis/apps/v1/namespaces/warren/deployments/warren-hub" {
				text, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodPatch || string(text) != `{"spec": {"replicas": 0}}` || polls > 0 {
					t.Errorf("%s of the hub, after %d questions about agents: %s", r.Method, polls, text)
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"kind": "Deployment", "apiVersion": "apps/v1", "spec": {"selector": {"matchLabels": {"app": "hub"}}}}`)
				return true
			}
			if r.URL.Path == "/api/v1/namespaces/warren/pods" && r.URL.Query().Get("labelSelector") == "app=hub" {
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: hub})
				if len(hub) > 0 {
					hub = hub[1:] // they end one by one
				}
				return true
			}
			if r.URL.Path == "/api/v1/namespaces/warren/pods" {
				if got := r.URL.Query().Get("labelSelector"); got != "app=agent" {
					t.Errorf("asks for pods %q", got)
				}
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: pods})
				return true
			}
			if r.URL.Path != "/apis/apps/v1/namespaces/warren/daemonsets/warren-agent" {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusNotFound)
				fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no such thing"}`)
				return true
			}
			if r.Method == http.MethodPatch {
				if kind := r.Header.Get("Content-Type"); kind != "application/strategic-merge-patch+json" {
					t.Errorf("patched as %s", kind)
				}
				text, _ := io.ReadAll(r.Body)
				var patch map[string]any
				if err := json.Unmarshal(text, &patch); err != nil {
					t.Errorf("%v: %s", err, text)
				}
				patches = append(patches, patch)
				var told daemonSet
				if err := json.Unmarshal(text, &told); err != nil {
					t.Error(err)
				}
				args = told.Spec.Template.Spec.Containers[0].Args
				generation++
				polls = 0
			}
			polls++
			observed, done := generation, 0
			if polls == 1 {
				observed-- // what it says is of before
				done = 2
			}
			if polls > readyAfter {
				done = 2
			}
			// Who was there before is ready until it ends, and a figure that is 0 is
			// left out.
			updated := ""
			if done > 0 {
				updated = fmt.Sprintf(`"updatedNumberScheduled": %d, `, done)
			}
			text, _ := json.Marshal(args)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": {"generation": %d},
				"spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {"spec": {"containers": [{"name": "agent", "args": %s}]}}},
				"status": {"observedGeneration": %d, "desiredNumberScheduled": 2, %s"numberReady": 2}}`, generation, text, observed, updated)
			return true
		}
	})
	args = []string{"--node=$(NODE_NAME)"}
	c := s.client()
	removal := Removal{Namespace: "warren", DaemonSet: "warren-agent", Flag: "--network=off", Poll: time.Millisecond}
	hub = make([]corev1.Pod, 2)
	removal.Deployment = "warren-hub"
	var said []string
	if err := c.RemoveNetwork(t.Context(), removal, func(line string) { said = append(said, line) }); err != nil {
		t.Fatal(err)
	}
	if len(patches) != 1 || !slices.Equal(args, []string{"--node=$(NODE_NAME)", "--network=off"}) {
		t.Errorf("patches %v, arguments %q", patches, args)
	}
	removal.Deployment = ""
	if want := []string{"the pods of warren-hub end", "the agents are told to take the network away", "0 of 2 nodes are done", "the network is gone from all nodes"}; !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
	// Once more says the same, and tells nobody twice.
	if err := c.RemoveNetwork(t.Context(), removal, func(string) {}); err != nil || len(patches) != 1 {
		t.Errorf("%v, patches %v", err, patches)
	}
	// Who is not done is named.
	mu.Lock()
	readyAfter, polls = 1<<30, 0
	mu.Unlock()
	pod := func(node string, ready corev1.ConditionStatus) corev1.Pod {
		return corev1.Pod{
			Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "agent", Args: []string{"--network=off"}}}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
		}
	}
	mu.Lock()
	pods = []corev1.Pod{pod("node1", corev1.ConditionTrue), pod("node2", corev1.ConditionFalse)}
	mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := c.RemoveNetwork(ctx, removal, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "the network is left on node2: context deadline exceeded") {
		t.Errorf("not done: %v", err)
	}
	removal.Container = "other"
	if err := c.RemoveNetwork(t.Context(), removal, func(string) {}); err == nil || !strings.Contains(err.Error(), "has no container other") {
		t.Errorf("no such container: %v", err)
	}
	removal.DaemonSet, removal.Deployment = "nobody", "nobody either"
	if err := c.RemoveNetwork(t.Context(), removal, func(string) {}); err == nil || !strings.Contains(err.Error(), "look at the agents: the server could not find") {
		t.Errorf("no such daemon set: %v", err)
	}
}
